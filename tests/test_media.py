"""Media: what is refused and why, the clock of frames and sound, rotation, rates; checked against ffmpeg itself."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data.errors import InputError, MissingStream, ToolError
from extractors.media import Limits, decode_audio, ffmpeg_binary, probe, read_frames
from tests.media_maker import ffmpeg, moving_picture, picture_and_tone, tone


def ffmpeg_frames(path: Path, width: int, height: int) -> np.ndarray:
    """All frames as the ffmpeg program shows them (it rotates), uint8 (n, height, width, 3)."""
    command = [ffmpeg_binary(), "-nostdin", "-loglevel", "error", "-i", str(path)]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@dataclass(frozen=True)
class Refused:
    """A file that must be refused with ``code``."""

    id: str
    code: str
    content: bytes | None = None


REFUSED = [
    Refused("empty", "empty", b""),
    Refused("text", "not_media", b"this is a letter, not a film\n" * 50),
    Refused("random", "not_media", np.random.default_rng(0).bytes(20_000)),
    Refused("hls", "playlist", b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n"),
    Refused("concat", "playlist", b"ffconcat version 1.0\nfile /etc/passwd\n"),
    Refused("dash", "playlist", b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'),
    Refused("missing", "not_found"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refused_with_one_line_and_a_code(case: Refused, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    if case.content is not None:
        path.write_bytes(case.content)
    with pytest.raises(InputError) as caught:
        probe(path)
    assert caught.value.code == case.code
    assert "\n" not in str(caught.value)
    assert "clip.mp4" in str(caught.value)


def test_directories_pipes_and_addresses_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path, code in (
        (tmp_path, "not_a_file"),
        (pipe, "not_a_file"),
        (Path("https://example.org/a.mp4"), "not_local"),
    ):
        with pytest.raises(InputError) as caught:
            probe(path)
        assert caught.value.code == code


def test_truncated_file_is_named_so(tmp_path: Path) -> None:
    whole = picture_and_tone(tmp_path / "whole.mp4", seconds=2)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError) as caught:
        probe(cut)
    assert caught.value.code == "truncated"


def test_limits_are_enforced(tmp_path: Path) -> None:
    clip = moving_picture(tmp_path / "clip.mp4", seconds=2)
    for limits, code in (
        (Limits(max_bytes=100), "too_large"),
        (Limits(max_duration_s=1.0), "too_long"),
        (Limits(max_pixels=1000), "frame_too_large"),
    ):
        with pytest.raises(InputError) as caught:
            probe(clip, limits)
        assert caught.value.code == code


def test_no_disguised_playlist_reaches_the_network(tmp_path: Path) -> None:
    """A listening socket on this machine stands for the network: nobody may call it."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                    calls.append(connection.recv(100))
                    connection.close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            # The trap works: ffmpeg without our options does call (else this test could not fail).
            bait = tmp_path / "bait.m3u8"
            bait.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n")
            command = [
                ffmpeg_binary(),
                "-nostdin",
                "-protocol_whitelist",
                "file,http,tcp",
                "-i",
                str(bait),
                "-f",
                "null",
                "-",
            ]
            subprocess.run(command, capture_output=True, timeout=30, check=False)
            assert calls, "the bait should have been taken"
            calls.clear()
            for name, text in (
                ("a.mp4", bait.read_text()),
                ("b.mp4", f"ffconcat version 1.0\nfile '{address}'\n"),
                ("c.m3u8", bait.read_text()),
                ("d.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9999 RTP/AVP 96\n"),
            ):
                (tmp_path / name).write_text(text)
                with pytest.raises(InputError):
                    probe(tmp_path / name)
        finally:
            stop.set()
            thread.join()
    assert calls == []


def test_frames_are_those_of_ffmpeg(tmp_path: Path) -> None:
    clip = moving_picture(tmp_path / "clip.mkv", options=("-c:v", "ffv1"))
    ours = list(read_frames(probe(clip)))
    theirs = ffmpeg_frames(clip, 160, 120)
    assert len(ours) == len(theirs) == 25
    difference = np.abs(np.stack([frame.rgb for frame in ours]).astype(int) - theirs.astype(int))
    assert np.median(difference) <= 1
    assert difference.mean() < 2


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied_as_ffmpeg_does(degrees: int, tmp_path: Path) -> None:
    plain = moving_picture(tmp_path / "plain.mp4", seconds=0.4, options=("-c:v", "libx264", "-qp", "0"))
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", degrees, "-i", plain, "-c", "copy", turned)
    width, height = (160, 120) if degrees == 180 else (120, 160)
    theirs = ffmpeg_frames(turned, width, height)
    ours = np.stack([frame.rgb for frame in read_frames(probe(turned))])
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 3
    upright = np.stack([frame.rgb for frame in read_frames(probe(plain))])
    if degrees == 180:  # the check above can fail: unrotated frames differ
        assert np.abs(upright.astype(int) - theirs.astype(int)).mean() > 20


def test_variable_rate_keeps_its_clock(tmp_path: Path) -> None:
    clip = tmp_path / "variable.mkv"
    kept = "select='lt(n,5)+eq(n,9)+gt(n,19)'"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=1", "-vf", kept, "-fps_mode", "vfr", clip)
    frames = list(read_frames(probe(clip)))
    expected = np.array([0, 1, 2, 3, 4, 9, 20, 21, 22, 23, 24]) / 25
    np.testing.assert_allclose([frame.start_s for frame in frames], expected, atol=0.0011)  # Matroska counts in ms
    np.testing.assert_allclose([frame.end_s for frame in frames][:-1], expected[1:], atol=0.0011)


@pytest.mark.parametrize(("rate", "n_frames"), [(10, 10), (25, 25), (30, 30), (50, 30), (60, 30), (120, 30)])
def test_at_most_thirty_frames_a_second(rate: int, n_frames: int, tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.mkv"):
        frames = list(read_frames(probe(moving_picture(tmp_path / name, rate=rate))))
        assert len(frames) == n_frames
        assert frames[-1].end_s == pytest.approx(1.0, abs=0.04)


def test_wide_pixels_and_large_frames_are_resized(tmp_path: Path) -> None:
    wide = moving_picture(tmp_path / "wide.mp4", seconds=0.2, options=("-vf", "setsar=2/1"))
    assert next(iter(read_frames(probe(wide)))).rgb.shape == (120, 320, 3)
    large = moving_picture(tmp_path / "large.mp4", seconds=0.2, size="1920x1080")
    assert next(iter(read_frames(probe(large)))).rgb.shape == (720, 1280, 3)


def test_sound_keeps_frequency_and_clock(tmp_path: Path) -> None:
    clip = tone(tmp_path / "tone.wav", seconds=1.5, rate=22050, frequency=500)
    with decode_audio(probe(clip)) as audio:
        assert audio.native_rate_hz == 22050
        assert len(audio.native) == pytest.approx(1.5 * 22050, abs=2)
        assert len(audio.speech_16k) == pytest.approx(1.5 * 16000, abs=20)
        for samples, rate in ((audio.native, 22050), (audio.speech_16k, 16000)):
            spectrum = np.abs(np.fft.rfft(samples[:rate]))
            assert np.argmax(spectrum) == 500  # bins are 1 Hz wide


def test_late_sound_is_padded_to_the_common_clock(tmp_path: Path) -> None:
    picture = moving_picture(tmp_path / "picture.mp4", seconds=2)
    sine = tone(tmp_path / "sine.wav", seconds=1)
    clip = tmp_path / "late.mkv"
    ffmpeg("-i", picture, "-itsoffset", "0.8", "-i", sine, "-map", "0:v", "-map", "1:a", "-c:v", "copy", clip)
    with decode_audio(probe(clip)) as audio:
        heard = np.flatnonzero(np.abs(audio.speech_16k) > 0.01) / 16000
        assert heard[0] == pytest.approx(0.8, abs=0.02)
        assert heard[-1] == pytest.approx(1.8, abs=0.02)


def test_all_channels_are_averaged(tmp_path: Path) -> None:
    clip = tmp_path / "stereo.wav"
    ffmpeg("-f", "lavfi", "-i", "aevalsrc=0.5*sin(2*PI*500*t)|0:s=16000:d=1", clip)
    with decode_audio(probe(clip)) as audio:
        assert np.abs(audio.native).max() == pytest.approx(0.25, abs=0.01)


def test_native_sound_may_be_the_first_channel_as_it_is(tmp_path: Path) -> None:
    """To the bit, whether it is decoded alone or beside the mean for speech."""
    import soundfile

    channels = 0.3 * np.random.default_rng(0).standard_normal((16000, 3))
    soundfile.write(tmp_path / "three.wav", channels, 16000)
    stored = soundfile.read(tmp_path / "three.wav", dtype="float32")[0]
    info = probe(tmp_path / "three.wav")
    with (
        decode_audio(info, native_first_channel=True) as both,
        decode_audio(info, only="native", native_first_channel=True) as native,
    ):
        assert np.array_equal(both.native, stored[:, 0])
        assert np.array_equal(native.native, stored[:, 0])
        assert both.speech_16k == pytest.approx(stored.mean(axis=1), abs=2 / 32768)


def test_temporary_sound_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tone(tmp_path / "tone.wav")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with decode_audio(probe(clip)):
        assert any(scratch.iterdir())
    assert not any(scratch.iterdir())


def test_missing_streams_are_named(tmp_path: Path) -> None:
    picture, sound = probe(moving_picture(tmp_path / "p.mp4")), probe(tone(tmp_path / "t.wav"))
    assert (picture.has_video, picture.has_audio, sound.has_video, sound.has_audio) == (True, False, False, True)
    with pytest.raises(MissingStream), decode_audio(picture):
        pass
    with pytest.raises(MissingStream):
        next(read_frames(sound))


@pytest.mark.parametrize(
    "name", ["with space.mp4", "new\nline.mp4", "-dash.mp4", "ünïcode 笑.mp4", "per%03dcent.mp4", "co:lon.mp4"]
)
def test_odd_names_open(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture_and_tone(tmp_path / "plain.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    info = probe(Path(name))
    assert sum(1 for _ in read_frames(info)) == 25
    with decode_audio(info) as audio:
        assert audio.duration_s == pytest.approx(1.0, abs=0.06)


def test_cover_picture_is_not_a_video(tmp_path: Path) -> None:
    picture = tmp_path / "cover.jpg"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:d=1", "-frames:v", "1", picture)
    song = tmp_path / "song.mp3"
    sine = tone(tmp_path / "sine.wav")
    ffmpeg("-i", sine, "-i", picture, "-map", "0:a", "-map", "1:v", "-disposition:v", "attached_pic", song)
    info = probe(song)
    assert info.has_audio
    assert not info.has_video


def test_damaged_middle_is_survived(tmp_path: Path) -> None:
    clip = picture_and_tone(tmp_path / "clip.mp4", seconds=3, options=("-g", "10", "-movflags", "+faststart"))
    content = bytearray(clip.read_bytes())
    for position in range(len(content) // 2, len(content) // 2 + 400):
        content[position] ^= 0xFF
    clip.write_bytes(bytes(content))
    info = probe(clip)
    assert sum(1 for _ in read_frames(info)) >= 40
    with decode_audio(info) as audio:
        assert audio.duration_s > 2


@pytest.mark.shared
def test_two_video_streams_use_the_best(shared_data: Path) -> None:
    info = probe(shared_data / "clips" / "edge_cases" / "speech_no_face.mp4")
    assert (info.n_video_streams, info.n_audio_streams) == (2, 2)
    assert (info.width, info.height, info.audio_rate_hz) == (480, 270, 16000)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes only there")
def test_a_name_that_is_no_text_is_as_good_as_any(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 .mp4"))
    picture_and_tone(tmp_path / "plain.mp4").rename(path)
    info = probe(path)
    assert len(list(read_frames(info))) == 25
    with decode_audio(info) as audio:
        assert len(audio.speech_16k) == pytest.approx(16000, abs=1200)


def test_decoding_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    info = probe(picture_and_tone(tmp_path / "a.mp4"))
    with pytest.raises(ToolError) as caught:
        list(read_frames(info, limits=Limits(decode_s=0.0, decode_s_per_s=0.0)))
    assert caught.value.code == "video_timeout"
    with pytest.raises(ToolError) as caught, decode_audio(info, Limits(decode_s=1e-3, decode_s_per_s=0.0)):
        pass
    assert caught.value.code == "ffmpeg_timeout"


def test_sound_that_is_mostly_damaged_is_used_and_named(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.m4a", seconds=4, options=("-c:a", "aac"))
    content = bytearray(path.read_bytes())
    with decode_audio(probe(path)) as audio:
        assert not audio.damaged
    damaged = slice(len(content) * 7 // 100, len(content) * 79 // 100)
    content[damaged] = np.random.default_rng(0).integers(0, 256, damaged.stop - damaged.start, np.uint8).tobytes()
    path.write_bytes(bytes(content))
    with decode_audio(probe(path)) as audio:
        assert audio.damaged
        assert len(audio.speech_16k) == pytest.approx(4 * 16000, abs=3000)


def test_native_sound_keeps_its_upper_half_beside_16_khz(tmp_path: Path) -> None:
    """Both rates from one pass: a tone at 15 kHz is in the native samples, as loud as when they are decoded alone."""
    info = probe(tone(tmp_path / "high.wav", rate=44100, frequency=15_000, seconds=1))
    with (
        decode_audio(info) as both,
        decode_audio(info, only="native") as native,
        decode_audio(info, only="speech") as speech,
    ):
        assert both.native.std() == pytest.approx(0.125 / np.sqrt(2), rel=0.02)
        assert np.array_equal(both.native, native.native)
        assert not len(native.speech_16k)
        assert np.array_equal(both.speech_16k, speech.speech_16k)
        assert both.speech_16k.std() < 0.001
        assert not len(speech.native)
