"""One worker process of a folder run: JSON lines in, JSON lines out.

In (stdin): first the settings, then tasks, one per line. Out (stdout): per task progress lines and one result.

    {"output": "results", "settings": {...}, "product": "labels", "checkpoint": null, ...}
    {"task": 7, "stage": "speech", "item": {...}, "opened": {...}, "open_s": 0.2}
    < {"task": null}                                         once, when it has started
    < {"task": 7, "fraction": 0.5}
    < {"task": 7, "seconds": 1.25}     or    {"task": 7, "error": {"code": "changed", "message": "one line"}}

Tasks of one stage that wait together are done together: a GPU's networks take them in one batch. When stdin ends, whoever
gave the tasks is gone: the process and all that it started end at once. Models are loaded when a task first needs them.
Nothing but results is ever written to stdout, whatever libraries print.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from data.errors import LambError
from pipeline.events import Event
from pipeline.settings import PipelineSettings
from pipeline.stages import PARTS, Item, Job, Opened, Plan, StageRunner, failure
from pipeline.store import LocalStore
from pipeline.video import Extractors

PROGRESS_S = 0.5  # at most one progress line in that time


def make_runner(start: dict[str, Any]) -> StageRunner:
    """The runner that the first line describes. Raises LambError."""
    from pipeline.predict import Predictor, load_checkpoint

    extractors = Extractors(PipelineSettings.model_validate(start["settings"]))
    path = Path(start["checkpoint"]) if start["checkpoint"] else None

    def load() -> Predictor:
        return Predictor(load_checkpoint(path, extractors.settings.compute_device), extractors)

    plan = Plan(
        extractors, start["product"], start["fingerprint"], start["only"], start["tables"], start.get("stages", PARTS)
    )
    return StageRunner(plan, extractors, LocalStore(Path(start["output"])), load)


Results = list[dict[str, Any]]


def perform(runner: StageRunner, tasks: Sequence[dict[str, Any]], notify: Callable[[Event], None]) -> Results:
    """The result lines of tasks of one stage, in their order. Several go through a GPU's networks together; where that goes
    wrong (memory), one by one."""
    stage = tasks[0]["stage"]
    if stage == "open":
        return [_open(runner, Item(**task["item"]), notify) for task in tasks]
    jobs = []
    for task in tasks:
        item = Item(**task["item"])
        jobs.append(Job(item, Opened.from_dict(task["opened"], item.path), task["open_s"]))
    try:
        found = runner.finish_many(jobs, notify) if stage == "finish" else runner.run_many(stage, jobs, notify)
    except Exception as error:
        if len(tasks) > 1:
            return [result for task in tasks for result in perform(runner, [task], notify)]
        found = [error]
    return [_result(job.item, one) for job, one in zip(jobs, found, strict=True)]


def _open(runner: StageRunner, item: Item, notify: Callable[[Event], None]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        opened = runner.open(item, notify)
    except Exception as error:
        return _result(item, error)
    return {"opened": opened.to_dict(), "seconds": time.monotonic() - started}


def _result(item: Item, found: dict[str, Any] | float | Exception) -> dict[str, Any]:
    if isinstance(found, Exception):
        return {"error": failure(item, found)["error"]}
    if isinstance(found, dict):
        return {"outcome": found["outcome"], "seconds": found["seconds"]["finish"]}
    return {"seconds": found}


def main() -> None:
    """Serve tasks until stdin ends."""
    results = _private_stdout()
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    runner: StageRunner | None = None
    start = json.loads(lines.get())
    _send(results, {"task": None})  # here: what starting took is not the first file's time
    waiting: list[dict[str, Any]] = []
    while True:
        if not waiting:
            waiting.append(json.loads(lines.get()))
        while not lines.empty():
            waiting.append(json.loads(lines.get()))
        tasks = [task for task in waiting if task["stage"] == waiting[0]["stage"]]
        waiting = [task for task in waiting if task["stage"] != tasks[0]["stage"]]
        try:
            runner = runner or make_runner(start)
            found = perform(runner, tasks, _progress(results, tasks[0]["task"]))
        except LambError as error:  # the settings worked in the process that sent them; here they do not
            found = [{"error": {"code": error.code, "message": str(error)}, "fatal": True}] * len(tasks)
        for task, result in zip(tasks, found, strict=True):
            _send(results, {"task": task["task"], **result})


def _private_stdout() -> BinaryIO:
    """The real stdout for results; what libraries print goes to stderr from here on."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return results


def _read(lines: queue.Queue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    _leave()


def _leave() -> NoReturn:
    """End at once, with all that was started: nobody waits for results any more."""
    if os.getpgid(0) == os.getpid():  # a group of our own: ffmpeg goes with us
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _send(results: BinaryIO, message: dict[str, Any]) -> None:
    try:
        results.write(json.dumps(message).encode() + b"\n")
        results.flush()
    except BrokenPipeError:
        _leave()


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
