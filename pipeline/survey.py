"""How long videos are, asked of their headers in a process of its own: a file that breaks the reader breaks nothing else.

In: paths. Out: their lengths in seconds, None where there is none to be had.

    lengths = survey([Path("a.mp4"), Path("b.mp4")], timeout_s=20)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import LambError


def survey(paths: Sequence[Path], timeout_s: float = 20.0) -> list[float | None]:
    """Length of each file, seconds; None for what cannot be read, or not within the time all of them have."""
    question = json.dumps([os.fspath(path) for path in paths]).encode()
    command = [sys.executable, "-m", "pipeline.survey"]
    try:
        done = subprocess.run(command, input=question, capture_output=True, timeout=timeout_s, check=False)
        answers = done.stdout
    except subprocess.TimeoutExpired as error:
        answers = error.stdout or b""
    lengths: list[float | None] = [
        json.loads(line) for line in answers.splitlines(keepends=True) if line.endswith(b"\n")
    ]
    return [*lengths, *[None] * (len(paths) - len(lengths))]


def main() -> None:
    """Answer one line per path of the JSON list on stdin."""
    from extractors.media import probe

    for path in json.loads(sys.stdin.buffer.read()):
        try:
            length = probe(Path(path)).duration_s
        except LambError:
            length = None
        print(json.dumps(length), flush=True)


if __name__ == "__main__":
    main()
