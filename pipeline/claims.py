"""Claims: several processes, on several machines, share one list of names and each name is done once.

In: a folder that all of them see (a local disk, NFS), names of any text. Out: one small file ``<sha256 of name>.claim`` per
name at work. Its times are the file system's, in seconds; ``stale_s`` must be the same for all.

    with Claims(output / ".claims") as claims:
        for path in paths:  # look for the result after taking: it may have come a moment ago
            if claims.take(str(path)):
                if not done(path):
                    work(path)
                claims.release(str(path))

A claim is alive while its time, renewed four times per ``stale_s``, is younger than ``stale_s``. That of a process which is
known to be dead (same machine) is dead at once. Claims are made by ``link`` and taken over by ``rename``, which are atomic
on NFS too; the right to take over one claim is itself a claim (``.over``), so a living one is never moved away.

What can still happen is that two work on one name; results named by their content make that a waste, not a mistake:

- A holder stands still for ``stale_s`` (suspended, disk gone) and wakes: it goes on, and so does its successor.
- It wakes just then and gives back its claim between the successor's last look and the rename, or between its own last look
  and the removal: a third one's claim, made in these microseconds, is lost. Hearts see that, and leave others' files alone.
- A process dies while taking over, and two others, clearing up after it, come through the same few system calls together.
- The server's clock jumps by more than ``stale_s``, or an NFS client shows times that are older than that.

A killed process may leave a hidden file of some hundred bytes in the folder.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from data.errors import InputError

BEATS_PER_STALE = 4  # three may fail or come late
TRIES = 20  # each further one means that somebody else moved in between
CONTENT_LIMIT = 1 << 20  # bytes read of a claim; ours have some hundred
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
GONE = {errno.ENOENT, errno.ESTALE}  # ESTALE: NFS for a file that was replaced while we looked


@dataclass(frozen=True)
class Holder:
    """Who has a name: ``host`` ("" and pid 0 where the claim cannot be read), ``pid`` there, and since when: ``since_s``,
    seconds since 1970 by that host's clock."""

    host: str
    pid: int
    since_s: float


class Claims:
    """Leases on names, as files in one shared folder; they belong to this object, in the process that made it.

    All threads of the process may use it. In a forked child :meth:`take` raises RuntimeError, and nothing is given back.

    Raises InputError (output_unwritable) if the folder cannot be made; ValueError if ``stale_s`` is no time.
    """

    def __init__(self, folder: Path, *, stale_s: float = 120.0) -> None:
        if not (math.isfinite(stale_s) and stale_s > 0):
            raise ValueError(f"Expected stale_s to be a positive number of seconds, but got {stale_s!r}.")
        self.folder = folder
        self.stale_s = stale_s
        self._pid = os.getpid()
        self._ours: dict[str, bytes] = {}  # name -> content of our claim, unlike any other by its token
        self._door = threading.Lock()
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None
        with self._unwritable():
            folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> bool:
        """Whether ``name`` is ours from now on, or was already; False: somebody alive has it.

        Raises InputError (output_unwritable) if the folder is gone or full; RuntimeError after :meth:`close`.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("Expected claims to be used by the process that made them, but got a fork of it.")
        path = self._path(name)
        with self._door, self._unwritable():
            if self._stop.is_set():
                raise RuntimeError("Expected claims that are open, but got closed ones.")
            for _ in range(TRIES):
                found = _read(path)
                if found is not None and found.content == self._ours.get(name):
                    return True
                if found is not None and not self._stale(found):
                    return False
                content = _record(name)
                if self._place(path, content) if found is None else self._take_over(path, found, content):
                    self._ours[name] = content
                    self._start_heart()
                    return True
        return False

    def release(self, name: str) -> None:
        """Give ``name`` back; nothing happens where it is not ours, or not any more. What cannot be removed grows stale."""
        if os.getpid() != self._pid:  # a forked child has only a copy
            return
        with self._door, suppress(OSError):
            content = self._ours.pop(name, None)
            found = _read(self._path(name)) if content is not None else None
            if found is not None and found.content == content:
                self._path(name).unlink(missing_ok=True)

    def holder(self, name: str) -> Holder | None:
        """Who has ``name``; None where nobody alive has it. Raises InputError (output_unwritable)."""
        with self._unwritable():
            found = _read(self._path(name))
            if found is None or self._stale(found):
                return None
        record = found.record
        return record.holder if record else Holder("", 0, found.mtime_s)

    def close(self) -> None:
        """Give everything back and stop the heart."""
        if os.getpid() != self._pid:
            return
        self._stop.set()
        with self._door:  # behind a `take` that is under way; later ones are refused
            names = list(self._ours)
        if self._heart is not None:
            self._heart.join(timeout=self.stale_s)  # a disk that hangs must not hold us up for ever
        for name in names:
            self.release(name)

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()  # file names need not be UTF-8
        return self.folder / f"{digest[:32]}.claim"

    @contextmanager
    def _unwritable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"Expected a folder for claims at {str(self.folder)!r} that can be written, "
                f"but got: {error.strerror or error}.",
                code="output_unwritable",
                remedy="Make room, or choose another folder.",
            ) from error

    def _start_heart(self) -> None:
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="claims", daemon=True)
            self._heart.start()

    def _beat(self) -> None:
        while not self._stop.wait(self.stale_s / BEATS_PER_STALE):
            for name, content in list(self._ours.items()):
                path = self._path(name)
                with suppress(OSError):  # the disk may be back at the next beat
                    found = _read(path)
                    if found is not None and found.content == content:  # else a dead successor would seem alive
                        os.utime(path)  # without a time: the server's clock

    def _stale(self, found: _Found) -> bool:
        record = found.record
        if record is not None and record.machine == _machine() and _is_dead(record.holder.pid, record.started):
            return True
        # A time far ahead is as false as an old one: the clock was set back, and the living renew theirs.
        return abs(self._now_s() - found.mtime_s) > self.stale_s

    def _now_s(self) -> float:
        """The file system's clock: the machines' own may differ."""
        probe = self._private(b"")
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _private(self, content: bytes) -> Path:
        """A file of nobody else's in the folder."""
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".take-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(name, 0o644)  # workers of other users read it
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Path(name)

    def _place(self, path: Path, content: bytes) -> bool:
        """Make ``path`` with ``content`` at once; False where something is there."""
        private = self._private(content)
        try:
            os.link(private, path)
            return True
        except FileExistsError:
            found = _read(path)  # NFS asks twice when an answer is lost, and the second is no
            return found is not None and found.content == content
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            return _write_new(path, content)
        finally:
            private.unlink(missing_ok=True)

    def _take_over(self, path: Path, found: _Found, content: bytes) -> bool:
        """Put ``content`` in the place of the stale claim ``found``; False where another did, or is about to."""
        generation = hashlib.sha256(found.content + repr(found.mtime_s).encode()).hexdigest()[:16]
        right = path.with_name(f".{path.stem}-{generation}.over")
        if not self._place(right, content):
            other = _read(right)
            if other is not None and self._stale(other):  # it died on the way
                right.unlink(missing_ok=True)
            return False
        try:
            if _read(path) != found:  # renewed, given back or taken over since it was judged
                return False
            private = self._private(content)
            try:
                os.replace(private, path)
            finally:
                private.unlink(missing_ok=True)
        finally:
            right.unlink(missing_ok=True)
        now = _read(path)
        return now is not None and now.content == content


@dataclass(frozen=True)
class _Record:
    holder: Holder
    machine: str
    started: str


@dataclass(frozen=True)
class _Found:
    content: bytes
    mtime_s: float

    @property
    def record(self) -> _Record | None:
        """What the claim says; None where it is half-written or not one of ours."""
        try:
            whole: dict[str, Any] = json.loads(self.content)
            holder = Holder(str(whole["host"]), int(whole["pid"]), float(whole["since_s"]))
            record = _Record(holder, str(whole["machine"]), str(whole["started"]))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None
        return record if 0 < holder.pid < 2**31 else None


def _record(name: str) -> bytes:
    whole = {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since_s": time.time(),
        "token": uuid.uuid4().hex,
        "name": name,
    }
    return json.dumps(whole).encode("ascii")


def _read(path: Path) -> _Found | None:
    try:
        with path.open("rb") as file:  # opened, then asked: NFS brings a file's times up to date when it is opened
            return _Found(file.read(CONTENT_LIMIT), os.fstat(file.fileno()).st_mtime)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def _write_new(path: Path, content: bytes) -> bool:
    """For disks without hard links (exFAT): not whole at once, and until then judged by its time only."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


@functools.cache
def _machine() -> str:
    """Where a process number means the same process: host, boot and, on Linux, the container's table of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _started(pid: int) -> str:
    """When process ``pid`` began, in its system's units; "" where there is none, or only what its parent has yet to reap.

    Raises OSError (Linux) or psutil.Error where the system does not say.
    """
    if not sys.platform.startswith("linux"):
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    # Read here, as psutil adds the time of booting by a clock that can be set while we run.
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    state, n_threads, start_ticks = after_name[0], int(after_name[17]), after_name[19]
    # A killed process is done with its files only when its last thread is.
    return "" if state in "ZX" and n_threads <= 1 else start_ticks


def _is_dead(pid: int, started: str) -> bool:
    """Only what is certain: a process that is hidden from us counts as alive."""
    try:
        return _started(pid) != started
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
    except OSError:  # no such process, or /proc hides those of other users (hidepid)
        return _is_no_process(pid)


def _is_no_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # not ours to signal, but there
        return False
    return False
