"""The comments benchmark: what counts as a row, as neutral, and as hidden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.goemotions_text import hide_words, macro_f1, read, written_words
from data.batches import Sample, collate
from data.labels import LabelSet

VOCABULARY = dict.fromkeys(
    ["do", "n't", "love", "it", "!", "!!", "?", "...", ":)", ":(", "red", "heart", "tears", "joy"], 0
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("Don't!!", ["do", "n't", "!!"]),
        ("love it... ?", ["love", "it", "...", "?"]),
        ("it :-) =(", ["it", ":)", ":("]),
        ("<3", ["love"]),
        ("it\u2764\ufe0f\U0001f602\U0001f44d\U0001f3fd", ["it", "heavy", "heart", "tears", "joy", "thumbs", "up"]),
    ],
)
def test_what_a_reader_sees_becomes_rows(text: str, rows: list[str]) -> None:
    assert [row for row in written_words(text, VOCABULARY) if row.isascii()] == rows


def test_neutral_counts_beside_an_emotion(tmp_path: Path) -> None:
    names = ("anger", "neutral")
    (tmp_path / "x.tsv").write_text("a\u0085b\t0,1\tid1\nc\t1\tid2\nd\t0\tid3\n", encoding="utf-8")
    texts, truth = read(tmp_path / "x.tsv", LabelSet(names), names)
    assert texts == ["a\u0085b", "c", "d"]
    np.testing.assert_array_equal(truth, [[1, 1], [0, 1], [1, 0]])


def test_hidden_words_are_a_share_and_never_all() -> None:
    def sample(n_words: int) -> Sample:
        values = {"text": np.ones((n_words, 2)), "audio": np.zeros((0, 1)), "visual": np.zeros((0, 1))}
        valid = {name: np.ones(len(rows), bool) for name, rows in values.items()}
        return Sample(values, valid, np.zeros(1, np.float32))  # type: ignore[arg-type]

    batch = collate([sample(40)] * 500 + [sample(1)] * 100, (2, 1, 1))
    hidden = hide_words(0.2)(batch, torch.Generator().manual_seed(0))
    assert hidden.masks["text"].any(dim=1).all()
    assert float(hidden.masks["text"][:500].float().mean()) == pytest.approx(0.8, abs=0.02)
    assert hide_words(0.0)(batch, torch.Generator()) is batch


def test_thresholds_come_from_the_valid_split() -> None:
    valid, test = np.array([[0.1], [0.2], [0.3]]), np.array([[0.1], [0.2], [0.3]])
    own, f1 = macro_f1(valid, np.array([[0], [1], [1]]), test, np.array([[0], [0], [1]]))
    assert own == 1.0
    assert f1 == pytest.approx([2 / 3])  # a threshold tuned on the test split would give 1
