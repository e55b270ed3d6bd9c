"""Cases that are no recordings: odd paths and names, other kinds of file, and lists that point elsewhere."""

from __future__ import annotations

import io
import os
import socket
import sys
import zipfile
from pathlib import Path

import numpy as np

from tests.media import surgery
from tests.media.case import bad, good
from tests.media.recipes import Make, content, encode, made, pictures, plain


def nothing(path: Path) -> None:
    """No file at all."""


def _link(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _zip() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("clip.mp4", made("mp4"))
    return archive.getvalue()


PATHS = [
    bad("missing.mp4", nothing, "not_found", listed=False),
    bad("folder.mp4", Path.mkdir, "not_a_file", listed=False),
    bad("zero.mp4", Path.touch, "empty"),
    bad("pipe.mp4", os.mkfifo, "not_a_file"),
    bad("socket.mp4", _socket, "not_a_file"),
    bad("device.mp4", _link("/dev/zero"), "not_a_file"),
    bad("circle.mp4", _link("circle.mp4"), "unreadable"),
    bad("dangling.mp4", _link("nowhere.mp4"), "not_found"),
    good("link.mp4", _link("new\nline ünï.mp4")),
    good("new\nline ünï.mp4", plain),
    good("-dash.mp4", plain),
    good(os.fsdecode(b"caf\xe9 \xff.mp4"), plain),
    good("x" * 251 + ".mp4", plain),
    good("co:lon %03d [a] {b} *.mp4", plain),
    good("pipe:0", plain),
    good("concat:a|b.mp4", plain),
    good("http:a.mp4", plain),
    good("'\"; $(touch pwned) `id` \\ &.mp4", plain),
    good(" space .mp4 ", plain),
    good("\u202egnp.mp4", plain),
    good("no_extension", plain),
    good("mp4_in_name_only.wav", plain),
]

NO_MEDIA = [
    bad("letter.mp4", content("Dear Sir or Madam,\n" * 100), "not_media"),
    bad("one_byte.mp4", content(b"\0"), "not_media"),
    bad("zeros.mp4", content(bytes(65536)), "not_media"),
    bad("noise.mp4", content(np.random.default_rng(0).bytes(20_000)), "not_media"),
    bad("page.mp4", content("<!DOCTYPE html>\n<html><body>404 not found</body></html>\n" * 20), "not_media"),
    bad("archive.mp4", content(_zip), "not_media"),
    bad("paper.mp4", content(b"%PDF-1.7\n" + b"1 0 obj\n<< /Type /Catalog >>\nendobj\n" * 50), "not_media"),
    bad("program.mp4", content(lambda: Path(sys.executable).read_bytes()[:100_000]), "not_media"),
    bad("subtitles.mp4", content("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n" * 20), "not_media"),
    bad("metadata.mp4", content(";FFMETADATA1\ntitle=a\n"), "not_media"),
    bad("drawing.mp4", content('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'), "not_media"),
    bad("picture.mp4", content(lambda: surgery.png(64, 48)), "not_media"),
    bad("photo.mp4", lambda path: _photo(path), "not_media"),
]

_URL = "http://127.0.0.1:9/a.ts"
_HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
POINTERS = [
    bad("hls.mp4", content(_HLS.format(_URL)), "playlist"),
    bad("hls.m3u8", content(_HLS.format(_URL)), "playlist", listed=False),
    bad("hls.avi", content(_HLS.format("file:///etc/passwd")), "playlist"),
    bad("hls.wav", content(_HLS.format("/etc/passwd")), "playlist"),
    bad("hls_of_a_neighbour.mp4", content(_HLS.format("no_extension")), "playlist"),
    bad("concat.mp4", content(f"ffconcat version 1.0\nfile '{_URL}'\n"), "playlist"),
    bad("concat.wav", content("ffconcat version 1.0\nfile /etc/passwd\n"), "playlist"),
    bad("dash.mp4", content('<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'), "playlist"),
    bad("pls.mp3", content(f"[playlist]\nFile1={_URL}\nNumberOfEntries=1\n"), "playlist"),
    bad(
        "session.mp4", content("v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"), "playlist"
    ),
    bad("rtsp.mov", content("RTSPtextrtsp://127.0.0.1:9/a.mov\n" * 20), "playlist"),
    bad("redirect.wmv", content(f'<ASX version="3.0"><Entry><Ref href="{_URL}"/></Entry></ASX>'), "playlist"),
    bad("script.mp4", content('Version()\nDirectShowSource("/etc/passwd")\n'), "not_media"),
    bad("elsewhere.mp4", content(lambda: surgery.mp4_elsewhere(made("mp4"), "/etc/passwd")), "no_content"),
    bad("elsewhere.mov", content(lambda: surgery.mp4_elsewhere(made("mov"), "no_extension")), "no_content"),
]


def _photo(path: Path) -> None:
    encode(path, *pictures(0.1), "-frames:v", "1", "-c:v", "mjpeg", "-f", "image2")
