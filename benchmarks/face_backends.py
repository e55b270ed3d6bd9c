"""The face backends beside each other on media that packages ship: correlation per column, and what a frame costs.

    python -m benchmarks.face_backends [--weights FOLDER] [--backends mediapipe py-feat py-feat-v2] [--media FILE ...]
    python -m benchmarks.face_backends --random            # no py-feat weights at hand: its speed alone

Correlations (Pearson's r, over the frames in which both backends see the followed face) are of the first backend with each
other one, per column and over all media together, where at least MIN_FRAMES frames count and neither column is constant.

What a frame costs is measured on one frame with one face, shown again and again, so that every backend does the same work; the
process is warm. CPU time of this process and of py-feat's together: other load on the machine lengthens wall time more.
With ``--random`` py-feat runs on random weights of the right shapes, fitted to find that face: the work is the same, the
columns mean nothing, and no correlations are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import numpy as np  # noqa: E402
import psutil  # noqa: E402

from data.track import FeatureTrack  # noqa: E402
from extractors.facial import COLUMNS, FaceSettings, Frame, check_backend, extract_faces, pyfeat_process  # noqa: E402
from extractors.media import probe, read_frames  # noqa: E402
from extractors.package_media import package_media  # noqa: E402

CLIPS = ("WolfgangLanger_Pexels.mp4", "single_face.mp4", "face_noface.mov", "noface_face.mov")
SPEED_CLIP = "single_face.mp4"
MIN_FRAMES = 20
BUILDER = Path(__file__).parents[1] / "tests" / "fake_pyfeat_weights.py"


@dataclass(frozen=True)
class Cost:
    """What a backend took: seconds to start (first two frames), then per frame, wall and CPU; share of frames with a face."""

    backend: str
    start_s: float
    wall_s: float
    cpu_s: float
    seen: float


def correlations(pairs: Sequence[tuple[FeatureTrack, FeatureTrack]]) -> tuple[dict[str, float | None], int]:
    """Pearson's r per column over all frames of all pairs in which both tracks are valid, and how many these are.

    A column has None where it is constant or fewer than MIN_FRAMES frames count.
    """
    both = [(a.valid & b.valid, a, b) for a, b in pairs]
    first = np.concatenate([a.values[valid] for valid, a, _ in both]).astype(np.float64)
    second = np.concatenate([b.values[valid] for valid, _, b in both]).astype(np.float64)
    found: dict[str, float | None] = {}
    for i, name in enumerate(COLUMNS):
        enough = len(first) >= MIN_FRAMES and first[:, i].std() > 1e-6 and second[:, i].std() > 1e-6
        found[name] = float(np.corrcoef(first[:, i], second[:, i])[0, 1]) if enough else None
    return found, len(first)


def cpu_s() -> float:
    """CPU seconds of this process and of those it started, now."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def cost(settings: FaceSettings, frame: np.ndarray, n_frames: int) -> Cost:
    """What ``n_frames`` frames like this one cost, after two to start with."""

    def still(n: int) -> list[Frame]:
        return [Frame(i, i / 25, (i + 1) / 25, frame) for i in range(n)]

    started = time.perf_counter()
    extract_faces(still(2), settings)
    start_s = time.perf_counter() - started
    used, started = cpu_s(), time.perf_counter()
    track = extract_faces(still(n_frames), settings).track
    wall_s = time.perf_counter() - started
    return Cost(settings.backend, start_s, wall_s / n_frames, (cpu_s() - used) / n_frames, float(track.valid.mean()))


def track_of(path: Path, settings: FaceSettings, rate_hz: float, max_frames: int) -> FeatureTrack:
    frames = read_frames(probe(path), max_rate_hz=rate_hz)
    return extract_faces(islice(frames, max_frames), settings).track


def random_weights(folder: Path, frame: np.ndarray) -> Path:
    """Random py-feat weights that find the one face that MediaPipe finds in the frame."""
    import cv2

    track = extract_faces([Frame(i, i / 25, (i + 1) / 25, frame) for i in range(2)], FaceSettings()).track
    x, y, width, height = track.values[0, COLUMNS.index("FaceRectX") : COLUMNS.index("FaceScore")]
    picture = folder / "frame.png"
    cv2.imwrite(str(picture), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    centre = (round((x + width / 2) * frame.shape[1]), round((y + height / 2) * frame.shape[0]))
    command = [pyfeat_process.python(), "-W", "ignore", "-I", str(BUILDER), str(pyfeat_process.SCRIPT)]
    subprocess.run([*command, str(folder / "weights"), str(picture), *map(str, centre)], check=True, timeout=900)
    return folder / "weights"


def report_costs(costs: Sequence[Cost], size: tuple[int, int]) -> list[str]:
    lines = [
        f"One face in {size[1]} × {size[0]} px:",
        "",
        "| backend | frames/s | CPU ms a frame | × the first | faces found | start s |",
        "|---|---|---|---|---|---|",
    ]
    for one in costs:
        lines.append(
            f"| {one.backend} | {1 / one.wall_s:.1f} | {1000 * one.cpu_s:.0f} | {one.cpu_s / costs[0].cpu_s:.1f} | "
            f"{one.seen:.0%} | {one.start_s:.1f} |"
        )
    return lines


def report_correlations(first: str, found: dict[str, tuple[dict[str, float | None], int]]) -> list[str]:
    names = list(found)
    heads = [f"r of {first} with {name} ({found[name][1]} frames)" for name in names]
    lines = ["| column | " + " | ".join(heads) + " |", "|---" * (1 + len(names)) + "|"]
    for column in COLUMNS:
        values = [found[name][0][column] for name in names]
        lines.append(f"| {column} | " + " | ".join("–" if r is None else f"{r:.2f}" for r in values) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["mediapipe", "py-feat", "py-feat-v2"], metavar="NAME")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="py-feat's weights, if not where LAMB looks")
    parser.add_argument("--random", action="store_true", help="random py-feat weights: speed alone")
    parser.add_argument("--media", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--rate", type=float, default=5.0, help="frames a second for the correlations")
    parser.add_argument("--max-frames", type=int, default=500, help="per clip, for the correlations")
    parser.add_argument("--speed-frames", type=int, default=48)
    arguments = parser.parse_args()
    media = package_media("py-feat")
    frame = next(iter(read_frames(probe(media / SPEED_CLIP)))).rgb
    with tempfile.TemporaryDirectory(prefix="lamb-faces-") as scratch:
        folder = random_weights(Path(scratch), frame) if arguments.random else arguments.weights
        settings = [FaceSettings(backend=name, pyfeat_path=folder) for name in arguments.backends]
        for one in settings:
            check_backend(one)
        print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, one thread a library")
        costs = [cost(one, frame, arguments.speed_frames) for one in settings]
        print("\n".join(["", *report_costs(costs, (frame.shape[0], frame.shape[1])), ""]))
        if arguments.random:
            print("Random weights: columns are not compared.")
            return
        clips = arguments.media or [media / name for name in CLIPS]
        tracks = [[track_of(clip, one, arguments.rate, arguments.max_frames) for clip in clips] for one in settings]
        found = {
            one.backend: correlations(list(zip(tracks[0], theirs, strict=True)))
            for one, theirs in zip(settings[1:], tracks[1:], strict=True)
        }
        print("\n".join(report_correlations(settings[0].backend, found)))


if __name__ == "__main__":
    main()
