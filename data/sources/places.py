"""What the readers of people's own folders share: which files are recordings, where a named one lies, names of splits.

    finder = MediaFinder(Path("corrected"))
    finder.find("./clip.mp4", Path("corrected/session1"))     # a path below the folder, or None
    split_named("val")                                        # "valid"

Annotations made elsewhere name their media by paths of another machine. What counts is the file's name; it is looked for below
the folder that was given and nowhere else, so that a file by strangers opens nothing outside it.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from data.errors import InputError
from data.sources import NEUTRAL, Split

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .flv .wmv .mpg .mpeg .mts .m2ts .ts .3gp .ogv".split())
SOUND_SUFFIXES = frozenset(".wav .flac .mp3 .m4a .aac .ogg .opus .wma".split())
MEDIA_SUFFIXES = VIDEO_SUFFIXES | SOUND_SUFFIXES
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
LIST_SEPARATORS = re.compile(r"[;,|+]")


def split_named(name: str) -> Split | None:
    """The split that a folder is named after, or None."""
    return SPLIT_NAMES.get(name.strip().lower())


def is_media(path: Path) -> bool:
    """Whether a file is a recording by its suffix, and not one of those that systems hide (``._clip.mp4``)."""
    return path.suffix.lower() in MEDIA_SUFFIXES and not path.name.startswith(".")


def label_list(text: str) -> tuple[str, ...]:
    """Names in a list like ``anger; sadness``, each once, in order; ``neutral`` is no label."""
    names = (" ".join(name.split()) for name in LIST_SEPARATORS.split(text))
    return tuple(dict.fromkeys(name for name in names if name and name.lower() != NEUTRAL))


class MediaFinder:
    """Recordings below one folder, by name. The folder is looked through once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, list[Path]] = {}
        for path in sorted(root.rglob("*")):
            if is_media(path) and path.is_file():
                self._by_name.setdefault(path.name, []).append(path)

    def names(self) -> list[str]:
        """Names of all recordings."""
        return list(self._by_name)

    def find(self, address: str, beside: Path) -> Path | None:
        """The recording that ``address`` (a path or URL, also of another machine) means, or None.

        In this order: at that path relative to ``beside`` if this stays below the root; the same name in ``beside``; the
        same name anywhere below the root. Raises InputError where the last gives several.
        """
        for path in _readings(address):
            candidates = self._by_name.get(path.name, [])
            if not path.is_absolute():
                near = (beside / path).resolve()
                for candidate in candidates:
                    if candidate.resolve() == near:
                        return candidate
            for candidate in candidates:
                if candidate.parent == beside:
                    return candidate
            if len(candidates) > 1:
                raise InputError(
                    f"Expected one {path.name!r} below {str(self.root)!r} but found {len(candidates)}.",
                    remedy="Put the one that is meant beside its annotations.",
                    code="bad_dataset",
                )
            if candidates:
                return candidates[0]
        return None


def _readings(address: str) -> list[PurePosixPath]:
    """What an address may mean: a path as it stands, or a URL with its escapes undone."""
    plain = address.replace("\\", "/")
    try:
        url = unquote(urlsplit(plain).path)
    except ValueError:
        url = plain
    return [PurePosixPath(path) for path in dict.fromkeys((plain, url)) if PurePosixPath(path).name]
