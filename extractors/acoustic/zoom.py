"""Zoom: the low bins of a long, zero-padded Fourier transform of a short frame, without computing the rest.

In: frame (n,), transform length n_fft. Out: power |X|² at bins 0..n_out−1, within 1e-11 of the largest amplitude.
A transform of at least 2n points (a divisor of n_fft) is interpolated between its bins by a Kaiser–Bessel kernel, whose
taper over time the frame is divided by beforehand. Sources: Jackson, Meyer, Nishimura & Macovski 1991; Fessler &
Sutton 2003 (min-max and Kaiser–Bessel non-uniform FFT).

    plan = zoom_plan(1598, 16000)                 # coarse transform of 3,200 points, every fifth bin
    row = np.zeros(plan.size)
    place(frame, plan.weights, row)
    fine_power(rfft(row), plan.size, plan.taps, power)      # power: (n_out,), filled
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba import njit

WIDTH = 12  # bins of the coarse transform under the kernel


class Plan(NamedTuple):
    """Coarse length, reciprocal taper by distance from the frame's middle, and kernel (n_fft / size, WIDTH)."""

    size: int
    weights: np.ndarray
    taps: np.ndarray


@functools.lru_cache(maxsize=256)
def zoom_plan(n_frame: int, n_fft: int) -> Plan:
    """The smallest coarse transform for frames of up to ``n_frame`` samples; n_fft ≥ n_frame."""
    ratio = max((r for r in range(1, n_fft // (2 * n_frame) + 1) if n_fft % r == 0), default=1)
    size = n_fft // ratio
    if ratio == 1:
        return Plan(size, np.ones(n_frame // 2 + 1), np.eye(1, WIDTH, WIDTH // 2 - 1))
    beta = np.pi * np.sqrt((0.75 * WIDTH) ** 2 - 0.8)  # Beatty, Nishimura & Pauly 2005, twofold oversampling
    offset = np.arange(1 - WIDTH // 2, WIDTH // 2 + 1) - np.arange(ratio)[:, None] / ratio
    taps = np.i0(beta * np.sqrt(np.maximum(1 - (2 * offset / WIDTH) ** 2, 0.0))) / np.i0(beta)
    root = np.sqrt(beta**2 - (np.pi * WIDTH * np.arange(n_frame // 2 + 1) / size) ** 2)
    return Plan(size, root * np.i0(beta) / (WIDTH * np.sinh(root)), taps)


@njit(cache=True)
def place(frame, weights, row):
    """Writes the weighted frame into a zeroed row, its middle at index 0, what comes before at the row's end."""
    half = frame.shape[0] // 2
    for i in range(half):
        row[row.shape[0] - half + i] = frame[i] * weights[half - i]
    for i in range(half, frame.shape[0]):
        row[i - half] = frame[i] * weights[i - half]


@njit(cache=True, fastmath=True)
def fine_power(coarse, size, taps, out):
    """Fills ``out`` with |X|² at fine bins 0..len(out)−1 from the coarse half spectrum (size // 2 + 1,)."""
    ratio = taps.shape[0]
    n = (out.shape[0] + ratio - 1) // ratio
    real, imaginary = np.empty(n + WIDTH), np.empty(n + WIDTH)
    for i in range(n + WIDTH):
        j = i + 1 - WIDTH // 2
        if j < 0:
            real[i], imaginary[i] = coarse[-j].real, -coarse[-j].imag
        elif j <= size // 2:
            real[i], imaginary[i] = coarse[j].real, coarse[j].imag
        else:
            real[i], imaginary[i] = coarse[size - j].real, -coarse[size - j].imag
    power = np.empty(n)
    for p in range(ratio):
        c0, c1, c2, c3, c4, c5 = taps[p, 0], taps[p, 1], taps[p, 2], taps[p, 3], taps[p, 4], taps[p, 5]
        c6, c7, c8, c9, c10, c11 = taps[p, 6], taps[p, 7], taps[p, 8], taps[p, 9], taps[p, 10], taps[p, 11]
        for i in range(n):
            a = c0 * real[i] + c1 * real[i + 1] + c2 * real[i + 2] + c3 * real[i + 3]
            a += c4 * real[i + 4] + c5 * real[i + 5] + c6 * real[i + 6] + c7 * real[i + 7]
            a += c8 * real[i + 8] + c9 * real[i + 9] + c10 * real[i + 10] + c11 * real[i + 11]
            b = c0 * imaginary[i] + c1 * imaginary[i + 1] + c2 * imaginary[i + 2] + c3 * imaginary[i + 3]
            b += c4 * imaginary[i + 4] + c5 * imaginary[i + 5] + c6 * imaginary[i + 6] + c7 * imaginary[i + 7]
            b += c8 * imaginary[i + 8] + c9 * imaginary[i + 9] + c10 * imaginary[i + 10] + c11 * imaginary[i + 11]
            power[i] = a * a + b * b
        for i in range(min(n, (out.shape[0] - p + ratio - 1) // ratio)):
            out[i * ratio + p] = power[i]
