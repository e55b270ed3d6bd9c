"""Word alignment: one row of a track per word, the mean of what was observed while the word was spoken.

In: a text track (one row per word, with times) and another track on the same clock. Out: a track of as many rows as there
are words, with the words' times.

    audio_of_words = align_to_words(clip.tracks["text"], clip.tracks["audio"])
    audio_of_words.values                                   # float32 (words, 74)

A row belongs to the word in whose interval ``[start_s, end_s)`` its middle lies, to several where words overlap.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.spec import FeatureSpec
from data.track import FeatureTrack


def word_mean_spec(spec: FeatureSpec) -> FeatureSpec:
    """The spec of a track's means over words: without a rate, and of another version, as a mean is another feature."""
    return replace(spec, rate_hz=None, version=f"{spec.version}-words")


def align_to_words(text: FeatureTrack, other: FeatureTrack) -> FeatureTrack:
    """Means of ``other`` over each word of ``text``.

    Only valid rows count and, where ``other.defined`` is given, in each column only rows in which it is defined; a column
    that is defined in none of a word's rows is not defined for the word. A word without a valid row is not valid, whether
    the word itself is valid or not.
    """
    middle = (other.start_s + other.end_s) / 2
    order = np.argsort(middle, kind="stable")
    order = order[other.valid[order]]
    middle = middle[order]
    values = other.values[order].astype(np.float64)
    known = None if other.defined is None else other.defined[order]
    first, last = np.searchsorted(middle, text.start_s), np.searchsorted(middle, text.end_s)

    means = np.zeros((len(text), other.spec.dim))
    defined = None if known is None else np.zeros(means.shape, bool)
    for word, (i, j) in enumerate(zip(first, last, strict=True)):
        if j <= i:
            continue
        if known is None or defined is None:
            means[word] = values[i:j].mean(axis=0)
        else:  # values are 0 where they are not defined
            count = known[i:j].sum(axis=0)
            means[word] = values[i:j].sum(axis=0) / np.maximum(count, 1)
            defined[word] = count > 0
    reason = other.reason if len(other) == 0 else None
    return FeatureTrack(means, text.start_s, text.end_s, last > first, word_mean_spec(other.spec), reason, defined)
