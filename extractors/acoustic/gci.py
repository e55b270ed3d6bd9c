"""Glottal closure instants by SEDREAMS: where in each glottal cycle the vocal folds snap shut.

In: upright mono signal (N,), its LP residual, the pitch track. Out: sample indices (G,), increasing, 0-based.
Source: Drugman & Dutoit 2009, "Glottal closure and opening instant detection from speech signals".

    closures = glottal_closures(signal, residual, 16000, median_f0_hz=120.0)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from extractors.acoustic.frames import round_half_up

RESIDUAL_PEAK = 0.4  # residual samples above this share of the maximum place the closures within the cycle
HALF_INTERVAL = 0.35  # of the minimum → maximum interval, searched around that place


def mean_based_signal(signal: np.ndarray, rate_hz: float, median_f0_hz: float) -> np.ndarray:
    """Signal smoothed over 1.7 mean periods and high-passed: it swings once per glottal cycle. Shape (N,), ±1."""
    from scipy.signal import ellip, filtfilt, oaconvolve

    half = round_half_up(1.7 * round_half_up(rate_hz / median_f0_hz) / 2)
    window = np.blackman(2 * half + 1)
    smooth = np.zeros(len(signal))
    if len(signal) < 2 * half + 1:
        return smooth
    smooth[half : len(signal) - half] = oaconvolve(signal, window, mode="valid") / len(window)
    b, a = np.asarray(ellip(5, 3, 60, 50 / (rate_hz / 2), "highpass"))
    smooth = filtfilt(b, a, smooth, padlen=min(3 * (len(a) - 1), len(smooth) - 1))
    peak = np.max(np.abs(smooth))
    return smooth / peak if peak > 0.0 else smooth


@njit(cache=True)
def _closures(residual, minima, maxima, ratio, away):
    out = np.empty(len(minima), dtype=np.int64)
    count = 0
    n = residual.shape[0]
    for k in range(len(minima)):
        interval = maxima[k] - minima[k]
        begin = (ratio - HALF_INTERVAL) * interval
        # of a negative half the reference takes the sample farther from 0
        start = minima[k] + int(np.ceil(begin - 0.5) if away and begin < 0.0 else np.floor(begin + 0.5))
        stop = minima[k] + int(np.floor((ratio + HALF_INTERVAL) * interval + 0.5))
        start = max(start, 0)
        if start >= n:
            break
        stop = min(stop, n - 1)
        if stop < start:
            continue
        where, best = start, -np.inf
        for i in range(start, stop + 1):
            if residual[i] > best:
                best, where = residual[i], i
        out[count] = where
        count += 1
    return out[:count]


def turning_points(smooth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minima and maxima in pairs: every minimum is followed by its maximum."""
    inner, before, after = smooth[1:-1], smooth[:-2], smooth[2:]
    minima = np.flatnonzero((inner < before) & (inner < after)) + 1
    maxima = np.flatnonzero((inner > before) & (inner > after)) + 1
    if len(minima) and len(maxima):
        maxima = maxima[maxima > minima[0]]
    if len(minima) and len(maxima):
        minima = minima[minima < maxima[-1]]
    n_pairs = min(len(minima), len(maxima))
    return minima[:n_pairs], maxima[:n_pairs]


def relative_positions(
    residual: np.ndarray, minima: np.ndarray, maxima: np.ndarray, core: slice = slice(None)
) -> np.ndarray:
    """Where the residual's peaks among samples ``core`` lie between the nearest minimum (0) and its maximum (1), (P,).

    The residual's scale is the file's: its largest magnitude there is 1.
    """
    first, stop, _ = core.indices(len(residual))
    with np.errstate(invalid="ignore"):
        peaks = np.flatnonzero(residual[first:stop] > RESIDUAL_PEAK) + first
    if not len(minima) or not len(peaks):
        return np.zeros(0)
    right = np.clip(np.searchsorted(minima, peaks), 0, len(minima) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(minima[left] - peaks) <= np.abs(minima[right] - peaks), left, right)
    return (peaks - minima[nearest]) / (maxima[nearest] - minima[nearest])


def closures_at(
    residual: np.ndarray, minima: np.ndarray, maxima: np.ndarray, ratio: float, away: bool = False
) -> np.ndarray:
    """Closures, 0-based, unique, increasing (G,): the residual's largest sample around share ``ratio`` of each rise.

    ``away`` : a search that would begin midway between two samples begins with the one farther from the minimum (`compat`).
    """
    return np.unique(_closures(residual, minima, maxima, ratio, away))


def periods(closures: np.ndarray, longest: int | None = None) -> np.ndarray:
    """Samples from the previous closure; the first cycle takes the length of the second. Shape (G,), G ≥ 2.

    Steps over ``longest`` are pauses: the closure after one takes the length of the cycle that follows, or ``longest``.
    """
    steps = np.diff(closures)
    before = np.concatenate([steps[:1], steps])
    if longest is None:
        return before
    after = np.concatenate([steps, steps[-1:]])
    return np.where(before > longest, np.minimum(after, longest), before)


def glottal_closures(signal: np.ndarray, residual: np.ndarray, rate_hz: float, median_f0_hz: float) -> np.ndarray:
    """All candidate closures of a file, voiced or not (the caller keeps the voiced), 0-based, unique, increasing.

    In blocks: :func:`mean_based_signal` and :func:`turning_points` of each with a margin of two seconds (the high-pass
    rings, e⁻¹⁴ a second), the median of all blocks' :func:`relative_positions`, then :func:`closures_at` of each.
    """
    none = np.zeros(0, dtype=np.int64)
    if median_f0_hz <= 0.0 or len(signal) < 3:
        return none
    minima, maxima = turning_points(mean_based_signal(signal, rate_hz, median_f0_hz))
    positions = relative_positions(residual, minima, maxima)
    return closures_at(residual, minima, maxima, float(np.median(positions))) if len(positions) else none
