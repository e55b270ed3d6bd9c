"""Harmonics of every pitch frame: the common ground of Rd, the cepstrum and the phase columns.

In: upright mono signal (N,), rate in Hz, pitch frames. Out: amplitude and phase of up to H harmonics a frame.
Source: three-period Blackman windows, zero-phase FFT, parabolic peaks (Smith & Serra 1987; Degottex & Erro 2014).

    harmonics = harmonic_frames(signal, 16000, pitch.time_s, pitch.f0_hz)
    harmonics.amplitude[i, :harmonics.count[i] + 1]       # index h is the h-th harmonic, 0 is DC
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from extractors.acoustic.frames import round_half_up

N_FFT = 4096
LOWEST_F0_HZ = 50
UNVOICED_F0_HZ = 100.0
BLOCK_FRAMES = 256  # 256 spectra of 2,049 complex bins: 8 MB
LOG_SILENCE = -690.0  # no amplitude of a frame with any sound lies lower in `compat`

Reader = Callable[[np.ndarray, np.ndarray], None]
"""Called with indices into the frames (B,) and their log amplitudes (B, n_fft/2 + 1), 0 Hz … Nyquist."""


@dataclass(frozen=True)
class Harmonics:
    """Harmonics of M frames.

    ``frame`` (M,) index into the pitch track; ``time_s``, ``f0_hz`` (M,); ``spacing_hz`` (M,) the spacing the
    frequencies were forced to; ``count`` (M,) harmonics above DC; ``amplitude``, ``phase`` (M, H + 1), 0 beyond count.
    ``wide`` holds the frames that `compat` measures at 1 Hz (digital silence within a window of three seconds): their
    thousands of harmonics would swell the tables, where their count is 0; its ``frame`` are indices into this table.
    """

    frame: np.ndarray
    time_s: np.ndarray
    f0_hz: np.ndarray
    spacing_hz: np.ndarray
    count: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray
    wide: Harmonics | None = None


def fft_size(rate_hz: float, mode: str = "compat") -> int:
    """``compat``: 4096, or the power of two that holds the longest window (three periods of 50 Hz); ``fixed``: twice
    that power of two, 2048 at 16 kHz, which puts six bins or more into half a main lobe."""
    longest = 2 * round_half_up(1.5 * rate_hz / LOWEST_F0_HZ) + 1
    holds = 1 << (longest - 1).bit_length()
    return max(N_FFT, holds) if mode == "compat" else 2 * holds


def _placed(rate_hz: float, time_s: np.ndarray, f0_hz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (0-based), half lengths and F0 of the frames; F0 = 0 counts as 100 Hz."""
    f0 = np.where(f0_hz > 0, f0_hz, UNVOICED_F0_HZ)
    return np.floor(time_s * rate_hz + 0.5).astype(np.int64), np.floor(1.5 * rate_hz / f0 + 0.5).astype(np.int64), f0


def window_inside(n_samples: int, rate_hz: float, time_s: np.ndarray, f0_hz: np.ndarray) -> np.ndarray:
    """Whether a frame's window lies inside the file, (M,) bool."""
    centre, half, _ = _placed(rate_hz, time_s, f0_hz)
    return (centre - half >= 0) & (centre + half < n_samples)


def harmonic_counts(rate_hz: float, f0_hz: np.ndarray) -> np.ndarray:
    """Harmonics above DC of frames with these F0, (M,)."""
    return np.floor((rate_hz / 2 - f0_hz / 2) / f0_hz + 0.5).astype(np.int64)


def most_harmonics(n_samples: int, rate_hz: float, time_s: np.ndarray, f0_hz: np.ndarray) -> int:
    """The largest ``count`` that :func:`harmonic_frames` finds in a whole file in `compat`."""
    _, half, f0 = _placed(rate_hz, time_s, f0_hz)
    counted = window_inside(n_samples, rate_hz, time_s, f0_hz) & (2 * half + 1 <= fft_size(rate_hz))
    return int(harmonic_counts(rate_hz, f0[counted]).max(initial=0))


def usable_frames(signal: np.ndarray, rate_hz: float, time_s: np.ndarray, f0_hz: np.ndarray):
    """Frames whose window lies inside the file: (indices, centres 0-based, half lengths, F0 with 0 → 100 Hz).

    Windows longer than the FFT (F0 of 1 Hz, as `compat` calls digital silence) must also hold some sound.
    """
    centre, half, f0 = _placed(rate_hz, time_s, f0_hz)
    good = window_inside(len(signal), rate_hz, time_s, f0_hz)
    n_fft = fft_size(rate_hz)
    for i in np.flatnonzero(good & (2 * half + 1 > n_fft)):
        begin = centre[i] - half[i]
        good[i] = np.any(signal[begin : begin + n_fft])
    keep = np.flatnonzero(good)
    return keep, centre[keep], half[keep], f0[keep]


@njit(cache=True)
def _fill(signal, centre, half, rows):
    # Blackman over its sum, its middle at sample 0 and the left half wrapped to the end: zero phase.
    # Of a window longer than the row only the beginning is there, as in the reference.
    n_fft = rows.shape[1]
    window = np.empty(1)
    for i in range(rows.shape[0]):
        c, h = centre[i], half[i]
        if len(window) != h + 1:
            window = np.empty(h + 1)
            total = 0.0
            for n in range(h + 1):
                x = np.cos(np.pi * n / h)
                window[n] = 0.42 + 0.5 * x + 0.08 * (2.0 * x * x - 1.0)
                total += window[n] if n == 0 else 2.0 * window[n]
            window /= total
        rows[i] = 0.0
        for n in range(-h, min(h, n_fft - h - 1) + 1):
            rows[i, n % n_fft] = signal[c + n] * window[abs(n)]


def _spectra(
    signal: np.ndarray, n_fft: int, centre: np.ndarray, half: np.ndarray, frames: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Zero-phase spectra of the frames, block by block: (frames of the block, (B, n_fft/2 + 1) complex)."""
    from scipy.fft import rfft

    for begin in range(0, len(frames), BLOCK_FRAMES):
        block = frames[begin : begin + BLOCK_FRAMES]
        rows = np.empty((len(block), n_fft))
        _fill(signal, centre[block], half[block], rows)
        yield block, np.asarray(rfft(rows, axis=1))


@njit(cache=True)
def _wrap(phase):
    return phase - 2.0 * np.pi * np.floor(phase / (2.0 * np.pi) + 0.5)


@njit(cache=True)
def _pick(level, spectra, f0, rate_hz, count, amplitude, phase, spacing):
    n_bins = level.shape[1]
    hz = rate_hz / (2.0 * (n_bins - 1))
    peak_at = np.empty(n_bins)
    peak_db = np.empty(n_bins)
    for i in range(level.shape[0]):
        n_peaks = 0
        for b in range(1, n_bins - 1):
            if level[i, b] > level[i, b - 1] and level[i, b] > level[i, b + 1]:
                y0, y1, y2 = float(level[i, b - 1]), float(level[i, b]), float(level[i, b + 1])
                shift = 0.5 * (y0 - y2) / (y0 - 2.0 * y1 + y2)
                peak_at[n_peaks] = b + shift
                peak_db[n_peaks] = y1 - 0.25 * (y0 - y2) * shift
                n_peaks += 1
        amplitude[i, 0] = np.exp(level[i, 0])
        phase[i, 0] = np.arctan2(spectra[i, 0].imag, spectra[i, 0].real)
        frequency = np.zeros(count[i] + 1)
        p = 0
        for h in range(1, count[i] + 1):
            target = h * f0[i] / hz
            while p + 1 < n_peaks and abs(peak_at[p + 1] - target) < abs(peak_at[p] - target):
                p += 1
            if n_peaks > 0 and abs(peak_at[p] - target) * hz < f0[i] / 2:
                at, value = peak_at[p], peak_db[p]
            else:
                at = target
                value = float(level[i, int(np.floor(target + 0.5))])
            frequency[h] = at * hz
            low = min(int(at), n_bins - 2)
            z, after = spectra[i, low], spectra[i, low + 1]
            first = np.arctan2(float(z.imag), float(z.real))
            step = _wrap(np.arctan2(float(after.imag), float(after.real)) - first)
            amplitude[i, h] = np.exp(value)
            phase[i, h] = _wrap(first + (at - low) * step)
        spacing[i] = np.median(np.diff(frequency)) if count[i] > 0 else f0[i]


def harmonic_frames(
    signal: np.ndarray,
    rate_hz: float,
    time_s: np.ndarray,
    f0_hz: np.ndarray,
    mode: str = "compat",
    reader: Reader | None = None,
) -> Harmonics:
    """Harmonics of every frame whose window lies inside the file.

    ``reader`` sees the log amplitudes of every block of frames on the way: what else wants the spectra need not
    compute them again. ``fixed`` has half as many bins.
    """
    keep, centre, half, f0 = usable_frames(signal, rate_hz, time_s, f0_hz)
    counts = harmonic_counts(rate_hz, f0)
    n_fft = fft_size(rate_hz, mode)

    def measured(frames: np.ndarray, dtype_kept: type):
        count = counts[frames]
        amplitude, phase = np.zeros((2, len(frames), int(count.max(initial=0)) + 1), dtype=dtype_kept)
        spacing = np.zeros(len(frames))
        done = 0
        for block, spectra in _spectra(signal, n_fft, centre, half, frames):
            level = np.log(np.maximum(np.abs(spectra), 1e-300))
            rows = slice(done, done + len(block))
            _pick(level, spectra, f0[block], rate_hz, count[rows], amplitude[rows], phase[rows], spacing[rows])
            done += len(block)
            if reader is not None:
                reader(block, level)
        return spacing, count, amplitude, phase

    is_wide = 2 * half + 1 > n_fft
    narrow, others = np.flatnonzero(~is_wide), np.flatnonzero(is_wide)
    if not len(others):
        return Harmonics(keep, time_s[keep], f0, *measured(narrow, np.float64))
    wide = Harmonics(others, time_s[keep[others]], f0[others], *measured(others, np.float32))
    spacing, count, amplitude, phase = measured(narrow, np.float64)
    table = np.zeros((2, len(keep), amplitude.shape[1]))
    table[0, narrow], table[1, narrow] = amplitude, phase
    spacing_all, count_all = np.ones(len(keep)), np.zeros(len(keep), dtype=np.int64)
    spacing_all[narrow], count_all[narrow] = spacing, count
    return Harmonics(keep, time_s[keep], f0, spacing_all, count_all, table[0], table[1], wide)
