"""Word alignment against the mean written out row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.alignment import align_to_words, word_mean_spec
from data.spec import FeatureSpec
from data.track import FeatureTrack

TEXT = FeatureSpec("text", ("t",), None, "made", "1")
OTHER = FeatureSpec("audio", ("a", "b", "c"), 100.0, "made", "1")


def plain(text: FeatureTrack, other: FeatureTrack) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, valid and defined, one number at a time."""
    values = np.zeros((len(text), other.spec.dim))
    valid, defined = np.zeros(len(text), bool), np.zeros(values.shape, bool)
    for word in range(len(text)):
        for column in range(other.spec.dim):
            found = []
            for row in range(len(other)):
                middle = (other.start_s[row] + other.end_s[row]) / 2
                if other.valid[row] and text.start_s[word] <= middle < text.end_s[word]:
                    valid[word] = True
                    if other.defined is None or other.defined[row, column]:
                        found.append(float(other.values[row, column]))
            if found:
                values[word, column] = sum(found) / len(found)
                defined[word, column] = True
    return values, valid, defined


def track(rng: np.random.Generator, spec: FeatureSpec, n: int, with_defined: bool) -> FeatureTrack:
    start_s = np.sort(rng.integers(0, 40, n)) / 8  # a coarse grid, so that middles meet the words' edges
    end_s = start_s + rng.integers(0, 12, n) / 8
    values = rng.normal(size=(n, spec.dim)) * 100
    defined = rng.random((n, spec.dim)) < 0.6 if with_defined else None
    return FeatureTrack(values, start_s, end_s, rng.random(n) < 0.7, spec, defined=defined)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 40), st.booleans())
def test_means_are_those_of_a_plain_loop(seed: int, n_words: int, n_rows: int, with_defined: bool) -> None:
    rng = np.random.default_rng(seed)
    text, other = track(rng, TEXT, n_words, False), track(rng, OTHER, n_rows, with_defined)
    came = align_to_words(text, other)
    values, valid, defined = plain(text, other)
    assert np.array_equal(came.valid, valid)
    np.testing.assert_allclose(came.values, values, rtol=1e-6, atol=1e-5)
    assert (came.defined is not None) == with_defined
    if came.defined is not None:
        assert np.array_equal(came.defined, defined)
    assert np.array_equal(came.start_s, text.start_s)
    assert np.array_equal(came.end_s, text.end_s)


def test_a_row_on_the_edge_belongs_to_the_later_word_only() -> None:
    times = np.array([0.0, 1.0])
    text = FeatureTrack(np.ones((2, 1)), times, times + 1, np.ones(2, bool), TEXT)
    rows = np.array([[1.0, 2, 3], [5, 6, 7]])
    other = FeatureTrack(rows, np.array([0.0, 0.9]), np.array([1.0, 1.1]), np.ones(2, bool), OTHER)
    assert np.array_equal(align_to_words(text, other).values, rows)


def test_absent_modality_stays_absent_with_its_reason() -> None:
    text = FeatureTrack(np.ones((2, 1)), np.arange(2.0), np.arange(2.0) + 1, np.ones(2, bool), TEXT)
    came = align_to_words(text, FeatureTrack.empty(OTHER, "no_audio"))
    assert came.reason == "no_audio"
    assert (len(came), came.observed) == (2, False)
    assert len(align_to_words(FeatureTrack.empty(TEXT, "no_speech"), came)) == 0


def test_means_are_another_feature() -> None:
    spec = word_mean_spec(OTHER)
    assert spec.rate_hz is None
    assert OTHER.differences(spec)
    assert word_mean_spec(spec).fingerprint() != spec.fingerprint()


def test_no_number_is_lost_where_rows_are_far_from_zero() -> None:
    text = FeatureTrack(np.ones((1, 1)), np.zeros(1), np.full(1, 100.0), np.ones(1, bool), TEXT)
    values = np.full((10_000, 3), 16_777_216.0) + np.arange(3) * 2
    other = FeatureTrack.from_rate(values, OTHER)
    assert align_to_words(text, other).values[0] == pytest.approx([16_777_216.0, 16_777_218.0, 16_777_220.0], abs=0)
