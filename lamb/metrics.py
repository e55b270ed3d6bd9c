"""Metrics of multi-label prediction, which labels stand in for which, and the thresholds that go with them.

In: ``truth`` (N, c) of 0/1, ``predicted`` (N, c) of 0/1, ``probabilities`` (N, c) in 0..1, N and c at least 1; numpy.
Out: numbers in 0..1 (floats, or float64 arrays with one per label), or counts (int64 arrays).
Conventions: accuracy counts 0 where truth and prediction are both empty, as the published tables do; a ratio without
denominator is 0; a label holds where its probability reaches its threshold (>=); equal scores are cut together.
torchmetrics computes what it has (counts exact, ratios in float32) and is imported with the first call that needs it.

    result = evaluate(probabilities, truth, label_set.names)
    result["accuracy"], result["micro_f1"], result["hamming_loss"], result["f1/anger"]
    thresholds = tune_thresholds(valid_probabilities, valid_truth)

The published tables of TAILOR and its successors have precision and recall exchanged (their code passes truth and
prediction in each other's place); here precision is of what was predicted, recall of what is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

N_BINS = 15
AS_IS = {"validate_args": False}  # checked here once; the library's own check sorts everything at every call


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over samples of |Y∩Ŷ| / |Y∪Ŷ|, 0 where both are empty."""
    truth, predicted = _binary(truth, predicted)
    either = (truth | predicted).sum(axis=1)
    return float(((truth & predicted).sum(axis=1) / np.maximum(either, 1)).mean())


def subset_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of samples whose label set is exactly right."""
    return float(_functional().multilabel_exact_match(*_tensors(truth, predicted), **AS_IS))


def hamming_loss(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the N·c label decisions that are wrong."""
    return float(_functional().multilabel_hamming_distance(*_tensors(truth, predicted), average="micro", **AS_IS))


def micro_scores(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 over all N·c decisions together."""
    functional, tensors = _functional(), _tensors(truth, predicted)
    return (
        float(functional.multilabel_precision(*tensors, average="micro", **AS_IS)),
        float(functional.multilabel_recall(*tensors, average="micro", **AS_IS)),
        float(functional.multilabel_f1_score(*tensors, average="micro", **AS_IS)),
    )


def f1_per_label(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each label [shape=(c,)]; its mean is macro-F1."""
    found = _functional().multilabel_f1_score(*_tensors(truth, predicted), average="none", **AS_IS)
    return found.double().reshape(-1).numpy()  # with one label the library drops the axis


def average_precision(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Average precision of each label [shape=(c,)]: Σ (R_k − R_{k−1}) P_k over scores; NaN without positives."""
    import torch

    truth, probabilities = _scored(truth, probabilities)
    found, known = np.full(truth.shape[1], np.nan), truth.any(axis=0)
    if known.any():
        scores, target = torch.from_numpy(probabilities[:, known]), torch.from_numpy(truth[:, known]).int()
        average = _functional().multilabel_average_precision(scores, target, int(known.sum()), "none", **AS_IS)
        found[known] = average.numpy()
    return found


def unweighted_average_recall(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall of the classes that occur, for single-label data: ``truth`` and ``predicted`` are class ids (N,)."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != predicted.shape or not len(truth):
        raise ValueError(f"Expected class ids of one shape (N,) but got {truth.shape} and {predicted.shape}")
    return float(np.mean([(predicted[truth == name] == name).mean() for name in np.unique(truth)]))


def expected_calibration_error(truth: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> float:
    """Σ over equal bins of share · |mean probability − share of positives|, all N·c decisions together."""
    import torch

    truth, probabilities = _scored(truth, probabilities)
    scores = np.minimum(probabilities, np.nextafter(1.0, 0.0))  # the library would give 1 a bin of its own
    return float(
        _functional().binary_calibration_error(
            torch.from_numpy(scores), torch.from_numpy(truth).int(), n_bins=n_bins, norm="l1", **AS_IS
        )
    )


def cooccurrence(labels: np.ndarray) -> np.ndarray:
    """How many samples have both labels, int64 [shape=(c, c)], symmetric; the diagonal counts single labels."""
    held = _binary(labels, labels)[0].astype(np.float64)  # whole numbers; the product of floats is the fast one
    return (held.T @ held).astype(np.int64)


def cooccurrence_confusion(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What was predicted in whose place: the multi-label confusion matrix, int64 [shape=(c + 1, c + 1)].

    Rows are true labels and last "no true label", columns predicted labels and last "no predicted label". Each sample
    adds 1 to (i, i) for every label i it has and was given; then, with M the labels missed and W the labels wrongly
    given, 1 to (i, j) for all i in M and j in W. Where W is empty j is "no predicted label"; where M is empty but W is
    not, i runs over all true labels ("no true label" if there are none); (last, last) counts samples empty in both.

    Heydarian, Doyle and Samavi (2022), "MLCM: Multi-Label Confusion Matrix", IEEE Access 10, 19083-19095.
    """
    truth, predicted = _binary(truth, predicted)
    hits, missed, wrong = truth & predicted, truth & ~predicted, predicted & ~truth
    # (N, c + 1) each; the added column says that there is no label
    blamed = _or_none(np.where(missed.any(axis=1, keepdims=True), missed, truth))
    given = _or_none(wrong)
    amiss = (missed | wrong).any(axis=1)
    matrix = blamed[amiss].T @ given[amiss]
    matrix[np.diag_indices(len(matrix))] += [*hits.sum(axis=0), (~(truth | predicted)).all(axis=1).sum()]
    return matrix.astype(np.int64)


def tune_thresholds(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The threshold per label [shape=(c,), float32] that gives the best F1 on this (validation) set.

    Candidates lie half-way between neighbouring scores; of equal ones the nearest to 0.5 wins. A label without
    positives keeps 0.5. Scores count as float32, as the model gives them.
    """
    truth, probabilities = _scored(truth, probabilities)
    probabilities = probabilities.astype(np.float32).astype(np.float64)
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


def _functional() -> Any:
    """torchmetrics.functional.classification; seconds to import, so predicting must not need it."""
    from torchmetrics.functional import classification

    return classification


def _tensors(truth: np.ndarray, predicted: np.ndarray) -> tuple[Any, Any, int]:
    """Prediction, truth and number of labels, in the library's order."""
    import torch

    truth, predicted = _binary(truth, predicted)
    return torch.from_numpy(predicted), torch.from_numpy(truth), truth.shape[1]


def _binary(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 2 or truth.shape != predicted.shape or not truth.size:
        raise ValueError(f"Expected truth and prediction of one shape (N, c) but got {truth.shape}, {predicted.shape}")
    for array in (truth, predicted):
        if array.dtype != bool and not ((array == 0) | (array == 1)).all():
            raise ValueError("Expected 0 and 1 only (apply thresholds to probabilities first)")
    return truth.astype(bool, order="C"), predicted.astype(bool, order="C")


def _scored(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, probabilities = np.asarray(truth), np.array(probabilities, dtype=np.float64, order="C")
    if truth.ndim != 2 or truth.shape != probabilities.shape or not truth.size:
        raise ValueError(
            f"Expected truth and probabilities of one shape (N, c) but got {truth.shape}, {probabilities.shape}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("Expected probabilities in 0..1")
    return _binary(truth, truth)[0], probabilities


def _or_none(labels: np.ndarray) -> np.ndarray:
    """Labels (N, c) as float64 with a last column that is 1 where a sample has none."""
    return np.column_stack([labels, ~labels.any(axis=1)]).astype(np.float64)


def _sweep(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and positives said when cutting at each distinct score, highest first, and those scores."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are cut together
    return np.cumsum(truth[order])[last], last + 1, scores[order][last]
