"""Small media files for tests, made with ffmpeg on the spot. Every function returns the path it wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path

from extractors.media import ffmpeg_binary


def ffmpeg(*arguments: object) -> None:
    """Run ffmpeg; fails the test with its message if it fails."""
    command = [ffmpeg_binary(), "-nostdin", "-y", "-loglevel", "error", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def moving_picture(
    path: Path, *, seconds: float = 1.0, rate: float = 25, size: str = "160x120", options: tuple = ()
) -> Path:
    """A test pattern without sound."""
    source = f"testsrc=size={size}:rate={rate}:duration={seconds}"
    ffmpeg("-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", *options, path)
    return path


def tone(path: Path, *, seconds: float = 1.0, rate: int = 44100, frequency: float = 440.0, options: tuple = ()) -> Path:
    """A sine, no pictures."""
    ffmpeg("-f", "lavfi", "-i", f"sine=frequency={frequency}:sample_rate={rate}:duration={seconds}", *options, path)
    return path


def picture_and_tone(path: Path, *, seconds: float = 1.0, options: tuple = ()) -> Path:
    """A test pattern with a sine."""
    ffmpeg(
        "-f", "lavfi", "-i", f"testsrc=size=160x120:rate=25:duration={seconds}",
        "-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=44100:duration={seconds}",
        "-pix_fmt", "yuv420p", *options, path,
    )  # fmt: skip
    return path
