"""Calibration: probabilities that mean what they say, and thresholds that suit them.

In: ``logits`` (N, c) of a trained model on validation samples, ``truth`` (N, c) of 0/1. Out: one temperature by which
logits are divided before the sigmoid, one threshold per label, and the calibration error with and without.

    found = calibrate(valid_logits, valid_truth)
    checkpoint.temperature, checkpoint.thresholds = found.temperature, found.thresholds
    bars = reliability(test_truth, checkpoint.predict(test_clips))

One temperature changes no ranking and no decision at 0.5; it is fitted first, thresholds on what it gives.
Guo, Pleiss, Sun and Weinberger (2017), "On Calibration of Modern Neural Networks", ICML.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lamb.metrics import N_BINS, expected_calibration_error, tune_thresholds

TEMPERATURE_LIMIT = 20.0  # between 1/20 and 20: logits that separate the validation set would ask for 0


@dataclass(frozen=True, eq=False)
class Calibration:
    """What :func:`calibrate` found. Errors are measured on the samples it was found on, so they flatter.

    Parameters
    ----------
    temperature : logits are divided by it before the sigmoid; > 0.
    thresholds : float32 [shape=(c,)], calibrated probability from which a label holds.
    ece_before, ece_after : expected calibration error of all N·c decisions at temperature 1 and at ``temperature``.
    label_ece : float64 [shape=(c,)], that of each label at ``temperature``.
    """

    temperature: float
    thresholds: np.ndarray
    ece_before: float
    ece_after: float
    label_ece: np.ndarray


@dataclass(frozen=True, eq=False)
class Reliability:
    """Data of a reliability diagram with n equal bins; in a perfect one both shares are equal in every bin.

    Parameters
    ----------
    edges : float64 [shape=(n + 1,)], bin k holds ``edges[k]`` <= p < ``edges[k + 1]``, the last also p = 1.
    mean_probability : float64 [shape=(n,)], NaN where a bin is empty.
    share_positive : float64 [shape=(n,)], NaN where a bin is empty.
    counts : int64 [shape=(n,)], decisions per bin.
    """

    edges: np.ndarray
    mean_probability: np.ndarray
    share_positive: np.ndarray
    counts: np.ndarray


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The T in 1/20..20 with the least mean −log p(truth) of sigmoid(logits / T).

    1 where nothing can be learned: no samples, all decisions positive or all negative, or no T better than 1.

    Raises
    ------
    ValueError : shapes differ, or logits are not finite, or truth is not 0 and 1.
    """
    from scipy.optimize import minimize_scalar

    logits, truth = _checked(logits, truth)
    if not logits.size or truth.all() or not truth.any():
        return 1.0
    wrong_way = np.where(truth, -logits, logits)  # −log p = log(1 + exp(wrong_way / T))

    def mean_nats(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, wrong_way * math.exp(-log_temperature)).mean())

    limit = math.log(TEMPERATURE_LIMIT)
    best = minimize_scalar(mean_nats, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6})
    return math.exp(best.x) if best.fun < mean_nats(0.0) else 1.0


def calibrate(logits: np.ndarray, truth: np.ndarray) -> Calibration:
    """Temperature, then the threshold per label that is best by its F1 on the calibrated probabilities.

    Parameters
    ----------
    logits : finite numbers [shape=(N, c)], N and c at least 1.
    truth : 0 and 1 [shape=(N, c)].

    Raises
    ------
    ValueError : as :func:`fit_temperature`; no samples.
    """
    logits, truth = _checked(logits, truth)
    if not logits.size:
        raise ValueError(f"Expected at least one sample and one label to calibrate on but got shape {logits.shape}")
    temperature = fit_temperature(logits, truth)
    before, after = _probabilities(logits), _probabilities(logits / temperature)
    return Calibration(
        temperature=temperature,
        thresholds=tune_thresholds(after, truth),
        ece_before=expected_calibration_error(truth, before),
        ece_after=expected_calibration_error(truth, after),
        label_ece=np.array([expected_calibration_error(truth[:, [k]], after[:, [k]]) for k in range(truth.shape[1])]),
    )


def reliability(truth: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> Reliability:
    """How often what was called p came true, in ``n_bins`` equal bins of p, all decisions given together.

    Both arrays have one shape, (N, c) or one label's (N,); Σ counts / N·c · |difference| is the calibration error.

    Raises
    ------
    ValueError : shapes differ, truth is not 0 and 1, probabilities are outside 0..1, or n_bins < 1.
    """
    truth, probabilities = _zero_one(truth), np.asarray(probabilities, dtype=np.float64)
    if truth.shape != probabilities.shape or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(f"Expected probabilities in 0..1 of shape {truth.shape} but got shape {probabilities.shape}")
    if n_bins < 1:
        raise ValueError(f"Expected n_bins >= 1 but got {n_bins}")
    scores, edges = probabilities.ravel(), np.linspace(0.0, 1.0, n_bins + 1)
    counts = np.histogram(scores, edges)[0]
    filled = np.where(counts, counts, np.nan)
    return Reliability(
        edges=edges,
        mean_probability=np.histogram(scores, edges, weights=scores)[0] / filled,
        share_positive=np.histogram(scores, edges, weights=truth.ravel().astype(np.float64))[0] / filled,
        counts=counts.astype(np.int64),
    )


def _probabilities(logits: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(logits.astype(np.float32))  # float32, as the checkpoint's, so that thresholds fall between the same


def _checked(logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, truth = np.asarray(logits, dtype=np.float64), _zero_one(truth)
    if logits.shape != truth.shape:
        raise ValueError(f"Expected logits and truth of one shape (N, c) but got {logits.shape}, {truth.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("Expected finite logits but some are not (was the model trained to the end?)")
    return logits, truth


def _zero_one(truth: np.ndarray) -> np.ndarray:
    truth = np.asarray(truth)
    if not ((truth == 0) | (truth == 1)).all():
        raise ValueError("Expected truth to be 0 and 1 only")
    return truth.astype(bool)
