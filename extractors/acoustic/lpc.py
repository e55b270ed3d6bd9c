"""Linear prediction by the autocorrelation method, compiled: shared by residual, inverse filtering and polarity.

In: one frame (n,) float64. Out: coefficients (order + 1,), first one 1; filtered frames.

    coefficients = lpc(frame, 18)
    error = fir(coefficients, frame)      # zero initial state
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, fastmath=True)
def autocorrelation(frame, order):
    """First ``order + 1`` lags of the (unnormalised) autocorrelation."""
    n = frame.shape[0]
    lags = np.zeros(order + 1)
    for lag in range(min(order, n - 1) + 1):
        total = 0.0
        for i in range(n - lag):
            total += frame[i] * frame[i + lag]
        lags[lag] = total
    return lags


@njit(cache=True)
def levinson(lags, order):
    """Levinson–Durbin recursion. All-zero input gives the identity filter [1, 0, …]."""
    coefficients = np.zeros(order + 1)
    coefficients[0] = 1.0
    error = lags[0]
    if not error > 0.0:
        return coefficients
    previous = np.zeros(order + 1)
    for i in range(1, order + 1):
        total = lags[i]
        for j in range(1, i):
            total += coefficients[j] * lags[i - j]
        reflection = -total / error
        previous[:] = coefficients
        for j in range(1, i):
            coefficients[j] = previous[j] + reflection * previous[i - j]
        coefficients[i] = reflection
        error *= 1.0 - reflection * reflection
        if not error > 0.0:  # perfectly predictable: higher orders add nothing
            break
    return coefficients


@njit(cache=True)
def lpc(frame, order):
    """Prediction-error filter of a frame, (order + 1,)."""
    return levinson(autocorrelation(frame, order), order)


@njit(cache=True, fastmath=True)
def fir(coefficients, frame):
    """Causal FIR filter with zero initial state."""
    n = frame.shape[0]
    pad = (coefficients.shape[0] + 3) // 4 * 4  # four taps at a time: a quarter of the passes over the frame
    padded, taps, out = np.zeros(pad + n), np.zeros(pad), np.zeros(n)
    padded[pad:] = frame
    taps[: coefficients.shape[0]] = coefficients
    for j in range(0, pad, 4):
        c0, c1, c2, c3 = taps[j], taps[j + 1], taps[j + 2], taps[j + 3]
        x = padded[pad - j - 3 :]
        for i in range(n):
            out[i] += c0 * x[i + 3] + c1 * x[i + 2] + c2 * x[i + 1] + c3 * x[i]
    return out


@njit(cache=True, fastmath=True)
def symmetric_fir(taps, frame):
    """FIR filter with an odd number of symmetric taps, its delay undone: output i is centred on input i, zeros outside."""
    n, half = frame.shape[0], taps.shape[0] // 2
    reach = min(half, n - 1)
    pad = reach + 4
    padded, c, out = np.zeros(n + 2 * pad), np.zeros(pad), taps[half] * frame
    padded[pad : pad + n] = frame
    c[:reach] = taps[half + 1 : half + reach + 1]
    for j in range(0, reach, 4):
        c0, c1, c2, c3 = c[j], c[j + 1], c[j + 2], c[j + 3]
        x, y = padded[pad - j - 4 :], padded[pad + j + 1 :]
        for i in range(n):
            near = c0 * (x[i + 3] + y[i]) + c1 * (x[i + 2] + y[i + 1])
            out[i] += near + c2 * (x[i + 1] + y[i + 2]) + c3 * (x[i] + y[i + 3])
    return out


@njit(cache=True)
def leaky_integrator(frame, leak):
    """y[n] = x[n] + leak·y[n−1]."""
    out = np.empty(frame.shape[0])
    state = 0.0
    for i in range(frame.shape[0]):
        state = frame[i] + leak * state
        out[i] = state
    return out
