"""Linear-prediction residual: the signal with its vocal-tract resonances filtered out, overlap-added.

In: mono signal (N,), rate in Hz. Out: residual (N,), largest magnitude 1 (all 0 for silence).
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


def lp_residual(
    signal: np.ndarray,
    rate_hz: float,
    order: int | None = None,
    model: np.ndarray | None = None,
    silent: float = 0.0,
) -> np.ndarray:
    """Residual of ``signal`` (N,), normalised to a largest magnitude of 1.

    ``order`` defaults to rate/1000 + 2; ``model`` is the signal the predictors are estimated from (default: itself);
    ``silent`` is what frames of digital silence become: 0, or NaN as in the reference (0/0 there).
    """
    if order is None:
        order = round_half_up(rate_hz / 1000) + 2
    window = hanning(round_half_up(0.025 * rate_hz) + 1)
    hop = round_half_up(0.005 * rate_hz)
    residual = _overlap_add(signal, signal if model is None else model, window, hop, order, silent)
    peak = np.nanmax(np.abs(residual), initial=0.0)
    if peak > 0.0:
        residual /= peak
    return residual
