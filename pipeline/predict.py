"""Prediction: files in, one stable JSON-able record per file out (schema 1, docs/output.md).

A bad file never raises: its record's ``outcome`` is "failed" and says why.

    predictor = Predictor(load_checkpoint(None, "cpu"), Extractors(settings))
    record = predictor.predict_file(Path("clip.mp4"))
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.alignment import align_to_words
from data.clip import Clip
from data.errors import InputError, LambError
from data.files import write_whole
from pipeline.events import Event, Notify, ignore
from pipeline.mismatch import check_extractors
from pipeline.video import Analysis, Extractors

SCHEMA = 1
TIME_DIGITS, PROBABILITY_DIGITS = 3, 4
_log = logging.getLogger(__name__)


def starter_checkpoint() -> Path:
    """The checkpoint that ships inside the package."""
    import lamb

    return Path(lamb.__file__).parent / "starter" / "starter"


def load_checkpoint(path: Path | None, device: str) -> Any:
    """Load ``path``, or the starter checkpoint. Raises CheckpointError."""
    from lamb.checkpoint import Checkpoint

    return Checkpoint.load(path or starter_checkpoint(), device)


class Predictor:
    """A checkpoint and the extractors it was trained on, ready for any number of files.

    Where it was trained on means over words, the extractors' tracks are averaged so, clip by clip. Raises SpecMismatch on
    construction if the extractors' features are not the checkpoint's.
    """

    def __init__(self, checkpoint: Any, extractors: Extractors) -> None:
        self.checkpoint = checkpoint
        self.extractors = extractors
        self.averaged = check_extractors(checkpoint, extractors.specs)

    def readable(self, clips: Sequence[Clip]) -> list[tuple[Clip, Clip]]:
        """The clips with anything that the model reads, each as it was found and as the model reads it."""
        read = [(clip, self._as_read(clip)) for clip in clips]
        return [(clip, ready) for clip, ready in read if self.checkpoint.usable(ready)]

    def _as_read(self, clip: Clip) -> Clip:
        if not self.averaged:
            return clip
        words = clip.tracks["text"]
        tracks = {
            name: align_to_words(words, track) if name in self.averaged else track
            for name, track in clip.tracks.items()
        }
        return replace(clip, tracks=tracks)

    def checkpoint_record(self) -> dict[str, Any]:
        """The document's ``checkpoint`` object."""
        checkpoint = self.checkpoint
        return {
            "name": checkpoint.provenance.get("name", "unnamed"),
            "fingerprint": checkpoint.fingerprint(),
            "labels": list(checkpoint.label_set.names),
            "thresholds": dict(zip(checkpoint.label_set.names, _rounded(checkpoint.thresholds), strict=True)),
            "licence": checkpoint.licence,
            "features": {name: spec.fingerprint() for name, spec in self.extractors.specs.items()},
        }

    def predict_file(self, path: Path, notify: Notify = ignore) -> dict[str, Any]:
        """One element of the document's ``files``."""
        try:
            analysis = self.extractors.analyse(path, notify)
            return self.record(path, analysis, notify)
        except LambError as error:
            # the file under the name it was given by, as everywhere else in the record
            return failed_record(path, error.code, str(error).replace(repr(str(path.absolute())), repr(str(path))))
        except Exception as error:
            return failed_record(path, *unforeseen(path, error))

    def record(self, path: Path, analysis: Analysis, notify: Notify = ignore) -> dict[str, Any]:
        """The same element, of a file that was analysed before."""
        return self.records([(path, analysis)], notify)[0]

    def records(self, analysed: Sequence[tuple[Path, Analysis]], notify: Notify = ignore) -> list[dict[str, Any]]:
        """The elements of several files, whose utterances go through the model together."""
        clips = [self.readable(analysis.clips) for _, analysis in analysed]
        probabilities = np.zeros((0, len(self.checkpoint.label_set)))
        if any(clips):
            probabilities = self.checkpoint.predict([ready for found in clips for _, ready in found])
        ends = np.cumsum([len(found) for found in clips])[:-1]
        return [
            self._record(path, analysis, [clip for clip, _ in found], rows, notify)
            for (path, analysis), found, rows in zip(analysed, clips, np.split(probabilities, ends), strict=True)
        ]

    def _record(
        self, path: Path, analysis: Analysis, clips: list[Clip], probabilities: np.ndarray, notify: Notify
    ) -> dict[str, Any]:
        utterances = [
            {
                "start_s": round(clip.start_s, TIME_DIGITS),
                "end_s": round(clip.end_s, TIME_DIGITS),
                **({"face": int(clip.extra["face"])} if "face" in clip.extra else {}),
                "text": clip.text,
                **self._scores(row),
                "coverage": {name: round(clip.coverage(name), TIME_DIGITS) for name in ("text", "audio", "visual")},
            }
            for clip, row in zip(clips, probabilities, strict=True)
        ]
        notify(Event(path.name, "lamb", 1.0, f"{len(utterances)} utterances"))
        return {
            "file": str(path),
            "sha256": analysis.sha256,
            "duration_s": round(analysis.duration_s, TIME_DIGITS),
            "outcome": analysis.outcome,
            "reasons": list(analysis.reasons),
            "error": None,
            "utterances": utterances,
            "overall": self._overall(clips, probabilities),
        }

    def _overall(self, clips: list[Clip], probabilities: np.ndarray) -> dict[str, Any]:
        """Mean over utterances weighted by duration; labels are those whose mean passes the threshold."""
        if not len(probabilities):
            return {"probabilities": {}, "labels": []}
        weights = np.array([clip.end_s - clip.start_s for clip in clips])
        return self._scores(np.average(probabilities, axis=0, weights=weights))

    def _scores(self, row: np.ndarray) -> dict[str, Any]:
        names = self.checkpoint.label_set.names
        labels = [n for n, p, t in zip(names, row, self.checkpoint.thresholds, strict=True) if p >= t]
        return {"probabilities": dict(zip(names, _rounded(row), strict=True)), "labels": labels}


def _rounded(values: Any) -> list[float]:
    return [round(float(value), PROBABILITY_DIGITS) for value in values]


def unforeseen(path: Path, error: Exception) -> tuple[str, str]:
    """Code and line for an error that nobody foresaw: it costs one file, not the run. The traceback goes to the log at
    level DEBUG (``LAMB_DEBUG=1 lamb …`` shows it)."""
    _log.debug("unexpected error in %r", str(path), exc_info=error)
    line = f"Unexpected {type(error).__name__}: {' '.join(str(error).split())}."
    return "internal", f"{line} This is a defect of lamb; LAMB_DEBUG=1 shows where."


def failed_record(path: Path, code: str, message: str) -> dict[str, Any]:
    """The record of a file that could not be used."""
    return {
        "file": str(path),
        "sha256": None,
        "duration_s": None,
        "outcome": "failed",
        "reasons": [],
        "error": {"code": code, "message": message},
        "utterances": [],
        "overall": {"probabilities": {}, "labels": []},
    }


def document(
    checkpoint: dict[str, Any] | None, files: list[dict[str, Any]], error: LambError | None = None
) -> dict[str, Any]:
    """The whole JSON document. ``error`` is set only when the command could not start at all."""
    whole: dict[str, Any] = {"schema": SCHEMA, "checkpoint": checkpoint, "files": files}
    if error is not None:
        whole["error"] = {"code": error.code, "message": str(error)}
    return whole


def to_json(value: dict[str, Any], indent: int | None = 2) -> str:
    """JSON text in UTF-8; a file name that is not valid UTF-8 is written with escapes instead of failing."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode()


class OutputFolder:
    """A folder of results, one per input; creates it, and replaces nothing but earlier results of the same content.

    ``is_result`` tells whether a path that is already there is such a result.

    Raises InputError (output_unwritable) if the folder cannot be made or written.
    """

    def __init__(self, folder: Path, is_result: Callable[[Path], bool]) -> None:
        self.folder = folder
        self.is_result = is_result
        self._used: set[Path] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"Expected a writable folder at {str(folder)!r} but {error.strerror or error}.",
                code="output_unwritable",
                remedy="Choose another --output.",
            ) from error

    def place(self, source: Path, identity: str | None, suffix: str) -> Path:
        """A path in the folder for results of ``source``: its name and the first 8 digits of its content's sha256,
        numbered where two inputs of this run would meet or something that is no result is in the way."""
        name = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in source.name)
        name = name.encode("utf-8", "replace").decode().lstrip(".-") or "clip"
        stem = f"{name[:100]}.{(identity or 'failed')[:8]}"
        number, path = 1, self.folder / f"{stem}{suffix}"
        while path in self._used or (os.path.lexists(path) and not self.is_result(path)):
            number += 1
            path = self.folder / f"{stem}-{number}{suffix}"
        self._used.add(path)
        return path

    def write_text(self, path: Path, text: str) -> None:
        """Publish by atomic rename. Raises InputError (output_unwritable)."""
        publish(path, text.encode("utf-8"))


def publish(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place, then one rename. Raises InputError (output_unwritable)."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise InputError(
            f"Could not write {str(path)!r}: {error.strerror or error}.", code="output_unwritable"
        ) from error


def is_prediction(path: Path) -> bool:
    """Whether a file is a document of this schema, by its keys."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(whole, dict) and {"schema", "checkpoint", "files"} <= set(whole)
