"""Metrics of multi-label prediction, numpy only, and the thresholds that go with them.

In: ``truth`` (N, c) of 0/1, ``predicted`` (N, c) of 0/1, ``probabilities`` (N, c) in 0..1. Out: numbers in 0..1.
Conventions: accuracy counts 0 where truth and prediction are both empty, as the published tables do; a ratio without
denominator is 0; a label holds where its probability reaches its threshold (>=).

    result = evaluate(probabilities, truth, label_set.names)
    result["accuracy"], result["micro_f1"], result["hamming_loss"], result["f1/anger"]
    thresholds = tune_thresholds(valid_probabilities, valid_truth)

The published tables of TAILOR and its successors have precision and recall exchanged (their code passes truth and
prediction in each other's place); here precision is of what was predicted, recall of what is true.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

N_BINS = 15


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over samples of |Y∩Ŷ| / |Y∪Ŷ|, 0 where both are empty."""
    truth, predicted = _binary(truth, predicted)
    return float(_ratio((truth & predicted).sum(axis=1), (truth | predicted).sum(axis=1)).mean())


def subset_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of samples whose label set is exactly right."""
    truth, predicted = _binary(truth, predicted)
    return float((truth == predicted).all(axis=1).mean())


def hamming_loss(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the N·c label decisions that are wrong."""
    truth, predicted = _binary(truth, predicted)
    return float((truth != predicted).mean())


def micro_scores(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 over all N·c decisions together."""
    truth, predicted = _binary(truth, predicted)
    hits, said, real = (truth & predicted).sum(), predicted.sum(), truth.sum()
    return float(_ratio(hits, said)), float(_ratio(hits, real)), float(_ratio(2 * hits, said + real))


def f1_per_label(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each label [shape=(c,)]; its mean is macro-F1."""
    truth, predicted = _binary(truth, predicted)
    return _ratio(2 * (truth & predicted).sum(axis=0), predicted.sum(axis=0) + truth.sum(axis=0))


def average_precision(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Average precision of each label [shape=(c,)]: Σ (R_k − R_{k−1}) P_k over scores; NaN without positives."""
    truth, probabilities = _scored(truth, probabilities)
    found = np.full(truth.shape[1], np.nan)
    for label in range(truth.shape[1]):
        n_positive = truth[:, label].sum()
        if n_positive:
            hits, said, _ = _sweep(truth[:, label], probabilities[:, label])
            found[label] = (np.diff(hits, prepend=0) / n_positive * hits / said).sum()
    return found


def unweighted_average_recall(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall of the classes that occur, for single-label data: ``truth`` and ``predicted`` are class ids (N,)."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != predicted.shape or not len(truth):
        raise ValueError(f"Expected class ids of one shape (N,) but got {truth.shape} and {predicted.shape}")
    return float(np.mean([(predicted[truth == name] == name).mean() for name in np.unique(truth)]))


def expected_calibration_error(truth: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> float:
    """Σ over equal bins of share · |mean probability − share of positives|, all N·c decisions together."""
    truth, probabilities = _scored(truth, probabilities)
    scores, positive = probabilities.ravel(), truth.ravel()
    bins = np.minimum((scores * n_bins).astype(np.int64), n_bins - 1)
    gaps = np.bincount(bins, scores, n_bins) - np.bincount(bins, positive, n_bins)
    return float(np.abs(gaps).sum() / len(scores))


def tune_thresholds(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The threshold per label [shape=(c,), float32] that gives the best F1 on this (validation) set.

    Candidates lie half-way between neighbouring scores; of equal ones the nearest to 0.5 wins. A label without
    positives keeps 0.5.
    """
    truth, probabilities = _scored(truth, probabilities)
    thresholds = np.full(truth.shape[1], 0.5, dtype=np.float32)
    for label in range(truth.shape[1]):
        n_positive = truth[:, label].sum()
        if not n_positive:
            continue
        hits, said, scores = _sweep(truth[:, label], probabilities[:, label])
        f1 = 2 * hits / (said + n_positive)
        best = np.flatnonzero(np.isclose(f1, f1.max(), rtol=0, atol=1e-12))
        # any threshold in (next score, score] decides alike: where that interval holds 0.5, take 0.5 itself
        lower = np.append(scores[1:], 0.0)
        between = np.where((lower < 0.5) & (scores >= 0.5), 0.5, (scores + lower) / 2)
        chosen = best[np.abs(between[best] - 0.5).argmin()]
        thresholds[label] = between[chosen]
        if thresholds[label] <= lower[chosen] or thresholds[label] > scores[chosen]:
            thresholds[label] = scores[chosen]  # neighbouring float32 scores have nothing between them
    return thresholds


def evaluate(
    probabilities: np.ndarray,
    truth: np.ndarray,
    names: Sequence[str],
    thresholds: float | np.ndarray = 0.5,
) -> dict[str, float]:
    """All metrics by name; per label as ``f1/<name>`` and ``ap/<name>``. mAP is over labels that have positives."""
    predicted = np.asarray(probabilities) >= thresholds
    precision, recall, f1 = micro_scores(truth, predicted)
    per_label, precisions = f1_per_label(truth, predicted), average_precision(truth, probabilities)
    result = {
        "accuracy": accuracy(truth, predicted),
        "micro_precision": precision,
        "micro_recall": recall,
        "micro_f1": f1,
        "macro_f1": float(per_label.mean()),
        "hamming_loss": hamming_loss(truth, predicted),
        "subset_accuracy": subset_accuracy(truth, predicted),
        "mean_average_precision": 0.0 if np.isnan(precisions).all() else float(np.nanmean(precisions)),
        "calibration_error": expected_calibration_error(truth, probabilities),
    }
    for name, label_f1, label_ap in zip(names, per_label, precisions, strict=True):
        result[f"f1/{name}"] = float(label_f1)
        if not np.isnan(label_ap):
            result[f"ap/{name}"] = float(label_ap)
    return result


def _binary(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 2 or truth.shape != predicted.shape or not truth.size:
        raise ValueError(f"Expected truth and prediction of one shape (N, c) but got {truth.shape}, {predicted.shape}")
    for array in (truth, predicted):
        if not ((array == 0) | (array == 1)).all():
            raise ValueError("Expected 0 and 1 only (apply thresholds to probabilities first)")
    return truth.astype(bool), predicted.astype(bool)


def _scored(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, dtype=np.float64)
    if truth.ndim != 2 or truth.shape != probabilities.shape or not truth.size:
        raise ValueError(
            f"Expected truth and probabilities of one shape (N, c) but got {truth.shape}, {probabilities.shape}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("Expected probabilities in 0..1")
    return _binary(truth, truth)[0], probabilities


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _sweep(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and positives said when cutting at each distinct score, highest first, and those scores."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are cut together
    return np.cumsum(truth[order])[last], last + 1, scores[order][last]
