"""The worker processes of a folder run: who is idle, who is late, who died.

In: tasks for :mod:`pipeline.worker`. Out: one result per task, also for a worker that dies, hangs or takes too much memory:
it costs that task, and a new worker takes its place. Times in seconds, memory in bytes.

    with Crew(start, [Lane(STAGES, n_workers=2)], memory_limit=3 * 10**9) as crew:
        if crew.has_room("speech"): crew.give(Task(...))
        for task, result in crew.wait(1.0): ...              # {"seconds": …} or {"error": {"code": …, "message": …}}
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psutil

TASKS_PER_WORKER = 2000  # then a new one takes its place: what libraries never give back does not pile up
LOOK_S = 0.5  # how often memory and time are looked at
WORKER = [sys.executable, "-m", "pipeline.worker"]


@dataclass(frozen=True)
class Task:
    """What a worker does next; ``limit_s`` is how long it may take, ``alone`` that no other task may share its worker (one
    of them killed it)."""

    number: int
    message: dict[str, Any]
    limit_s: float
    alone: bool = False


@dataclass(frozen=True)
class Lane:
    """Workers of one kind: the stages they do, how many there are, and how many tasks one of them may have at a time."""

    stages: frozenset[str]
    n_workers: int
    capacity: int = 1


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    lane: Lane
    tasks: dict[int, Task] = field(default_factory=dict)
    started_s: float = 0.0
    fraction: float = 0.0
    n_done: int = 0
    buffer: bytearray = field(default_factory=bytearray)

    def anonymous_bytes(self) -> int:
        """Memory of the process and its children that is not a mapped file."""
        total = 0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.process.pid)
            for one in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    memory = one.memory_info()
                    total += memory.rss - getattr(memory, "shared", 0)
        return total

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads a group of its own: ffmpeg goes too
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Crew:
    """Processes of one or more lanes, started when first needed."""

    def __init__(self, start: dict[str, Any], lanes: Sequence[Lane], memory_limit: int) -> None:
        self.start, self.lanes, self.memory_limit = start, lanes, memory_limit
        self.peak_bytes = 0
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._looked_s = 0.0

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in list(self._workers):
            self._remove(worker)
        self._selector.close()

    def has_room(self, stage: str, alone: bool = False) -> bool:
        """Whether a task of this stage could be given now."""
        lane, worker = self._place(stage, alone)
        return worker is not None or sum(one.lane is lane for one in self._workers) < lane.n_workers

    @property
    def at_work(self) -> dict[int, float]:
        """Task number → share done, of all tasks given and not yet returned."""
        return {number: worker.fraction for worker in self._workers for number in worker.tasks}

    def give(self, task: Task) -> None:
        """Hand a task to a worker; there must be room."""
        lane, worker = self._place(task.message["stage"], task.alone)
        if worker is not None and not worker.tasks and worker.n_done >= TASKS_PER_WORKER:
            self._remove(worker)
            worker = None
        worker = worker or self._hire(lane)
        if not worker.tasks:
            worker.started_s, worker.fraction = time.monotonic(), 0.0
        worker.tasks[task.number] = task
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died while idle: :meth:`wait` finds out and says so
            worker.process.stdin.write(json.dumps({"task": task.number, **task.message}).encode() + b"\n")
            worker.process.stdin.flush()

    def _place(self, stage: str, alone: bool) -> tuple[Lane, _Worker | None]:
        """The lane of a stage, and its running worker with fewest tasks that can take one more."""
        lane = next(lane for lane in self.lanes if stage in lane.stages)
        free = [
            worker
            for worker in self._workers
            if worker.lane is lane
            and len(worker.tasks) < (1 if alone else lane.capacity)
            and not any(task.alone for task in worker.tasks.values())
        ]
        return lane, min(free, key=lambda worker: len(worker.tasks), default=None)

    def wait(self, timeout_s: float) -> list[tuple[Task, dict[str, Any]]]:
        """Results that have come, waiting for the first at most ``timeout_s``."""
        done: list[tuple[Task, dict[str, Any]]] = []
        until_s = time.monotonic() + timeout_s
        while not done:
            left_s = until_s - time.monotonic()
            for key, _ in self._selector.select(max(0.0, min(left_s, LOOK_S))):
                done += self._receive(key.data)
            done += self._look()
            if left_s <= 0:
                break
        return done

    # ---- workers ----------------------------------------------------------------------------------------------------------

    def _hire(self, lane: Lane) -> _Worker:
        process = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        worker = _Worker(process, lane)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(self.start).encode() + b"\n")
            process.stdin.flush()
        self._workers.append(worker)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        return worker

    def _remove(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        self._workers.remove(worker)
        worker.kill()

    def _receive(self, worker: _Worker) -> list[tuple[Task, dict[str, Any]]]:
        assert worker.process.stdout is not None
        chunk = os.read(worker.process.stdout.fileno(), 1 << 16)
        if not chunk:
            return self._lost(worker, "worker_died", "Expected the worker to stay but it died while it read this file.")
        worker.buffer += chunk
        done = []
        while (end := worker.buffer.find(b"\n")) >= 0:
            message = json.loads(bytes(worker.buffer[:end]))
            del worker.buffer[: end + 1]
            number = message.pop("task")
            if number is None:  # it has started
                worker.started_s = time.monotonic()
            if number not in worker.tasks:
                continue
            if "fraction" in message:
                worker.fraction = message["fraction"]
            else:
                done.append((worker.tasks.pop(number), message))
                worker.n_done += 1
                worker.started_s, worker.fraction = time.monotonic(), 0.0
        return done

    def _look(self) -> list[tuple[Task, dict[str, Any]]]:
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return []
        self._looked_s = now_s
        done = []
        for worker in list(self._workers):
            used = worker.anonymous_bytes()
            self.peak_bytes = max(self.peak_bytes, used)
            if used > self.memory_limit:
                said = (
                    f"Expected at most {self.memory_limit / 1e9:.1f} GB of memory but {used / 1e9:.1f} GB were taken."
                )
                done += self._lost(worker, "memory_limit", said)
            elif worker.tasks and now_s - worker.started_s > sum(task.limit_s for task in worker.tasks.values()):
                limit_s = sum(task.limit_s for task in worker.tasks.values())
                said = f"Expected the file to be done within {limit_s:.0f} s more but it is not."
                done += self._lost(worker, "time_limit", said)
        return done

    def _lost(self, worker: _Worker, code: str, said: str) -> list[tuple[Task, dict[str, Any]]]:
        tasks = list(worker.tasks.values())
        self._remove(worker)
        if len(tasks) > 1:  # one of them did it, the others must not suffer: each is tried again alone
            code = "worker_died"
        return [(task, {"error": {"code": code, "message": said}}) for task in tasks]
