"""MDQ and peakSlope: how sharply the glottis closes, read from a wavelet decomposition in octaves.

In: residual or upright speech (N,), rate in Hz. Out: MDQ per closure (share of a period), peakSlope every 10 ms.
Sources: Kane & Gobl 2013 (maxima dispersion quotient); Kane & Gobl 2011 (peakSlope).

    dispersion = maxima_dispersion(residual, closures, 16000)
    time_s, slope = peak_slope(signal, 16000)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from extractors.acoustic.frames import HOP_S, round_half_up
from extractors.acoustic.gci import periods
from extractors.acoustic.lpc import symmetric_fir

MDQ_SCALES = tuple(2**i for i in range(2, 7))
SLOPE_SCALES = tuple(2**i for i in range(7))
DIRECT = 8  # up to this scale the sum written out is quicker than Fourier transforms, and exact in digital silence
REACH = 9  # the envelope is exp(−n²/2s²): 3e-18 beyond 9 s
FULL_REACH = 39  # 0 in float64 beyond 39 s
NOTHING = 1e-10  # of the residual's peak: below any recording's noise, above what Fourier transforms leave in silence


def octave_band(signal: np.ndarray, scale: int, reach: int = REACH) -> np.ndarray:
    """Signal filtered by −cos(πn/s)·exp(−(n/s)²/2), n in samples (f₀ = rate/2, τ = 1/rate). Shape (N,)."""
    from scipy.signal import oaconvolve

    half = reach * scale
    n = np.arange(-half, half + 1) / scale
    wavelet = -np.cos(np.pi * n) * np.exp(-0.5 * n * n)
    if scale <= DIRECT:
        return symmetric_fir(wavelet, signal)
    return oaconvolve(signal, wavelet, mode="full")[half : half + len(signal)]


@njit(cache=True)
def _offsets(band, closures, periods, least, out):
    # samples within ±least count as 0: the first of several equal ones is the maximum, and rounding must not choose
    n = band.shape[0]
    for k in range(len(closures)):
        half = int(np.floor(0.2 * periods[k] + 0.5))
        if closures[k] - periods[k] < 0 or closures[k] + periods[k] >= n:
            continue
        start, stop = closures[k] - half, closures[k] + half
        where, best = 0, -np.inf
        for i in range(start, stop + 1):
            value = band[i] if abs(band[i]) > least else 0.0
            if value > best:
                best, where = value, i - start
        out[k] += abs(where + 1 - half)  # position counted from 1, midpoint from 0: a perfect hit scores 1


def maxima_dispersion(residual: np.ndarray, closures: np.ndarray, longest: int | None = None) -> np.ndarray:
    """MDQ at every closure (0-based samples), (G,): mean distance of the band maxima from the closure over the period.

    The residual's largest magnitude in the file is 1. ``longest`` (samples): periods beyond it are pauses, see
    :func:`~extractors.acoustic.gci.periods`.
    """
    total = np.zeros(len(closures))
    if len(closures) < 2:
        return total
    lengths = periods(closures, longest)
    for scale in MDQ_SCALES:
        _offsets(octave_band(residual, scale), closures, lengths, NOTHING, total)
    return total / len(MDQ_SCALES) / lengths


def peak_slope(
    signal: np.ndarray, rate_hz: float, floor: float | None = None, loudest: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and slopes of log10(largest |band|) over seven octaves in 40 ms frames.

    ``floor`` is the least magnitude counted, a share of ``loudest``, the file's loudest sample (default: this signal's).
    Without it, as in the reference, the slope is −inf where the lowest three scales are silent, 0 where the fourth is too.
    """
    from librosa.util import frame as framed

    n_frame, hop = round_half_up(0.04 * rate_hz), round_half_up(HOP_S * rate_hz)
    if len(signal) < n_frame:
        return np.zeros(0), np.zeros(0)
    reach = FULL_REACH if floor is None else REACH  # without a floor the slope follows the wavelets' farthest tails
    peaks = np.stack(
        [
            framed(np.abs(octave_band(signal, s, reach)), frame_length=n_frame, hop_length=hop, axis=0).max(axis=1)
            for s in SLOPE_SCALES
        ]
    )
    if floor is not None:
        loudest = float(np.max(np.abs(signal))) if loudest is None else loudest
        peaks = np.maximum(peaks, max(floor * loudest, 1e-300))
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log10(peaks)  # (7, M)
        octave = np.arange(len(SLOPE_SCALES)) - (len(SLOPE_SCALES) - 1) / 2
        slope = -(octave @ level) / (octave @ octave)  # against log2 of frequency
    slope[np.isnan(slope)] = 0.0
    return (np.arange(peaks.shape[1]) * hop + n_frame / 2) / rate_hz, slope
