"""Datasets of features: samples in splits with what their columns are, and their one layout on disk.

In: a reading (header and a stream of samples) from ``data/sources/``, or from an extraction. Out: a folder, or a
:class:`Dataset` in memory. A folder is written beside its place and renamed, so it is whole or not there.

    reading = FEATURE_SOURCES.get("mosei-csd")(Path("cmu_mosei"), aligned=False)
    save_dataset(reading, Path("mosei"))                 # constant memory: shards of a thousand samples
    dataset = load_dataset(Path("mosei"))
    dataset.splits["train"][0].values["audio"]           # float32 (L, 74)

``dataset.json`` names the set, its labels, the three FeatureSpecs and its shards with their sha256. A shard is a
safetensors file: per modality all rows of its samples one after the other, ``<modality>.values (ΣL, d)``,
``<modality>.valid (ΣL,)``, ``<modality>.lengths (N,)`` and, where some sample has it, ``<modality>.defined (ΣL, d)``; beside
them ``labels (N, c)`` and, in the header, ids and groups.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.batches import Sample
from data.errors import InputError
from data.labels import LabelSet
from data.sources import SPLITS, Split
from data.spec import MODALITIES, FeatureSpec, Modality

KIND = "lamb-dataset"
SCHEMA = 1
SHARD_SAMPLES = 1000
INDEX_NAME = "dataset.json"


@dataclass(frozen=True, eq=False)
class DatasetHeader:
    """What holds for all samples of a dataset.

    ``label_set`` gives the order of every sample's label vector; ``specs`` the columns of its three modalities;
    ``aligned`` whether audio and visual rows were averaged over words, so that all three have the same steps; ``notes``
    are plain JSON values: origin, licence, what was dropped and why.
    """

    name: str
    label_set: LabelSet
    specs: dict[Modality, FeatureSpec]
    aligned: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def dims(self) -> tuple[int, int, int]:
        return self.specs["text"].dim, self.specs["audio"].dim, self.specs["visual"].dim


class Reading(NamedTuple):
    """A header and its samples, read as they are asked for, each with its split."""

    header: DatasetHeader
    samples: Iterable[tuple[Split, Sample]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in memory: ``splits["train"]``, ``["valid"]``, ``["test"]``, any of which may be empty."""

    header: DatasetHeader
    splits: dict[Split, list[Sample]]

    @classmethod
    def collect(cls, reading: Reading) -> Dataset:
        """All samples of a reading. Raises InputError for one that does not fit the header."""
        splits: dict[Split, list[Sample]] = {split: [] for split in SPLITS}
        for split, sample in reading.samples:
            _check(sample, reading.header)
            splits[split].append(sample)
        return cls(reading.header, splits)

    def labels(self, split: Split) -> np.ndarray:
        """0/1 labels float32 [shape=(N, c)] of a split."""
        rows = [sample.labels for sample in self.splits[split] if sample.labels is not None]
        return np.stack(rows) if rows else np.zeros((0, len(self.header.label_set)), np.float32)


def save_dataset(reading: Reading, folder: Path) -> dict[Split, int]:
    """Write a reading into the new folder ``folder``; samples per split.

    Raises InputError if something is there already (nothing is written over), if a sample does not fit the header, or if
    there is none.
    """
    if folder.exists():
        raise InputError(
            f"Expected no file or folder at {str(folder)!r} but there is one.",
            remedy="Choose another --output, or delete it.",
            code="output_exists",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        counts = _write(reading, building)
        building.chmod(0o755)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return counts


def _write(reading: Reading, folder: Path) -> dict[Split, int]:
    header = reading.header
    waiting: dict[Split, list[Sample]] = {split: [] for split in SPLITS}
    shards: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}

    def flush(split: Split) -> None:
        if waiting[split]:
            name = f"{split}-{len(shards[split]):05d}.safetensors"
            content = _shard(waiting[split])
            (folder / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            shards[split].append({"file": name, "samples": len(waiting[split]), "sha256": digest})
            waiting[split] = []

    for split, sample in reading.samples:
        _check(sample, header)
        waiting[split].append(sample)
        if len(waiting[split]) == SHARD_SAMPLES:
            flush(split)
    for split in SPLITS:
        flush(split)
    counts: dict[Split, int] = {split: sum(shard["samples"] for shard in shards[split]) for split in SPLITS}
    if not any(counts.values()):
        raise InputError(f"Expected samples in {header.name} but found none.", code="no_samples")
    record = {
        "kind": KIND,
        "schema": SCHEMA,
        "name": header.name,
        "labels": list(header.label_set.names),
        "aligned": header.aligned,
        "specs": {name: header.specs[name].to_dict() for name in MODALITIES},
        "notes": header.notes,
        "samples": counts,
        "shards": shards,
    }
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / INDEX_NAME).write_text(text, encoding="utf-8")
    return counts


def load_dataset(folder: Path, splits: Iterable[Split] = SPLITS) -> Dataset:
    """Read a folder that :func:`save_dataset` wrote; splits that are not asked for stay empty.

    Raises InputError: missing, damaged (sha256 differs), of another schema.
    """
    header, record = read_header(folder)
    loaded: dict[Split, list[Sample]] = {split: [] for split in SPLITS}
    for split in splits:
        for shard in record["shards"][split]:
            loaded[split] += _read_shard(folder, shard)
    return Dataset(header, loaded)


def read_header(folder: Path) -> tuple[DatasetHeader, dict[str, Any]]:
    """The header of a dataset folder, and its whole ``dataset.json``. Raises InputError."""
    path = folder / INDEX_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["kind"] != KIND or record["schema"] != SCHEMA:
            raise ValueError(f"kind {record['kind']!r}, schema {record['schema']!r}")
        specs: dict[Modality, FeatureSpec] = {name: FeatureSpec.from_dict(record["specs"][name]) for name in MODALITIES}
        header = DatasetHeader(
            record["name"], LabelSet(tuple(record["labels"])), specs, record["aligned"], record["notes"]
        )
    except FileNotFoundError as error:
        raise InputError(
            f"Expected a dataset folder with {INDEX_NAME} but {str(folder)!r} has none.",
            remedy="Make one with: lamb dataset build SOURCE FOLDER --output DIR",
            code="no_dataset",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Expected a LAMB dataset in {str(folder)!r} but got {error}.", code="bad_dataset") from error
    return header, record


def _check(sample: Sample, header: DatasetHeader) -> None:
    if sample.labels is None or sample.labels.shape != (len(header.label_set),):
        shape = None if sample.labels is None else sample.labels.shape
        raise InputError(
            f"Expected {len(header.label_set)} labels in {sample.id!r} but got {shape}.", code="bad_dataset"
        )
    for name, dim in zip(MODALITIES, header.dims, strict=True):
        values, valid = sample.values[name], sample.valid[name]
        if values.shape != (len(valid), dim):
            raise InputError(
                f"Expected {name} values of shape {(len(valid), dim)} in {sample.id!r} but got {values.shape}.",
                code="bad_dataset",
            )
        if not np.isfinite(values).all():
            raise InputError(
                f"Expected finite {name} values in {sample.id!r} but got NaN or infinity.", code="bad_dataset"
            )


def _shard(samples: list[Sample]) -> bytes:
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {"labels": np.stack([s.labels for s in samples if s.labels is not None])}
    arrays["weights"] = np.array([s.weight for s in samples], np.float32)
    for name in MODALITIES:
        arrays[f"{name}.values"] = np.concatenate([s.values[name] for s in samples]).astype(np.float32, copy=False)
        arrays[f"{name}.valid"] = np.concatenate([s.valid[name] for s in samples])
        arrays[f"{name}.lengths"] = np.array([len(s.valid[name]) for s in samples], np.int64)
        if any(name in s.defined for s in samples):
            known = [s.defined.get(name, np.ones(s.values[name].shape, bool)) for s in samples]
            arrays[f"{name}.defined"] = np.concatenate(known)
    named = {"ids": json.dumps([s.id for s in samples]), "groups": json.dumps([s.group for s in samples])}
    return save(arrays, metadata=named)


def _read_shard(folder: Path, shard: dict[str, Any]) -> Iterator[Sample]:
    from safetensors import SafetensorError, safe_open

    name = str(shard["file"])
    path = folder / name
    try:
        if Path(name).name != name:
            raise ValueError("its name leaves the folder")
        if hashlib.sha256(path.read_bytes()).hexdigest() != shard["sha256"]:
            raise ValueError("its sha256 differs")
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            named = {key: json.loads(text) for key, text in file.metadata().items()}
        yield from _samples(arrays, named)
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
        raise InputError(
            f"Expected a shard at {str(path)!r} but it cannot be read: {error}.", code="bad_dataset"
        ) from error


def _samples(arrays: dict[str, np.ndarray], named: dict[str, list[str]]) -> Iterator[Sample]:
    ends = {name: np.cumsum(arrays[f"{name}.lengths"]) for name in MODALITIES}
    for i, (id_, group) in enumerate(zip(named["ids"], named["groups"], strict=True)):
        rows = {
            name: slice(int(ends[name][i] - arrays[f"{name}.lengths"][i]), int(ends[name][i])) for name in MODALITIES
        }
        yield Sample(
            {name: arrays[f"{name}.values"][rows[name]] for name in MODALITIES},
            {name: arrays[f"{name}.valid"][rows[name]] for name in MODALITIES},
            arrays["labels"][i],
            float(arrays["weights"][i]),
            id_,
            {name: arrays[f"{name}.defined"][rows[name]] for name in MODALITIES if f"{name}.defined" in arrays},
            group,
        )
