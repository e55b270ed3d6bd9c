"""A folder of Parquet files for Hugging Face ``datasets``, as ``lamb dataset export hf-datasets`` writes it.

Layout: ``lamb.json`` (labels, columns, samples per split) and ``data/<split>-00000-of-0000N.parquet`` with the columns that
``data/exports/hf_datasets.py`` describes; files by others have no ``lamb.json`` and are refused.

    reading = FEATURE_SOURCES.get("hf-datasets")(Path("mosei_hf"))

A hundred samples are in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import InputError
from data.exports import check_asked, checked, header_from
from data.exports.hf_datasets import GROUP_SAMPLES, HEADER_FILE, SPLIT_FILES
from data.sources import FEATURE_SOURCES, SPLITS, Split
from data.spec import MODALITIES, Modality

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import DatasetHeader, Reading


@FEATURE_SOURCES.register("hf-datasets")
def read(path: Path, aligned: bool = False) -> Reading:
    """All samples, in the files' order. Raises InputError: no such folder, another layout, or files missing or damaged."""
    from data.dataset import Reading

    place = path / HEADER_FILE
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
        counts = {split: int(record["samples"][split]) for split in SPLITS}
    except FileNotFoundError as error:
        raise InputError(
            f"Expected a folder with {HEADER_FILE} and data/*.parquet at {str(path)!r} but it is not there.",
            code="no_dataset",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(
            f"Expected samples per split in {str(place)!r} but got {error}.", code="bad_dataset"
        ) from error
    header = header_from(record, str(place))
    check_asked(header, aligned, str(path))

    def samples() -> Iterator[tuple[Split, Sample]]:
        for split in SPLITS:
            n = 0
            for file in sorted((path / "data").glob(f"{SPLIT_FILES[split]}-*.parquet")):
                for sample in _samples(file, header):
                    n += 1
                    yield split, sample
            if n != counts[split]:
                raise InputError(
                    f"Expected {counts[split]} samples of {split} in {str(path / 'data')!r} but got {n}.",
                    code="bad_dataset",
                )

    return Reading(header, samples())


def _samples(file: Path, header: DatasetHeader) -> Iterator[Sample]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data.batches import Sample

    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(GROUP_SAMPLES):
                columns = {name: batch.column(name) for name in batch.schema.names}
                for i in range(len(batch)):
                    values: dict[Modality, np.ndarray] = {}
                    valid: dict[Modality, np.ndarray] = {}
                    defined: dict[Modality, np.ndarray] = {}
                    for name in MODALITIES:
                        dim = header.specs[name].dim
                        values[name] = _array(columns[f"{name}_values"][i], np.float32).reshape(-1, dim)
                        valid[name] = _array(columns[f"{name}_valid"][i], np.bool_)
                        if columns[f"{name}_defined"][i].is_valid:
                            defined[name] = _array(columns[f"{name}_defined"][i], np.bool_).reshape(-1, dim)
                    labels = _array(columns["label_values"][i], np.float32)
                    id_, group = str(columns["id"][i]), str(columns["speaker"][i])
                    weight = columns["weight"][i].as_py()
                    yield checked(Sample(values, valid, labels, weight, id_, defined, group), header)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise InputError(
            f"Expected a Parquet file of an exported dataset at {str(file)!r} but got {type(error).__name__}: {error}.",
            code="bad_dataset",
        ) from error


def _array(cell: Any, kind: Any) -> np.ndarray:
    """The numbers of a list, or of a list of lists, one after the other."""
    import pyarrow as pa

    numbers = cell.values
    while pa.types.is_nested(numbers.type):
        numbers = numbers.flatten()
    if numbers.null_count:
        raise ValueError("an empty cell in a list")
    return np.array(numbers.to_numpy(zero_copy_only=False), kind)
