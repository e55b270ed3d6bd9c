"""Metrics against scikit-learn and against brute force, and on the real CMU-MOSEI test label sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from lamb import metrics

MOSEI = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mosei" / "test_label_sets.txt"
SEEDS = range(5)
sk: Any = sklearn_metrics  # its annotations name fewer types than it takes


def random_problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth (N, c) with rare labels and empty rows, and probabilities with ties."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((60, 5)) < [0.5, 0.3, 0.1, 0.05, 0.2]).astype(int)
    truth[0, 3] = truth[1, 2] = 1
    truth[::7] = 0
    truth[2] = 1
    return truth, np.clip(np.round(0.3 * truth + 0.7 * rng.random((60, 5)), 2), 0, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_decisions_score_like_scikit_learn(seed: int) -> None:
    truth, probabilities = random_problem(seed)
    predicted = (probabilities >= 0.5).astype(int)
    assert metrics.accuracy(truth, predicted) == pytest.approx(
        sk.jaccard_score(truth, predicted, average="samples", zero_division=0)
    )
    precision, recall, f1, _ = sk.precision_recall_fscore_support(truth, predicted, average="micro")
    assert metrics.micro_scores(truth, predicted) == pytest.approx((precision, recall, f1))
    assert precision != pytest.approx(recall, abs=1e-3)  # so that an exchange would be seen
    assert metrics.f1_per_label(truth, predicted) == pytest.approx(
        sk.f1_score(truth, predicted, average=None, zero_division=0)
    )
    assert metrics.hamming_loss(truth, predicted) == pytest.approx(sk.hamming_loss(truth, predicted))
    assert metrics.subset_accuracy(truth, predicted) == pytest.approx(sk.accuracy_score(truth, predicted))


@pytest.mark.parametrize("seed", SEEDS)
def test_average_precision_is_scikit_learn_s(seed: int) -> None:
    truth, probabilities = random_problem(seed)
    assert metrics.average_precision(truth, probabilities) == pytest.approx(
        sk.average_precision_score(truth, probabilities, average=None)
    )


def test_average_precision_without_positives_is_left_out() -> None:
    truth, probabilities = random_problem(0)
    truth[:, 2] = 0
    found = metrics.average_precision(truth, probabilities)
    assert np.isnan(found).tolist() == [False, False, True, False, False]
    result = metrics.evaluate(probabilities, truth, "abcde")
    assert result["mean_average_precision"] == pytest.approx(np.nanmean(found))
    assert "ap/c" not in result


@pytest.mark.parametrize("seed", SEEDS)
def test_unweighted_average_recall_is_scikit_learn_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, 4, 50), rng.integers(0, 6, 50)
    assert metrics.unweighted_average_recall(truth, predicted) == pytest.approx(
        sk.recall_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_error_bin_by_bin(seed: int) -> None:
    truth, probabilities = random_problem(seed)
    probabilities[0, 0], probabilities[1, 0] = 1.0, 0.0
    total = 0.0
    for i in range(10):
        upper = 1.1 if i == 9 else (i + 1) / 10
        inside = (np.floor(probabilities * 10) == i) | ((i == 9) & (probabilities == 1.0))
        assert (probabilities[inside] < upper).all()
        if inside.any():
            total += inside.mean() * abs(probabilities[inside].mean() - truth[inside].mean())
    assert metrics.expected_calibration_error(truth, probabilities, 10) == pytest.approx(total)


def test_perfect_calibration_has_no_error() -> None:
    probabilities = np.repeat([[0.25], [0.75]], 400, axis=0)
    truth = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0])[:, None]
    assert metrics.expected_calibration_error(truth, probabilities) == pytest.approx(0)


@pytest.mark.parametrize("seed", SEEDS)
def test_tuned_thresholds_are_the_best_there_are(seed: int) -> None:
    truth, probabilities = random_problem(seed)
    thresholds = metrics.tune_thresholds(probabilities, truth)
    tuned = metrics.f1_per_label(truth, probabilities >= thresholds)
    for label in range(5):
        precision, recall, _ = sk.precision_recall_curve(truth[:, label], probabilities[:, label])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        assert tuned[label] == pytest.approx(best)
    assert ((thresholds > 0) & (thresholds < 1)).all()


def test_thresholds_prefer_one_half() -> None:
    truth = np.array([[0, 0, 0], [1, 0, 1], [1, 0, 1]])
    probabilities = np.array([[0.1, 0.9, 0.1], [0.8, 0.9, 0.2], [0.9, 0.9, 0.3]])
    assert metrics.tune_thresholds(probabilities, truth) == pytest.approx([0.5, 0.5, 0.15])


def test_tuning_survives_neighbouring_float32_scores() -> None:
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    probabilities = np.array([[low], [high]], dtype=np.float32)
    truth = np.array([[0], [1]])
    thresholds = metrics.tune_thresholds(probabilities, truth)
    assert (probabilities >= thresholds).astype(int).tolist() == [[0], [1]]


def test_evaluate_uses_thresholds_per_label() -> None:
    truth, probabilities = random_problem(0)
    thresholds = np.array([0.2, 0.9, 0.5, 0.4, 0.6])
    result = metrics.evaluate(probabilities, truth, "abcde", thresholds)
    predicted = (probabilities >= thresholds).astype(int)
    assert result["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro", zero_division=0))
    assert result["f1/d"] == pytest.approx(sk.f1_score(truth[:, 3], predicted[:, 3]))
    assert result["micro_precision"] == pytest.approx(sk.precision_score(truth, predicted, average="micro"))


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "one shape"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "one shape"),
        (np.zeros((2, 3)), np.full((2, 3), 0.4), "0 and 1 only"),
    ],
    ids=["shape", "empty", "probabilities"],
)
def test_decisions_are_checked(truth: np.ndarray, predicted: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.accuracy(truth, predicted)


@pytest.mark.parametrize("wrong", [np.nan, 1.5, -0.1])
def test_probabilities_are_checked(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"probabilities in 0\.\.1"):
        metrics.average_precision(np.ones((1, 1)), np.full((1, 1), wrong))


# ---- the real label sets --------------------------------------------------------------------------------------------

NAMES = ("happiness", "sadness", "anger", "surprise", "disgust", "fear")  # the dataset's own order


@pytest.fixture(scope="module")
def mosei() -> np.ndarray:
    if not MOSEI.exists():
        pytest.skip("../shared/data/mosei/test_label_sets.txt is not there")
    exchanged = {"surprise": "fear", "fear": "surprise"}  # the file's author exchanged these two names
    lines = MOSEI.read_text().split("\n")[:-1]
    sets = [{exchanged.get(name, name) for name in line.split()} for line in lines]
    return np.array([[name in labels for name in NAMES] for labels in sets], dtype=int)


@pytest.mark.shared
def test_mosei_counts(mosei: np.ndarray) -> None:
    assert mosei.shape == (4659, 6)
    assert mosei.sum(axis=0).tolist() == [2502, 1129, 1071, 441, 805, 385]
    assert mosei.sum() == 6333
    assert (mosei.sum(axis=1) == 0).sum() == 702


@pytest.mark.shared
def test_trivial_predictors_on_mosei(mosei: np.ndarray) -> None:
    happy = np.zeros_like(mosei)
    happy[:, 0] = 1
    assert metrics.accuracy(mosei, happy) == pytest.approx(0.4298, abs=5e-5)
    assert metrics.micro_scores(mosei, happy)[2] == pytest.approx(0.455, abs=5e-4)
    assert metrics.hamming_loss(mosei, happy) == pytest.approx(0.2142, abs=5e-5)
    nothing = np.zeros_like(mosei)
    assert metrics.accuracy(mosei, nothing) == 0
    assert metrics.hamming_loss(mosei, nothing) == pytest.approx(0.2266, abs=5e-5)
    assert metrics.accuracy(mosei, mosei) == pytest.approx(0.8493, abs=5e-5)
