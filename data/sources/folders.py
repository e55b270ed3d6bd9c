"""Videos in a folder per label: ``videos/anger/x.mp4``, of any names and number.

Layout: recordings below folders whose name says what holds: ``anger``, ``anger+sadness`` for both, ``neutral`` for none. A
folder ``train``, ``valid`` (``val``, ``dev``) or ``test`` above a label's says the split; without any, splits are chosen
for the set as a whole. Folders above and below these are ignored, the label is the nearest folder below the split or the
place itself.

    SOURCES.get("folders")(Path("videos"))       # videos/train/anger/friends/x.mp4: anger, train

Who speaks is not known. A recording that lies in two folders is two items.
"""

from __future__ import annotations

from pathlib import Path

from data.errors import InputError
from data.sources import SOURCES, LabelledItem, Split
from data.sources.places import is_media, label_list, split_named


@SOURCES.register("folders")
def read(folder: Path) -> list[LabelledItem]:
    """All recordings, in the order of their paths. Raises InputError: there is none, one lies in no label's folder, or only
    some lie in a split's."""
    if not folder.is_dir():
        raise InputError(f"Expected a folder at {str(folder)!r} but there is none.", code="no_dataset")
    items = []
    for path in sorted(folder.rglob("*")):
        if is_media(path) and path.is_file():
            place = path.relative_to(folder)
            split, label = _split_and_label(place)
            items.append(LabelledItem(f"folders/{place.as_posix()}", split, label_list(label), path=path))
    if not items:
        raise InputError(
            f"Expected recordings in a folder per label in {str(folder)!r} (like anger/x.mp4) but there is none.",
            code="no_dataset",
        )
    loose = next((item for item in items if item.split is None), None)
    if loose is not None and any(item.split is not None for item in items):
        raise InputError(
            f"Expected every recording below a split's folder (train, valid, test), or none, but {loose.id!r} is not.",
            code="bad_dataset",
        )
    return items


def _split_and_label(place: Path) -> tuple[Split | None, str]:
    """Split and the label's folder of a recording, whose path below the place is ``place``."""
    above = place.parts[:-1]
    splits = [i for i, name in enumerate(above) if split_named(name)]
    if len(splits) > 1:
        raise InputError(f"Expected one split's folder above {place.as_posix()!r} but got two.", code="bad_dataset")
    first = splits[0] + 1 if splits else 0
    if len(above) <= first:
        raise InputError(
            f"Expected {place.as_posix()!r} in a label's folder (like anger/{place.name}) but it is in none.",
            remedy="A folder 'neutral' takes what has no label.",
            code="bad_dataset",
        )
    return (split_named(above[splits[0]]) if splits else None), above[first]
