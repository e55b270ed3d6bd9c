"""NAQ, QOQ, H1H2 and PSP: what the glottal flow says about tense, modal or breathy voice, one value per closure.

In: glottal flow and derivative (N,), closures (G,) as 0-based samples, rate in Hz. Out: (G, 4) values.
Sources: Alku, Bäckström & Vilkman 2002 (NAQ); Hacki 1989 (quasi-open quotient); Alku, Strik & Vilkman 1997 (PSP).

    values = voice_quality(flow, derivative, closures, 16000)      # columns NAQ, QOQ, H1H2 (dB), PSP
"""

from __future__ import annotations

import numpy as np
from numba import njit

from extractors.acoustic.frames import round_half_up

F0_LIMITS_HZ = (20.0, 500.0)
QOQ_LEVEL = 0.5
PSP_FFT = 2048
PSP_ERROR = 0.01
BLOCK = 64  # closures whose spectra are held at once


def periods(closures: np.ndarray) -> np.ndarray:
    """Samples from the previous closure; the first cycle takes the length of the second. Shape (G,)."""
    steps = np.diff(closures)
    return np.concatenate([steps[:1], steps])


@njit(cache=True)
def _naq_qoq(flow, derivative, closures, lengths, shift, rate_hz, out):
    n = flow.shape[0]
    for k in range(len(closures)):
        length = lengths[k]
        f0 = rate_hz / length
        if not (F0_LIMITS_HZ[0] < f0 < F0_LIMITS_HZ[1]):
            continue
        stop = closures[k]
        start = closures[k - 1] if k > 0 else 0
        m = stop - start + 1
        pulse = np.empty(m)
        peak, where = -np.inf, 0
        for i in range(m):
            line = flow[start] + (flow[stop] - flow[start]) * i / max(m - 1, 1)
            pulse[i] = flow[start + i] - line
            if pulse[i] > peak:
                peak, where = pulse[i], i
        steepest = 0.0
        for i in range(start, min(stop + shift, n - 1) + 1):
            steepest = max(steepest, abs(derivative[i]))
        if steepest > 0.0:
            out[k, 0] = peak / steepest / length
        level = QOQ_LEVEL * peak
        left, right = where, where
        while left > 2 and pulse[left] > level:  # the walk stays two samples inside the cycle
            left -= 1
        while right < m - 3 and pulse[right] > level:
            right += 1
        out[k, 1] = (right - left) / length


@njit(cache=True)
def _h1h2(spectra_db, f0s, rate_hz, bin_offset, out):
    n = spectra_db.shape[1]
    for k in range(spectra_db.shape[0]):
        row = spectra_db[k]
        where = np.empty(n, dtype=np.int64)
        count = 0
        for i in range(1, n - 1):
            if row[i] > row[i - 1] and row[i] >= row[i + 1]:
                where[count] = i
                count += 1
        apart = f0s[k] / 2
        while True:  # of two peaks too close together the lower goes, until none are too close
            drop = np.zeros(count, dtype=np.bool_)
            any_close = False
            for i in range(count - 1):
                if where[i + 1] - where[i] <= apart:
                    any_close = True
                    if row[where[i]] >= row[where[i + 1]]:
                        drop[i + 1] = True
                    else:
                        drop[i] = True
            if not any_close:
                break
            kept = 0
            for i in range(count):
                if not drop[i]:
                    where[kept] = where[i]
                    kept += 1
            count = kept
        if count < 5:
            continue
        first, second = 0, 0
        for i in range(count):
            if abs(where[i] + bin_offset - f0s[k]) < abs(where[first] + bin_offset - f0s[k]):
                first = i
            if abs(where[i] + bin_offset - 2 * f0s[k]) < abs(where[second] + bin_offset - 2 * f0s[k]):
                second = i
        out[k] = row[where[first]] - row[where[second]]


def _harmonic_difference(derivative, closures, lengths, rate_hz, bin_offset, use):
    """Level of the first harmonic over the second in dB, at the closures ``use``."""
    from scipy.fft import rfft

    out = np.zeros(len(closures))
    for begin in range(0, len(use), BLOCK):
        block = use[begin : begin + BLOCK]
        rows = np.zeros((len(block), rate_hz))
        for row, k in zip(rows, block, strict=True):
            half = round_half_up(1.5 * lengths[k])
            start, stop = max(closures[k] - half, 0), min(closures[k] + half, len(derivative) - 1)
            frame = derivative[start : stop + 1] * 2.0**15
            row[: len(frame)] = (frame * np.hamming(len(frame)))[:rate_hz]
        with np.errstate(divide="ignore"):
            level = 20 * np.log10(np.abs(np.asarray(rfft(rows, axis=1))))
        values = np.zeros(len(block))
        _h1h2(level, rate_hz / lengths[block], rate_hz, bin_offset, values)
        out[block] = values
    return out


def _parabolic_fit(rows_db):
    """Alku's a: fit a·k² + b over bins 0..N−1, N growing from 3 until the normalised error reaches .01. Shape (M,)."""
    out = np.zeros(len(rows_db))
    _fit(np.ascontiguousarray(rows_db), out)
    return out


@njit(cache=True)
def _fit(rows, out):
    for r in range(rows.shape[0]):
        row = rows[r]
        n = 3
        a = 0.0
        while n < row.shape[0]:
            s0, s2, s4, y0, y2, yy = float(n), 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(n):
                q = float(k) * k
                s2 += q
                s4 += q * q
                y0 += row[k]
                y2 += q * row[k]
                yy += row[k] * row[k]
            a = (s0 * y2 - s2 * y0) / (s0 * s4 - s2 * s2)
            b = (y0 - a * s2) / s0
            error = 0.0
            for k in range(n):
                d = row[k] - a * k * k - b
                error += d * d
            if error >= PSP_ERROR * yy:
                break
            n += 1
        out[r] = a


def _spectral_parameter(flow, closures, lengths, use):
    """Alku's parabolic spectral parameter at the closures ``use``, the first closure excluded."""
    from scipy.fft import rfft

    out = np.zeros(len(closures))
    use = use[use > 0]
    for begin in range(0, len(use), BLOCK):
        block = use[begin : begin + BLOCK]
        rows, boxes = np.zeros((2, len(block), PSP_FFT))
        for row, box, k in zip(rows, boxes, block, strict=True):
            pulse = flow[closures[k - 1] : closures[k] + 1]
            span = pulse.max() - pulse.min()
            row[: len(pulse)] = ((pulse - pulse.min()) / span if span > 0 else pulse * 0)[:PSP_FFT]
            box[: lengths[k]] = 1.0 / lengths[k]  # 0 dB at 0 Hz
        with np.errstate(divide="ignore"):
            level = 20 * np.log10(np.maximum(np.abs(np.asarray(rfft(rows, axis=1))), 1e-300))
            ideal = 20 * np.log10(np.maximum(np.abs(np.asarray(rfft(boxes, axis=1))), 1e-300))
        best = _parabolic_fit(ideal)
        out[block] = np.divide(_parabolic_fit(level), best, out=np.zeros(len(block)), where=best != 0.0)
    return out


def voice_quality(
    flow: np.ndarray, derivative: np.ndarray, closures: np.ndarray, rate_hz: int, bin_offset: int = 0
) -> np.ndarray:
    """NAQ, QOQ, H1H2 (dB) and PSP at every closure, (G, 4); 0 where the cycle is not a plausible period."""
    out = np.zeros((len(closures), 4))
    if len(closures) < 2:
        return out
    lengths = periods(closures)
    _naq_qoq(flow, derivative, closures, lengths, round_half_up(0.0005 * rate_hz), rate_hz, out)
    f0 = rate_hz / lengths
    use = np.flatnonzero((f0 > F0_LIMITS_HZ[0]) & (f0 < F0_LIMITS_HZ[1]))
    out[:, 2] = _harmonic_difference(derivative, closures, lengths, rate_hz, bin_offset, use)
    out[:, 3] = _spectral_parameter(flow, closures, lengths, use)
    return out
