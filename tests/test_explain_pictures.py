"""Pictures and data of explanations: what is written, what is in it, what is never overwritten."""

from __future__ import annotations

import csv
import itertools
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import Clip, FeatureSpec, FeatureTrack, Word
from data.batches import Sample
from data.errors import InputError
from data.spec import MODALITIES, Modality
from lamb.explain import attribute
from pipeline.explain import explain_dataset, explain_file
from pipeline.explain_pictures import draw_encoder_histogram, draw_label_attention, drawable
from tests.test_explain import NAMES, SPECS, checkpoint_of, make_clip, make_model, planted

WORDS = ("$x^2", "und", "日本語", "line\nbreak", "naïve", "a" * 60, "so")


@dataclass
class FakeExtractors:
    """An analysis made up here; only what explaining a file asks for."""

    clips: tuple[Clip, ...]
    words: tuple[Word, ...]
    duration_s: float = 9.0
    specs: dict[Modality, FeatureSpec] = field(default_factory=lambda: dict(SPECS))

    def analyse(self, path: Path, notify: Any) -> Any:
        return SimpleNamespace(
            clips=self.clips, words=self.words, duration_s=self.duration_s, sha256="ab" * 32, outcome="ok", reasons=()
        )


def make_predictor(**changes: Any) -> Any:
    from pipeline.predict import Predictor

    first = make_clip(0)
    text = first.tracks["text"]
    words = tuple(Word(t, float(a), float(b)) for t, a, b in zip(WORDS, text.start_s, text.end_s, strict=True))
    second = make_clip(5, (0, 30, 20), start_s=1.0)
    moved: dict[Modality, FeatureTrack] = {
        name: FeatureTrack(t.values, t.start_s + 4, t.end_s + 4, t.valid, t.spec, t.reason or "none")
        for name, t in second.tracks.items()
    }
    clips = (first, Clip("two", "a.mp4", 5.0, 8.0, moved))
    checkpoint = checkpoint_of(make_model(), thresholds=np.array([0.01, 0.99, 0.99, 0.99]))
    return Predictor(checkpoint, FakeExtractors(**{"clips": clips, "words": words, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], Path]:
    predictor = make_predictor()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph or a broken formula would warn
        data, picture = explain_file(Path("odd $name_1$ 日.mp4"), predictor, tmp_path_factory.mktemp("why") / "new")
    assert data.parent == picture.parent
    assert len(list(data.parent.iterdir())) == 2
    return predictor, json.loads(data.read_text(encoding="utf-8")), picture


def test_the_record_says_what_the_attribution_says(explained: tuple[Any, dict[str, Any], Path]) -> None:
    predictor, record, _ = explained
    first, second = record["utterances"]
    assert [label["label"] for label in first["labels"]] == ["a"]
    assert first["labels"][0]["holds"]
    clip = predictor.extractors.clips[0]
    found = attribute(predictor.checkpoint, clip, ["a"])
    label = first["labels"][0]
    assert label["attribution"] == pytest.approx(dict(zip(MODALITIES, found.per_modality()[0], strict=True)), abs=1e-4)
    assert sum(label["attention"].values()) == pytest.approx(1.0, abs=1e-3)
    assert label["completeness_gap"] <= 0.01 * max(0.1, abs(label["logit"] - label["baseline_logit"])) + 1e-4

    by_word = {WORDS[row]: amount for row, amount in zip(found.rows["text"], found.per_step("text")[0], strict=True)}
    expected = sorted((word for word in by_word if by_word[word]), key=lambda word: -abs(by_word[word]))[:5]
    assert [word["text"] for word in label["words"]] == expected
    column = found.per_column("audio")[0]
    assert label["columns"]["audio"][0]["name"] == f"audio{np.abs(column).argmax()}"
    assert second["labels"][0]["words"] == []
    assert second["labels"][0]["attribution"]["text"] == 0

    spans = sorted((moment["start_s"], moment["end_s"]) for moment in label["moments"])
    assert spans
    assert all(1.0 <= a < b <= 4.0 and b - a == pytest.approx(0.5, abs=0.01) for a, b in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    amounts = [moment["attribution"] for moment in label["moments"]]
    assert amounts == sorted(amounts, reverse=True)
    edges = np.linspace(1.0, 4.0, 31)
    total = np.sum([found.over_time(name, edges)[0] for name in MODALITIES], axis=0)
    assert amounts[0] == pytest.approx(max(total[k : k + 5].sum() for k in range(26)), abs=1e-4)


def test_the_picture_is_one(explained: tuple[Any, dict[str, Any], Path]) -> None:
    _, _, picture = explained
    with Image.open(picture) as image:
        assert image.info["Software"] == "lamb explain"
        assert image.width >= 1000
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0xEE, 0x88, 0x33), (0x22, 0x88, 0x55)):  # voice and face are drawn
        assert (np.abs(pixels.astype(int) - colour).max(axis=1) < 25).sum() > 200


def test_a_file_that_cannot_be_explained_is_one_line(tmp_path: Path) -> None:
    empty = {name: FeatureTrack.empty(SPECS[name], "none") for name in MODALITIES}
    for changes in ({"clips": ()}, {"clips": (make_clip(0, tracks=empty),)}):
        with pytest.raises(InputError, match="nothing to label") as caught:
            explain_file(Path("a.mp4"), make_predictor(**changes), tmp_path)
        assert caught.value.code == "nothing_to_explain"
    for start_s, end_s in ((5.0, 4.0), (-1.0, 4.0), (0.0, 61.0), (10.0, None)):
        with pytest.raises(InputError, match="interval"):
            explain_file(Path("a.mp4"), make_predictor(duration_s=100.0 if end_s else 9.0), tmp_path, start_s, end_s)
    assert list(tmp_path.iterdir()) == []


def test_every_face_is_in_the_record_and_the_first_is_drawn(tmp_path: Path) -> None:
    clips = tuple(make_clip(i, extra={"face": str(i)}) for i in range(2))
    data, _ = explain_file(Path("a.mp4"), make_predictor(clips=clips, words=()), tmp_path)
    assert [u["face"] for u in json.loads(data.read_text())["utterances"]] == [0, 1]


# ---- figures 2 and 3 ------------------------------------------------------------------------------------------------


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_figures_of_a_data_set(tmp_path: Path) -> None:
    from lamb.attention import encoder_histogram, label_attention

    checkpoint = checkpoint_of(make_model())
    samples = [Sample(sample.values, sample.valid) for sample in planted(5, 0)[0]]
    written = explain_dataset(checkpoint, samples, tmp_path / "new")
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    counts, weights = encoder_histogram(checkpoint.model, samples), label_attention(checkpoint.model, samples)
    rows = read_csv(tmp_path / "new" / "encoder_histogram.csv")
    assert [int(row["tokens"]) for row in rows] == counts.flatten().tolist()
    assert [row["label"] for row in rows[::9]] == list(NAMES)
    rows = read_csv(tmp_path / "new" / "label_attention.csv")
    assert [float(row["weight"]) for row in rows[:80]] == pytest.approx(weights.flatten(), abs=1e-6)
    assert [float(row["weight"]) for row in rows[80:]] == np.eye(4).flatten().tolist()
    explain_dataset(checkpoint, samples, tmp_path / "new")  # replaces its own
    with pytest.raises(InputError, match="no attention"):
        explain_dataset(checkpoint_of(make_model(aggregation="first_token")), samples, tmp_path / "none")


def red_pixels(path: Path) -> np.ndarray:
    """Per column of the picture, how many pixels have the colour of the highest bar."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return (np.abs(pixels - (0xCC, 0x33, 0x11)).max(axis=2) < 10).sum(axis=0)


def test_only_the_highest_bar_is_coloured(tmp_path: Path) -> None:
    counts = np.array([[1, 7, 2]])
    red = red_pixels(draw_encoder_histogram(counts, ["x"], ("T", "A", "V"), tmp_path / "one.png")[0])
    wide = np.flatnonzero(red > 20)
    assert 0 < len(wide) < 0.5 * len(red)
    assert wide[-1] - wide[0] + 1 == len(wide)  # one bar
    none = red_pixels(draw_encoder_histogram(0 * counts, ["x"], ("T", "A", "V"), tmp_path / "two.png")[0])
    assert none.sum() == 0


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine\n")
    with pytest.raises(InputError, match="free") as caught:
        draw_label_attention(np.full((2, 3, 3), 1 / 3), ["x", "$y$", "日"], tmp_path / "a.png")
    assert caught.value.code == "output_exists"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_label_attention(np.full((2, 3, 3), 1 / 3), ["x", "$y$", "日"], tmp_path / "b.png")
    assert drawable("a\n日é") == "a��é"
