"""GoEmotions (Demszky et al. 2020), Ekman grouping: comments with any of six emotions, or neutral.

Layout: ``train.tsv``, ``dev.tsv``, ``test.tsv``: text, comma-separated label ids, comment id, separated by tabs;
``labels.txt`` names the ids. The published splits are kept.
"""

from __future__ import annotations

from pathlib import Path

from data.errors import InputError
from data.sources import NEUTRAL, SOURCES, LabelledItem, Split, existing_folder

FILES: dict[str, Split] = {"train.tsv": "train", "dev.tsv": "valid", "test.tsv": "test"}
OTHER_NAMES = {"joy": "happiness"}


@SOURCES.register("goemotions")
def read(folder: Path) -> list[LabelledItem]:
    """All comments. Raises InputError where the layout is not as described (with file and line)."""
    existing_folder(folder, "GoEmotions", "labels.txt")
    names = [OTHER_NAMES.get(name, name) for name in (folder / "labels.txt").read_text(encoding="utf-8").split()]
    items = []
    for file, split in FILES.items():
        path = existing_folder(folder, "GoEmotions", file) / file
        # Comments may hold U+0085 and other characters at which splitlines() would cut.
        for number, line in enumerate(path.read_text(encoding="utf-8").strip("\n").split("\n"), 1):
            try:
                text, ids, comment = line.rstrip("\r").split("\t")
                labels = [names[int(i)] for i in ids.split(",")]
            except (ValueError, IndexError) as error:
                raise InputError(
                    f"Expected text, label ids and comment id in {path.name} line {number} but got {line[:80]!r}.",
                    code="bad_dataset",
                ) from error
            emotions = tuple(label for label in labels if label != NEUTRAL)
            items.append(LabelledItem(f"goemotions/{comment}", split, emotions, text=text))
    return items
