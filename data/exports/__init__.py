"""Datasets in the layouts of other tools: one file per layout, each registered by name.

    EXPORTS.get("hf-datasets")(Path("mosei"), Path("mosei_parquet"))      # paths of what was written

An export is ``export(dataset: Path, output: Path) -> list[Path]``: it reads a dataset folder (``data/dataset.py``) and
writes a new file or folder, whole or not at all and over nothing. What only LAMB knows (specs, masks, groups) goes along
where the layout has room for it, so that the source of the same name reads the dataset back; each module says what its
layout cannot carry. A dataset keeps neither times nor words, so no layout gets them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from data.labels import LabelSet
from data.registry import Registry
from data.spec import MODALITIES, FeatureSpec, Modality

if TYPE_CHECKING:
    from data.batches import Sample
    from data.dataset import DatasetHeader

EXPORTS = Registry("format for export", "data.exports")
KIND = "lamb-export"
SCHEMA = 1


def check_new(output: Path) -> None:
    """Raise InputError if there is something at ``output``."""
    if output.exists():
        raise InputError(
            f"Expected no file or folder at {str(output)!r} but there is one.",
            remedy="Choose another --output, or delete it.",
            code="output_exists",
        )
    output.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``output`` when all went well and is gone otherwise. Raises InputError."""
    check_new(output)
    building = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield building
        building.chmod(0o755)
        building.rename(output)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def header_record(header: DatasetHeader) -> dict[str, Any]:
    """A header as plain JSON values."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "name": header.name,
        "labels": list(header.label_set.names),
        "aligned": header.aligned,
        "specs": {name: header.specs[name].to_dict() for name in MODALITIES},
        "notes": dict(header.notes),
    }


def header_from(record: Any, place: str) -> DatasetHeader:
    """The header that :func:`header_record` was taken of. Raises InputError, in which ``place`` is where the record lies."""
    from data.dataset import DatasetHeader

    try:
        if record["kind"] != KIND or record["schema"] != SCHEMA:
            raise ValueError(f"kind {record['kind']!r}, schema {record['schema']!r}")
        specs: dict[Modality, FeatureSpec] = {name: FeatureSpec.from_dict(record["specs"][name]) for name in MODALITIES}
        labels = LabelSet(tuple(record["labels"]))
        return DatasetHeader(str(record["name"]), labels, specs, bool(record["aligned"]), dict(record["notes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"Expected the header of an exported dataset in {place} but got {type(error).__name__}: {error}.",
            code="bad_dataset",
        ) from error


def checked(sample: Sample, header: DatasetHeader) -> Sample:
    """The sample, if its masks fit its values. Raises ValueError; the rest is checked where a dataset is made of it."""
    for name in MODALITIES:
        shape = len(sample.valid[name]), header.specs[name].dim
        shapes = sample.values[name].shape, sample.defined.get(name, sample.values[name]).shape
        if sample.valid[name].ndim != 1 or shapes != (shape, shape):
            raise ValueError(f"{name} of shapes {shapes} instead of {shape} in {sample.id!r}")
    return sample


def check_asked(header: DatasetHeader, aligned: bool, place: str) -> None:
    """Raise InputError where word-aligned rows are asked for and are not there: an export has no times to align by."""
    if aligned and not header.aligned:
        raise InputError(
            f"Expected word-aligned sequences in {place} but they are not.",
            remedy="Leave --aligned out: an export keeps no times to align by.",
            code="bad_dataset",
        )
