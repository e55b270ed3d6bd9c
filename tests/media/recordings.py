"""Cases that are recordings: codecs, frame sizes, clocks, structure and sound, sound or broken."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.media import surgery
from tests.media.case import BOTH, ONLY_PICTURES, ONLY_SOUND, bad, good
from tests.media.recipes import Make, clip, content, encode, made, pictures, plain, silent_clip, sound, tone
from tests.media_maker import ffmpeg


def _mono(codec: str, *options: str) -> tuple[str, ...]:
    return "-c:a", codec, "-ac", "1", *options


CODECS = [
    good("plain.mp4", plain),
    good("mpeg4.avi", clip("-c:v", "mpeg4", *_mono("mp3"))),
    good("vp9.webm", clip("-c:v", "libvpx-vp9", "-deadline", "realtime", *_mono("libopus"))),
    good("vp8.webm", clip("-c:v", "libvpx", "-deadline", "realtime", *_mono("libvorbis"))),
    good("av1.mkv", clip("-c:v", "libsvtav1", "-preset", "12", *_mono("flac"))),
    good("mjpeg.mov", clip("-c:v", "mjpeg", *_mono("pcm_s16le"), "-pix_fmt", "yuvj420p")),
    good("hevc.mp4", clip("-c:v", "libx265", "-x265-params", "log-level=none", *_mono("aac"))),
    good("huffyuv.avi", clip("-c:v", "huffyuv", *_mono("pcm_u8"), "-pix_fmt", "yuv422p")),
    good("prores.mov", clip("-c:v", "prores", *_mono("pcm_s24le"), "-pix_fmt", "yuv422p10le")),
    good("prores_alpha.mov", clip("-c:v", "prores_ks", *_mono("alac"), "-pix_fmt", "yuva444p10le")),
    good("ffv1_16_bit.mkv", clip("-c:v", "ffv1", *_mono("pcm_f32le"), "-pix_fmt", "gray16le")),
    good("mpeg2.mpg", clip("-c:v", "mpeg2video", "-r", "25", *_mono("mp2"), tone=sound(rate=44100))),
    good("theora.ogv", clip("-c:v", "libtheora", *_mono("libvorbis"))),
    good("wmv2.wmv", clip("-c:v", "wmv2", *_mono("wmav2"), tone=sound(rate=44100))),
    good("sorenson.flv", clip("-c:v", "flv", *_mono("mp3"), tone=sound(rate=44100))),
    good("h264.ts", clip("-f", "mpegts")),
    good("unknown_pictures.mp4", content(lambda: made("mp4").replace(b"avc1", b"zzzz")), "no_speech", "no_video"),
    good("unknown_sound.mp4", content(lambda: made("mp4").replace(b"mp4a", b"zzzz"))),
    bad("unknown_sound.wav", content(surgery.wav(surgery.sine().tobytes(), tag=0x1234)), "no_streams"),
    good("ten_bit.mp4", clip("-pix_fmt", "yuv420p10le")),
    good("full_colour.mp4", clip("-pix_fmt", "yuv444p")),
    good("rgb.mov", clip("-c:v", "png", *_mono("pcm_s16be"), "-pix_fmt", "rgba")),
    good("interlaced.mp4", clip("-vf", "interlace", "-flags", "+ildct+ilme", "-x264opts", "tff=1")),
    replace(good("animation.gif", silent_clip("-pix_fmt", "rgb8"), *ONLY_PICTURES), listed=False),
    bad("animation.webp", silent_clip("-c:v", "libwebp_anim"), "not_media", listed=False),
]


def _resized(path: Path) -> None:
    """Two transport streams of different size behind each other, as after a change of channel."""
    path.write_bytes(made("ts") + made("ts", "-vf", "scale=96x32"))


def _turned(degrees: float) -> Make:
    def make(path: Path) -> None:
        source = path.with_name(f".{path.name}.mp4")
        plain(source)
        encode(path, "-display_rotation", degrees, "-i", source, "-c", "copy")
        source.unlink()

    return make


def _bomb(path: Path) -> None:
    """Some kilobytes that hold 100 one-colour pictures of 2048×2048: 600 MB decoded, were they kept."""
    source = path.with_name(f".{path.name}.ivf")
    ffmpeg(
        *pictures(0.2, "2048x2048", 10, "color=c=gray"), "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8",
        "-lag-in-frames", "0", "-auto-alt-ref", "0", "-error-resilient", "1",
        "-pix_fmt", "yuv420p", source,
    )  # fmt: skip
    path.write_bytes(surgery.ivf_repeated(source.read_bytes(), 100))
    source.unlink()


FRAMES = [
    bad(
        "over_the_limit.mkv",
        silent_clip("-c:v", "png", picture=pictures(0.1, "8200x8200", 10, "color")),
        "frame_too_large",
    ),
    good(
        "under_the_limit.avi",
        silent_clip("-c:v", "mjpeg", picture=pictures(0.1, "8192x8192", 10, "color")),
        *ONLY_PICTURES,
    ),
    good("bomb.ivf", _bomb, *ONLY_PICTURES),
    good("lying_size.mp4", content(lambda: surgery.mp4_sized(made("mp4"), 65535, 65535))),
    good("changing_size.ts", _resized),
    good("changing_channels.ts", content(lambda: made("ts", "-ac", "2") + made("ts", "-ac", "1"))),
    good("one_pixel.mkv", clip("-c:v", "ffv1", "-vf", "scale=1:1", "-pix_fmt", "bgr0")),
    good("two_by_two.mkv", clip("-c:v", "ffv1", picture=pictures(1, "2x2"))),
    good("sixteen.mp4", clip(picture=pictures(1, "16x16"))),
    good("thread.mkv", clip("-c:v", "ffv1", "-vf", "scale=4096:2")),
    good("wide_pixels.mp4", clip("-vf", "setsar=90/1")),
    good("tall_pixels.mp4", clip("-vf", "setsar=1/90")),
    good("anamorphic.mp4", clip("-vf", "setsar=64/45")),
    good("turned.mp4", _turned(90)),
    good("askew.mp4", _turned(33.3)),
]


def _index_last(extension: str) -> bytes:
    whole = made(extension, seconds=2)
    return whole[: len(whole) // 2]


def _gap(path: Path) -> None:
    """Half a second, four seconds of nothing, half a second."""
    shift = "setpts='PTS+gte(T,0.5)*4/TB'"
    encode(
        path, *pictures(), *sound(), "-vf", shift, "-af", "asetpts='PTS+gte(T,0.5)*4/TB'", "-fps_mode", "vfr",
        "-pix_fmt", "yuv420p",
    )  # fmt: skip


TIMES = [
    good("one_frame.mp4", silent_clip("-frames:v", "1"), *ONLY_PICTURES),
    good("one_frame_with_sound.mp4", clip("-frames:v", "1")),
    bad("no_frames.mp4", content(lambda: _without_samples("mp4")), "no_content"),
    good("says_long.mp4", content(lambda: surgery.mp4_lasting(made("mp4"), 600.0))),
    good("says_short.mp4", content(lambda: surgery.mp4_lasting(made("mp4"), 0.1))),
    good("says_nothing.mp4", content(lambda: surgery.mp4_lasting(made("mp4"), 0.0))),
    good("says_long.mkv", content(lambda: surgery.mkv_lasting(made("mkv"), 600.0)), *BOTH, "truncated"),
    good("says_short.mkv", content(lambda: surgery.mkv_lasting(made("mkv"), 0.1))),
    good("says_nan.mkv", content(lambda: surgery.mkv_lasting(made("mkv"), float("nan")))),
    bad("says_days.mkv", content(lambda: surgery.mkv_lasting(made("mkv"), 300_000.0)), "too_long"),
    good("backwards.mkv", clip("-bsf:v", "setts=pts=if(eq(mod(N\\,4)\\,3)\\,PTS-250\\,PTS):dts=DTS", "-bf", "0")),
    good("joined.ts", content(lambda: made("ts") * 2)),
    good("new_clock.ts", content(lambda: made("ts", "-output_ts_offset", "30") + made("ts"))),
    good("lost_signal.ts", content(lambda: made("ts") + made("ts", "-output_ts_offset", "30")), *BOTH, "truncated"),
    good("leap.flv", content(lambda: surgery.flv_leaping(made("flv", "-ar", "22050")))),
    good("gap.mkv", _gap),
    good("sound_outlasts_pictures.mp4", clip(picture=pictures(0.4), tone=sound(2))),
    good("pictures_outlast_sound.mp4", clip(picture=pictures(2), tone=sound(0.4))),
    good("late_sound.mkv", clip("-af", "asetpts=PTS+0.8/TB")),
    good("late_pictures.mkv", clip("-vf", "setpts=PTS+0.8/TB")),
    good("starts_late.ts", clip("-output_ts_offset", "9000")),
    good("variable_rate.mkv", clip("-vf", "select='lt(n,3)+gt(n,7)'", "-fps_mode", "vfr")),
    good("thousand_hertz.mkv", clip("-c:v", "ffv1", picture=pictures(0.3, "32x32", 1000))),
    good("slow.mp4", clip(picture=pictures(2, rate=0.5), tone=sound(2))),
    good("interval_zero.mkv", clip("-c:v", "ffv1", "-bsf:v", "setts=ts=0"), *BOTH),
]


def _without_samples(extension: str) -> bytes:
    """All that is there before the first picture is written: a fragmented file's empty index."""
    whole = made(extension, "-movflags", "empty_moov+default_base_moof+frag_keyframe")
    return whole[: whole.index(b"moof") - 4]


def _noise_in_the_middle(extension: str, *options: str) -> bytes:
    whole = bytearray(made(extension, *options, seconds=2))
    middle = slice(len(whole) * 2 // 5, len(whole) * 3 // 5)
    whole[middle] = np.random.default_rng(0).bytes(middle.stop - middle.start)
    return bytes(whole)


STRUCTURE = [
    bad("cut.mp4", content(lambda: _index_last("mp4")), "truncated"),
    bad("cut.mov", content(lambda: _index_last("mov")), "truncated"),
    bad("no_index.mp4", content(lambda: surgery.without_index(made("mp4"))), "truncated"),
    bad("only_ftyp.mp4", content(lambda: made("mp4")[:32]), "truncated"),
    good("index_first.mp4", content(lambda: made("mp4", "-movflags", "+faststart"))),
    good("fragmented.mp4", content(lambda: made("mp4", "-movflags", "frag_keyframe+empty_moov", "-g", "5"))),
    good("cut_fragments.mp4", content(lambda: _cut("mp4", "-movflags", "frag_keyframe+empty_moov", "-g", "2"))),
    good("cut_with_index.mp4", content(lambda: _cut("mp4", "-movflags", "+faststart")), *BOTH, "truncated"),
    good("cut.mkv", content(lambda: _cut("mkv")), *BOTH, "truncated"),
    good("cut.avi", content(lambda: _cut("avi", "-c:v", "mpeg4"))),
    good("cut.ts", content(lambda: _cut("ts"))),
    good("cut.flv", content(lambda: _cut("flv", "-ar", "22050")), *BOTH, "truncated"),
    good(
        "noise_inside.mkv",
        content(lambda: _noise_in_the_middle("mkv", "-c:a", "pcm_s16le", "-cluster_time_limit", "200")),
    ),
    good("noise_inside.avi", content(lambda: _noise_in_the_middle("avi", "-c:v", "mpeg4"))),
    good("noise_inside.ts", content(lambda: _noise_in_the_middle("ts"))),
    good("junk_before.ts", content(lambda: b"0?!" * 99 + made("ts"))),
    good("junk_behind.mp4", content(lambda: made("mp4") + bytes(5000) + b"0?!" * 999)),
    bad("header_only.mkv", content(lambda: made("mkv")[:400]), "not_media"),
    good("live.mkv", content(lambda: made("mkv", "-live", "1"))),
    good("extras.mkv", lambda path: _extras(path)),
    good("extras.mov", clip("-timecode", "01:00:00:00", "-metadata", "title=a\nb")),
    good("two_sounds.mp4", clip("-map", "0:v", "-map", "1:a", "-map", "1:a")),
    good("only_pictures.mp4", silent_clip(), *ONLY_PICTURES),
    good("silent.mp4", clip("-af", "volume=0"), "silence", "no_face"),
]


def _cut(extension: str, *options: str) -> bytes:
    whole = made(extension, *options, seconds=4)
    return whole[: len(whole) // 2]


def _extras(path: Path) -> None:
    """A subtitle track, an attached file and chapters beside pictures and sound."""
    lines, marks = path.with_name(".a.srt"), path.with_name(".a.txt")
    lines.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello <b>there</b>\n")
    marks.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=one\n")
    encode(
        path, *pictures(), *sound(), "-i", lines, "-i", marks, "-map", "0", "-map", "1", "-map", "2", "-map_metadata", "3",
        "-attach", marks, "-metadata:s:t", "mimetype=text/plain", "-pix_fmt", "yuv420p",
    )  # fmt: skip
    lines.unlink()
    marks.unlink()


def _covered(path: Path) -> None:
    picture = path.with_name(".cover.png")
    picture.write_bytes(surgery.png(64, 64))
    encode(path, *sound(), "-i", picture, "-map", "0", "-map", "1", "-disposition:v", "attached_pic", "-c:v", "copy")
    picture.unlink()


_INT = surgery.sine().tobytes()
_HUGE = struct.pack("<f", 1e30) * 16000
SOUND = [
    good("sound.wav", tone(), *ONLY_SOUND),
    good("eight_channels.wav", tone("-ac", "8"), *ONLY_SOUND),
    good("eight_khz.wav", tone(rate=8000), *ONLY_SOUND),
    good("studio.wav", tone(rate=192_000), *ONLY_SOUND),
    good("one_sample.wav", content(surgery.wav(b"\0\x40")), *ONLY_SOUND),
    bad("no_samples.wav", content(surgery.wav(b"")), "no_content"),
    bad("no_channels.wav", content(surgery.wav(_INT, channels=0)), "no_content"),
    bad("one_hertz.wav", content(surgery.wav(_INT, rate_hz=1)), "no_content"),
    bad("no_rate.wav", content(surgery.wav(_INT, rate_hz=0)), "not_media"),
    good("many_channels.wav", content(surgery.wav(_INT * 64, channels=64)), *ONLY_SOUND),
    good("says_more.wav", content(surgery.wav(_INT, says=len(_INT) * 100)), *ONLY_SOUND),
    good("says_unknown.wav", content(surgery.wav(_INT, says=0xFFFFFFFF)), *ONLY_SOUND),
    good("says_less.wav", content(surgery.wav(_INT, says=1000)), *ONLY_SOUND),
    good("nan.wav", content(surgery.wav(surgery.spoiled(np.nan), tag=3, bits=32)), "audio_damaged", *ONLY_SOUND),
    good("infinite.wav", content(surgery.wav(surgery.spoiled(np.inf), tag=3, bits=32)), "audio_damaged", *ONLY_SOUND),
    good(
        "all_nan.wav",
        content(surgery.wav(surgery.spoiled(np.nan, 1), tag=3, bits=32)),
        "audio_damaged",
        "silence",
        "no_video",
    ),
    good("deafening.wav", content(surgery.wav(_HUGE, tag=3, bits=32)), "audio_damaged", "silence", "no_video"),
    good("double.wav", content(surgery.wav(surgery.sine(kind="<f8").tobytes(), tag=3, bits=64)), *ONLY_SOUND),
    good("adpcm.wav", tone("-c:a", "adpcm_ms"), *ONLY_SOUND),
    good("plain.flac", content(lambda: made("flac")), *ONLY_SOUND),
    good("opus.ogg", tone("-c:a", "libopus"), *ONLY_SOUND),
    good("plain.mp3", content(lambda: made("mp3")), *ONLY_SOUND),
    good("giant_tag.mp3", content(lambda: surgery.tagged(made("mp3"), 3_000_000)), *ONLY_SOUND),
    bad("lying_tag.mp3", content(lambda: surgery.tagged(made("mp3"), 100, says=50_000_000)), "not_media"),
    good("cover.mp3", _covered, *ONLY_SOUND),
    good("cover.m4a", _covered, *ONLY_SOUND),
]
