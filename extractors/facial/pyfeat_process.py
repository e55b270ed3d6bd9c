"""LAMB's end of the pipe to ``pyfeat_worker``: which Python runs it, questions and answers with time limits, its end.

Why another process: importing py-feat sets OMP_NUM_THREADS=1, its detectors switch gradients off for the whole process, and
its pinned torch is not LAMB's. Why pipes: nothing is pickled, nothing listens, and the worker ends when its stdin does.

    with borrowed(Start("v1", files, "cpu", 1)) as worker:
        for rows in worker.observe(frames_rgb, 4): ...    # per frame float32 (n_faces, len(worker.columns))
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import functools
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import ToolError

VERSION = "2.1.5"  # of py-feat; the worker calls its detectors' stages one by one, so another release may not fit
PYTHON_VARIABLE = "LAMB_PYFEAT_PYTHON"
SCRIPT = Path(__file__).with_name("pyfeat_worker.py")
WHERE_LIMIT_S = 60.0
START_LIMIT_S = 300.0  # importing py-feat took 40 s on two busy cores; its weights may lie on a slow disk
FRAME_LIMIT_S = 30.0
IDLE_KEPT = 1  # workers that wait for the next file, per process

# What would change py-feat's weights or results behind our back.
DROPPED = ("FEAT_MULTITASK_WEIGHTS", "FEAT_POSE_MLP_PATH", "FEAT_ARCFACE_R50_PATH")
REMEDY = (
    "Run `make pyfeat`, or install requirements-pyfeat.txt into a virtual environment of its own, and set "
    f"{PYTHON_VARIABLE} to that environment's python."
)


@dataclass(frozen=True)
class Start:
    """What a worker is started with: detector "v1" or "v2", weight files ("repository/name", path), device, threads."""

    detector: str
    files: tuple[tuple[str, str], ...]
    device: str
    threads: int


def python() -> str:
    """The Python that has py-feat: ``$LAMB_PYFEAT_PYTHON``, else the one that runs LAMB."""
    return os.environ.get(PYTHON_VARIABLE) or sys.executable


def resources() -> Path:
    """The folder in which the installed py-feat keeps weights. Raises ToolError (``no_pyfeat``) where it is not installed,
    or another version is."""
    return _resources(python())


@functools.cache
def _resources(interpreter: str) -> Path:
    command = [interpreter, "-I", str(SCRIPT), "--where"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WHERE_LIMIT_S, check=True)
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ToolError(
            f"Expected {PYTHON_VARIABLE} to name a Python but {interpreter} does not run: {error}.",
            code="no_pyfeat",
            remedy=REMEDY,
        ) from error
    if found["version"] != VERSION or not found["resources"]:
        came = f"py-feat {found['version']}" if found["version"] else "none"
        raise ToolError(f"Expected py-feat {VERSION} in {interpreter} but got {came}.", code="no_pyfeat", remedy=REMEDY)
    return Path(found["resources"])


class Worker:
    """One running worker process. Any error ends it."""

    def __init__(self, start: Start, *, start_limit_s: float | None = None, frame_limit_s: float | None = None) -> None:
        """Raises ToolError (``pyfeat_died``, ``pyfeat_timeout``, ``pyfeat_failed``) if it does not come up."""
        self.start = start
        self._frame_limit_s = FRAME_LIMIT_S if frame_limit_s is None else frame_limit_s
        self._said: collections.deque[str] = collections.deque(maxlen=5)
        environment = {name: value for name, value in os.environ.items() if name not in DROPPED}
        environment |= {"OMP_NUM_THREADS": str(start.threads), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        self._process = subprocess.Popen(
            [python(), "-I", "-W", "ignore", "-X", "utf8", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._buffer = bytearray()
        self._asked = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        question = {
            "detector": start.detector,
            "files": dict(start.files),
            "device": start.device,
            "threads": start.threads,
        }
        answer, _ = self._ask(question, b"", START_LIMIT_S if start_limit_s is None else start_limit_s, "started")
        self.columns: tuple[str, ...] = tuple(answer["columns"])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether it runs and owes no answer."""
        return self._process.poll() is None and not self._asked

    def observe(self, frames: Sequence[np.ndarray], max_faces: int) -> list[np.ndarray]:
        """Rows of the ``max_faces`` largest faces of each frame, largest first: float32 [shape=(n_faces, len(columns))].

        ``frames`` uint8 [shape=(H, W, 3)], all of one size. Raises ToolError as :meth:`__init__` does.
        """
        payload = b"".join(np.ascontiguousarray(frame).data for frame in frames)
        question = {"shape": [len(frames), *frames[0].shape], "max_faces": max_faces, "n_bytes": len(payload)}
        limit_s = self._frame_limit_s * len(frames)
        answer, raw = self._ask(question, payload, limit_s, f"done with {len(frames)} frames")
        values = np.frombuffer(raw, np.float32).reshape(-1, len(self.columns))
        if len(answer["faces"]) != len(frames) or sum(answer["faces"]) != len(values):
            raise self._fault(
                "pyfeat_failed", f"py-feat's process answered for {answer['faces']} faces, which does not fit."
            )
        return np.split(values, np.cumsum(answer["faces"])[:-1])

    def close(self) -> None:
        """End the process; it may be at work."""
        self._process.kill()
        self._process.wait()
        self._listener.join(timeout=1.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _listen(self) -> None:
        """Keep the last lines the process says; a pipe nobody reads would stop it."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if text := line.decode(errors="replace").strip():
                self._said.append(text[:500])

    def _ask(self, header: dict[str, Any], payload: bytes, limit_s: float, what: str) -> tuple[dict[str, Any], bytes]:
        """One question, one answer. Raises ToolError and ends the process if there is none in time."""
        pending = [memoryview(json.dumps(header).encode() + b"\n"), memoryview(payload)]
        deadline_s = time.monotonic() + limit_s
        self._asked = True
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            selector.register(self._in, selectors.EVENT_WRITE)
            while (answer := self._whole()) is None:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise self._fault(
                        "pyfeat_timeout", f"Expected py-feat to have {what} within {limit_s:.0f} s but it has not."
                    )
                for key, _ in selector.select(left_s):
                    if key.fd == self._out:
                        chunk = os.read(self._out, 1 << 20)
                        if not chunk:
                            raise self._fault("pyfeat_died", self._last_words())
                        self._buffer += chunk
                        continue
                    with contextlib.suppress(BrokenPipeError):
                        while pending and not len(pending[0]):
                            pending.pop(0)
                        if pending:
                            pending[0] = pending[0][os.write(self._in, pending[0][: 1 << 20]) :]
                            continue
                    selector.unregister(self._in)  # all is written, or nobody reads: then stdout ends and says so
        self._asked = False
        found, raw = answer
        if "error" in found:
            raise self._fault("pyfeat_failed", f"Expected py-feat to have {what} but it failed: {found['error']}.")
        return found, raw

    def _whole(self) -> tuple[dict[str, Any], bytes] | None:
        """The next whole answer of the buffer, or None."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        header = json.loads(bytes(self._buffer[:end]))
        stop = end + 1 + header["n_bytes"]
        if len(self._buffer) < stop:
            return None
        raw = bytes(self._buffer[end + 1 : stop])
        del self._buffer[:stop]
        return header, raw

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)
        self._listener.join(timeout=1.0)
        said = self._said[-1] if self._said else "it said nothing"
        return f"Expected py-feat's process to stay but it ended with status {self._process.poll()}: {said}."

    def _fault(self, code: str, message: str) -> ToolError:
        self.close()
        return ToolError(message, code=code)


_idle: list[Worker] = []


@contextlib.contextmanager
def borrowed(start: Start) -> Iterator[Worker]:
    """A worker for one file: one that waits, or a new one. If nothing went wrong it waits for the next file afterwards:
    loading py-feat takes longer than many files do."""
    worker = next((one for one in _idle if one.start == start and one.ready), None)
    if worker is None:
        worker = Worker(start)
    else:
        _idle.remove(worker)
    try:
        yield worker
    finally:
        _idle.append(worker)
        kept = [one for one in _idle if one.ready][-IDLE_KEPT:]
        for one in [one for one in _idle if one not in kept]:
            _idle.remove(one)
            one.close()


@atexit.register
def close_idle() -> None:
    """End the workers that wait."""
    while _idle:
        _idle.pop().close()
