"""A folder run with fake workers as a process of its own, so that a test can kill it: folder, output and options as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pipeline.crew
from pipeline.books import Done
from pipeline.folder import FolderOptions, FolderRun
from tests.fake_worker import FakePlan

ABOUT = {"name": "fake", "fingerprint": "0", "labels": ["anger"], "thresholds": {}, "licence": "", "features": {}}


def fake_run(
    folder: Path, output: Path, marks: Path, setting: str = "", slow_s: float = 0.0, **options: Any
) -> FolderRun:
    """A run whose workers are :mod:`tests.fake_worker`."""
    pipeline.crew.WORKER = [sys.executable, "-m", "tests.fake_worker"]
    marks.mkdir(exist_ok=True)
    start = {"output": os.fspath(output), "marks": os.fspath(marks), "setting": setting, "slow_s": slow_s}
    return FolderRun(FolderOptions(folder, output, **options), FakePlan(setting), start, ABOUT)  # type: ignore[arg-type]


def complete(run: FolderRun, again: bool = True) -> list[Done]:
    """Scan, work, write the tables; what was done in this run, in order."""
    done: list[Done] = []
    run.scan()
    run.work(done.append)
    run.finish()
    return done


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    paths = {name: Path(given.pop(name)) for name in ("folder", "output", "marks")}
    finished = complete(fake_run(**paths, **given))
    print(json.dumps([one.name for one in finished if not one.cached]))
