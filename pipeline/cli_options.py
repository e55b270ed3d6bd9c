"""Options that several commands of `lamb` share, and the settings made of them. Heavy libraries come late, as in ``cli``.

@app.command()
@with_pipeline_options
def predict(files: Files, options: dict[str, Any]) -> None:
    settings = pipeline_settings(options)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.settings import PipelineSettings

OK, SOME_FAILED, WRONG_USE = 0, 1, 2


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
FaceBackend = Annotated[
    str, typer.Option(help="mediapipe, py-feat or py-feat-v2; py-feat is installed apart (docs/face_backends.md).")
]
FaceOption = Annotated[Face, typer.Option(help="Whose face: the largest, the one that speaks, or every one.")]
MaxRate = Annotated[float, typer.Option(metavar="HZ", help="Frames a second to look at, at most.")]
Threads = Annotated[int, typer.Option(min=1, max=64, help="Threads per network.")]
WeightPaths = Annotated[
    list[str] | None, typer.Option("--weights", metavar="NAME=PATH", help="Take these weights from a path; repeatable.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def with_pipeline_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options below; it receives them together, as ``options``, for :func:`pipeline_settings`.

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
        face_backend: FaceBackend = "mediapipe",
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


def pipeline_settings(options: dict[str, Any]) -> PipelineSettings:
    """PipelineSettings from the options of :func:`with_pipeline_options`. Raises InputError (bad_option)."""
    from pydantic import ValidationError

    from data.errors import InputError
    from extractors.facial.pyfeat_weights import DETECTORS as PYFEAT_NAMES
    from extractors.weights import catalogue_entry
    from pipeline.settings import PipelineSettings

    given = {}
    for item in options["weights"] or []:
        name, separator, path = item.partition("=")
        if not separator:
            raise InputError(f"Expected --weights NAME=PATH but got {item!r}.", code="bad_option")
        given[name if name in PYFEAT_NAMES else catalogue_entry(name).name] = Path(path)
    language = None if options["language"] == "auto" else options["language"]
    try:
        return PipelineSettings(**{**options, "weights": given, "language": language})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"Expected another value for {'.'.join(map(str, first['loc']))}: {first['msg']}.", code="bad_option"
        ) from error
