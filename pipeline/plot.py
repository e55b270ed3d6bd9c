"""A picture of what the acoustic extractor heard: pitch, glottal columns and creak under the spectrogram, on one time axis.

In: mono samples, their rate, the acoustic track. Out: PNG. Gaps in a curve are where the column does not exist.

    plot_acoustics(samples, 16000, covarep_features(samples, 16000), Path("clip.png"), "clip.mp4")
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.track import FeatureTrack
from extractors.media import Limits, decode_audio, probe
from pipeline.predict import publish

SOFTWARE = "lamb plot"
WINDOW_S, HOP_S = 0.025, 0.010
TOP_HZ = 8000.0
RANGE_DB = 70.0
LONGEST_S = 120.0  # more than this on one page shows nothing
QUIETEST = 1e-4  # of full scale (−80 dB): what is softer is not drawn as bright as a voice
ROWS = (  # column, label, what it is, limits and a word where it does not exist at all
    ("F0", "F0 (Hz)", "pitch", (50, 500), "no voice"),
    ("NAQ", "NAQ", "normalised amplitude quotient: pressed (low) to breathy (high)", (0, 0.3), "no voice"),
    ("Rd", "Rd", "glottal pulse shape: pressed (.3) to breathy (2.5)", (0.3, 2.5), "no voice"),
    ("creak", "creak", "posterior of creaky voice", (0, 1), "no sound to measure"),
)


def plot_file(path: Path, output: Path, start_s: float = 0.0, end_s: float | None = None) -> None:
    """Analyse the whole sound of a file and draw ``start_s``..``end_s`` of it.

    Raises InputError: the file cannot be read (see ``extractors.media.probe``), has no sound, the interval is empty or
    longer than two minutes, or ``output`` is no name of a PNG, or exists and is no picture of ours.
    """
    from extractors.acoustic import covarep_features

    if output.suffix.lower() != ".png":
        raise InputError(
            f"Expected --output to end in .png but got {str(output)!r}: pictures are PNG.", code="bad_option"
        )
    check_replaceable(output)
    info = probe(path, Limits())
    if not info.has_audio:
        raise InputError(f"Expected sound in {str(path)!r} but it has none.", code="no_audio")
    with decode_audio(info, only="native") as audio:
        length_s = len(audio.native) / audio.native_rate_hz
        if not length_s:
            raise InputError(f"Expected sound in {str(path)!r} but it has no samples.", code="no_audio")
        end_s = min(length_s, end_s if end_s is not None else start_s + LONGEST_S)
        if not 0 <= start_s < end_s <= start_s + LONGEST_S:
            raise InputError(
                f"Expected an interval within 0..{length_s:.1f} s, at most {LONGEST_S:.0f} s long, but got "
                f"{start_s:g}..{end_s:g} s.",
                code="bad_option",
            )
        track = covarep_features(audio.native, audio.native_rate_hz)
        plot_acoustics(audio.native, audio.native_rate_hz, track, output, path.name, start_s, end_s)


def check_replaceable(output: Path) -> None:
    """Raises InputError (output_exists) if something other than an earlier picture of ours is there."""
    if not os.path.lexists(output):
        return
    try:
        with output.open("rb") as stream:
            ours = SOFTWARE.encode() in stream.read(4096)
    except OSError:
        ours = False
    if not ours:
        raise InputError(
            f"Expected {str(output)!r} to be free but something is there.",
            code="output_exists",
            remedy="Choose another --output.",
        )


def plot_acoustics(
    samples: np.ndarray,
    rate_hz: int,
    track: FeatureTrack,
    output: Path,
    title: str,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> None:
    """Write the picture (PNG, 1400 × 1000 pixels), published by one rename. Raises InputError (output_unwritable)."""
    figure = _figure(samples, rate_hz, track, title, start_s, len(samples) / rate_hz if end_s is None else end_s)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": SOFTWARE})
    publish(output, picture.getvalue())


def _figure(samples: np.ndarray, rate_hz: int, track: FeatureTrack, title: str, start_s: float, end_s: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 10), dpi=100, layout="constrained")
    spectrum, *axes = figure.subplots(1 + len(ROWS), 1, sharex=True, height_ratios=(2.2, *[1] * len(ROWS)))
    _spectrogram(spectrum, samples, rate_hz, start_s, end_s)
    spectrum.set_title(_plain(title))
    inside = (track.end_s > start_s) & (track.start_s < end_s)
    middle = (track.start_s[inside] + track.end_s[inside]) / 2
    for axis, (column, label, what, limits, missing) in zip(axes, ROWS, strict=True):
        i = track.spec.columns.index(column)
        known = track.valid[inside]
        if track.defined is not None:
            known = known & track.defined[inside, i]
        curve = np.where(known, track.values[inside, i], np.nan)
        axis.plot(middle, curve, color="tab:blue", linewidth=1.2, marker=".", markersize=2)  # a row alone has no line
        if not known.any():
            axis.set_ylim(*limits)
            axis.text(0.5, 0.5, missing, transform=axis.transAxes, ha="center", va="center", color="0.35")
        axis.set_ylabel(label)
        axis.set_title(what, loc="left", fontsize=8, color="0.35", pad=2)
        axis.grid(alpha=0.3)
    axes[-1].set_ylim(0, 1)
    axes[-1].set_xlim(start_s, end_s)
    axes[-1].set_xlabel("seconds")
    return figure


def _spectrogram(axis: Any, samples: np.ndarray, rate_hz: int, start_s: float, end_s: float) -> None:
    import librosa

    part = np.array(samples[int(start_s * rate_hz) : int(end_s * rate_hz)], dtype=np.float32)
    n_window = round(WINDOW_S * rate_hz)
    n_fft = 1 << (2 * n_window - 1).bit_length()
    hop = max(round(HOP_S * rate_hz), len(part) // 2800)  # two steps a pixel are enough
    n_steps = len(part) // hop + 1
    padded = np.pad(part, (0, max(0, n_fft - len(part))))  # librosa warns of less than a transform's length
    magnitude = np.abs(librosa.stft(padded, n_fft=n_fft, win_length=n_window, hop_length=hop))[:, :n_steps]
    loudest = max(float(magnitude.max()), QUIETEST * n_window / 4)  # a sine of full scale has n_window / 4
    level = 20 * np.log10(np.maximum(magnitude / loudest, 10 ** (-RANGE_DB / 20)))
    half_s = hop / rate_hz / 2
    extent = (start_s - half_s, start_s + (2 * n_steps - 1) * half_s, 0.0, rate_hz / 2)
    axis.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-RANGE_DB, vmax=0)
    axis.set_ylim(0, min(TOP_HZ, rate_hz / 2))
    axis.set_ylabel("Hz")


def _plain(text: str) -> str:
    """A file name as a title: no line breaks, no formulas."""
    return "".join(c if c.isprintable() else "�" for c in text).replace("$", r"\$")
