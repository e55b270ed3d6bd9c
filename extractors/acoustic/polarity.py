"""Polarity: is the recording the right way up? Voiced speech has a residual skewed towards glottal closures.

In: mono signal (N,), rate in Hz. Out: +1.0 or −1.0, one for the whole file.
Source: Drugman 2013, "Residual excitation skewness for automatic speech polarity detection".

    upright = speech_polarity(signal, 16000) * signal
"""

from __future__ import annotations

import numpy as np

from extractors.acoustic.residual import lp_residual

HIGH_PASS_HZ = 480.0


def skewness(values: np.ndarray) -> float:
    """Third standardised moment (biased); 0 for a constant."""
    centred = values - values.mean()
    spread = np.mean(centred * centred)
    return float(np.mean(centred * centred * centred) / spread**1.5) if spread > 0.0 else 0.0


def speech_polarity(signal: np.ndarray, rate_hz: float) -> float:
    """+1 if the residual says the signal is upright, −1 if it is inverted. Ties (silence) are upright."""
    from scipy.signal import ellip, sosfiltfilt

    sos = ellip(9, 3, 60, HIGH_PASS_HZ / (rate_hz / 2), "highpass", output="sos")
    padding = min(3 * 10, max(len(signal) - 1, 0))
    high = sosfiltfilt(sos, signal, padlen=padding)
    difference = skewness(lp_residual(signal, rate_hz)) - skewness(lp_residual(signal, rate_hz, model=high))
    return -1.0 if difference < 0.0 else 1.0
