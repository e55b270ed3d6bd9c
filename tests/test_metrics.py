"""Metrics against scikit-learn and against brute force, and on the real CMU-MOSEI test label sets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sklearn_metrics

from lamb import metrics

SEEDS = range(5)
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5))
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


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Truth (N, c), often with empty rows and columns, and float32 probabilities with ties, 0 and 1."""
    shape = draw(SHAPES)
    truth = draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 1), fill=st.just(0)))
    few = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    scores = draw(arrays.arrays(np.float32, shape, elements=few | st.floats(0, 1, width=32), fill=st.nothing()))
    return truth, scores


@given(problems())
@settings(max_examples=100, deadline=None)
def test_any_small_problem_scores_like_scikit_learn(problem: tuple[np.ndarray, np.ndarray]) -> None:
    truth, probabilities = problem
    predicted = (probabilities >= 0.5).astype(int)
    two = [np.pad(array, [(0, 0), (0, 1)]) for array in (truth, predicted)]  # one column would count as single-label
    assert metrics.accuracy(truth, predicted) == pytest.approx(
        sk.jaccard_score(*two, average="samples", zero_division=0)
    )
    assert metrics.micro_scores(truth, predicted) == pytest.approx(
        sk.precision_recall_fscore_support(*two, average="micro", zero_division=0)[:3]
    )
    assert metrics.f1_per_label(truth, predicted) == pytest.approx(
        sk.f1_score(*two, average=None, zero_division=0)[:-1]
    )
    assert metrics.hamming_loss(truth, predicted) == pytest.approx((truth != predicted).mean(), abs=1e-6)
    assert metrics.subset_accuracy(truth, predicted) == pytest.approx(sk.accuracy_score(*two))
    expected = [
        sk.average_precision_score(real, scores) if real.any() else np.nan
        for real, scores in zip(truth.T, probabilities.T, strict=True)
    ]
    assert metrics.average_precision(truth, probabilities) == pytest.approx(expected, nan_ok=True)


@given(problems())
@settings(max_examples=30, deadline=None)
def test_no_threshold_beats_the_tuned_ones(problem: tuple[np.ndarray, np.ndarray]) -> None:
    truth, probabilities = problem
    thresholds = metrics.tune_thresholds(probabilities, truth)
    tuned = metrics.f1_per_label(truth, probabilities >= thresholds)
    for label, scores in enumerate(probabilities.T):
        tried = [sk.f1_score(truth[:, label], scores >= cut, zero_division=0) for cut in np.unique(scores)]
        assert tuned[label] == pytest.approx(max(tried))


def test_equal_scores_are_cut_together() -> None:
    truth, probabilities = np.array([[1], [0], [0], [1]]), np.full((4, 1), 0.3)
    for order in ([0, 1, 2, 3], [1, 2, 0, 3]):  # of four equal scores none comes first
        assert metrics.average_precision(truth[order], probabilities) == pytest.approx([0.5])


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
    probabilities[0, 0], probabilities[1, 0], probabilities[2, 0] = 1.0, 0.0, 0.25  # on edges
    total = 0.0
    for i in range(8):  # eighths are exact
        inside = (probabilities >= i / 8) & ((probabilities < (i + 1) / 8) | (i == 7))
        if inside.any():
            total += inside.mean() * abs(probabilities[inside].mean() - truth[inside].mean())
    assert metrics.expected_calibration_error(truth, probabilities, 8) == pytest.approx(total)


def test_certainty_shares_the_last_bin() -> None:
    probabilities, truth = np.array([[1.0], [0.96]]), np.array([[0], [1]])
    assert metrics.expected_calibration_error(truth, probabilities) == pytest.approx(0.48)  # |.98 − .5|; apart .52


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


def test_tuning_sees_no_difference_that_float32_cannot_hold() -> None:
    probabilities, truth = np.array([[0.3], [0.3 + 1e-12]]), np.array([[0], [1]])
    thresholds = metrics.tune_thresholds(probabilities, truth)
    assert (probabilities >= thresholds).all()  # one tie: F1 2/3 for both, 0 for neither


def test_evaluate_uses_thresholds_per_label() -> None:
    truth, probabilities = random_problem(0)
    thresholds = np.array([0.2, 0.9, 0.5, 0.4, 0.6])
    result = metrics.evaluate(probabilities, truth, "abcde", thresholds)
    predicted = (probabilities >= thresholds).astype(int)
    assert result["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro", zero_division=0))
    assert result["f1/d"] == pytest.approx(sk.f1_score(truth[:, 3], predicted[:, 3]))
    assert result["micro_precision"] == pytest.approx(sk.precision_score(truth, predicted, average="micro"))


def written_out_confusion(truth: np.ndarray, predicted: np.ndarray) -> list[list[int]]:
    """The matrix of Heydarian et al. (2022) as their three categories of samples say it."""
    none = truth.shape[1]
    matrix = [[0] * (none + 1) for _ in range(none + 1)]
    for true_row, predicted_row in zip(truth, predicted, strict=True):
        real, said = set(np.flatnonzero(true_row)), set(np.flatnonzero(predicted_row))
        for label in real & said:
            matrix[label][label] += 1
        if not real and not said:
            matrix[none][none] += 1
        elif said <= real:  # category 1: nothing wrong was said
            for label in real - said:
                matrix[label][none] += 1
        elif real <= said:  # category 2: nothing was missed
            for label in real or {none}:
                for other in said - real:
                    matrix[label][other] += 1
        else:  # category 3: some missed, some wrong
            for label in real - said:
                for other in said - real:
                    matrix[label][other] += 1
    return matrix


@given(problems())
@settings(max_examples=100, deadline=None)
def test_confusion_is_the_written_out_one(problem: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = problem[0], (problem[1] >= 0.5).astype(int)
    found = metrics.cooccurrence_confusion(truth, predicted)
    assert found.dtype == np.int64
    assert found.tolist() == written_out_confusion(truth, predicted)


def test_confusion_by_hand() -> None:
    happy, sad, anger = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    happy_and_sad, nothing = [1, 1, 0], [0, 0, 0]
    truth = np.array([happy, happy, happy_and_sad, happy_and_sad, nothing, nothing])
    predicted = np.array([happy, happy_and_sad, happy, anger, sad, nothing])
    assert metrics.cooccurrence_confusion(truth, predicted).tolist() == [
        [3, 1, 1, 0],  # happy: given 3 times; sad beside it; anger in its place
        [0, 0, 1, 1],  # sad: anger in its place; nothing in its place
        [0, 0, 0, 0],
        [0, 1, 0, 1],  # nothing: sad; nothing
    ]


def test_confusion_of_single_labels_is_the_usual_one() -> None:
    rng = np.random.default_rng(0)
    real, said = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    found = metrics.cooccurrence_confusion(np.eye(4)[real], np.eye(4)[said])
    assert found[:4, :4].tolist() == sk.confusion_matrix(real, said).tolist()
    assert not found[4].any()
    assert not found[:, 4].any()


def test_cooccurrence_counts_pairs() -> None:
    truth = random_problem(0)[0]
    expected = [[sum(row[i] and row[j] for row in truth) for j in range(5)] for i in range(5)]
    assert metrics.cooccurrence(truth).tolist() == expected


def test_what_predicting_imports_needs_no_torchmetrics() -> None:
    script = (
        "import sys, lamb.metrics; assert 'torch' not in sys.modules, 'torch'\n"
        "import lamb.calibration, pipeline.cli, pipeline.predict; assert 'torchmetrics' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
def mosei(shared_data: Path) -> np.ndarray:
    exchanged = {"surprise": "fear", "fear": "surprise"}  # the file's author exchanged these two names
    lines = (shared_data / "mosei" / "test_label_sets.txt").read_text().split("\n")[:-1]
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
    assert metrics.micro_scores(mosei, nothing) == (0, 0, 0)
    assert metrics.accuracy(mosei, mosei) == pytest.approx(0.8493, abs=5e-5)
    assert metrics.subset_accuracy(mosei, mosei) == 1


@pytest.mark.shared
def test_confusion_on_mosei(mosei: np.ndarray) -> None:
    happy = np.zeros_like(mosei)
    happy[:, 0] = 1
    matrix = metrics.cooccurrence_confusion(mosei, happy)
    assert matrix.tolist() == written_out_confusion(mosei, happy)
    assert matrix[0, 0] == 2502
    assert matrix[6].tolist() == [702, 0, 0, 0, 0, 0, 0]
    assert metrics.cooccurrence(mosei).diagonal().tolist() == [2502, 1129, 1071, 441, 805, 385]
