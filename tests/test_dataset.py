"""Datasets on disk: what is written is what is read, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data import dataset as store
from data.batches import Sample
from data.dataset import Dataset, DatasetHeader, Reading, load_dataset, save_dataset
from data.errors import InputError
from data.labels import LabelSet
from data.sources import SPLITS, Split
from data.spec import MODALITIES, FeatureSpec, Modality

DIMS = {"text": 3, "audio": 4, "visual": 2}


def header() -> DatasetHeader:
    specs: dict[Modality, FeatureSpec] = {
        name: FeatureSpec(name, tuple(f"{name}{i}" for i in range(DIMS[name])), None, "made", "1")
        for name in MODALITIES
    }
    return DatasetHeader("made", LabelSet(("a", "b")), specs, notes={"licence": "none"})


def sample(number: int) -> Sample:
    rng = np.random.default_rng(number)
    lengths = {"text": number % 3, "audio": 5 + number, "visual": 4}
    values = {name: rng.normal(size=(lengths[name], DIMS[name])).astype(np.float32) for name in MODALITIES}
    valid = {name: rng.random(lengths[name]) < 0.7 for name in MODALITIES}
    defined: dict[Modality, np.ndarray] = {"audio": rng.random((5 + number, 4)) < 0.5} if number % 2 else {}
    labels = np.array([number % 2, 1], np.float32)
    return Sample(values, valid, labels, 0.5 + number, f"id/{number}", defined, f"speaker{number // 4}")


def reading(n: int = 12) -> Reading:
    return Reading(header(), [(SPLITS[number % 3], sample(number)) for number in range(n)])


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_SAMPLES", 3)  # four samples a split: two shards each
    assert save_dataset(reading(), tmp_path / "set") == {"train": 4, "valid": 4, "test": 4}
    assert len(list((tmp_path / "set").glob("*.safetensors"))) == 6
    loaded, expected = load_dataset(tmp_path / "set"), Dataset.collect(reading())
    assert loaded.header.label_set == expected.header.label_set
    assert loaded.header.specs == expected.header.specs
    assert loaded.header.notes == {"licence": "none"}
    for split in SPLITS:
        assert np.array_equal(loaded.labels(split), expected.labels(split))
        for came, was in zip(loaded.splits[split], expected.splits[split], strict=True):
            assert (came.id, came.group, came.weight) == (was.id, was.group, was.weight)
            for name in MODALITIES:
                assert np.array_equal(came.values[name], was.values[name])
                assert np.array_equal(came.valid[name], was.valid[name])
            everything = np.ones(was.values["audio"].shape, bool)
            known = was.defined.get("audio", everything)
            assert np.array_equal(came.defined.get("audio", everything), known)
    assert not load_dataset(tmp_path / "set", ("test",)).splits["train"]


def test_nothing_half_built_and_nothing_written_over(tmp_path: Path) -> None:
    def breaking() -> Iterator[tuple[Split, Sample]]:
        yield "train", sample(1)
        raise InputError("Expected a row but got none.")

    with pytest.raises(InputError, match="a row"):
        save_dataset(Reading(header(), breaking()), tmp_path / "set")
    assert not list(tmp_path.iterdir())
    save_dataset(reading(), tmp_path / "set")
    with pytest.raises(InputError, match="there is one"):
        save_dataset(reading(), tmp_path / "set")


@pytest.mark.parametrize("fault", ["labels", "shape", "nan", "none"])
def test_a_sample_that_does_not_fit_is_named(fault: str, tmp_path: Path) -> None:
    one = sample(1)
    changed = {
        "labels": Sample(one.values, one.valid, np.zeros(3, np.float32), id="odd"),
        "shape": Sample({**one.values, "audio": np.zeros((6, 5), np.float32)}, one.valid, one.labels, id="odd"),
        "nan": Sample({**one.values, "audio": one.values["audio"] * np.nan}, one.valid, one.labels, id="odd"),
    }
    samples = [("train", changed[fault])] if fault != "none" else []
    with pytest.raises(InputError, match="odd" if samples else "found none"):
        save_dataset(Reading(header(), samples), tmp_path / "set")  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["shard", "index", "missing", "other", "escape"])
def test_damage_is_one_line(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    save_dataset(reading(), folder)
    index = folder / "dataset.json"
    if damage == "shard":
        shard = folder / "train-00000.safetensors"
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    elif damage == "index":
        index.write_text(index.read_text()[:-20])
    elif damage == "missing":
        index.unlink()
    elif damage == "other":
        index.write_text('{"kind": "lamb-checkpoint", "schema": 1}')
    else:
        index.write_text(index.read_text().replace("train-00000", "../set/train-00000"))
    with pytest.raises(InputError) as caught:
        load_dataset(folder)
    assert caught.value.code in ("bad_dataset", "no_dataset")
    assert "\n" not in str(caught.value)
