"""Columns of spread: how fast each feature column changes, and how far it is from the clip's own mean.

In: a :class:`data.batches.Sample` of whole, untruncated tracks, not yet normalised, and per modality n steps; 0 leaves a
modality as it is. Out: the sample with 3·d columns for each d: the column x, |x(t + n) − x(t − n)|, and |x(t) − mean(x)|, the
mean over the clip's steps where x is defined. A model that averages steps (``pooling``) forgets both; absolute values, so
that averaging does not cancel them. Units are the column's own. No step's own time counts: n steps at 100 Hz are n/100 s.

    sample = with_spread(sample, (0, 3, 0))                      # voice: 74 columns become 222, change over ± 30 ms
    dims = widened_dims((50, 74, 35), (0, 3, 0))                 # (50, 222, 35)
    per_column = to_source(attribution, 74)                      # (..., 222) to (..., 74)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.batches import Sample
from data.spec import MODALITIES

Steps = tuple[int, int, int]
NO_SPREAD: Steps = (0, 0, 0)
PARTS = 3  # the column, its change, its distance from the mean


def widened_dims(dims: tuple[int, int, int], spread_steps: Steps) -> tuple[int, int, int]:
    """Columns of text, audio and visual after :func:`with_spread`."""
    text, audio, visual = (dim * PARTS if n else dim for dim, n in zip(dims, spread_steps, strict=True))
    return text, audio, visual


def with_spread(sample: Sample, spread_steps: Steps) -> Sample:
    """The sample with columns of spread for each modality whose number of steps is not 0; the same object if all are."""
    if not any(spread_steps):
        return sample
    values, defined = dict(sample.values), dict(sample.defined)
    for name, n_steps in zip(MODALITIES, spread_steps, strict=True):
        if n_steps:
            values[name], defined[name] = spread(
                sample.values[name], sample.valid[name], sample.defined.get(name), n_steps
            )
    return replace(sample, values=values, defined=defined)


def spread(
    values: np.ndarray, valid: np.ndarray, defined: np.ndarray | None, n_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Values float32 and where they are defined, bool, both [shape=(L, 3·d)], of ``values`` (L, d) and ``valid`` (L,).

    A change is defined where the column is at both ends and the step between them is valid. Undefined values are 0.
    """
    known = np.broadcast_to(valid[:, None], values.shape) if defined is None else defined & valid[:, None]
    x = np.where(known, values, 0).astype(np.float32, copy=False)
    change, changed = np.zeros_like(x), np.zeros(x.shape, bool)
    if len(x) > 2 * n_steps:
        middle, before, after = slice(n_steps, -n_steps), slice(0, -2 * n_steps), slice(2 * n_steps, None)
        changed[middle] = known[after] & known[before] & valid[middle, None]
        change[middle] = np.abs(x[after] - x[before])
        change[~changed] = 0.0
    mean = x.sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)
    distance = np.where(known, np.abs(x - mean), 0).astype(np.float32)
    return np.concatenate([x, change, distance], axis=1), np.concatenate([known, changed, known], axis=1)


def to_source(amounts: np.ndarray, n_columns: int) -> np.ndarray:
    """What belongs to derived columns added to that of their source: (..., n_columns or 3·n_columns) to (..., n_columns).

    Raises ValueError for another number of columns.
    """
    width = amounts.shape[-1]
    if width == n_columns:
        return amounts
    if width != PARTS * n_columns:
        raise ValueError(f"Expected {n_columns} or {PARTS * n_columns} columns but got {width}")
    return amounts.reshape(*amounts.shape[:-1], PARTS, n_columns).sum(axis=-2)
