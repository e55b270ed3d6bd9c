"""Normalisation of features: per-column mean and standard deviation over observed steps, measured once, kept for ever.

In: feature rows (L, d) with their validity (L,), and where a column may be undefined, (L, d). Out: (value − mean) / std,
clipped to ±``clip`` standard deviations, where valid and defined; 0 elsewhere, which is the column's mean. Statistics are
float32, measured in float64, one pass, constant memory.

    normalization = Normalization.measure(train_samples)         # one pass over the training set
    samples = [normalization.apply_to(sample) for sample in samples]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from data.spec import MODALITIES, Modality

if TYPE_CHECKING:
    from data.batches import Sample

CLIP_STD = 5.0
DEAD_RELATIVE_STD = 1e-6  # below this share of its mean a float32 column is constant but for rounding


class RunningMoments:
    """Mean and standard deviation of columns, over chunks (Chan, Golub & LeVeque's pairwise update, float64)."""

    def __init__(self) -> None:
        self.n = np.zeros(0)
        self.mean = np.zeros(0)
        self._squares = np.zeros(0)

    def update(self, values: np.ndarray, valid: np.ndarray, defined: np.ndarray | None = None) -> None:
        """Add the valid rows of ``values`` (L, d), of each column only where it is ``defined`` (L, d)."""
        if not self.n.any() and len(self.mean) != values.shape[1]:
            self.n, self.mean, self._squares = np.zeros((3, values.shape[1]))
        if values.shape[1] != len(self.mean):
            raise ValueError(f"Expected {len(self.mean)} columns but got {values.shape[1]}")
        rows = values[valid].astype(np.float64)
        known = np.ones(rows.shape, bool) if defined is None else defined[valid]
        count = known.sum(axis=0)
        mean = np.where(known, rows, 0.0).sum(axis=0) / np.maximum(count, 1)
        delta, total = mean - self.mean, self.n + count
        share = count / np.maximum(total, 1)
        self._squares += (np.where(known, rows - mean, 0.0) ** 2).sum(axis=0) + delta**2 * self.n * share
        self.mean = self.mean + delta * share
        self.n = total

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation, (d,)."""
        return np.sqrt(self._squares / np.maximum(self.n, 1))


@dataclass(frozen=True, eq=False)
class Normalization:
    """``mean[m]`` and ``std[m]`` float32 [shape=(d_m,)], std > 0; ``clip`` in standard deviations, or None."""

    mean: dict[Modality, np.ndarray]
    std: dict[Modality, np.ndarray]
    clip: float | None = CLIP_STD

    def __post_init__(self) -> None:
        for name in MODALITIES:
            mean, std = self.mean[name], self.std[name]
            if mean.shape != std.shape or mean.ndim != 1:
                raise ValueError(f"Expected {name} mean and std of one shape (d,) but got {mean.shape} and {std.shape}")
            if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
                raise ValueError(f"Expected finite {name} statistics with std > 0")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Expected clip > 0 or None but got {self.clip}")

    @classmethod
    def measure(cls, samples: Iterable[Sample], clip: float | None = CLIP_STD) -> Normalization:
        """Statistics over the valid steps of all samples, in one pass.

        A dead column (constant, or of a modality that nobody has) gets std 1, so that it maps to 0 instead of being
        blown up. Raises ValueError without any sample.
        """
        moments = {name: RunningMoments() for name in MODALITIES}
        for sample in samples:
            for name in MODALITIES:
                moments[name].update(sample.values[name], sample.valid[name], sample.defined.get(name))
        if not len(moments["text"].mean):
            raise ValueError("Expected at least one sample to measure but got none")
        mean, std = {}, {}
        for name, found in moments.items():
            dead = found.std <= DEAD_RELATIVE_STD * np.abs(found.mean) + np.finfo(np.float32).tiny
            mean[name] = found.mean.astype(np.float32)
            std[name] = np.where(dead, 1.0, found.std).astype(np.float32)
        return cls(mean, std, clip)

    @classmethod
    def identity(cls, dims: tuple[int, int, int]) -> Normalization:
        """Leaves values as they are."""
        return cls(
            {name: np.zeros(dim, np.float32) for name, dim in zip(MODALITIES, dims, strict=True)},
            {name: np.ones(dim, np.float32) for name, dim in zip(MODALITIES, dims, strict=True)},
            None,
        )

    def apply(
        self, modality: Modality, values: np.ndarray, valid: np.ndarray, defined: np.ndarray | None = None
    ) -> np.ndarray:
        """Normalised ``values`` float32 [shape=(L, d)], 0 where not ``valid`` (L,) or not ``defined`` (L, d)."""
        scaled = (values - self.mean[modality]) / self.std[modality]
        if self.clip is not None:
            np.clip(scaled, -self.clip, self.clip, out=scaled)
        scaled[~valid] = 0.0
        if defined is not None:
            scaled[~defined] = 0.0
        return scaled.astype(np.float32, copy=False)

    def apply_to(self, sample: Sample) -> Sample:
        """The sample with all three modalities normalised."""
        values = {
            name: self.apply(name, sample.values[name], sample.valid[name], sample.defined.get(name))
            for name in MODALITIES
        }
        return replace(sample, values=values)
