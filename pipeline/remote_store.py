"""A run's input and output where other machines reach them: object stores (s3://, gs://, …) and folders, through fsspec.

In: a path or URL. Out: the store of results there, the recordings below it, and a local copy of one of them while it is needed.

    store = open_store("s3://bucket/results")               # LocalStore for a path or file://, else RemoteStore
    items = list_media("s3://bucket/videos")                 # [Item("a.mp4", "s3://bucket/videos/a.mp4", …)], by name
    with local_copy(items[0], scratch) as item: item.path    # a plain local file, gone when the context ends

Sizes in bytes. An object store publishes an object whole or not at all; elsewhere it is written aside and then moved. For
remote files ``mtime_ns`` is 0 where the store gives content a tag, and ``inode`` is a number made of that tag.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from data.errors import InputError
from pipeline.discovery import EXTENSIONS, find_media
from pipeline.stages import Item
from pipeline.store import SCRATCH, LocalStore

OBJECT_STORES = frozenset("s3 s3a gs gcs abfs abfss az adl oci oss memory".split())  # a put is whole or not there
TAGS = ("ETag", "etag", "md5Hash", "content_md5")
TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")


def is_remote(place: str) -> bool:
    """Whether this is a URL and no local path."""
    return "://" in place and not place.startswith("file://")


def absolute(place: str) -> str:
    """A URL as it is, without a slash at its end; a path or file:// URL as an absolute path."""
    return place.rstrip("/") if is_remote(place) else os.path.abspath(place.removeprefix("file://"))


def below(place: str, name: str) -> str:
    """The path or URL of a name under another."""
    return f"{place}/{name}" if is_remote(place) else os.path.join(place, name)


def open_store(place: str) -> LocalStore | RemoteStore:
    """The store at a path or URL. Raises InputError (bad_url)."""
    return RemoteStore(place) if is_remote(place) else LocalStore(Path(absolute(place)))


class RemoteStore:
    """Objects by name under a URL; has the methods of :class:`pipeline.store.LocalStore`.

    Raises InputError: bad_url for an unknown kind of URL, output_unwritable where reading or writing fails.
    """

    def __init__(self, url: str) -> None:
        self.folder = PurePosixPath(url)  # for messages
        self.url = url
        self.files, self.root = _file_system(url)
        protocol = self.files.protocol
        self.whole = bool(OBJECT_STORES & set([protocol] if isinstance(protocol, str) else protocol))

    def read(self, name: str) -> bytes | None:
        try:
            return self.files.cat_file(self._path(name))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except Exception as error:
            raise self._failed("read", name, error) from error

    def exists(self, name: str) -> bool:
        try:
            return bool(self.files.isfile(self._path(name)))
        except Exception as error:
            raise self._failed("read", name, error) from error

    def write(self, name: str, content: bytes) -> None:
        try:
            if self.whole:
                self.files.pipe_file(self._path(name), content)
                return
            aside = self._path(f"{SCRATCH}/{os.urandom(8).hex()}")
            self.files.makedirs(aside.rpartition("/")[0], exist_ok=True)
            self.files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self.files.pipe_file(aside, content)
            self.files.mv(aside, self._path(name))
        except Exception as error:
            raise self._failed("write", name, error) from error

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            try:
                self.files.rm_file(self._path(name))
            except (OSError, NotImplementedError) as error:
                if not isinstance(error, FileNotFoundError):
                    raise self._failed("remove", name, error) from error

    def publish_file(self, part: Path, name: str) -> None:
        """Upload a file made in :meth:`scratch`, whole or not at all."""
        if not self.whole:
            self.write(name, part.read_bytes())
            return
        try:
            self.files.put_file(os.fspath(part), self._path(name))
        except Exception as error:
            raise self._failed("write", name, error) from error

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private local folder, gone when the context ends."""
        with tempfile.TemporaryDirectory(prefix="lamb-") as folder:
            yield Path(folder)

    def sweep(self) -> None:
        """Nothing half-written is ever left under a final name."""

    def empty(self) -> bool:
        """Whether nothing is there yet."""
        try:
            return not self.files.ls(self.root, detail=False)
        except FileNotFoundError:
            return True
        except Exception as error:
            raise self._failed("read", "", error) from error

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}".encode(
            "utf-8", "backslashreplace"
        ).decode()  # keys are UTF-8; old names may not be

    def _failed(self, verb: str, name: str, error: Exception) -> InputError:
        said = f"Could not {verb} {below(self.url, name)!r}: {type(error).__name__}: {error}."
        return InputError(said, code="output_unwritable")


def _file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path there. Raises InputError (bad_url)."""
    protocol = url.partition("://")[0]
    try:
        import fsspec

        # Others write too: a kept listing would hide what they wrote.
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}.get(protocol, "fsspec")
        raise InputError(
            f"Expected a package for {protocol}:// but {error}.", code="bad_url", remedy=f"`pip install {package}`."
        ) from error
    except ValueError as error:
        raise InputError(f"Expected a path or URL but got {url!r}: {error}.", code="bad_url") from error
    return files, str(root).rstrip("/")


def list_media(folder: str, exclude: str = "", follow_links: bool = False) -> list[Item]:
    """The recordings below a path or URL, sorted by name; in object stores by their extension alone.

    ``exclude`` is passed over, and so is what is hidden. Raises InputError (not_found, bad_url, unreadable).
    """
    if not is_remote(folder):
        place = Path(absolute(folder))
        apart = [] if is_remote(exclude) or not exclude else [Path(absolute(exclude))]
        found = find_media(place, exclude=apart, follow_links=follow_links).files
        return [Item(one.name, os.fspath(one.path), one.size, one.mtime_ns, one.inode) for one in found]
    files, root = _file_system(folder)
    apart_root = _file_system(exclude)[1] + "/" if is_remote(exclude) else None
    items = []
    try:
        if not files.exists(root):
            raise InputError(f"Expected recordings at {folder!r} but nothing is there.", code="not_found")
        for _, _, here in files.walk(root, detail=True):
            for info in here.values():
                path = str(info["name"])
                name = path[len(root) :].lstrip("/")
                if _is_recording(name) and not (apart_root and path.startswith(apart_root)):
                    items.append(Item(name, below(folder, name), *_stamp(info)))
    except InputError:
        raise
    except Exception as error:
        said = f"Expected a readable place at {folder!r} but {type(error).__name__}: {error}."
        raise InputError(said, code="unreadable") from error
    return sorted(items, key=lambda item: item.name)


def _is_recording(name: str) -> bool:
    extension = PurePosixPath(name).suffix[1:].lower()
    return extension in EXTENSIONS and not any(part.startswith(".") for part in name.split("/"))


def _stamp(info: dict[str, Any]) -> tuple[int, int, int]:
    """Size, mtime_ns and inode of an Item: what changes when the content does."""
    size = int(info.get("size") or 0)
    tag = next((str(info[key]) for key in TAGS if info.get(key)), "")
    if tag:
        return size, 0, int(hashlib.sha256(tag.encode()).hexdigest()[:12], 16)
    when = next((info[key] for key in TIMES if info.get(key)), 0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    seconds = when.timestamp() if isinstance(when, datetime) else float(when)
    return size, int(seconds * 1e9), 0


@contextlib.contextmanager
def local_copy(item: Item, folder: Path) -> Iterator[Item]:
    """The same file as one that can be read here: itself where it is local, else a copy in ``folder`` while the context
    lasts. Raises InputError (vanished, changed, unreadable, disk_full)."""
    if not is_remote(item.path):
        yield item
        return
    copy = folder / ("download" + PurePosixPath(item.name).suffix[:16])
    free = shutil.disk_usage(folder).free
    if item.size > free:
        said = f"Expected {item.size / 1e9:.2f} GB for a copy of {item.name!r} but {free / 1e9:.2f} GB are free."
        raise InputError(said, code="disk_full", remedy="Set TMPDIR on the nodes to a larger disk.")
    try:
        _fetch(item, copy)
        found = copy.stat()
        yield Item(item.name, os.fspath(copy), found.st_size, found.st_mtime_ns, found.st_ino)
    finally:
        copy.unlink(missing_ok=True)


def _fetch(item: Item, copy: Path) -> None:
    try:
        files, root = _file_system(item.path.removesuffix("/" + item.name))
        path = f"{root}/{item.name}"  # a name may hold what means something in a URL
        files.get_file(path, os.fspath(copy))
        now = _stamp(files.info(path))
    except FileNotFoundError as error:
        raise InputError(f"Expected {item.name!r} to stay but it is gone.", code="vanished") from error
    except InputError:
        raise
    except Exception as error:
        said = f"Could not read {item.name!r}: {type(error).__name__}: {error}."
        raise InputError(said, code="unreadable") from error
    if now != (item.size, item.mtime_ns, item.inode) or copy.stat().st_size != item.size:
        raise InputError(
            f"Expected {item.name!r} to stay as it was but it changed while it was read.",
            code="changed",
            remedy="Run the same command again when it is complete.",
        )
