"""What a case of the corpus is.

good("odd.mp4", clip("-c:v", "mpeg4"), *BOTH), bad("cut.mp4", content(half), "truncated")
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.media.recipes import Make

BOTH = ("no_speech", "no_face")
ONLY_SOUND = ("no_speech", "no_video")
ONLY_PICTURES = ("no_audio", "no_face")


@dataclass(frozen=True)
class Case:
    """A file, how to make it, and what must come of it.

    id : its name in the folder. outcome, code, reasons : as docs/output.md defines them. listed : whether a search of the
    folder should find it.
    """

    id: str
    make: Make
    outcome: str
    code: str = ""
    reasons: tuple[str, ...] = ()
    listed: bool = True

    @property
    def label(self) -> str:
        """The name as text that any terminal shows."""
        return ascii(self.id)[1:-1][:60]


def good(id: str, make: Make, *reasons: str) -> Case:
    return Case(id, make, "partial", reasons=reasons or BOTH)


def bad(id: str, make: Make, code: str, *, listed: bool = True) -> Case:
    return Case(id, make, "failed", code, listed=listed)
