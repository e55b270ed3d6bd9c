"""Rd and its confidence: which LF glottal pulse explains the phases of the harmonics best.

In: harmonics of pitch frames, rate in Hz. Out: Rd (0.3 tense … 2.5 relaxed) and confidence 0..1, per frame.
Sources: Fant, Liljencrants & Lin 1985 and Fant 1995 (the LF pulse and its one parameter Rd); Degottex, Roebel &
Rodet 2011, "Phase minimization for glottal model estimation" (mean squared phase, second difference).

    rd, confidence = estimate_rd(harmonics, 16000)
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from extractors.acoustic.sinusoids import LOG_SILENCE, Harmonics

RD_RANGE = (0.3, 2.5)
RD_STEP = 0.01  # of the precomputed table, interpolated by cubics
TOP_HZ = 8000.0
N_PHASES = 8
TOLERANCE, MAX_STEPS = 0.01, 32
GOLDEN = 0.5 * (3.0 - 5.0**0.5)


def lf_parameters(rd: np.ndarray) -> tuple[np.ndarray, ...]:
    """Times te, tp, ta over the period, by Fant's regressions (1995, eqs. 2–4)."""
    ra, rk = (-1 + 4.8 * rd) / 100, (22.4 + 11.8 * rd) / 100
    rg = rk / (4 * (0.11 * rd / (0.5 + 1.2 * rk) - ra))
    tp = 1 / (2 * rg)
    return tp * (1 + rk), tp, ra


def lf_spectrum(rd: np.ndarray, n_harmonics: int) -> np.ndarray:
    """Spectrum of the LF flow derivative (Ee = 1, T0 = 1) at harmonics 1..n, (R, n) complex."""
    rd = np.asarray(rd, dtype=float)
    te, tp, ta = lf_parameters(rd)
    wg, rest = np.pi / tp, 1 - te
    low, high = np.full(rd.shape, 1e-9), 1 / ta  # ε·ta = 1 − exp(−ε·rest) lies in (0, 1/ta]
    for _ in range(100):
        mid = (low + high) / 2
        above = mid * ta > 1 - np.exp(-mid * rest)
        low, high = np.where(above, low, mid), np.where(above, mid, high)
    eps = (low + high) / 2
    closing = -((1 - np.exp(-eps * rest)) / eps - rest * np.exp(-eps * rest)) / (eps * ta)

    def opening(alpha):  # ∫ E0·e^{αt}·sin(ωt) over the open phase, with E(te) = −1
        area = alpha * np.sin(wg * te) - wg * np.cos(wg * te) + wg * np.exp(-alpha * te)
        return -area / (np.sin(wg * te) * (alpha**2 + wg**2))

    low, high = np.full(rd.shape, -100.0), np.full(rd.shape, 300.0)
    for _ in range(100):  # total area 0: growth α
        mid = (low + high) / 2
        positive = opening(mid) + closing > 0
        low, high = np.where(positive, mid, low), np.where(positive, high, mid)
    alpha = (low + high) / 2
    w = 2j * np.pi * np.arange(1, n_harmonics + 1)[None, :]
    te, wg, rest, eps, ta, alpha = (v[:, None] for v in (te, wg, rest, eps, ta, alpha))
    s = alpha - w
    e0 = -1 / np.sin(wg * te)  # times e^{−α·te}, folded into the exponentials
    rising = np.exp(-w * te) * (s * np.sin(wg * te) - wg * np.cos(wg * te)) + wg * np.exp(-alpha * te)
    returning = (1 - np.exp(-(eps + w) * rest)) / (eps + w) - np.exp(-eps * rest) * (1 - np.exp(-w * rest)) / w
    return e0 * rising / (s**2 + wg**2) - np.exp(-w * te) * returning / (eps * ta)


def minimum_phase(log_amplitude: np.ndarray) -> np.ndarray:
    """Phase of the minimum-phase system with these log amplitudes at bins 0..n (0 Hz … Nyquist); shape kept."""
    from scipy.fft import irfft, rfft

    n_bins = log_amplitude.shape[-1]
    cepstrum = np.asarray(irfft(log_amplitude, 2 * (n_bins - 1), axis=-1))
    cepstrum[..., 1 : n_bins - 1] *= 2
    cepstrum[..., n_bins:] = 0
    return np.imag(np.asarray(rfft(cepstrum, axis=-1)))


@functools.lru_cache(maxsize=1)
def _lf_table() -> tuple[np.ndarray, np.ndarray]:
    """Rd grid (R,) and LF spectra on it for as many harmonics as 50 Hz has below 8 kHz, (R, 168)."""
    grid = RD_RANGE[0] + RD_STEP * np.arange(round((RD_RANGE[1] - RD_RANGE[0]) / RD_STEP) + 1)
    return grid, lf_spectrum(grid, 168)


@functools.lru_cache(maxsize=512)
def _lf_phases(n_harmonics: int) -> np.ndarray:
    """Cubics of (LF phase, LF minimum phase) of the first harmonics over Rd, (2, 4, R − 1, 8), highest power first."""
    from scipy.interpolate import CubicSpline

    grid, spectra = _lf_table()
    if n_harmonics > spectra.shape[1]:
        spectra = lf_spectrum(grid, n_harmonics)
    log_amplitude = np.log(np.abs(spectra[:, :n_harmonics]))
    minimum = _harmonic_minimum_phase(log_amplitude)[:, :N_PHASES]
    phase = np.unwrap(np.angle(spectra[:, :N_PHASES][:, : minimum.shape[1]]), axis=0)
    return np.stack([CubicSpline(grid, phase, axis=0).c, CubicSpline(grid, minimum, axis=0).c])


def _harmonic_minimum_phase(log_amplitude: np.ndarray) -> np.ndarray:
    """Minimum phase at harmonics 1..K from their log amplitudes (M, K), repeated at DC and Nyquist."""
    return minimum_phase(np.concatenate([log_amplitude[:, :1], log_amplitude, log_amplitude[:, -1:]], axis=1))[:, 1:-1]


@njit(cache=True)
def _error(rd, residual_phase, cubics, n_phases):
    position = (rd - RD_RANGE[0]) / RD_STEP
    cell = min(max(int(position), 0), cubics.shape[1] - 1)
    d = (position - cell) * RD_STEP
    total, first, last = 0.0, 0.0, 0.0
    for h in range(n_phases):
        c = cubics[:, cell, h]
        p = residual_phase[h] + ((c[0] * d + c[1]) * d + c[2]) * d + c[3]
        if h == 0:
            first = p
        else:
            e = p - last - first
            e -= 2.0 * np.pi * np.floor(e / (2.0 * np.pi) + 0.5)
            total += e * e
        last = p
    return total / (n_phases - 1)


@njit(cache=True)
def _bounded_brent(residual_phase, cubics, n_phases):
    # Brent 1973, "localmin": golden sections and parabolas inside the bounds
    sqrt_eps = np.sqrt(2.2e-16)
    a, b = RD_RANGE
    full = a + GOLDEN * (b - a)
    next_best, best = full, full
    step, before = 0.0, 0.0
    at = best
    f_best = _error(at, residual_phase, cubics, n_phases)
    f_full, f_next = f_best, f_best
    calls = 1
    middle = 0.5 * (a + b)
    tol1 = sqrt_eps * abs(best) + TOLERANCE / 3.0
    tol2 = 2.0 * tol1
    while abs(best - middle) > tol2 - 0.5 * (b - a):
        use_golden = True
        if abs(before) > tol1:
            r = (best - next_best) * (f_best - f_full)
            q = (best - full) * (f_best - f_next)
            p = (best - full) * q - (best - next_best) * r
            q = 2.0 * (q - r)
            if q > 0.0:
                p = -p
            q = abs(q)
            r = before
            before = step
            if abs(p) < abs(0.5 * q * r) and p > q * (a - best) and p < q * (b - best):
                step = p / q
                at = best + step
                if (at - a) < tol2 or (b - at) < tol2:
                    step = tol1 if middle >= best else -tol1
                use_golden = False
        if use_golden:
            before = a - best if best >= middle else b - best
            step = GOLDEN * before
        sign = 1.0 if step >= 0.0 else -1.0
        at = best + sign * max(abs(step), tol1)
        value = _error(at, residual_phase, cubics, n_phases)
        calls += 1
        if value <= f_best:
            if at >= best:
                a = best
            else:
                b = best
            full, f_full = next_best, f_next
            next_best, f_next = best, f_best
            best, f_best = at, value
        else:
            if at < best:
                a = at
            else:
                b = at
            if value <= f_next or next_best == best:
                full, f_full = next_best, f_next
                next_best, f_next = at, value
            elif value <= f_full or full in (best, next_best):
                full, f_full = at, value
        middle = 0.5 * (a + b)
        tol1 = sqrt_eps * abs(best) + TOLERANCE / 3.0
        tol2 = 2.0 * tol1
        if calls > MAX_STEPS:
            break
    return best, f_best


@njit(cache=True)
def _search(residual_phases, cubics, rd, confidence):
    n_phases = residual_phases.shape[1]
    for i in range(residual_phases.shape[0]):
        best, error = _bounded_brent(residual_phases[i], cubics, n_phases)
        rd[i] = best
        confidence[i] = 1.0 - np.sqrt(error) / np.pi


def estimate_rd(harmonics: Harmonics, rate_hz: float, mode: str = "fixed") -> tuple[np.ndarray, np.ndarray]:
    """Rd and confidence of every frame, (M,) each; 0 where fewer than three harmonics lie below 8 kHz.

    ``fixed`` subtracts the LF phase, as the paper does; ``compat`` adds it, as the reference does since 2016, and has
    no confidence in digitally silent frames: NaN.
    """
    sign = 1.0 if mode == "compat" else -1.0
    rd, confidence = np.zeros((2, len(harmonics.frame)))
    usable = np.minimum(harmonics.count, np.floor(TOP_HZ / harmonics.spacing_hz + 1e-9).astype(int)) - 1
    for k in np.unique(usable[usable >= 3]):
        frames = np.flatnonzero(usable == k)
        log_amplitude = np.log(np.maximum(harmonics.amplitude[frames, 1 : k + 1], 1e-300))
        own = harmonics.phase[frames, 1 : k + 1] - _harmonic_minimum_phase(log_amplitude)
        lf, lf_minimum = _lf_phases(int(k))
        cubics = np.ascontiguousarray(sign * lf + lf_minimum)
        own = np.ascontiguousarray(own[:, :N_PHASES])
        if k < N_PHASES and mode == "compat":  # the reference counts the real value at Nyquist as one more phase, 0
            own = np.pad(own, ((0, 0), (0, 1)))
            cubics = np.pad(cubics, ((0, 0), (0, 0), (0, 1)))
        found, sure = np.empty(len(frames)), np.empty(len(frames))
        _search(own, cubics, found, sure)
        rd[frames], confidence[frames] = found, sure
    if mode == "compat":  # on nothing but NaN the reference's search stays where it begins
        silent = harmonics.amplitude[:, 0] < np.exp(LOG_SILENCE)
        rd[silent], confidence[silent] = RD_RANGE[0] + GOLDEN * (RD_RANGE[1] - RD_RANGE[0]), np.nan
    if harmonics.wide is not None:
        rd[harmonics.wide.frame], confidence[harmonics.wide.frame] = estimate_rd(harmonics.wide, rate_hz, mode)
    return rd, confidence
