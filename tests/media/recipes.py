"""Small recordings made with ffmpeg. In: a path and what is odd about it. Out: the file; pictures are 64×48 at 10 Hz and
sound is a tone of 440 Hz, one second each, unless said otherwise.

    clip("-c:v", "mpeg4", "-c:a", "mp3")(folder / "old.avi")
    content = made("mkv")                                    # bytes of the plain clip
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.media_maker import ffmpeg

Make = Callable[[Path], None]


def pictures(seconds: float = 1.0, size: str = "64x48", rate: float = 10, pattern: str = "testsrc") -> tuple[str, ...]:
    """ffmpeg's arguments for an input of moving pictures; ``pattern`` may be ``color=c=gray``."""
    return "-f", "lavfi", "-i", f"{pattern}{':' if '=' in pattern else '='}size={size}:rate={rate}:duration={seconds}"


def sound(seconds: float = 1.0, rate: int = 16000) -> tuple[str, ...]:
    """ffmpeg's arguments for an input of a tone."""
    return "-f", "lavfi", "-i", f"sine=frequency=440:sample_rate={rate}:duration={seconds}"


def encode(path: Path, *arguments: object) -> None:
    """Run ffmpeg into a file of this name, however odd it is: ffmpeg writes to a plain one, which is then renamed."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as folder:
        plain = Path(folder) / ("plain" + (path.suffix if path.suffix[1:].isalnum() else ".mp4"))
        ffmpeg(*arguments, plain)
        plain.rename(path)


def clip(*options: object, picture: tuple[str, ...] | None = None, tone: tuple[str, ...] | None = None) -> Make:
    """A maker of pictures with sound; an empty tuple leaves one of the two out."""
    inputs = (*(pictures() if picture is None else picture), *(sound() if tone is None else tone))
    if "-pix_fmt" not in options and picture != ():
        options = ("-pix_fmt", "yuv420p", *options)
    return lambda path: encode(path, *inputs, *options)


def silent_clip(*options: object, **how: tuple[str, ...]) -> Make:
    """A maker of pictures without a sound track."""
    return clip(*options, tone=(), **how)


def tone(*options: object, seconds: float = 1.0, rate: int = 16000) -> Make:
    """A maker of sound without pictures."""
    return clip(*options, picture=(), tone=sound(seconds, rate))


@cache
def made(extension: str, *options: object, seconds: float = 1.0) -> bytes:
    """The plain clip in a container, as bytes to operate on; made once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{extension}"
        if extension in ("wav", "mp3", "flac", "ogg", "m4a"):
            tone(*options, seconds=seconds)(path)
        else:
            clip(*options, picture=pictures(seconds), tone=sound(seconds))(path)
        return path.read_bytes()


def content(data: bytes | str | Callable[[], bytes]) -> Make:
    """A maker of a file with these bytes."""

    def make(path: Path) -> None:
        whole = data() if callable(data) else data
        path.write_bytes(whole.encode() if isinstance(whole, str) else whole)

    return make


def plain(path: Path) -> None:
    """The plain clip under this name, in MP4 whatever the name says."""
    path.write_bytes(made("mp4"))
