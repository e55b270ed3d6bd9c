"""NAQ, QOQ, H1H2 and PSP: what the glottal flow says about tense, modal or breathy voice, one value per closure.

In: glottal flow and derivative (N,), closures (G,) as 0-based samples, rate in Hz. Out: (G, 4) values.
Sources: Alku, Bäckström & Vilkman 2002 (NAQ); Hacki 1989 (quasi-open quotient); Alku, Strik & Vilkman 1997 (PSP).

    values = voice_quality(flow, derivative, closures, 16000)      # columns NAQ, QOQ, H1H2 (dB), PSP
"""

from __future__ import annotations

import numpy as np
from numba import njit

from extractors.acoustic.frames import round_half_up
from extractors.acoustic.gci import periods
from extractors.acoustic.zoom import fine_power, place, zoom_plan

F0_LIMITS_HZ = (20.0, 500.0)
QOQ_LEVEL = 0.5
PSP_FFT = 2048
PSP_ERROR = 0.01
PSP_FLOOR = 1e-10  # of the pulse's height: −200 dB where the spectrum is 0 but for rounding
BLOCK = 64  # closures whose spectra are held at once
HARMONICS = 7  # of the spectrum looked at first: five peaks are enough, if they stand apart from what follows


@njit(cache=True)
def _naq_qoq(flow, derivative, closures, lengths, use, shift, out):
    n = flow.shape[0]
    for k in use:
        length, stop = lengths[k], closures[k]
        start = closures[k - 1] if k > 0 else 0
        m = stop - start + 1
        pulse = np.empty(m)
        peak, where = 0.0, 0
        pulse[0] = pulse[m - 1] = 0.0  # where the flow stays below the line, rounding must not make a peak of its end
        slope = (flow[stop] - flow[start]) / max(m - 1, 1)
        for i in range(1, m - 1):
            pulse[i] = flow[start + i] - flow[start] - slope * i
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
def _without_neighbours(row, where, count, apart):
    # of two peaks too close together the lower goes, until none are too close: in place, returns how many stay
    while True:
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
            return count
        kept = 0
        for i in range(count):
            if not drop[i]:
                where[kept] = where[i]
                kept += 1
        count = kept


@njit(cache=True)
def _first_over_second(row, f0, bin_offset, whole):
    """H1 − H2 (dB) from powers in 1-bin steps. NaN if the bins do not suffice to say what the whole spectrum would."""
    n = row.shape[0]
    where = np.empty(n, dtype=np.int64)
    count = 0
    for i in range(1, n - 1):
        if row[i] > row[i - 1] and row[i] >= row[i + 1]:
            where[count] = i
            count += 1
    apart = f0 / 2
    unknown = n - 1  # the first place where a peak may be unseen, or be dropped for one
    while not whole and count > 0 and unknown - where[count - 1] <= apart:
        count -= 1
        unknown = where[count]
    count = _without_neighbours(row, where, count, apart)
    if count < 5:
        return 0.0 if whole else np.nan
    first, second = 0, 0
    for i in range(count):
        if abs(where[i] + bin_offset - f0) < abs(where[first] + bin_offset - f0):
            first = i
        if abs(where[i] + bin_offset - 2 * f0) < abs(where[second] + bin_offset - 2 * f0):
            second = i
    if not whole and unknown + bin_offset - 2 * f0 < abs(where[second] + bin_offset - 2 * f0):
        return np.nan
    return 10 * (np.log10(row[where[first]]) - np.log10(row[where[second]]))


@njit(cache=True)
def _place_all(derivative, closures, halves, weights, rows):
    for k in range(len(closures)):
        start, stop = max(closures[k] - halves[k], 0), min(closures[k] + halves[k] + 1, derivative.shape[0])
        n = stop - start
        window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(n) / (n - 1))  # Hamming
        place(derivative[start:stop] * window, weights, rows[k])


@njit(cache=True)
def _h1h2(coarse, size, taps, f0s, rate_hz, bin_offset, out):
    for k in range(len(f0s)):
        whole = rate_hz // 2 + 1
        part = np.empty(min(int(HARMONICS * f0s[k]) + 2, whole))
        fine_power(coarse[k], size, taps, part)
        out[k] = _first_over_second(part, f0s[k], bin_offset, len(part) == whole)
        if np.isnan(out[k]):
            part = np.empty(whole)
            fine_power(coarse[k], size, taps, part)
            out[k] = _first_over_second(part, f0s[k], bin_offset, True)


def _harmonic_difference(derivative, closures, lengths, rate_hz, bin_offset, use):
    """Level of the first harmonic over the second in dB, at the closures ``use``."""
    from scipy.fft import rfft

    out = np.zeros(len(closures))
    use = use[np.argsort(lengths[use], kind="stable")]  # blocks of like lengths: the shortest transforms
    for begin in range(0, len(use), BLOCK):
        block = use[begin : begin + BLOCK]
        halves = np.floor(1.5 * lengths[block] + 0.5).astype(np.int64)
        plan = zoom_plan(2 * int(halves[-1]) + 1, rate_hz)
        rows = np.zeros((len(block), plan.size))
        _place_all(derivative, closures[block], halves, plan.weights, rows)
        coarse = np.asarray(rfft(rows, axis=1, overwrite_x=True))
        values = np.empty(len(block))
        _h1h2(coarse, plan.size, plan.taps, rate_hz / lengths[block], rate_hz, bin_offset, values)
        out[block] = values
    return out


@njit(cache=True)
def _parabola(pulse, cosines):
    """Alku's a of one pulse: fit a·k² + b to its spectrum in dB over bins 0..N−1, N growing from 3 until the normalised
    error reaches .01. The bins (of a transform of len(cosines) points) are computed as N grows."""
    n_fft = cosines.shape[0]
    quarter = n_fft // 4
    level = np.empty(n_fft // 2 + 1)
    s2, s4, y0, y2, yy = 0.0, 0.0, 0.0, 0.0, 0.0
    a = 0.0
    for k in range(level.shape[0]):
        real, imaginary = 0.0, 0.0
        at = 0
        for i in range(min(pulse.shape[0], n_fft)):
            real += pulse[i] * cosines[at]
            imaginary += pulse[i] * cosines[(at + quarter) & (n_fft - 1)]  # −sin: n_fft is a power of two
            at = (at + k) & (n_fft - 1)
        level[k] = 20 * np.log10(max(np.sqrt(real * real + imaginary * imaginary), PSP_FLOOR))
        n, q = k + 1.0, float(k) * k
        s2 += q
        s4 += q * q
        y0 += level[k]
        y2 += q * level[k]
        yy += level[k] * level[k]
        if k < 2:
            continue
        a = (n * y2 - s2 * y0) / (n * s4 - s2 * s2)
        b = (y0 - a * s2) / n
        error = 0.0
        for j in range(k + 1):
            d = level[j] - a * j * j - b
            error += d * d
        if error >= PSP_ERROR * yy:
            break
    return a


@njit(cache=True)
def _psp(flow, closures, lengths, use, cosines, out):
    ideal = np.full(lengths[use].max() + 1, np.nan)  # by length: the fit to a box
    for k in use:
        length = lengths[k]
        pulse = flow[closures[k - 1] : closures[k] + 1]
        low = pulse.min()
        span = pulse.max() - low
        if span <= 0.0:
            continue
        if np.isnan(ideal[length]):
            ideal[length] = _parabola(np.full(length, 1.0 / length), cosines)  # 0 dB at 0 Hz
        if ideal[length] != 0.0:
            out[k] = _parabola((pulse - low) / span, cosines) / ideal[length]


def _spectral_parameter(flow, closures, lengths, use):
    """Alku's parabolic spectral parameter at the closures ``use``, the first closure excluded."""
    out = np.zeros(len(closures))
    use = use[use > 0]
    if len(use):
        _psp(flow, closures, lengths, use, np.cos(2 * np.pi * np.arange(PSP_FFT) / PSP_FFT), out)
    return out


def voice_quality(
    flow: np.ndarray,
    derivative: np.ndarray,
    closures: np.ndarray,
    rate_hz: int,
    bin_offset: int = 0,
    longest: int | None = None,
) -> np.ndarray:
    """NAQ, QOQ, H1H2 (dB) and PSP at every closure, (G, 4); 0 where the cycle is not a plausible period.

    With ``longest`` (samples) a longer step is a pause, not a cycle: the closure after it, like the first of all, shows
    no NAQ, QOQ or PSP, and its H1H2 is measured over the cycle that follows.
    """
    out = np.zeros((len(closures), 4))
    if len(closures) < 2:
        return out
    lengths = periods(closures)

    def plausible(lengths: np.ndarray, limit: int | None) -> np.ndarray:
        f0 = rate_hz / lengths
        return (f0 > F0_LIMITS_HZ[0]) & (f0 < F0_LIMITS_HZ[1]) & (limit is None or lengths <= limit)

    use = np.flatnonzero(plausible(lengths, longest))
    cycles = use if longest is None else use[use > 0]
    _naq_qoq(flow, derivative, closures, lengths, cycles, round_half_up(0.0005 * rate_hz), out)
    out[:, 3] = _spectral_parameter(flow, closures, lengths, use)
    if longest is not None:
        after = np.append(lengths[1:], lengths[-1])
        lengths = np.where(lengths > longest, after, lengths)
        use = np.flatnonzero(plausible(lengths, longest))
    out[:, 2] = _harmonic_difference(derivative, closures, lengths, rate_hz, bin_offset, use)
    return out
