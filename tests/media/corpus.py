"""The corpus: hostile, broken and odd files, each with the outcome that its user should get.

Nobody speaks and no face is seen in any of them, so the best outcome is "partial" with these two reasons. What can be
decoded is used; "failed" is for files in which nothing can be.

    cases = make_corpus(folder)                              # {file name: Case}, files made in the folder
    cases["cut.mp4"].outcome, cases["cut.mp4"].code          # ("failed", "truncated")
"""

from __future__ import annotations

from pathlib import Path

from tests.media.case import Case
from tests.media.recordings import CODECS, FRAMES, SOUND, STRUCTURE, TIMES
from tests.media.strangers import NO_MEDIA, PATHS, POINTERS

CASES = [*PATHS, *NO_MEDIA, *POINTERS, *CODECS, *FRAMES, *TIMES, *STRUCTURE, *SOUND]


def make_corpus(folder: Path) -> dict[str, Case]:
    """Make every file of the corpus in an existing folder; returns the cases by file name."""
    for case in CASES:
        case.make(folder / case.id)
    return {case.id: case for case in CASES}
