"""How far the voice alone goes: LAMB on RAVDESS, actors left out, unweighted average recall over six emotions, step by step.

    python -m benchmarks.ravdess_voice --data ../shared/data/ravdess --work DIR            # the table of STEPS
    python -m benchmarks.ravdess_voice --data ../shared/data/ravdess --work DIR --final --seeds 5

A row of STEPS is one change to the first row. They are compared by cross-validation
over three groups of six actors within 1-18, after a fixed number of epochs, so that no test actor picks one. ``--final``:
FINAL on actors 19-24 as the fixed split has it, once per seed and with the seeds' mean probability, and six folds of four
actors over all 24. Neutral and calm clips train with no label; recall is over those with one. Features are extracted into
DIR on the first run (minutes) and kept. One thread.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.batches import Sample
from data.sources import SOURCES
from data.spec import MODALITIES
from lamb.metrics import unweighted_average_recall
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.settings import ModelSettings
from lamb.training import TrainSettings, fit, predict_logits
from pipeline.settings import PipelineSettings
from pipeline.starter import LABELS, MAX_STEPS
from pipeline.starter_data import voice_tracks

DIMS = (300, 74, 35)
DEVELOPMENT = range(1, 19)
MODEL = {
    "encoders": ("A",),
    "width": 60,
    "ff_hidden": 160,
    "dropout": 0.2,
    "decoder": "residual",
    "kernel_sizes": (1, 3, 1),
    "pooling": (1, 16, 1),
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
    """Changes to MODEL and TRAINING."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


STEPS = (
    Step("base: a classifier row per label"),
    Step("one shared row (eq. 7)", {"classifier": "shared"}),
    Step("one shared row, 24 epochs", {"classifier": "shared"}, {"epochs": 24}),
    Step("24 epochs", {}, {"epochs": 24}),
    Step("dropout .4", {"dropout": 0.4}),
    Step("no average of the weights", {}, {"ema_decay": 0.0}),
    Step("voice pooled by 8, kernel 5", {"pooling": (1, 8, 1), "kernel_sizes": (1, 5, 1)}),
    Step("width 30", {"width": 30, "ff_hidden": 120}),
)
FINAL = STEPS[0]


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


def scores(
    voices: Voices, train: set[int], test: set[int], step: Step, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Probabilities and truth (N, 6) of the test actors' clips with an emotion, after the last epoch; seconds per epoch."""
    normalization = Normalization.measure(voices.of(train))
    known = [normalization.apply_to(sample) for sample in voices.of(train)]
    asked = [normalization.apply_to(sample) for sample in voices.of(test) if sample.labels.any()]  # type: ignore[union-attr]
    training = TrainSettings.parse({**TRAINING, **step.training, "seed": seed})
    torch.manual_seed(seed)
    model = LAMB(ModelSettings.parse({"dims": DIMS, **MODEL, **step.model}))
    # fit keeps the best epoch by its validation set; here none may choose, so that one is a formality
    state = fit(model, known, known[:8], training, LABELS.names).state
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


def cross_validated(voices: Voices, actors: range, size: int, step: Step, seed: int) -> tuple[list[float], float]:
    """Recall in each fold, and seconds per epoch."""
    found, seconds = [], []
    for test in folds(actors, size):
        p, truth, per_epoch = scores(voices, set(actors) - test, test, step, seed)
        found.append(recall(truth, p))
        seconds.append(per_epoch)
    return found, float(np.mean(seconds))


def shown(found: list[float]) -> str:
    return "folds " + " ".join(f"{value:.3f}" for value in found)


def line(name: str, found: list[float], extra: str = "") -> None:
    deviation = f" ± {np.std(found):.3f}" if len(found) > 1 else ""
    print(f"{name:38s} {np.mean(found):.3f}{deviation:8s}  {extra}".rstrip(), flush=True)


def main() -> None:
    """Print the table, or the final numbers."""
    parser = argparse.ArgumentParser(description="LAMB on RAVDESS voices, actors left out.")
    parser.add_argument("--data", type=Path, required=True, help="folder with RAVDESS recordings")
    parser.add_argument("--work", type=Path, required=True, help="where extracted features are kept between runs")
    parser.add_argument("--final", action="store_true", help="measure FINAL on actors 19-24 and in six folds")
    parser.add_argument("--seeds", type=int, default=5, help="runs of the fixed split")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the STEPS to run, from 0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    voices = load(arguments.data, arguments.work)
    print(f"{len(voices.samples)} recordings, torch {torch.__version__}, {platform.machine()}, {date.today()}")
    print("chance .167; UAR mean ± deviation")
    if not arguments.final:
        for number, step in enumerate(STEPS):
            if arguments.only is None or number in arguments.only:
                found, seconds = cross_validated(voices, DEVELOPMENT, 6, step, seed=0)
                line(step.name, found, f"{shown(found)}, {seconds:.2f} s per epoch")
        return
    runs = [scores(voices, set(DEVELOPMENT), set(range(19, 25)), FINAL, seed) for seed in range(arguments.seeds)]
    line("actors 19-24", [recall(truth, p) for p, truth, _ in runs], f"{len(runs)} seeds")
    line("actors 19-24, mean of the seeds", [recall(runs[0][1], np.mean([p for p, _, _ in runs], axis=0))])
    found, seconds = cross_validated(voices, range(1, 25), 4, FINAL, seed=0)
    line("six folds of four actors", found, f"{shown(found)}, {seconds:.2f} s per epoch")


if __name__ == "__main__":
    main()
