"""The tables of a folder run: a row per utterance and a row per file.

In: records of files (docs/output.md), one after the other. Out: ``labels.parquet``, ``labels.csv`` and ``files.parquet`` in
the store. Times and durations in seconds; memory does not grow with the number of files.

    write_tables(store, records, about, plan)
    pandas.read_parquet("results/labels.parquet")

The same records give the same bytes, but for the seconds that stages took, which are in ``files.parquet`` alone.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.spec import MODALITIES
from pipeline.stages import PARTS, Plan
from pipeline.store import Store, unwritable

ROWS_AT_ONCE = 20_000  # of a row group
SECONDS = ("open", *PARTS, "finish")


def labels_schema(labels: list[str]) -> pa.Schema:
    """Columns of ``labels.parquet``: file, times, face, text, a probability and a 0/1 column per label, coverage."""
    return pa.schema(
        [
            ("file", pa.string()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("face", pa.int32()),
            ("text", pa.string()),
            *((f"p_{name}", pa.float64()) for name in labels),
            *((name, pa.int8()) for name in labels),
            *((f"coverage_{name}", pa.float64()) for name in MODALITIES),
        ]
    )


FILES_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("sha256", pa.string()),
        ("duration_s", pa.float64()),
        ("outcome", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        ("utterances", pa.int32()),
        ("labels", pa.list_(pa.string())),
        *((f"seconds_{name}", pa.float64()) for name in SECONDS),
        ("lamb_version", pa.string()),
        ("checkpoint", pa.string()),
        *((f"features_{name}", pa.string()) for name in MODALITIES),
    ]
)


def label_rows(record: dict[str, Any], labels: list[str]) -> Iterator[dict[str, Any]]:
    """A row per utterance of a file."""
    for found in record["utterances"]:
        yield {
            "file": _utf8(record["file"]),
            "start_s": found["start_s"],
            "end_s": found["end_s"],
            "face": found.get("face"),
            "text": _utf8(found["text"]),
            **{f"p_{name}": found["probabilities"][name] for name in labels},
            **{name: int(name in found["labels"]) for name in labels},
            **{f"coverage_{name}": found["coverage"][name] for name in MODALITIES},
        }


def file_row(record: dict[str, Any], about: dict[str, Any] | None) -> dict[str, Any]:
    """The row of one file."""
    error = record["error"] or {}
    features = (about or {}).get("features", {})
    return {
        "file": _utf8(record["file"]),
        "sha256": record["sha256"],
        "duration_s": record["duration_s"],
        "outcome": record["outcome"],
        "reasons": record["reasons"],
        "error_code": error.get("code"),
        "error_message": _utf8(error["message"]) if error else None,
        "utterances": len(record.get("utterances", ())),
        "labels": record.get("overall", {}).get("labels", []),
        **{f"seconds_{name}": record["seconds"].get(name) for name in SECONDS},
        "lamb_version": version("lamb-emotion"),
        "checkpoint": (about or {}).get("fingerprint"),
        **{f"features_{name}": features.get(name) for name in MODALITIES},
    }


def write_tables(store: Store, records: Iterable[dict[str, Any]], about: dict[str, Any] | None, plan: Plan) -> None:
    """Write all tables from records in their order, each replaced whole. Raises InputError (output_unwritable)."""
    labels = list(about["labels"]) if about else []
    try:
        with store.scratch() as scratch, contextlib.ExitStack() as stack:
            files = stack.enter_context(_Parquet(scratch / "files.parquet", FILES_SCHEMA))
            rows = spoken = None
            if plan.product == "labels":
                schema = labels_schema(labels)
                rows = stack.enter_context(_Parquet(scratch / "labels.parquet", schema))
                stream = stack.enter_context((scratch / "labels.csv").open("w", newline="", encoding="utf-8"))
                spoken = csv.DictWriter(stream, schema.names)
                spoken.writeheader()
            for record in records:
                files.add(file_row(record, about))
                if rows is not None and spoken is not None:
                    for row in label_rows(record, labels):
                        rows.add(row)
                        spoken.writerow(row)
            stack.close()
            for path in sorted(scratch.iterdir()):
                store.publish_file(path, path.name)
    except OSError as error:
        raise unwritable(store.folder, error) from error


class _Parquet:
    """Rows into a parquet file, a row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema, self.rows = schema, []
        self.writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._flush()
        self.writer.close()

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
            self.rows = []


def _utf8(text: str) -> str:
    """Text as UTF-8 can hold it: what is no character (a file name of other bytes) is written with escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
