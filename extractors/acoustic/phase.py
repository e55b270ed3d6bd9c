"""HMPD: phase distortion of the harmonics, its short-time mean and its deviation, compressed to 25 + 13 columns.

In: harmonics of pitch frames (10 ms apart), rate in Hz. Out: HMPDM (M, 25) in radians, HMPDD (M, 13) cepstra.
Source: Degottex & Erro 2014, "A uniform phase representation for the harmonic model in speech synthesis applications".

    mean, deviation = phase_distortion(harmonics, 16000)
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from extractors.acoustic.envelope import mel_cepstrum
from extractors.acoustic.lf_rd import minimum_phase
from extractors.acoustic.sinusoids import LOG_SILENCE, Harmonics

N_BINS = 513
MEAN_FRAMES, TREND_FRAMES, DEVIATION_FRAMES = 25, 9, 9
N_MEAN, ORDER_DEVIATION = 25, 12
FLOOR = 1e-3  # of the deviation, before its logarithm
CHUNK_FRAMES = 512


@njit(cache=True)
def _levels(amplitude, count, spacing, step_hz, out):
    """Log amplitudes on the bins: lines between the harmonics, the first one's down to 0 Hz, the last one's held."""
    for i in range(out.shape[0]):
        n = count[i]
        before = after = np.log(max(amplitude[i, min(1, n)], 1e-300))
        h = 1
        for b in range(out.shape[1]):
            position = b * step_hz / spacing[i]
            while h < n and position >= h:
                h += 1
                before, after = after, np.log(max(amplitude[i, h], 1e-300))
            w = min(max(position - (h - 1), 0.0), 1.0) if h > 1 else 0.0
            out[i, b] = before + w * (after - before)


@njit(cache=True)
def _distortion(minimum, phase, count, spacing, f0, step_hz, beyond, out):
    # lines between the harmonics' values, 0 at 0 Hz and below .95 F0; above the last one a line that climbs by `beyond`
    for i in range(phase.shape[0]):
        n = count[i]
        values = np.zeros(n + 2)
        previous = 0.0
        first = 0.0
        for h in range(1, n + 1):
            position = h * spacing[i] / step_hz
            cell = min(int(position), minimum.shape[1] - 2)
            w = position - cell
            p = phase[i, h] - (minimum[i, cell] * (1.0 - w) + minimum[i, cell + 1] * w)
            if h == 1:
                first = p
            p -= h * first
            d = p - previous - values[h - 1]  # unwrapped along the harmonics, so that lines between them are short
            values[h] = values[h - 1] + d - 2.0 * np.pi * np.floor(d / (2.0 * np.pi) + 0.5)
            previous = p
        values[n + 1] = values[n] + beyond[i]
        for b in range(out.shape[1]):
            position = b * step_hz / f0[i]
            cell = min(int(position), n)
            w = min(position - cell, 1.0)
            out[i, b] = values[cell] * (1.0 - w) + values[cell + 1] * w if position >= 0.95 else 0.0


def random_phases(number: np.ndarray) -> np.ndarray:
    """Phases in ±π of the rows with these numbers in the file, (M,): the same ones whichever piece asks for them."""
    if not len(number):
        return np.zeros(0)
    bits, first = np.random.PCG64(1), int(number.min())
    bits.advance(first)
    return np.random.Generator(bits).uniform(-np.pi, np.pi, int(number.max()) - first + 1)[number - first]


def distortion(
    harmonics: Harmonics, rate_hz: float, mode: str, number: np.ndarray | None = None, most: int | None = None
) -> np.ndarray:
    """Phase distortion of every frame on 513 bins from 0 Hz to Nyquist, (M, 513) radians.

    Bins above the last harmonic hold its value; in ``compat`` they lead to a random one, as in the reference, where
    some frame has more harmonics. Which one follows from the frame's ``number`` (M,) in the file; ``most`` are the
    harmonics of the file's richest frame. By default these frames are the file's. The reference takes the envelope and
    its minimum phase at multiples of the harmonics' median spacing and the distortion at those of F0; ``fixed`` takes
    all at those of F0, in float32.
    """
    step_hz = rate_hz / (2 * (N_BINS - 1))
    dtype = np.float64 if mode == "compat" else np.float32
    out = np.empty((len(harmonics.frame), N_BINS), dtype)
    beyond = np.zeros(len(out))
    if mode == "compat":
        beyond = random_phases(np.arange(len(out)) if number is None else number)
        silent = harmonics.amplitude[:, 0] < np.exp(LOG_SILENCE)
        most = harmonics.count.max(initial=0) if most is None else most
        beyond[silent | (harmonics.count == most)] = 0.0
    for begin in range(0, len(out), CHUNK_FRAMES):
        rows = slice(begin, begin + CHUNK_FRAMES)
        count, f0, amplitude = harmonics.count[rows], harmonics.f0_hz[rows], harmonics.amplitude[rows]
        spacing = harmonics.spacing_hz[rows] if mode == "compat" else f0
        level = np.empty((len(count), N_BINS), dtype)
        _levels(amplitude, count, spacing, step_hz, level)
        _distortion(minimum_phase(level), harmonics.phase[rows], count, spacing, f0, step_hz, beyond[rows], out[rows])
    if harmonics.wide is not None:
        out[harmonics.wide.frame] = distortion(harmonics.wide, rate_hz, mode)  # all have as many harmonics
    return out


@njit(cache=True)
def _filtered(values, window, step, out):
    # over rows, step 1 downwards or −1 upwards; before the first row its value. Sums run from the oldest row on, five
    # rows at a time: what is steady then rounds as in the reference
    n = values.shape[0]
    begin = 0 if step > 0 else n - 1
    for i in range(n):
        now = begin + step * i
        out[now] = 0.0
        for t in range(len(window) - 1, -1, -5):
            r0 = values[begin + step * max(i - t, 0)]
            r1 = values[begin + step * max(i - t + 1, 0)]
            r2 = values[begin + step * max(i - t + 2, 0)]
            r3 = values[begin + step * max(i - t + 3, 0)]
            r4 = values[begin + step * max(i - t + 4, 0)]
            w0, w1, w2, w3, w4 = window[t], window[t - 1], window[t - 2], window[t - 3], window[t - 4]
            for b in range(values.shape[1]):
                out[now, b] = ((((out[now, b] + w0 * r0[b]) + w1 * r1[b]) + w2 * r2[b]) + w3 * r3[b]) + w4 * r4[b]


def smooth_both_ways(values: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Forward and backward FIR smoothing along axis 0 with odd reflection at the ends, as short as the file allows."""
    pad = min(3 * (len(window) - 1), len(values) - 1)
    long = np.concatenate([2 * values[:1] - values[pad:0:-1], values, 2 * values[-1:] - values[-2 : -pad - 2 : -1]])
    taps = np.pad((window / window.sum()).astype(values.dtype), (0, -len(window) % 5))
    forward, backward = np.empty_like(long), np.empty_like(long)
    _filtered(long, taps, 1, forward)
    _filtered(forward, taps, -1, backward)
    return backward[pad : pad + len(values)]


@functools.lru_cache(maxsize=1)
def mean_groups() -> np.ndarray:
    """Group 0..24 of the first 512 bins, counted from 1: one bin each up to 8, then along a
    Bézier curve (8, 8), (25, 25), (512, 25)."""
    t = np.linspace(0, 1, 100001)
    x = (1 - t) ** 2 * 8 + 2 * t * (1 - t) * 25 + t**2 * (N_BINS - 1)
    y = (1 - t) ** 2 * 8 + 2 * t * (1 - t) * 25 + t**2 * N_MEAN
    bins = np.arange(1, N_BINS)
    return np.where(bins <= 8, bins, np.floor(np.interp(bins, x, y) + 0.5)).astype(int) - 1


@njit(cache=True, inline="always")
def _ordered(a, b):
    return (a, b) if a < b else (b, a)


@njit(cache=True)
def _running_median(values, out):
    # median of nine by 19 exchanges (Smith 1996), zeros beyond the ends
    n_rows, n_columns = values.shape
    zeros = np.zeros(n_columns, dtype=values.dtype)
    for i in range(n_rows):
        r0 = values[i - 4] if i >= 4 else zeros
        r1 = values[i - 3] if i >= 3 else zeros
        r2 = values[i - 2] if i >= 2 else zeros
        r3 = values[i - 1] if i >= 1 else zeros
        r4 = values[i]
        r5 = values[i + 1] if i + 1 < n_rows else zeros
        r6 = values[i + 2] if i + 2 < n_rows else zeros
        r7 = values[i + 3] if i + 3 < n_rows else zeros
        r8 = values[i + 4] if i + 4 < n_rows else zeros
        for b in range(n_columns):
            a1, a2 = _ordered(r1[b], r2[b])
            a4, a5 = _ordered(r4[b], r5[b])
            a7, a8 = _ordered(r7[b], r8[b])
            a0, a1 = _ordered(r0[b], a1)
            a3, a4 = _ordered(r3[b], a4)
            a6, a7 = _ordered(r6[b], a7)
            a1, a2 = _ordered(a1, a2)
            a4, a5 = _ordered(a4, a5)
            a7, a8 = _ordered(a7, a8)
            a3 = _ordered(a0, a3)[1]
            a5 = _ordered(a5, a8)[0]
            a4, a7 = _ordered(a4, a7)
            a6 = _ordered(a3, a6)[1]
            a4 = _ordered(a1, a4)[1]
            a2 = _ordered(a2, a5)[0]
            a4 = _ordered(a4, a7)[0]
            a4, a2 = _ordered(a4, a2)
            a4 = _ordered(a6, a4)[1]
            out[i, b] = _ordered(a4, a2)[0]


def _directions(cos: np.ndarray, sin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of length 1 in place of any length; (1, 0) for none."""
    length = np.sqrt(cos * cos + sin * sin)
    none = length == 0.0
    length[none] = 1.0
    return np.where(none, 1.0, cos) / length, sin / length


def phase_distortion(
    harmonics: Harmonics,
    rate_hz: float,
    mode: str = "fixed",
    number: np.ndarray | None = None,
    most: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """HMPDM (M, 25), radians, and HMPDD (M, 13), log cepstra of the deviation; arguments as of :func:`distortion`."""
    n_frames = len(harmonics.frame)
    if n_frames < 2:
        return np.zeros((n_frames, N_MEAN)), np.zeros((n_frames, ORDER_DEVIATION + 1))
    pd = distortion(harmonics, rate_hz, mode, number, most)
    cos, sin = np.cos(pd), np.sin(pd)
    del pd
    box = np.ones(MEAN_FRAMES)
    starts = np.searchsorted(mean_groups(), np.arange(N_MEAN))
    mean = _directions(smooth_both_ways(cos, box), smooth_both_ways(sin, box))
    along, across = (np.add.reduceat(part[:, :-1], starts, axis=1) for part in mean)
    hmpdm = np.arctan2(across, along)

    # the trend: median, then Hann, of cosine and sine apart
    hann = np.hanning(TREND_FRAMES)
    trend = []
    for part in (cos, sin):
        median = np.empty_like(part)
        _running_median(part, median)
        trend.append(smooth_both_ways(median, hann))
    x, y = _directions(*trend)
    box = np.ones(DEVIATION_FRAMES)
    along, across = smooth_both_ways(cos * x + sin * y, box), smooth_both_ways(sin * x - cos * y, box)
    square = np.clip(along * along + across * across, 1e-24, 1.0)
    deviation = np.sqrt(-np.log(square))
    deviation[:, 0] = deviation[:, 1]
    if mode == "compat":
        deviation[deviation < 1e-9] = FLOOR  # rounding alone decides between 0 and 1e-8 in the reference
    else:
        deviation = np.maximum(deviation, np.float32(FLOOR))
    return hmpdm, mel_cepstrum(deviation, rate_hz, ORDER_DEVIATION)
