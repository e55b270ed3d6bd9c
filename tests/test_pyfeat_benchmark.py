"""The comparison of face backends: which frames count for a correlation, and what its tables say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from benchmarks import face_backends
from data.spec import FeatureSpec
from data.track import FeatureTrack
from extractors.facial import COLUMNS


def _track(values: np.ndarray, valid: np.ndarray) -> FeatureTrack:
    start_s = np.arange(len(values)) / 25
    values = np.where(valid[:, None], values, 0).astype(np.float32)
    return FeatureTrack(values, start_s, start_s + 0.04, valid, FeatureSpec("visual", COLUMNS, None, "toy", "1"))


def _pairs() -> list[tuple[FeatureTrack, FeatureTrack]]:
    rng = np.random.default_rng(0)
    pairs = []
    for n in (30, 50):
        a, b = rng.uniform(0, 1, (2, n, 35))
        b[:, 0], b[:, 1], b[:, 2] = 1 - a[:, 0], a[:, 1] ** 2, 0.5
        pairs.append((_track(a, rng.random(n) < 0.8), _track(b, rng.random(n) < 0.8)))
    return pairs


def test_frames_that_both_see_count_over_all_clips() -> None:
    pairs = _pairs()
    found, n_frames = face_backends.correlations(pairs)
    rows = [
        (x, y) for a, b in pairs for x, y, u, v in zip(a.values, b.values, a.valid, b.valid, strict=True) if u and v
    ]
    assert n_frames == len(rows)
    first, second = (np.array(side) for side in zip(*rows, strict=True))
    assert found["AU01"] == pytest.approx(-1)
    for i in (1, 3, 34):
        assert found[COLUMNS[i]] == pytest.approx(pearsonr(first[:, i], second[:, i]).statistic, abs=1e-6)
    assert found["AU04"] is None  # constant
    few, _ = face_backends.correlations(
        [(_track(first[:10], np.ones(10, bool)), _track(second[:10], np.ones(10, bool)))]
    )
    assert set(few.values()) == {None}


def test_tables() -> None:
    found = face_backends.correlations(_pairs())
    table = face_backends.report_correlations("mediapipe", {"py-feat": found})
    assert len(table) == 2 + 35
    assert table[2] == "| AU01 | -1.00 |"
    assert table[4] == "| AU04 | – |"
    costs = [face_backends.Cost("a", 1.0, 0.02, 0.01, 1.0), face_backends.Cost("b", 20.0, 0.5, 0.4, 0.75)]
    assert face_backends.report_costs(costs, (360, 640))[-1] == "| b | 2.0 | 400 | 40.0 | 75% | 20.0 |"
