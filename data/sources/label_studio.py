"""Annotations made or corrected in Label Studio, exported as JSON or JSON-MIN.

Layout: a folder with the export (``*.json``) and the recordings at any depth below it, or the export beside its recordings.
What counts in a task:

- regions of sound (``labels``: start and end in seconds) and of video frames (``timelinelabels``: the first and the last
  frame, counted from 1, whose rate the export must hold, see below); regions of one speaker with the same times are one
  utterance;
- ``choices`` of a region, or of the whole file where there is no region;
- ``textarea`` of a region: what is said; a control called ``speaker`` (labels, choices or text): who speaks;
- ``neutral`` is no label, and a region without labels is an utterance without one.

The latest annotation of a task counts; one that is cancelled or empty does not, nor do predictions.

    SOURCES.get("label-studio")(Path("export"))

JSON-MIN writes a single choice like any other column: it is taken from columns called emotion(s), label(s) or choice(s).
The frame rate is ``framerate``, ``frame_rate`` or ``fps`` of the region or the task's data, else ``framesCount`` by
``duration``. Label Studio does not write it by itself: put ``fps`` into the tasks. Recordings are found by name, as an
upload renames them. No split is chosen.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from data.errors import InputError
from data.sources import NEUTRAL, SOURCES, LabelledItem
from data.sources.places import MEDIA_SUFFIXES, MediaFinder

MAX_BYTES = 512 * 2**20
LONGEST_S = 1e7  # 115 days: no recording, but a slip
RATE_KEYS = ("framerate", "frame_rate", "frameRate", "fps")
CHOICE_KEYS = frozenset({"emotion", "emotions", "label", "labels", "choice", "choices"})
SPEAKER = "speaker"
UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")  # how Label Studio renames what is uploaded
NOT_IN_NAMES = re.compile(r"[^-\w.]")


@SOURCES.register("label-studio")
def read(place: Path) -> list[LabelledItem]:
    """All annotated utterances, by task, in order of time. Raises InputError: no export, one that is not Label Studio's, a
    recording that is not below the folder, frames without a rate, or no annotation at all."""
    files = [place] if place.is_file() else sorted(place.glob("*.json"))
    if not files:
        raise InputError(
            f"Expected an export (.json) of Label Studio in {str(place)!r} but found none.", code="no_dataset"
        )
    finder = MediaFinder(place.parent if place.is_file() else place)
    items: list[LabelledItem] = []
    names: Counter[str] = Counter()
    for path in files:
        for task in _latest(_tasks(path), path):
            media = _recording(task, path, finder)
            for found in _utterances(task, path):
                span = "" if found.start_s is None else f"/{_ms(found.start_s)}-{_ms(found.end_s)}"
                who = f"-{found.speaker}" if found.speaker else ""
                id_ = f"label-studio/{media.relative_to(finder.root).as_posix()}{span}{who}"
                names[id_] += 1
                id_ = id_ if names[id_] == 1 else f"{id_}#{names[id_]}"
                labels = tuple(dict.fromkeys(name for name in found.labels if name.lower() != NEUTRAL))
                text = " ".join(" ".join(found.words).split()) or None
                items.append(LabelledItem(id_, None, labels, found.speaker, text, media, found.start_s, found.end_s))
    if not items:
        raise InputError(
            f"Expected annotations in {str(place)!r} but there is none.",
            remedy="Predictions do not count: submit the tasks in Label Studio first.",
            code="bad_dataset",
        )
    return items


@dataclass
class _Task:
    """One task with the annotation that counts: results as in JSON, what it is about, and a word for errors."""

    key: str
    data: dict[str, Any]
    results: list[dict[str, Any]]
    uploaded: str = ""
    when: tuple[str, str] = ("", "")


@dataclass
class _Utterance:
    """A region, or with ``start_s`` None the whole file."""

    start_s: float | None = None
    end_s: float | None = None
    speaker: str = ""
    labels: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


def _tasks(path: Path) -> Iterator[_Task]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size / 2**20:.0f} MiB")
        content = json.loads(path.read_bytes())
        if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
            raise ValueError(f"{type(content).__name__} instead of a list of tasks")
        for number, task in enumerate(content):
            key = str(task.get("id", f"number {number + 1}"))
            if "data" not in task:
                yield _minimal(key, task)
                continue
            if not isinstance(task["data"], dict):
                raise ValueError(f"task {key} without data")
            for annotation in task.get("annotations") or task.get("completions") or []:
                if not annotation.get("was_cancelled") and annotation.get("result"):
                    when = str(annotation.get("updated_at", "")), str(annotation.get("created_at", ""))
                    uploaded = str(task.get("file_upload") or "")
                    yield _Task(key, task["data"], list(annotation["result"]), uploaded, when)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(
            f"Expected an export of Label Studio (JSON or JSON-MIN) at {str(path)!r} but got {error}.",
            code="bad_dataset",
        ) from error


def _minimal(key: str, row: dict[str, Any]) -> _Task:
    """A row of JSON-MIN, in which data and results are columns side by side."""
    results: list[dict[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, list) and all(isinstance(part, dict) for part in value):
            results += [{"from_name": name, "value": part} for part in value]
        elif isinstance(value, dict) and "choices" in value:
            results.append({"from_name": name, "value": value})
        elif isinstance(value, str) and value and name.lower() in CHOICE_KEYS:
            results.append({"from_name": name, "value": {"choices": [value]}})
    return _Task(key, row, results, "", (str(row.get("updated_at", "")), str(row.get("created_at", ""))))


def _latest(tasks: Iterator[_Task], path: Path) -> list[_Task]:
    """One annotation per task, in the order of the tasks."""
    found: dict[str, _Task] = {}
    for task in tasks:
        if task.results and (task.key not in found or task.when >= found[task.key].when):
            found[task.key] = task
    return list(found.values())


def _recording(task: _Task, path: Path, finder: MediaFinder) -> Path:
    named = [value for value in task.data.values() if isinstance(value, str)] + [task.uploaded]
    addresses = [address for value in named if (address := _address(value)) is not None]
    for address in addresses:
        name = PurePosixPath(address).name
        upload = UPLOAD.fullmatch(name)
        for candidate in (address, upload[1] if upload else None):
            media = finder.find(candidate, path.parent) if candidate else None
            if media is not None:
                return media
        # an upload loses blanks and signs: "my clip (1).mp4" is called my_clip_1.mp4
        like = [known for known in finder.names() if _plain(known) == (upload[1] if upload else name)]
        if len(like) == 1 and (media := finder.find(like[0], path.parent)) is not None:
            return media
    names = ", ".join(repr(address) for address in dict.fromkeys(addresses)) or "none is named"
    raise InputError(
        f"Expected the recording of task {task.key} in {path.name} below {str(finder.root)!r} but {names} is not there.",
        code="no_dataset",
    )


def _address(value: str) -> str | None:
    """The path within an address by its ending: ``/data/upload/1/…``, ``/data/local-files/?d=…``, a URL; None for no media."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    query = parse_qs(parts.query).get("d", [])
    path = unquote(query[0] if query else parts.path)
    return path if PurePosixPath(path).suffix.lower() in MEDIA_SUFFIXES else None


def _plain(name: str) -> str:
    return NOT_IN_NAMES.sub("", name.strip().replace(" ", "_"))


def _utterances(task: _Task, path: Path) -> list[_Utterance]:
    whole, regions = _Utterance(), {}
    where = f"task {task.key} in {path.name}"
    for result in task.results:
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
            raise InputError(
                f"Expected results with a value in {where} but got {str(result)[:80]!r}.", code="bad_dataset"
            )
    for number, result in enumerate(task.results):
        spans = _spans(result, task, where)
        id_ = str(result.get("id", number))  # JSON-MIN has no ids: every region stands by itself
        own = [regions.setdefault((id_, span), _Utterance(*span)) for span in spans] or [whole]
        for utterance in own:
            _add(result, utterance, where)
    merged: dict[tuple[str, int, int], _Utterance] = {}
    for utterance in regions.values():
        key = utterance.speaker, _ms(utterance.start_s), _ms(utterance.end_s)
        same = merged.setdefault(key, _Utterance(utterance.start_s, utterance.end_s, utterance.speaker))
        same.labels += utterance.labels
        same.words += [words for words in utterance.words if words not in same.words]
    if merged:
        return sorted(merged.values(), key=lambda u: (_ms(u.start_s), _ms(u.end_s), u.speaker))
    return [whole] if whole.labels else []


def _spans(result: dict[str, Any], task: _Task, where: str) -> list[tuple[float, float]]:
    """Start and end in seconds of a result's pieces; none where it is about the whole file."""
    value = result["value"]
    try:
        found = []
        for frames in value.get("ranges") or []:
            rate_hz = _rate_hz(result, task, where)
            found.append((max(0.0, float(frames["start"]) - 1) / rate_hz, float(frames["end"]) / rate_hz))
        if "ranges" not in value and "start" in value and "end" in value:
            found.append((float(value["start"]), float(value["end"])))
        for start_s, end_s in found:
            if not 0 <= start_s < end_s < LONGEST_S:
                raise ValueError(f"{start_s} to {end_s}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"Expected start and end of a region in {where} but got {error}.", code="bad_dataset"
        ) from error
    return found


def _rate_hz(result: dict[str, Any], task: _Task, where: str) -> float:
    holders = [result["value"], result, task.data]
    holders += [other["value"] for other in task.results]
    for holder in holders:
        for key in RATE_KEYS:
            if holder.get(key):
                return _positive(holder[key], where)
        if holder.get("framesCount") and holder.get("duration"):
            return _positive(holder["framesCount"], where) / _positive(holder["duration"], where)
    raise InputError(
        f"Expected a frame rate for the frame ranges of {where} but there is none.",
        remedy='Add "fps" to the data of each task, or label the sound track, whose regions are in seconds.',
        code="bad_dataset",
    )


def _positive(value: Any, where: str) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"Expected a frame rate above 0 in {where} but got {value!r}.", code="bad_dataset")
    return number


def _add(result: dict[str, Any], utterance: _Utterance, where: str) -> None:
    """File a result's labels, text or speaker under the region it is about."""
    value = result["value"]
    texts = _names(value.get("text"), where)
    labels = [name for key in ("labels", "timelinelabels", "choices") for name in _names(value.get(key), where)]
    if str(result.get("from_name", "")).lower() == SPEAKER:
        utterance.speaker = " ".join([*labels, *texts]).strip()
    else:
        utterance.labels += labels
        utterance.words += texts


def _names(value: Any, where: str) -> list[str]:
    """A name, a list of names or nothing, as a list."""
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"Expected labels or words as text in {where} but got {str(value)[:80]!r}.", code="bad_dataset"
        )
    return [" ".join(name.split()) for name in names if name.strip()]


def _ms(time_s: float | None) -> int:
    return round((time_s or 0.0) * 1000)
