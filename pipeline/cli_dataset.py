"""`lamb dataset …`: datasets to train on; ``cli`` adds them. Heavy libraries come late, as there.

lamb dataset build goemotions goemotions/ --output comments
lamb dataset check comments
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import InputError
from pipeline.cli_options import Quiet, pipeline_settings, with_pipeline_options

dataset_app = typer.Typer(help="Datasets of features to train on.", no_args_is_help=True, rich_markup_mode=None)
NewFolder = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the dataset.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@dataset_app.command("build")
@with_pipeline_options
def dataset_build(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What lies there: see `lamb dataset sources`.")],
    place: Annotated[Path, typer.Argument(metavar="PATH", help="Its folder or file.")],
    options: dict[str, Any],
    output: NewFolder,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="Feature files: average voice and face over words.")
    ] = False,
    modalities: Annotated[
        str, typer.Option(metavar="LIST", help="What to extract from raw items: text,audio,visual or fewer.")
    ] = "text,audio,visual",
    neutral: Annotated[bool, typer.Option("--neutral", help="A label of its own where no emotion holds.")] = False,
    emotions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rating table for MOSEI pickles, whose labels are sentiment only."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Turn a public dataset into a folder that `lamb train` reads; raw items go through the extractors.

    Example: lamb dataset build ravdess ravdess/ --modalities audio --output voices
    """
    from data.spec import MODALITIES
    from pipeline.dataset import BuildOptions, build_dataset
    from pipeline.video import Extractors

    wanted = [name.strip() for name in modalities.split(",")]
    if not set(wanted) <= set(MODALITIES):
        raise InputError(
            f"Expected --modalities among {', '.join(MODALITIES)} but got {modalities!r}.", code="bad_option"
        )
    chosen = BuildOptions(aligned, tuple(name for name in MODALITIES if name in wanted), neutral, emotions)
    say = _nothing if quiet else _to_stderr
    counts = build_dataset(source, place, output, chosen, lambda: Extractors(pipeline_settings(options)), say)
    print(f"{output}: " + ", ".join(f"{n:,} {split}" for split, n in counts.items()))


@dataset_app.command("check")
def dataset_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder made by `lamb dataset build`.")],
    json: Json = False,
) -> None:
    """Say what is in a dataset: sizes, labels, lengths, leaks between splits, beside the published counts.

    Example: lamb dataset check mosei
    """
    from pipeline.dataset import summarise, summary_lines
    from pipeline.predict import to_json

    summary = summarise(folder)
    print(to_json(summary) if json else "\n".join(summary_lines(summary)))


@dataset_app.command("sources")
def dataset_sources() -> None:
    """Name the datasets that can be built, and what each is.

    Example: lamb dataset sources
    """
    from data.sources import FEATURE_SOURCES, SOURCES

    for kind, registry in (("raw", SOURCES), ("features", FEATURE_SOURCES)):
        for name in registry.names():
            document = sys.modules[registry.get(name).__module__].__doc__ or ""
            print(f"{name:<18} {kind:<9} {document.strip().splitlines()[0]}")


def _nothing(line: str) -> None:
    """For --quiet."""


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
