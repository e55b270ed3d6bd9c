"""Frames, windows and instants shared by every acoustic measurement.

In: a mono signal (N,) in ±1 and its rate in Hz. Out: windows, frame starts, output instants (1-based samples, as the
reference counts them), and streams interpolated to those instants.

    instants = output_instants(n_samples, rate_hz, "compat")      # (T,) 1-based samples
    column = to_instants(times_s * rate_hz, values, instants)      # (T,), 0 outside the stream
"""

from __future__ import annotations

import numpy as np

HOP_S = 0.010


def round_half_up(value: float) -> int:
    """Round half away from zero for value >= 0 (numpy and Python round half to even)."""
    return int(np.floor(value + 0.5))


def hanning(n: int) -> np.ndarray:
    """Hann window without its zero ends: ½(1 − cos(2πi/(n+1))), i = 1..n. Shape (n,)."""
    return 0.5 * (1.0 - np.cos(2.0 * np.pi * np.arange(1, n + 1) / (n + 1)))


def output_instants(n_samples: int, rate_hz: float, mode: str) -> np.ndarray:
    """Instants of the output rows as 1-based samples, (T,) float64.

    ``compat``: round(.005 fs) : round(.01 fs) : N, which drifts where .01 fs is no integer. ``fixed``: exact row
    middles, as many rows as it takes to cover the file; the last one is moved inside the file.
    """
    if mode == "compat":
        return np.arange(round_half_up(0.005 * rate_hz), n_samples + 1, round_half_up(HOP_S * rate_hz), dtype=float)
    n_rows = int(np.ceil(np.round(n_samples / (HOP_S * rate_hz), 6)))
    return np.minimum((np.arange(n_rows) + 0.5) * HOP_S * rate_hz, float(n_samples))


def to_instants(positions: np.ndarray, values: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """Linear interpolation of (M,) or (M, d) values at increasing positions; 0 outside their range and for NaN."""
    positions = np.asarray(positions, dtype=float)
    values = np.asarray(values, dtype=float)
    out = np.zeros((len(instants), *values.shape[1:]))
    if len(positions) < 2:
        return out
    inside = (instants >= positions[0]) & (instants <= positions[-1])
    where = instants[inside]
    left = np.clip(np.searchsorted(positions, where, side="right") - 1, 0, len(positions) - 2)
    weight = (where - positions[left]) / (positions[left + 1] - positions[left])
    weight = weight.reshape(-1, *([1] * (values.ndim - 1)))
    with np.errstate(invalid="ignore"):  # -inf meets -inf at the edges of digital silence
        out[inside] = np.where(weight == 0.0, values[left], values[left] + weight * (values[left + 1] - values[left]))
    out[np.isnan(out)] = 0.0
    return out
