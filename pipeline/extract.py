"""Extraction alone: one folder per file with its tracks, words and a description.

In: a media file. Out: ``features/clip.mp4.1a2b3c4d/`` with text, audio, visual, blendshapes (.safetensors, .json) and
clip.json; of one stage alone: ``features/clip.mp4.1a2b3c4d.acoustic/``. Tables (.csv) on top where wanted.

    extract_file(Path("clip.mp4"), Extractors(settings), OutputFolder(Path("features"), is_extraction))
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.track import FeatureTrack
from pipeline.events import Notify, ignore
from pipeline.predict import OutputFolder, to_json
from pipeline.video import Analysis, Extractors, Stage

KIND = "lamb-features"


def extract_file(
    path: Path,
    extractors: Extractors,
    folder: OutputFolder,
    notify: Notify = ignore,
    *,
    only: Stage | None = None,
    tables: bool = False,
) -> Path:
    """Extract one file and return the folder written; an earlier result for the same content is replaced whole.

    ``only`` runs one stage; ``tables`` writes each track as CSV too (:func:`write_csv`).

    Raises LambError (see ``Extractors.analyse``); InputError (output_unwritable).
    """
    analysis = extractors.extract_one(only, path, notify) if only else extractors.analyse(path, notify)
    target = folder.place(path, analysis.sha256, f".{only}" if only else "")
    partial = None
    try:
        partial = Path(tempfile.mkdtemp(dir=folder.folder, prefix=".partial-"))
        write_features(analysis, path, partial, tables)
        if target.exists():  # an earlier result: `place` allows no other
            shutil.rmtree(target)
        partial.chmod(0o755)
        partial.rename(target)
    except OSError as error:
        raise InputError(
            f"Could not write {str(target)!r}: {error.strerror or error}.", code="output_unwritable"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def is_extraction(folder: Path) -> bool:
    """Whether a folder is what :func:`extract_file` writes."""
    try:
        return json.loads((folder / "clip.json").read_text(encoding="utf-8")).get("kind") == KIND
    except (OSError, ValueError, AttributeError):
        return False


def write_csv(track: FeatureTrack, path: Path) -> None:
    """A row per step: start_s, end_s, valid (0/1), then the columns by name. Cells where nothing was observed, or where
    the column does not exist (pitch without voice), are empty: no number stands for "none"."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["start_s", "end_s", "valid", *track.spec.columns])
        for i, valid in enumerate(track.valid):
            known = [valid] * track.spec.dim if track.defined is None else track.defined[i]
            cells = [f"{value:.7g}" if there else "" for value, there in zip(track.values[i], known, strict=True)]
            writer.writerow([f"{track.start_s[i]:.4f}", f"{track.end_s[i]:.4f}", int(valid), *cells])


def write_features(analysis: Analysis, path: Path, folder: Path, tables: bool = False, **more: str) -> None:
    """All tracks of a file into a folder, and ``clip.json`` last; ``more`` is added to that. Raises OSError."""
    for name, track in analysis.tracks.items():
        track.save(folder / name)
        if tables:
            write_csv(track, folder / f"{name}.csv")
    if analysis.blendshapes is not None:
        analysis.blendshapes.save(folder / "blendshapes")
    for number, face in enumerate(analysis.faces):
        face.save(folder / f"face{number}")
    record = {
        "schema": 1,
        "kind": KIND,
        **outcome_record(path, analysis),
        "words": [asdict(word) for word in analysis.words],
        "utterances": [asdict(utterance) for utterance in analysis.utterances],
        "features": {name: track.spec.fingerprint() for name, track in analysis.tracks.items()},
        **more,
    }
    (folder / "clip.json").write_text(to_json(record) + "\n", encoding="utf-8")


def outcome_record(path: Path, analysis: Analysis) -> dict[str, Any]:
    """What is known of a file besides its features."""
    return {
        "file": str(path),
        "sha256": analysis.sha256,
        "duration_s": analysis.duration_s,
        "outcome": analysis.outcome,
        "reasons": list(analysis.reasons),
    }
