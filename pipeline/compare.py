"""The paper's tables: every row trained and evaluated over several seeds, mean and deviation, beside the printed figures.

In: one dataset folder, or two (aligned and unaligned), settings. Out: a folder of runs, one per dataset, row and seed, each
as ``lamb train`` makes it, and ``table.md``, ``table.csv``, ``table.tex``.

    compare(Table.table2, [Path("mosei"), Path("mosei_aligned")], settings, n_seeds=5, folder=Path("table2"), report=...)

An interrupted comparison goes on where it stopped: runs that are done are read, one that was cut off resumes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import read_header
from data.errors import InputError
from lamb.settings import TABLE2
from pipeline.predict import publish
from pipeline.published import EXCHANGED, NOTE, PUBLISHED, Figures
from pipeline.run_settings import RunSettings
from pipeline.train import TrainingReport, train_run

COLUMNS = {
    "accuracy": "Acc",
    "micro_precision": "P",
    "micro_recall": "R",
    "micro_f1": "F1",
    "macro_f1": "macro-F1",
    "hamming_loss": "HL",
}
TRAINED = {"LAMB": "full"}
"""Systems of Table 1 that are built here, and the Table 2 row that makes them. The others keep their printed figures."""


class Table(StrEnum):
    table1 = "table1"
    table2 = "table2"


@dataclass(frozen=True)
class Cell:
    """Results of one row in one setting: metric name → one value per seed; the printed figures, where there are any."""

    row: str
    setting: str
    values: dict[str, list[float]]
    published: Figures | None


def compare(
    table: Table,
    datasets: Sequence[Path],
    settings: RunSettings,
    n_seeds: int,
    folder: Path,
    report: TrainingReport,
    rows: Sequence[str] | None = None,
) -> list[Cell]:
    """Train what is missing and write the tables; they are written anew after every run, so a look is possible early.

    Parameters
    ----------
    rows : only these rows; default all.

    Raises
    ------
    InputError : an unknown row, two datasets of one setting, or a folder that holds something else.
    """
    known = list(PUBLISHED) if table is Table.table1 else list(TABLE2)
    unknown = [row for row in rows or () if row not in known]
    if unknown:
        raise InputError(f"Expected rows among {', '.join(known)} but got {', '.join(unknown)}.", code="bad_option")
    wanted = [row for row in known if not rows or row in rows]
    settings_of: dict[str, Path] = {}
    for path in datasets:
        setting = "aligned" if read_header(path)[0].aligned else "unaligned"
        if setting in settings_of:
            raise InputError(
                f"Expected one aligned and one unaligned dataset but {settings_of[setting]} and {path} are both {setting}.",
                code="bad_option",
            )
        settings_of[setting] = path
    cells = {
        (setting, row): Cell(row, setting, {}, _published(table, row, setting))
        for setting in settings_of
        for row in wanted
    }
    n_runs = sum(_system_row(table, row) is not None for _, row in cells) * n_seeds
    number = 0
    for seed in range(n_seeds):  # seed by seed: every row has a figure before any has its second
        for (setting, row), cell in cells.items():
            system = _system_row(table, row)
            if system is None:
                continue
            number += 1
            report.line(f"run {number} of {n_runs}: {setting}, {row}, seed {seed}")
            run = _run_settings(settings, settings_of[setting], system, seed)
            place = folder / "runs" / setting / row.replace(" ", "_").replace("/", "") / f"seed{seed}"
            metrics = train_run(run, place, report)
            if "test" not in metrics:
                raise InputError(
                    f"Expected test samples in {str(settings_of[setting])!r} but it has none.", code="no_samples"
                )
            _add(cell, metrics["test"])
            write_tables(table, list(cells.values()), folder)
    write_tables(table, list(cells.values()), folder)
    return list(cells.values())


def _system_row(table: Table, row: str) -> str | None:
    return TRAINED.get(row) if table is Table.table1 else row


def _published(table: Table, row: str, setting: str) -> Figures | None:
    if table is Table.table1:
        return PUBLISHED[row][setting]
    return PUBLISHED["LAMB"][setting] if row == "full" else None


def _run_settings(settings: RunSettings, dataset: Path, row: str, seed: int) -> RunSettings:
    training = settings.training.model_copy(update={"seed": settings.training.seed + seed})
    weights = "none" if settings.class_weights == "auto" else settings.class_weights  # the paper's
    return settings.model_copy(update={"dataset": dataset, "row": row, "training": training, "class_weights": weights})


def _add(cell: Cell, results: dict[str, Any]) -> None:
    for kind, found in (("", results["at_half"]), ("tuned ", results["at_thresholds"])):
        for metric in COLUMNS:
            cell.values.setdefault(kind + metric, []).append(float(found[metric]))


# ---- tables -------------------------------------------------------------------------------------------------------------


def write_tables(table: Table, cells: Sequence[Cell], folder: Path) -> None:
    """``table.md``, ``table.csv`` (one line per cell and kind of threshold) and ``table.tex``."""
    folder.mkdir(parents=True, exist_ok=True)
    publish(folder / "table.md", markdown(table, cells).encode())
    publish(folder / "table.csv", as_csv(cells).encode())
    publish(folder / "table.tex", latex(cells).encode())


def markdown(table: Table, cells: Sequence[Cell]) -> str:
    """Threshold 0.5 first, then thresholds tuned on validation, per setting; the best mean of a column in bold."""
    lines = [f"# {'Table 1' if table is Table.table1 else 'Table 2'}", ""]
    for setting in dict.fromkeys(cell.setting for cell in cells):
        mine = [cell for cell in cells if cell.setting == setting]
        for kind, title in (("", "threshold 0.5"), ("tuned ", "thresholds tuned on validation")):
            lines += [f"## {setting.capitalize()}, {title}", ""]
            lines.append("| row | " + " | ".join(COLUMNS.values()) + " | seeds | paper Acc/P/R/F1 |")
            lines.append("|---|" + "---|" * (len(COLUMNS) + 2))
            best = _best(mine, kind)
            for cell in mine:
                shown = [
                    f"**{text}**" if best[metric] == cell.row and text != "–" else text
                    for metric in COLUMNS
                    for text in [_mean(cell.values.get(kind + metric))]
                ]
                n_seeds = len(cell.values.get("accuracy", ()))
                lines.append(f"| {cell.row} | " + " | ".join(shown) + f" | {n_seeds or '–'} | {_figures(cell)} |")
            lines.append("")
    lines += [
        f"Mean ± standard deviation over seeds. {NOTE}",
        "–: not trained here (baselines of Table 1), or not printed in the paper.",
        "",
    ]
    return "\n".join(lines)


def latex(cells: Sequence[Cell]) -> str:
    """One tabular per setting, threshold 0.5."""
    parts = []
    for setting in dict.fromkeys(cell.setting for cell in cells):
        lines = [
            f"% {setting}, threshold 0.5; needs booktabs",
            r"\begin{tabular}{l" + "c" * len(COLUMNS) + "}",
            r"\toprule",
        ]
        lines += [" & ".join(["", *COLUMNS.values()]) + r" \\", r"\midrule"]
        for cell in cells:
            if cell.setting == setting:
                shown = [_mean(cell.values.get(metric)).replace(" ± ", r"\,$\pm$\,") for metric in COLUMNS]
                lines.append(" & ".join([cell.row, *(text.replace("–", "--") for text in shown)]) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]))
    return "\n".join(parts)


def as_csv(cells: Sequence[Cell]) -> str:
    """setting, row, thresholds, metric, mean, deviation, seeds, and every seed's value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", "row", "thresholds", "metric", "mean", "deviation", "seeds", "values"])
    for cell in cells:
        for name, values in cell.values.items():
            metric = name.removeprefix("tuned ")
            kind = "tuned" if metric != name else "0.5"
            row = [
                cell.setting,
                cell.row,
                kind,
                metric,
                f"{np.mean(values):.6f}",
                f"{_deviation(values):.6f}",
                len(values),
            ]
            writer.writerow([*row, " ".join(f"{value:.6f}" for value in values)])
    return text.getvalue()


def _mean(values: list[float] | None) -> str:
    if not values:
        return "–"
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ± {_deviation(values):.3f}" if len(values) > 1 else mean


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _best(cells: Sequence[Cell], kind: str) -> dict[str, str | None]:
    best: dict[str, str | None] = {}
    for metric in COLUMNS:
        choose: Callable[..., Any] = min if metric == "hamming_loss" else max
        trained = [cell for cell in cells if cell.values.get(kind + metric)]
        best[metric] = choose(trained, key=lambda cell: np.mean(cell.values[kind + metric])).row if trained else None
    return best


def _figures(cell: Cell) -> str:
    if cell.published is None:
        return "–"
    mark = " †" if cell.row in EXCHANGED or cell.row == "full" else ""
    return "/".join(f"{figure:.3f}".lstrip("0") for figure in cell.published) + mark
