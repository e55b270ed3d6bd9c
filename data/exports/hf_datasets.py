"""A folder that Hugging Face ``datasets`` and the Hub read: Parquet files per split, ``README.md``, ``lamb.json``.

    EXPORTS.get("hf-datasets")(Path("mosei"), Path("mosei_hf"))
    datasets.load_dataset("mosei_hf")["train"][0]["audio_values"]        # L lists of 74 numbers

Columns: ``id``, ``speaker`` (whoever speaks, or the video), ``labels`` (names), ``label_values`` (float32, in the order of
``lamb.json``), ``weight``, and per modality ``<modality>_values`` (L × d float32), ``<modality>_valid`` (L) and
``<modality>_defined`` (L × d, null where every column of a valid row is). ``valid`` is called ``validation``, as there.
Everything in a dataset is carried, equal to the bit: source ``hf-datasets`` reads it back (it needs ``lamb.json``, which
says what the columns are). ``datasets`` itself is not needed to write or read it here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.exports import EXPORTS, header_record, new_folder
from data.sources import SPLITS, Split
from data.spec import MODALITIES

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import DatasetHeader

SHARD_SAMPLES = 1000
GROUP_SAMPLES = 100  # rows of a row group: what a reader holds at once
HEADER_FILE = "lamb.json"
SPLIT_FILES: dict[Split, str] = {"train": "train", "valid": "validation", "test": "test"}


@EXPORTS.register("hf-datasets")
def export(dataset: Path, output: Path) -> list[Path]:
    """Write the folder ``output``; its files. Raises InputError: no dataset, or something is at ``output``."""
    import pyarrow.parquet as pq

    from data.dataset import load_dataset

    loaded = load_dataset(dataset)
    header = loaded.header
    names = []
    with new_folder(output) as folder:
        (folder / "data").mkdir()
        for split, samples in loaded.splits.items():
            n_shards = -(-len(samples) // SHARD_SAMPLES)
            for shard in range(n_shards):
                name = f"data/{SPLIT_FILES[split]}-{shard:05d}-of-{n_shards:05d}.parquet"
                table = _table(samples[shard * SHARD_SAMPLES : (shard + 1) * SHARD_SAMPLES], header)
                pq.write_table(table, folder / name, row_group_size=GROUP_SAMPLES, compression="zstd")
                names.append(name)
        record = header_record(header) | {"samples": {split: len(loaded.splits[split]) for split in SPLITS}}
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / HEADER_FILE).write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(_card(record), encoding="utf-8")
    return [output / name for name in (*names, HEADER_FILE, "README.md")]


def _table(samples: Sequence[Sample], header: DatasetHeader) -> Any:
    import pyarrow as pa

    labels = [sample.labels for sample in samples if sample.labels is not None]
    columns: dict[str, Any] = {
        "id": pa.array([sample.id for sample in samples], pa.string()),
        "speaker": pa.array([sample.group for sample in samples], pa.string()),
        "labels": pa.array([header.label_set.decode(row) for row in labels], pa.list_(pa.string())),
        "label_values": _lists(labels, pa.array(np.concatenate(labels).astype(np.float32, copy=False))),
        "weight": pa.array(np.array([sample.weight for sample in samples], np.float32)),
    }
    for name in MODALITIES:
        dim = header.specs[name].dim
        values = [sample.values[name] for sample in samples]
        columns[f"{name}_values"] = _lists(values, _rows(values, dim, np.float32))
        valid = [sample.valid[name] for sample in samples]
        columns[f"{name}_valid"] = _lists(valid, pa.array(np.concatenate(valid)))
        known = [sample.defined.get(name) for sample in samples]
        there = [rows for rows in known if rows is not None]
        absent = np.array([rows is None for rows in known])
        kept = [np.zeros((0, dim), bool) if rows is None else rows for rows in known]
        inner = _rows(there, dim, np.bool_)
        columns[f"{name}_defined"] = _lists(kept, inner, absent)
    return pa.table(columns)


def _rows(arrays: Sequence[np.ndarray], dim: int, kind: Any) -> Any:
    """All rows one after the other, as lists of ``dim`` numbers."""
    import pyarrow as pa

    joined = np.concatenate([np.zeros((0, dim), kind), *arrays]).astype(kind, copy=False)
    return pa.FixedSizeListArray.from_arrays(pa.array(joined.reshape(-1)), dim)


def _lists(arrays: Sequence[np.ndarray], joined: Any, absent: np.ndarray | None = None) -> Any:
    """``joined`` cut into the lengths of ``arrays``; null where ``absent``."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
    mask = None if absent is None else pa.array(absent)
    return pa.ListArray.from_arrays(pa.array(offsets), joined, mask=mask)


def _card(record: dict[str, Any]) -> str:
    """The dataset card: a YAML header that names the files of each split, and what the columns are."""
    import yaml

    files = [
        {"split": SPLIT_FILES[split], "path": f"data/{SPLIT_FILES[split]}-*.parquet"}
        for split in SPLITS
        if record["samples"][split]
    ]
    top = {"pretty_name": record["name"], "configs": [{"config_name": "default", "data_files": files}]}
    specs = [
        f"- `{name}_values`: {len(spec['columns'])} columns, {spec['extractor']} {spec['version']}"
        for name, spec in record["specs"].items()
    ]
    lines = [
        "---",
        yaml.safe_dump(top, sort_keys=False, allow_unicode=True).rstrip("\n"),
        "---",
        f"# {record['name']}",
        "",
        f"Features of utterances{', word-aligned' if record['aligned'] else ''}, with any of the labels "
        f"{', '.join(record['labels'])}.",
        "",
        *specs,
        "",
        f"Source: {record['notes'].get('source') or 'not stated'}. "
        f"Licence: {record['notes'].get('licence') or 'not stated'}.",
        "",
        "Read it with `datasets.load_dataset`, or with `lamb dataset build hf-datasets`.",
    ]
    return "\n".join(lines) + "\n"
