"""Times for words that were written down: taken from the words that were heard.

In: a transcript and the recogniser's words of the same utterance. Out: the transcript's words with times in seconds.

    timed_words("I am fine", heard, start_s=2.0, end_s=3.5)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

from data.clip import Word
from extractors.word_forms import spoken_words


def timed_words(text: str, heard: Sequence[Word], start_s: float, end_s: float) -> list[Word]:
    """The words of ``text`` in order, each with the time of the heard word it was matched with.

    Words that were not heard share the time between their neighbours evenly; before the first and after the last match that
    time ends where speech does (the first and last heard word), or, if nothing was heard, with the utterance.
    """
    written = spoken_words(text)
    said = [(_plain(word.text), word) for word in heard if _plain(word.text)]
    matcher = SequenceMatcher(a=[_plain(word) for word in written], b=[plain for plain, _ in said], autojunk=False)
    times = np.full((len(written), 2), np.nan)
    for i, j, n in matcher.get_matching_blocks():
        for k in range(n):
            word = said[j + k][1]
            times[i + k] = max(word.start_s, start_s), min(word.end_s, end_s)
    times[(times[:, 1] <= times[:, 0])] = np.nan
    first_s = max(start_s, min((word.start_s for _, word in said), default=start_s))
    last_s = min(end_s, max((word.end_s for _, word in said), default=end_s))
    known = np.flatnonzero(~np.isnan(times[:, 0]))
    edges = [-1, *known.tolist(), len(written)]
    for before, after in itertools.pairwise(edges):
        n = after - before - 1
        if n <= 0:
            continue
        left_s = times[before, 1] if before >= 0 else min(first_s, times[after, 0] if after < len(written) else first_s)
        right_s = times[after, 0] if after < len(written) else max(last_s, left_s)
        cuts = np.linspace(left_s, max(right_s, left_s), n + 1)
        times[before + 1 : after] = np.stack([cuts[:-1], cuts[1:]], axis=1)
    return [Word(word, float(a), float(b)) for word, (a, b) in zip(written, times, strict=True)]


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
