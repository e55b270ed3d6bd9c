"""CREMA-D (Cao et al. 2014): 91 actors, twelve sentences, six acted emotions.

Layout: sound or video files (any depth) named ``actor_sentence_emotion_intensity``, e.g. ``1001_DFA_ANG_XX.wav``. Where a
recording is there as video and as sound, the video counts, which has both. Split by actor, 70 / 10 / 20 %, emotions in
proportion; no split is published. The same files give the same split.
"""

from __future__ import annotations

import re
from pathlib import Path

from data.errors import InputError
from data.sources import SOURCES, LabelledItem
from data.splits import stratified_group_split

EMOTION_CODES = {
    "ANG": ("anger",),
    "DIS": ("disgust",),
    "FEA": ("fear",),
    "HAP": ("happiness",),
    "NEU": (),
    "SAD": ("sadness",),
}
SUFFIXES = (".mp4", ".flv", ".wav")  # first one that is there
NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_(XX|LO|MD|HI|X)")
SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}


@SOURCES.register("crema-d")
def read(folder: Path) -> list[LabelledItem]:
    """All recordings with a CREMA-D name, one item each. Raises InputError if there is none."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: (path.stem, _rank(path))):
        if NAME.fullmatch(path.stem) and path.stem[9:12] in EMOTION_CODES and path.suffix.lower() in SUFFIXES:
            found.setdefault(path.stem, path)
    if not found:
        raise InputError(
            f"Expected CREMA-D recordings in {str(folder)!r} (like 1001_DFA_ANG_XX.wav) but there is none.",
            code="no_dataset",
        )
    actors = [stem[:4] for stem in found]
    labels = [EMOTION_CODES[stem[9:12]] for stem in found]
    splits = stratified_group_split(actors, labels, SHARES)
    return [
        LabelledItem(f"crema-d/{stem}", splits[actor], label, f"actor{actor}", path=path)  # type: ignore[arg-type]
        for (stem, path), actor, label in zip(found.items(), actors, labels, strict=True)
    ]


def _rank(path: Path) -> int:
    suffix = path.suffix.lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES)
