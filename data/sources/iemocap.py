"""IEMOCAP (Busso et al. 2008): ten actors in five sessions of two, scripted and improvised dialogues.

Layout, per session: ``Session1/dialog/EmoEvaluation/<dialogue>.txt`` (times and label of each turn),
``dialog/avi/DivX/<dialogue>.avi``, ``dialog/transcriptions/<dialogue>.txt``, ``sentences/wav/<dialogue>/<turn>.wav``. An
item is a turn: a piece of the dialogue's video where that is there, else the turn's sound.

    SOURCES.get("iemocap")(Path("IEMOCAP_full_release"))

Excited counts as happiness, as is customary. Turns on which the raters did not agree (xxx), "other" and frustration, which
is none of the six emotions, are left out. Split by session, in which nobody appears twice: 1–3 train, 4 valid, 5 test; none
is published.

Known limit: a video shows both actors, one in each half, and no table says who is left. The face that is found may be the
listener's. The set is licensed to whoever asked for it and may not be passed on.
"""

from __future__ import annotations

import re
from pathlib import Path

from data.errors import InputError
from data.sources import SOURCES, LabelledItem, Split

LABELS: dict[str, tuple[str, ...] | None] = {
    "ang": ("anger",),
    "dis": ("disgust",),
    "fea": ("fear",),
    "hap": ("happiness",),
    "exc": ("happiness",),
    "sad": ("sadness",),
    "sur": ("surprise",),
    "neu": (),
    "fru": None,
    "xxx": None,
    "oth": None,
}  # None: left out
SPLIT_OF_SESSION: dict[str, Split] = {"1": "train", "2": "train", "3": "train", "4": "valid", "5": "test"}
TURN = re.compile(r"\[\s*([\d.]+)\s*-\s*([\d.]+)\s*\]\s+(\S+)\s+(\S+)(?:\s|$)")
NAME = re.compile(r"(Ses0([1-5]))[FM]_\w+_([FM])\w*\d+")
SAID = re.compile(r"(\S+)\s+\[[\d.\s-]+\]:\s*(.*)")


@SOURCES.register("iemocap")
def read(folder: Path) -> list[LabelledItem]:
    """All turns with one of the labels, by dialogue, in order of time. Raises InputError: none is there, an unknown label, or
    neither video nor sound of a turn (with file and line)."""
    tables = sorted(folder.glob("**/Session[1-5]/dialog/EmoEvaluation/*.txt"))
    if folder.name.startswith("Session"):  # one session by itself
        tables = sorted(folder.glob("dialog/EmoEvaluation/*.txt"))
    tables = [path for path in tables if not path.name.startswith(".")]
    if not tables:
        raise InputError(
            f"Expected IEMOCAP in {str(folder)!r} (with Session1/dialog/EmoEvaluation/*.txt) but it is not there.",
            code="no_dataset",
        )
    return [item for table in tables for item in _dialogue(table)]


def _dialogue(table: Path) -> list[LabelledItem]:
    session = table.parents[2]
    video = session / "dialog" / "avi" / "DivX" / f"{table.stem}.avi"
    video = video if video.is_file() else None
    words = _words(session / "dialog" / "transcriptions" / table.name)
    items = []
    for number, line in enumerate(table.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.startswith("["):
            continue
        turn = TURN.match(line)
        if turn is None and "[START_TIME" in line:  # the header
            continue
        name = NAME.fullmatch(turn[3]) if turn else None
        if turn is None or name is None or turn[4] not in LABELS:
            raise InputError(
                f"Expected [start - end], a turn and one of {', '.join(LABELS)} in {table.name} line {number} but got "
                f"{line[:80]!r}.",
                code="bad_dataset",
            )
        labels = LABELS[turn[4]]
        if labels is None:
            continue
        sound = session / "sentences" / "wav" / table.stem / f"{turn[3]}.wav"
        if video is None and not sound.is_file():
            raise InputError(
                f"Expected the video or the sound of {turn[3]} in {str(session)!r} (dialog/avi/DivX/{table.stem}.avi or "
                f"sentences/wav/{table.stem}/{turn[3]}.wav) but neither is there.",
                code="no_dataset",
            )
        times = (float(turn[1]), float(turn[2])) if video else (None, None)
        items.append(
            LabelledItem(
                f"iemocap/{turn[3]}",
                SPLIT_OF_SESSION[name[2]],
                labels,
                name[1] + name[3],
                words.get(turn[3]),
                video or sound,
                *times,
            )
        )
    return sorted(items, key=lambda item: (item.start_s or 0.0, item.id))


def _words(path: Path) -> dict[str, str]:
    """What is said in each turn; nothing where there is no transcription."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {found[1]: found[2].strip() for line in lines if (found := SAID.fullmatch(line.strip()))}
