"""Datasets in the layouts of other tools and back: equal to the bit, and as those tools read them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data.batches import Sample
from data.dataset import Dataset, DatasetHeader, Reading, load_dataset, save_dataset
from data.errors import InputError
from data.exports import EXPORTS
from data.labels import LabelSet
from data.sources import FEATURE_SOURCES, SPLITS, Split
from data.spec import MODALITIES, FeatureSpec, Modality

DIMS: dict[Modality, int] = {"text": 5, "audio": 4, "visual": 3}
LABELS = ("anger", "joy", "awe & wonder")
KINDS = ("hf-datasets", "mmsa-pkl", "csd")


def header(aligned: bool = False) -> DatasetHeader:
    specs: dict[Modality, FeatureSpec] = {
        name: FeatureSpec(
            name, tuple(f"{name} {i}" for i in range(dim)), 100.0 if name == "audio" else None, "made", "1"
        )
        for name, dim in DIMS.items()
    }
    notes = {"source": "made up", "licence": "none needed", "dropped": {"no rows": 2}}
    return DatasetHeader("bored", LabelSet(LABELS), specs, aligned, notes)


def sample(rng: np.random.Generator, id_: str, lengths: tuple[int, int, int], defined: bool = False) -> Sample:
    """Rows with the traps of a round trip: unobserved ones at the end, an observed one of zeros, and a negative zero."""
    values: dict[Modality, np.ndarray] = {}
    valid: dict[Modality, np.ndarray] = {}
    for name, length in zip(MODALITIES, lengths, strict=True):
        values[name] = rng.normal(size=(length, DIMS[name])).astype(np.float32)
        valid[name] = rng.random(length) < 0.8
        values[name][~valid[name]] = 0.0
        if length > 2:
            values[name][0], valid[name][0] = 0.0, True
            values[name][1, 0], valid[name][1] = -0.0, True
            values[name][-1], valid[name][-1] = 0.0, False
    known: dict[Modality, np.ndarray] = {}
    if defined and lengths[1]:
        known["audio"] = (rng.random((lengths[1], DIMS["audio"])) < 0.7) & valid["audio"][:, None]
        values["audio"] *= known["audio"]
    labels = (rng.random(len(LABELS)) < 0.5).astype(np.float32)
    group = f"speaker {id_[-1]}" if defined else ""
    return Sample(values, valid, labels, float(np.float32(rng.random() + 0.5)), id_, known, group)


def write_dataset(folder: Path, aligned: bool = False) -> Dataset:
    rng = np.random.default_rng(3)
    samples: list[tuple[Split, Sample]] = []
    for i in range(230):  # more than two of Parquet's row groups
        n = int(rng.integers(1, 9))
        lengths = (n, n, n) if aligned else (n, int(rng.integers(0, 30)), int(rng.integers(0, 20)))
        samples.append(("train", sample(rng, f"set/a {i}[{i % 7}] ü%2F", lengths, defined=i % 2 == 0)))
    samples.append(("test", sample(rng, "set/last", (3, 3, 3) if aligned else (0, 0, 0))))
    save_dataset(Reading(header(aligned), samples), folder)
    return load_dataset(folder)


def bits(found: Sample) -> list[Any]:
    assert found.labels is not None
    arrays: list[Any] = [found.id, found.group, np.float32(found.weight).tobytes(), found.labels.tobytes()]
    for name in MODALITIES:
        known = found.defined.get(name, np.ones(found.values[name].shape, bool))
        for array, kind in ((found.values[name], np.float32), (found.valid[name], bool), (known, bool)):
            assert array.dtype == kind
            arrays += [array.shape, array.tobytes()]
    return arrays


def assert_equal(one: Dataset, other: Dataset) -> None:
    assert other.header.label_set == one.header.label_set
    assert other.header.specs == one.header.specs
    assert (other.header.name, other.header.aligned) == (one.header.name, one.header.aligned)
    assert other.header.notes == one.header.notes
    for split in SPLITS:
        assert [bits(s) for s in other.splits[split]] == [bits(s) for s in one.splits[split]]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_to_the_bit(kind: str, aligned: bool, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", aligned)
    written = EXPORTS.get(kind)(tmp_path / "dataset", tmp_path / "export")
    assert all(path.is_file() for path in written)
    assert {path for path in (tmp_path / "export").rglob("*") if path.is_file()} == set(written)
    read = FEATURE_SOURCES.get(kind)
    assert_equal(dataset, Dataset.collect(read(tmp_path / "export", aligned=aligned)))
    save_dataset(read(tmp_path / "export", aligned=aligned), tmp_path / "again")
    assert_equal(dataset, load_dataset(tmp_path / "again"))
    if not aligned:
        with pytest.raises(InputError, match="--aligned"):
            read(tmp_path / "export", aligned=True)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_over_and_nothing_is_left(kind: str, tmp_path: Path) -> None:
    export = EXPORTS.get(kind)
    write_dataset(tmp_path / "dataset")
    (tmp_path / "export").mkdir()
    with pytest.raises(InputError) as caught:
        export(tmp_path / "dataset", tmp_path / "export")
    assert caught.value.code == "output_exists"
    with pytest.raises(InputError) as caught:
        export(tmp_path / "no dataset", tmp_path / "other")
    assert caught.value.code == "no_dataset"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "export"]


@pytest.mark.parametrize("kind", KINDS)
def test_places_that_are_no_export(kind: str, tmp_path: Path) -> None:
    read = FEATURE_SOURCES.get(kind)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert caught.value.code == "no_dataset"


# ---- Hugging Face -------------------------------------------------------------------------------------------------------


def test_hf_files_that_are_damaged(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset")
    files = EXPORTS.get("hf-datasets")(tmp_path / "dataset", tmp_path / "export")
    read = FEATURE_SOURCES.get("hf-datasets")
    train = files[0]
    content = train.read_bytes()
    train.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=train.name):
        Dataset.collect(read(tmp_path / "export"))
    train.unlink()
    with pytest.raises(InputError, match="Expected 230 samples of train"):
        Dataset.collect(read(tmp_path / "export"))
    place = tmp_path / "export" / "lamb.json"
    record = json.loads(place.read_text())
    for wrong in ({**record, "schema": 9}, {**record, "labels": []}, {**record, "samples": 3}, []):
        place.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"lamb\.json"):
            read(tmp_path / "export")


def test_hf_folder_is_what_datasets_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    dataset = write_dataset(tmp_path / "dataset")
    EXPORTS.get("hf-datasets")(tmp_path / "dataset", tmp_path / "export")
    loaded = datasets.load_dataset(str(tmp_path / "export"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 230, "test": 1}
    for i in (0, 1, 150, 229):
        row, expected = loaded["train"][i], dataset.splits["train"][i]
        assert (row["id"], row["speaker"]) == (expected.id, expected.group)
        assert row["labels"] == header().label_set.decode(expected.labels)  # type: ignore[arg-type]
        values = np.array(row["audio_values"], np.float32).reshape(-1, 4)
        assert np.array_equal(values, expected.values["audio"])
        assert row["audio_valid"] == expected.valid["audio"].tolist()
        assert (row["audio_defined"] is None) == (i % 2 == 1 and "audio" not in expected.defined)
    assert loaded["test"][0]["text_values"] == []


# ---- MMSA ---------------------------------------------------------------------------------------------------------------


def test_mmsa_finds_what_its_loader_takes(tmp_path: Path) -> None:
    """Keys, kinds and shapes as MMSA's loader uses them: astype on arrays, lengths per sample, one id and text each."""
    dataset = write_dataset(tmp_path / "dataset")
    (file,) = EXPORTS.get("mmsa-pkl")(tmp_path / "dataset", tmp_path / "mosei.pkl")
    assert file == tmp_path / "mosei.pkl"
    assert b"_core" not in file.read_bytes()  # numpy 1 has no numpy._core
    content = pickle.loads(file.read_bytes())  # noqa: S301 (written above)
    assert set(content) == {"train", "valid", "test", "lamb"}
    train = content["train"]
    samples = dataset.splits["train"]
    longest = {name: max(len(s.valid[name]) for s in samples) for name in MODALITIES}
    for name, key in (("text", "text"), ("audio", "audio"), ("visual", "vision")):
        assert train[key].astype(np.float32).shape == (230, longest[name], DIMS[name])
        assert content["valid"][key].shape == (0, longest[name], DIMS[name])
    assert train["regression_labels"].shape == (230, 3)
    assert len(train["id"]) == len(train["raw_text"]) == 230
    for key, name in (("audio_lengths", "audio"), ("vision_lengths", "visual")):
        assert train[key] == [max(1, len(s.valid[name])) for s in samples]
    row = samples[7].values["audio"]
    assert np.array_equal(train["audio"][7][: len(row)], row)
    assert not train["audio"][7][len(row) :].any()


def test_mmsa_steps_can_be_capped(tmp_path: Path) -> None:
    from data.exports.mmsa_pkl import export

    dataset = write_dataset(tmp_path / "dataset")
    export(tmp_path / "dataset", tmp_path / "export", max_steps=(50, 6, 4))
    read = Dataset.collect(FEATURE_SOURCES.get("mmsa-pkl")(tmp_path / "export"))
    for one, other in zip(dataset.splits["train"], read.splits["train"], strict=True):
        assert np.array_equal(one.values["text"], other.values["text"])
        for name, cap in (("audio", 6), ("visual", 4)):
            n = one.valid[name].sum()
            assert len(other.valid[name]) <= cap
            assert other.valid[name].sum() == min(n, cap) or len(one.valid[name]) <= cap
            rows = {row.tobytes() for row in one.values[name]}
            assert all(row.tobytes() in rows for row in other.values[name])
    aligned = write_dataset(tmp_path / "aligned", aligned=True)
    export(tmp_path / "aligned", tmp_path / "aligned export", max_steps=(50, 6, 4))
    read = Dataset.collect(FEATURE_SOURCES.get("mmsa-pkl")(tmp_path / "aligned export"))
    for one, other in zip(aligned.splits["train"], read.splits["train"], strict=True):
        assert all(np.array_equal(one.values[name][:4], other.values[name]) for name in MODALITIES)


def test_mmsa_export_that_was_changed(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset")
    (file,) = EXPORTS.get("mmsa-pkl")(tmp_path / "dataset", tmp_path / "a.pkl")
    content = pickle.loads(file.read_bytes())  # noqa: S301 (written above)
    for wrong in ({**content, "lamb": 3}, {**content, "lamb": "{}"}, {**content, "train": {}}):
        file.write_bytes(pickle.dumps(wrong))
        with pytest.raises(InputError, match=r"a\.pkl") as caught:
            Dataset.collect(FEATURE_SOURCES.get("mmsa-pkl")(file))
        assert caught.value.code == "bad_dataset"


# ---- the SDK's sequences ------------------------------------------------------------------------------------------------

SDK_METADATA = {
    "root name",
    "computational sequence description",
    "dimension names",
    "computational sequence version",
    "alignment compatible",
    "dataset name",
    "dataset version",
    "creator",
    "contact",
    "featureset bib citation",
    "dataset bib citation",
}


def test_csd_is_what_the_sdk_checks(tmp_path: Path) -> None:
    """The SDK's checks: one root with data and metadata, intervals (T, 2), features (T, …) of equal length, JSON metadata."""
    dataset = write_dataset(tmp_path / "dataset")
    EXPORTS.get("csd")(tmp_path / "dataset", tmp_path / "export")
    folds = json.loads((tmp_path / "export" / "folds.json").read_text())
    for file, name in (
        ("text.csd", "text"),
        ("audio.csd", "audio"),
        ("visual.csd", "visual"),
        ("All Labels.csd", None),
    ):
        with h5py.File(tmp_path / "export" / file) as handle:
            (root,) = (handle[key] for key in handle)
            assert isinstance(root, h5py.Group)
            entries, metadata = root["data"], root["metadata"]
            assert isinstance(entries, h5py.Group)
            assert isinstance(metadata, h5py.Group)
            assert {key: json.loads(metadata[key][0]) for key in metadata}.keys() >= SDK_METADATA  # type: ignore[index]
            columns = LABELS if name is None else dataset.header.specs[name].columns  # type: ignore[index]
            assert tuple(json.loads(metadata["dimension names"][0])) == columns  # type: ignore[index]
            assert len(entries) > 100
            for key in entries:
                features, intervals = entries[f"{key}/features"], entries[f"{key}/intervals"]
                assert isinstance(features, h5py.Dataset)
                assert isinstance(intervals, h5py.Dataset)
                assert features.shape == (len(features), len(columns))
                assert intervals.shape == (len(features), 2)
                assert key in folds["train"] + folds["test"]
    with h5py.File(tmp_path / "export" / "audio.csd") as handle:
        key = folds["train"][0]
        n = len(dataset.splits["train"][0].valid["audio"])
        intervals = np.asarray(handle[f"audio/data/{key}/intervals"])
        assert intervals[:, 0] == pytest.approx(np.arange(n) / 100.0)  # at the extractor's rate
    with h5py.File(tmp_path / "export" / "text.csd") as handle:
        assert np.asarray(handle[f"text/data/{key}/intervals"])[-1, 1] == pytest.approx(n / 100.0)


def test_csd_needs_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    twice: list[tuple[Split, Sample]] = [
        ("train", sample(rng, "same", (1, 1, 1))),
        ("test", sample(rng, "same", (1, 1, 1))),
    ]
    save_dataset(Reading(header(), twice), tmp_path / "dataset")
    with pytest.raises(InputError, match="1 are used twice"):
        EXPORTS.get("csd")(tmp_path / "dataset", tmp_path / "export")


def write_sequence(path: Path, name: str, entries: dict[str, tuple[Any, Any]], **described: Any) -> None:
    with h5py.File(path, "w") as file:
        for key, (features, intervals) in entries.items():
            file[f"{name}/data/{key}/features"] = np.asarray(features, np.float64)
            file[f"{name}/data/{key}/intervals"] = np.asarray(intervals, np.float64)
        metadata = file.create_group(f"{name}/metadata")
        for kind, value in described.items():
            metadata.create_dataset(kind.replace("_", " "), data=[json.dumps(value)], dtype=h5py.string_dtype())


def write_others(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    words = [[1, 0], [0, 0], [3, 0], [4, 0]], [[0, 1], [1, 2], [2, 3], [3, 4]]
    sound = np.arange(1, 9)[:, None] * [1.0, 2.0, -np.inf], [[i / 2, i / 2 + 0.5] for i in range(8)]
    write_sequence(folder / "text.csd", "words", {"v": words, "w": words}, dimension_names=["a", "b"])
    write_sequence(folder / "audio.csd", "sound", {"v": sound, "w": sound})
    write_sequence(folder / "visual.csd", "face", {"v[1]": ([[7.0]], [[2, 4]]), "other": ([[7.0]], [[2, 4]])})
    labels = {"v": ([[0, 2.5], [1, 0]], [[0, 2], [2, 4]]), "w": ([[0, 0]], [[0, 2]]), "x": ([[1, 1]], [[0, 2]])}
    labels["u"] = ([[1, 1]], [[0, 2]])
    write_sequence(
        folder / "All Labels.csd", "labels", labels, dimension_names=["calm", "bored"], dataset_name="theirs"
    )
    (folder / "standard_folds.json").write_text('{"train": ["v", "x"], "valid": [], "test": ["w"]}')


def test_csd_by_others(tmp_path: Path) -> None:
    write_others(tmp_path)
    read = FEATURE_SOURCES.get("csd")
    dataset = Dataset.collect(read(tmp_path))
    assert dataset.header.label_set.names == ("calm", "bored")
    assert dataset.header.specs["text"].columns == ("a", "b")
    assert dataset.header.specs["audio"].columns == ("audio_0", "audio_1", "audio_2")
    assert dataset.header.notes["dropped"] == {"in no fold": 1, "no rows": 1}
    first, second = dataset.splits["train"]
    assert [s.id for s in (first, second)] == ["theirs/v[0]", "theirs/v[1]"]
    assert (first.group, dataset.splits["test"][0].group) == ("v", "w")
    assert dataset.labels("train").tolist() == [[0, 1], [1, 0]]
    assert first.valid["text"].tolist() == [True, False]
    assert second.values["audio"].tolist() == [[5, 10, 0], [6, 12, 0], [7, 14, 0], [8, 16, 0]]
    assert (len(first.valid["visual"]), second.values["visual"].tolist()) == (0, [[7.0]])
    aligned = Dataset.collect(read(tmp_path, aligned=True)).splits["train"][1]
    assert aligned.values["audio"].tolist() == [[5.5, 11, 0], [7.5, 15, 0]]
    assert aligned.valid["visual"].tolist() == [False, True]  # the word in which a row's middle lies


def test_csd_by_others_that_lack_something(tmp_path: Path) -> None:
    read = FEATURE_SOURCES.get("csd")
    write_others(tmp_path)
    write_sequence(tmp_path / "All Labels.csd", "labels", {"v": ([[1, 1]], [[0, 2]])})
    with pytest.raises(InputError, match="dimension names"):
        read(tmp_path)
    write_sequence(tmp_path / "All Labels.csd", "labels", {"v": ([[1, 1]], [[0, 2]])}, dimension_names=["only one"])
    with pytest.raises(InputError, match="Expected 1 labels of 'v'"):
        Dataset.collect(read(tmp_path))
    (tmp_path / "text.csd").unlink()
    with pytest.raises(InputError, match=r"Expected text\.csd"):
        read(tmp_path)
    (tmp_path / "standard_folds.json").write_text('{"train": ["v"], "valid": ["v"], "test": []}')
    with pytest.raises(InputError, match="two folds"):
        read(tmp_path)


def test_csd_exports_that_were_changed(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset")
    EXPORTS.get("csd")(tmp_path / "dataset", tmp_path / "export")
    with h5py.File(tmp_path / "export" / "All Labels.csd", "a") as handle:
        del handle["All Labels/data"][next(iter(handle["All Labels/data"]))]  # type: ignore[union-attr, arg-type, operator]
    with pytest.raises(InputError, match="Expected an exported dataset"):
        Dataset.collect(FEATURE_SOURCES.get("csd")(tmp_path / "export"))


def test_finding_an_export_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; from data.exports import EXPORTS as e; print(e.names()); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(kind in done.stdout for kind in KINDS)
