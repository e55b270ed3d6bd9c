"""Words that were written down take the times of those that were heard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data.clip import Word
from pipeline.written_words import timed_words

HEARD = [
    Word("It", 1.0, 1.2),
    Word("was", 1.2, 1.5),
    Word("the", 2.0, 2.1),
    Word("vest,", 2.1, 2.6),
    Word("Of", 2.6, 2.8),
]


def test_matched_words_have_the_times_heard_and_others_lie_between() -> None:
    found = timed_words("It really was the best of times!", HEARD, 0.5, 4.0)
    times = {word.text.strip("!").lower(): (round(word.start_s, 6), round(word.end_s, 6)) for word in found}
    assert times["it"] == (1.0, 1.2)
    assert times["was"] == (1.2, 1.5)
    assert times["the"] == (2.0, 2.1)
    assert times["of"] == (2.6, 2.8)
    assert times["best"] == (2.1, 2.6)  # heard as another word: what lies between its neighbours
    assert times["really"] == (1.2, 1.2)  # no time was left
    assert times["times"] == (2.8, 2.8)  # after the last word heard


def test_nothing_heard_is_evenly_spread_over_the_utterance() -> None:
    found = timed_words("one two three four", [], 2.0, 4.0)
    assert [(word.start_s, word.end_s) for word in found] == [(2.0, 2.5), (2.5, 3.0), (3.0, 3.5), (3.5, 4.0)]


@given(
    st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=12),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "x"]), st.floats(0, 1), st.floats(0, 1)), max_size=8),
)
def test_times_are_ordered_and_within_the_utterance(written: list[str], heard: list[tuple[str, float, float]]) -> None:
    words, at_s = [], 1.0
    for text, pause_s, length_s in heard:
        words.append(Word(text, at_s + pause_s, at_s + pause_s + length_s))
        at_s = words[-1].end_s
    found = timed_words(" ".join(written), words, 1.0, at_s + 0.5)
    assert [word.text for word in found] == written
    edges = [edge for word in found for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges)
    assert all(1.0 <= edge <= at_s + 0.5 for edge in edges)
