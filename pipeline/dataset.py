"""Datasets from what lies on disk: a table of recordings and labels, a public dataset, or public feature files.

In: a table (``data/table.py``) or the name of a source (``data/sources/``) and its folder. Out: a dataset folder
(``data/dataset.py``). Recordings go through the extractors as those of `lamb label` do (``pipeline/folder.py``): in worker
processes, each stage's result kept in the cache folder, so a build that was stopped goes on and another one over the same
recordings extracts nothing again.

    build_dataset("videos/labels.csv", None, Path("mine"), BuildOptions(), make_extractors, BuildReport(print))
"""

from __future__ import annotations

import inspect
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.dataset import DatasetHeader, Reading, save_dataset
from data.errors import InputError, LambError
from data.labels import EMOTIONS, LabelSet
from data.sources import FEATURE_SOURCES, NEUTRAL, SOURCES, LabelledItem, Split
from data.spec import MODALITIES, Modality
from data.table import Table, TableOptions, length_problems, read_table
from pipeline.dataset_extraction import BuildReport, Extraction
from pipeline.dataset_samples import Sampler, choose_splits
from pipeline.video import Extractors

TABLE_SUFFIXES = (".csv", ".tsv")
TABLE_NAME = "labels.csv"  # looked for where a folder is given
SHARES: dict[Split, float] = {"train": 0.7, "valid": 0.15, "test": 0.15}
LICENCES = {
    "ravdess": "CC BY-NC-SA 4.0 (RAVDESS)",
    "goemotions": "Apache-2.0 (GoEmotions)",
    "crema-d": "ODbL 1.0 (CREMA-D)",
    "meld": "GPL-3.0 (MELD)",
    "mosei-raw": "research use (CMU-MOSEI)",
    "iemocap": "USC's licence, not to be passed on (IEMOCAP)",
    "face-stills": "Apache-2.0 (facial_expressions)",
}


@dataclass(frozen=True)
class BuildOptions:
    """How a dataset is built.

    aligned : rows of voice and face are averaged over words. modalities : what is extracted. neutral : a label of its own
    where no emotion holds. emotions : rating table of MOSEI pickles. threshold, labels : see TableOptions. shares : of train,
    valid, test where the table has no splits. skip_bad : leave out rows whose file cannot be used, instead of refusing all.
    cache : where stage results are kept; default ``<output>.cache``. keep : keep it when the dataset is whole.
    n_workers : processes that extract. licence : of the data, for the card of what is trained on it.
    """

    aligned: bool = False
    modalities: tuple[Modality, ...] = MODALITIES
    neutral: bool = False
    emotions: Path | None = None
    threshold: float = 0.0
    labels: tuple[str, ...] = ()
    shares: tuple[float, float, float] = (SHARES["train"], SHARES["valid"], SHARES["test"])
    skip_bad: bool = False
    cache: Path | None = None
    keep: bool = True
    n_workers: int = 1
    licence: str | None = None


def build_dataset(
    source: str,
    place: Path | None,
    output: Path,
    options: BuildOptions,
    extractors: Callable[[], Extractors],
    report: BuildReport,
) -> dict[Split, int]:
    """Write the dataset folder ``output``; samples per split.

    Parameters
    ----------
    source : a table, a folder with a ``labels.csv``, or the name of a source.
    place : the folder of the table's files (default: the table's own), or of the source.
    extractors : called once, and only if there is something to extract.

    Raises
    ------
    InputError : an unknown source, a wrong layout, or ``output`` is there already. TableError : rows that are wrong; it has
    all of them. UnknownName. Nothing is built then.
    """
    if output.exists():
        raise InputError(
            f"Expected no file or folder at {str(output)!r} but there is one.",
            remedy="Choose another --output, or delete it.",
            code="output_exists",
        )
    table_path = _table_path(source)
    if table_path is None and source in FEATURE_SOURCES.names():
        return _from_features(source, _needed(place, source), output, options)
    if options.emotions is not None:
        raise InputError("Expected --emotions only for pickles of CMU-MOSEI.", code="bad_option")
    if table_path is not None:
        chosen = TableOptions(options.threshold, options.labels, options.neutral)
        table = read_table(table_path, place, chosen)
        if table.ignored:
            report.say(f"columns that are not read: {', '.join(table.ignored)}")
        root = place or table_path.parent
    else:
        table = table_of_source(source, _needed(place, source), options.neutral)
        root = table.path if table.path.is_dir() else table.path.parent
    named = (
        source
        if table_path is None
        else (table_path.parent.absolute().name if table_path.name == TABLE_NAME else table_path.stem)
    )
    return _from_items(
        named, table, root, output, options, extractors, report, skip_bad=options.skip_bad or table_path is None
    )


def table_of_source(source: str, place: Path, neutral: bool = False) -> Table:
    """The items of a public dataset as a table without lines. Raises InputError: unknown, or not as described."""
    try:
        items = SOURCES.get(source)(place)
    except LambError as error:
        if error.code != "unknown_name":
            raise
        both = [*SOURCES.names(), *FEATURE_SOURCES.names()]
        raise InputError(
            f"Expected a table (.csv) or a source among {', '.join(both)} but got {source!r}.", code="unknown_name"
        ) from error
    items = [replace(item, labels=tuple(dict.fromkeys(name.lower() for name in item.labels))) for item in items]
    found = {name for item in items for name in item.labels}
    names = EMOTIONS if found <= set(EMOTIONS) else tuple(sorted(found, key=lambda name: (name not in EMOTIONS, name)))
    if neutral:
        names = (*names, NEUTRAL)
    return Table(place, tuple(items), tuple(range(1, len(items) + 1)), names)


def _table_path(source: str) -> Path | None:
    path = Path(source)
    if path.suffix.lower() in TABLE_SUFFIXES:
        return path
    if path.is_dir() and (path / TABLE_NAME).is_file():
        return path / TABLE_NAME
    return None


def _needed(place: Path | None, source: str) -> Path:
    if place is None:
        known = source in (*SOURCES.names(), *FEATURE_SOURCES.names())
        raise InputError(
            f"Expected the folder of {source!r} after its name but got none."
            if known
            else f"Expected a table (.csv), a folder with {TABLE_NAME}, or a source and its folder, but got {source!r}.",
            code="bad_option",
            remedy="`lamb dataset sources` names the sources.",
        )
    return place


def _from_features(source: str, place: Path, output: Path, options: BuildOptions) -> dict[Split, int]:
    read = FEATURE_SOURCES.get(source)
    if options.emotions is None:
        return save_dataset(read(place, aligned=options.aligned), output)
    if "emotions" not in inspect.signature(read).parameters:
        raise InputError(f"Expected no --emotions for {source}: its labels come with it.", code="bad_option")
    return save_dataset(read(place, aligned=options.aligned, emotions=options.emotions), output)


def _from_items(
    name: str,
    table: Table,
    root: Path,
    output: Path,
    options: BuildOptions,
    make_extractors: Callable[[], Extractors],
    report: BuildReport,
    skip_bad: bool,
) -> dict[Split, int]:
    """A dataset of recordings and texts. Raises TableError, InputError."""
    dropped: Counter[str] = Counter()
    cache = options.cache or output.with_name(output.name + ".cache")
    extractors = make_extractors()
    extraction = Extraction(root, cache, extractors, options.modalities, options.n_workers, report)
    lengths, unusable = extraction.look(table.items)
    problems = [*length_problems(table, lengths), *([] if skip_bad else _unusable(table, unusable))]
    table.check(problems)
    items = _without(table.items, unusable, dropped, report)
    chosen = all(item.split is None for item in items)
    shares: dict[Split, float] = dict(zip(SHARES, options.shares, strict=True))
    if chosen:
        choose_splits(items, {}, shares)  # too few to split is better known before hours of extraction
    failed = extraction.run(items)
    if failed and not skip_bad:
        table.check(_unusable(table, failed))
    items = _without(items, failed, dropped, report)
    split_by = "given"
    if chosen:
        items, split_by = choose_splits(items, extraction.contents, shares)
    sampler = Sampler(extraction, LabelSet(table.labels), options.aligned, options.neutral)
    notes: dict[str, Any] = {
        "source": name,
        "licence": options.licence if options.licence is not None else LICENCES.get(name, ""),
        "modalities": list(options.modalities),
        "split_by": split_by,
        "dropped": dropped,
        "seconds": sampler.seconds,
    }
    header = DatasetHeader(name, LabelSet(table.labels), sampler.specs, options.aligned, notes)
    counts = save_dataset(Reading(header, sampler.samples(items)), output)
    if not options.keep and options.cache is None:
        shutil.rmtree(cache, ignore_errors=True)
    return counts


def _unusable(table: Table, errors: dict[Path, str]) -> list[str]:
    return [
        f"row {row}: {errors[item.path]}"
        for item, row in zip(table.items, table.rows, strict=True)
        if item.path in errors
    ]


def _without(
    items: tuple[LabelledItem, ...], errors: dict[Path, str], dropped: Counter[str], report: BuildReport
) -> tuple[LabelledItem, ...]:
    """The items whose file can be used; the others are counted and said."""
    for path, error in errors.items():
        n = sum(item.path == path for item in items)
        if n:
            dropped["unusable file"] += n
            report.say(f"left out {path.name} ({n} item{'s' * (n > 1)}): {error}")
    return tuple(item for item in items if item.path not in errors)
