"""Long sounds in pieces: the file's samples at the rate of analysis, read block by block with margins.

In: samples (N,) or (N, channels), any float type, also memory-mapped. Out: mono float64 pieces, finite, in ±1.

    sound = Sound(samples, 44100, 16000)
    for block in cut(sound.n_samples, 16000): signal = sound.read(block.start, block.stop)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from extractors.acoustic.frames import HOP_S, round_half_up

BLOCK_S = 60.0
WHOLE_S = 90.0  # up to here a file is one block
MARGIN_S = 2.0  # what a block sees of its neighbours: the zero-phase high-passes ring (after .5 s .3 % are left)


class Sound:
    """The first channel of a file, resampled to the rate of analysis (polyphase, Kaiser β = 5) where that differs.

    Raises InputError (bad_audio) for samples that are not float (N,) or (N, channels).
    """

    def __init__(self, samples: np.ndarray, rate_hz: int, analysis_rate_hz: int | None = None) -> None:
        samples = np.asanyarray(samples)
        if samples.ndim not in (1, 2):
            raise InputError(
                f"Expected samples of shape (N,) or (N, channels) but got {samples.shape}.", code="bad_audio"
            )
        if not np.issubdtype(samples.dtype, np.floating):
            raise InputError(
                f"Expected float samples in -1..1 but got {samples.dtype}.",
                code="bad_audio",
                remedy="Divide integer samples by their full scale first.",
            )
        self._samples = samples if samples.ndim == 1 else samples[:, 0]
        self._rate_hz = rate_hz
        self.rate_hz = analysis_rate_hz or rate_hz
        common = math.gcd(self.rate_hz, rate_hz)
        self._up, self._down = self.rate_hz // common, rate_hz // common
        self.n_samples = -(-len(samples) * self._up // self._down)

    def _raw(self, start: int, stop: int) -> np.ndarray:
        piece = np.array(self._samples[start:stop], dtype=np.float64)
        return np.nan_to_num(piece, copy=False, nan=0.0, posinf=0.0, neginf=0.0)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``start``..``stop`` at the rate of analysis, as resampling the whole file would give them."""
        if self._up == self._down:
            return self._raw(start, stop)
        from scipy.signal import resample_poly

        reach = 10 * max(self._up, self._down) // self._up + 2  # of scipy's filter, in samples of the file
        first = max(0, (start * self._down // self._up - reach) // self._down * self._down)
        last = min(len(self._samples), stop * self._down // self._up + reach)
        piece = np.asarray(resample_poly(self._raw(first, last), self._up, self._down))
        offset = start - first // self._down * self._up
        return piece[offset : offset + stop - start]

    def silent(self, edges_s: np.ndarray) -> np.ndarray:
        """Whether every sample of the file between two successive edges (T + 1,), in seconds, is digital zero: (T,).

        Asked of the file's own samples: resampling leaves ripples in silence.
        """
        edges = np.clip(np.floor(edges_s * self._rate_hz + 0.5).astype(int), 0, len(self._samples))
        silent = np.empty(len(edges) - 1, dtype=bool)
        step = max(1, round(BLOCK_S / HOP_S))
        for begin in range(0, len(silent), step):
            part = edges[begin : begin + step + 1]
            loud = np.concatenate([[0], np.cumsum(self._raw(part[0], part[-1]) != 0.0)])
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
