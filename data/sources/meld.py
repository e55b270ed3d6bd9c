"""MELD (Poria et al. 2019): utterances of the series "Friends", seven emotions, one per utterance.

Layout: ``train_sent_emo.csv``, ``dev_sent_emo.csv``, ``test_sent_emo.csv`` and, at any depth, the folders ``train_splits``,
``dev_splits_complete``, ``output_repeated_splits_test`` with ``dia<N>_utt<M>.mp4``. With video folders the items are videos
with what is said in them; without any, the written utterances. The published splits are kept, so the six main characters
are in all three.

An utterance whose video is not there or is empty is left out, as the release lacks one itself (dev, dialogue 110, utterance
7); more than 2 % missing from a split means an incomplete unpacking and is an error. One video of the release (train,
dialogue 125, utterance 3) is known to be broken: that shows only when it is opened.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from data.errors import InputError
from data.labels import EMOTIONS
from data.sources import NEUTRAL, SOURCES, LabelledItem, Split, existing_folder

FILES: dict[Split, tuple[str, str]] = {
    "train": ("train_sent_emo.csv", "train_splits"),
    "valid": ("dev_sent_emo.csv", "dev_splits_complete"),
    "test": ("test_sent_emo.csv", "output_repeated_splits_test"),
}
OTHER_NAMES = {"joy": "happiness"}
MOST_MISSING = 0.02
C1 = re.compile("[\x80-\x9f]")


@SOURCES.register("meld")
def read(folder: Path) -> list[LabelledItem]:
    """All utterances. Raises InputError: a table or many videos are missing, or a row is not as described."""
    videos = {split: next(iter(sorted(folder.glob(f"**/{name}"))), None) for split, (_, name) in FILES.items()}
    items = []
    for split, (table, name) in FILES.items():
        existing_folder(folder, "MELD", f"**/{table}")
        rows = list(_rows(next(iter(sorted(folder.glob(f"**/{table}"))))))
        if not any(videos.values()):
            items += [
                LabelledItem(f"meld/{split}/{id_}", split, labels, speaker, text=text)
                for id_, labels, speaker, text in rows
            ]
            continue
        place = videos[split] or folder / name
        found = [(*row, place / f"{row[0]}.mp4") for row in rows]
        found = [row for row in found if row[4].is_file() and row[4].stat().st_size]
        if len(rows) - len(found) > max(1, MOST_MISSING * len(rows)):
            raise InputError(
                f"Expected the {len(rows)} videos of {table} in {str(place)!r} but {len(rows) - len(found)} are missing.",
                remedy="Unpack all three archives of MELD.Raw, or none to use the text alone.",
                code="no_dataset",
            )
        items += [
            LabelledItem(f"meld/{split}/{id_}", split, labels, speaker, text, path)
            for id_, labels, speaker, text, path in found
        ]
    return items


def _rows(path: Path) -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    """Name of the video, labels, speaker and words of each row."""
    for number, row in enumerate(csv.DictReader(io.StringIO(_decoded(path.read_bytes()), newline="")), 2):
        try:
            emotion = row["Emotion"].strip().lower()
            emotion = OTHER_NAMES.get(emotion, emotion)
            if emotion not in (*EMOTIONS, NEUTRAL):
                raise ValueError(f"emotion {emotion!r}")
            id_ = f"dia{int(row['Dialogue_ID'])}_utt{int(row['Utterance_ID'])}"
            yield id_, () if emotion == NEUTRAL else (emotion,), row["Speaker"].strip(), row["Utterance"].strip()
        except (KeyError, ValueError, AttributeError) as error:
            raise InputError(
                f"Expected Utterance, Speaker, Emotion, Dialogue_ID and Utterance_ID in {path.name} row {number} but got "
                f"{type(error).__name__}: {error}.",
                code="bad_dataset",
            ) from error


def _decoded(content: bytes) -> str:
    """UTF-8, single lines cp1252; and cp1252's quotes and dashes where they came in as control characters (U+0091 …)."""
    lines = []
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            lines.append(line.decode("cp1252", "replace"))
    return C1.sub(lambda found: found[0].encode("latin1").decode("cp1252", "replace"), "\n".join(lines))
