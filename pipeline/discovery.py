"""Which files of a folder are recordings. In: a folder. Out: what to label, sorted by name, and counts of the rest.

A name is the path below the folder with "/" between its parts; sizes are bytes, times nanoseconds. Files of a known
extension are not opened; all others are judged by their first bytes.

    found = find_media(Path("videos"), exclude=[Path("videos/labels")])
    [file.name for file in found.files]                      # ["a.mp4", "holiday/b.mov"]
    found.n_ignored, found.n_unreadable
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError

VIDEO_EXTENSIONS = frozenset(
    "3g2 3gp amv asf avi divx dv f4v flv gxf ivf m1v m2t m2ts m2v m4v mj2 mkv mov mp4 mp4v mpe mpeg mpg mpv mxf nsv nut"
    " ogm ogv qt rm rmvb tod vob webm wmv wtv y4m".split()
)
SOUND_EXTENSIONS = frozenset(
    "aac ac3 adts aif aifc aiff alac amr ape au caf dts eac3 flac gsm m4a m4b mka mp2 mp3 mpc oga ogg opus ra spx snd tta"
    " voc w64 wav wave weba wma wv".split()
)
EXTENSIONS = VIDEO_EXTENSIONS | SOUND_EXTENSIONS
SOURCE_CODE_TOO = frozenset(("ts", "mts"))  # TypeScript as often as transport streams: taken unless they are text
UNFINISHED = frozenset("!qb !ut aria2 crdownload download opdownload part partial tmp ytdl".split())

HEAD_BYTES = 1024
STILL_BRANDS = frozenset((b"avif", b"crx ", b"heic", b"heim", b"heis", b"heix", b"jp2 ", b"jpx ", b"jxl ", b"mif1"))
MAGIC = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"OggS",
    b"fLaC",
    b"FLV\x01",
    b"ID3",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF: WMV, WMA
    b"\x00\x00\x01\xba",  # MPEG programme stream
    b"\x00\x00\x01\xb3",  # MPEG video
    b"\x06\x0e+4\x02\x05\x01\x01\r\x01\x02",  # MXF
    b"riff.\x91\xcf\x11\xa5\xd6(\xdb\x04\xc1\x00\x00",  # Wave64
    b".RMF",
    b".snd",
    b"caff\x00\x01",
    b"#!AMR",
    b"DKIF\x00\x00",
    b"YUV4MPEG2",
    b"nut/multimedia container\x00",
)


@dataclass(frozen=True)
class Found:
    """One file to label. ``name`` is its path below the folder; a name that is not UTF-8 holds surrogates, as
    ``os.fsdecode`` makes them. A link has the numbers of what it leads to. ``size`` is 0 for what is no regular file."""

    name: str
    path: Path
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class Discovery:
    """``files`` sorted by name. n_ignored : files that are no recordings, hidden or unfinished ones, and links to folders
    that were not followed. n_unreadable : folders, and files judged by content, that could not be read."""

    files: tuple[Found, ...]
    n_ignored: int
    n_unreadable: int


def find_media(folder: Path, *, exclude: Sequence[Path] = (), follow_links: bool = False) -> Discovery:
    """All recordings below ``folder``.

    A path with a recording's extension that is no regular file (pipe, socket, device, link to nothing) is listed, so that
    its failure is reported, and never opened. Hidden files and folders, unfinished downloads and ``exclude`` are passed
    over. Links to files count as files; links to folders are entered only with ``follow_links``, no folder twice.

    Raises InputError: not_found, not_a_folder, unreadable.
    """
    walk = _Walk(_identities(exclude), follow_links)
    walk.enter_first(folder)
    return Discovery(tuple(sorted(walk.files, key=lambda file: file.name)), walk.n_ignored, walk.n_unreadable)


class _Walk:
    """A walk in progress: what was found, and which folders, by device and inode, need no further visit."""

    def __init__(self, done: set[tuple[int, int]], follow_links: bool) -> None:
        self.done = done
        self.follow_links = follow_links
        self.files: list[Found] = []
        self.n_ignored = 0
        self.n_unreadable = 0
        # Links wait until all real folders are done, so that a file reached both ways keeps its real name.
        self.folders: list[tuple[str, str]] = []  # path, prefix of names
        self.links: list[tuple[str, str]] = []

    def enter_first(self, folder: Path) -> None:
        try:
            status = folder.stat()
            if not stat.S_ISDIR(status.st_mode):
                raise InputError(f"Expected a folder but {str(folder)!r} is a file.", code="not_a_folder")
            with os.scandir(folder):
                pass
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"Expected a folder at {str(folder)!r} but there is none.", code="not_found") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"Expected a readable folder at {str(folder)!r} but {reason}.", code="unreadable"
            ) from error
        self.done.discard((status.st_dev, status.st_ino))  # results may go into the folder itself
        self.folders.append((os.fspath(folder), ""))
        while self.folders or self.links:
            if not self.folders:
                self.links.sort(reverse=True)  # one order whatever the file system's
            self.enter(*(self.folders or self.links).pop())

    def enter(self, path: str, prefix: str) -> None:
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in self.done:
                return
            self.done.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    self.judge(entry, prefix)
        except OSError:
            self.n_unreadable += 1

    def judge(self, entry: os.DirEntry[str], prefix: str) -> None:
        name, extension = prefix + entry.name, _extension(entry.name)
        if _is_folder(entry):
            if entry.name.startswith("."):
                return
            if not entry.is_symlink():
                self.folders.append((entry.path, name + "/"))
            elif self.follow_links:
                self.links.append((entry.path, name + "/"))
            else:
                self.n_ignored += 1
            return
        if entry.name.startswith(".") or extension in UNFINISHED or extension.startswith("part-frag"):
            self.n_ignored += 1
            return
        status = _status(entry)
        if status is not None and (status.st_dev, status.st_ino) in self.done:
            return
        regular = status is not None and stat.S_ISREG(status.st_mode)
        try:
            recording = extension in EXTENSIONS or (regular and _looks_recorded(_head(entry.path), extension))
        except OSError:
            self.n_unreadable += 1
            return
        if not recording:
            self.n_ignored += 1
        elif status is None:
            self.files.append(Found(name, Path(entry.path), 0, 0, entry.inode()))
        else:
            size = status.st_size if regular else 0
            self.files.append(Found(name, Path(entry.path), size, status.st_mtime_ns, status.st_ino))


def _identities(paths: Sequence[Path]) -> set[tuple[int, int]]:
    """Device and inode of those that exist: another spelling of the same folder is the same folder."""
    known = set()
    for path in paths:
        if path.exists():
            status = path.stat()
            known.add((status.st_dev, status.st_ino))
    return known


def _extension(name: str) -> str:
    return os.path.splitext(name)[1][1:].lower()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Of what a link leads to, or of the link if that is nothing; None for what has gone since the folder was read."""
    for follow in (True, False):
        with contextlib.suppress(OSError):
            return entry.stat(follow_symlinks=follow)
    return None


def _head(path: str) -> bytes:
    """The first bytes of a regular file; nothing of anything else that took its place meanwhile, and no waiting."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return os.read(handle, HEAD_BYTES) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
    finally:
        os.close(handle)


def _looks_recorded(head: bytes, extension: str) -> bool:
    if extension in SOURCE_CODE_TOO:
        return not _is_text(head)
    if head.startswith(MAGIC) or any(_is_transport_stream(head, *layout) for layout in ((0, 188), (4, 192))):
        return True
    kind = head[8:12]
    if head[4:8] == b"ftyp":
        return kind not in STILL_BRANDS
    if head[4:8] in (b"moov", b"mdat", b"wide"):  # QuickTime before it had ftyp
        return True
    return (head[:4] in (b"RIFF", b"RF64") and kind in (b"AVI ", b"WAVE")) or (
        head[:4] == b"FORM" and kind in (b"AIFF", b"AIFC")
    )


def _is_transport_stream(head: bytes, first: int, step: int) -> bool:
    marks = head[first::step]
    return len(marks) >= 3 and set(marks) == {0x47}


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < HEAD_BYTES - 3:  # else the head ends within a letter
            return False
    return bool(head) and b"\0" not in head
