"""The table of a dataset: one CSV that says which recording, or which part of it, carries which labels.

In: a CSV file (comma, semicolon or tab; UTF-8) beside the recordings. Out: items, and every problem with its row.

    file,start_s,end_s,split,speaker,text,anger,joy          one column per label: 0/1, or ratings
    file,start_s,end_s,split,speaker,text,labels             or one list: "anger; joy"

    table = read_table(Path("videos/labels.csv"))
    table.items[0].path, table.labels                        # videos/a.mp4, ("anger", "joy")
    table.problems                                           # ["row 7: expected …"], empty where all is well

Only ``file`` and labels are needed. ``file`` is a path below the table's folder (or ``root``); times are seconds (or
h:mm:ss) on the file's own clock, without them the row is about the whole file; ``split`` is train, valid or test, in all rows
or none; ``text`` is what is said. Label names are lower-cased.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import InputError
from data.labels import EMOTIONS
from data.sources import NEUTRAL, LabelledItem
from data.sources.places import LIST_SEPARATORS, split_named

KNOWN = ("file", "start_s", "end_s", "split", "speaker", "text")
LISTS = ("labels", "emotions")
MAX_BYTES = 200_000_000
TEXT_LIMIT = 20_000  # characters that one utterance may have
CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
RARE, OFTEN = 2, 10  # a label with so few rows beside a similar one with so many is a slip of the pen


class TableError(InputError):
    """A table with problems; ``problems`` has one line for each."""

    default_code = "bad_table"

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        self.problems = tuple(sorted(problems, key=_row))
        super().__init__(
            f"Expected {str(path)!r} to be a table of recordings and labels but it has {_counted(problems)}: "
            f"{self.problems[0]}",
            remedy="Nothing was built." if len(problems) == 1 else "All are listed; nothing was built.",
        )


@dataclass(frozen=True)
class TableOptions:
    """``threshold``: a label holds where its number is above. ``labels``: the label columns, or the names a list may
    have; default: all that are found. ``neutral``: neutral is a label of its own, not the absence of any."""

    threshold: float = 0.0
    labels: tuple[str, ...] = ()
    neutral: bool = False


@dataclass(frozen=True)
class Table:
    """What a table says. ``rows`` has the line of each item in the file, in the items' order."""

    path: Path
    items: tuple[LabelledItem, ...]
    rows: tuple[int, ...]
    labels: tuple[str, ...]
    problems: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def check(self, more: Iterable[str] = ()) -> None:
        """Raise TableError if there are problems, these or more."""
        problems = [*self.problems, *more]
        if problems:
            raise TableError(self.path, problems)


@dataclass
class _Reader:
    path: Path
    root: Path
    options: TableOptions
    problems: list[str] = field(default_factory=list)

    def problem(self, row: int, said: str, remedy: str = "") -> None:
        self.problems.append(f"row {row}: {said}{f' {remedy}' if remedy else ''}")


def read_table(path: Path, root: Path | None = None, options: TableOptions = TableOptions()) -> Table:
    """Read a table. Recordings are not opened, only looked for.

    Raises InputError (not_found, unreadable, too_large) if there is no table at all; TableError where no row can be read
    (its columns are wrong). What is wrong with single rows is in ``problems``.
    """
    reader = _Reader(path, root or path.parent, options)
    lines = _lines(path)
    names = [name.strip().lower() for name in next(iter(lines), (0, []))[1]]
    columns, labels, listed = _columns(names, lines[1:], reader)
    items: list[LabelledItem] = []
    rows: list[int] = []
    for row, cells in lines[1:]:
        if len(cells) != len(names):
            reader.problem(row, f"expected {len(names)} cells but got {len(cells)}.", "A comma in a cell needs quotes.")
            continue
        found = {name: cells[index].strip() for name, index in columns.items()}
        if listed is not None:
            held = _listed(cells[names.index(listed)], row, reader)
        else:
            held = tuple(name for name in labels if _rated(cells[names.index(name)], name, row, reader))
        item = _item(found, held, row, reader)
        if item is not None:
            items.append(item)
            rows.append(row)
    if listed is not None:
        labels = _label_names(items, rows, reader)
        if reader.options.neutral and NEUTRAL not in labels:
            labels = (*labels, NEUTRAL)
    _check_together(items, rows, columns, reader)
    if not lines[1:]:
        reader.problems.append("row 1: expected rows below the header but there are none.")
    ignored = tuple(name for name in names if name not in (*columns, *labels, listed))
    return Table(path, tuple(items), tuple(rows), labels, tuple(reader.problems), ignored)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, with the line each begins on (the header is on line 1)."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(
                f"Expected a table of at most {MAX_BYTES:,} bytes but {str(path)!r} has {size:,}.", code="too_large"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"Expected a table at {str(path)!r} but there is none.", code="not_found") from error
    except OSError as error:
        raise InputError(f"Could not read {str(path)!r}: {error.strerror or error}.", code="unreadable") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(
            f"Expected UTF-8 in {str(path)!r} but row {line} is not.", code="unreadable", remedy="Save it as CSV UTF-8."
        ) from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    found: list[tuple[int, list[str]]] = []
    begins = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise TableError(path, [f"row {begins}: expected a row of a CSV file but {error}."]) from error
    return found


def _columns(
    names: list[str], rows: list[tuple[int, list[str]]], reader: _Reader
) -> tuple[dict[str, int], tuple[str, ...], str | None]:
    """Index of each known column; the label columns; or the column with lists. Raises TableError."""
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise TableError(reader.path, [f"row 1: expected each column once but got {twice[0]!r} twice."])
    if "file" not in names:
        near = difflib.get_close_matches("file", names, 1, 0.6) or [
            name for name in names if name in ("path", "video", "clip")
        ]
        hint = f" Rename {near[0]!r}." if near else ""
        raise TableError(
            reader.path, [f"row 1: expected a column 'file' but got {', '.join(names) or 'nothing'}.{hint}"]
        )
    columns = {name: names.index(name) for name in KNOWN if name in names}
    others = [name for name in names if name not in columns]
    chosen = tuple(name.strip().lower() for name in reader.options.labels)
    listed = next((name for name in LISTS if name in others), None)
    if listed is not None:
        return columns, chosen, listed
    for name in chosen:
        if name not in others:
            near = difflib.get_close_matches(name, others, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TableError(reader.path, [f"row 1: expected a column for the label {name!r} but there is none.{hint}"])
    labels = chosen or tuple(name for name in others if name)
    if not labels:
        raise TableError(
            reader.path, ["row 1: expected a column per label, or one called 'labels', but there is neither."]
        )
    if not chosen:
        labels = tuple(name for name in labels if not _is_text(name, names.index(name), rows, reader))
    return columns, labels, None


def _is_text(name: str, index: int, rows: list[tuple[int, list[str]]], reader: _Reader) -> bool:
    """Whether a column that should hold numbers holds words all over: then one line says so, not one per row."""
    cells = [(row, cells[index].strip()) for row, cells in rows if len(cells) > index]
    words = [(row, cell) for row, cell in cells if cell and _number(cell) is None]
    if len(words) <= len(cells) / 2:
        return False
    near = difflib.get_close_matches(name, (*KNOWN, *LISTS), 1, 0.75)
    remedy = f"Did you mean {near[0]!r}?" if near else "Name the label columns with --labels, or remove this one."
    reader.problem(words[0][0], f"expected numbers in the column {name!r} but got {words[0][1][:40]!r}.", remedy)
    return True


def _rated(cell: str, name: str, row: int, reader: _Reader) -> bool:
    value = _number(cell)
    if value is None:
        said = "nothing" if not cell.strip() else repr(cell.strip()[:40])
        reader.problem(row, f"expected a number for {name!r} but got {said}.", "0 means that it does not hold.")
        return False
    return value > reader.options.threshold


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}.get(cell.strip().lower())
    return value if math.isfinite(value) else None


def _listed(cell: str, row: int, reader: _Reader) -> tuple[str, ...]:
    names = dict.fromkeys(name.strip().lower() for name in LIST_SEPARATORS.split(cell))
    names.pop("", None)
    if not reader.options.neutral:
        names.pop(NEUTRAL, None)
    chosen = tuple(name.strip().lower() for name in reader.options.labels)
    for name in names if chosen else ():
        if name not in chosen and name != NEUTRAL:
            near = difflib.get_close_matches(name, chosen, 1)
            remedy = f"Did you mean {near[0]!r}?" if near else ""
            reader.problem(row, f"expected labels among {', '.join(chosen)} but got {name!r}.", remedy)
    return tuple(names)


def _label_names(items: Sequence[LabelledItem], rows: Sequence[int], reader: _Reader) -> tuple[str, ...]:
    """The names that lists use: emotions in their usual order, then the others by name."""
    if reader.options.labels:
        return tuple(name.strip().lower() for name in reader.options.labels)
    counts = Counter(name for item in items for name in item.labels)
    common = [name for name, n in counts.items() if n >= OFTEN]
    for item, row in zip(items, rows, strict=True):
        for name in item.labels:
            near = difflib.get_close_matches(name, common, 1, 0.8) if counts[name] <= RARE else []
            if near:
                reader.problem(
                    row,
                    f"the label {name!r} is rare and looks like {near[0]!r}.",
                    "Mend it, or name all with --labels.",
                )
    if not counts:
        reader.problems.append("row 2: expected labels but no row has any.")
    return tuple(sorted(counts, key=lambda name: (EMOTIONS.index(name) if name in EMOTIONS else len(EMOTIONS), name)))


def _item(found: dict[str, str], labels: tuple[str, ...], row: int, reader: _Reader) -> LabelledItem | None:
    """One row; None where its file or times are wrong."""
    before = len(reader.problems)
    name, text = found["file"], found.get("text") or None
    path = _path(name, row, reader) if name else None
    if not name and text is None:
        reader.problem(row, "expected a file but the cell is empty.")
    start_s, end_s = (_seconds(found.get(key, ""), key, row, reader) for key in ("start_s", "end_s"))
    if not name and (start_s is not None or end_s is not None):
        reader.problem(row, "expected no times where there is no file.")
    if start_s is not None and end_s is not None and end_s <= start_s:
        reader.problem(row, f"expected end_s after start_s but got {start_s:g} and {end_s:g}.")
    given = found.get("split", "").lower()
    split = split_named(given)
    if given and split is None:
        reader.problem(row, f"expected a split among train, valid, test but got {given!r}.")
    if text is not None and len(text) > TEXT_LIMIT:
        reader.problem(row, f"expected at most {TEXT_LIMIT:,} characters of text but got {len(text):,}.")
    if len(reader.problems) > before:
        return None
    if end_s is not None and start_s is None:
        start_s = 0.0
    times = "" if start_s is None else f":{start_s:.3f}-{'' if end_s is None else f'{end_s:.3f}'}"
    id_ = f"{name}{times}" if name else f"text:{row}"
    return LabelledItem(id_, split, labels, found.get("speaker", ""), text, path, start_s, end_s)


def _path(name: str, row: int, reader: _Reader) -> Path | None:
    path = reader.root / name.replace("\\", os.sep)
    try:
        if path.is_file():
            return path
        there = path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        there = False
    if there:
        reader.problem(row, f"expected a file at {name!r} but it is no regular file.")
        return None
    near: list[str] = []
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, _siblings(path.parent), 1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"Paths are relative to {str(reader.root)!r}."
    reader.problem(row, f"expected a file {name[:200]!r} but there is none.", remedy)
    return None


def _siblings(folder: Path, most: int = 2000) -> list[str]:
    return [entry.name for _, entry in zip(range(most), os.scandir(folder), strict=False)]


def _seconds(cell: str, name: str, row: int, reader: _Reader) -> float | None:
    if not cell:
        return None
    clock = CLOCK.fullmatch(cell)
    value = _number(cell) if clock is None else float(clock[1] or 0) * 3600 + float(clock[2]) * 60 + float(clock[3])
    if value is None or value < 0:
        reader.problem(row, f"expected {name} in seconds from 0 on (or h:mm:ss) but got {cell[:40]!r}.")
        return None
    return value


def _check_together(
    items: Sequence[LabelledItem], rows: Sequence[int], columns: dict[str, int], reader: _Reader
) -> None:
    """What only shows between rows: a row given twice, splits in some rows only."""
    first: dict[str, int] = {}
    for item, row in zip(items, rows, strict=True):
        if item.id in first:
            reader.problem(row, f"expected each part of a file once but row {first[item.id]} is about {item.id!r} too.")
        first.setdefault(item.id, row)
    without = [row for item, row in zip(items, rows, strict=True) if item.split is None]
    if "split" in columns and 0 < len(without) < len(items):
        reader.problem(
            without[0],
            f"expected a split in all rows or in none but {len(without)} of {len(items)} have none.",
            "Without any, speakers are kept apart and labels in proportion.",
        )


def length_problems(table: Table, lengths: dict[Path, float], slack_s: float = 0.5) -> list[str]:
    """Rows that begin or end after their file does; lengths in seconds, files without one are not judged."""
    found = []
    for item, row in zip(table.items, table.rows, strict=True):
        length_s = lengths.get(item.path) if item.path else None
        last_s = max(item.start_s or 0.0, (item.end_s or 0.0) - slack_s)
        if length_s and last_s >= length_s:
            given = f"{item.start_s or 0:g}-{'' if item.end_s is None else f'{item.end_s:g}'}"
            found.append(f"row {row}: expected times within the file's {length_s:.2f} s but got {given}.")
    return found


def write_table(items: Sequence[LabelledItem], labels: Sequence[str], path: Path) -> int:
    """Write items as a table that :func:`read_table` reads, files relative to its folder; returns the number of rows.

    Raises InputError (output_exists, output_unwritable).
    """
    unknown = sorted({name for item in items for name in item.labels} - set(labels))
    if unknown:
        raise ValueError(f"Expected labels among {labels} but got {unknown}")
    timed = any(item.start_s is not None or item.end_s is not None for item in items)
    spoken = any(item.text is not None for item in items)
    split = any(item.split is not None for item in items)
    names = ["file", *["start_s", "end_s"] * timed, *["split"] * split, "speaker", *["text"] * spoken, *labels]
    folder = path.parent.absolute()
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            for item in items:
                cells: list[object] = [_relative(item.path, folder)]
                if timed:
                    cells += ["" if time_s is None else f"{time_s:.3f}" for time_s in (item.start_s, item.end_s)]
                if split:
                    cells.append(item.split or "")
                cells.append(item.speaker)
                if spoken:
                    cells.append(" ".join((item.text or "").split()))
                writer.writerow([*cells, *(int(name in item.labels) for name in labels)])
    except FileExistsError as error:
        raise InputError(f"Expected no file at {str(path)!r} but there is one.", code="output_exists") from error
    except OSError as error:
        raise InputError(
            f"Could not write {str(path)!r}: {error.strerror or error}.", code="output_unwritable"
        ) from error
    return len(items)


def _relative(path: Path | None, folder: Path) -> str:
    if path is None:
        return ""
    try:
        return Path(os.path.relpath(path.absolute(), folder)).as_posix()
    except ValueError:  # on another drive
        return path.absolute().as_posix()


def _row(problem: str) -> int:
    found = re.match(r"row (\d+):", problem)
    return int(found[1]) if found else 0


def _counted(problems: Sequence[str]) -> str:
    return "a problem" if len(problems) == 1 else f"{len(problems):,} problems, first"
