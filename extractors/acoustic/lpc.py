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
    out = np.zeros(n)
    for j in range(coefficients.shape[0]):
        c = coefficients[j]
        for i in range(j, n):
            out[i] += c * frame[i - j]
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
