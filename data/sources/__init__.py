"""Labelled data as it lies on disk: one file per dataset, each registered by name.

In: a folder in the dataset's public layout. Out: a list of :class:`LabelledItem`, in a fixed order, with splits in
which no speaker or person appears twice.

    items = SOURCES.get("ravdess")(Path("ravdess"))
    [item for item in items if item.split == "train"]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.errors import InputError
from data.registry import Registry

Split = Literal["train", "valid", "test"]
NEUTRAL = "neutral"

SOURCES = Registry("dataset", "data.sources")


@dataclass(frozen=True)
class LabelledItem:
    """One labelled text, sound, picture or video.

    ``labels`` are emotion names, empty for neutral; ``speaker`` is whoever is heard or seen, "" where unknown. Exactly
    one of ``text`` and ``path`` is given.
    """

    id: str
    split: Split
    labels: tuple[str, ...]
    speaker: str = ""
    text: str | None = None
    path: Path | None = None


def existing_folder(folder: Path, what: str, example: str) -> Path:
    """The folder, if it holds ``example``. Raises InputError that says what was expected."""
    if not (folder / example).exists() and not any(folder.glob(example)):
        raise InputError(f"Expected {what} in {str(folder)!r} (with {example}) but it is not there.", code="no_dataset")
    return folder
