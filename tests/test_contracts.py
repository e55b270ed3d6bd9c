"""The contracts between the stages: specs and fingerprints, tracks, clips, labels, registries."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import Clip, FeatureSpec, FeatureTrack, InputError, LabelSet, Word, words_to_text
from data.registry import Registry, UnknownName

SPEC = FeatureSpec("audio", ("a", "b"), 10.0, "test", "1", "ff" * 32)


def track(n_steps: int, valid: np.ndarray | None = None) -> FeatureTrack:
    return FeatureTrack.from_rate(np.arange(2.0 * n_steps).reshape(n_steps, 2) + 1, SPEC, valid)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2"}, "version 1 expected, 2 came"),
        ({"extractor": "other"}, "extractor test expected, other came"),
        ({"weights": "00" * 32}, "weights ffffffffffff expected, 000000000000 came"),
        ({"rate_hz": None}, "rate_hz 10.0 expected, None came"),
        ({"columns": ("a", "c")}, "column 1 b expected, c came"),
        ({"columns": ("a",)}, "2 columns expected, 1 came"),
    ],
)
def test_spec_differences_are_named_and_change_the_fingerprint(change: dict, said: str) -> None:
    other = replace(SPEC, **change)
    assert said in "; ".join(SPEC.differences(other))
    assert other.fingerprint() != SPEC.fingerprint()
    assert SPEC.differences(replace(SPEC)) == []
    assert FeatureSpec.from_dict(SPEC.to_dict()).fingerprint() == SPEC.fingerprint()


def test_track_refuses_what_breaks_the_contract() -> None:
    with pytest.raises(ValueError, match="finite"):
        FeatureTrack.from_rate(np.array([[1.0, np.nan]]), SPEC)
    with pytest.raises(ValueError, match="shape"):
        FeatureTrack.from_rate(np.zeros((3, 5)), SPEC)
    with pytest.raises(ValueError, match="non-decreasing"):
        FeatureTrack(np.zeros((2, 2)), np.array([1.0, 0.0]), np.array([2.0, 2.0]), np.ones(2, bool), SPEC)


def test_unobserved_steps_are_zero_even_if_nan_came() -> None:
    made = FeatureTrack.from_rate(np.array([[np.nan, 1.0], [2.0, 3.0]]), SPEC, np.array([False, True]))
    np.testing.assert_array_equal(made.values, [[0, 0], [2, 3]])


def test_columns_that_do_not_exist_in_a_row_are_zero_and_stay_marked(tmp_path: Path) -> None:
    defined = np.array([[True, False], [True, True], [True, True]])
    made = replace(track(3, np.array([True, True, False])), defined=defined)
    np.testing.assert_array_equal(made.values, [[1, 0], [3, 4], [0, 0]])
    assert made.defined is not None
    assert made.defined.tolist() == [[True, False], [True, True], [False, False]]
    assert made.valid.tolist() == [True, True, False]  # a row with some columns is still an observation
    made.save(tmp_path / "a")
    back = FeatureTrack.load(tmp_path / "a").slice(0.0, 0.1)
    assert back.defined is not None
    assert back.defined.tolist() == [[True, False]]
    with pytest.raises(ValueError, match="defined of shape"):
        replace(made, defined=defined[:2])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.floats(0, 3), st.floats(0.05, 3))
def test_coverage_equals_fine_sampling(valid: list[bool], start_s: float, length_s: float) -> None:
    made = track(len(valid), np.array(valid))
    times = start_s + (np.arange(20_000) + 0.5) / 20_000 * length_s
    steps = (times * 10).astype(int)
    observed = np.array([s < len(valid) and valid[s] for s in steps])
    assert made.coverage(start_s, start_s + length_s) == pytest.approx(observed.mean(), abs=2e-3)


def test_overlapping_steps_count_once() -> None:
    made = FeatureTrack(np.ones((2, 2)), np.array([0.0, 0.5]), np.array([1.0, 1.0]), np.ones(2, bool), SPEC)
    assert made.coverage(0, 2) == pytest.approx(0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.lists(st.floats(0, 4), max_size=5))
def test_slices_at_any_cuts_partition_the_track(n_steps: int, cuts: list[float]) -> None:
    made = track(n_steps)
    edges = [-1.0, *sorted(cuts), 100.0]
    parts = [made.slice(a, b).values for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), made.values)


def test_save_and_load_give_the_same_track(tmp_path: Path) -> None:
    made = track(7, np.arange(7) % 2 == 0)
    made.save(tmp_path / "a.b")  # a stem with a dot must not lose it
    read = FeatureTrack.load(tmp_path / "a.b")
    for name in ("values", "start_s", "end_s", "valid"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert (read.spec, read.reason) == (made.spec, made.reason)
    (tmp_path / "a.b.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError):
        FeatureTrack.load(tmp_path / "a.b")


def test_clip_needs_all_three_tracks() -> None:
    with pytest.raises(ValueError, match="missing"):
        Clip("id", "f", 0, 1, {"audio": track(3)})


def test_labels_both_ways() -> None:
    labels = LabelSet()
    np.testing.assert_array_equal(labels.encode(["surprise", "anger"]), [1, 0, 0, 0, 0, 1])
    assert labels.decode(labels.encode(["surprise", "anger"])) == ["anger", "surprise"]
    with pytest.raises(ValueError, match="joy"):
        labels.encode(["joy"])


def test_registry_finds_and_suggests() -> None:
    sources = Registry("dataset", "data.sources")
    with pytest.raises(UnknownName, match="Expected a dataset"):
        sources.get("ravdes")
    from data.sources import SOURCES

    with pytest.raises(UnknownName, match="Did you mean 'ravdess'"):
        SOURCES.get("ravdes")


def test_words_to_text_is_one_line() -> None:
    assert words_to_text([Word(" It\n", 0, 1), Word("was ", 1, 2)]) == "It was"
