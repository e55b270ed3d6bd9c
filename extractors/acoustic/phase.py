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
from extractors.acoustic.sinusoids import Harmonics

N_BINS = 513
MEAN_FRAMES, TREND_FRAMES, DEVIATION_FRAMES = 25, 9, 9
N_MEAN, ORDER_DEVIATION = 25, 12
FLOOR = 1e-3  # of the deviation, before its logarithm
MEDIAN_PAIRS = np.array(
    [(1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7), (3, 6), (1, 4),
     (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)]
)  # fmt: skip
"""Exchanges that bring the median of nine to the middle (Smith 1996)."""


@njit(cache=True)
def _to_bins(harmonic_values, frequency, step_hz, edge_hz, fill_hold, out):
    """Linear interpolation of values at h·frequency, h = 0..H, to bins; 0 below the edge, held above the last."""
    n_harmonics = harmonic_values.shape[0] - 1
    for b in range(out.shape[0]):
        hz = b * step_hz
        position = hz / frequency
        cell = int(position)
        if hz < edge_hz:
            out[b] = 0.0
        elif cell >= n_harmonics:
            if fill_hold or position <= n_harmonics:
                out[b] = harmonic_values[n_harmonics]
        else:
            w = position - cell
            out[b] = harmonic_values[cell] * (1.0 - w) + harmonic_values[cell + 1] * w


@njit(cache=True)
def _distortion(minimum, phase, count, f0, step_hz, random, hold, out):
    for i in range(phase.shape[0]):
        n = count[i]
        values = np.zeros(n + 1)
        previous = 0.0
        first = 0.0
        for h in range(1, n + 1):
            position = h * f0[i] / step_hz
            cell = min(int(position), minimum.shape[1] - 2)
            w = position - cell
            p = phase[i, h] - (minimum[i, cell] * (1.0 - w) + minimum[i, cell + 1] * w)
            if h == 1:
                first = p
            p -= h * first
            d = p - previous - values[h - 1]  # unwrapped along the harmonics, so that lines between them are short
            values[h] = values[h - 1] + d - 2.0 * np.pi * np.floor(d / (2.0 * np.pi) + 0.5)
            previous = p
        if not hold:
            out[i] = random[i]
        _to_bins(values, f0[i], step_hz, 0.95 * f0[i], hold, out[i])


def distortion(harmonics: Harmonics, rate_hz: float, mode: str, seed: int = 1) -> np.ndarray:
    """Phase distortion of every frame on 513 bins from 0 Hz to Nyquist, (M, 513) radians.

    Bins above the last harmonic hold its value; in ``compat`` they are random, as in the reference.
    """
    step_hz = rate_hz / (2 * (N_BINS - 1))
    log_amplitude = np.empty((len(harmonics.frame), N_BINS))
    logs = np.log(np.maximum(harmonics.amplitude, 1e-300))
    bins_hz = np.arange(N_BINS) * step_hz
    for i, n in enumerate(harmonics.count):  # the first harmonic's amplitude holds down to 0 Hz
        log_amplitude[i] = np.interp(bins_hz, harmonics.f0_hz[i] * np.arange(1, n + 1), logs[i, 1 : n + 1])
    out = np.zeros_like(log_amplitude)
    hold = mode != "compat"
    random = np.zeros((len(out), 1)) if hold else np.random.default_rng(seed).uniform(-np.pi, np.pi, out.shape)
    minimum = minimum_phase(log_amplitude)
    _distortion(minimum, harmonics.phase, harmonics.count, harmonics.f0_hz, step_hz, random, hold, out)
    return out


@njit(cache=True)
def _extended(values, pad):
    # odd reflection about the first and the last row
    n, d = values.shape
    out = np.empty((n + 2 * pad, d))
    out[pad : pad + n] = values
    for i in range(pad):
        for j in range(d):
            out[i, j] = 2.0 * values[0, j] - values[pad - i, j]
            out[pad + n + i, j] = 2.0 * values[n - 1, j] - values[n - 2 - i, j]
    return out


@njit(cache=True)
def _forward_box(x, size):
    # mean of the last `size` rows, the first row repeated before the beginning; in place
    n, d = x.shape
    kept = np.empty((size, d))
    total = x[0] * size
    for i in range(size):
        kept[i] = x[0]
    at = 0
    for i in range(n):
        row = kept[at]
        for j in range(d):
            total[j] += x[i, j] - row[j]
            row[j] = x[i, j]
            x[i, j] = total[j] / size
        at += 1
        if at == size:
            at = 0


@njit(cache=True, fastmath=True)
def _forward_window(x, window):
    n, d = x.shape
    size = window.shape[0]
    out = np.empty((n, d))
    for i in range(n):
        row = out[i]
        row[:] = 0.0
        for k in range(size):
            w, source = window[k], x[max(i - k, 0)]
            for j in range(d):
                row[j] += w * source[j]
    return out


@njit(cache=True)
def _box_both_ways(values, size):
    n = values.shape[0]
    pad = min(3 * (size - 1), n - 1)
    x = _extended(values, pad)
    _forward_box(x, size)
    _forward_box(x[::-1], size)
    return x[pad : pad + n]


@njit(cache=True)
def _window_both_ways(values, window):
    n = values.shape[0]
    pad = min(3 * (window.shape[0] - 1), n - 1)
    x = _forward_window(_extended(values, pad), window)
    x = _forward_window(x[::-1], window)
    return x[::-1][pad : pad + n]


@njit(cache=True, fastmath=True)
def _median_of_nine(values, pairs):
    n, d = values.shape
    out = np.empty((n, d))
    rows = np.empty((9, d))
    for i in range(n):
        for k in range(9):
            t = i + k - 4
            if 0 <= t < n:
                rows[k] = values[t]
            else:
                rows[k] = 0.0
        for p in range(pairs.shape[0]):
            a, b = rows[pairs[p, 0]], rows[pairs[p, 1]]
            for j in range(d):
                u, v = a[j], b[j]
                a[j] = u if u < v else v
                b[j] = v if u < v else u
        out[i] = rows[4]
    return out


@njit(cache=True, fastmath=True)
def _toward(cos, sin):
    # unit vectors, (1, 0) for no direction; in place
    for i in range(cos.shape[0]):
        for j in range(cos.shape[1]):
            length = np.sqrt(cos[i, j] * cos[i, j] + sin[i, j] * sin[i, j])
            if length > 0.0:
                cos[i, j] /= length
                sin[i, j] /= length
            else:
                cos[i, j] = 1.0


@njit(cache=True, fastmath=True)
def _turned_back(cos, sin, by_cos, by_sin):
    # directions minus others; in place
    for i in range(cos.shape[0]):
        for j in range(cos.shape[1]):
            c, s = cos[i, j], sin[i, j]
            cos[i, j] = c * by_cos[i, j] + s * by_sin[i, j]
            sin[i, j] = s * by_cos[i, j] - c * by_sin[i, j]


def smooth_both_ways(values: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Forward and backward FIR smoothing along axis 0 with odd reflection at the ends, as short as the file allows."""
    from scipy.signal import filtfilt

    return filtfilt(window / window.sum(), 1.0, values, axis=0, padlen=min(3 * (len(window) - 1), len(values) - 1))


@functools.lru_cache(maxsize=1)
def mean_groups() -> np.ndarray:
    """Group 0..24 of the first 512 bins, counted from 1: one bin each up to 8, then along a
    Bézier curve (8, 8), (25, 25), (512, 25)."""
    t = np.linspace(0, 1, 100001)
    x = (1 - t) ** 2 * 8 + 2 * t * (1 - t) * 25 + t**2 * (N_BINS - 1)
    y = (1 - t) ** 2 * 8 + 2 * t * (1 - t) * 25 + t**2 * N_MEAN
    bins = np.arange(1, N_BINS)
    return np.where(bins <= 8, bins, np.floor(np.interp(bins, x, y) + 0.5)).astype(int) - 1


def _deviation_length(pd: np.ndarray, cos: np.ndarray, sin: np.ndarray, mode: str) -> np.ndarray:
    """Length of the mean direction over 9 frames once the trend (median, then Hann) is taken out, (M, 513)."""
    window = np.hanning(TREND_FRAMES)
    medians = _median_of_nine(cos, MEDIAN_PAIRS), _median_of_nine(sin, MEDIAN_PAIRS)
    if mode == "compat":  # by the reference's own steps: where nothing deviates, rounding decides what is logged
        rest = pd - np.arctan2(smooth_both_ways(medians[1], window), smooth_both_ways(medians[0], window))
        box = np.ones(DEVIATION_FRAMES)
        return np.hypot(smooth_both_ways(np.cos(rest), box), smooth_both_ways(np.sin(rest), box))
    trend_cos, trend_sin = (_window_both_ways(f, window / window.sum()) for f in medians)
    _toward(trend_cos, trend_sin)
    _turned_back(cos, sin, trend_cos, trend_sin)
    return np.hypot(_box_both_ways(cos, DEVIATION_FRAMES), _box_both_ways(sin, DEVIATION_FRAMES))


def phase_distortion(harmonics: Harmonics, rate_hz: float, mode: str = "fixed") -> tuple[np.ndarray, np.ndarray]:
    """HMPDM (M, 25), radians, and HMPDD (M, 13), log cepstra of the deviation."""
    n_frames = len(harmonics.frame)
    if n_frames < 2:
        return np.zeros((n_frames, N_MEAN)), np.zeros((n_frames, ORDER_DEVIATION + 1))
    pd = distortion(harmonics, rate_hz, mode)
    cos, sin = np.cos(pd), np.sin(pd)
    mean_cos, mean_sin = _box_both_ways(cos, MEAN_FRAMES), _box_both_ways(sin, MEAN_FRAMES)
    _toward(mean_cos, mean_sin)
    starts = np.searchsorted(mean_groups(), np.arange(N_MEAN))
    hmpdm = np.arctan2(*(np.add.reduceat(f[:, :-1], starts, axis=1) for f in (mean_sin, mean_cos)))

    deviation = np.sqrt(-2 * np.log(np.clip(_deviation_length(pd, cos, sin, mode), 1e-12, 1.0)))
    deviation[:, 0] = deviation[:, 1]
    if mode == "compat":
        deviation[deviation < 1e-9] = FLOOR  # rounding alone decides between 0 and 1e-8 in the reference
    else:
        deviation = np.maximum(deviation, FLOOR)
    return hmpdm, mel_cepstrum(deviation, rate_hz, ORDER_DEVIATION)
