"""Labelled data as it lies on disk: one file per dataset, each registered by name.

Two kinds. Raw sets give a list of :class:`LabelledItem` (text, sound, pictures or videos, whose features are still to be
extracted), in a fixed order, with splits in which no speaker or person appears twice unless they were published so. Feature
sets come as the arrays of an earlier extraction and give a :class:`data.dataset.Reading`.

    items = SOURCES.get("ravdess")(Path("ravdess"))
    [item for item in items if item.split == "train"]
    reading = FEATURE_SOURCES.get("mosei-csd")(Path("cmu_mosei"), aligned=True)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from data.errors import InputError
from data.registry import Registry

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
NEUTRAL = "neutral"

SOURCES = Registry("raw dataset", "data.sources")
FEATURE_SOURCES = Registry("feature dataset", "data.sources")


@dataclass(frozen=True)
class LabelledItem:
    """One labelled text, sound, picture or video.

    ``labels`` are emotion names, empty for neutral; ``speaker`` is whoever is heard or seen, "" where unknown. ``split`` None:
    to be chosen for the set as a whole. ``start_s``, ``end_s`` are seconds on the file's own clock, None for the whole file.
    ``text`` (what is said) or ``path`` may be missing, not both.
    """

    id: str
    split: Split | None
    labels: tuple[str, ...]
    speaker: str = ""
    text: str | None = None
    path: Path | None = None
    start_s: float | None = None
    end_s: float | None = None


def existing_folder(folder: Path, what: str, example: str) -> Path:
    """The folder, if it holds ``example``. Raises InputError that says what was expected."""
    if not (folder / example).exists() and not any(folder.glob(example)):
        raise InputError(f"Expected {what} in {str(folder)!r} (with {example}) but it is not there.", code="no_dataset")
    return folder
