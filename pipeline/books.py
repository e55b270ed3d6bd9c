"""What a run over many files knows of each: what opening it told, its record, whether its own result is written.

In: items, and what became of them. Out: the same at any later time, from the store of the run; nothing is kept in memory.

    books = Books(store, plan, about)
    books.remember(item, {**opened.to_dict(), "open_s": 0.2})
    record = books.publish(item, None)                       # json/<name>.json is in its place, whole
    books.done(item)                                         # the record: nothing is left to do

A record is what docs/output.md calls an element of ``files``, without ``file`` and with ``seconds`` by stage.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError
from pipeline.predict import document, failed_record, to_json
from pipeline.remote_store import is_remote
from pipeline.stages import Item, Opened, Plan, digest, features_name, fitting
from pipeline.store import LocalStore, Store
from pipeline.tables import write_tables

MARKER = "lamb-folder.json"
SCHEMA = 1
Record = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """One finished file, for who reports progress."""

    name: str
    outcome: str
    reasons: tuple[str, ...]
    message: str
    duration_s: float
    seconds: dict[str, float]
    cached: bool


class Books:
    """The books of a run. ``about`` is the checkpoint's part of each JSON document, None where features are made.

    With ``retry_failed``, what failed for good counts as undone until :attr:`retried` holds its name.
    """

    def __init__(self, store: Store, plan: Plan, about: dict[str, Any] | None, retry_failed: bool = False) -> None:
        self.store, self.plan, self.about, self.retry_failed = store, plan, about, retry_failed
        self.retried: set[str] = set()

    # ---- what opening a file told -----------------------------------------------------------------------------------------

    def remember(self, item: Item, what: dict[str, Any]) -> None:
        """Keep what opening told: ``Opened.to_dict()`` and ``open_s``, or ``error``. Raises InputError (output_unwritable)."""
        known = {"name": item.name, "stamp": _stamp(item), **what}
        self.store.write(_known_name(item.name), json.dumps(known).encode())

    def opened(self, item: Item) -> tuple[Opened, float] | None:
        """What opening the file told before, and the seconds it took; None if it did not, or the file has changed."""
        known = self._known(item)
        with contextlib.suppress(KeyError, TypeError):
            if known is not None and "error" not in known:
                return Opened.from_dict(known, item.path), float(known["open_s"])
        return None

    def _known(self, item: Item) -> dict[str, Any] | None:
        content = self.store.read(_known_name(item.name))
        with contextlib.suppress(ValueError, KeyError, TypeError):
            known = json.loads(content or b"")
            return known if known["stamp"] == _stamp(item) else None
        return None

    # ---- results ----------------------------------------------------------------------------------------------------------

    def record(self, item: Item) -> Record | None:
        """The finished record of a file; None if there is none yet, or none that is whole."""
        known = self._known(item)
        if known is None:
            return None
        if "error" in known:
            return failed(item, known["error"])
        with contextlib.suppress(ValueError, KeyError, TypeError):
            content = self.store.read(self.plan.place("finish", Opened.from_dict(known, item.path)))
            found = json.loads(content or b"")
            return found if isinstance(found, dict) and "outcome" in found else None
        return None

    def finished(self, item: Item) -> Record | None:
        """The record, unless the file is to be tried again."""
        record = self.record(item)
        again = self.retry_failed and item.name not in self.retried
        return None if record is None or (again and record["outcome"] == "failed") else record

    def done(self, item: Item) -> Record | None:
        """The record of a file for which nothing is left to do: its own result is in its place too."""
        record = self.finished(item)
        return record if record is not None and self._published(item, record) else None

    def publish(self, item: Item, error: dict[str, str] | None) -> Record:
        """Write the file's own document (features have theirs since the last stage); returns its record.

        Raises InputError: damaged if there is none, output_unwritable, disk_full.
        """
        record = self.record(item) if error is None else failed(item, error)
        if record is None:
            raise InputError("Expected the file's record but it is gone.", code="damaged")
        if self.plan.product == "labels":
            self.store.write(json_name(item.name), self._document(item, record))
        return record

    def _published(self, item: Item, record: Record) -> bool:
        if self.plan.product == "labels":
            return self.store.read(json_name(item.name)) == self._document(item, record)
        if record["outcome"] == "failed":
            return True
        opened = self.opened(item)
        if self.plan.product == "parts":
            return opened is not None and all(
                self.store.exists(self.plan.place(stage, opened[0])) for stage in self.plan.stages
            )
        content = self.store.read(f"{features_name(item.name)}/clip.json")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return opened is not None and json.loads(content or b"")["made_from"] == self.plan.place(
                "finish", opened[0]
            )
        return False

    def _document(self, item: Item, record: Record) -> bytes:
        shown = {"file": item.name, **{key: value for key, value in record.items() if key not in ("seconds", "file")}}
        return (to_json(document(self.about, [shown])) + "\n").encode()

    def write_tables(self, records: Iterable[Record]) -> Counter[str]:
        """Write the tables of records that have their ``file``; returns how many files had which outcome ("ok", "partial",
        "failed: code"). Raises InputError (output_unwritable, disk_full)."""
        outcomes: Counter[str] = Counter()

        def counted() -> Iterator[Record]:
            for record in records:
                error = record["error"]
                outcomes[record["outcome"] if error is None else f"failed: {error['code']}"] += 1
                yield record

        write_tables(self.store, counted(), self.about, self.plan)
        self.store.sweep()
        return outcomes


def take_over(store: Store, folder: str) -> None:
    """Note in a run's output that it holds the results of ``folder``, a path or URL.

    Raises InputError (output_exists) if it is somebody else's, another folder's, or the folder itself. A path that is no
    longer there was moved, or is this folder as another machine sees it.
    """
    if isinstance(store, LocalStore) and not is_remote(folder) and store.folder.resolve() == Path(folder).resolve():
        raise InputError(
            "Expected --output to be another folder than the one with the videos: nothing is written beside them.",
            code="output_exists",
        )
    empty, marker = store.empty(), store.read(MARKER)  # in this order: another run may be starting
    if marker is None:
        if not empty:
            raise InputError(
                f"Expected nothing or earlier results at {str(store.folder)!r} but other files are there.",
                code="output_exists",
                remedy="Choose another --output.",
            )
        about = {"kind": "lamb-folder", "schema": SCHEMA, "folder": folder}
        store.write(MARKER, json.dumps(about).encode() + b"\n")
        return
    with contextlib.suppress(ValueError, KeyError, TypeError):
        noted = json.loads(marker)["folder"]
        if is_remote(noted) and is_remote(folder):
            other = noted != folder
        else:
            gone = not os.path.isdir(noted)
            other = not gone and not (os.path.isdir(folder) and os.path.samefile(noted, folder))
        if other and not (is_remote(folder) and not is_remote(noted)):
            raise InputError(
                f"Expected results of {folder!r} at {str(store.folder)!r} but those of {noted!r} are there.",
                code="output_exists",
                remedy="Choose another --output.",
            )


def failed(item: Item, error: dict[str, str]) -> Record:
    """The record of a file that could not be used."""
    return failed_record(Path(item.name), error["code"], error["message"])


def told(name: str, record: Record, cached: bool) -> Done:
    """A record as progress tells it."""
    error = record["error"] or {"code": "", "message": ""}
    reasons = (error["code"],) if record["error"] else tuple(record["reasons"])
    seconds = record.get("seconds", {})
    return Done(name, record["outcome"], reasons, error["message"], record["duration_s"] or 0.0, seconds, cached)


def json_name(name: str) -> str:
    """Name in the store of a file's own document."""
    return "json/" + fitting(name, ".json")


def _known_name(name: str) -> str:
    key = digest(name)
    return f"cache/files/{key[:2]}/{key}.json"


def _stamp(item: Item) -> list[int]:
    return [item.size, item.mtime_ns, item.inode]
