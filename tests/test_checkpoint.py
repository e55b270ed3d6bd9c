"""Checkpoints: what is saved comes back, what is damaged is refused, what does not fit is named."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data import CheckpointError, Clip, FeatureSpec, FeatureTrack, LabelSet, SpecMismatch
from data.batches import Sample, collate
from data.spec import MODALITIES, Modality
from lamb.checkpoint import Checkpoint
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.settings import ModelSettings

torch.set_num_threads(1)

DIMS = (6, 5, 4)
LABELS = LabelSet(("anger", "fear", "joy"))


def make_specs() -> dict[Modality, FeatureSpec]:
    specs: dict[Modality, FeatureSpec] = {}
    for name, dim, rate_hz in zip(MODALITIES, DIMS, (None, 100.0, 25.0), strict=True):
        specs[name] = FeatureSpec(
            name, tuple(f"{name}{i}" for i in range(dim)), rate_hz, f"{name}-tool", "2", "ab" * 32
        )
    return specs


def make_clip(i: int, absent: tuple[str, ...] = (), specs: dict[Modality, FeatureSpec] | None = None) -> Clip:
    rng = np.random.default_rng(i)
    tracks: dict[Modality, FeatureTrack] = {}
    for name, spec in (specs or make_specs()).items():
        n_steps = int(rng.integers(2, 20))
        values = rng.normal(3.0, 2.0, size=(n_steps, spec.dim))
        valid = rng.random(n_steps) < 0.8
        valid[0] = True
        start_s = np.arange(n_steps) / 10
        tracks[name] = FeatureTrack(values, start_s, start_s + 0.1, valid, spec)
        if name in absent:
            tracks[name] = FeatureTrack.empty(spec, "none")
    return Clip(f"clip-{i}", "a.mp4", 0.0, 2.0, tracks)


CLIPS = [make_clip(i, ((), ("text",), ("audio", "visual"))[i % 3]) for i in range(9)]


def make_checkpoint(**changes: Any) -> Checkpoint:
    torch.manual_seed(0)
    settings = ModelSettings.parse({"dims": DIMS, "n_labels": 3, **changes.pop("model", {})})
    parts: dict[str, Any] = {
        "label_set": LABELS,
        "specs": make_specs(),
        "normalization": Normalization.measure([Sample.from_clip(clip) for clip in CLIPS]),
        "thresholds": np.array([0.3, 0.5, 0.123456789]),
        "temperature": 1.7,
        "max_steps": (8, 10, 12),
        "metrics": {"accuracy": 0.5},
        "provenance": {"data": ["one", "two"], "seed": 0},
        "licence": "CC BY-NC-SA 4.0",
    }
    return Checkpoint(LAMB(settings), **{**parts, **changes})


# ---- predictions ----------------------------------------------------------------------------------------------------


def test_predictions_step_by_step() -> None:
    checkpoint = make_checkpoint()
    result = checkpoint.predict(CLIPS, batch_size=4)
    assert result.shape == (9, 3)
    assert result.dtype == np.float32
    checkpoint.model.eval()
    for clip, row in zip(CLIPS, result, strict=True):
        sample = Sample.from_clip(clip)
        for name in MODALITIES:
            mean, std = checkpoint.normalization.mean[name], checkpoint.normalization.std[name]
            scaled = np.clip((sample.values[name] - mean) / std, -5, 5) * sample.valid[name][:, None]
            sample.values[name] = scaled.astype(np.float32)
        with torch.no_grad():
            logits = checkpoint.model(collate([sample], DIMS, (8, 10, 12)))[0].numpy()
        np.testing.assert_allclose(row, 1 / (1 + np.exp(-logits / 1.7)), atol=1e-5)


def test_predictions_do_not_depend_on_batches_or_order() -> None:
    checkpoint = make_checkpoint()
    expected = checkpoint.predict(CLIPS, batch_size=1)
    np.testing.assert_allclose(checkpoint.predict(CLIPS, batch_size=9), expected, atol=1e-6)
    np.testing.assert_allclose(checkpoint.predict(CLIPS[::-1], batch_size=4)[::-1], expected, atol=1e-6)
    unmasked = make_checkpoint(model={"padding_masks": False})
    np.testing.assert_allclose(unmasked.predict(CLIPS, batch_size=9), unmasked.predict(CLIPS, batch_size=1), atol=1e-6)


def test_predictions_leave_training_mode() -> None:
    checkpoint = make_checkpoint()
    checkpoint.model.train()
    assert np.array_equal(checkpoint.predict(CLIPS), checkpoint.predict(CLIPS))


def test_no_clips_give_no_rows() -> None:
    assert make_checkpoint().predict([]).shape == (0, 3)


def test_clips_without_evidence_are_refused_by_name() -> None:
    nothing = make_clip(4, MODALITIES)
    assert not make_checkpoint().usable(nothing)
    with pytest.raises(ValueError, match=r"1 have none: clip-4"):
        make_checkpoint().predict([CLIPS[0], nothing])
    text_only = make_checkpoint(model={"encoders": ("T",)})
    assert [text_only.usable(clip) for clip in CLIPS[:3]] == [True, False, True]


def test_labels_reach_their_own_thresholds() -> None:
    probabilities = np.array([[0.3, 0.49, 0.13], [0.29, 0.5, 0.12], [0.0, 0.0, 0.0]], dtype=np.float32)
    assert make_checkpoint().labels_of(probabilities) == [["anger", "joy"], ["fear"], []]


# ---- other features -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    id: str
    change: dict[str, Any]
    message: str


@pytest.mark.parametrize(
    "other",
    [
        Other("version", {"version": "3"}, "version 2 expected, 3 came"),
        Other("extractor", {"extractor": "another"}, "extractor audio-tool expected, another came"),
        Other("weights", {"weights": "cd" * 32}, "weights abababababab expected, cdcdcdcdcdcd came"),
        Other("rate", {"rate_hz": 50.0}, "rate_hz 100.0 expected, 50.0 came"),
        Other("column", {"columns": ("audio0", "x", "audio2", "audio3", "audio4")}, "column 1 audio1 expected, x came"),
        Other("width", {"columns": ("audio0",)}, "5 columns expected, 1 came"),
    ],
    ids=lambda other: other.id,
)
def test_other_features_are_named(other: Other) -> None:
    specs = make_specs()
    specs["audio"] = replace(specs["audio"], **other.change)
    with pytest.raises(SpecMismatch, match=other.message) as caught:
        make_checkpoint().predict([make_clip(0, (), specs)])
    assert str(caught.value).startswith("The audio features are not those")
    assert "Extract them with audio-tool 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_features_that_are_read_and_observed_must_fit() -> None:
    specs = make_specs()
    specs["audio"] = replace(specs["audio"], version="3", columns=("a", "b"))
    make_checkpoint().predict([make_clip(0, ("audio",), specs)])
    make_checkpoint(model={"encoders": ("T", "V")}).predict([make_clip(0, (), specs)])
    with pytest.raises(SpecMismatch):
        make_checkpoint(model={"encoders": ("T", "VA")}).predict([make_clip(0, (), specs)])


def test_equal_specs_fit() -> None:
    for spec in make_specs().values():
        make_checkpoint().check_spec(spec)


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "v1.2", "model.json", "model.safetensors", "."])
def test_what_is_saved_comes_back(tmp_path: Path, name: str) -> None:
    checkpoint = make_checkpoint(model={"kernel_sizes": (1, 3, 3), "conv_bias": True})
    written = checkpoint.save(tmp_path / name)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    assert written.exists()
    loaded = Checkpoint.load(tmp_path / name)
    assert not loaded.model.training
    assert np.array_equal(loaded.predict(CLIPS), checkpoint.predict(CLIPS))
    assert loaded.fingerprint() == checkpoint.fingerprint()
    for attribute in (
        "specs",
        "label_set",
        "temperature",
        "max_steps",
        "truncation",
        "metrics",
        "provenance",
        "licence",
    ):
        assert getattr(loaded, attribute) == getattr(checkpoint, attribute), attribute
    assert np.array_equal(loaded.thresholds, checkpoint.thresholds)
    assert loaded.normalization.clip == 5.0
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


def test_a_folder_means_its_only_pair(tmp_path: Path) -> None:
    make_checkpoint().save(tmp_path / "one")
    assert Checkpoint.load(tmp_path).licence == "CC BY-NC-SA 4.0"
    make_checkpoint().save(tmp_path / "two")
    with pytest.raises(CheckpointError, match=r"model\.json but there is no such file"):
        Checkpoint.load(tmp_path)


def test_half_precision_storage_halves_the_weights_only(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    checkpoint.save(tmp_path / "full")
    checkpoint.save(tmp_path / "half", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    tensors = load_file(tmp_path / "half.safetensors")
    assert {str(t.dtype) for name, t in tensors.items() if name.startswith("model.")} == {"torch.float16"}
    loaded = Checkpoint.load(tmp_path / "half")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert np.array_equal(loaded.normalization.std["audio"], checkpoint.normalization.std["audio"])
    difference = np.abs(loaded.predict(CLIPS) - checkpoint.predict(CLIPS)).max()
    assert 0 < difference < 5e-3


def test_saving_over_a_checkpoint_replaces_it(tmp_path: Path) -> None:
    make_checkpoint().save(tmp_path / "a")
    make_checkpoint(licence="other", model={"width": 20}).save(tmp_path / "a")
    loaded = Checkpoint.load(tmp_path / "a")
    assert (loaded.licence, loaded.settings.width) == ("other", 20)
    assert len(list(tmp_path.iterdir())) == 2


def edit_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "a.json"
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return apply


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Change tensors and make the digest agree, so that only the content is wrong."""

    def apply(folder: Path) -> None:
        path = folder / "a.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit_json(lambda record: record.update(sha256=digest))(folder)

    return apply


def edit_bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


def flip(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def as_pickle(folder: Path) -> None:
    content = pickle.dumps({"model": 1})
    (folder / "a.safetensors").write_bytes(content)
    edit_json(lambda record: record.update(sha256=hashlib.sha256(content).hexdigest()))(folder)


WEIGHT = "model.blending.convolutions.audio.weight"


@dataclass(frozen=True)
class Damage:
    id: str
    apply: Callable[[Path], Any]
    message: str


@pytest.mark.parametrize(
    "damage",
    [
        Damage("no json", lambda folder: (folder / "a.json").unlink(), "there is no such file"),
        Damage("no weights", lambda folder: (folder / "a.safetensors").unlink(), "it cannot be read"),
        Damage("flipped bit", edit_bytes("a.safetensors", flip), "sha256 differs"),
        Damage("truncated weights", edit_bytes("a.safetensors", lambda b: b[: len(b) // 2]), "sha256 differs"),
        Damage("truncated json", edit_bytes("a.json", lambda b: b[: len(b) // 2]), "it cannot be read"),
        Damage("binary json", edit_bytes("a.json", lambda b: b"\xff\xfe" + b), "it cannot be read"),
        Damage("pickle", as_pickle, "it is no safetensors file"),
        Damage("other json", edit_bytes("a.json", lambda b: b"[1]"), "describes something else"),
        Damage("other schema", edit_json(lambda r: r.update(schema=99)), "Expected checkpoint schema 1 .* but got 99"),
        Damage("missing key", edit_json(lambda r: r.pop("thresholds")), "'thresholds' is missing"),
        Damage("unknown setting", edit_json(lambda r: r["model"].update(widht=1)), "Did you mean 'width'"),
        Damage("label count", edit_json(lambda r: r["labels"].append("x")), "Expected 3 labels"),
        Damage("thresholds", edit_json(lambda r: r.update(thresholds=["a", "b", "c"])), "could not convert"),
        Damage("temperature", edit_json(lambda r: r.update(temperature=0)), "temperature > 0"),
        Damage("max steps", edit_json(lambda r: r.update(max_steps=[1, 2])), "range"),
        Damage("truncation", edit_json(lambda r: r.update(truncation="tail")), "Expected truncation among"),
        Damage("spec", edit_json(lambda r: r["specs"]["text"].update(version="9")), "text spec is not the one"),
        Damage("spec field", edit_json(lambda r: r["specs"]["text"].pop("columns")), "'columns' is missing"),
        Damage(
            "wrong shape",
            edit_tensors(lambda t: t.update({WEIGHT: torch.zeros(30, 6, 1)})),
            r"convolutions.audio.weight has shape \(30, 6, 1\), not \(30, 5, 1\)",
        ),
        Damage("missing tensor", edit_tensors(lambda t: t.pop(WEIGHT)), "convolutions.audio.weight is missing"),
        Damage("extra tensor", edit_tensors(lambda t: t.update({"model.x": torch.ones(1)})), "x is not part of"),
        Damage("nan", edit_tensors(lambda t: t[WEIGHT].fill_(float("nan"))), "is not finite"),
        Damage("statistics", edit_tensors(lambda t: t["normalization.text.std"].zero_()), "std > 0"),
        Damage(
            "statistics' shape",
            edit_tensors(lambda t: t.update({f"normalization.text.{k}": torch.ones(2) for k in ("mean", "std")})),
            "Expected 6 text columns",
        ),
        Damage(
            "bigger model",
            edit_json(lambda r: r["model"].update(width=4000, ff_hidden=60_000, layers=4)),
            "has shape|is missing",
        ),
    ],
    ids=lambda damage: damage.id,
)
def test_damage_is_refused_in_one_line(tmp_path: Path, damage: Damage) -> None:
    make_checkpoint().save(tmp_path / "a")
    assert Checkpoint.load(tmp_path / "a").licence
    damage.apply(tmp_path)
    with pytest.raises(CheckpointError, match=damage.message) as caught:
        Checkpoint.load(tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a") in str(caught.value)


def test_parts_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected 3 labels"):
        make_checkpoint(label_set=LabelSet(("a", "b")))
    with pytest.raises(ValueError, match="Expected 6 text columns"):
        make_checkpoint(normalization=Normalization.identity((7, 5, 4)))
    with pytest.raises(ValueError, match="without padding masks"):
        make_checkpoint(max_steps=None, model={"padding_masks": False})
