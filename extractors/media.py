"""Media files in, decoded sound and frames out. Goes in: any local file that ffmpeg reads. Comes out: mono float32
audio at 16 kHz and at the native rate, and RGB frames with their presentation times.

Times are seconds on the file's own clock: 0 is the container's start time. A stream that starts late leaves a gap at
the beginning (silence, no frames), so that words, voice and face stay on one clock.

    info = probe(Path("clip.mp4"))
    for frame in read_frames(info): ...                      # Frame(index, start_s, end_s, rgb)
    with decode_audio(info) as audio: audio.speech_16k       # (N,) float32
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.errors import InputError, MissingStream, ToolError
from extractors.frame import Frame

SPEECH_RATE_HZ = 16_000
MAX_ACOUSTIC_RATE_HZ = 96_000
MIN_ACOUSTIC_RATE_HZ = 8_000
FLOAT_BYTES = 4
CHUNK_SAMPLES = 1 << 20
LEAST_RATE_HZ = 1000  # below it there is no voice, and a few bytes would last for hours
LEAST_BYTES_PER_S = 100  # of any file; with fewer its timestamps are damaged, and gaps of hours would become silence
SLACK_S = 10.0  # beyond a file's plausible length, for headers that say too little
LOUDEST = 1e6  # sound files of floats may hold anything; beyond this it is no recording, and squares overflow
CLOCK_STEP_S = (-0.25, 10.0)  # what is beyond it in a broadcast stream is a new clock; 10 s is where ffmpeg sees one

# Demuxers that open other files, devices or addresses, draw text, or turn any bytes into a picture. Everything else
# that ffmpeg knows is self-contained media.
REFERENCE_DEMUXERS = frozenset(
    "alsa applehttp ass bin concat concatf dash data dvdvideo fbdev ffmetadata hls image2 image2pipe imf iec61883 jack"
    " kmsgrab lavfi libdc1394 openal oss pulse rawvideo rtp rtsp s337m sap sdp sndio srt tty video4linux2,v4l2"
    " webm_dash_manifest webvtt x11grab xbin xcbgrab adf idf svg_pipe txd vobsub".split()
)

# How files begin that only say where the recording is, in small letters.
POINTERS = (
    b"#extm3u",
    b"ffconcat",
    b"<mpd",
    b"<asx",
    b"<smil",
    b"[playlist]",
    b"[reference]",
    b"v=0",
    b"rtsptext",
    b"rtsp://",
    b"http://",
    b"https://",
)


@dataclass(frozen=True)
class Limits:
    """What an untrusted file may cost before it is refused.

    max_bytes : size on disk. max_duration_s : declared or decoded length. max_pixels : width × height of one frame.
    max_side : frames are scaled down so that the longer side is at most this, in pixels. decode_s, decode_s_per_s : time
    that decoding one stream may take, a constant plus so much per second of the file; what the caller does with the
    frames does not count.
    """

    max_bytes: int = 50 * 10**9
    max_duration_s: float = 6 * 3600.0
    max_pixels: int = 8192 * 8192
    max_side: int = 1280
    decode_s: float = 120.0
    decode_s_per_s: float = 10.0

    def decode_limit_s(self, duration_s: float) -> float:
        """Seconds that decoding a stream of a file of this length may take."""
        return self.decode_s + self.decode_s_per_s * duration_s


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. ``video_index`` and ``audio_index`` are the streams used (ffmpeg's choice of the best), or None."""

    path: Path
    container: str
    duration_s: float
    start_s: float
    video_index: int | None
    audio_index: int | None
    n_video_streams: int
    n_audio_streams: int
    width: int = 0
    height: int = 0
    frame_rate_hz: float = 0.0
    audio_rate_hz: int = 0
    audio_channels: int = 0

    @property
    def has_video(self) -> bool:
        return self.video_index is not None

    @property
    def has_audio(self) -> bool:
        return self.audio_index is not None


def check_file(path: Path, limits: Limits = Limits()) -> Path:
    """The file's absolute path. Raises InputError: not_found, not_a_file, empty, unreadable, too_large."""
    text = str(path)
    if "://" in text or text.startswith(("http:/", "https:/", "rtsp:/", "file:/")):
        raise InputError(
            f"Expected a local file but got the address {text!r}: nothing is fetched.",
            code="not_local",
            remedy="Download it first.",
        )
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "there is no such file" if missing else str(getattr(error, "strerror", None) or error)
        raise InputError(
            f"Expected a media file at {text!r} but {reason}.", code="not_found" if missing else "unreadable"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(
            f"Expected a media file but {text!r} is a directory.", code="not_a_file", remedy="Give the files inside it."
        )
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"Expected a regular file but {text!r} is a device, socket or pipe.", code="not_a_file")
    if status.st_size == 0:
        raise InputError(f"Expected a media file but {text!r} is empty (0 bytes).", code="empty")
    if status.st_size > limits.max_bytes:
        raise InputError(
            f"Expected at most {limits.max_bytes / 1e9:.0f} GB but {text!r} has {status.st_size / 1e9:.1f} GB.",
            code="too_large",
        )
    if not os.access(path, os.R_OK):
        raise InputError(f"Expected a readable file but {text!r} may not be read.", code="unreadable")
    return path.absolute()


@cache
def _format_whitelist() -> str:
    import av

    # The "pipe" demuxers are for single pictures: PNG, JPEG and the like.
    names = (name for name in av.formats_available if not name.endswith("_pipe"))
    return ",".join(sorted(name for name in names if name not in REFERENCE_DEMUXERS))


def _input_options() -> dict[str, str]:
    # Playlists (HLS, DASH, concat) can name other files and addresses: neither their demuxers nor any protocol but
    # plain files may be used. Reading the headers may decode a picture, so memory needs a limit here already; twice
    # what is allowed, because a picture refused by FFmpeg has no size that we could name.
    return {
        "protocol_whitelist": "file",
        "format_whitelist": _format_whitelist(),
        "max_pixels": str(2 * Limits.max_pixels),
    }


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import av
    from av import logging
    from av.error import FFmpegError

    logging.set_level(logging.PANIC)
    try:
        container = av.open("file:" + str(path), options=_input_options(), metadata_errors="replace", timeout=60.0)
    except (FFmpegError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        yield container
    finally:
        container.close()


def _unreadable(path: Path, error: Exception) -> InputError:
    with path.open("rb") as stream:
        head = stream.read(4096)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.lower().startswith(POINTERS) or b"<MPD" in text[:512]:
        return InputError(
            f"Expected media but {str(path)!r} is a playlist that points elsewhere: playlists are not followed.",
            code="playlist",
            remedy="Give the media file itself.",
        )
    if isinstance(error, InputError):
        return error
    if head[4:8] == b"ftyp":
        return InputError(
            f"Expected a complete file but {str(path)!r} ends before its index (truncated or still being written).",
            code="truncated",
        )
    reason = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", 0) == errno.EINVAL:  # what FFmpeg answers when the format is not on the whitelist
        reason = "pictures, subtitles and lists of other files are not recordings"
    return InputError(
        f"Expected audio or video but {str(path)!r} is not media that ffmpeg reads ({reason}).", code="not_media"
    )


def probe(path: Path, limits: Limits = Limits()) -> MediaInfo:
    """What a file holds, read from its headers.

    Raises InputError: not_found, not_a_file, empty, unreadable, too_large, not_local, playlist, truncated, not_media,
    no_streams, too_long, frame_too_large.
    """
    path = check_file(path, limits)
    with _opened(path) as container:
        # A stream that no decoder is known for has no codec context.
        pictures = [
            s for s in container.streams.video if s.codec_context and not int(s.disposition) & _attached_picture()
        ]
        sounds = [s for s in container.streams.audio if s.codec_context]
        if not pictures and not sounds:
            neither = InputError(f"Expected audio or video but {str(path)!r} has neither.", code="no_streams")
            raise _unreadable(path, neither)
        video = container.streams.best("video") if pictures else None
        if video is not None and video not in pictures:
            video = pictures[0]
        audio = container.streams.best("audio") if sounds else None
        if audio is not None and audio not in sounds:
            audio = sounds[0]
        start_s = (container.start_time or 0) / 1e6
        ends = [container.duration / 1e6] if container.duration else []
        ends += [float(s.duration * s.time_base) for s in (*pictures, *sounds) if s.duration and s.time_base]
        duration_s = max(ends, default=0.0)
        if duration_s > limits.max_duration_s:
            raise InputError(
                f"Expected at most {limits.max_duration_s / 3600:g} h but {str(path)!r} lasts {duration_s / 3600:.1f} h.",
                code="too_long",
            )
        width, height = (video.codec_context.width, video.codec_context.height) if video else (0, 0)
        if width * height > limits.max_pixels:
            raise InputError(
                f"Expected at most {limits.max_pixels} pixels a frame but {str(path)!r} has {width}×{height}.",
                code="frame_too_large",
            )
        return MediaInfo(
            path=path,
            container=container.format.name,
            duration_s=duration_s,
            start_s=start_s,
            video_index=video.index if video else None,
            audio_index=audio.index if audio else None,
            n_video_streams=len(pictures),
            n_audio_streams=len(sounds),
            width=width,
            height=height,
            frame_rate_hz=float(video.average_rate or 0) if video else 0.0,
            audio_rate_hz=audio.codec_context.sample_rate if audio else 0,
            audio_channels=audio.codec_context.channels if audio else 0,
        )


def _attached_picture() -> int:
    from av.stream import Disposition

    return int(Disposition.attached_pic)


def read_frames(
    info: MediaInfo, *, max_rate_hz: float = 30.0, limits: Limits = Limits(), threads: int = 1
) -> Iterator[Frame]:
    """Frames in presentation order with the interval for which each is shown, at most ``max_rate_hz`` a second.

    Frames are indexed by presentation time, never by count / rate, so variable frame rates keep their clock; rotation
    and non-square pixels are applied. Memory is flat: two frames at a time. Damaged packets are skipped.

    Raises MissingStream if there is no video; ToolError (video_timeout) if decoding takes longer than the limits allow.
    """
    if info.video_index is None:
        raise MissingStream(f"Expected a video stream but {str(info.path)!r} has none.", code="no_video")
    held: tuple[float, np.ndarray] | None = None
    index = 0
    gap_s = 1.0 / min(max_rate_hz, info.frame_rate_hz or max_rate_hz)
    for time_s, rgb in _decoded(info, max_rate_hz, limits, threads):
        if held is not None:
            yield Frame(index, held[0], time_s, held[1])
            gap_s = time_s - held[0]
            index += 1
        held = (time_s, rgb)
    if held is not None:  # the last frame is shown as long as the one before it
        yield Frame(index, held[0], held[0] + gap_s, held[1])


def _decoded(info: MediaInfo, max_rate_hz: float, limits: Limits, threads: int) -> Iterator[tuple[float, np.ndarray]]:
    from av.error import FFmpegError
    from av.video.reformatter import VideoReformatter

    converter = VideoReformatter()  # one for all frames: setting one up costs three times what a 640×360 frame does
    with _opened(info.path) as container:
        stream = container.streams[info.video_index]
        stream.codec_context.thread_count = threads
        stream.codec_context.options = {"max_pixels": str(2 * limits.max_pixels)}  # the size may change on the way
        last_slot, last_s, n_damaged, n_beyond = -1, -1.0, 0, 0
        longest_s = _longest_s(info, limits)
        resettable = bool(container.format.flags & _clock_may_reset())
        newest_s, shift_s, gap_s = -1.0, 0.0, 1.0 / (info.frame_rate_hz or max_rate_hz)
        spent_s, limit_s = 0.0, limits.decode_limit_s(info.duration_s)
        packets = container.demux(stream)
        while True:
            if spent_s > limit_s:
                raise ToolError(f"Expected the video to be decoded within {limit_s:.0f} s.", code="video_timeout")
            started_s = time.monotonic()
            try:
                packet = next(packets)
                decoded = packet.decode()
            except StopIteration:
                return
            except FFmpegError:
                n_damaged += 1
                if n_damaged > 1000:
                    return
                continue
            finally:
                spent_s += time.monotonic() - started_s
            for picture in decoded:
                time_s = last_s + 1.0 / max_rate_hz
                if picture.time is not None:
                    time_s = picture.time - info.start_s + shift_s
                if resettable and newest_s >= 0 and not CLOCK_STEP_S[0] <= time_s - newest_s <= CLOCK_STEP_S[1]:
                    # Go on from here, as ffmpeg does with the sound: joined recordings, lost signal.
                    shift_s += newest_s + gap_s - time_s
                    time_s = newest_s + gap_s
                newest_s = max(newest_s, time_s)
                if time_s > longest_s:
                    n_beyond += 1
                    if n_beyond > 1000:
                        return
                    continue
                # One frame per slot of 1/max_rate. Matroska rounds times to 1 ms, so a multiple may come 1 ms early.
                slot = int((time_s + 0.001) * max_rate_hz)
                if time_s <= last_s or time_s < 0 or slot == last_slot:
                    continue
                last_slot, last_s = slot, time_s
                yield time_s, _upright_rgb(converter, picture, float(stream.sample_aspect_ratio or 1), limits)


def _longest_s(info: MediaInfo, limits: Limits) -> float:
    """Seconds after which nothing in the file is where its timestamps say."""
    plausible_s = max(info.duration_s, info.path.stat().st_size / LEAST_BYTES_PER_S) + SLACK_S
    return min(plausible_s, limits.max_duration_s)


def _clock_may_reset() -> int:
    from av.format import Flags

    return Flags.ts_discont.value


def _upright_rgb(converter: Any, picture: Any, pixel_aspect: float, limits: Limits) -> np.ndarray:
    """An RGB array as a player shows it: square pixels, rotated, longer side ≤ ``limits.max_side``."""
    width, height = picture.width, picture.height
    if width * height > limits.max_pixels:
        raise InputError(
            f"Expected at most {limits.max_pixels} pixels a frame but got {width}×{height}.", code="frame_too_large"
        )
    width = max(1, round(width * pixel_aspect))
    shrink = min(1.0, limits.max_side / max(width, height))
    size = max(2, round(width * shrink)), max(2, round(height * shrink))
    # One thread: waking others costs more than they save.
    rgb = converter.reformat(picture, width=size[0], height=size[1], format="rgb24", threads=1).to_ndarray()
    quarter_turns = round(picture.rotation / 90) % 4  # counter-clockwise, as numpy's rot90
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb


@dataclass(frozen=True)
class Audio:
    """Decoded sound, mono float32 in ±1, sample 0 at the file's 0 s. Arrays are memory-mapped temporary files.

    speech_16k : (N,) at 16 kHz, for speech recognition. native, native_rate_hz : (M,) for acoustic measurement, the
    channels' mean or the first of them. damaged : ffmpeg gave up before the end of the stream, or samples were no numbers
    (they became 0).
    """

    speech_16k: np.ndarray
    native: np.ndarray
    native_rate_hz: int
    damaged: bool = False

    @property
    def duration_s(self) -> float:
        return len(self.native) / self.native_rate_hz


def ffmpeg_binary() -> str:
    """Path of ffmpeg: the one on PATH, else the one that imageio-ffmpeg carries. Raises ToolError if neither is there."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ToolError(
            "Expected ffmpeg on PATH or inside imageio-ffmpeg but found neither.",
            code="no_ffmpeg",
            remedy="Run `pip install imageio-ffmpeg`.",
        ) from error


def run_ffmpeg(graph: Any, timeout_s: float) -> tuple[int, str]:
    """Run a graph built with ffmpeg-python; returns (exit status, last line of stderr). Raises ToolError on time-out."""
    import ffmpeg

    command = ffmpeg.compile(
        graph.global_args("-nostdin", "-hide_banner", "-loglevel", "error"), cmd=ffmpeg_binary(), overwrite_output=True
    )
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"Expected ffmpeg to finish within {timeout_s:.0f} s.", code="ffmpeg_timeout") from error
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return done.returncode, lines[-1] if lines else ""


@contextlib.contextmanager
def decode_audio(
    info: MediaInfo,
    limits: Limits = Limits(),
    only: Literal["speech", "native"] | None = None,
    *,
    native_first_channel: bool = False,
) -> Iterator[Audio]:
    """Decode the file's sound to temporary raw files, mapped into memory; they vanish when the context ends.

    All channels are averaged, but ``native_first_channel`` makes ``native`` the first one. What can be decoded of a damaged
    stream is used. ``only`` leaves the other array empty.

    Raises MissingStream (no_audio) if there is no audio stream; ToolError (audio_unreadable, ffmpeg_timeout).
    """
    import ffmpeg

    if info.audio_index is None:
        raise MissingStream(f"Expected an audio stream but {str(info.path)!r} has none.", code="no_audio")
    if 0 < info.audio_rate_hz < LEAST_RATE_HZ:
        raise ToolError(
            f"Expected sound of at least {LEAST_RATE_HZ} Hz but {str(info.path)!r} has {info.audio_rate_hz} Hz.",
            code="audio_unreadable",
        )
    rate_hz = min(max(info.audio_rate_hz, MIN_ACOUSTIC_RATE_HZ), MAX_ACOUSTIC_RATE_HZ)
    with tempfile.TemporaryDirectory(prefix="lamb-audio-") as folder:
        speech, native = Path(folder) / "speech.f32", Path(folder) / "native.f32"
        # ffmpeg-python builds its graph from text, and a file name need not be any: a link stands in for it.
        link = Path(folder) / ("input" + (info.path.suffix if info.path.suffix[1:].isalnum() else ""))
        link.symlink_to(info.path.absolute())
        source = ffmpeg.input("file:" + str(link), **_input_options())
        # Gaps become silence, and a late start is padded: sample 0 is the file's 0 s. ffmpeg's own downmix is not a mean
        # (it keeps power, so a file would get louder the more channels it has); "<" scales the gains to sum to one.
        first = "mono|c0<c0"  # ffmpeg-python would escape a "="
        mean = "mono|c0<" + "+".join(f"c{channel}" for channel in range(max(1, info.audio_channels)))
        # What is beyond the file's end goes first: the silence before it would be made in one piece, in memory.
        longest_s = _longest_s(info, limits)
        sound = source[str(info.audio_index)].filter("aselect", f"not(gt(t,{longest_s}))")
        sound = sound.filter("aresample", **{"async": 1, "first_pts": 0})
        # Without a rate of its own before the split, ffmpeg lets both branches have the lower one.
        sound = sound.filter("aformat", sample_rates=info.audio_rate_hz or rate_hz)
        common = {"f": "f32le", "acodec": "pcm_f32le", "t": longest_s, "vn": None}
        wanted = {
            "speech": (speech, SPEECH_RATE_HZ, mean),
            "native": (native, rate_hz, first if native_first_channel else mean),
        }
        wanted = {only: wanted[only]} if only else wanted
        split = sound.filter_multi_output("asplit") if len(wanted) > 1 else [sound]
        outputs = [
            split[i].filter("pan", channels).output("file:" + str(path), ar=rate, **common)
            for i, (path, rate, channels) in enumerate(wanted.values())
        ]
        graph = ffmpeg.merge_outputs(*outputs) if len(outputs) > 1 else outputs[0]
        status, last_line = run_ffmpeg(graph, limits.decode_limit_s(info.duration_s))
        n_bytes = sum(path.stat().st_size for path, *_ in wanted.values() if path.exists())
        if n_bytes == 0 and status:
            raise ToolError(
                f"Expected sound in {str(info.path)!r} but ffmpeg says: {last_line}", code="audio_unreadable"
            )
        spoiled = [_mended(path) for path, *_ in wanted.values()]
        yield Audio(_mapped(speech), _mapped(native), rate_hz, damaged=status != 0 or any(spoiled))


def _mended(path: Path) -> bool:
    """Replace by 0 what is no sound (NaN, infinity, beyond ``LOUDEST``), in the file; says whether there was any."""
    samples = _mapped(path, "r+")
    spoiled = False
    for start in range(0, len(samples), CHUNK_SAMPLES):
        chunk = samples[start : start + CHUNK_SAMPLES]
        if not max(chunk.max(), -chunk.min()) <= LOUDEST:  # NaN is not
            chunk[~(np.abs(chunk) <= LOUDEST)] = 0.0
            spoiled = True
    return spoiled


def _mapped(path: Path, mode: Literal["r", "r+"] = "r") -> np.ndarray:
    n_samples = path.stat().st_size // FLOAT_BYTES if path.exists() else 0
    if n_samples == 0:
        return np.zeros(0, np.float32)
    return np.memmap(path, dtype=np.float32, mode=mode, shape=(n_samples,))
