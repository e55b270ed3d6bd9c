"""How well ``compat`` agrees with recorded COVAREP output, column by column, and how long it takes.

    python -m benchmarks.covarep_agreement --data ../shared/data/covarep

Prints, per column over all recordings: median and worst r (circular for HMPDM), the largest median absolute error, the
worst recording; then CPU seconds per second of audio on this machine.
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np

from extractors.acoustic import COLUMNS


def recordings(folder: Path) -> tuple[np.ndarray, int, np.ndarray]:
    """Samples (N,), rate in Hz and the reference's (T, 74) of one recording."""
    import soundfile

    samples, rate_hz = soundfile.read(folder / f"{folder.name}.wav", dtype="float64", always_2d=True)
    return np.ascontiguousarray(samples[:, 0]), rate_hz, np.load(folder / "covarep.npy")


def circular_r(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two angle sequences as unit vectors about their means."""
    a, b = (np.exp(1j * v) - np.mean(np.exp(1j * v)) for v in (a, b))
    size = np.sqrt(np.sum(np.abs(a) ** 2) * np.sum(np.abs(b) ** 2))
    return float(np.abs(np.sum(a * b.conj())) / size) if size > 1e-9 else float("nan")


def compare(mine: np.ndarray, theirs: np.ndarray) -> dict[str, tuple[float, float]]:
    """Column → (r, median absolute error); r is NaN where either column is constant."""
    found = {}
    for i, name in enumerate(COLUMNS):
        finite = np.isfinite(mine[:, i]) & np.isfinite(theirs[:, i])
        a, b = mine[finite, i], theirs[finite, i]
        difference = a - b
        if name.startswith("HMPDM"):
            r, difference = circular_r(a, b), np.angle(np.exp(1j * difference))
        else:
            varies = len(a) > 2 and a.std() > 1e-12 and b.std() > 1e-12
            r = float(np.corrcoef(a, b)[0, 1]) if varies else float("nan")
        found[name] = (r, float(np.median(np.abs(difference))))
    return found


def agreement(folder: Path) -> dict[str, tuple[float, float]]:
    """:func:`compare` of our ``compat`` matrix with one recording's reference."""
    from extractors.acoustic.covarep import matrix

    samples, rate_hz, reference = recordings(folder)
    return compare(matrix(samples, rate_hz, "compat")[1], reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folders = sorted(path.parent for path in parser.parse_args().data.glob("*/covarep.npy"))
    tables = {folder.name: agreement(folder) for folder in folders}
    print(f"{len(tables)} recordings, {platform.processor() or platform.machine()}, {date.today()}")
    print(f"{'column':10} {'median r':>9} {'worst r':>9} {'median |e|':>11}  worst recording")
    for name in COLUMNS:
        known = {recording: table[name] for recording, table in tables.items() if not np.isnan(table[name][0])}
        if not known:
            print(f"{name:10} constant in every recording")
            continue
        worst = min(known, key=lambda recording: known[recording][0])
        errors = [error for _, error in known.values()]
        middle = np.median([r for r, _ in known.values()])
        print(f"{name:10} {middle:9.5f} {known[worst][0]:9.5f} {max(errors):11.2e}  {worst}")
    from extractors.acoustic.covarep import matrix

    print(f"{'recording':24} {'s':>6} {'CPU s/s':>8}")
    for folder in folders:
        samples, rate_hz, _ = recordings(folder)
        begin = time.process_time()
        matrix(samples, rate_hz, "compat")
        seconds = len(samples) / rate_hz
        print(f"{folder.name:24} {seconds:6.2f} {(time.process_time() - begin) / seconds:8.3f}")


if __name__ == "__main__":
    main()
