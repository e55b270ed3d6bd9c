"""Pitch and voicing by summation of the residual harmonics (SRH).

In: mono signal (N,), rate in Hz. Out: F0 (Hz), voicing, score and time of frames every 10 ms.
Source: Drugman & Alwan 2011, "Joint robust voicing detection and pitch estimation based on residual harmonics".
Memory: the score matrix (451 × 8 bytes a frame) exists one block of frames at a time.

    track = srh_pitch(signal, 16000, "fixed")
    track.f0_hz, track.voiced, track.time_s       # (M,) each
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from extractors.acoustic.frames import HOP_S, round_half_up
from extractors.acoustic.residual import lp_residual

TOP_RATE_HZ = 16000
F0_RANGE_HZ = (50, 500)
BLOCK_FRAMES = 512  # 512 spectra of 16,000 points: 66 MB at most


@dataclass(frozen=True)
class Pitch:
    """Frames every 10 ms: centre (s), F0 (Hz), voiced, SRH score; and the median F0 of the voiced ones (0 if none)."""

    time_s: np.ndarray
    f0_hz: np.ndarray
    voiced: np.ndarray
    score: np.ndarray
    median_hz: float


@njit(cache=True)
def _best(spectra, norms, low, high, offset, f0, score):
    # E(hf) is bin hf − offset: offset 1 reads one bin low, as the reference does, 0 reads the true frequency
    for i in range(spectra.shape[0]):
        best, where = -1e300, low
        for f in range(low, high + 1):
            total = 0.0
            for h in range(1, 6):
                total += spectra[i, h * f - offset]
            for h in range(1, 5):
                total -= spectra[i, int(np.floor((h + 0.5) * f + 0.5)) - offset]
            if total > best:
                best, where = total, f
        f0[i] = where
        score[i] = best / norms[i]


def _search(residual, starts, n_frame, n_fft, low, high, offset):
    """Best F0 and score of every frame, block by block; frames without energy get F0 1 Hz and score NaN."""
    from librosa.util import frame as framed
    from scipy.fft import rfft

    window = np.blackman(n_frame)
    views = framed(residual, frame_length=n_frame, hop_length=1, axis=0)  # a view: nothing is copied
    f0 = np.ones(len(starts))
    score = np.full(len(starts), np.nan)
    top = 5 * F0_RANGE_HZ[1] + 1
    for begin in range(0, len(starts), BLOCK_FRAMES):
        rows = views[starts[begin : begin + BLOCK_FRAMES]] * window
        rows -= rows.mean(axis=1, keepdims=True)
        energy = np.einsum("ij,ij->i", rows, rows)
        spectra = np.abs(np.asarray(rfft(rows, n_fft, axis=1))[:, :top])
        # Parseval: Σ over bins 0..n/2−1 is half of all bins, the Nyquist bin taken out (bin 0 is 0: no mean)
        alternating = rows @ np.where(np.arange(n_frame) % 2, -1.0, 1.0)
        nyquist = alternating**2 if n_fft % 2 == 0 else 0.0
        norms = np.sqrt(np.maximum((energy * n_fft - nyquist) / 2, 0.0))
        good = norms > 1e-12
        if good.any():
            best, value = np.empty(good.sum()), np.empty(good.sum())
            _best(spectra[good], norms[good], low, high, offset, best, value)
            f0[begin : begin + len(rows)][good] = best
            score[begin : begin + len(rows)][good] = value
    return f0, score


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
    n_frame = round_half_up(0.1 * rate_hz) - 2
    n_frame -= n_frame % 2
    hop = round_half_up(HOP_S * rate_hz)
    starts = np.arange(0, len(signal) - n_frame + 1, hop) if len(signal) >= n_frame else np.zeros(0, dtype=int)
    time_s = (starts + n_frame // 2 + 1) / rate_hz
    if not len(starts):
        empty = np.zeros(0)
        return Pitch(time_s, empty, empty.astype(bool), empty, 0.0)
    residual = lp_residual(
        signal, rate_hz, round_half_up(0.75 * rate_hz / 1000), silent=np.nan if mode == "compat" else 0.0
    )
    offset = 1 if mode == "compat" else 0
    f0, score = _search(residual, starts, n_frame, rate_hz, *F0_RANGE_HZ, offset)
    known = ~np.isnan(score)
    if known.any() and score[known].max() > 0.1:
        median = np.median(f0[known & (score > 0.1)])
        low = max(F0_RANGE_HZ[0], round_half_up(0.5 * median))
        high = min(F0_RANGE_HZ[1], round_half_up(2 * median))
        # a frame whose best F0 lies in the narrowed range keeps it: only the others are searched again
        again = np.flatnonzero(known & ((f0 < low) | (f0 > high)))
        if len(again):
            f0[again], score[again] = _search(residual, starts[again], n_frame, rate_hz, low, high, offset)
    counted = np.where(known, score, 0.0) if mode == "compat" else score[known]
    spread = np.std(counted, ddof=1) if len(counted) > 1 else 0.0
    with np.errstate(invalid="ignore"):
        voiced = score > (0.085 if spread > 0.05 else 0.07)
    if mode != "compat":
        f0[~known], score[~known] = 0.0, 0.0
    median_hz = float(np.median(f0[voiced])) if voiced.any() else 0.0
    return Pitch(time_s, f0, voiced, score, median_hz)
