"""Cutting a file into utterances: speech blocks ended at pauses and sentence ends, and windows of silence with a face.

In: speech segments, words, the face track (all on the file's clock, seconds). Out: intervals in order, without overlap.

    for utterance in cut_utterances(segments, words, visual, settings): utterance.start_s, utterance.end_s, utterance.spoken
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from data.clip import Word
from data.track import FeatureTrack
from pipeline.settings import PipelineSettings

SENTENCE_ENDS = (".", "?", "!", "…")


class Interval(Protocol):
    """Anything with a start and an end."""

    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...


@dataclass(frozen=True)
class Utterance:
    """``spoken`` tells a speech block from a window in which nobody speaks but a face is seen."""

    start_s: float
    end_s: float
    spoken: bool


class WordTimes:
    """Words by the time of their middle: an hour has thousands, and every utterance asks for its own."""

    def __init__(self, words: Sequence[Word]) -> None:
        self.words = words
        self.middle_s = np.array([(word.start_s + word.end_s) / 2 for word in words])

    def within(self, start_s: float, end_s: float) -> list[Word]:
        """The words whose middle lies in ``[start_s, end_s)``, in order."""
        return [self.words[i] for i in np.flatnonzero((self.middle_s >= start_s) & (self.middle_s < end_s)).tolist()]


def speech_blocks(segments: Sequence[Interval], words: Sequence[Word], merge_gap_s: float) -> list[tuple[float, float]]:
    """Union of voice activity and word times; pauses shorter than ``merge_gap_s`` do not end a block."""
    spans = sorted([(s.start_s, s.end_s) for s in segments] + [(w.start_s, w.end_s) for w in words])
    blocks: list[tuple[float, float]] = []
    for start_s, end_s in spans:
        if blocks and start_s - blocks[-1][1] < merge_gap_s:
            blocks[-1] = blocks[-1][0], max(blocks[-1][1], end_s)
        elif end_s > start_s:
            blocks.append((start_s, end_s))
    return blocks


def _split_at_sentences(block: tuple[float, float], words: WordTimes, min_s: float) -> list[tuple[float, float]]:
    """Cut between two words after a sentence end, where both sides keep at least ``min_s``."""
    start_s, end_s = block
    inside = words.within(start_s, end_s)
    pieces = []
    for word, following in itertools.pairwise(inside):
        cut_s = (word.end_s + following.start_s) / 2
        ends = word.text.rstrip("\"')]”’").endswith(SENTENCE_ENDS)
        if ends and cut_s - start_s >= min_s and end_s - cut_s >= min_s:
            pieces.append((start_s, cut_s))
            start_s = cut_s
    return [*pieces, (start_s, end_s)]


def _split_long(span: tuple[float, float], words: WordTimes, max_s: float) -> list[tuple[float, float]]:
    """Cut a span that is too long at the longest pause between words near its middle, else in equal parts."""
    start_s, end_s = span
    if end_s - start_s <= max_s:
        return [span]
    inside = words.within(start_s, end_s)
    quarter_s = (end_s - start_s) / 4
    pauses = [
        (following.start_s - word.end_s, (word.end_s + following.start_s) / 2)
        for word, following in itertools.pairwise(inside)
    ]
    pauses = [(length, cut_s) for length, cut_s in pauses if start_s + quarter_s <= cut_s <= end_s - quarter_s]
    if pauses:
        cut_s = max(pauses)[1]
        return [*_split_long((start_s, cut_s), words, max_s), *_split_long((cut_s, end_s), words, max_s)]
    edges = np.linspace(start_s, end_s, math.ceil((end_s - start_s) / max_s) + 1)
    return [(float(a), float(b)) for a, b in itertools.pairwise(edges)]


def cut_utterances(
    segments: Sequence[Interval],
    words: Sequence[Word],
    visual: FeatureTrack,
    settings: PipelineSettings,
) -> list[Utterance]:
    """Utterances of a whole file, in order.

    Speech first; every word falls into exactly one spoken utterance. What lies between (and before, and after) is
    divided into equal windows of at most ``window_s`` and kept where a face covers ``min_face_coverage`` of it.
    """
    spoken: list[Utterance] = []
    times = WordTimes(words)
    for block in speech_blocks(segments, words, settings.merge_gap_s):
        for sentence in _split_at_sentences(block, times, settings.min_sentence_s):
            for start_s, end_s in _split_long(sentence, times, settings.max_utterance_s):
                spoken.append(Utterance(start_s, end_s, spoken=True))

    silent: list[Utterance] = []
    face_end_s = float(visual.end_s[visual.valid][-1]) if visual.observed else 0.0
    gap_starts = [0.0, *(u.end_s for u in spoken)]
    gap_ends = [*(u.start_s for u in spoken), face_end_s]
    for gap_start_s, gap_end_s in zip(gap_starts, gap_ends, strict=True):
        length_s = gap_end_s - gap_start_s
        # A clip shorter than a window is still a clip: only gaps beside speech must have a minimum length.
        if length_s <= 0 or (spoken and length_s < settings.min_window_s):
            continue
        edges = np.linspace(gap_start_s, gap_end_s, math.ceil(length_s / settings.window_s) + 1)
        for start_s, end_s in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if visual.coverage(start_s, end_s) >= settings.min_face_coverage:
                silent.append(Utterance(start_s, end_s, spoken=False))
    return sorted([*spoken, *silent], key=lambda u: u.start_s)


def mask_outside(track: FeatureTrack, intervals: Sequence[tuple[float, float]], margin_s: float) -> FeatureTrack:
    """The track with every step invalid whose middle is not within ``margin_s`` of one of the intervals.

    The acoustic track is about the voice: noise and music while nobody speaks are not observations of it.
    """
    middle = (track.start_s + track.end_s) / 2
    inside = np.zeros(len(track), dtype=bool)
    for start_s, end_s in intervals:
        inside |= (middle >= start_s - margin_s) & (middle < end_s + margin_s)
    reason = track.reason or (None if (track.valid & inside).any() else "no_speech")
    return replace(track, valid=track.valid & inside, reason=reason)
