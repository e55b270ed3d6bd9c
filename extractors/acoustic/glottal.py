"""Inverse filtering: the flow through the glottis and its derivative, from speech, cycle by cycle (IAIF).

In: upright mono signal (N,), closures (G,) as 0-based samples, rate in Hz. Out: flow and derivative, (N,) each, 0
where there are no voiced cycles.
Source: Alku 1992, "Glottal wave analysis with pitch synchronous iterative adaptive inverse filtering".

    flow, derivative = inverse_filter(signal, closures, 16000)
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from extractors.acoustic.frames import round_half_up
from extractors.acoustic.gci import periods
from extractors.acoustic.lpc import fir, leaky_integrator, lpc, symmetric_fir

LEAK = 0.99


@functools.lru_cache(maxsize=8)
def high_pass_filter(rate_hz: float) -> np.ndarray:
    """Linear-phase least-squares FIR high-pass, 40 Hz stop, 70 Hz pass, order 300 at 16 kHz (even). Shape (order + 1,)."""
    from scipy.signal import firls

    order = round_half_up(300 * rate_hz / 16000)
    order += order % 2
    return firls(order + 1, [0, 40, 70, rate_hz / 2], [0, 0, 1, 1], fs=rate_hz)


@njit(cache=True)
def _window(n):
    return 0.5 * (1.0 - np.cos(2.0 * np.pi * np.arange(1, n + 1) / (n + 1)))


@njit(cache=True)
def _iaif(frame, window, taps, order_tract, order_glottis):
    frame = symmetric_fir(taps, frame)
    ramp = order_tract + 1
    padded = np.empty(ramp + frame.shape[0])
    for i in range(ramp):
        padded[i] = frame[0] * (2.0 * i / (ramp - 1) - 1.0)
    padded[ramp:] = frame
    tilt = fir(lpc(frame * window, 1), padded)[ramp:]
    tract = lpc(tilt * window, order_tract)
    flow = leaky_integrator(fir(tract, padded), LEAK)[ramp:]
    glottis = lpc(flow * window, order_glottis)
    flat = leaky_integrator(fir(glottis, padded), LEAK)[ramp:]
    tract = lpc(flat * window, order_tract)
    derivative = fir(tract, padded)
    return leaky_integrator(derivative, LEAK)[ramp:], derivative[ramp:]


@njit(cache=True)
def _overlap_add(signal, closures, periods, taps, order_tract, order_glottis):
    n = signal.shape[0]
    flow, derivative = np.zeros(n), np.zeros(n)
    for k in range(len(closures)):
        start, stop = max(closures[k] - periods[k], 0), min(closures[k] + periods[k], n - 1)
        if stop - start + 1 <= order_tract:
            continue
        window = _window(stop - start + 1)
        g, dg = _iaif(signal[start : stop + 1] * window, window, taps, order_tract, order_glottis)
        for i in range(g.shape[0]):
            flow[start + i] += g[i]
            derivative[start + i] += dg[i]
    return flow, derivative


def inverse_filter(
    signal: np.ndarray, closures: np.ndarray, rate_hz: float, longest: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Glottal flow and flow derivative, (N,) each, overlap-added over frames of two periods around every closure.

    Frames are cut off at the ends of the signal. A closure after a pause has no cycle before it: the reference takes the
    whole pause for its period; ``longest`` (samples) gives it the next cycle's, see
    :func:`~extractors.acoustic.gci.periods`.
    """
    if len(closures) < 2:
        return np.zeros(len(signal)), np.zeros(len(signal))
    order_tract = 2 * round_half_up(rate_hz / 2000) + 4
    order_glottis = 2 * round_half_up(rate_hz / 4000)
    lengths = periods(closures, longest)
    return _overlap_add(signal, closures, lengths, high_pass_filter(rate_hz), order_tract, order_glottis)
