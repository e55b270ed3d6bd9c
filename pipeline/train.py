"""One training run, from a dataset folder to a checkpoint: settings, log, state and results in one folder.

In: :class:`pipeline.run_settings.RunSettings`. Out: the run's folder:

    settings.yaml            every setting, and what the dataset was (its index's sha256) in run.json
    log.jsonl, tensorboard/  one event per epoch
    state.safetensors        what training goes on from; gone when the run is done
    model.safetensors, .json the checkpoint: best epoch, thresholds and temperature fitted on validation
    README.md                its model card
    metrics.json             validation and test results; there when the run is done

    metrics = train_run(settings, Path("runs/one"), TrainingReport(print))

The same command on the same folder goes on after a kill, to the same final weights.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
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
from lamb.settings import ENCODERS
from lamb.training import Augment, Event, TrainSettings, fit
from lamb.training_state import load_state, save_state
from lamb.transfer import transfer
from pipeline.balance import (
    encoder_lines,
    label_lines,
    learnable,
    modality_lines,
    modality_shares,
    offsets,
    positive_weights,
)
from pipeline.evaluate import evaluate_samples, hidden_results, logits_of
from pipeline.finetune import load_start, settled, transfer_line
from pipeline.mismatch import check_dataset
from pipeline.model_card import CARD_NAME, model_card, train_command
from pipeline.predict import publish
from pipeline.run_folder import METRICS_NAME, begin, is_done, run_log
from pipeline.run_settings import RunSettings

__all__ = ["TrainingReport", "column_dropout", "epoch_line", "positive_weights", "train_run"]

STATE_NAME = "state.safetensors"


@dataclass(frozen=True)
class TrainingReport:
    """Where a run says how far it is: ``line`` for each line of text, ``step`` for epoch, steps done, steps in all."""

    line: Callable[[str], None]
    step: Callable[[int, int, int], None] = lambda epoch, done, total: None


def train_run(settings: RunSettings, folder: Path, report: TrainingReport) -> dict[str, Any]:
    """Train, calibrate, evaluate; what ``metrics.json`` holds. A run that is done is only read.

    Raises InputError if the folder holds another run (names the first setting that differs) or something else;
    SpecMismatch if the dataset's features are not those of the checkpoint to start from.
    """
    device = _device(settings.training.device)
    rank, world = place()
    digest = _dataset_digest(settings.dataset)
    start = None if settings.start is None else load_start(settings.start)
    if start is not None:
        settings = settled(settings, start)
    record = {"kind": "lamb-run", "dataset_sha256": digest, "settings": settings.model_dump(mode="json")}
    if start is not None:
        record["start_fingerprint"] = start.fingerprint()
    if is_done(record, folder):
        report.line(f"{folder} is done already")
        return json.loads((folder / METRICS_NAME).read_text(encoding="utf-8"))

    dataset = load_dataset(settings.dataset)
    run = _prepare(settings, dataset, device, start)
    if rank == 0:  # only now: a run that cannot start leaves nothing behind
        begin(record, settings.to_yaml(), folder)
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
    with run_log(folder, resume, rank) as write:

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
    checkpoint = _checkpoint(settings, dataset, run, digest, result.best_epoch, start)
    metrics: dict[str, Any] = {
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "seconds": sum(event["seconds"] for event in result.history),
        "parameters": run.model.n_parameters(),
        "calibration": _calibrate(checkpoint, dataset, device),
    }
    for split in SPLITS[1:]:
        if dataset.splits[split]:
            metrics[split] = evaluate_samples(checkpoint, dataset, split, device)
    hidden = hidden_results(checkpoint, dataset, "test" if dataset.splits["test"] else "valid", device)
    if hidden is not None:
        metrics["hidden"] = hidden
    checkpoint.metrics = metrics
    if rank == 0:
        checkpoint.save(folder / FOLDER_NAME)
        publish(folder / CARD_NAME, model_card(checkpoint).encode())
        publish(folder / METRICS_NAME, (json.dumps(metrics, indent=1, allow_nan=False) + "\n").encode())
        state_path.unlink(missing_ok=True)
    return metrics


def _calibrate(checkpoint: Checkpoint, dataset: Dataset, device: str) -> dict[str, Any]:
    """Set temperature and thresholds by what the validation split shows; what was found, as plain JSON values."""
    samples, names = dataset.splits["valid"], checkpoint.label_set.names
    observed, truth = [checkpoint.observes(sample) for sample in samples], dataset.labels("valid")
    found = calibrate(logits_of(checkpoint, samples, device)[observed], truth[observed])
    checkpoint.temperature, checkpoint.thresholds = found.temperature, found.thresholds
    held = truth[observed].sum(axis=0).tolist()
    return {
        "temperature": found.temperature,
        "valid_ece_before": found.ece_before,
        "valid_ece_after": found.ece_after,
        "valid_ece_per_label": dict(zip(names, found.label_ece.tolist(), strict=True)),
        "thresholds_not_fitted": [name for name, n in zip(names, held, strict=True) if not n],
    }


@dataclass(eq=False)
class _Run:
    model: LAMB
    train: list[Sample]
    valid: list[Sample]
    normalization: Normalization
    training: TrainSettings
    positive_weights: np.ndarray | None
    remarks: list[str]


def _prepare(settings: RunSettings, dataset: Dataset, device: str, start: Checkpoint | None) -> _Run:
    header, names = dataset.header, dataset.header.label_set.names
    if start is not None:
        check_dataset(start, header)
    for split in SPLITS[:2]:
        if not dataset.splits[split]:
            raise InputError(
                f"Expected {split} samples in {str(settings.dataset)!r} but it has none.",
                remedy="Training needs the splits train and valid.",
                code="no_samples",
            )
    remarks = [
        *label_lines(names, dataset.labels("train"), dataset.labels("valid"), settings.class_weights),
        *modality_lines(dataset.splits["train"], () if start is None else start.settings.modalities),
    ]
    seen: dict[Split, list[Sample]] = {}
    for split in SPLITS[:2]:
        samples = dataset.splits[split]
        if start is not None:
            ready = [start.ready(sample) for sample in samples]
        else:
            ready = [with_spread(sample, settings.spread_steps) for sample in samples]
        seen[split] = [sample for sample in ready if any(sample.presence)]
        if len(seen[split]) < len(samples):
            remarks.append(f"{len(samples) - len(seen[split])} {split} samples have nothing observed and are left out")
        if not seen[split]:
            raise InputError(
                f"Expected {split} samples with something observed in {str(settings.dataset)!r} but none has.",
                code="no_samples",
            )
    torch.manual_seed(settings.training.seed)
    if start is not None:
        normalization = start.normalization
        # columns of a modality that it does not read may be others in the dataset
        model = LAMB(settings.model_for(header).model_copy(update={"dims": start.settings.dims}))
        remarks.append(transfer_line(transfer(start, model, names)))
    else:
        normalization = Normalization.measure(seen["train"], settings.clip_std)
        seen = {split: [normalization.apply_to(sample) for sample in samples] for split, samples in seen.items()}
        wanted = settings.model_for(header)
        if settings.row == "full" and wanted.encoders == ENCODERS:
            kept = learnable(ENCODERS, seen["train"])
            remarks += encoder_lines(kept)
            wanted = wanted.model_copy(update={"encoders": kept})
        model = LAMB(wanted)
    return _Run(
        model,
        seen["train"],
        seen["valid"],
        normalization,
        settings.training.model_copy(update={"device": device}),
        positive_weights(dataset.labels("train"), settings.class_weights),
        remarks,
    )


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


def _checkpoint(
    settings: RunSettings, dataset: Dataset, run: _Run, digest: str, best_epoch: int, start: Checkpoint | None
) -> Checkpoint:
    header = dataset.header
    licence = settings.licence
    if licence is None:
        licence = str(header.notes.get("licence", ""))
        if start is not None and start.licence != licence:
            licence = "; ".join(part for part in (licence, start.licence and f"first weights: {start.licence}") if part)
    return Checkpoint(
        model=run.model,
        label_set=header.label_set,
        specs=header.specs if start is None else start.specs,
        normalization=run.normalization,
        max_steps=settings.training.max_steps,
        truncation=settings.training.truncation,
        licence=licence,
        spread_steps=settings.spread_steps,
        offsets=offsets(run.positive_weights, len(header.label_set)),
        provenance={
            "name": f"{header.name} {settings.row} seed {settings.training.seed}",
            "dataset": header.name,
            "dataset_sha256": digest,
            "aligned": header.aligned,
            "dataset_notes": header.notes,
            "samples": {split: len(dataset.splits[split]) for split in SPLITS},
            "positives": {
                split: dict(
                    zip(header.label_set.names, dataset.labels(split).sum(axis=0).astype(int).tolist(), strict=True)
                )
                for split in SPLITS
            },
            "modalities": modality_shares(dataset.splits["train"]),
            **({} if start is None else {"start": _origin(start)}),
            "best_epoch": best_epoch,
            "class_weights": "sqrt" if settings.class_weights == "auto" else settings.class_weights,
            "command": train_command(settings),
            "settings": settings.model_dump(mode="json", exclude={"dataset", "start"}),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def _origin(start: Checkpoint) -> dict[str, Any]:
    return {
        "name": start.provenance.get("name", "unnamed"),
        "fingerprint": start.fingerprint(),
        "licence": start.licence,
        "labels": list(start.label_set.names),
    }


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


def epoch_line(event: Event, training: TrainSettings) -> str:
    """One epoch on one line, with units."""
    return (
        f"epoch {event['epoch']:3d}/{event['epochs']}  {event['seconds']:6.1f} s  {event['samples_per_s']:8,.0f} samples/s  "
        f"rate {event['learning_rate']:.1e}  gradient {event['gradient_norm']:6.3f}  "
        f"loss {event['train_loss']:.4f} nats  valid {event['valid/loss']:.4f} nats  "
        f"{training.select_by} {event['valid/' + training.select_by]:.4f}" + ("  best" if event["best"] else "")
    )
