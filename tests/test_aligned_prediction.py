"""Checkpoints of means over words, and of other features: what predicts, what is refused and what mends it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.alignment import word_mean_spec
from data.batches import Sample, collate
from data.clip import Clip, Word
from data.dataset import Reading, load_dataset, save_dataset
from data.errors import SpecMismatch
from data.labels import LabelSet
from data.spec import MODALITIES, FeatureSpec, Modality
from data.track import FeatureTrack
from extractors.acoustic import acoustic_spec
from extractors.embedding import EmbeddingSettings, WordVectors, text_spec
from extractors.facial import facial_spec
from lamb.checkpoint import Checkpoint
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.settings import ModelSettings
from pipeline.evaluate import evaluate_checkpoint
from pipeline.explain import explain_file
from pipeline.mismatch import check_extractors
from pipeline.predict import Predictor
from tests.planted_dataset import planted_header, planted_samples
from tests.test_train_command import lamb

LABELS = LabelSet(("anger", "joy"))
WORDS = (Word("no", 0.0, 0.4), Word("way", 0.5, 1.0), Word("out", 5.0, 5.5))


@pytest.fixture(scope="module")
def specs() -> dict[Modality, FeatureSpec]:
    """Of the extractors as `lamb predict` uses them."""
    text = text_spec(WordVectors.open(EmbeddingSettings()))
    return {"text": text, "audio": acoustic_spec(), "visual": facial_spec()}


def means(specs: dict[Modality, FeatureSpec]) -> dict[Modality, FeatureSpec]:
    return {name: spec if name == "text" else word_mean_spec(spec) for name, spec in specs.items()}


def checkpoint_of(specs: dict[Modality, FeatureSpec], **model: Any) -> Checkpoint:
    torch.manual_seed(0)
    text, audio, visual = (specs[name].dim for name in MODALITIES)
    settings = ModelSettings.parse({"dims": (text, audio, visual), "n_labels": 2, "width": 10, "heads": 2, **model})
    return Checkpoint(LAMB(settings), LABELS, specs, Normalization.identity(settings.dims))


def clips_of(specs: dict[Modality, FeatureSpec]) -> tuple[Clip, ...]:
    """An utterance with words and gaps in voice and face, and a face in silence."""
    rng = np.random.default_rng(0)

    def track(name: Modality, start_s: np.ndarray, length_s: float) -> FeatureTrack:
        values = rng.normal(size=(len(start_s), specs[name].dim))
        valid = rng.random(len(start_s)) < 0.8
        known = rng.random(values.shape) < 0.9 if name == "audio" else None
        return FeatureTrack(values, start_s, start_s + length_s, valid, specs[name], None, known)

    text = np.array([word.start_s for word in WORDS])
    tracks: dict[Modality, FeatureTrack] = {
        "text": FeatureTrack(
            rng.normal(size=(3, specs["text"].dim)),
            text,
            np.array([w.end_s for w in WORDS]),
            np.ones(3, bool),
            specs["text"],
        ),
        "audio": track("audio", np.arange(600) / 100, 0.01),
        "visual": track("visual", np.arange(150) / 25, 0.04),
    }
    silent: dict[Modality, FeatureTrack] = {
        "text": FeatureTrack.empty(specs["text"], "no_words"),
        "audio": FeatureTrack.empty(specs["audio"], "no_speech"),
        "visual": track("visual", 6 + np.arange(50) / 25, 0.04),
    }
    return Clip("spoken", "a.mp4", 0.0, 6.0, tracks, "no way out"), Clip("silent", "a.mp4", 6.0, 8.0, silent)


def extractors_of(specs: dict[Modality, FeatureSpec], clips: tuple[Clip, ...]) -> Any:
    analysis = SimpleNamespace(
        sha256="ab" * 32, duration_s=8.0, outcome="ok", reasons=(), clips=clips, words=WORDS, utterances=clips
    )
    return SimpleNamespace(specs=specs, analyse=lambda path, notify=None: analysis)


def mean_rows(track: FeatureTrack) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of a track over WORDS with loops: values, which words have any row, which columns any value."""
    values, valid = np.zeros((len(WORDS), track.spec.dim), np.float32), np.zeros(len(WORDS), bool)
    defined = np.zeros(values.shape, bool)
    for w, word in enumerate(WORDS):
        for column in range(track.spec.dim):
            found = [
                track.values[i, column]
                for i in range(len(track))
                if track.valid[i]
                and word.start_s <= (track.start_s[i] + track.end_s[i]) / 2 < word.end_s
                and (track.defined is None or track.defined[i, column])
            ]
            if found:
                values[w, column], valid[w], defined[w, column] = np.mean(found), True, True
    return values, valid, defined


def test_predictions_are_of_the_means_over_words(specs: dict[Modality, FeatureSpec]) -> None:
    checkpoint, clips = checkpoint_of(means(specs)), clips_of(specs)
    record = Predictor(checkpoint, extractors_of(specs, clips)).predict_file(Path("a.mp4"))
    assert record["error"] is None, record
    (utterance,) = record["utterances"]  # where nobody speaks there is nothing to average over
    assert utterance["text"] == "no way out"
    assert utterance["coverage"]["audio"] == pytest.approx(clips[0].coverage("audio"), abs=1e-3)  # of what was found
    audio, visual = mean_rows(clips[0].tracks["audio"]), mean_rows(clips[0].tracks["visual"])
    sample = Sample(
        {"text": clips[0].tracks["text"].values, "audio": audio[0], "visual": visual[0]},
        {"text": np.ones(3, bool), "audio": audio[1], "visual": visual[1]},
    )
    checkpoint.model.eval()
    with torch.no_grad():
        expected = checkpoint.model(collate([sample], checkpoint.settings.dims)).sigmoid()[0].numpy()
    assert list(utterance["probabilities"].values()) == pytest.approx(expected, abs=2e-4)
    plain = Predictor(checkpoint_of(specs), extractors_of(specs, clips)).predict_file(Path("a.mp4"))
    assert len(plain["utterances"]) == 2  # steps as they are: the silent face too


def test_explanations_are_of_the_means_over_words(specs: dict[Modality, FeatureSpec], tmp_path: Path) -> None:
    predictor = Predictor(checkpoint_of(means(specs)), extractors_of(specs, clips_of(specs)))
    data, picture = explain_file(Path("a.mp4"), predictor, tmp_path)
    (utterance,) = json.loads(data.read_text())["utterances"]
    assert utterance["labels"][0]["words"][0]["text"] in {"no", "way", "out"}
    assert picture.is_file()


def test_only_the_modalities_that_are_read_must_match(specs: dict[Modality, FeatureSpec]) -> None:
    other = {**specs, "visual": replace(specs["visual"], version="0")}
    assert check_extractors(checkpoint_of(other, encoders=("T", "A", "TA")), specs) == frozenset()
    assert check_extractors(checkpoint_of(means(specs)), specs) == {"audio", "visual"}
    with pytest.raises(SpecMismatch):
        check_extractors(checkpoint_of(other), specs)


def _dim300(spec: FeatureSpec) -> FeatureSpec:
    return replace(spec, columns=tuple(f"glove_{i:03d}" for i in range(300)), weights="12" * 32)


def _compat(_: FeatureSpec) -> FeatureSpec:
    return acoustic_spec("compat")


def _facet(spec: FeatureSpec) -> FeatureSpec:
    return FeatureSpec("visual", tuple(f"f{i}" for i in range(35)), None, "facet", "4.2")


CASES: list[tuple[Modality, Any, str, str]] = [
    ("text", _dim300, "300 columns expected, 50 came", "Add --vectors glove-6b-300d or"),
    ("text", _dim300, "weights 121212121212 expected", "the file with sha256 121212121212"),
    ("text", lambda s: replace(s, version="0"), "version 0 expected, 1 came", "train again"),
    ("audio", _compat, "-compat expected, .*-fixed came", "Add --acoustic-mode compat."),
    (
        "audio",
        lambda s: word_mean_spec(_compat(s)),
        "-compat-words expected, .*-fixed-words came",
        "Add --acoustic-mode compat.",
    ),
    (
        "audio",
        lambda s: replace(s, version="3-fixed"),
        "version 3-fixed expected",
        "covarep 3-fixed: build the dataset anew",
    ),
    ("visual", lambda s: replace(s, weights="ff" * 32), "weights ffffffffffff expected", "train again"),
    ("visual", lambda s: replace(s, extractor="py-feat-v1"), "py-feat-v1 expected", "Add --face-backend py-feat."),
    ("visual", lambda s: replace(s, extractor="py-feat-v2"), "py-feat-v2 expected", "Add --face-backend py-feat-v2."),
    ("visual", _facet, "extractor facet expected", "no option of lamb makes"),
]


@pytest.mark.parametrize(("modality", "change", "differs", "remedy"), CASES)
def test_other_features_are_refused_with_what_mends_it(
    modality: Modality, change: Any, differs: str, remedy: str, specs: dict[Modality, FeatureSpec]
) -> None:
    checkpoint = checkpoint_of({**specs, modality: change(specs[modality])})
    with pytest.raises(SpecMismatch, match=differs) as caught:
        Predictor(checkpoint, extractors_of(specs, ()))
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_option_that_is_named_mends_it(specs: dict[Modality, FeatureSpec], tmp_path: Path) -> None:
    """A checkpoint of `compat` columns: refused without the option, and the command with it gets as far as the file."""
    checkpoint_of({**specs, "audio": acoustic_spec("compat")}).save(tmp_path / "model")
    (tmp_path / "clip.mp4").write_bytes(b"")
    arguments = ["predict", "--checkpoint", tmp_path, "--device", "cpu", tmp_path / "clip.mp4"]
    refused = lamb(*arguments)
    assert refused.returncode == 2
    option = refused.stderr.split("Add ")[1].strip().rstrip(".")
    mended = lamb(*arguments, *option.split())
    assert mended.returncode == 1
    assert "empty" in mended.stderr.lower()


def test_aligned_and_unaligned_do_not_mix_in_evaluation(tmp_path: Path) -> None:
    header = planted_header(aligned=True)
    aligned = {name: spec if name == "text" else word_mean_spec(spec) for name, spec in header.specs.items()}
    save_dataset(Reading(replace(header, specs=aligned), planted_samples()), tmp_path / "aligned")
    save_dataset(Reading(planted_header(), planted_samples()), tmp_path / "unaligned")
    names = load_dataset(tmp_path / "aligned").header.label_set
    for name, specs, said in (
        (
            "aligned",
            header.specs,
            "rows are not averaged over words, the dataset's are means: .* --output DIR, without --aligned",
        ),
        ("unaligned", aligned, "rows are means over words, the dataset's are not: .* --output DIR --aligned"),
    ):
        model = LAMB(ModelSettings(dims=(6, 5, 4), n_labels=3))
        Checkpoint(model, names, specs, Normalization.identity((6, 5, 4))).save(tmp_path / "model")
        with pytest.raises(SpecMismatch, match=said):
            evaluate_checkpoint(tmp_path / "model", tmp_path / name, "test", "cpu")
        other = "unaligned" if name == "aligned" else "aligned"
        assert evaluate_checkpoint(tmp_path / "model", tmp_path / other, "test", "cpu")["samples"] == 48
