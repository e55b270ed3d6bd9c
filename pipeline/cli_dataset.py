"""`lamb dataset …`: datasets to train on; ``cli`` adds them. Heavy libraries come late, as there.

lamb dataset build videos/labels.csv --output mine
lamb dataset check mine
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import InputError
from pipeline.cli_folder import Workers, default_workers
from pipeline.cli_options import Quiet, pipeline_settings, with_pipeline_options


class AnnotationTool(StrEnum):
    elan = "elan"
    label_studio = "label-studio"


dataset_app = typer.Typer(help="Datasets of features to train on.", no_args_is_help=True, rich_markup_mode=None)
NewFolder = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the dataset.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@dataset_app.command("build")
@with_pipeline_options
def dataset_build(
    source: Annotated[
        str, typer.Argument(metavar="TABLE|SOURCE", help="A table (.csv), or a name: see `lamb dataset sources`.")
    ],
    options: dict[str, Any],
    output: NewFolder,
    place: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]", help="The folder of its files; of a table: default its own.", show_default=False
        ),
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Average voice and face over each word.")] = False,
    modalities: Annotated[
        str, typer.Option(metavar="LIST", help="What to extract: text,audio,visual or fewer.")
    ] = "text,audio,visual",
    threshold: Annotated[float, typer.Option(metavar="X", help="A label holds where its number is above.")] = 0.0,
    labels: Annotated[
        str | None, typer.Option(metavar="LIST", help="The label columns (or names in lists), where not all.")
    ] = None,
    neutral: Annotated[bool, typer.Option("--neutral", help="A label of its own where no emotion holds.")] = False,
    shares: Annotated[
        str, typer.Option(metavar="A,B,C", help="Of train, valid, test, where the table has no splits.")
    ] = ".7,.15,.15",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows whose file cannot be used.")] = False,
    emotions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rating table for MOSEI pickles, whose labels are sentiment only."),
    ] = None,
    licence: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the data; goes on the model's card.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where what was extracted is kept, or results of `lamb label`.",
            show_default="DIR.cache",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep DIR.cache, for other labels later.")] = True,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Turn videos and a table of labels, or a public dataset, into a folder that `lamb train` reads.

    Example: lamb dataset build videos/labels.csv --output mine
    """
    from data.spec import MODALITIES
    from data.table import TableError
    from pipeline.dataset import BuildOptions, build_dataset
    from pipeline.dataset_extraction import BuildReport
    from pipeline.dataset_report import short_lines, summarise
    from pipeline.video import Extractors

    wanted = [name.strip() for name in modalities.split(",")]
    if not set(wanted) <= set(MODALITIES):
        raise InputError(
            f"Expected --modalities among {', '.join(MODALITIES)} but got {modalities!r}.", code="bad_option"
        )
    settings = pipeline_settings(options)
    chosen = BuildOptions(
        aligned,
        tuple(name for name in MODALITIES if name in wanted),
        neutral,
        emotions,
        threshold,
        tuple(name.strip() for name in labels.split(",")) if labels else (),
        _shares(shares),
        skip_bad,
        cache,
        keep,
        workers or default_workers(settings),
        licence,
    )
    report = BuildReport(_nothing, bars=False) if quiet else BuildReport(_to_stderr)
    try:
        counts = build_dataset(source, place, output, chosen, lambda: Extractors(settings), report)
    except TableError as error:
        for problem in error.problems if len(error.problems) > 1 else ():
            print(problem, file=sys.stderr)
        raise
    print("\n".join(short_lines(summarise(output))))
    sizes = ", ".join(f"{n:,} {split}" for split, n in counts.items())
    print(f"{output}: {sizes} (lamb train --dataset {output} --output runs/one)")


def _shares(given: str) -> tuple[float, float, float]:
    """Three shares that sum to one, from three numbers in proportion. Raises InputError."""
    try:
        train, valid, test = (float(share) for share in given.split(","))
        total = train + valid + test
        if min(train, valid, test) <= 0 or not total < float("inf"):
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"Expected --shares as three numbers above 0 (.7,.15,.15) but got {given!r}.", code="bad_option"
        ) from error
    return train / total, valid / total, 1 - train / total - valid / total


@dataset_app.command("import")
def dataset_import(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What lies there: see `lamb dataset sources`.")],
    place: Annotated[Path, typer.Argument(metavar="PATH", help="Its folder or file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.csv", help="The table to write.")],
    neutral: Annotated[bool, typer.Option("--neutral", help="A label of its own where no emotion holds.")] = False,
) -> None:
    """Write the table of a public dataset, of a folder per emotion, or of annotations, to look at, mend and build.

    Example: lamb dataset import folders videos/ --output videos/labels.csv
    """
    from dataclasses import replace

    from data.sources import NEUTRAL
    from data.table import write_table
    from pipeline.dataset import table_of_source

    table = table_of_source(source, place, neutral)
    items = [replace(item, labels=(NEUTRAL,)) if neutral and not item.labels else item for item in table.items]
    n_rows = write_table(items, table.labels, output)
    print(f"{output}: {n_rows:,} rows, labels {', '.join(table.labels)} (lamb dataset build {output} --output DIR)")


@dataset_app.command("export")
def dataset_export(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help="mmsa-pkl, csd or hf-datasets.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder made by `lamb dataset build`.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="What to write.")],
) -> None:
    """Write a dataset in the layout of another tool.

    Example: lamb dataset export hf-datasets mine --output mine_parquet
    """
    from data.exports import EXPORTS

    for path in EXPORTS.get(kind)(folder, output):
        print(path)


def annotate(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Of `lamb label`, or a file of `lamb predict --json`.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder.")],
    tool: Annotated[AnnotationTool, typer.Option(help="What people correct it in.")] = AnnotationTool.elan,
    videos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the videos lie; default: as `lamb label` noted.")
    ] = None,
) -> None:
    """Write results for ELAN or Label Studio, to be corrected; `lamb dataset import` takes the corrections as labels.

    Example: lamb annotate results/ --output corrections
    """
    from pipeline.annotate import annotate as write_annotations

    paths = write_annotations(results, videos, output, tool.value)
    print(f"{output}: {len(paths)} files (lamb dataset import {tool.value} FOLDER-OF-BOTH --output labels.csv)")


@dataset_app.command("check")
def dataset_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder made by `lamb dataset build`.")],
    json: Json = False,
) -> None:
    """Say what is in a dataset: sizes, labels, lengths, leaks between splits, beside the published counts.

    Example: lamb dataset check mosei
    """
    from pipeline.dataset_report import summarise, summary_lines
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
            print(f"{name:<20} {kind:<9} {document.strip().splitlines()[0]}")


def _nothing(line: str) -> None:
    """For --quiet."""


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
