"""RAVDESS speech (Livingstone & Russo 2018): 24 actors, two sentences, acted emotions at two intensities.

Layout: sound or video files (any depth) named ``modality-channel-emotion-intensity-statement-repetition-actor``.
Split by actor: 1–16 train, 17–18 valid, 19–24 test. Neutral and calm carry no emotion label.
"""

from __future__ import annotations

import re
from pathlib import Path

from data.sources import SOURCES, LabelledItem, Split, existing_folder

EMOTION_CODES = {
    "01": (),
    "02": (),
    "03": ("happiness",),
    "04": ("sadness",),
    "05": ("anger",),
    "06": ("fear",),
    "07": ("disgust",),
    "08": ("surprise",),
}
SUFFIXES = {".wav", ".flac", ".mp4"}
NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
LAST_TRAIN_ACTOR, LAST_VALID_ACTOR = 16, 18


@SOURCES.register("ravdess")
def read(folder: Path) -> list[LabelledItem]:
    """All recordings with a RAVDESS name. Raises InputError if there is none."""
    existing_folder(folder, "RAVDESS recordings", "**/0?-01-0?-0?-0?-0?-??.*")
    items = []
    for path in sorted(folder.rglob("*")):
        match = NAME.fullmatch(path.stem)
        if path.suffix.lower() not in SUFFIXES or match is None or match[3] not in EMOTION_CODES:
            continue
        labels = EMOTION_CODES[match[3]]
        items.append(LabelledItem(f"ravdess/{path.stem}", _split(int(match[7])), labels, f"actor{match[7]}", path=path))
    return items


def _split(actor: int) -> Split:
    if actor <= LAST_TRAIN_ACTOR:
        return "train"
    return "valid" if actor <= LAST_VALID_ACTOR else "test"
