"""Results as files and as a table: names never meet, nothing is overwritten that is not ours, bars and clocks are right."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from data import InputError
from pipeline.predict import OutputFolder, document, failed_record, is_prediction, to_json
from pipeline.timeline import REASONS, bar, clock, print_timeline

LABELS = ["anger", "fear"]


def record(**changes: object) -> dict:
    row = {
        "start_s": 59.96,
        "end_s": 63.0,
        "text": "well [bold]\x1b[31m then",
        "probabilities": {"anger": 0.5, "fear": 0.04},
        "labels": ["anger"],
        "coverage": {"text": 0.5, "audio": 1.0, "visual": 0.0},
    }
    base = failed_record(Path("clip.mp4"), "x", "y") | {
        "outcome": "partial",
        "error": None,
        "duration_s": 63.0,
        "reasons": ["no_face"],
        "utterances": [row],
        "overall": {"probabilities": row["probabilities"], "labels": ["anger"]},
    }
    return base | changes


def shown(value: dict) -> str:
    stream = io.StringIO()
    print_timeline(value, LABELS, Console(file=stream, width=110, highlight=False))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0, "0:00.0"), (59.94, "0:59.9"), (59.96, "1:00.0"), (3599.99, "1:00:00.0"), (3725.3, "1:02:05.3")],
)
def test_clock(time_s: float, text: str) -> None:
    assert clock(time_s) == text


@pytest.mark.parametrize(
    ("p", "cells"), [(0.0, "    "), (1.0, "████"), (0.5, "██  "), (0.25 + 1 / 32, "█▏  "), (0.999, "████")]
)
def test_bar(p: float, cells: str) -> None:
    drawn = bar(p, chosen=True, colour="red")
    assert drawn.plain[:4] == cells
    assert drawn.plain[4:].strip() == str(round(p * 100))
    assert "bold" in str(drawn.style)
    assert "bold" not in str(bar(p, chosen=False, colour="red").style)


def test_timeline_shows_all_there_is_and_no_control_characters() -> None:
    text = shown(record())
    for part in (
        "clip.mp4",
        "partial",
        REASONS["no_face"],
        "1:00.0–1:03.0",
        "██   50",
        "anger",
        "[bold]",
        "50%",
        "100%",
        "0%",
    ):
        assert part in text
    assert "\x1b" not in text


def test_timeline_of_nothing_and_of_failure_is_short() -> None:
    nothing = record(utterances=[], overall={"probabilities": {}, "labels": []})
    assert "nothing to label" in shown(nothing)
    failed = shown(failed_record(Path("a\nb.mp4"), "empty", "Expected a media file\nbut"))
    assert failed.startswith("failed")
    assert failed.count("\n") == 1


def test_every_reason_in_the_documentation_has_its_sentence() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "output.md").read_text()
    for reason in REASONS:
        assert f"`{reason}`" in page


def test_same_names_do_not_meet_and_odd_names_become_files(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out", is_prediction)
    sources = [(Path("a/x.mp4"), "1" * 64), (Path("b/x.mp4"), "2" * 64), (Path("c/x.mp4"), "1" * 64)]
    sources += [(Path("new\nline/..mp4"), "3" * 64), (Path("..hidden\n/\udcff.mp4"), "4" * 64), (Path("y" * 250), None)]
    paths = [folder.place(source, identity, ".json") for source, identity in sources]
    assert len(set(paths)) == len(paths)
    for path in paths:
        folder.write_text(path, "{}")
        assert path.parent == tmp_path / "out"
        assert path.name.isprintable()
    assert not list((tmp_path / "out").glob(".partial*"))


def test_unwritable_output_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        OutputFolder(tmp_path / "file", is_prediction)
    assert caught.value.code == "output_unwritable"


def test_json_survives_names_that_are_not_utf8() -> None:
    text = to_json(document(None, [failed_record(Path("a\udcff.mp4"), "empty", "x")]))
    assert json.loads(text.encode())["files"][0]["outcome"] == "failed"


def test_results_replace_results_and_nothing_else(tmp_path: Path) -> None:
    mine = to_json(document(None, [record()]))
    for run, expected in (("first", "x.mp4.11111111.json"), ("second", "x.mp4.11111111.json")):
        folder = OutputFolder(tmp_path, is_prediction)
        path = folder.place(Path("x.mp4"), "1" * 64, ".json")
        assert path.name == expected, run
        folder.write_text(path, mine)
    (tmp_path / "x.mp4.11111111.json").write_text("the user's own notes")
    folder = OutputFolder(tmp_path, is_prediction)
    path = folder.place(Path("x.mp4"), "1" * 64, ".json")
    folder.write_text(path, mine)
    assert path.name == "x.mp4.11111111-2.json"
    assert (tmp_path / "x.mp4.11111111.json").read_text() == "the user's own notes"


@pytest.mark.parametrize("width", [60, 80, 100])
def test_narrow_terminals_lose_nothing(width: int) -> None:
    stream = io.StringIO()
    print_timeline(record(), LABELS, Console(file=stream, width=width, highlight=False))
    text = " ".join(stream.getvalue().split())
    for part in (
        "1:00.0–1:03.0",
        "well [bold]",
        "then",
        "anger ██ 50",
        "fear ▏ 4",
        "text 50%, voice 100%, face 0%",
        "overall",
    ):
        assert part in text
    assert "…" not in text
    assert max(map(len, stream.getvalue().splitlines())) <= width
