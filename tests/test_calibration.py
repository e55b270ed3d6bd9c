"""Temperature against a known one and a grid, thresholds after it, reliability against scikit-learn."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss

from lamb.calibration import calibrate, fit_temperature, reliability
from lamb.metrics import expected_calibration_error

curve: Any = calibration_curve


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def nats(logits: np.ndarray, truth: np.ndarray) -> float:
    return float(log_loss(truth.ravel(), sigmoid(logits).ravel(), labels=[0, 1]))


def drawn(n_samples: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, 3) that are ``temperature`` times too large, and the truth they speak of."""
    rng = np.random.default_rng(seed)
    logits = rng.normal([-1.0, 0.0, -2.0], 1.5, (n_samples, 3))
    return temperature * logits, (rng.random(logits.shape) < sigmoid(logits)).astype(int)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_drawn_with_is_found(temperature: float) -> None:
    logits, truth = drawn(40_000, temperature)
    assert fit_temperature(logits, truth) == pytest.approx(temperature, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_temperature_is_a_logistic_regression_without_bias(seed: int) -> None:
    logits, truth = drawn(300, 2.5, seed)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits.reshape(-1, 1), truth.ravel())
    assert fit_temperature(logits, truth) == pytest.approx(1 / model.coef_.item(), rel=1e-3)


@given(
    st.tuples(st.integers(0, 8), st.integers(1, 3)).flatmap(
        lambda shape: st.tuples(
            arrays.arrays(np.float64, shape, elements=st.floats(-15, 15)),
            arrays.arrays(np.int64, shape, elements=st.integers(0, 1)),
        )
    )
)
@settings(max_examples=80, deadline=None)
def test_no_temperature_on_a_grid_is_better(problem: tuple[np.ndarray, np.ndarray]) -> None:
    logits, truth = problem
    found = fit_temperature(logits, truth)
    if not truth.any() or truth.all():
        assert found == 1.0
        return
    assert 1 / 20 <= found <= 20
    grid = [nats(logits / temperature, truth) for temperature in (0.051, 0.2, 0.5, 1.0, 2.0, 5.0, 19.9)]
    assert nats(logits / found, truth) <= min(grid) + 1e-5


@pytest.mark.parametrize(
    ("logits", "truth"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (np.array([[2.0, -1.0]]), np.ones((1, 2))),
        (np.array([[2.0, -1.0]]), np.zeros((1, 2))),
        (np.zeros((4, 1)), np.array([[0], [1], [1], [0]])),
    ],
    ids=["no samples", "all positive", "all negative", "logits that say nothing"],
)
def test_temperature_stays_one_where_nothing_can_be_learned(logits: np.ndarray, truth: np.ndarray) -> None:
    assert fit_temperature(logits, truth) == 1.0


def test_temperature_is_limited_where_logits_separate() -> None:
    truth = np.array([[0], [1]])
    assert fit_temperature(np.array([[-0.1], [0.1]]), truth) == pytest.approx(1 / 20, rel=1e-3)
    assert fit_temperature(np.array([[5.0], [-5.0]]), truth) == pytest.approx(20, rel=1e-3)


def test_large_logits_do_not_overflow() -> None:
    with np.errstate(over="raise"):
        assert 1 < fit_temperature(np.array([[800.0], [900.0], [-700.0]]), np.array([[1], [0], [0]])) <= 20


def test_calibration_halves_the_error_of_loud_logits() -> None:
    logits, truth = drawn(4000, 3.0)
    found = calibrate(logits, truth)
    assert found.ece_before == pytest.approx(expected_calibration_error(truth, sigmoid(logits)))
    assert found.ece_after == pytest.approx(
        expected_calibration_error(truth, sigmoid(logits / found.temperature)), abs=1e-4
    )
    assert found.ece_after < found.ece_before / 2
    held_out, real = drawn(4000, 3.0, seed=1)
    assert expected_calibration_error(real, sigmoid(held_out / found.temperature)) < found.ece_before / 2
    for label in range(3):
        alone = sigmoid(logits[:, label : label + 1] / found.temperature)
        assert found.label_ece[label] == pytest.approx(
            expected_calibration_error(truth[:, label : label + 1], alone), abs=1e-3
        )


def test_thresholds_are_the_best_on_calibrated_probabilities() -> None:
    logits, truth = drawn(120, 3.0)
    found = calibrate(logits, truth)
    calibrated = sigmoid(logits / found.temperature)
    assert found.thresholds.dtype == np.float32
    for label in range(3):
        scores = calibrated[:, label]
        best = max(float(f1_score(truth[:, label], scores >= cut)) for cut in scores)
        assert f1_score(truth[:, label], scores >= found.thresholds[label]) == pytest.approx(best)
        assert best > f1_score(truth[:, label], scores >= 0.99)


def test_calibration_is_frozen() -> None:
    found = calibrate(*drawn(50, 1.0))
    with pytest.raises(FrozenInstanceError):
        found.temperature = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(3))
def test_reliability_is_scikit_learn_s_curve(seed: int) -> None:
    logits, truth = drawn(200, 2.0, seed)
    probabilities = sigmoid(logits)
    found = reliability(truth, probabilities, 12)
    filled = found.counts > 0
    share, mean = curve(truth.ravel(), probabilities.ravel(), n_bins=12)
    assert found.share_positive[filled] == pytest.approx(share)
    assert found.mean_probability[filled] == pytest.approx(mean)
    assert found.counts.sum() == 600
    gaps = np.abs(found.mean_probability - found.share_positive)
    assert np.nansum(found.counts / 600 * gaps) == pytest.approx(expected_calibration_error(truth, probabilities, 12))


def test_reliability_edges_and_empty_bins() -> None:
    found = reliability(np.array([0, 1, 1, 1]), np.array([0.0, 0.25, 1.0, 0.8]), 4)
    assert found.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.counts.tolist() == [1, 1, 0, 2]
    assert found.mean_probability == pytest.approx([0, 0.25, np.nan, 0.9], nan_ok=True)
    assert found.share_positive == pytest.approx([0, 1, np.nan, 1], nan_ok=True)


ONE = np.ones((1, 1))


@pytest.mark.parametrize(
    ("logits", "truth", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "one shape"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "at least one sample"),
        (np.nan * ONE, ONE, "finite logits"),
        (ONE, 0.5 * ONE, "0 and 1 only"),
    ],
    ids=["shape", "empty", "nan", "truth"],
)
def test_calibrate_checks_what_it_gets(logits: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(logits, truth)


@pytest.mark.parametrize(
    ("truth", "probabilities", "n_bins"),
    [(ONE, 1.5 * ONE, 15), (ONE, np.ones((1, 2)), 15), (0.5 * ONE, ONE, 15), (ONE, ONE, 0), (ONE, np.nan * ONE, 15)],
    ids=["above 1", "shape", "truth", "no bins", "nan"],
)
def test_reliability_checks_what_it_gets(truth: np.ndarray, probabilities: np.ndarray, n_bins: int) -> None:
    with pytest.raises(ValueError, match="Expected"):
        reliability(truth, probabilities, n_bins)
