"""Computational sequences of the CMU-Multimodal SDK: ``text.csd``, ``audio.csd``, ``visual.csd``, ``All Labels.csd`` (HDF5).

    EXPORTS.get("csd")(Path("voices"), Path("voices_csd"))
    mmdatasdk.mmdataset({"text": "voices_csd/text.csd", …})              # the SDK

Each file: ``<name>/data/<key>/{features (T, d), intervals (T, 2)}`` and ``<name>/metadata`` with the SDK's keys, every
value as JSON ("dimension names" are the columns, or the labels). A key is a sample's id with ``/`` and ``%``
percent-encoded; ``folds.json`` lists the keys of each split. A sample without rows of a modality has no key in that file,
and the SDK's ``hard_unify`` would drop it.

**The intervals are not times.** A dataset keeps none, so the rows of each modality are spread evenly over the same span,
whose length is that of the audio rows where their rate is known, else a second per row of the longest. Word-aligned sets
stay aligned; aligning others by these intervals is a guess.

Masks and undefined columns lie beside the features as ``valid`` and ``defined`` where zeros do not tell, ids, groups and
weights as attributes; the SDK passes over both. So source ``csd`` reads everything back, equal to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from data.errors import InputError
from data.exports import EXPORTS, header_record, new_folder
from data.spec import MODALITIES, Modality

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import DatasetHeader

FILES: dict[Modality, str] = {"text": "text.csd", "audio": "audio.csd", "visual": "visual.csd"}
LABELS_FILE, FOLDS_FILE = "All Labels.csd", "folds.json"
HEADER_KEY = "lamb"
KEY_CHARACTERS = " !#$&'()*+,:;=?@[]"  # that a key may have beside letters, digits and _.-~


@EXPORTS.register("csd")
def export(dataset: Path, output: Path) -> list[Path]:
    """Write the folder ``output``; its files. Raises InputError: no dataset, two samples with one id, or something is there."""
    from data.dataset import load_dataset

    loaded = load_dataset(dataset)
    header = loaded.header
    folds: dict[str, list[str]] = {split: [_key(s) for s in samples] for split, samples in loaded.splits.items()}
    keys = [key for found in folds.values() for key in found]
    if len(set(keys)) != len(keys):
        raise InputError(
            f"Expected an id for each of the {len(keys)} samples but {len(keys) - len(set(keys))} are used twice.",
            code="bad_dataset",
        )
    samples = [sample for found in loaded.splits.values() for sample in found]
    with new_folder(output) as folder:
        for name, file in FILES.items():
            spec = header.specs[name]
            about = f"{spec.extractor} {spec.version}; intervals are evenly spread, not measured"
            _write(folder / file, name, _features(samples, name, header), about, list(spec.columns), header)
        labels = header.label_set.names
        _write(folder / LABELS_FILE, "All Labels", _labels(samples, header), "0 or 1 per label", list(labels), header)
        (folder / FOLDS_FILE).write_text(json.dumps(folds, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [output / name for name in (*FILES.values(), LABELS_FILE, FOLDS_FILE)]


Entry = tuple[str, dict[str, np.ndarray], dict[str, Any]]  # key, arrays, attributes


def _features(samples: list[Sample], name: Modality, header: DatasetHeader) -> Iterator[Entry]:
    for sample in samples:
        values, valid, defined = sample.values[name], sample.valid[name], sample.defined.get(name)
        arrays = {"features": values, "intervals": _intervals(len(valid), span_s(sample, header))}
        if not np.array_equal(valid, values.any(axis=1)):
            arrays["valid"] = valid
        if defined is not None:
            arrays["defined"] = defined
        if len(valid) or defined is not None:
            yield _key(sample), arrays, {}


def _labels(samples: list[Sample], header: DatasetHeader) -> Iterator[Entry]:
    for sample in samples:
        assert sample.labels is not None
        arrays = {"features": sample.labels[None], "intervals": _intervals(1, span_s(sample, header))}
        yield _key(sample), arrays, {"id": sample.id, "group": sample.group, "weight": np.float32(sample.weight)}


def span_s(sample: Sample, header: DatasetHeader) -> float:
    """The length that a sample is given."""
    n_audio, rate_hz = len(sample.valid["audio"]), header.specs["audio"].rate_hz
    if n_audio and rate_hz is not None and not header.aligned:
        return n_audio / rate_hz
    return float(max(1, *(len(sample.valid[name]) for name in MODALITIES)))


def _intervals(n_rows: int, length_s: float) -> np.ndarray:
    edges = np.linspace(0.0, length_s, n_rows + 1)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _key(sample: Sample) -> str:
    key = quote(sample.id, safe=KEY_CHARACTERS)
    return "%2E" * len(key) if key in (".", "..") else key  # HDF5 reads these as places


def _write(
    path: Path, name: str, entries: Iterator[Entry], about: str, columns: list[str], header: DatasetHeader
) -> None:
    import h5py

    described = {
        "root name": name,
        "computational sequence description": about,
        "dimension names": columns,
        "computational sequence version": "1",
        "alignment compatible": "yes" if header.aligned else "no",
        "dataset name": header.name,
        "dataset version": "1",
        "creator": "lamb",
        "contact": "",
        "featureset bib citation": "",
        "dataset bib citation": str(header.notes.get("source", "")),
        HEADER_KEY: header_record(header),
    }
    with h5py.File(path, "w") as file:
        root = file.create_group(name)
        data = root.create_group("data", track_order=True)
        for key, arrays, attributes in entries:
            group = data.create_group(key)
            for kind, array in arrays.items():
                group.create_dataset(kind, data=array)
            for kind, value in attributes.items():
                group.attrs[kind] = value
        metadata = root.create_group("metadata")
        for kind, value in described.items():
            text = json.dumps(value, ensure_ascii=False)
            metadata.create_dataset(kind, data=[text], dtype=h5py.string_dtype("utf-8"))
