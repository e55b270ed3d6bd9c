"""One training run, from a dataset folder to a checkpoint: settings, log, state and results in one folder.

In: :class:`pipeline.run_settings.RunSettings`. Out: the run's folder:

    settings.yaml            every setting, and what the dataset was (its index's sha256) in run.json
    log.jsonl, tensorboard/  one event per epoch
    state.safetensors        what training goes on from; gone when the run is done
    model.safetensors, .json the checkpoint: best epoch, thresholds and temperature fitted on validation
    metrics.json             validation and test results; there when the run is done

    metrics = train_run(settings, Path("runs/one"), TrainingReport(print))

The same command on the same folder goes on after a kill, to the same final weights.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.batches import Batch, Sample
from data.dataset import INDEX_NAME, Dataset, load_dataset
from data.errors import InputError
from data.sources import SPLITS, Split
from data.spec import MODALITIES
from lamb.augmentation import drop_columns
from lamb.calibration import calibrate
from lamb.checkpoint import FOLDER_NAME, Checkpoint
from lamb.derived import with_spread
from lamb.distributed import place
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.training import Augment, Event, TrainSettings, fit
from lamb.training_state import TrainState, load_state, save_state
from pipeline.evaluate import evaluate_samples, logits_of
from pipeline.predict import publish
from pipeline.run_settings import RunSettings

SETTINGS_NAME, RUN_NAME, LOG_NAME = "settings.yaml", "run.json", "log.jsonl"
STATE_NAME, METRICS_NAME = "state.safetensors", "metrics.json"


@dataclass(frozen=True)
class TrainingReport:
    """Where a run says how far it is: ``line`` for each line of text, ``step`` for epoch, steps done, steps in all."""

    line: Callable[[str], None]
    step: Callable[[int, int, int], None] = lambda epoch, done, total: None


def train_run(settings: RunSettings, folder: Path, report: TrainingReport) -> dict[str, Any]:
    """Train, calibrate, evaluate; what ``metrics.json`` holds. A run that is done is only read.

    Raises InputError if the folder holds another run (names the first setting that differs) or something else.
    """
    device = _device(settings.training.device)
    rank, world = place()
    digest = _dataset_digest(settings.dataset)
    record = {"kind": "lamb-run", "dataset_sha256": digest, "settings": settings.model_dump(mode="json")}
    if _is_done(record, folder):
        report.line(f"{folder} is done already")
        return json.loads((folder / METRICS_NAME).read_text(encoding="utf-8"))

    dataset = load_dataset(settings.dataset)
    run = _prepare(settings, dataset, device)
    if rank == 0 and not (folder / RUN_NAME).exists():  # only now: a run that cannot start leaves nothing behind
        folder.mkdir(parents=True, exist_ok=True)
        publish(folder / SETTINGS_NAME, settings.to_yaml().encode())
        publish(folder / RUN_NAME, (json.dumps(record, indent=1) + "\n").encode())
    for line in run.remarks:
        report.line(line)
    report.line(
        f"{dataset.header.name}: {len(run.train):,} training, {len(run.valid):,} validation samples; "
        f"{run.model.n_parameters():,} parameters; {device}{f' x {world}' if world > 1 else ''}"
    )
    state_path = folder / STATE_NAME
    resume = load_state(state_path) if state_path.exists() else None
    if resume is not None:
        report.line(f"goes on after epoch {resume.epoch}")
    with _log(folder, resume, rank) as write:

        def on_epoch(event: Event) -> None:
            write(event)
            report.line(epoch_line(event, settings.training))

        result = fit(
            run.model,
            run.train,
            run.valid,
            run.training,
            dataset.header.label_set.names,
            on_epoch=on_epoch,
            on_step=report.step,
            on_state=lambda state: save_state(state, state_path),
            positive_weights=run.positive_weights,
            augment=column_dropout(settings.column_dropout),
            resume=resume,
        )
    run.model.load_state_dict(result.best_state)
    checkpoint = _checkpoint(settings, dataset, run, digest, result.best_epoch)
    observed = [any(sample.presence) for sample in dataset.splits["valid"]]
    logits = logits_of(checkpoint, dataset.splits["valid"], device)
    found = calibrate(logits[observed], dataset.labels("valid")[observed])
    checkpoint.temperature, checkpoint.thresholds = found.temperature, found.thresholds
    metrics: dict[str, Any] = {
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "seconds": sum(event["seconds"] for event in result.history),
        "parameters": run.model.n_parameters(),
        "calibration": {
            "temperature": found.temperature,
            "valid_ece_before": found.ece_before,
            "valid_ece_after": found.ece_after,
            "valid_ece_per_label": dict(zip(dataset.header.label_set.names, found.label_ece.tolist(), strict=True)),
        },
    }
    for split in SPLITS[1:]:
        if dataset.splits[split]:
            metrics[split] = evaluate_samples(checkpoint, dataset, split, device)
    checkpoint.metrics = metrics
    if rank == 0:
        checkpoint.save(folder / FOLDER_NAME)
        publish(folder / METRICS_NAME, (json.dumps(metrics, indent=1, allow_nan=False) + "\n").encode())
        state_path.unlink(missing_ok=True)
    return metrics


@dataclass(eq=False)
class _Run:
    model: LAMB
    train: list[Sample]
    valid: list[Sample]
    normalization: Normalization
    training: TrainSettings
    positive_weights: np.ndarray | None
    remarks: list[str]


def _prepare(settings: RunSettings, dataset: Dataset, device: str) -> _Run:
    remarks = []
    seen: dict[Split, list[Sample]] = {}
    for split in SPLITS[:2]:
        samples = dataset.splits[split]
        if not samples:
            raise InputError(
                f"Expected {split} samples in {str(settings.dataset)!r} but it has none.",
                remedy="Training needs the splits train and valid.",
                code="no_samples",
            )
        seen[split] = [with_spread(sample, settings.spread_steps) for sample in samples if any(sample.presence)]
        if len(seen[split]) < len(samples):
            remarks.append(f"{len(samples) - len(seen[split])} {split} samples have nothing observed and are left out")
    normalization = Normalization.measure(seen["train"], settings.clip_std)
    torch.manual_seed(settings.training.seed)
    model = LAMB(settings.model_for(dataset.header))
    return _Run(
        model,
        [normalization.apply_to(sample) for sample in seen["train"]],
        [normalization.apply_to(sample) for sample in seen["valid"]],
        normalization,
        settings.training.model_copy(update={"device": device}),
        positive_weights(dataset.labels("train"), settings.class_weights),
        remarks,
    )


def positive_weights(labels: np.ndarray, how: str) -> np.ndarray | None:
    """Factors on the positive part of each label's loss [shape=(c,)]; 1 for a label without positives."""
    if how == "none":
        return None
    positives = labels.sum(axis=0)
    odds = np.where(positives > 0, (len(labels) - positives) / np.maximum(positives, 1), 1.0)
    return odds if how == "balanced" else np.sqrt(odds)


def column_dropout(shares: tuple[float, float, float]) -> Augment | None:
    """Hides columns of each modality in training batches, by share; None where all shares are 0."""
    if not any(shares):
        return None

    def augment(batch: Batch, generator: torch.Generator) -> Batch:
        for name, share in zip(MODALITIES, shares, strict=True):
            if share:
                batch = drop_columns(batch, generator, share, name)
        return batch

    return augment


def _checkpoint(settings: RunSettings, dataset: Dataset, run: _Run, digest: str, best_epoch: int) -> Checkpoint:
    header = dataset.header
    licence = settings.licence if settings.licence is not None else str(header.notes.get("licence", ""))
    return Checkpoint(
        model=run.model,
        label_set=header.label_set,
        specs=header.specs,
        normalization=run.normalization,
        max_steps=settings.training.max_steps,
        truncation=settings.training.truncation,
        licence=licence,
        spread_steps=settings.spread_steps,
        provenance={
            "name": f"{header.name} {settings.row} seed {settings.training.seed}",
            "dataset": header.name,
            "dataset_sha256": digest,
            "aligned": header.aligned,
            "best_epoch": best_epoch,
            "settings": settings.model_dump(mode="json", exclude={"dataset"}),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def _device(wanted: str) -> str:
    """The device of this process; under torchrun each has its own GPU."""
    wanted = TrainSettings(device=wanted).resolved().device
    if wanted.startswith("cuda"):
        if not torch.cuda.is_available():
            raise InputError(
                f"Expected a CUDA device for training.device {wanted!r} but none is usable.",
                remedy="Use training.device=cpu, or see `lamb doctor`.",
                code="no_device",
            )
        if place()[1] > 1:
            wanted = f"cuda:{place()[0] % torch.cuda.device_count()}"
            torch.cuda.set_device(wanted)
    return wanted


def _dataset_digest(folder: Path) -> str:
    try:
        return hashlib.sha256((folder / INDEX_NAME).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"Expected a dataset folder but there is no {INDEX_NAME} in {str(folder)!r}.",
            remedy="Make one with: lamb dataset build SOURCE FOLDER --output DIR",
            code="no_dataset",
        ) from error


def _is_done(record: dict[str, Any], folder: Path) -> bool:
    """Whether the folder holds this run's results. Raises InputError if it holds another run, or anything else."""
    path = folder / RUN_NAME
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"Expected a run in {str(folder)!r} but its {RUN_NAME} cannot be read.") from error
        differing = _first_difference(record, found)
        if differing:
            raise InputError(
                f"Expected the run that {str(folder)!r} holds but {differing}.",
                remedy="Choose another --output, or the settings.yaml of that run.",
                code="other_run",
            )
        return (folder / METRICS_NAME).exists()
    if folder.exists() and not (folder.is_dir() and _empty(folder)):
        raise InputError(
            f"Expected an empty or new folder but {str(folder)!r} holds other files.",
            remedy="Choose another --output.",
            code="output_exists",
        )
    return False


def _empty(folder: Path) -> bool:
    """But for settings of a run that was killed before its first line."""
    return all(path.name == SETTINGS_NAME or path.name.startswith(".partial-") for path in folder.iterdir())


def _first_difference(mine: Any, found: Any, name: str = "") -> str:
    if isinstance(mine, dict) and isinstance(found, dict):
        for key in sorted(mine.keys() | found.keys()):
            differing = _first_difference(mine.get(key), found.get(key), f"{name}.{key}".removeprefix(".settings."))
            if differing:
                return differing
        return ""
    return "" if mine == found else f"{name.removeprefix('.')} is {str(mine)[:80]}, not {str(found)[:80]}"


@contextmanager
def _log(folder: Path, resume: TrainState | None, rank: int) -> Iterator[Callable[[Event], None]]:
    """A function that logs an epoch to JSONL and TensorBoard; what a killed run logged beyond its state is dropped."""
    if rank:
        yield lambda event: None
        return
    from torch.utils.tensorboard.writer import SummaryWriter

    history: Sequence[Event] = resume.history if resume is not None else ()
    text = "".join(json.dumps(event) + "\n" for event in history)
    publish(folder / LOG_NAME, text.encode())
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(history) + 1)
    with (folder / LOG_NAME).open("a", encoding="utf-8") as log:

        def write(event: Event) -> None:
            log.write(json.dumps(event) + "\n")
            log.flush()
            for name, value in event.items():
                if isinstance(value, float):
                    board.add_scalar(name, value, event["epoch"])
            board.flush()

        try:
            yield write
        finally:
            board.close()


def epoch_line(event: Event, training: TrainSettings) -> str:
    """One epoch on one line, with units."""
    return (
        f"epoch {event['epoch']:3d}/{event['epochs']}  {event['seconds']:6.1f} s  {event['samples_per_s']:8,.0f} samples/s  "
        f"rate {event['learning_rate']:.1e}  gradient {event['gradient_norm']:6.3f}  "
        f"loss {event['train_loss']:.4f} nats  valid {event['valid/loss']:.4f} nats  "
        f"{training.select_by} {event['valid/' + training.select_by]:.4f}" + ("  best" if event["best"] else "")
    )
