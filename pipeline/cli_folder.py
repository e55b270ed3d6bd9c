"""`lamb label FOLDER`, and what `lamb extract` does with a folder. Heavy libraries come late, as in ``cli``."""

from __future__ import annotations

import os
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.cli_options import OK, SOME_FAILED, Quiet, pipeline_settings, with_pipeline_options

if TYPE_CHECKING:
    from pipeline.settings import PipelineSettings

Folder = Annotated[
    str, typer.Argument(metavar="FOLDER", help="A folder of videos, with all folders in it; with --cluster also a URL.")
]
FolderOutput = Annotated[
    str, typer.Option("--output", "-o", metavar="DIR", help="Where results go; the same again to go on.")
]
Checkpoint = Annotated[Path | None, typer.Option(metavar="PATH", help="A LAMB checkpoint; default: the starter.")]
Workers = Annotated[int | None, typer.Option(min=1, max=1024, help="Processes; default: one per core and 3 GB.")]
Watch = Annotated[bool, typer.Option("--watch", help="Keep labelling what arrives, until Ctrl-C.")]
Interval = Annotated[float, typer.Option(metavar="S", min=0.1, help="With --watch: seconds between two looks.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try again what can never work for these bytes.")]
Keep = Annotated[bool, typer.Option("--keep/--no-keep", help="Keep stage results, for other settings later.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Enter folders that are links.")]
JsonLog = Annotated[Path | None, typer.Option(metavar="FILE", help="Append events as JSON lines.")]
TimeLimit = Annotated[
    float, typer.Option(metavar="S", min=1, help="Seconds a file may take, and 30 more per second of video.")
]
MemoryLimit = Annotated[
    float | None, typer.Option(metavar="GB", min=0.1, help="Memory that one worker may take; default 3, py-feat 5.")
]
ClusterAddress = Annotated[
    str | None,
    typer.Option("--cluster", metavar="ADDRESS", help="Run on Ray: auto (this machine's cluster), local or host:port."),
]
StageNeeds = Annotated[
    list[str] | None,
    typer.Option("--needs", metavar="STAGE=CPUS[,GPUS[,GB]]", help="With --cluster: what a stage takes; repeatable."),
]


class Product(StrEnum):
    labels = "labels"
    features = "features"


def add_folder_commands(app: typer.Typer) -> None:
    """Add `label` to the application."""
    app.command()(with_pipeline_options(label))


def label(
    folder: Folder,
    options: dict[str, Any],
    output: FolderOutput,
    checkpoint: Checkpoint = None,
    workers: Workers = None,
    watch: Watch = False,
    interval: Interval = 5.0,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    keep: Keep = True,
    follow_links: FollowLinks = False,
    json_log: JsonLog = None,
    time_limit: TimeLimit = 300.0,
    memory_limit: MemoryLimit = None,
    cluster: ClusterAddress = None,
    needs: StageNeeds = None,
    quiet: Quiet = False,
) -> None:
    """Label every video of a folder; the same command again goes on where it was stopped.

    Several processes, also on several machines, may share FOLDER and DIR.

    Example: lamb label videos/ --output results/ --workers 4
    """
    from pipeline.folder import usual_limits

    settings = pipeline_settings(options)
    limits = usual_limits(settings)
    if memory_limit is not None:
        limits["memory_limit"] = int(memory_limit * 1e9)
    common: dict[str, Any] = {
        "checkpoint": checkpoint,
        "workers": workers,
        "dry_run": dry_run,
        "quiet": quiet,
        "log": json_log,
        "retry_failed": retry_failed,
        "keep": keep,
        "follow_links": follow_links,
        "time_limit_s": time_limit,
        **limits,
    }
    if cluster is not None:
        from pipeline.cli_cluster import run_on_cluster

        if watch:
            raise typer.BadParameter("--watch does not go with --cluster.")
        raise typer.Exit(run_on_cluster(cluster, folder, output, settings, needs=needs or (), **common))
    watch_s = interval if watch else None
    raise typer.Exit(run_folder(Path(folder), settings, Path(output), product="labels", watch_s=watch_s, **common))


def run_folder(
    folder: Path,
    settings: PipelineSettings,
    output: Path,
    *,
    product: Literal["labels", "features"],
    checkpoint: Path | None = None,
    only: Any = None,
    tables: bool = False,
    workers: int | None = None,
    watch_s: float | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    log: Path | None = None,
    **limits: Any,
) -> int:
    """Plan, work, and the table at the end; returns the exit status. Raises LambError where nothing can start."""
    from pipeline.discovery import find_media
    from pipeline.folder import SETTLED_S, FolderOptions, FolderRun, usual_limits
    from pipeline.folder_report import log_end, plan_lines, print_outcomes, progress, survey_run
    from pipeline.predict import Predictor, load_checkpoint
    from pipeline.stages import Plan
    from pipeline.video import Extractors

    if not folder.is_dir():
        find_media(folder)  # says what is wrong, before anything is loaded or made
    extractors = Extractors(settings)
    extractors.prepare(only)
    about, fingerprint = None, ""
    if product == "labels":
        loaded = load_checkpoint(checkpoint, "cpu")
        about, fingerprint = Predictor(loaded, extractors).checkpoint_record(), loaded.fingerprint()
    start = {
        "output": os.fspath(output.absolute()),
        "settings": settings.model_dump(mode="json"),
        "product": product,
        "checkpoint": os.fspath(checkpoint.absolute()) if checkpoint else None,
        "fingerprint": fingerprint,
        "only": only,
        "tables": tables,
    }
    gpu = settings.compute_device == "cuda"
    limits = usual_limits(settings) | limits
    options = FolderOptions(folder, output, n_workers=workers or default_workers(settings), gpu=gpu, **limits)
    run = FolderRun(options, Plan(extractors, product, fingerprint, only, tables), start, about)
    signal.signal(signal.SIGTERM, _interrupt)
    say = (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr, flush=True))

    first = True
    try:
        while True:
            done = run.scan(SETTLED_S if watch_s is not None else 0.0)
            if first or run.todo:
                plan = survey_run(run, done)
                for line in plan_lines(plan):
                    say(line)
                if dry_run:
                    return OK
                with progress(plan, quiet, log) as (report, look):
                    run.work(report, look)
                outcomes = run.finish()
                if log is not None:
                    log_end(log, outcomes, run.peak_bytes)
                print_outcomes(outcomes, output, sys.stdout)
                sys.stdout.flush()
                first = False
            if watch_s is None:
                return SOME_FAILED if any(name.startswith("failed") for name in outcomes) else OK
            time.sleep(watch_s)
    except KeyboardInterrupt:
        say("stopped; what is done is kept, and the same command goes on")
        return OK if watch_s is not None else 130


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def default_workers(settings: PipelineSettings) -> int:
    """A worker per core, as far as memory goes."""
    import psutil

    from pipeline.folder import usual_limits

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available / usual_limits(settings)["memory_limit"])))
