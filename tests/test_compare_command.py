"""`lamb compare`: all rows, several seeds, both settings; the tables; going on where it stopped."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.errors import InputError
from lamb.settings import TABLE2
from pipeline.compare import Cell, Table, as_csv, compare, latex, markdown
from pipeline.published import PUBLISHED
from pipeline.run_settings import read_settings
from pipeline.train import TrainingReport
from tests.planted_dataset import planted_folder

QUICK = ["training.epochs=1", "training.batch_size=32", "model.width=10", "model.ff_hidden=8", "model.decoder_hidden=8"]


pytestmark = pytest.mark.xdist_group("compare")  # what they share is made once


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("data")
    return [planted_folder(folder / "loose"), planted_folder(folder / "aligned", aligned=True)]


@pytest.fixture(scope="module")
def table2(datasets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cell], Path]:
    folder = tmp_path_factory.mktemp("table2")
    settings = read_settings(None, QUICK, datasets[0])
    return compare(Table.table2, datasets, settings, 2, folder, TrainingReport(lambda line: None)), folder


def test_every_row_of_table_2_in_both_settings(table2: tuple[list[Cell], Path]) -> None:
    cells, folder = table2
    assert [(cell.setting, cell.row) for cell in cells] == [
        (s, row) for s in ("unaligned", "aligned") for row in TABLE2
    ]
    assert len(list(folder.glob("runs/*/*/seed*/metrics.json"))) == 2 * 15 * 2
    for cell in cells:
        assert all(len(values) == 2 for values in cell.values.values())
    # what a cell says is what its runs measured
    run = folder / "runs" / "aligned" / "only_text" / "seed1"
    measured = json.loads((run / "metrics.json").read_text())["test"]
    cell = next(cell for cell in cells if (cell.setting, cell.row) == ("aligned", "only text"))
    assert cell.values["micro_f1"][1] == measured["at_half"]["micro_f1"]
    assert cell.values["tuned macro_f1"][1] == measured["at_thresholds"]["macro_f1"]
    settings = {path.parents[1].name: path.read_text() for path in folder.glob("runs/unaligned/*/seed0/settings.yaml")}
    assert len(set(settings.values())) == 15  # no two rows are the same run
    assert "row: w/o decoder" in settings["wo_decoder"]


def test_the_tables_hold_means_and_deviations(table2: tuple[list[Cell], Path]) -> None:
    cells, folder = table2
    full = next(cell for cell in cells if (cell.setting, cell.row) == ("unaligned", "full"))
    mean, deviation = np.mean(full.values["micro_f1"]), np.std(full.values["micro_f1"], ddof=1)
    line = next(line for line in (folder / "table.md").read_text().splitlines() if line.startswith("| full "))
    assert f"{mean:.3f} ± {deviation:.3f}" in line
    assert ".463/.656/.454/.536 †" in line
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert len(rows) == 30 * 12
    found = next(
        r
        for r in rows
        if (r["setting"], r["row"], r["thresholds"], r["metric"]) == ("unaligned", "full", "0.5", "micro_f1")
    )
    assert float(found["mean"]) == pytest.approx(mean, abs=1e-6)
    assert [float(v) for v in found["values"].split()] == pytest.approx(full.values["micro_f1"], abs=1e-6)
    text = (folder / "table.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert text.count(r"\\") == 2 * (15 + 1)


def test_a_stopped_comparison_goes_on(table2: tuple[list[Cell], Path], datasets: list[Path]) -> None:
    """Runs that are done are not trained again; one that is missing is, and the table is the same."""
    _, folder = table2
    before = (folder / "table.csv").read_text()
    gone = folder / "runs" / "aligned" / "full" / "seed1"
    times = {
        path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*/metrics.json") if gone not in path.parents
    }
    for path in sorted(gone.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    said: list[str] = []
    settings = read_settings(None, QUICK, datasets[0])
    compare(Table.table2, datasets, settings, 2, folder, TrainingReport(said.append))
    assert sum("is done already" in line for line in said) == 59
    assert sum(line.startswith("epoch") for line in said) == 1
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert (folder / "table.csv").read_text() == before


def test_table_1_trains_lamb_and_leaves_the_others_their_seat(datasets: list[Path], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "compare",
        "--table1",
        "--dataset",
        str(datasets[1]),
        "--seeds",
        "1",
    ]
    changes = [part for change in QUICK for part in ("--set", change)]
    done = subprocess.run(
        [*command, *changes, "--output", str(tmp_path / "t")], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [
        line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ") and "row" not in line
    ]
    assert rows == [*PUBLISHED, *PUBLISHED]  # at 0.5 and tuned
    assert "| MulT | – | – |" in done.stdout
    assert ".445/.619/.465/.531 |" in done.stdout
    assert ".490/.643/.517/.573 †" in done.stdout
    assert "exchanged" in done.stdout


@pytest.mark.parametrize("fault", ["row", "twice", "both", "none"])
def test_wrong_use_is_one_line(fault: str, datasets: list[Path], tmp_path: Path) -> None:
    more = {
        "row": ["--table2", "--row", "only smell"],
        "twice": ["--table2", "--dataset", str(datasets[0])],
        "both": ["--table1", "--table2"],
        "none": [],
    }[fault]
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "compare",
        "--dataset",
        str(datasets[0]),
        "--output",
        str(tmp_path / "t"),
    ]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_best_of_a_column_is_bold_and_lower_hamming_loss_is_better() -> None:
    values = {"accuracy": [0.5], "micro_precision": [0.1], "micro_recall": [0.1], "micro_f1": [0.1], "macro_f1": [0.1]}
    cells = [
        Cell("only text", "aligned", {**values, "hamming_loss": [0.2]}, None),
        Cell("full", "aligned", {**values, "accuracy": [0.4], "hamming_loss": [0.1]}, None),
    ]
    lines = markdown(Table.table2, cells).splitlines()
    text, full = (next(line for line in lines if line.startswith(f"| {row} ")) for row in ("only text", "full"))
    assert "**0.500**" in text
    assert "**0.400**" not in full
    assert "**0.100**" in full.split("|")[7]
    assert "**0.200**" not in text
    assert "full & 0.400" in latex(cells)
    assert as_csv(cells).count("\n") == 13


def test_two_aligned_datasets_are_refused(datasets: list[Path], tmp_path: Path) -> None:
    settings = read_settings(None, QUICK, datasets[0])
    with pytest.raises(InputError, match="both aligned"):
        compare(
            Table.table2, [datasets[1], datasets[1]], settings, 1, tmp_path / "t", TrainingReport(lambda line: None)
        )
