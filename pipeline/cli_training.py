"""Commands of `lamb` for training and experiments; ``cli`` adds them. Heavy libraries come late, as there.

lamb train --dataset comments --output runs/one
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.errors import InputError, LambError
from pipeline.cli_options import OK, SOME_FAILED, Device, Quiet, pipeline_settings, with_pipeline_options

if TYPE_CHECKING:
    from pipeline.train import TrainingReport


class SplitName(StrEnum):
    train = "train"
    valid = "valid"
    test = "test"


DatasetFolder = Annotated[
    Path | None, typer.Option("--dataset", metavar="DIR", help="A folder made by `lamb dataset build`.")
]
SettingsFile = Annotated[
    Path | None, typer.Argument(metavar="[SETTINGS.yaml]", help="Default: the paper's settings.", show_default=False)
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting (training.seed=1); repeatable.")
]
NewFolder = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of this run.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
CheckpointPath = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run's folder, or a checkpoint's file.")]
DeviceOption = Annotated[Device, typer.Option(help="Where the model runs.")]


def train(
    output: NewFolder,
    settings: SettingsFile = None,
    dataset: DatasetFolder = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="CHECKPOINT", help="Begin with these weights; `starter`: those that ship."),
    ] = None,
    change: Changes = None,
    quiet: Quiet = False,
) -> None:
    """Train LAMB on a dataset; a run that was stopped goes on where it was.

    With --from, labels of the same name keep what the checkpoint knows of them. Under torchrun, on several processes:
    torchrun --nproc-per-node 4 -m pipeline.cli train ...

    Example: lamb train --dataset comments --output runs/one --set training.epochs=9
    """
    import torch

    from lamb.distributed import place, process_group
    from pipeline.evaluate import result_lines
    from pipeline.run_settings import read_settings
    from pipeline.train import train_run

    chosen = read_settings(settings, change or (), dataset, start)
    device = chosen.training.resolved().device
    if device == "cpu":
        torch.set_num_threads(1)  # two are slower on tensors this small
    with process_group(device.startswith("cuda")), _report(quiet or place()[0] > 0) as report:
        metrics = train_run(chosen, output, report)
        if place()[0] == 0:
            for split in ("valid", "test"):
                if split in metrics:
                    print("\n".join(result_lines(metrics[split])))
            shown = shlex.quote(str(output))
            print(f"checkpoint and card: {output}")
            print(f"use it: lamb predict --checkpoint {shown} clip.mp4")


def evaluate(
    checkpoint: CheckpointPath,
    dataset: Annotated[Path, typer.Option("--dataset", metavar="DIR", help="A folder made by `lamb dataset build`.")],
    split: Annotated[SplitName, typer.Option(help="Which part.")] = SplitName.test,
    device: DeviceOption = Device.auto,
    json: Json = False,
) -> None:
    """Measure a checkpoint on a split: Acc, P, R, F1, HL, per label, calibration, confusion.

    Example: lamb evaluate runs/one --dataset comments --split test
    """
    from pipeline.evaluate import evaluate_checkpoint, result_lines
    from pipeline.predict import to_json

    results = evaluate_checkpoint(checkpoint, dataset, split.value, _compute_device(device))
    print(to_json(results) if json else "\n".join(result_lines(results)))


def compare(
    dataset: Annotated[
        list[Path], typer.Option("--dataset", metavar="DIR", help="Once, or twice: unaligned and aligned.")
    ],
    output: NewFolder,
    settings: SettingsFile = None,
    table1: Annotated[bool, typer.Option("--table1", help="LAMB beside the systems of Table 1.")] = False,
    table2: Annotated[bool, typer.Option("--table2", help="The full model and its fourteen ablations.")] = False,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Runs per row.")] = 5,
    rows: Annotated[list[str] | None, typer.Option("--row", metavar="NAME", help="Only this row; repeatable.")] = None,
    change: Changes = None,
    quiet: Quiet = False,
) -> None:
    """Train and measure every row of a table of the paper; a comparison that was stopped goes on where it was.

    Example: lamb compare --table2 --dataset mosei --dataset mosei_aligned --output table2
    """
    import torch

    from pipeline.compare import Table
    from pipeline.compare import compare as run_comparison
    from pipeline.run_settings import read_settings

    if table1 == table2:
        raise InputError("Expected one of --table1 and --table2.", code="bad_option")
    chosen = read_settings(settings, change or (), dataset[0])
    if chosen.start is not None:
        raise InputError(
            "Expected no checkpoint to start from: the tables are of runs from scratch.", code="bad_option"
        )
    if chosen.training.resolved().device == "cpu":
        torch.set_num_threads(1)
    with _report(quiet) as report:
        run_comparison(Table.table1 if table1 else Table.table2, dataset, chosen, seeds, output, report, rows)
    print((output / "table.md").read_text(encoding="utf-8"), end="")


@with_pipeline_options
def explain(
    options: dict[str, Any],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where pictures and data go.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE…]", help="Video or audio files.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A LAMB checkpoint; default: the starter.")
    ] = None,
    dataset: DatasetFolder = None,
    split: Annotated[SplitName, typer.Option(help="Of the dataset.")] = SplitName.test,
    start_s: Annotated[float, typer.Option("--from", metavar="S", help="First second of each file to draw.")] = 0.0,
    end_s: Annotated[float | None, typer.Option("--to", metavar="S", help="Last second, at most 60 later.")] = None,
    quiet: Quiet = False,
) -> None:
    """Say what carried the labels: words, moments and columns of a file; or the paper's figures 2 and 3 for a dataset.

    Example: lamb explain clip.mp4 --output why; lamb explain --dataset mosei --checkpoint runs/one --output figures
    """
    from pipeline.events import one_line, reporter
    from pipeline.explain import explain_dataset, explain_file
    from pipeline.predict import Predictor, load_checkpoint
    from pipeline.video import Extractors

    if bool(files) == bool(dataset):
        raise InputError("Expected files, or --dataset DIR, and not both.", code="bad_option")
    settings = pipeline_settings(options)
    loaded = load_checkpoint(checkpoint, settings.compute_device)
    if dataset:
        from data.dataset import load_dataset
        from pipeline.evaluate import check_specs

        held = load_dataset(dataset, [split.value])
        check_specs(loaded, held)
        samples = [loaded.ready(sample) for sample in held.splits[split.value]]
        written, n_failed = explain_dataset(loaded, samples, output), 0
    else:
        extractors = Extractors(settings)
        predictor = Predictor(loaded, extractors)
        extractors.prepare()
        written, n_failed = [], 0
        with reporter(quiet) as notify:
            for path in files or ():
                try:
                    written += explain_file(path, predictor, output, start_s, end_s, notify)
                except LambError as error:
                    n_failed += 1
                    print(f"failed {one_line(str(path))}: {error}", file=sys.stderr)
    for path in written:
        print(path)
    raise typer.Exit(SOME_FAILED if n_failed else OK)


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``lamb``."""
    for command in (train, evaluate, compare, explain):
        app.command()(command)


def _nothing(line: str) -> None:
    """For --quiet."""


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _compute_device(device: Device) -> str:
    return pipeline_settings({"device": device, "weights": None, "language": "en"}).compute_device


@contextmanager
def _report(quiet: bool) -> Iterator[TrainingReport]:
    """Lines of a run, and on a terminal a bar for the epoch's steps."""
    from pipeline.train import TrainingReport

    if quiet:
        yield TrainingReport(_nothing)
    elif not sys.stderr.isatty():
        yield TrainingReport(_to_stderr)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=None, epoch=1)

            def step(epoch: int, done: int, total: int) -> None:
                progress.update(task, completed=done, total=total, epoch=epoch)

            def line(text: str) -> None:
                progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

            yield TrainingReport(line, step)
