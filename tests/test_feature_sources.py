"""Readers of published CMU-MOSEI features, on small files of the true layouts and on the real table of ratings."""

from __future__ import annotations

import csv
import json
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from data.dataset import Dataset, load_dataset, save_dataset
from data.errors import InputError
from data.labels import EMOTIONS
from data.mosei import COVAREP_COLUMNS, RATED, Segment, label_vector, match_clips, read_ratings
from data.sources import FEATURE_SOURCES
from data.spec import MODALITIES

DIMS = {"text": 300, "audio": 74, "visual": 35}
CSD = {
    "text": ("CMU_MOSEI_TimestampedWordVectors.csd", "glove_vectors"),
    "audio": ("CMU_MOSEI_COVAREP.csd", "COVAREP"),
    "visual": ("CMU_MOSEI_VisualFacet42.csd", "FACET 4.2"),
}
OURS = ("happiness", "sadness", "anger", "surprise", "disgust", "fear")  # MOSEI's order, our names
Entries = dict[str, tuple[Any, Any]]


def write_csd(path: Path, name: str, entries: Entries) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_group(f"{name}/data")
        file.create_group(f"{name}/metadata")
        for key, (features, intervals) in entries.items():
            group = data.create_group(key)
            group["features"], group["intervals"] = np.asarray(features), np.asarray(intervals)


def steps(n: int, length_s: float, dim: int, first: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """n rows of the values first, first + 1 …, each length_s long, one after the other."""
    edges = np.arange(n + 1) * length_s
    return np.repeat(first + np.arange(n)[:, None], dim, 1), np.stack([edges[:-1], edges[1:]], 1)


def write_mosei(folder: Path, ratings: dict[str, list[Sequence[float]]] | None = None) -> Path:
    """Videos A (two labelled pieces: 0..2 and 2..4 s), B (one) and C (in no fold); a word a second, 4 rows a second."""
    rated = ratings or {
        "A": [[1, 0.66, 0, 0, 0, 0, 0.33], [0, 0, 0, 0, 0, 0, 0]],
        "B": [[-1, 0, 1, 0.33, 0, 3, 0]],
        "C": [[0, 1, 0, 0, 0, 0, 0]],
    }
    intervals = {video: [[2.0 * i, 2.0 * i + 2] for i in range(len(rows))] for video, rows in rated.items()}
    write_csd(
        folder / "CMU_MOSEI_Labels.csd", "All Labels", {video: (rated[video], intervals[video]) for video in rated}
    )
    words, sound, face = steps(4, 1.0, 300), steps(16, 0.25, 74), steps(16, 0.25, 35)
    words[0][1] = 0  # a pause
    sound[0][0, 7] = -np.inf
    face[0][2, 3] = np.nan
    face[0][5] = 0  # no face
    for name, rows in (("text", words), ("audio", sound), ("visual", face)):
        write_csd(folder / CSD[name][0], CSD[name][1], dict.fromkeys(rated, rows))
    (folder / "standard_folds.json").write_text(json.dumps({"train": ["A"], "valid": [], "test": ["B", "gone"]}))
    return folder


def test_csd_segments_are_cut_by_their_intervals(tmp_path: Path) -> None:
    reading = FEATURE_SOURCES.get("mosei-csd")(write_mosei(tmp_path))
    dataset = Dataset.collect(reading)
    assert dataset.header.dims == (300, 74, 35)
    assert dataset.header.label_set.names == EMOTIONS
    assert not dataset.header.aligned
    assert dataset.header.notes["dropped"] == {"in no fold": 1}
    assert "research" in dataset.header.notes["licence"]
    assert [len(dataset.splits[split]) for split in ("train", "valid", "test")] == [2, 0, 1]
    first, second = dataset.splits["train"]
    assert (first.id, first.group, second.id) == ("cmu-mosei/A[0]", "A", "cmu-mosei/A[1]")
    assert first.valid["text"].tolist() == [True, False]
    assert first.values["audio"][:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert second.values["audio"][:, 0].tolist() == [9, 10, 11, 12, 13, 14, 15, 16]
    assert first.values["audio"][0, 6:9].tolist() == [1, 0, 1]  # -inf
    assert first.values["visual"][2, 2:5].tolist() == [3, 0, 3]  # NaN
    assert first.valid["visual"].tolist() == [True] * 5 + [False] + [True] * 2
    label_set = dataset.header.label_set
    named = [set(label_set.decode(s.labels)) for s in (first, second, *dataset.splits["test"]) if s.labels is not None]
    assert named == [{"happiness", "fear"}, set(), {"sadness", "anger", "disgust"}]


def test_csd_aligned_rows_are_means_over_words(tmp_path: Path) -> None:
    folder = write_mosei(tmp_path)
    plain, aligned = (FEATURE_SOURCES.get("mosei-csd")(folder, aligned=flag) for flag in (False, True))
    for name in ("audio", "visual"):
        assert plain.header.specs[name].differences(aligned.header.specs[name])
    assert plain.header.specs["text"] == aligned.header.specs["text"]
    first, second = Dataset.collect(aligned).splits["train"]
    assert aligned.header.aligned
    assert all(len(first.valid[name]) == len(second.valid[name]) == 2 for name in MODALITIES)
    assert first.values["audio"][:, 0].tolist() == [2.5, 6.5]
    assert second.values["audio"][:, 0].tolist() == [10.5, 14.5]
    assert first.values["visual"][:, 0].tolist() == pytest.approx(
        [2.5, (5 + 7 + 8) / 3]
    )  # without the row that saw no face
    assert first.values["audio"][0, 7] == (0 + 2 + 3 + 4) / 4


def test_csd_of_segments_gives_what_csd_of_videos_gives(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "segments").mkdir()
    write_mosei(tmp_path / "videos")
    for file, name in (*CSD.values(), ("CMU_MOSEI_Labels.csd", "All Labels")):
        with h5py.File(tmp_path / "videos" / file) as stream:
            entries: Entries = {}
            for video in ("A", "B"):
                group: Any = stream[f"{name}/data/{video}"]
                rows, times = np.asarray(group["features"]), np.asarray(group["intervals"])
                middle = times.mean(1)
                for i in range(2 if video == "A" else 1):
                    inside = (middle >= 2 * i) & (middle < 2 * i + 2)
                    entries[f"{video}[{i}]"] = (rows[inside], times[inside])
        write_csd(tmp_path / "segments" / (name + ".csd"), name, entries)  # as the SDK's deploy names them
    (tmp_path / "segments" / "standard_folds.json").write_text('{"train": ["A"], "valid": [], "test": ["B"]}')
    read = FEATURE_SOURCES.get("mosei-csd")
    one, other = (Dataset.collect(read(tmp_path / folder)) for folder in ("videos", "segments"))
    for split in ("train", "test"):
        for a, b in zip(one.splits[split], other.splits[split], strict=True):
            assert a.id == b.id
            assert a.labels is not None
            assert a.labels.tolist() == (b.labels if b.labels is None else b.labels.tolist())
            assert all(np.array_equal(a.values[name], b.values[name]) for name in MODALITIES)


def test_csd_without_a_sequence_is_dropped_or_masked(tmp_path: Path) -> None:
    folder = write_mosei(tmp_path)
    write_csd(folder / CSD["audio"][0], "COVAREP", {"B": steps(16, 0.25, 74)})
    read = FEATURE_SOURCES.get("mosei-csd")
    published = Dataset.collect(read(folder))
    assert published.header.notes["dropped"] == {"in no fold": 1, "no acoustic rows": 2}
    assert [s.id for s in published.splits["test"]] == ["cmu-mosei/B[0]"]
    everything = Dataset.collect(read(folder, complete=False))
    assert [s.presence for s in everything.splits["train"]] == [(True, False, True)] * 2
    words = Dataset.collect(read(folder, aligned=True, complete=False)).splits["train"][0]
    assert (len(words.valid["audio"]), words.presence) == (2, (True, False, True))


def test_csd_is_read_video_by_video(tmp_path: Path) -> None:
    folder = write_mosei(tmp_path)
    write_csd(folder / CSD["audio"][0], "COVAREP", {"A": steps(16, 0.25, 74), "B": steps(16, 0.25, 9)})
    samples = iter(FEATURE_SOURCES.get("mosei-csd")(folder).samples)
    assert [next(samples)[1].id for _ in range(2)] == ["cmu-mosei/A[0]", "cmu-mosei/A[1]"]
    with pytest.raises(InputError, match="74 audio columns"):
        next(samples)


def test_csd_survives_the_disk_with_its_notes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_dataset(FEATURE_SOURCES.get("mosei-csd")(write_mosei(tmp_path / "in")), tmp_path / "out")
    loaded = load_dataset(tmp_path / "out")
    assert loaded.header.notes["dropped"] == {"in no fold": 1}
    assert loaded.splits["train"][0].valid["visual"].tolist() == [True] * 5 + [False] + [True] * 2


@pytest.mark.parametrize("fault", ["audio", "folds", "labels", "columns", "layout", "not_hdf5", "two_folds", "rated"])
def test_csd_faults_are_one_line(fault: str, tmp_path: Path) -> None:
    folder = write_mosei(tmp_path)
    audio, labels, folds = folder / CSD["audio"][0], folder / "CMU_MOSEI_Labels.csd", folder / "standard_folds.json"
    if fault in ("audio", "folds", "labels"):
        {"audio": audio, "folds": folds, "labels": labels}[fault].unlink()
    elif fault == "columns":
        write_csd(audio, "COVAREP", {"A": steps(16, 0.25, 73), "B": steps(16, 0.25, 73)})
    elif fault == "layout":
        with h5py.File(audio, "w") as file:
            file.create_group("a")
            file.create_group("b")
    elif fault == "not_hdf5":
        audio.write_bytes(b"no")
    elif fault == "two_folds":
        folds.write_text('{"train": ["A"], "valid": ["A"], "test": []}')
    else:
        write_csd(labels, "Emotion Labels", {"A": (np.zeros((1, 6)), [[0, 1]])})
    with pytest.raises(InputError) as caught:
        Dataset.collect(FEATURE_SOURCES.get("mosei-csd")(folder))
    assert "\n" not in str(caught.value)
    assert caught.value.code in ("no_dataset", "bad_dataset")
    if fault == "folds":
        assert "mmsdk" in str(caught.value)


def test_specs_are_none_of_our_own() -> None:
    from extractors.acoustic import COLUMNS  # the same names in the same order, and yet another spec

    assert tuple(COLUMNS) == COVAREP_COLUMNS
    assert len(COVAREP_COLUMNS) == 74


def padded(rows: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([np.zeros((length - len(rows), rows.shape[1])), rows]).astype(np.float32)


def write_pt(path: Path, kind: str, names: dict[str, int] | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    raw = {name: rng.normal(size=(5, dim)).astype(np.float32) for name, dim in DIMS.items()}
    raw["text"][0] = 0  # an unknown word at the beginning, which is no padding: the others have rows there
    raw["text"][3] = 0
    raw["audio"][1, 7] = -np.inf

    def wrapped(array: np.ndarray) -> Any:
        stacked = np.stack([array, array])
        return {
            "tensor": torch.from_numpy(stacked),
            "array": stacked,
            "arrays": [array, array],
            "lists": stacked.tolist(),
        }[kind]

    part = {f"src-{name}": wrapped(padded(rows, 60)) for name, rows in raw.items()}
    content = {split: {**part, "tgt": [[2, 4, 9, 3], [2, 3]]} for split in ("train", "valid", "test")}
    ids = names or {"happy": 4, "sad": 5, "anger": 6, "surprise": 7, "disgust": 8, "fear": 9}
    special = {"<blank>": 0, "<unk>": 1, "<s>": 2, "</s>": 3}
    torch.save({**content, "settings": {"max_text_seq_len": 60}, "dict": {"tgt": {**special, **ids}}}, path)
    return raw


@pytest.mark.parametrize("kind", ["tensor", "array", "arrays", "lists"])
def test_pt_left_padding_becomes_masks(kind: str, tmp_path: Path) -> None:
    raw = write_pt(tmp_path / "train_valid_test.pt", kind)
    dataset = Dataset.collect(FEATURE_SOURCES.get("train-valid-test-pt")(tmp_path))
    assert dataset.header.aligned
    assert [len(dataset.splits[split]) for split in ("train", "valid", "test")] == [2, 2, 2]
    sample, unlabelled = dataset.splits["test"]
    assert sample.valid["text"].tolist() == [False, True, True, False, True]
    assert sample.valid["audio"].tolist() == [True] * 5
    raw["audio"][1, 7] = 0
    for name in MODALITIES:
        assert np.array_equal(sample.values[name], raw[name])
    assert sample.labels is not None
    assert unlabelled.labels is not None
    assert set(dataset.header.label_set.decode(sample.labels)) == {"happiness", "fear"}
    assert not unlabelled.labels.any()


def test_pt_labels_are_named_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_pt(path, "array", {"Fear": 4, "sad": 5, "anger": 6, "surprise": 7, "disgust": 8, "Happy": 9, "Neutral": 10})
    dataset = Dataset.collect(FEATURE_SOURCES.get("train-valid-test-pt")(path))
    labels = dataset.splits["train"][0].labels
    assert labels is not None
    assert set(dataset.header.label_set.decode(labels)) == {"happiness", "fear"}
    write_pt(path, "array", {"joy?": 4})
    with pytest.raises(InputError, match="labels"):
        FEATURE_SOURCES.get("train-valid-test-pt")(path)


def write_pkl(path: Path, ids: Any, labels: np.ndarray, length: int = 500, n: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    lengths = {"text": 50, "audio": length, "visual": length}
    raw = {name: rng.normal(size=(4, dim)).astype(np.float32) for name, dim in DIMS.items()}
    raw["visual"][2] = 0
    arrays = {name: np.stack([padded(rows, lengths[name])] * n) for name, rows in raw.items()}
    part = {"text": arrays["text"], "audio": arrays["audio"], "vision": arrays["visual"], "labels": labels, "id": ids}
    with path.open("wb") as stream:
        pickle.dump({"train": part, "valid": part, "test": part}, stream, 2)
    return raw


def write_table(folder: Path, rows: list[tuple[str, int, float, float, float, Sequence[float]]]) -> None:
    with (folder / "emotion_ratings.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "link", "segment_id", "start", "end", "sentiment", *RATED])
        writer.writerows([video, "", number, a, b, sentiment, *six] for video, number, a, b, sentiment, six in rows)


TABLE = [
    ("v", 0, 10.5, 20.25, 1.0, [1, 0, 0, 0, 0, 0]),
    ("v", 1, 2.125, 7.0, -0.6666667, [0, 0, 0, 0.33, 0, 0]),
    ("w", 0, 0.0, 3.0, 0.0, [0, 0, 0, 0, 0, 0]),
]
SENTIMENTS = np.array([1.0, -0.6666667, 0.0], np.float32).reshape(3, 1, 1)


@pytest.mark.parametrize("kind", ["text", "bytes", "objects", "numbered", "rated"])
def test_noalign_ids_meet_the_table(kind: str, tmp_path: Path) -> None:
    times = [["v", "10.5", "20.25"], ["v", "2.125", "7.0"], ["w", "0.0", "3.0"]]
    ids = {
        "text": np.array(times),
        "bytes": np.array(times, "S"),
        "objects": np.array([[v, float(a), float(b)] for v, a, b in times], dtype=object),
        "numbered": ["v[0]", "v[1]", "w[0]"],
        "rated": np.array(times),
    }[kind]
    labels = SENTIMENTS
    if kind == "rated":  # releases that hold the emotions need no table
        labels = np.array([[[row[4], *row[5]]] for row in TABLE])
    else:
        write_table(tmp_path, TABLE)
    raw = write_pkl(tmp_path / "mosei_senti_data_noalign.pkl", ids, labels)
    dataset = Dataset.collect(FEATURE_SOURCES.get("mosei-noalign-pkl")(tmp_path))
    assert not dataset.header.aligned
    assert dataset.header.notes["dropped"] == {}
    named = [dataset.header.label_set.decode(row) for row in dataset.labels("valid")]
    assert named == [["happiness"], ["surprise"], []]
    sample = dataset.splits["train"][1]
    assert sample.group == "v"
    assert sample.valid["visual"].tolist() == [True, True, False, True]
    assert all(np.array_equal(sample.values[name], raw[name]) for name in MODALITIES)


def test_noalign_without_table_or_with_another(tmp_path: Path) -> None:
    read = FEATURE_SOURCES.get("mosei-noalign-pkl")
    path = tmp_path / "mosei_senti_data_noalign.pkl"
    write_pkl(path, ["v[0]", "v[1]", "w[0]"], SENTIMENTS)
    with pytest.raises(InputError, match="sentiment only"):
        read(path)
    (tmp_path / "elsewhere").mkdir()
    write_table(tmp_path / "elsewhere", TABLE)
    assert len(Dataset.collect(read(path, emotions=tmp_path / "elsewhere")).splits["test"]) == 3
    write_table(tmp_path, [(*TABLE[0][:4], -3.0, TABLE[0][5]), *TABLE[1:]])  # another sentiment: another table
    with pytest.raises(InputError, match="3 of 9"):
        read(path)
    write_pkl(path, ["v[0]", "v[1]", "w[0]"], SENTIMENTS, length=50)
    with pytest.raises(InputError, match="unaligned"):
        read(path)
    aligned = read(path, aligned=True, emotions=tmp_path / "elsewhere")
    assert aligned.header.aligned
    assert len(Dataset.collect(aligned).splits["train"][0].valid["text"]) == 4


def write_mmsa(path: Path, dim: int, n: int = 120, ids: list[str] | None = None, aligned: bool = False) -> None:
    rng = np.random.default_rng(2)
    lengths = (50, 50) if aligned else (60, 70)  # 375 and 500 in the real file
    text = rng.normal(size=(n, 50, dim)).astype(np.float32)  # BERT's numbers for padding are not zero
    if dim == 300:
        text[:, 6:] = 0
    audio, vision = np.zeros((n, lengths[0], 74)), np.zeros((n, lengths[1], 35))
    audio[:, :5] = rng.normal(size=(n, 5, 74))
    vision[:, :6] = rng.normal(size=(n, 6, 35))
    audio[:, 1, 3] = -np.inf
    bert = np.zeros((n, 3, 50))
    bert[:, 1, :6] = 1
    part = {
        "id": ids or [f"v{i // 3}$_${(2, 13, 4)[i % 3]}" for i in range(n)],
        "raw_text": np.array(["hello"] * n),
        "text": text,
        "text_bert": bert,
        "audio": audio,
        "vision": vision,
        "audio_lengths": [5] * n,
        "regression_labels": np.tile(np.array([0.0, 1.0, -1.0], np.float32), n // 3),
    }
    none = {key: value[:0] for key, value in part.items()}
    path.write_bytes(pickle.dumps({"train": none | {"audio": audio[:0]}, "valid": none, "test": part}, 4))


def mmsa_table(n: int = 40, extra: int = 0) -> list[tuple[str, int, float, float, float, Sequence[float]]]:
    rows = []
    for i in range(n):  # the table lists clips as strings are sorted: 13, 2, 4
        rows.append((f"v{i}", 0, 50.0, 60.0, 1.0, [1, 0, 0, 0, 0, 0]))
        rows.append((f"v{i}", 1, 5.0, 9.0, 0.0, [0, 1, 0, 0, 0, 0]))
        rows.append((f"v{i}", 2, 20.0, 30.0, -1.0, [0, 0, 1, 0, 0, 0]))
        if i < extra:
            rows.append((f"v{i}", 3, 70.0, 71.0, 2.0, [0, 0, 0, 0, 0, 1]))
    return rows


@pytest.mark.parametrize("dim", [300, 768])
@pytest.mark.parametrize("aligned", [False, True])
def test_mmsa_clips_are_matched_in_order_of_time(dim: int, aligned: bool, tmp_path: Path) -> None:
    write_mmsa(tmp_path / ("aligned_50.pkl" if aligned else "unaligned_50.pkl"), dim, aligned=aligned)
    write_table(tmp_path, mmsa_table(extra=2))
    dataset = Dataset.collect(FEATURE_SOURCES.get("mmsa-pkl")(tmp_path, aligned=aligned))
    assert dataset.header.dims == (dim, 74, 35)
    assert dataset.header.notes["dropped"] == {}
    by_id = {s.id: s for s in dataset.splits["test"]}
    assert len(by_id) == 120
    labels = dict(zip(by_id, dataset.labels("test"), strict=True))
    named = {clip: dataset.header.label_set.decode(labels[f"cmu-mosei/v1$_${clip}"]) for clip in (2, 4, 13)}
    assert named == {2: ["sadness"], 4: ["anger"], 13: ["happiness"]}
    sample = by_id["cmu-mosei/v0$_$2"]
    lengths = [len(sample.valid[name]) for name in MODALITIES]
    assert lengths == ([6, 6, 6] if aligned else [6, 5, 6])
    assert sample.valid["audio"].sum() == 5
    assert sample.values["audio"][1, 3] == 0


def test_mmsa_videos_that_do_not_agree_are_dropped_and_counted(tmp_path: Path) -> None:
    write_mmsa(tmp_path / "unaligned_50.pkl", 300, n=603)
    rows = mmsa_table(201)
    rows[1] = (*rows[1][:4], 2.5, rows[1][5])  # another sentiment in v0
    write_table(tmp_path, rows)
    dataset = Dataset.collect(FEATURE_SOURCES.get("mmsa-pkl")(tmp_path))
    assert dataset.header.notes["dropped"] == {"no certain match in the rating table": 3}
    assert len(dataset.splits["test"]) == 600
    write_table(tmp_path, rows[: 3 * 190])
    with pytest.raises(InputError, match="36 of 603"):
        FEATURE_SOURCES.get("mmsa-pkl")(tmp_path)


def test_a_match_that_is_not_certain_is_none() -> None:
    def segment(number: int, start_s: float, sentiment: float, fear: float = 0.0) -> Segment:
        return Segment("v", number, start_s, start_s + 1, sentiment, (0, 0, 0, 0, 0, fear))

    table = [segment(0, 8, 1.0), segment(1, 2, 0.0), segment(2, 5, 0.0, fear=1)]
    pairs = match_clips({3: 0.0, 5: 0.0, 11: 1.0}, table)
    assert pairs is not None
    assert {clip: found.number for clip, found in pairs.items()} == {3: 1, 5: 2, 11: 0}
    assert match_clips({3: 0.0, 11: 1.0}, table) is None  # either of the two neutral ones
    assert match_clips({3: 0.0, 5: 0.0}, table) is not None
    assert match_clips({1: 0.0, 2: 0.0, 3: 0.0, 4: 1.0}, table) is None


@pytest.mark.parametrize("name", ["train-valid-test-pt", "mosei-noalign-pkl", "mmsa-pkl"])
def test_other_layouts_are_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"train": [1, 2]}))
    with pytest.raises(InputError) as caught:
        FEATURE_SOURCES.get(name)(path)
    assert caught.value.code == "bad_dataset"
    with pytest.raises(InputError) as caught:
        FEATURE_SOURCES.get(name)(tmp_path)
    assert caught.value.code == "no_dataset"


def test_finding_a_reader_loads_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from data.sources import FEATURE_SOURCES as f; print(f.names()); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("mosei-csd", "train-valid-test-pt", "mosei-noalign-pkl", "mmsa-pkl"):
        assert name in done.stdout


def real_rows(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "mosei" / "emotion_ratings.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def emotions_of(row: dict[str, str]) -> frozenset[str]:
    return frozenset(ours for name, ours in zip(RATED, OURS, strict=True) if float(row[name]) > 0)


def published_test_sets(shared_data: Path) -> Counter[frozenset[str]]:
    """The published label sets, with surprise and fear exchanged back."""
    mended = {"surprise": "fear", "fear": "surprise"}
    lines = (shared_data / "mosei" / "test_label_sets.txt").read_text().removesuffix("\n").split("\n")
    return Counter(frozenset(mended.get(name, name) for name in line.split()) for line in lines)


@pytest.mark.shared
def test_real_table_gives_the_published_folds_and_counts(shared_data: Path, tmp_path: Path) -> None:
    """All 23,259 rated segments in a small csd. Four segments of the folds were lost to feature extraction in the published
    sets; which ones is not known here, only that the three of the test fold are labelled happiness alone (the published
    label sets lack three of those and nothing else), so some such three and one of train get no acoustic rows."""
    rows = real_rows(shared_data)
    folds = json.loads((shared_data / "mosei" / "standard_folds.json").read_text())
    (tmp_path / "standard_folds.json").write_text(json.dumps(folds))
    test, train = set(folds["test"]), set(folds["train"])
    in_test = Counter(emotions_of(row) for row in rows if row["id"] in test)
    lacking = in_test - published_test_sets(shared_data)
    assert lacking == {frozenset({"happiness"}): 3}
    assert not published_test_sets(shared_data) - in_test
    lost = [r for r in rows if r["id"] in test and emotions_of(r) == {"happiness"}][:3]
    lost += [r for r in rows if r["id"] in train][:1]
    gone = {(row["id"], row["segment_id"]) for row in lost}

    labels: dict[str, list[list[float]]] = {}
    times: dict[str, list[list[float]]] = {}
    for row in rows:
        labels.setdefault(row["id"], []).append([float(row[name]) for name in ("sentiment", *RATED)])
        times.setdefault(row["id"], []).append([float(row["start"]), float(row["end"])])
    write_csd(tmp_path / "CMU_MOSEI_Labels.csd", "All Labels", {v: (labels[v], times[v]) for v in labels})
    for name, (file, top) in CSD.items():  # one row in the middle of every segment
        entries: Entries = {}
        for video, intervals in times.items():
            lost_here = [i for i in range(len(intervals)) if (video, str(i)) in gone and name == "audio"]
            if lost_here:
                one = np.ones((1, DIMS[name]), np.float32)
                kept = {f"{video}[{i}]": (one, [span]) for i, span in enumerate(intervals) if i not in lost_here}
                entries.update(kept)
            else:
                entries[video] = (np.ones((len(intervals), DIMS[name]), np.float32), intervals)
        write_csd(tmp_path / file, top, entries)

    dataset = Dataset.collect(FEATURE_SOURCES.get("mosei-csd")(tmp_path))
    sizes = {split: len(samples) for split, samples in dataset.splits.items()}
    assert sizes == {"train": 16_326, "valid": 1_871, "test": 4_659}
    assert sum(sizes.values()) == 22_856
    assert dataset.header.notes["dropped"] == {"in no fold": 399, "no acoustic rows": 4}
    counts = dict(zip(EMOTIONS, dataset.labels("test").sum(axis=0).astype(int).tolist(), strict=True))
    assert [counts[name] for name in OURS] == [2502, 1129, 1071, 441, 805, 385]
    decoded = Counter(frozenset(dataset.header.label_set.decode(row)) for row in dataset.labels("test"))
    assert decoded == published_test_sets(shared_data)
    groups = {split: {s.group for s in samples} for split, samples in dataset.splits.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["valid"] & (groups["train"] | groups["test"])


@pytest.mark.shared
def test_real_table_as_text_is_read_alike(shared_data: Path) -> None:
    table = read_ratings(shared_data / "mosei")
    rows = real_rows(shared_data)
    assert sum(len(segments) for segments in table.videos.values()) == len(rows) == 23_259
    for row in rows[::97]:
        segment = table.at(row["id"], float(row["start"]) + 0.001, float(row["end"]))
        assert segment is not None
        assert segment.number == int(row["segment_id"])
        names = [name for name, on in zip(EMOTIONS, label_vector(segment.ratings), strict=True) if on]
        assert frozenset(names) == emotions_of(row)


@pytest.mark.shared
def test_pt_with_exchanged_names_is_mended_by_the_published_counts(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "mosei" / "test_label_sets.txt").read_text().removesuffix("\n").split("\n")
    in_order = {"happiness": 4, "sadness": 5, "anger": 6, "surprise": 7, "disgust": 8, "fear": 9}
    exchanged = {**in_order, "surprise": 9, "fear": 7}  # the names as the author of the list has them
    rows = {f"src-{name}": np.ones((1, 2, dim), np.float32) for name, dim in DIMS.items()}
    one = {**rows, "tgt": [[2, 3]]}
    targets = [[2, *(exchanged[name] for name in line.split()), 3] for line in lines]
    full = {key: np.broadcast_to(array, (len(lines), *array.shape[1:])).copy() for key, array in rows.items()}
    content = {"train": one, "valid": one, "test": {**full, "tgt": targets}, "dict": {"tgt": exchanged}}
    path = tmp_path / "a.pt"
    torch.save(content, path)
    dataset = Dataset.collect(FEATURE_SOURCES.get("train-valid-test-pt")(path))
    assert "exchange fear, surprise" in dataset.header.notes["labels"]
    decoded = Counter(frozenset(dataset.header.label_set.decode(row)) for row in dataset.labels("test"))
    assert decoded == published_test_sets(shared_data)
