"""Cutting: words are never lost or doubled, sentences end utterances, silence is kept only where a face is seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import FeatureSpec, FeatureTrack, Word
from extractors.speech import SpeechSegment
from pipeline.settings import PipelineSettings
from pipeline.utterances import cut_utterances, mask_outside

SETTINGS = PipelineSettings(device="cpu")
SPEC = FeatureSpec("visual", ("x",), 10.0, "test", "1")


def face(seconds: float, seen: tuple[float, float] | None = None) -> FeatureTrack:
    n_steps = round(seconds * 10)
    times = np.arange(n_steps) / 10
    valid = np.ones(n_steps, bool) if seen is None else (times >= seen[0]) & (times < seen[1])
    return FeatureTrack.from_rate(np.ones((n_steps, 1)), SPEC, valid)


NO_FACE = FeatureTrack.empty(SPEC, "no_face")


def words(*texts: str, start_s: float = 0.0, each_s: float = 0.5) -> list[Word]:
    return [Word(t, start_s + i * each_s, start_s + (i + 0.8) * each_s) for i, t in enumerate(texts)]


def test_sentences_end_utterances() -> None:
    said = words("I", "am", "here", "today.", "Where", "are", "you", "now?")
    cut = cut_utterances([SpeechSegment(0, 4)], said, NO_FACE, SETTINGS)
    assert [(u.start_s, u.end_s) for u in cut] == [(0, pytest.approx(1.95)), (pytest.approx(1.95), 4)]


def test_short_sentences_stay_together() -> None:
    said = words("No.", "Yes.", "Go", "home", "now")
    assert len(cut_utterances([SpeechSegment(0, 2.5)], said, NO_FACE, SETTINGS)) == 1


def test_pauses_separate_and_short_ones_do_not() -> None:
    segments = [SpeechSegment(0, 1), SpeechSegment(1.3, 2), SpeechSegment(4, 5)]
    cut = cut_utterances(segments, [], NO_FACE, SETTINGS)
    assert [(u.start_s, u.end_s) for u in cut] == [(0, 2), (4, 5)]


def test_silence_with_a_face_becomes_windows() -> None:
    cut = cut_utterances([SpeechSegment(10, 12)], [], face(20, (0, 16)), SETTINGS)
    assert [u.spoken for u in cut] == [False, False, False, True, False]
    silent = [u for u in cut if not u.spoken]
    assert all(u.end_s - u.start_s <= SETTINGS.window_s for u in silent)
    assert max(u.end_s for u in silent) == pytest.approx(16)


def test_nobody_speaks_and_no_face_gives_nothing() -> None:
    assert cut_utterances([], [], NO_FACE, SETTINGS) == []
    assert cut_utterances([], [], face(8, (100, 101)), SETTINGS) == []


def test_a_very_short_silent_clip_is_still_one_window() -> None:
    assert [(u.start_s, u.end_s) for u in cut_utterances([], [], face(0.3), SETTINGS)] == [(0, pytest.approx(0.3))]


def test_long_speech_without_words_is_cut_evenly() -> None:
    cut = cut_utterances([SpeechSegment(0, 60)], [], NO_FACE, SETTINGS)
    assert len(cut) == 5
    assert all(u.end_s - u.start_s <= SETTINGS.max_utterance_s + 1e-9 for u in cut)


spans = st.lists(
    st.tuples(st.floats(0, 3), st.floats(0.05, 8), st.sampled_from(["word", "end.", "why?"])), min_size=1, max_size=40
)


@settings(max_examples=150, deadline=None)
@given(spans, st.integers(0, 400))
def test_every_word_is_in_exactly_one_spoken_utterance(gaps: list[tuple[float, float, str]], face_steps: int) -> None:
    said, time_s = [], 0.0
    for gap_s, length_s, text in gaps:
        said.append(Word(text, time_s + gap_s, time_s + gap_s + length_s))
        time_s += gap_s + length_s
    cut = cut_utterances([], said, face(face_steps / 10), SETTINGS)
    for word in said:
        middle = (word.start_s + word.end_s) / 2
        assert sum(u.start_s <= middle < u.end_s for u in cut if u.spoken) == 1
    assert all(u.end_s > u.start_s for u in cut)
    assert all(b.start_s >= a.end_s - 1e-9 for a, b in itertools.pairwise(cut))


def test_mask_outside_keeps_the_margin_only() -> None:
    spec = FeatureSpec("audio", ("x",), 10.0, "test", "1")
    masked = mask_outside(FeatureTrack.from_rate(np.ones((30, 1)), spec), [(1.0, 2.0)], 0.2)
    np.testing.assert_array_equal(np.flatnonzero(masked.valid), np.arange(8, 22))
    assert masked.reason is None
    assert mask_outside(masked, [], 0.2).reason == "no_speech"
