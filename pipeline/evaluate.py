"""Results of a checkpoint on a split of a dataset: all metrics, at 0.5 and at the checkpoint's own thresholds.

In: a checkpoint, a dataset folder. Out: plain JSON values, and a table for people.

    results = evaluate_checkpoint(Path("runs/one"), Path("mosei"), "test", "cpu")
    results["at_half"]["micro_f1"], results["at_thresholds"]["macro_f1"], results["calibration"]["ece"]

A sample in which nothing that the model reads was observed is scored 0 for every label (nothing is claimed) and counted in
``unobserved``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.batches import Sample
from data.dataset import Dataset, load_dataset
from data.errors import InputError
from data.sources import Split
from data.spec import Modality
from lamb.calibration import reliability
from lamb.checkpoint import Checkpoint
from lamb.metrics import cooccurrence_confusion, evaluate, expected_calibration_error
from lamb.training import TrainSettings, predict_logits
from pipeline.mismatch import check_dataset

SHOWN = {
    "accuracy": "Acc",
    "micro_precision": "P",
    "micro_recall": "R",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "hamming_loss": "HL",
    "subset_accuracy": "subset",
    "mean_average_precision": "mAP",
}
NOTHING_LOGIT = -30.0  # of a sample without any observation: a probability of 0


def evaluate_checkpoint(checkpoint: Path, dataset: Path, split: Split, device: str) -> dict[str, Any]:
    """Results of ``split``.

    Raises InputError (no samples, other labels), CheckpointError, or SpecMismatch (features of another spec).
    """
    loaded = Checkpoint.load(checkpoint, device)
    return evaluate_samples(loaded, load_dataset(dataset, [split]), split, device)


def evaluate_samples(checkpoint: Checkpoint, dataset: Dataset, split: Split, device: str) -> dict[str, Any]:
    """:func:`evaluate_checkpoint` of what is loaded already."""
    check_dataset(checkpoint, dataset.header)
    samples, truth = dataset.splits[split], labels_for(checkpoint, dataset, split)
    if not samples:
        raise InputError(f"Expected {split} samples in {dataset.header.name} but it has none.", code="no_samples")
    logits = logits_of(checkpoint, samples, device)
    probabilities = _sigmoid(logits / checkpoint.temperature)
    names = checkpoint.label_set.names
    predicted = (probabilities >= checkpoint.thresholds).astype(np.float32)
    return {
        "dataset": dataset.header.name,
        "split": split,
        "samples": len(samples),
        "unobserved": sum(not checkpoint.observes(sample) for sample in samples),
        "positives": dict(zip(names, truth.sum(axis=0).astype(int).tolist(), strict=True)),
        "at_half": evaluate(probabilities, truth, names, 0.5),
        "at_thresholds": evaluate(probabilities, truth, names, checkpoint.thresholds),
        "thresholds": dict(zip(names, map(float, checkpoint.thresholds), strict=True)),
        "per_label": _per_label(truth, predicted, names),
        "calibration": {
            "temperature": checkpoint.temperature,
            "ece": expected_calibration_error(truth, probabilities),
            "ece_uncalibrated": expected_calibration_error(truth, _sigmoid(logits)),
            "reliability": _reliability(truth, probabilities),
        },
        "confusion": {
            "rows": "true label, none last",
            "columns": "predicted label, none last",
            "counts": cooccurrence_confusion(truth, predicted).tolist(),
        },
    }


def _per_label(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision and recall of each label at its threshold; 0 where there is no denominator."""
    hits = (truth * predicted).sum(axis=0)
    said, held = np.maximum(predicted.sum(axis=0), 1), np.maximum(truth.sum(axis=0), 1)
    return {
        name: {"precision": float(hits[k] / said[k]), "recall": float(hits[k] / held[k])}
        for k, name in enumerate(names)
    }


HIDDEN_METRICS = ("accuracy", "micro_f1", "macro_f1", "mean_average_precision")
FEWEST_HIDDEN = 20  # samples: with fewer the rows below say nothing


def hidden_results(checkpoint: Checkpoint, dataset: Dataset, split: Split, device: str) -> dict[str, Any] | None:
    """What each modality is worth: results at the tuned thresholds with all that the model reads, and without each of them.

    Only samples that have all of it count. None where the model reads one modality, or fewer than twenty samples have all.
    """
    read = checkpoint.settings.modalities
    whole = [i for i, sample in enumerate(dataset.splits[split]) if all(sample.valid[name].any() for name in read)]
    if len(read) < 2 or len(whole) < FEWEST_HIDDEN:
        return None
    names, truth = checkpoint.label_set.names, labels_for(checkpoint, dataset, split)[whole]

    def scores(absent: Modality | None) -> dict[str, float]:
        samples = [_without(dataset.splits[split][i], absent) for i in whole]
        probabilities = _sigmoid(logits_of(checkpoint, samples, device) / checkpoint.temperature)
        found = evaluate(probabilities, truth, names, checkpoint.thresholds)
        return {metric: found[metric] for metric in HIDDEN_METRICS}

    rows = {"all": scores(None)} | {f"without {name}": scores(name) for name in read}
    return {"split": split, "samples": len(whole), "rows": rows}


def _without(sample: Sample, absent: Modality | None) -> Sample:
    if absent is None:
        return sample
    return replace(sample, valid={**sample.valid, absent: np.zeros_like(sample.valid[absent])})


def _reliability(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, list[float | None]]:
    """A reliability diagram's bins; None where one is empty."""
    found = reliability(truth, probabilities)
    return {
        "edges": found.edges.tolist(),
        "mean_probability": [None if np.isnan(value) else float(value) for value in found.mean_probability],
        "share_positive": [None if np.isnan(value) else float(value) for value in found.share_positive],
        "decisions": found.counts.tolist(),
    }


def labels_for(checkpoint: Checkpoint, dataset: Dataset, split: Split) -> np.ndarray:
    """The split's labels in the checkpoint's order. Raises InputError unless both have the same names."""
    mine, theirs = checkpoint.label_set.names, dataset.header.label_set.names
    if set(mine) != set(theirs):
        raise InputError(
            f"Expected the labels {', '.join(mine)} but {dataset.header.name} has {', '.join(theirs)}.",
            code="other_labels",
        )
    return dataset.labels(split)[:, [theirs.index(name) for name in mine]]


def logits_of(checkpoint: Checkpoint, samples: Sequence[Sample], device: str) -> np.ndarray:
    """Logits float32 [shape=(N, c)] of samples as the dataset holds them (not normalised), the checkpoint's offsets taken off,
    before the temperature."""
    seen = [i for i, sample in enumerate(samples) if checkpoint.observes(sample)]
    logits = np.full((len(samples), len(checkpoint.label_set)), NOTHING_LOGIT, dtype=np.float32)
    if seen:
        settings = TrainSettings(device=device, max_steps=checkpoint.max_steps, truncation=checkpoint.truncation)
        ready = [checkpoint.ready(samples[i]) for i in seen]
        logits[seen] = predict_logits(checkpoint.model, ready, settings) - checkpoint.offsets
    return logits


def check_specs(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Raise SpecMismatch unless the dataset's features are those the checkpoint reads."""
    check_dataset(checkpoint, dataset.header)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(logits.astype(np.float32))


def result_lines(results: dict[str, Any]) -> list[str]:
    """Results for people: overall metrics at both thresholds, a line per label, calibration, confusion."""
    half, tuned, calibration = results["at_half"], results["at_thresholds"], results["calibration"]
    unobserved = f", {results['unobserved']:,} of them with nothing observed" if results["unobserved"] else ""
    lines = [
        f"{results['dataset']}, {results['split']}: {results['samples']:,} samples{unobserved}",
        f"{'threshold':<12}" + "".join(f"{title:>10}" for title in SHOWN.values()),
    ]
    for name, found in (("0.5", half), ("tuned", tuned)):
        lines.append(f"{name:<12}" + "".join(f"{found[metric]:10.4f}" for metric in SHOWN))
    lines.append(f"{'label':<12}{'positives':>10}{'threshold':>10}{'F1 at 0.5':>10}{'F1 tuned':>10}{'AP':>10}")
    for name, n in results["positives"].items():
        precision = half.get(f"ap/{name}")
        lines.append(
            f"{name:<12}{n:>10,}{results['thresholds'][name]:>10.3f}{half[f'f1/{name}']:>10.4f}{tuned[f'f1/{name}']:>10.4f}"
            + (f"{precision:>10.4f}" if precision is not None else f"{'–':>10}")
        )
    lines.append(
        f"calibration error {calibration['ece']:.4f} at temperature {calibration['temperature']:.3f} "
        f"({calibration['ece_uncalibrated']:.4f} at 1)"
    )
    names = [*results["positives"], "(none)"]
    width = max(map(len, names)) + 2
    lines.append("true (rows) and predicted (columns), tuned thresholds:")
    lines.append(" " * width + "".join(f"{name:>{width}}" for name in names))
    for name, row in zip(names, results["confusion"]["counts"], strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"{n:>{width},}" for n in row))
    return lines
