"""CPU seconds per second of sound that the acoustic columns cost, stage by stage, and what compiling costs once.

    python -m benchmarks.covarep_speed [--data ../shared/data/covarep] [--long-s 10800]

Without recordings (16 kHz ones are used) it measures a generated voice. One thread. Compiling is measured apart, in two
fresh processes with an empty cache folder: the first compiles, the second loads. ``--long-s`` adds a long file and prints
the peak memory of the process that reads it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import numpy as np  # noqa: E402

RATE_HZ = 16000
REPEATS = 3
STAGES = {
    "polarity": ("polarity_sums",),
    "residual": ("raw_residual",),
    "pitch": ("pitch_residual", "search", "decide"),
    "closures": ("mean_based_signal", "turning_points", "relative_positions", "closures_at"),
    "inverse filter": ("inverse_filter",),
    "voice quality": ("voice_quality",),
    "MDQ": ("maxima_dispersion",),
    "peakSlope": ("peak_slope",),
    "creak": ("creak_features", "creak_posterior"),
    "Rd": ("estimate_rd",),
    "harmonics, MCEP": ("harmonics_and_cepstra",),
    "HMPD": ("phase_distortion",),
}
FIRST_RUN = """
import time, numpy as np
from extractors.acoustic import covarep_features
t = time.process_time()
covarep_features(np.sin(np.arange(16000) * 0.05) * 0.1, 16000)
print(time.process_time() - t)
"""
LONG_RUN = """
import resource, sys, numpy as np
from extractors.acoustic import covarep_features
samples = np.memmap(sys.argv[1], np.float32, "r")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
track = covarep_features(samples, 16000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, before / 1024, len(track))
"""


def sounds(data: Path | None) -> list[np.ndarray]:
    """Mono recordings at 16 kHz, or one generated voice of 20 s."""
    if data is None:
        from tests.acoustic_signals import voice

        return [np.concatenate([voice(f0, 5.0, rd=rd) for f0, rd in ((110, 0.8), (150, 1.2), (210, 1.6), (260, 2.2))])]
    import soundfile

    found = [soundfile.read(path, dtype="float64", always_2d=True) for path in sorted(data.glob("*/*.wav"))]
    return [samples[:, 0] for samples, rate_hz in found if rate_hz == RATE_HZ]


def measure(recordings: list[np.ndarray], mode: str) -> Counter[str]:
    """CPU seconds per second of sound by stage, and "total"; the least of several runs."""
    import extractors.acoustic.covarep as covarep

    spent: Counter[str] = Counter()

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            begin = time.process_time()
            result = function(*arguments, **options)
            spent[stage] += time.process_time() - begin  # type: ignore[assignment]
            return result

        return wrapper

    kept = {name: getattr(covarep, name) for names in STAGES.values() for name in names}
    best: Counter[str] = Counter()
    try:
        for stage, names in STAGES.items():
            for name in names:
                setattr(covarep, name, timed(stage, kept[name]))
        for _ in range(REPEATS):
            spent.clear()
            begin = time.process_time()
            for samples in recordings:
                covarep.extract(samples, RATE_HZ, mode)
            spent["total"] = time.process_time() - begin  # type: ignore[assignment]
            if not best or spent["total"] < best["total"]:
                best = Counter(spent)
    finally:
        for name, function in kept.items():
            setattr(covarep, name, function)
    seconds = sum(map(len, recordings)) / RATE_HZ
    return Counter({stage: value / seconds for stage, value in best.items()})  # type: ignore[arg-type]


def compiling() -> tuple[float, float]:
    """CPU seconds of the first call in a process with an empty cache of compiled code, and of a second process's."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        runs = [
            subprocess.run(
                [sys.executable, "-c", FIRST_RUN], env=environment, capture_output=True, text=True, check=True
            )
            for _ in range(2)
        ]
    first, second = (float(run.stdout) for run in runs)
    return first, second


def long_file(recordings: list[np.ndarray], seconds: float) -> str:
    """Peak memory (MB) and wall time of a process that measures a file of this length."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.f32"
        left = int(seconds * RATE_HZ)
        with path.open("wb") as stream:
            while left > 0:
                for samples in recordings:
                    piece = samples[:left].astype(np.float32)
                    stream.write(piece.tobytes())
                    left -= len(piece)
        begin = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-c", LONG_RUN, str(path)], capture_output=True, text=True, check=True, timeout=6 * 3600
        )
        peak, before, rows = map(float, run.stdout.split())
    wall = time.monotonic() - begin
    return (
        f"{seconds / 60:.0f} minutes: {wall:.0f} s, {seconds / wall:.1f}x real time; peak memory {peak:.0f} MB, of which "
        f"{before:.0f} MB before the first sample and {rows * 74 * 5 / 2**20:.0f} MB are the result"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--long-s", type=float)
    arguments = parser.parse_args()
    recordings = sounds(arguments.data)
    measure(recordings, "fixed")  # compiled code is loaded now
    tables = {mode: measure(recordings, mode) for mode in ("fixed", "compat")}
    print(
        f"{sum(map(len, recordings)) / RATE_HZ:.0f} s of sound in {len(recordings)} files, one thread, "
        f"{platform.processor() or platform.machine()}, {date.today()}"
    )
    print(f"{'CPU s per s of sound':22}" + "".join(f"{mode:>9}" for mode in tables))
    for stage in (*STAGES, "total"):
        print(f"{stage:22}" + "".join(f"{table[stage]:9.4f}" for table in tables.values()))
    print(f"{'times real time':22}" + "".join(f"{1 / table['total']:8.1f}x" for table in tables.values()))
    first, second = compiling()
    print(f"first call of a process: {first:.1f} s with nothing compiled yet, {second:.1f} s with compiled code cached")
    if arguments.long_s:
        print(long_file(recordings, arguments.long_s))


if __name__ == "__main__":
    main()
