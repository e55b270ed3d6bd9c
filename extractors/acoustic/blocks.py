"""Long sounds in pieces: the file's samples at the rate of analysis, read block by block with margins.

In: samples (N,) or (N, channels), any float type, also memory-mapped. Out: mono float64 pieces, finite, in ±1.

    sound = Sound(samples, 44100, 16000, centred=True)
    for block in cut(sound.n_samples, 16000): signal = sound.read(block.start, block.stop)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from data.errors import InputError
from extractors.acoustic.frames import HOP_S, round_half_up

BLOCK_S = 60.0
WHOLE_S = 90.0  # up to here a file is one block
MARGIN_S = 2.0  # what a block sees of its neighbours: the zero-phase high-passes ring (after .5 s .3 % are left)
STILL_S = 0.010  # samples that stay the same for so long are digital silence in a centred sound
OFFSET_FRAME_S = 0.1  # pieces that the offset is read from
OFFSET_FLOOR = 1e-8  # −80 dB of the file's power: as quiet as a piece gets
FEW_CHANNELS, MANY_CHANNELS = 8, 64  # up to 8 rows of more than 64 samples are channels


@njit(cache=True)
def _still(samples, least):
    # whether a sample is one of `least` or more equal ones in a row, (N,)
    out = np.zeros(len(samples), dtype=np.bool_)
    begin = 0
    for i in range(1, len(samples) + 1):
        if i == len(samples) or samples[i] != samples[begin]:
            if i - begin >= least:
                out[begin:i] = True
            begin = i
    return out


@njit(cache=True)
def _moments(samples, silent, length):
    # number, mean and variance of the samples that sound in pieces of `length`, (pieces, 3)
    out = np.zeros((-(-len(samples) // length), 3))
    for p in range(len(out)):
        begin, end = p * length, min((p + 1) * length, len(samples))
        count, total, square = 0, 0.0, 0.0
        for i in range(begin, end):
            if not silent[i]:
                count += 1
                total += samples[i]
        if count:
            mean = total / count
            for i in range(begin, end):
                if not silent[i]:
                    square += (samples[i] - mean) ** 2
            out[p, 0], out[p, 1], out[p, 2] = count, mean, square / count
    return out


def _common_offset(moments: np.ndarray, length: int) -> float:
    """Offset of a file from its pieces' :func:`_moments`: their mean, but no farther off the quiet ones than these swing.

    Microphones pass no offset, so a recording's mean is that of the recorder. Generated voices swing more to one side
    than to the other: their mean would give the pauses an offset far above the pauses' own level. Pieces that sound for
    less than half their length, and may be all alike by chance, have no say in that.
    """
    count, mean, variance = moments.T
    if not count.any():
        return 0.0
    plain, power = count @ mean / count.sum(), count @ variance / count.sum()
    judges = count >= length / 2
    if not judges.any() or not 0.0 < power < np.inf:
        return float(plain)
    weight = judges / (variance / power + OFFSET_FLOOR)
    quiet, swing = weight @ mean / weight.sum(), np.sqrt(power / weight.sum())
    return float(np.clip(plain, quiet - swing, quiet + swing))


def _check_shape(shape: tuple[int, ...]) -> None:
    """Raises InputError (bad_audio) unless (N,) or (N, channels)."""
    expected = f"Expected samples of shape (N,) or (N, channels) but got {shape}."
    if len(shape) not in (1, 2) or shape[1:] == (0,):
        raise InputError(expected, code="bad_audio")
    if len(shape) == 2 and shape[0] <= FEW_CHANNELS and shape[1] > MANY_CHANNELS:
        raise InputError(expected, code="bad_audio", remedy="Transpose the array: time is its first dimension.")


class Sound:
    """The first channel of a file, resampled to the rate of analysis (polyphase, Kaiser β = 5) where that differs.

    ``centred``: samples that stay the same for 10 ms are digital silence whatever their value (that of 8-bit files is not
    always 0) and become 0; the offset that all others in the file share is taken off them, for it turns the polarity and
    hides quiet voices. Otherwise samples stay as they are, and zeros are silence.

    Raises InputError (bad_audio) for samples that are not float (N,) or (N, channels).
    """

    def __init__(
        self, samples: np.ndarray, rate_hz: int, analysis_rate_hz: int | None = None, centred: bool = False
    ) -> None:
        samples = np.asanyarray(samples)
        _check_shape(samples.shape)
        if not np.issubdtype(samples.dtype, np.floating):
            raise InputError(
                f"Expected float samples in -1..1 but got {samples.dtype}.",
                code="bad_audio",
                remedy="Divide integer samples by their full scale first.",
            )
        self._samples = samples if samples.ndim == 1 else samples[:, 0]
        self._rate_hz = rate_hz
        self._centred = centred
        self.rate_hz = analysis_rate_hz or rate_hz
        common = math.gcd(self.rate_hz, rate_hz)
        self._up, self._down = self.rate_hz // common, rate_hz // common
        self.n_samples = -(-len(samples) * self._up // self._down)

    def _raw(self, start: int, stop: int) -> np.ndarray:
        piece = np.array(self._samples[start:stop], dtype=np.float64)
        return np.nan_to_num(piece, copy=False, nan=0.0, posinf=0.0, neginf=0.0)

    def _parted(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples of the file and whether they are digital silence, (stop − start,) each."""
        if not self._centred:
            piece = self._raw(start, stop)
            return piece, piece == 0.0
        least = int(STILL_S * self._rate_hz)
        first = max(0, start - least + 1)  # as far as a run of that length can reach out of the piece
        wide = self._raw(first, min(len(self._samples), stop + least - 1))
        inner = slice(start - first, stop - first)
        return wide[inner], _still(wide, least)[inner]

    @cached_property
    def _offset(self) -> float:
        """What the file's samples swing around where they are not digital silence, from one reading of the file."""
        length = round_half_up(OFFSET_FRAME_S * self._rate_hz)
        step = length * round_half_up(BLOCK_S / OFFSET_FRAME_S)
        n_samples = len(self._samples)
        starts = range(0, n_samples, step)
        moments = [_moments(*self._parted(start, min(start + step, n_samples)), length) for start in starts]
        return _common_offset(np.concatenate(moments), length) if moments else 0.0

    def _heard(self, start: int, stop: int) -> np.ndarray:
        """Samples of the file, without offset in a centred sound."""
        if not self._centred:
            return self._raw(start, stop)
        piece, silent = self._parted(start, stop)
        piece -= self._offset
        piece[silent] = 0.0
        return piece

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``start``..``stop`` at the rate of analysis, as resampling the whole file would give them."""
        if self._up == self._down:
            return self._heard(start, stop)
        from scipy.signal import resample_poly

        reach = 10 * max(self._up, self._down) // self._up + 2  # of scipy's filter, in samples of the file
        first = max(0, (start * self._down // self._up - reach) // self._down * self._down)
        last = min(len(self._samples), stop * self._down // self._up + reach)
        piece = np.asarray(resample_poly(self._heard(first, last), self._up, self._down))
        offset = start - first // self._down * self._up
        return piece[offset : offset + stop - start]

    def silent(self, edges_s: np.ndarray) -> np.ndarray:
        """Whether every sample of the file between two successive edges (T + 1,), in seconds, is digital silence: (T,).

        Asked of the file's own samples: resampling leaves ripples in silence.
        """
        edges = np.clip(np.floor(edges_s * self._rate_hz + 0.5).astype(int), 0, len(self._samples))
        silent = np.empty(len(edges) - 1, dtype=bool)
        step = max(1, round(BLOCK_S / HOP_S))
        for begin in range(0, len(silent), step):
            part = edges[begin : begin + step + 1]
            piece, still = self._parted(part[0], part[-1])
            loud = np.concatenate([[0], np.cumsum(~(still | (piece == 0.0)))])
            silent[begin : begin + step] = loud[part[1:] - part[0]] == loud[part[:-1] - part[0]]
        return silent


@dataclass(frozen=True)
class Block:
    """Samples ``start``..``stop`` are read, results for ``first``..``last`` are kept; the cores tile the file."""

    first: int
    last: int
    start: int
    stop: int

    @property
    def core(self) -> slice:
        """The kept samples among those read."""
        return slice(self.first - self.start, self.last - self.start)


def alignment(rate_hz: int) -> int:
    """Samples to a step at which every frame grid begins anew: 5 ms and 10 ms hops here, 10 ms hops at 16 kHz."""
    hops = round_half_up(0.005 * rate_hz), round_half_up(HOP_S * rate_hz)
    return math.lcm(*hops, rate_hz // math.gcd(rate_hz, 100))


def cut(n_samples: int, rate_hz: int, block_s: float = BLOCK_S, whole_s: float = WHOLE_S) -> list[Block]:
    """Blocks of about ``block_s`` whose ends lie on :func:`alignment`; one block for files up to ``whole_s``."""
    if n_samples <= whole_s * rate_hz:
        return [Block(0, n_samples, 0, n_samples)]
    unit = alignment(rate_hz)
    length, margin = (unit * math.ceil(seconds * rate_hz / unit) for seconds in (block_s, MARGIN_S))
    blocks = []
    for first in range(0, n_samples, length):
        last = min(first + length, n_samples)
        if n_samples - last < margin:  # no crumbs
            last = n_samples
        blocks.append(Block(first, last, max(0, first - margin), min(last + margin, n_samples)))
        if last == n_samples:
            break
    return blocks
