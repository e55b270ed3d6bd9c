"""Linear-prediction residual: the signal with its vocal-tract resonances filtered out, overlap-added.

In: mono signal (N,), rate in Hz. Out: residual (N,), largest magnitude 1 (all 0 for silence), or on the signal's scale.
Source: Drugman & Alwan 2011 (SRH) and Drugman, Thomas et al. 2012 (25 ms Hann frames every 5 ms).

    residual = lp_residual(signal, 16000)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from extractors.acoustic.frames import hanning, round_half_up
from extractors.acoustic.lpc import fir, lpc


@njit(cache=True)
def _overlap_add(signal, model, window, hop, order, silent):
    n_window = window.shape[0]
    out = np.zeros(signal.shape[0])
    start = 0
    while start + n_window < signal.shape[0]:  # the frame's last 1-based index must be < N
        frame = window * signal[start : start + n_window]
        energy = 0.0
        for i in range(n_window):
            energy += frame[i] * frame[i]
        if energy > 0.0:
            error = fir(lpc(window * model[start : start + n_window], order), frame)
            error_energy = 0.0
            for i in range(n_window):
                error_energy += error[i] * error[i]
            if error_energy > 0.0:
                scale = np.sqrt(energy / error_energy)
                for i in range(n_window):
                    out[start + i] += scale * error[i]
        else:
            for i in range(n_window):
                out[start + i] += silent
        start += hop
    return out


def raw_residual(
    signal: np.ndarray,
    rate_hz: float,
    order: int | None = None,
    model: np.ndarray | None = None,
    silent: float = 0.0,
) -> np.ndarray:
    """Residual of ``signal`` (N,) on the signal's own scale.

    ``order`` defaults to rate/1000 + 2; ``model`` is the signal the predictors are estimated from (default: itself);
    ``silent`` is what frames of digital silence become: 0, or NaN as in the reference (0/0 there).

    Frames start at multiples of round(.005 rate). A block cut at such a multiple gives the file's residual, but for its
    first and last 25 ms, where frames are missing.
    """
    if order is None:
        order = round_half_up(rate_hz / 1000) + 2
    window = hanning(round_half_up(0.025 * rate_hz) + 1)
    hop = round_half_up(0.005 * rate_hz)
    return _overlap_add(signal, signal if model is None else model, window, hop, order, silent)


def residual_peak(residual: np.ndarray) -> float:
    """Largest magnitude, NaN aside; 0 for an empty array."""
    return float(np.nanmax(np.abs(residual), initial=0.0))


def lp_residual(
    signal: np.ndarray,
    rate_hz: float,
    order: int | None = None,
    model: np.ndarray | None = None,
    silent: float = 0.0,
    peak: float | None = None,
) -> np.ndarray:
    """:func:`raw_residual` over ``peak``, the largest magnitude in the file (default: in this signal). Shape (N,)."""
    residual = raw_residual(signal, rate_hz, order, model, silent)
    peak = residual_peak(residual) if peak is None else peak
    if peak > 0.0:
        residual /= peak
    return residual
