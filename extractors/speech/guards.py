"""Guards: what an engine said about one window → words whose times can be trusted and that were really spoken.

Whisper's known faults and what is done about each: words without times (interpolated within their phrase), times that
run backwards or leave the window (clamped), words without length (given 0.1 s of the pause or word beside them), text
invented in silence (dropped when outside speech, or when the engine itself doubts that there is speech), phrases repeated
in a loop (cut to the first), tokens that are no words (dropped).

    words = clean_words(decoded, window, speech_segments)       # list of data.Word on the file's clock
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from data.clip import Word
from extractors.speech import DecodedSegment, RawWord, SpeechSegment

OUTSIDE_MARGIN_S = 0.3  # a word's middle may lie this far from the nearest speech segment
NO_SPEECH_PROBABILITY = 0.6  # Whisper's own thresholds: silent if it says so and its words are improbable
MEAN_LOG_PROBABILITY = -1.0
COMPRESSION_RATIO = 2.4  # above it, Whisper itself calls a phrase too repetitive
LOOP_REPEATS = 3  # so many times in a row make a loop, in a phrase that compresses too well
LOOP_MAX_WORDS = 12
MIN_WORD_S = 0.1  # Whisper gives the first word after a pause no length at all about once in ten


def clean_words(
    decoded: Sequence[DecodedSegment], window: SpeechSegment, speech: Sequence[SpeechSegment]
) -> list[Word]:
    """Words of one window on the file's clock: inside the window, starts non-decreasing, ``start_s <= end_s``."""
    words: list[Word] = []
    previous_s = window.start_s
    for segment in decoded:
        if (
            segment.no_speech_probability > NO_SPEECH_PROBABILITY
            and segment.mean_log_probability < MEAN_LOG_PROBABILITY
        ):
            continue
        raw = [word for word in segment.words if any(letter.isalnum() for letter in word.text)]
        if segment.compression_ratio > COMPRESSION_RATIO:
            raw = cut_loops(raw)
        for word, (start_s, end_s) in zip(raw, fill_times(raw, segment.start_s, segment.end_s), strict=True):
            start_s = min(max(window.start_s + start_s, previous_s), window.end_s)
            end_s = min(max(window.start_s + end_s, start_s), window.end_s)
            if not near_speech((start_s + end_s) / 2, speech):
                continue
            previous_s = start_s
            probability = word.probability if math.isfinite(word.probability) else 0.0
            words.append(Word(word.text.strip(), float(start_s), float(end_s), float(min(max(probability, 0.0), 1.0))))
    return lengthen(words, window.start_s)


def lengthen(words: Sequence[Word], window_start_s: float) -> list[Word]:
    """Give words shorter than 0.1 s that much: from the pause before them, else from the word after if it can spare it."""
    result = list(words)
    for i, word in enumerate(result):
        if word.end_s - word.start_s >= MIN_WORD_S:
            continue
        free_from_s = result[i - 1].end_s if i else window_start_s
        word = replace(word, start_s=min(word.start_s, max(word.end_s - MIN_WORD_S, free_from_s)))
        wanted_end_s = word.start_s + MIN_WORD_S
        following = result[i + 1] if i + 1 < len(result) else None
        if following and wanted_end_s > word.end_s and following.end_s - wanted_end_s >= MIN_WORD_S:
            next_start_s = max(following.start_s, wanted_end_s)
            if i + 2 >= len(result) or next_start_s <= result[i + 2].start_s:  # starts must stay in order
                word = replace(word, end_s=wanted_end_s)
                result[i + 1] = replace(following, start_s=next_start_s)
        result[i] = word
    return result


def fill_times(words: Sequence[RawWord], start_s: float, end_s: float) -> list[tuple[float, float]]:
    """A start and an end for every word: its own where it has both, else an equal share of the gap between the timed
    neighbours (the phrase's ends ``start_s``, ``end_s`` count as neighbours)."""
    times = [_own_times(word) for word in words]
    filled: list[tuple[float, float]] = []
    index = 0
    while index < len(words):
        own = times[index]
        if own is not None:
            filled.append(own)
            index += 1
            continue
        stop = next((i for i in range(index, len(words)) if times[i] is not None), len(words))
        following = times[stop] if stop < len(words) else None
        left_s = filled[-1][1] if filled else start_s
        right_s = max(left_s, following[0] if following else end_s)
        step_s = (right_s - left_s) / (stop - index)
        filled += [(left_s + k * step_s, left_s + (k + 1) * step_s) for k in range(stop - index)]
        index = stop
    return filled


def _own_times(word: RawWord) -> tuple[float, float] | None:
    if word.start_s is None or word.end_s is None:
        return None
    if not (math.isfinite(word.start_s) and math.isfinite(word.end_s)) or word.end_s < word.start_s:
        return None
    return word.start_s, word.end_s


def cut_loops(words: Sequence[RawWord]) -> list[RawWord]:
    """Cut every run of one phrase of 1–12 words, said three times or more in a row, to its first saying."""
    keys = ["".join(letter for letter in word.text.lower() if letter.isalnum()) for word in words]
    kept: list[RawWord] = []
    index = 0
    while index < len(words):
        length = next((n for n in range(1, LOOP_MAX_WORDS + 1) if _repeats(keys, index, n) >= LOOP_REPEATS), 0)
        if length:
            kept += words[index : index + length]
            index += length * _repeats(keys, index, length)
        else:
            kept.append(words[index])
            index += 1
    return kept


def _repeats(keys: list[str], start: int, length: int) -> int:
    phrase = keys[start : start + length]
    count = 1
    while keys[start + count * length : start + (count + 1) * length] == phrase:
        count += 1
    return count


def near_speech(time_s: float, speech: Sequence[SpeechSegment]) -> bool:
    return any(s.start_s - OUTSIDE_MARGIN_S <= time_s <= s.end_s + OUTSIDE_MARGIN_S for s in speech)
