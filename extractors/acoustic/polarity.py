"""Polarity: is the recording the right way up? Voiced speech has a residual skewed towards glottal closures.

In: mono signal (N,), rate in Hz. Out: +1.0 or −1.0, one for the whole file.
Source: Drugman 2013, "Residual excitation skewness for automatic speech polarity detection".

    upright = speech_polarity(signal, 16000) * signal
"""

from __future__ import annotations

import numpy as np

from extractors.acoustic.residual import raw_residual

HIGH_PASS_HZ = 480.0
WHOLE = slice(None)


def power_sums(values: np.ndarray) -> np.ndarray:
    """Count and sums of the first three powers, (4,)."""
    squares = values * values
    return np.array([len(values), values.sum(), squares.sum(), squares @ values])


def skewness(sums: np.ndarray) -> float:
    """Third standardised moment (biased) from :func:`power_sums`; 0 for a constant."""
    count, mean, second, third = sums[0], *(sums[1:] / max(sums[0], 1.0))
    spread = second - mean * mean
    if not count or spread <= 1e-15 * second:
        return 0.0
    return float((third - 3.0 * mean * second + 2.0 * mean**3) / spread**1.5)


def polarity_sums(
    signal: np.ndarray, rate_hz: float, core: slice = WHOLE, residual: np.ndarray | None = None
) -> np.ndarray:
    """:func:`power_sums` of the residual and of the high-passed predictors' residual, (2, 4), over samples ``core``.

    The sums of a file's blocks add up to the file's. A block must start at a multiple of round(.005 rate) and have two
    seconds of margin around its core: the high-pass rings, e⁻¹² a second. ``residual`` is the signal's own, on its own
    scale and free of NaN, if it is at hand.
    """
    from scipy.signal import ellip, sosfiltfilt

    sos = ellip(9, 3, 60, HIGH_PASS_HZ / (rate_hz / 2), "highpass", output="sos")
    padding = min(3 * 10, max(len(signal) - 1, 0))
    high = sosfiltfilt(sos, signal, padlen=padding)
    residual = raw_residual(signal, rate_hz) if residual is None else residual
    return np.stack([power_sums(residual[core]), power_sums(raw_residual(signal, rate_hz, model=high)[core])])


def polarity_from(sums: np.ndarray) -> float:
    """+1 or −1 from the summed :func:`polarity_sums`. Ties (silence) are upright."""
    return -1.0 if skewness(sums[0]) < skewness(sums[1]) else 1.0


def speech_polarity(signal: np.ndarray, rate_hz: float) -> float:
    """+1 if the residual says the signal is upright, −1 if it is inverted."""
    return polarity_from(polarity_sums(signal, rate_hz))
