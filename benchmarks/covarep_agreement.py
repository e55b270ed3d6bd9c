"""How well ``compat`` agrees with recorded COVAREP output, column by column, and how long it takes.

    python -m benchmarks.covarep_agreement --data ../shared/data/covarep             # the recordings of many rates
    python -m benchmarks.covarep_agreement --data ../shared/data/covarep --clips 332 # clips of ../shared/data/ravdess

Prints, per column over all recordings: median and worst r (circular for HMPDM), the largest error, the largest share of
rows in which one of the two is infinite and the other not, the worst recording; then CPU seconds per second of audio.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extractors.acoustic import COLUMNS

CONSTANT = 1e-12  # a column whose standard deviation is below it (angles: whose unit vectors lie as close) is constant


class Agreement(NamedTuple):
    """One column of one recording against the reference.

    ``r`` : correlation; 0 where only ours is constant, NaN where the reference is (then the error alone speaks).
    ``error`` : median absolute difference in the column's unit where both are finite; the largest one where the reference
    is constant, so that no row of ours may stray; infinite where no row is finite in both. ``infinite`` : share of rows
    in which the two are not the same of finite, −inf, +inf and NaN.
    """

    r: float
    error: float
    infinite: float


class Recording(NamedTuple):
    """Samples (N,), rate in Hz and the reference's (T, 74)."""

    samples: np.ndarray
    rate_hz: int
    reference: np.ndarray


def recordings(folder: Path) -> Recording:
    """The recording that a folder holds."""
    return Recording(*_sound(folder / f"{folder.name}.wav"), np.load(folder / "covarep.npy"))


def clips(data: Path, n_clips: int) -> Iterator[tuple[str, Recording]]:
    """``n_clips`` of the RAVDESS clips with recorded output, spread evenly over actors and emotions, always the same."""
    with np.load(data / "ravdess_creak.npz") as stored:
        names = sorted(stored.files)
        for i in np.linspace(0, len(names) - 1, n_clips).round().astype(int):
            sound = _sound(data.parent / "ravdess" / f"{names[i]}.flac")
            yield names[i], Recording(*sound, stored[names[i]].astype(np.float64))


def _sound(path: Path) -> tuple[np.ndarray, int]:
    import soundfile

    samples, rate_hz = soundfile.read(path, dtype="float64", always_2d=True)
    return np.ascontiguousarray(samples[:, 0]), rate_hz


def _centred(values: np.ndarray, angles: bool) -> np.ndarray:
    """Values, or the unit vectors of angles, minus their mean."""
    values = np.exp(1j * values) if angles else values
    return values - np.mean(values)


def agreement_of(mine: np.ndarray, theirs: np.ndarray, angles: bool = False) -> Agreement:
    """One column (T,) of ours against the reference's (T,)."""
    kinds = [np.select([np.isnan(v), np.isposinf(v), np.isneginf(v)], [1, 2, 3]) for v in (mine, theirs)]
    finite = np.isfinite(mine) & np.isfinite(theirs)
    infinite = float(np.mean(kinds[0] != kinds[1]))
    if not finite.any():
        return Agreement(float("nan"), float("inf"), infinite)
    a, b = mine[finite], theirs[finite]
    apart = np.abs(np.angle(np.exp(1j * (a - b))) if angles else a - b)
    a, b = _centred(a, angles), _centred(b, angles)
    size_a, size_b = (np.sqrt(np.mean(np.abs(v) ** 2)) for v in (a, b))
    if size_b <= CONSTANT:
        return Agreement(float("nan"), float(apart.max()), infinite)
    product = np.mean(a * b.conj())
    r = (abs(product) if angles else product) / (size_a * size_b) if size_a > CONSTANT else 0.0
    return Agreement(float(r), float(np.median(apart)), infinite)


def agreement(recording: Recording) -> dict[str, Agreement]:
    """Column → :func:`agreement_of` our ``compat`` matrix with one recording's reference."""
    from extractors.acoustic.covarep import matrix

    mine, theirs = matrix(recording.samples, recording.rate_hz, "compat")[1], recording.reference
    if mine.shape != theirs.shape:
        raise ValueError(f"Expected the reference's shape {theirs.shape} but got {mine.shape}")
    return {name: agreement_of(mine[:, i], theirs[:, i], name.startswith("HMPDM")) for i, name in enumerate(COLUMNS)}


def _print_columns(tables: dict[str, dict[str, Agreement]]) -> None:
    print(f"{len(tables)} recordings, {platform.processor() or platform.machine()}, {date.today()}")
    print(f"{'column':10} {'median r':>9} {'worst r':>9} {'largest |e|':>11} {'infinite':>9}  worst recording")
    for name in COLUMNS:
        found = {recording: table[name] for recording, table in tables.items()}
        error, infinite = (max(one[field] for one in found.values()) for field in (1, 2))
        known = {recording: one.r for recording, one in found.items() if not np.isnan(one.r)}
        worst = min(known, key=lambda recording: known[recording]) if known else "constant in all"
        middle = np.median(list(known.values())) if known else float("nan")
        lowest = known.get(worst, float("nan"))
        print(f"{name:10} {middle:9.5f} {lowest:9.5f} {error:11.2e} {infinite:9.4f}  {worst}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=0, help="so many RAVDESS clips instead of the recordings")
    options = parser.parse_args()
    folders = sorted(path.parent for path in options.data.glob("*/covarep.npy"))
    cases = clips(options.data, options.clips) if options.clips else ((f.name, recordings(f)) for f in folders)
    tables, costs = {}, {}
    for name, recording in cases:
        begin = time.process_time()
        tables[name] = agreement(recording)
        seconds = len(recording.samples) / recording.rate_hz
        costs[name] = seconds, (time.process_time() - begin) / seconds
    _print_columns(tables)
    print(f"{'recording':24} {'s':>6} {'CPU s/s':>8}")
    for name, (seconds, cost) in costs.items():
        print(f"{name:24} {seconds:6.2f} {cost:8.3f}")


if __name__ == "__main__":
    main()
