"""Finding recordings in a folder: by extension, by content, and what is passed over. The reference is ``os.walk`` where
there is one, else the list of what was put there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from data.errors import InputError
from pipeline.discovery import EXTENSIONS, HEAD_BYTES, find_media
from tests.media_maker import ffmpeg, tone


def names(folder: Path, **options: object) -> list[str]:
    return [file.name for file in find_media(folder, **options).files]  # type: ignore[arg-type]


def put(folder: Path, *paths: str, content: bytes = b"x") -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def test_by_extension_in_any_depth_and_case_sorted(tmp_path: Path) -> None:
    put(
        tmp_path,
        "b.mp4",
        "a/z.MOV",
        "a/b/c/d.WebM",
        "sound.wav",
        "notes.txt",
        "a/picture.jpg",
        "list.m3u8",
        "c.mp4/e.mkv",
    )
    found = find_media(tmp_path)
    assert [file.name for file in found.files] == ["a/b/c/d.WebM", "a/z.MOV", "b.mp4", "c.mp4/e.mkv", "sound.wav"]
    assert (found.n_ignored, found.n_unreadable) == (3, 0)
    for file in found.files:
        status = (tmp_path / file.name).stat()
        assert file.path == tmp_path / file.name
        assert (file.size, file.mtime_ns, file.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)


def test_ten_thousand_files_are_those_of_os_walk(tmp_path: Path) -> None:
    endings = ["mp4", "MKV", "txt", "wav", "json"]
    for i in range(10_000):
        folder = tmp_path / f"{i % 37}" / f"{i % 3}"
        if i < 200:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.{endings[i % 5]}").touch()
    expected = sorted(
        os.path.relpath(os.path.join(root, name), tmp_path)
        for root, _, files in os.walk(tmp_path)
        for name in files
        if name.rpartition(".")[2].lower() in EXTENSIONS
    )
    assert len(expected) == 6000
    assert names(tmp_path) == expected
    assert find_media(tmp_path).n_ignored == 4000


CONTAINERS = ["mp4", "mov", "matroska", "webm", "avi", "flv", "mpegts", "mpeg", "asf", "ogg", "m2ts", "mxf", "nut"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_ffmpeg_writes_is_known_by_content(container: str, tmp_path: Path) -> None:
    codecs = {"webm": ("libvpx", "libopus"), "ogg": ("libtheora", "libvorbis"), "mxf": ("mpeg2video", "pcm_s16le")}
    video, sound = codecs.get(container, ("mpeg1video", "mp2") if container == "mpeg" else ("mpeg4", "aac"))
    if container == "flv":
        video = "flv"
    muxer = ["-f", "mpegts", "-mpegts_m2ts_mode", "1"] if container == "m2ts" else ["-f", container]
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=0.2",
        "-f", "lavfi", "-i", "sine=duration=0.2:sample_rate=48000",
        "-c:v", video, "-c:a", sound, "-pix_fmt", "yuv420p", *muxer, tmp_path / "camera.dat",
    )  # fmt: skip
    (tmp_path / "bare").write_bytes((tmp_path / "camera.dat").read_bytes())
    assert names(tmp_path) == ["bare", "camera.dat"]


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "caf", "aiff", "au", "w64"])
def test_sound_is_known_by_content(kind: str, tmp_path: Path) -> None:
    options = ("-id3v2_version", "3", "-metadata", "title=a") if kind == "mp3" else ()
    tone(tmp_path / f"a.{kind}", seconds=0.1, options=options).rename(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_other_content_is_ignored(tmp_path: Path) -> None:
    others = {
        "text": b"RIFF is a format",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(50),
        "animation": b"RIFF\x10\x00\x00\x00WEBPVP8 ",
        "photo": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        "archive": b"PK\x03\x04" + bytes(100),
        "letter_g": b"G" * 100,
        "short": b"\x00",
        "nothing": b"",
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    found = find_media(tmp_path)
    assert (found.files, found.n_ignored, found.n_unreadable) == ((), len(others), 0)


def test_typescript_is_no_transport_stream(tmp_path: Path) -> None:
    put(tmp_path, "module.ts", content="// ünï\n".encode() * 500)
    (tmp_path / "edge.ts").write_bytes(b"a" * (HEAD_BYTES - 1) + "ü".encode() * 10)
    put(tmp_path, "stream.ts", content=(b"G" + bytes(187)) * 10)
    put(tmp_path, "damaged.mts", content=os.urandom(300) + b"\0")
    put(tmp_path, "empty.ts", content=b"")
    assert names(tmp_path) == ["damaged.mts", "empty.ts", "stream.ts"]


def test_hidden_unfinished_and_results_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", ".b.mp4", "._a.mp4", ".hidden/c.mp4", "d.mp4.part", "e.mp4.crdownload", "f.tmp", "g.partial")
    put(tmp_path, "h.f137.mp4.part-Frag3", "labels/i.mp4", "labels/deep/j.mp4", content=b"\x1aE\xdf\xa3")
    (tmp_path / "x").mkdir()
    found = find_media(tmp_path, exclude=[tmp_path / "x" / ".." / "labels", tmp_path / "none"])
    assert [file.name for file in found.files] == ["a.mp4"]
    assert found.n_ignored == 7, "files, not the folders of hidden ones"
    assert len(names(tmp_path, exclude=[tmp_path])) == 3, "results beside the videos do not hide the videos"


def test_what_is_no_file_is_listed_by_extension_and_never_opened(tmp_path: Path) -> None:
    for name in ("pipe.mp4", "pipe"):
        os.mkfifo(tmp_path / name)  # opening it would wait for ever
    for name, target in (("gone.mkv", "nowhere"), ("circle.avi", "circle.avi"), ("zero.wav", "/dev/zero")):
        (tmp_path / name).symlink_to(target)
        (tmp_path / f"{name}.txt").symlink_to(target)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path may have 107 bytes
        try:
            server.bind("socket.mp4")
        finally:
            os.chdir(here)
    found = find_media(tmp_path)
    assert [file.name for file in found.files] == ["circle.avi", "gone.mkv", "pipe.mp4", "socket.mp4", "zero.wav"]
    assert {file.size for file in found.files} == {0}
    assert found.n_ignored == 4


def test_links_to_files_are_followed_and_to_folders_when_asked(tmp_path: Path) -> None:
    videos, other = tmp_path / "videos", tmp_path / "other"
    put(tmp_path, "videos/sub/a.mp4", "other/b.mp4", "other/deep/c.mp4")
    (videos / "z_link.mp4").symlink_to(videos / "sub" / "a.mp4")
    (videos / "outside").symlink_to(other)
    (videos / "0_same").symlink_to(videos / "sub")
    (videos / "sub" / "loop").symlink_to(videos)
    (other / "back").symlink_to(videos)
    found = find_media(videos)
    assert [file.name for file in found.files] == ["sub/a.mp4", "z_link.mp4"]
    assert found.files[0].inode == found.files[1].inode
    assert found.n_ignored == 3
    followed = find_media(videos, follow_links=True)
    assert [file.name for file in followed.files] == [
        "outside/b.mp4",
        "outside/deep/c.mp4",
        "sub/a.mp4",
        "z_link.mp4",
    ], "each folder once, under its real name where it has one"
    assert followed.n_ignored == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folders_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "locked/b.mp4", "secret")
    (tmp_path / "locked").chmod(0)
    (tmp_path / "secret").chmod(0)
    try:
        found = find_media(tmp_path)
        with pytest.raises(InputError) as caught:
            find_media(tmp_path / "locked")
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert [file.name for file in found.files] == ["a.mp4"]
    assert found.n_unreadable == 2
    assert caught.value.code == "unreadable"


def test_unreadable_folders_are_counted_even_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.mp4", "locked/b.mp4", "unknown")
    real_scan, real_open = os.scandir, os.open

    def scan(path: object) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real_scan(path)  # type: ignore[call-overload]

    def opened(path: object, *rest: object, **options: object) -> int:
        if str(path).endswith("unknown"):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(os, "open", opened)
    found = find_media(tmp_path)
    assert ([file.name for file in found.files], found.n_unreadable) == (["a.mp4"], 2)


def test_names_are_kept_whatever_their_bytes(tmp_path: Path) -> None:
    raw = [b"caf\xe9.mp4", b"new\nline.mp4", b"-dash.mp4", b"co:lon %d.mp4", b"x" * 251 + b".mp4"]
    for name in raw:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    found = find_media(tmp_path).files
    assert sorted(os.fsencode(file.name) for file in found) == sorted(raw)
    assert all(file.path.exists() for file in found)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    for path, code in (
        (tmp_path / "none", "not_found"),
        (tmp_path / "a.mp4", "not_a_folder"),
        (tmp_path / "a.mp4/b", "not_found"),
    ):
        with pytest.raises(InputError) as caught:
            find_media(path)
        assert caught.value.code == code
        assert "\n" not in str(caught.value)
