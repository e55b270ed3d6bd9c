"""How long videos are, asked of their headers in a process of its own: a file that breaks the reader breaks nothing else.

In: paths. Out: their lengths in seconds, None where there is none to be had; or what is wrong with them.

    lengths = survey([Path("a.mp4"), Path("b.mp4")], timeout_s=20)
    found = examine([Path("a.mp4"), Path("notes.txt")])      # [4.2, "Expected a video or audio file but …"]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import LambError

ASKING_S, ASKING_S_PER_FILE = 30.0, 0.5
RESTARTS = 20  # as many files may break the process that asks


def survey(paths: Sequence[Path], timeout_s: float = 20.0) -> list[float | None]:
    """Length of each file, seconds; None for what cannot be read, or not within the time all of them have."""
    answers: list[float | None] = [found if isinstance(found, float) else None for found in _ask(paths, timeout_s)]
    return [*answers, *[None] * (len(paths) - len(answers))]


def examine(paths: Sequence[Path]) -> list[float | str | None]:
    """Length of each file, seconds; or the line that says why it cannot be used; None where even asking went wrong: then
    whoever opens it finds out."""
    found: list[float | str | None] = []
    for _ in range(RESTARTS):
        left = paths[len(found) :]
        if not left:
            break
        found += _ask(left, ASKING_S + ASKING_S_PER_FILE * len(left))
        if len(found) < len(paths):
            found.append(None)  # the one that broke it
    return [*found, *[None] * (len(paths) - len(found))]


def _ask(paths: Sequence[Path], timeout_s: float) -> list[float | str]:
    question = json.dumps([os.fspath(path) for path in paths]).encode()
    command = [sys.executable, "-m", "pipeline.survey"]
    try:
        done = subprocess.run(command, input=question, capture_output=True, timeout=timeout_s, check=False)
        answers = done.stdout
    except subprocess.TimeoutExpired as error:
        answers = error.stdout or b""
    return [json.loads(line) for line in answers.splitlines(keepends=True) if line.endswith(b"\n")]


def main() -> None:
    """Answer one line per path of the JSON list on stdin: seconds, or what is wrong."""
    from extractors.media import probe

    for path in json.loads(sys.stdin.buffer.read()):
        try:
            answer: float | str = float(probe(Path(path)).duration_s)
        except LambError as error:
            answer = str(error)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
