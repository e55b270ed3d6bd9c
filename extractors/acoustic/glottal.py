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
from extractors.acoustic.lpc import fir, leaky_integrator, lpc

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


@njit(cache=True, fastmath=True)
def _centred_fir(taps, frame):
    # linear phase undone: output i is centred on input i, zeros outside the frame
    n, half = frame.shape[0], taps.shape[0] // 2
    out = np.zeros(n)
    for j in range(taps.shape[0]):
        shift = j - half
        c = taps[j]
        for i in range(max(0, shift), min(n, n + shift)):
            out[i] += c * frame[i - shift]
    return out


@njit(cache=True)
def _iaif(frame, taps, order_tract, order_glottis):
    frame = _centred_fir(taps, frame)
    ramp = order_tract + 1
    padded = np.empty(ramp + frame.shape[0])
    for i in range(ramp):
        padded[i] = frame[0] * (2.0 * i / (ramp - 1) - 1.0)
    padded[ramp:] = frame
    window = _window(frame.shape[0])
    tilt = fir(lpc(frame * window, 1), padded)[ramp:]
    tract = lpc(tilt * window, order_tract)
    flow = leaky_integrator(fir(tract, padded), LEAK)[ramp:]
    glottis = lpc(flow * window, order_glottis)
    flat = leaky_integrator(fir(glottis, padded), LEAK)[ramp:]
    tract = lpc(flat * window, order_tract)
    derivative = fir(tract, padded)
    return leaky_integrator(derivative, LEAK)[ramp:], derivative[ramp:]


@njit(cache=True)
def _overlap_add(signal, closures, taps, order_tract, order_glottis):
    n = signal.shape[0]
    flow, derivative = np.zeros(n), np.zeros(n)
    for k in range(len(closures)):
        period = closures[k] - closures[k - 1] if k > 0 else closures[1] - closures[0]
        start, stop = closures[k] - period, closures[k] + period
        if start < 0 or stop >= n or stop - start + 1 <= order_tract:
            continue
        frame = signal[start : stop + 1] * _window(stop - start + 1)
        g, dg = _iaif(frame, taps, order_tract, order_glottis)
        for i in range(g.shape[0]):
            flow[start + i] += g[i]
            derivative[start + i] += dg[i]
    return flow, derivative


def inverse_filter(signal: np.ndarray, closures: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Glottal flow and flow derivative, (N,) each, overlap-added over frames of two periods around every closure."""
    if len(closures) < 2:
        return np.zeros(len(signal)), np.zeros(len(signal))
    order_tract = 2 * round_half_up(rate_hz / 2000) + 4
    order_glottis = 2 * round_half_up(rate_hz / 4000)
    return _overlap_add(signal, closures, high_pass_filter(rate_hz), order_tract, order_glottis)
