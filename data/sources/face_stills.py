"""Photographs of faces with one emotion each (the "facial_expressions" collection).

Layout: pictures beside ``labels.csv`` with the columns ``image,emotion``. Split by person (the name before the number),
70 / 10 / 20 %, emotions in proportion as far as that goes: two people make up most of "disgust".
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from data.errors import InputError
from data.labels import EMOTIONS
from data.sources import NEUTRAL, SOURCES, LabelledItem, existing_folder
from data.splits import stratified_group_split

SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}


@SOURCES.register("face-stills")
def read(folder: Path) -> list[LabelledItem]:
    """All pictures that ``labels.csv`` names. Raises InputError for a missing picture or an unknown emotion."""
    existing_folder(folder, "face photographs", "labels.csv")
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = [(row.get("image") or "", row.get("emotion") or "") for row in csv.DictReader(stream)]
    for name, emotion in rows:
        if emotion not in (*EMOTIONS, NEUTRAL) or not (folder / name).is_file():
            raise InputError(
                f"Expected a picture and one of {', '.join(EMOTIONS)} or {NEUTRAL} in labels.csv: {name!r}, {emotion!r}.",
                code="bad_dataset",
            )
    people = [re.sub(r"_?\d+$", "", Path(name).stem).lower() for name, _ in rows]
    labels = [() if emotion == NEUTRAL else (emotion,) for _, emotion in rows]
    splits = stratified_group_split(people, labels, SHARES)
    return [
        LabelledItem(f"face-stills/{name}", splits[person], label, person, path=folder / name)  # type: ignore[arg-type]
        for (name, _), person, label in zip(rows, people, labels, strict=True)
    ]
