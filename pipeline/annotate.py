"""What LAMB said, written for ELAN or Label Studio, so that people correct it and train on what they corrected.

In: results of `lamb predict --json` or a results folder of `lamb label`. Out: an ``.eaf`` per recording, or ``tasks.json`` and
``config.xml`` for Label Studio. What comes back: ``lamb dataset import elan|label-studio``.

    annotate(Path("results"), Path("videos"), Path("corrections"), "elan")
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from data.annotations import elan_file, label_studio_config, label_studio_tasks, labels_of, read_documents
from data.errors import InputError
from pipeline.books import MARKER
from pipeline.stages import fitting

Tool = Literal["elan", "label-studio"]


def annotate(results: Path, videos: Path | None, output: Path, tool: Tool) -> list[Path]:
    """Write annotations of all recordings in ``results`` into the new folder ``output``; the files written.

    ``videos`` is the folder that names in the results are below; default: the one that `lamb label` noted, else the
    current one. Raises InputError: no results, or something is at ``output``.
    """
    if output.exists():
        raise InputError(f"Expected no file or folder at {str(output)!r} but there is one.", code="output_exists")
    documents = list(read_documents(results / "json" if (results / "json").is_dir() else results))
    below = (videos or _noted(results) or Path()).absolute()
    contents: dict[str, bytes] = {}
    if tool == "label-studio":
        labels = dict.fromkeys(name for document in documents for name in labels_of(document))
        tasks = label_studio_tasks(documents)
        contents["tasks.json"] = (json.dumps(tasks, indent=1, ensure_ascii=False) + "\n").encode()
        contents["config.xml"] = label_studio_config(labels).encode()
    else:
        for document in documents:
            for record in document["files"]:
                name = _below(str(record["file"]), below)
                target = output.absolute() / fitting(name, ".eaf")
                media = os.path.relpath(below / record["file"], target.parent).replace(os.sep, "/")
                content = elan_file(record, labels_of(document), media)
                if content is not None:
                    contents[fitting(name, ".eaf")] = content
    if not contents:
        raise InputError("Expected results of a recording but all failed.", code="no_results")
    try:
        for name, content in contents.items():
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"Could not write {str(output)!r}: {error.strerror or error}.", code="output_unwritable"
        ) from error
    return [output / name for name in contents]


def _noted(results: Path) -> Path | None:
    """The folder that a run of `lamb label` was over."""
    try:
        folder = Path(json.loads((results / MARKER).read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if folder.is_dir() else None


def _below(file: str, folder: Path) -> str:
    """A name within the output for a recording: its path below the folder, else its last part."""
    path = Path(os.path.normpath(folder / file))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
