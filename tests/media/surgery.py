"""Operations on the bytes of recordings. In: a whole, valid file's bytes. Out: a file that lies or is damaged.

surgery.mp4_lasting(content, 36_000.0)                   # headers say ten hours
surgery.mutated(content, seed=3)                         # a few bytes changed, the same ones each time
"""

from __future__ import annotations

import struct
import zlib

import numpy as np


def _boxes(content: bytes, kind: bytes) -> list[int]:
    """Where the payload of each MP4 box of this kind begins."""
    places, at = [], content.find(kind)
    while at >= 0:
        places.append(at + 4)
        at = content.find(kind, at + 4)
    assert places, f"no {kind!r} box"
    return places


def mp4_lasting(content: bytes, seconds: float) -> bytes:
    """Movie, track and media headers (version 0) say this duration; edit lists lose their say."""
    out = bytearray(content)
    time_scale = 0
    for kind, scale_at, duration_at in ((b"mvhd", 12, 16), (b"mdhd", 12, 16), (b"tkhd", None, 20)):
        for place in _boxes(content, kind):
            if scale_at is not None:
                own_scale = struct.unpack_from(">I", content, place + scale_at)[0]
                time_scale = own_scale if kind == b"mvhd" else time_scale
            else:
                own_scale = time_scale
            struct.pack_into(">I", out, place + duration_at, min(0xFFFFFFFF, round(seconds * own_scale)))
    return bytes(out).replace(b"elst", b"free")


def mkv_lasting(content: bytes, seconds: float) -> bytes:
    """A Matroska header that says this duration."""
    at = content.index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes, in milliseconds
    return content[:at] + struct.pack(">d", 1000.0 * seconds) + content[at + 8 :]


def flv_leaping(content: bytes) -> bytes:
    """One sound packet in the middle of a Flash video is said to come 2^23 ms (2 h 20 min) later."""
    out, at, sounds = bytearray(content), 13, []
    while at + 11 < len(out):
        if out[at] == 8:
            sounds.append(at)
        at += 11 + int.from_bytes(out[at + 1 : at + 4], "big") + 4
    out[sounds[len(sounds) // 2] + 4] |= 0x80
    return bytes(out)


def mp4_sized(content: bytes, width: int, height: int) -> bytes:
    """The sample description says this frame size; the coded pictures keep theirs."""
    out = bytearray(content)
    for place in _boxes(content, b"avc1")[-1:]:
        struct.pack_into(">HH", out, place + 24, width, height)
    return bytes(out)


def mp4_elsewhere(content: bytes, target: str) -> bytes:
    """Samples of all tracks are said to lie in another file (a Macintosh alias in ``dref``). The index must come last."""
    path = target.encode()
    alias = bytearray(150)
    alias[10] = len(path[:27])
    alias[11 : 11 + len(path[:27])] = path[:27]
    alias[50] = len(path[:63])
    alias[51 : 51 + len(path[:63])] = path[:63]
    parts = struct.pack(">hh", 2, len(path)) + path + b"\0" * (len(path) % 2)  # 2: the whole path
    parts += struct.pack(">hh", 18, len(path)) + path + b"\0" * (len(path) % 2)  # 18: the path on Unix
    alias += parts + struct.pack(">hh", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + bytes(alias)
    own = struct.pack(">I4sI", 12, b"url ", 1)
    assert content.rfind(b"moov") > content.rfind(b"mdat")
    return _spliced(content, own, entry)


def _spliced(content: bytes, old: bytes, new: bytes) -> bytes:
    """Replace, and let all boxes around it grow."""
    containers = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    while (at := content.find(old)) >= 0:
        out = bytearray(content)
        for kind in containers:
            place = content.rfind(kind, 0, at) - 4
            size = struct.unpack_from(">I", content, place)[0]
            assert place + size > at
            struct.pack_into(">I", out, place, size + len(new) - len(old))
        content = bytes(out[:at]) + new + bytes(out[at + len(old) :])
    return content


def without_index(content: bytes) -> bytes:
    """An MP4 whose index has another name (``free`` would not do: ffmpeg looks into it)."""
    return content.replace(b"moov", b"xxxx")


def wav(
    samples: bytes, *, tag: int = 1, channels: int = 1, rate_hz: int = 16000, bits: int = 16, says: int | None = None
) -> bytes:
    """A wave file. tag : 1 whole numbers, 3 floats. says : the data size in the header, if not the true one."""
    width = channels * bits // 8
    head = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * width, width, bits)
    size = len(samples) if says is None else says
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", min(0xFFFFFFFF, 36 + size)) + body


def sine(seconds: float = 1.0, rate_hz: int = 16000, kind: str = "<i2") -> np.ndarray:
    """A tone of 440 Hz at half of full scale."""
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)
    return (wave * 32767).astype(kind) if kind == "<i2" else wave.astype(kind)


def spoiled(value: float, every: int = 7) -> bytes:
    """Float samples with this value at every so many places."""
    wave = sine(kind="<f4")
    wave[::every] = value
    return wave.tobytes()


def tagged(content: bytes, size: int, says: int | None = None) -> bytes:
    """An MP3 behind an ID3 tag of this many bytes; ``says`` is the size in the tag, if not the true one."""
    n = size if says is None else says
    frame = b"PRIV" + struct.pack(">I", 0) + b"\0\0"
    length = bytes((n >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + length + frame + bytes(size - len(frame)) + content


def png(width: int, height: int) -> bytes:
    """A picture of one colour."""
    rows = b"".join(b"\0" + bytes(width) for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def ivf_repeated(content: bytes, n_frames: int) -> bytes:
    """A VP9 stream whose second frame comes again and again: a few bytes for each whole picture."""
    head, at, frames = bytearray(content[:32]), 32, []
    while at < len(content):
        size = struct.unpack_from("<I", content, at)[0]
        frames.append(content[at + 12 : at + 12 + size])
        at += 12 + size
    struct.pack_into("<I", head, 24, n_frames)
    chosen = [frames[0]] + frames[1:2] * (n_frames - 1)
    return bytes(head) + b"".join(struct.pack("<IQ", len(f), i) + f for i, f in enumerate(chosen))


def mutated(content: bytes, seed: int) -> bytes:
    """Damage of one of five kinds, at places drawn by the seed: flipped bits, a flipped head, noise, a cut, a repeat."""
    random = np.random.default_rng(seed)
    out = bytearray(content)
    kind = seed % 5
    if kind in (0, 1):
        end = len(out) if kind == 0 else min(len(out), 1024)
        for place in random.integers(0, end, 12):
            out[place] ^= 1 << int(random.integers(8))
        return bytes(out)
    start, stop = sorted(int(place) for place in random.integers(0, len(out), 2))
    if kind == 2:
        stop = min(stop, start + 2000)
        out[start:stop] = random.bytes(stop - start)
    elif kind == 3:
        del out[start : min(stop, start + 500)]
    else:
        out[stop:stop] = out[start:stop]
    return bytes(out)
