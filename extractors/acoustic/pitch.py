"""Pitch and voicing by summation of the residual harmonics (SRH).

In: mono signal (N,), rate in Hz. Out: F0 (Hz), voicing, score and time of frames every 10 ms.
Source: Drugman & Alwan 2011, "Joint robust voicing detection and pitch estimation based on residual harmonics".

    track = srh_pitch(signal, 16000, "fixed")
    track.f0_hz, track.voiced, track.time_s       # (M,) each

The same in blocks, for long files: :func:`pitch_residual`, :func:`frame_starts` and :func:`search` of each block, then
:func:`narrowed` over the F0 and scores of all, :func:`search` again in the blocks for the frames outside, :func:`decide`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from extractors.acoustic.frames import HOP_S, round_half_up
from extractors.acoustic.residual import raw_residual
from extractors.acoustic.zoom import fine_power, place, zoom_plan

TOP_RATE_HZ = 16000
F0_RANGE_HZ = (50, 500)
CLEAR_SCORE = 0.1  # frames above it tell the speaker's range
BLOCK_FRAMES = 32  # spectra at once: they stay in the cache


@dataclass(frozen=True)
class Pitch:
    """Frames every 10 ms: centre (s), F0 (Hz), voiced, SRH score; and the median F0 of the voiced ones (0 if none)."""

    time_s: np.ndarray
    f0_hz: np.ndarray
    voiced: np.ndarray
    score: np.ndarray
    median_hz: float


@njit(cache=True)
def _prepare(residual, starts, window, weights, n_fft, rows, norms):
    # windowed frames without their mean into rows (B, size), the L2 norms of their half spectra (0: no energy)
    n = window.shape[0]
    frame = np.empty(n)
    for r in range(len(starts)):
        part = residual[starts[r] : starts[r] + n]
        mean, raw = 0.0, 0.0
        for i in range(n):
            frame[i] = part[i] * window[i]
            mean += frame[i]
            raw += frame[i] * frame[i]
        mean /= n
        energy, nyquist = 0.0, 0.0
        for i in range(n):
            frame[i] -= mean
            energy += frame[i] * frame[i]
            nyquist += frame[i] if i % 2 == 0 else -frame[i]
        # Parseval: Σ over bins 0..n/2−1 is half of all bins, the Nyquist bin taken out (bin 0 is 0: no mean)
        half = (energy * n_fft - (nyquist * nyquist if n_fft % 2 == 0 else 0.0)) / 2
        rows[r] = 0.0
        norms[r] = 0.0
        if half > 1e-20 * n_fft * raw:  # false for NaN too
            norms[r] = np.sqrt(half)
            place(frame, weights, rows[r])


@njit(cache=True)
def _best(coarse, size, taps, norms, low, high, offset, f0, score):
    # E(hf) is bin hf − offset: offset 1 reads one bin low, as the reference does, 0 reads the true frequency
    amplitude = np.empty(5 * high + 1)
    totals = np.empty(high - low + 1)
    for r in range(len(norms)):
        if norms[r] == 0.0:
            continue
        fine_power(coarse[r], size, taps, amplitude)
        for i in range(amplitude.shape[0]):
            amplitude[i] = np.sqrt(amplitude[i])
        totals[:] = 0.0
        for h in range(1, 6):
            on = amplitude[h * low - offset :]
            for i in range(totals.shape[0]):
                totals[i] += on[h * i]
        for h in range(1, 5):
            between = amplitude[h * low - offset :]
            for i in range(totals.shape[0]):
                totals[i] -= between[h * i + (low + i + 1) // 2]  # round((h + ½) f)
        best = np.argmax(totals)
        f0[r] = low + best
        score[r] = totals[best] / norms[r]


def frame_length(rate_hz: int) -> int:
    """Samples in a frame: an even number, about 100 ms."""
    n_frame = round_half_up(0.1 * rate_hz) - 2
    return n_frame - n_frame % 2


def frame_starts(n_samples: int, rate_hz: int) -> np.ndarray:
    """First samples of the frames that fit, every 10 ms, (M,)."""
    return np.arange(0, n_samples - frame_length(rate_hz) + 1, round_half_up(HOP_S * rate_hz))


def frame_times(starts: np.ndarray, rate_hz: int) -> np.ndarray:
    """Centres (s) of frames, counted as the reference does: its first sample is at 1/rate."""
    return (starts + frame_length(rate_hz) // 2 + 1) / rate_hz


def pitch_residual(signal: np.ndarray, rate_hz: int, mode: str = "fixed") -> np.ndarray:
    """The residual that the search reads, on the signal's own scale: scores do not depend on it. Shape (N,)."""
    silent = np.nan if mode == "compat" else 0.0
    return raw_residual(signal, rate_hz, round_half_up(0.75 * rate_hz / 1000), silent=silent)


def search(
    residual: np.ndarray, starts: np.ndarray, rate_hz: int, mode: str = "fixed", range_hz: tuple[int, int] = F0_RANGE_HZ
) -> tuple[np.ndarray, np.ndarray]:
    """F0 (Hz) and score of the frames that begin at ``starts``, (M,) each; 1 Hz and NaN for frames without energy."""
    from scipy.fft import rfft

    f0 = np.ones(len(starts))
    score = np.full(len(starts), np.nan)
    window = np.blackman(frame_length(rate_hz))
    plan = zoom_plan(len(window), rate_hz)
    for begin in range(0, len(starts), BLOCK_FRAMES):
        block = slice(begin, begin + BLOCK_FRAMES)
        rows = np.empty((len(starts[block]), plan.size))
        norms = np.empty(len(rows))
        _prepare(residual, starts[block], window, plan.weights, rate_hz, rows, norms)
        coarse = np.asarray(rfft(rows, axis=1, overwrite_x=True))
        offset = 1 if mode == "compat" else 0
        _best(coarse, plan.size, plan.taps, norms, *range_hz, offset, f0[block], score[block])
    return f0, score


def narrowed(f0_hz: np.ndarray, score: np.ndarray) -> tuple[int, int]:
    """The file's own F0 range (Hz), half to twice the median of its clear frames, from all frames' first search.

    A frame whose best F0 lies in that range keeps it; the others, :func:`outside`, are searched again.
    """
    clear = score > CLEAR_SCORE
    if not clear.any():
        return F0_RANGE_HZ
    median = np.median(f0_hz[clear])
    return max(F0_RANGE_HZ[0], round_half_up(0.5 * median)), min(F0_RANGE_HZ[1], round_half_up(2 * median))


def outside(f0_hz: np.ndarray, score: np.ndarray, range_hz: tuple[int, int]) -> np.ndarray:
    """Indices of the frames to search again, (K,)."""
    return np.flatnonzero(~np.isnan(score) & ((f0_hz < range_hz[0]) | (f0_hz > range_hz[1])))


def decide(time_s: np.ndarray, f0_hz: np.ndarray, score: np.ndarray, mode: str = "fixed") -> Pitch:
    """Voicing and median F0 of a file from all its frames' times, F0 and scores, (M,) each."""
    known = ~np.isnan(score)
    counted = np.where(known, score, 0.0) if mode == "compat" else score[known]
    spread = np.std(counted, ddof=1) if len(counted) > 1 else 0.0
    voiced = score > (0.085 if spread > 0.05 else 0.07)
    if mode != "compat":
        f0_hz, score = np.where(known, f0_hz, 0.0), np.where(known, score, 0.0)
    median_hz = float(np.median(f0_hz[voiced])) if voiced.any() else 0.0
    return Pitch(time_s, f0_hz, voiced, score, median_hz)


def at_most_16k(signal: np.ndarray, rate_hz: int) -> tuple[np.ndarray, int]:
    """The signal at 16 kHz if it came faster (polyphase, Kaiser β = 5), else as it is."""
    if rate_hz <= TOP_RATE_HZ:
        return signal, rate_hz
    import librosa

    return librosa.resample(signal, orig_sr=rate_hz, target_sr=TOP_RATE_HZ, res_type="polyphase"), TOP_RATE_HZ


def srh_pitch(signal: np.ndarray, rate_hz: int, mode: str = "fixed") -> Pitch:
    """Pitch of a whole file. Files shorter than one 100 ms frame give empty arrays.

    ``compat`` reads the spectrum one bin low (its F0 comes out up to 1 Hz high) and calls silent frames 1 Hz;
    ``fixed`` reads the true bins and calls them 0 Hz.
    """
    signal, rate_hz = at_most_16k(signal, rate_hz)
    residual = pitch_residual(signal, rate_hz, mode)
    starts = frame_starts(len(signal), rate_hz)
    f0_hz, score = search(residual, starts, rate_hz, mode)
    range_hz = narrowed(f0_hz, score)
    again = outside(f0_hz, score, range_hz)
    f0_hz[again], score[again] = search(residual, starts[again], rate_hz, mode, range_hz)
    return decide(frame_times(starts, rate_hz), f0_hz, score, mode)
