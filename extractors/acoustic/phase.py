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
    bins_hz = np.arange(N_BINS) * step_hz
    logs = np.log(np.maximum(harmonics.amplitude, 1e-300))
    for i, n in enumerate(harmonics.count):  # the first harmonic's amplitude holds down to 0 Hz
        log_amplitude[i] = np.interp(bins_hz, harmonics.f0_hz[i] * np.arange(1, n + 1), logs[i, 1 : n + 1])
    out = np.zeros_like(log_amplitude)
    hold = mode != "compat"
    random = np.zeros((len(out), 1)) if hold else np.random.default_rng(seed).uniform(-np.pi, np.pi, out.shape)
    minimum = minimum_phase(log_amplitude)
    _distortion(minimum, harmonics.phase, harmonics.count, harmonics.f0_hz, step_hz, random, hold, out)
    return out


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


def _running_median(values: np.ndarray) -> np.ndarray:
    """Median over 9 frames along axis 0, zeros beyond the ends."""
    from scipy.ndimage import median_filter

    return median_filter(values, size=(TREND_FRAMES, 1), mode="constant", cval=0.0)


def phase_distortion(harmonics: Harmonics, rate_hz: float, mode: str = "fixed") -> tuple[np.ndarray, np.ndarray]:
    """HMPDM (M, 25), radians, and HMPDD (M, 13), log cepstra of the deviation."""
    n_frames = len(harmonics.frame)
    if n_frames < 2:
        return np.zeros((n_frames, N_MEAN)), np.zeros((n_frames, ORDER_DEVIATION + 1))
    pd = distortion(harmonics, rate_hz, mode)
    box = np.ones(MEAN_FRAMES)
    cos, sin = np.cos(pd), np.sin(pd)
    mean = np.arctan2(smooth_both_ways(sin, box), smooth_both_ways(cos, box))
    groups = mean_groups()
    sizes = np.bincount(groups, minlength=N_MEAN)
    starts = np.searchsorted(groups, np.arange(N_MEAN))
    sums = [np.add.reduceat(f(mean[:, :-1]), starts, axis=1) / sizes for f in (np.sin, np.cos)]
    hmpdm = np.arctan2(sums[0], sums[1])

    # the trend: median, then Hann, of cosine and sine apart
    smoothed = [smooth_both_ways(_running_median(f), np.hanning(TREND_FRAMES)) for f in (sin, cos)]
    trend = np.arctan2(smoothed[0], smoothed[1])
    rest = pd - trend
    box = np.ones(DEVIATION_FRAMES)
    length = np.hypot(smooth_both_ways(np.cos(rest), box), smooth_both_ways(np.sin(rest), box))
    deviation = np.sqrt(-2 * np.log(np.clip(length, 1e-12, 1.0)))
    deviation[:, 0] = deviation[:, 1]
    if mode == "compat":
        deviation[deviation < 1e-9] = FLOOR  # rounding alone decides between 0 and 1e-8 in the reference
    else:
        deviation = np.maximum(deviation, FLOOR)
    return hmpdm, mel_cepstrum(np.log(deviation), rate_hz, ORDER_DEVIATION)
