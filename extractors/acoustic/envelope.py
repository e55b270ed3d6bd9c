"""The spectral envelope as 25 mel cepstra: a smooth curve that touches the harmonics' tops (true envelope).

In: upright mono signal (N,), rate in Hz, pitch frames. Out: c0, 2c1 … 2c24 per frame, natural log of amplitude.
Sources: Röbel & Rodet 2005, "Efficient spectral envelope estimation and its application to pitch shifting and
envelope preservation"; the mel warping of the frequency axis, not SPTK's mel-generalised cepstrum.

    harmonics, cepstra = harmonics_and_cepstra(signal, 16000, pitch.time_s, pitch.f0_hz, "fixed")     # cepstra (M, 25)
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from extractors.acoustic.sinusoids import LOG_SILENCE, Harmonics, harmonic_frames, usable_frames

N_COEFFICIENTS = 25
TOLERANCE = 2.0 * np.log(10) / 20  # 2 dB in nepers
MAX_STEPS = 200
GROUP_FRAMES = 64
FLOOR = 1e-10  # of the amplitude


@functools.lru_cache(maxsize=64)
def _warp(n_bins: int, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Left bins and weights that read a linear spectrum at equal mel steps from 0 Hz to Nyquist, linearly over mel."""
    mel = np.log1p(np.linspace(0, rate_hz / 2, n_bins) / 700)
    wanted = np.linspace(0, mel[-1], n_bins)
    left = np.clip(np.searchsorted(mel, wanted, side="right") - 1, 0, n_bins - 2)
    return left, (wanted - mel[left]) / (mel[left + 1] - mel[left])


@functools.lru_cache(maxsize=64)
def _cepstral_rows(n_bins: int, order: int) -> np.ndarray:
    """Matrix from log spectrum bins 0..Nyquist to c0, 2c1 … 2c_order, (n_bins, order + 1)."""
    weight = np.full(n_bins, 2.0)
    weight[[0, -1]] = 1.0
    rows = np.cos(np.pi * np.outer(np.arange(n_bins), np.arange(order + 1)) / (n_bins - 1)) * weight[:, None]
    rows /= 2 * (n_bins - 1)
    rows[:, 1:] *= 2
    return rows


def mel_cepstrum(amplitude: np.ndarray, rate_hz: float, order: int) -> np.ndarray:
    """c0, 2c1 … 2c_order of amplitudes (M, bins 0..Nyquist), interpolated to a mel axis before the logarithm."""
    left, weight = _warp(amplitude.shape[1], rate_hz)
    weight = weight.astype(amplitude.dtype)
    warped = amplitude[:, left] * (1 - weight) + amplitude[:, left + 1] * weight
    rows = _cepstral_rows(amplitude.shape[1], order).astype(amplitude.dtype, copy=False)
    return np.log(np.maximum(warped, np.finfo(amplitude.dtype).tiny)) @ rows


@functools.lru_cache(maxsize=64)
def _smoothing(n_bins: int, order: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Matrices from bins to cepstrum c0, 2c1 … 2c_order (n_bins, order + 1) and back (order + 1, n_bins)."""
    back = np.cos(np.pi * np.outer(np.arange(order + 1), np.arange(n_bins)) / (n_bins - 1))
    return _cepstral_rows(n_bins, order).astype(dtype), back.astype(dtype)


@functools.lru_cache(maxsize=8)
def _mel_rows(order: int, rate_hz: float, n_mel: int = 513) -> np.ndarray:
    """Matrix from the cepstrum c0, 2c1 … 2c_order of a curve over Hz to c0, 2c1 … 2c24 of the same curve over mel."""
    hz = 700 * np.expm1(np.linspace(0, np.log1p(rate_hz / 2 / 700), n_mel))
    curves = np.cos(np.pi * np.outer(np.arange(order + 1), hz / (rate_hz / 2)))
    return curves @ _cepstral_rows(n_mel, N_COEFFICIENTS - 1)


@njit(cache=True)
def _excess(level, curve, first, out, highest, energy):
    """Out: level − curve where positive, else 0 (the first time as it is); per row its largest value and mean square."""
    last = level.shape[1] - 1
    zero = level[0, 0] * 0
    for i in range(level.shape[0]):
        top = level[i, 0] - curve[i, 0]
        total = 0.0
        for b in range(last + 1):
            e = level[i, b] - curve[i, b]
            top = e if e > top else top
            e = e if first or e > zero else zero
            out[i, b] = e
            total += e * e
        ends = 0.5 * (out[i, 0] * out[i, 0] + out[i, last] * out[i, last])
        highest[i], energy[i] = top, (total - ends) / last


def true_envelope(log_amplitude: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Smooth curves that reach the peaks of log amplitudes (M, bins) within 2 dB; cepstral ``orders`` (M,)."""
    n_bins = log_amplitude.shape[1]
    orders = np.asarray(orders).astype(int)
    curve = np.empty_like(log_amplitude)
    for rows, top in _groups(orders):
        cepstra = _raise(log_amplitude[rows], orders[rows], top, lengthened=False)
        curve[rows] = cepstra @ _smoothing(n_bins, top, curve.dtype.type)[1]
    return curve


def _groups(orders: np.ndarray):
    """Frames of like order together: (indices, order of the matrices). A few sizes only: the matrices are cached."""
    by_order = np.argsort(orders, kind="stable")
    for begin in range(0, len(by_order), GROUP_FRAMES):
        rows = by_order[begin : begin + GROUP_FRAMES]
        yield rows, 16 * int(np.ceil(orders[rows].max() / 16))


def _raise(level: np.ndarray, orders: np.ndarray, top: int, lengthened: bool) -> np.ndarray:
    """Cepstra c0, 2c1 … 2c_top of the true envelopes of ``level`` (B, bins), 0 above each frame's order.

    The curve starts as 0 and is raised by the liftered excess of the spectrum over it. The reference lengthens every
    step by the share of what the lifter cannot follow: 1 + √(energy of the excess beyond the order / energy of the raised
    curve within). The latter holds the level, so a louder recording takes other steps: `fixed` does not lengthen.
    Only order + 1 of thousands of cepstral coefficients survive, so two matrix products beat two FFTs.
    """
    dtype = level.dtype.type
    analysis, synthesis = _smoothing(level.shape[1], top, dtype)
    n = np.arange(top + 1)
    within = n <= orders[:, None]
    lifters = np.where(within, 0.54 + 0.46 * np.cos(np.pi * n / orders[:, None]), 0.0).astype(dtype)
    cepstra = np.zeros((len(level), top + 1), dtype=dtype)
    active, target = np.arange(len(level)), level
    curve = np.zeros_like(level)
    for step in range(MAX_STEPS):
        excess, highest, energy = np.empty_like(target), np.empty(len(target)), np.empty(len(target))
        _excess(target, curve, step == 0, excess, highest, energy)
        if step:
            going = highest > TOLERANCE
            active, target, excess, energy = active[going], target[going], excess[going], energy[going]
        if not len(active):
            break
        raised = (excess @ analysis) * within[active]
        step_up = raised * lifters[active]
        if lengthened:
            beyond = 2 * energy - np.square(raised[:, 0]) - np.square(raised).sum(axis=1)  # twice that beyond the order
            inside = np.square(cepstra[active] + raised).sum(axis=1)
            step_up *= (1 + np.sqrt(np.maximum(beyond, 0.0) / np.maximum(inside, 1e-30)))[:, None].astype(dtype)
        cepstra[active] += step_up
        curve = cepstra[active] @ synthesis
    return cepstra


def _envelopes(level: np.ndarray, orders: np.ndarray, top: int, lengthened: bool) -> np.ndarray:
    """Cepstra (B, top + 1) of the true envelopes of ``level`` (B, bins), whose ends are changed in place.

    No harmonic lies near 0 Hz and Nyquist: there the envelope of half the order stands in for the spectrum, over a
    quarter of the finest ripple that the full order shows.
    """
    n_bins = level.shape[1]
    halves = np.floor(1.2 * np.floor(orders / 2 + 0.5) + 0.5).astype(int)
    half_top = 8 * int(np.ceil(halves.max() / 8))
    coarse = _raise(level, halves, half_top, lengthened)
    widths = np.floor((n_bins - 1) / (2 * orders) + 0.5).astype(int)
    widest = int(widths.max())
    synthesis = _smoothing(n_bins, half_top, level.dtype.type)[1]
    low, high = coarse @ synthesis[:, :widest], coarse @ synthesis[:, n_bins - widest :]
    for i, width in enumerate(widths):
        level[i, :width] = low[i, :width]
        level[i, n_bins - width + 1 :] = high[i, widest - width + 1 :]
    return _raise(level, orders, top, lengthened)


def harmonics_and_cepstra(
    signal: np.ndarray, rate_hz: float, time_s: np.ndarray, f0_hz: np.ndarray, mode: str
) -> tuple[Harmonics, np.ndarray]:
    """Harmonics of every usable pitch frame and its 25 mel cepstra (M, 25), from one set of spectra.

    ``compat`` follows every bin and interpolates the amplitude to the mel axis; ``fixed`` follows every second bin and
    evaluates the curve itself at the mel steps. Digitally silent frames have no cepstra in ``compat``: NaN.
    """
    keep, _, _, f0 = usable_frames(signal, rate_hz, time_s, f0_hz)
    cepstra = np.zeros((len(keep), N_COEFFICIENTS))
    wanted = np.floor(1.2 * np.floor(0.5 * rate_hz / f0 + 0.5) + 0.5).astype(int)

    def read(block: np.ndarray, level: np.ndarray) -> None:
        level = (
            level.copy()
            if mode == "compat"
            else np.maximum(level[:, ::2].astype(np.float32), np.float32(np.log(FLOOR)))
        )
        n_bins = level.shape[1]
        orders = np.minimum(wanted[block], n_bins - 2)
        for rows, top in _groups(orders):
            found = _envelopes(level[rows], orders[rows], top, mode == "compat")
            if mode == "compat":
                curve = np.exp(found @ _smoothing(n_bins, top, level.dtype.type)[1])
                cepstra[block[rows]] = mel_cepstrum(curve, rate_hz, N_COEFFICIENTS - 1)
                cepstra[block[rows[level[rows, 1] < LOG_SILENCE]]] = np.nan
            else:
                cepstra[block[rows]] = found @ _mel_rows(top, rate_hz)

    return harmonic_frames(signal, rate_hz, time_s, f0_hz, mode, read), cepstra
