"""Synthetic voices with known truths, for the acoustic tests (numpy and scipy only, nothing of ours)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.signal import lfilter

RATE_HZ = 16000
FORMANTS_HZ = ((600, 80), (1200, 90), (2500, 120), (3500, 180))


def tract(rate_hz: int = RATE_HZ) -> np.ndarray:
    """All-pole vocal tract with four formants: denominator coefficients."""
    poly = np.array([1.0])
    for frequency, width in FORMANTS_HZ:
        radius, angle = np.exp(-np.pi * width / rate_hz), 2 * np.pi * frequency / rate_hz
        poly = np.convolve(poly, [1, -2 * radius * np.cos(angle), radius**2])
    return poly


def lf_times(rd: float) -> tuple[float, float, float]:
    """te, tp, ta of the LF pulse (T0 = 1), Fant 1995."""
    ra, rk = (-1 + 4.8 * rd) / 100, (22.4 + 11.8 * rd) / 100
    rg = 1 / (4 * (0.11 * rd / (0.5 + 1.2 * rk) - ra) / rk)
    tp = 1 / (2 * rg)
    return tp * (1 + rk), tp, ra


def lf_pulse(rd: float, n: int) -> np.ndarray:
    """One period of the LF flow derivative at n instants, −1 at te (Fant, Liljencrants & Lin 1985, eqs. 1–4)."""
    te, tp, ta = lf_times(rd)
    wg = np.pi / tp
    eps = brentq(lambda e: e * ta - 1 + np.exp(-e * (1 - te)), 1e-3, 2 / ta)
    t = (np.arange(n) + 0.5) / n
    fine = np.linspace(0, te, 20001)

    def shape(alpha: float) -> float:
        opening = -np.exp(alpha * (fine - te)) * np.sin(wg * fine) / np.sin(wg * te)
        rest = np.linspace(te, 1, 20001)
        closing = -(np.exp(-eps * (rest - te)) - np.exp(-eps * (1 - te))) / (eps * ta)
        return float(np.trapezoid(opening, fine) + np.trapezoid(closing, rest))

    alpha = brentq(shape, -60, 200)
    opening = -np.exp(alpha * (t - te)) * np.sin(wg * t) / np.sin(wg * te)
    closing = -(np.exp(-eps * (t - te)) - np.exp(-eps * (1 - te))) / (eps * ta)
    return np.where(t <= te, opening, closing)


def voice(
    f0_hz: float, seconds: float = 1.0, rd: float = 1.0, rate_hz: int = RATE_HZ, noise: float = 1e-4
) -> np.ndarray:
    """A steady vowel: LF pulses at f0 through the tract, with a little noise; the right way up, peak .5."""
    n = round(seconds * rate_hz)
    period = lf_pulse(rd, 4096)
    phase = (np.arange(n) * f0_hz / rate_hz) % 1.0
    source = np.interp(phase * 4096 - 0.5, np.arange(4096), period)
    spoken = lfilter([1.0], tract(rate_hz), source)
    spoken += noise * np.abs(spoken).max() * np.random.default_rng(0).standard_normal(n)
    return 0.5 * spoken / np.abs(spoken).max()
