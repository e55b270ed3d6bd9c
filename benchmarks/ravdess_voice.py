"""How far the voice alone goes: LAMB on RAVDESS, actors left out, unweighted average recall over six emotions, step by step.

    python -m benchmarks.ravdess_voice --data ../shared/data/ravdess --work DIR            # the table of STEPS
    python -m benchmarks.ravdess_voice --data ../shared/data/ravdess --work DIR --final --seeds 5

A row of STEPS is one change, or several, to the first. They are compared by cross-validation over three groups of six
actors within 1-18, after a fixed number of epochs, so that no test actor picks one; another ``--seed`` moves a row by
about .02. ``--final``: FINAL on actors 19-24, which chose nothing, and six folds of four over all 24, of which 1-18
chose FINAL; once per seed and with the seeds' mean probability. Neutral and calm clips train with no label; recall is
over those with one. Features are extracted into DIR on the first run (minutes) and kept. One thread.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.batches import Sample
from data.sources import SOURCES
from data.spec import MODALITIES
from lamb.augmentation import drop_columns
from lamb.derived import with_spread
from lamb.metrics import unweighted_average_recall
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.settings import ModelSettings
from lamb.training import TrainSettings, fit, predict_logits
from pipeline.settings import PipelineSettings
from pipeline.starter_data import pooled, voice_tracks
from pipeline.starter_joins import LABELS
from pipeline.starter_training import MAX_STEPS

DIMS = (300, 74, 35)
POOLED_STEPS = 16  # 160 ms
SPREAD_STEPS = (0, 3, 0)  # 30 ms to either side
DEVELOPMENT = range(1, 19)
MODEL = {
    "encoders": ("A",),
    "width": 60,
    "ff_hidden": 160,
    "dropout": 0.2,
    "decoder": "residual",
    "kernel_sizes": (1, 3, 1),
    "pooling": (1, POOLED_STEPS, 1),
    "classifier": "per_label",
}
TRAINING = {
    "epochs": 12,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "select_by": "mean_average_precision",
    "max_steps": MAX_STEPS,
    "ema_decay": 0.95,
    "plateau_patience": 100,  # a constant rate: the average of the weights does the settling
    "early_stop": 100,
}


@dataclass(frozen=True)
class Step:
    """Changes to MODEL and TRAINING, columns added to the voice, and the share of columns dropped."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    spread: bool = False
    drop: float = 0.0


STEPS = (
    Step("base: a classifier row per label"),
    Step("one shared row (eq. 7)", {"classifier": "shared"}),
    Step("one shared row, 24 epochs", {"classifier": "shared"}, {"epochs": 24}),
    Step("24 epochs", {}, {"epochs": 24}),
    Step("dropout .4", {"dropout": 0.4}),
    Step("no average of the weights", {}, {"ema_decay": 0.0}),
    Step("voice pooled by 8, kernel 5", {"pooling": (1, 8, 1), "kernel_sizes": (1, 5, 1)}),
    Step("width 30", {"width": 30, "ff_hidden": 120}),
    Step("columns dropped .5, 20 epochs", {}, {"epochs": 20}, drop=0.5),
    Step("spread columns", spread=True),
    Step("spread columns, 20 epochs", {}, {"epochs": 20}, spread=True),
    Step("spread columns dropped .5, 20 epochs", {}, {"epochs": 20}, spread=True, drop=0.5),
)
FINAL = STEPS[-1]


@dataclass(frozen=True)
class Voices:
    """Samples not yet normalised and, in the same order, the actor of each (N,)."""

    samples: list[Sample]
    actors: np.ndarray

    def of(self, actors: set[int]) -> list[Sample]:
        return [sample for sample, actor in zip(self.samples, self.actors, strict=True) if actor in actors]


def load(data: Path, work: Path) -> Voices:
    """All recordings in which a voice was found."""
    items = SOURCES.get("ravdess")(data)
    tracks = voice_tracks(items, work, PipelineSettings(device="cpu"), lambda line: None)
    samples, actors = [], []
    for item in items:
        track = tracks[item.id]
        if not track.observed:
            continue
        values = {name: np.zeros((0, dim), np.float32) for name, dim in zip(MODALITIES, DIMS, strict=True)}
        valid = {name: np.zeros(0, bool) for name in MODALITIES}
        values["audio"], valid["audio"] = track.values, track.valid
        known = {} if track.defined is None else {"audio": track.defined}
        samples.append(Sample(values, valid, LABELS.encode(item.labels), id=item.id, defined=known))  # type: ignore[arg-type]
        actors.append(int(item.id[-2:]))
    return Voices(samples, np.array(actors))


def dims_of(sample: Sample) -> tuple[int, ...]:
    return tuple(sample.values[name].shape[1] for name in MODALITIES)


def scores(
    voices: Voices, train: set[int], test: set[int], step: Step, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Probabilities and truth (N, 6) of the test actors' clips with an emotion, after the last epoch; seconds per epoch."""
    known, asked = voices.of(train), [sample for sample in voices.of(test) if sample.labels.any()]  # type: ignore[union-attr]
    if step.spread:
        known, asked = ([with_spread(sample, SPREAD_STEPS) for sample in samples] for samples in (known, asked))
    normalization = Normalization.measure(known)
    settings = ModelSettings.parse({"dims": dims_of(known[0]), **MODEL, **step.model})
    pooling, settings = settings.pooling, settings.model_copy(update={"pooling": (1, 1, 1)})
    known, asked = (
        [pooled(normalization.apply_to(sample), pooling, None) for sample in samples] for samples in (known, asked)
    )
    training = TrainSettings.parse({**TRAINING, **step.training, "seed": seed})
    torch.manual_seed(seed)
    model = LAMB(settings)
    # fit keeps the best epoch by its validation set; here none may choose, so that one is a formality
    augment = partial(drop_columns, share=step.drop) if step.drop else None
    state = fit(model, known, known[:8], training, LABELS.names, augment=augment).state
    prefix = "module."  # of the averaged model
    averaged = {name.removeprefix(prefix): value for name, value in state.average.items() if name.startswith(prefix)}
    model.load_state_dict(averaged or state.model)
    seconds = float(np.mean([event["seconds"] for event in state.history]))
    truth = np.stack([sample.labels for sample in asked])  # type: ignore[misc]
    return 1 / (1 + np.exp(-predict_logits(model, asked, training))), truth, seconds


def recall(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Unweighted average recall where the likeliest label is the answer."""
    return unweighted_average_recall(truth.argmax(1), probabilities.argmax(1))


def folds(actors: range, size: int) -> list[set[int]]:
    """Neighbouring actors, so that each group has as many women as men."""
    return [set(actors[begin : begin + size]) for begin in range(0, len(actors), size)]


def cross_validated(
    voices: Voices, actors: range, size: int, step: Step, seeds: range
) -> tuple[np.ndarray, list[float], float]:
    """Recall (seeds, folds); that of the seeds' mean probability in each fold; and seconds per epoch."""
    single, together, seconds = [], [], []
    for test in folds(actors, size):
        runs = [scores(voices, set(actors) - test, test, step, seed) for seed in seeds]
        single.append([recall(truth, p) for p, truth, _ in runs])
        together.append(recall(runs[0][1], np.mean([p for p, _, _ in runs], axis=0)))
        seconds += [per_epoch for _, _, per_epoch in runs]
    return np.array(single).T, together, float(np.mean(seconds))


def shown(found: Sequence[float] | np.ndarray) -> str:
    return "folds " + " ".join(f"{value:.3f}" for value in found)


def line(name: str, found: Sequence[float] | np.ndarray, extra: str = "") -> None:
    deviation = f" ± {np.std(found):.3f}" if len(found) > 1 else ""
    print(f"{name:38s} {np.mean(found):.3f}{deviation:8s}  {extra}".rstrip(), flush=True)


def main() -> None:
    """Print the table, or the final numbers."""
    parser = argparse.ArgumentParser(description="LAMB on RAVDESS voices, actors left out.")
    parser.add_argument("--data", type=Path, required=True, help="folder with RAVDESS recordings")
    parser.add_argument("--work", type=Path, required=True, help="where extracted features are kept between runs")
    parser.add_argument("--final", action="store_true", help="measure FINAL on actors 19-24 and in six folds")
    parser.add_argument("--seed", type=int, default=0, help="of the table's rows")
    parser.add_argument("--seeds", type=int, default=5, help="with --final, runs of the fixed split")
    parser.add_argument("--fold-seeds", type=int, default=2, help="with --final, runs of the six folds")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the STEPS to run, from 0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    voices = load(arguments.data, arguments.work)
    print(f"{len(voices.samples)} recordings, torch {torch.__version__}, {platform.machine()}, {date.today()}")
    print("chance .167; UAR mean ± deviation")
    if not arguments.final:
        for number, step in enumerate(STEPS):
            if arguments.only is None or number in arguments.only:
                seeds = range(arguments.seed, arguments.seed + 1)
                found, _, seconds = cross_validated(voices, DEVELOPMENT, 6, step, seeds)
                line(step.name, found[0], f"{shown(found[0])}, {seconds:.2f} s per epoch")
        return
    print(f"final: {FINAL}")
    runs = [scores(voices, set(DEVELOPMENT), set(range(19, 25)), FINAL, seed) for seed in range(arguments.seeds)]
    line("actors 19-24", found := [recall(truth, p) for p, truth, _ in runs], shown(found).replace("folds", "seeds"))
    line("actors 19-24, mean of the seeds", [recall(runs[0][1], np.mean([p for p, _, _ in runs], axis=0))])
    found, together, seconds = cross_validated(voices, range(1, 25), 4, FINAL, range(arguments.fold_seeds))
    for seed, each in enumerate(found):
        line(f"six folds of four actors, seed {seed}", each, f"{shown(each)}, {seconds:.2f} s per epoch")
    line("six folds, mean of the seeds", together, shown(together))


if __name__ == "__main__":
    main()
