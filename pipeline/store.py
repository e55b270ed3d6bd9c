"""Where a folder run keeps what it made: whole objects by name, in a local folder.

In: bytes and a relative name. Out: a file that is there whole or not at all, whatever kills the process in between.

    store = LocalStore(Path("results"))
    store.write("cache/speech/1a/1a2b.safetensors", content)
    store.read("cache/speech/1a/1a2b.safetensors")            # None if it is not there
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Protocol

from data.errors import InputError

SCRATCH = ".partial"  # half-written things lie here, named after the process that writes them
ABANDONED_S = 24 * 3600.0  # another machine's scratch is swept after this
CLOCKS_S = 30.0  # a process's start and a file's time come from clocks that may differ so much


class Store(Protocol):
    """Whole objects by name. Names are relative, with "/" between parts."""

    def read(self, name: str) -> bytes | None:
        """The object's bytes, or None if it is not there."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Publish an object whole, replacing an older one. Raises InputError (output_unwritable)."""
        ...

    def exists(self, name: str) -> bool: ...

    def remove(self, name: str) -> None:
        """Take an object away, if it is there."""
        ...

    def empty(self) -> bool:
        """Whether nobody has written anything but scratch here."""
        ...

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A private local folder, gone when the context ends. Raises OSError."""
        ...

    def publish_file(self, part: Path, name: str) -> None:
        """Move a file made in :meth:`scratch` to its place. Raises OSError or InputError."""
        ...

    def sweep(self) -> None:
        """Remove what processes left behind that were killed."""
        ...

    @property
    def folder(self) -> PurePath:
        """Where this is, for messages."""
        ...


class LocalStore:
    """Objects as files under one folder; several processes and machines may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        return self._folder

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unwritable(self.folder / name, error) from error

    def exists(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def remove(self, name: str) -> None:
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.folder / name, error) from error

    def empty(self) -> bool:
        try:
            return {path.name for path in self.folder.iterdir()} <= {SCRATCH}
        except FileNotFoundError:
            return True
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def write(self, name: str, content: bytes) -> None:
        target = self.folder / name
        try:
            with self.scratch() as folder:
                part = folder / "part"
                part.write_bytes(content)
                self.publish_file(part, name)
        except OSError as error:
            raise unwritable(target, error) from error

    def publish_file(self, part: Path, name: str) -> None:
        """Move a file made in :meth:`scratch` to its place, on the disk first. Raises OSError."""
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        self._rename(part, self.folder / name)

    def publish_folder(self, part: Path, name: str) -> None:
        """Move a folder made in :meth:`scratch` to its place; an older one there goes first. Raises OSError."""
        target = self.folder / name
        if target.is_dir():
            shutil.rmtree(target)
        self._rename(part, target)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder beside the objects, gone when the context ends. Raises OSError."""
        place, prefix = self.folder / SCRATCH, f"{socket.gethostname()}-{os.getpid()}-"
        try:
            folder = Path(tempfile.mkdtemp(dir=place, prefix=prefix))
        except FileNotFoundError:
            place.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=place, prefix=prefix))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what processes left behind that were killed: of this machine at once, of others after a day."""
        try:
            found = list((self.folder / SCRATCH).iterdir())
        except OSError:
            return
        for folder in found:
            host, _, rest = folder.name.rpartition("-")[0].rpartition("-")
            with contextlib.suppress(OSError):
                made_s = folder.stat().st_mtime
                old = time.time() - made_s > ABANDONED_S
                gone = host == socket.gethostname() and rest.isdigit() and not _lived_at(int(rest), made_s)
                if gone or old:
                    shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / SCRATCH).rmdir()

    @staticmethod
    def _rename(part: Path, target: Path) -> None:
        try:
            os.replace(part, target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, target)


def _lived_at(pid: int, time_s: float) -> bool:
    """Whether the process of that number runs and is old enough to have been there at that time: numbers come again."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= time_s + CLOCKS_S
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def unwritable(path: PurePath, error: OSError) -> InputError:
    """The error for an output that cannot be read or written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return InputError(
        f"Could not write {str(path)!r}: {error.strerror or error}.",
        code="disk_full" if full else "output_unwritable",
        remedy="Make room and run the same command again: what is done is kept." if full else None,
    )
