"""One worker process of a folder run: JSON lines in, JSON lines out.

In (stdin): first the settings, then tasks, one per line. Out (stdout): per task progress lines and one result.

    {"output": "results", "settings": {...}, "product": "labels", "checkpoint": null, ...}
    {"task": 7, "stage": "speech", "item": {...}, "opened": {...}, "open_s": 0.2}
    < {"task": 7, "fraction": 0.5}
    < {"task": 7, "seconds": 1.25}     or    {"task": 7, "error": {"code": "changed", "message": "one line"}}

When stdin ends, whoever gave the tasks is gone: the process and all that it started end at once. Models are loaded when a
task first needs them. Nothing but results is ever written to stdout, whatever libraries print.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from data.errors import LambError
from pipeline.events import Event
from pipeline.settings import PipelineSettings
from pipeline.stages import Item, Opened, Plan, StageRunner
from pipeline.store import LocalStore
from pipeline.video import Extractors

PROGRESS_S = 0.5  # at most one progress line in that time


def make_runner(start: dict[str, Any]) -> StageRunner:
    """The runner that the first line describes. Raises LambError."""
    from pipeline.predict import Predictor, load_checkpoint

    extractors = Extractors(PipelineSettings.model_validate(start["settings"]))
    predictor, fingerprint = None, ""
    if start["product"] == "labels":
        path = start["checkpoint"]
        checkpoint = load_checkpoint(Path(path) if path else None, extractors.settings.compute_device)
        predictor, fingerprint = Predictor(checkpoint, extractors), checkpoint.fingerprint()
    plan = Plan(extractors, start["product"], fingerprint, start["only"], start["tables"])
    return StageRunner(plan, extractors, LocalStore(Path(start["output"])), predictor)


def perform(runner: StageRunner, task: dict[str, Any], notify: Callable[[Event], None]) -> dict[str, Any]:
    """One task's result line."""
    item, stage = Item(**task["item"]), task["stage"]
    try:
        if stage == "open":
            started = time.monotonic()
            opened = runner.open(item, notify)
            return {"opened": opened.to_dict(), "seconds": time.monotonic() - started}
        opened = Opened.from_dict(task["opened"], item.path)
        if stage == "finish":
            record = runner.finish(item, opened, task["open_s"], notify)
            return {"outcome": record["outcome"], "seconds": record["seconds"]["finish"]}
        return {"seconds": runner.run(stage, item, opened, notify)}
    except Exception as error:
        from pipeline.stages import failure

        return {"error": failure(item, error)["error"]}


def main() -> None:
    """Serve tasks until stdin ends."""
    results = _private_stdout()
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    runner: StageRunner | None = None
    start = json.loads(lines.get())
    while True:
        task = json.loads(lines.get())
        try:
            runner = runner or make_runner(start)
            result = perform(runner, task, _progress(results, task["task"]))
        except LambError as error:  # the settings worked in the process that sent them; here they do not
            result = {"error": {"code": error.code, "message": str(error)}, "fatal": True}
        _send(results, {"task": task["task"], **result})


def _private_stdout() -> BinaryIO:
    """The real stdout for results; what libraries print goes to stderr from here on."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return results


def _read(lines: queue.Queue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    if os.getpgid(0) == os.getpid():  # a group of our own: ffmpeg goes with us
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _send(results: BinaryIO, message: dict[str, Any]) -> None:
    results.write(json.dumps(message).encode() + b"\n")
    results.flush()


def _progress(results: BinaryIO, task: int) -> Callable[[Event], None]:
    last_s = time.monotonic()

    def notify(event: Event) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= PROGRESS_S:
            last_s = time.monotonic()
            _send(results, {"task": task, "fraction": event.fraction})

    return notify


if __name__ == "__main__":
    main()
