"""`lamb label FOLDER` as a person runs it: the labels of `lamb predict`, tables, going on, watching, hostile folders."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.media.corpus import make_corpus
from tests.media_maker import ffmpeg, picture_and_tone, tone
from tests.test_cli import LABELS, lamb
from tests.test_folder_run import results

OPTIONS = ("--threads", "1", "--device", "cpu")


pytestmark = pytest.mark.xdist_group("label")  # what they share is made once


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, feat_media: Path, speech_wav: Path) -> Path:
    """A face that talks for 4 s, a picture with a tone under two names, a sound, a letter that calls itself a video."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    ffmpeg(
        "-i", feat_media / "WolfgangLanger_Pexels.mp4", "-i", speech_wav, "-t", "4", "-map", "0:v", "-map", "1:a",
        "-vf", "scale=-2:360", "-r", "10", "-pix_fmt", "yuv420p", folder / "talking.mp4",
    )  # fmt: skip
    picture_and_tone(folder / "tone.mp4", seconds=1)
    shutil.copy(folder / "tone.mp4", folder / "deep" / "tone.mp4")
    tone(folder / "sound.wav", seconds=1)
    (folder / "letter.mp4").write_text("Dear Sir or Madam,\n" * 100)
    (folder / "notes.txt").write_text("not a recording")
    return folder


@pytest.fixture(scope="module")
def labelled(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run, whose terminal and log are looked at here."""
    output = tmp_path_factory.mktemp("labelled") / "results"
    log = output.with_name("log.json")
    before = {path: path.read_bytes() for path in videos.rglob("*") if path.is_file()}
    # as people type it: what is kept and linked must not depend on it
    relative = os.path.relpath(output, videos.parent)
    options = ("--output", relative, "--workers", "2", "--json-log", log, *OPTIONS)
    done = lamb("label", videos.name, *options, cwd=videos.parent)
    assert done.returncode == 1, done.stderr
    assert {path: path.read_bytes() for path in videos.rglob("*") if path.is_file()} == before
    plan, *lines = done.stderr.strip().splitlines()
    assert plan.startswith("5 files, ")
    assert "0 done before, 5 to do" in plan
    assert "left alone: 1 other files" in done.stderr
    assert sum(" ok  [" in line or " partial (" in line or " failed (" in line for line in lines) == 5
    table = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines()[:-1])
    assert {name.strip(): int(count) for name, count in table.items()} == {
        "ok": 1,
        "partial": 3,
        "failed: not_media": 1,
    }
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["plan", *["file"] * 5, "end"]
    assert 10**8 < events[-1]["worker_peak_bytes"] < 3 * 10**9
    return output


def test_the_same_records_as_predict(videos: Path, labelled: Path) -> None:
    names = ["deep/tone.mp4", "letter.mp4", "sound.wav", "talking.mp4", "tone.mp4"]
    told = lamb("predict", "--json", "--quiet", *OPTIONS, *names, cwd=videos)
    whole = json.loads(told.stdout)
    for name, record in zip(names, whole["files"], strict=True):
        document = json.loads((labelled / "json" / f"{name}.json").read_text())
        assert document == {**whole, "files": [record]}
    assert whole["files"][3]["outcome"] == "ok"
    assert "best of times" in " ".join(row["text"] for row in whole["files"][3]["utterances"]).lower()


def test_tables_hold_what_the_documents_hold(labelled: Path) -> None:
    rows = pq.read_table(labelled / "labels.parquet").to_pylist()
    with (labelled / "labels.csv").open(newline="", encoding="utf-8") as stream:
        written = list(csv.DictReader(stream))
    expected = []
    for path in sorted((labelled / "json").rglob("*.json")):
        for record in json.loads(path.read_text())["files"]:
            expected += [(record["file"], row) for row in record["utterances"]]
    assert len(rows) == len(written) == len(expected) > 0
    for row, line, (name, found) in zip(rows, written, expected, strict=True):
        assert (row["file"], row["start_s"], row["end_s"], row["text"]) == (
            name, found["start_s"], found["end_s"], found["text"],
        )  # fmt: skip
        assert {label: row[f"p_{label}"] for label in LABELS} == found["probabilities"]
        assert [label for label in LABELS if row[label]] == found["labels"]
        assert {key: row[f"coverage_{key}"] for key in ("text", "audio", "visual")} == found["coverage"]
        assert (line["file"], line["text"], float(line["p_anger"])) == (name, found["text"], row["p_anger"])
        assert line["face"] == ""
    files = {row["file"]: row for row in pq.read_table(labelled / "files.parquet").to_pylist()}
    assert files["letter.mp4"]["error_code"] == "not_media"
    assert "letter.mp4" in files["letter.mp4"]["error_message"]
    talking = files["talking.mp4"]
    assert all(talking[f"seconds_{stage}"] > 0 for stage in ("open", "speech", "acoustic", "facial", "finish"))
    assert talking["duration_s"] == pytest.approx(4, abs=0.1)
    assert files["sound.wav"]["reasons"] == ["no_speech", "no_video"]


def kept(output: Path) -> Counter[str]:
    return Counter(path.parent.parent.name for path in (output / "cache").rglob("*.*") if path.parent.parent != output)


def test_again_is_nothing_and_another_setting_is_its_stage(videos: Path, labelled: Path, tmp_path: Path) -> None:
    output = tmp_path / "results"
    shutil.copytree(labelled, output)
    expected, before = results(output), kept(output)
    assert before["speech"] == before["acoustic"] == before["facial"] == before["labels"] == 3
    done = lamb("label", videos, "--output", output, "--quiet", *OPTIONS)
    assert (done.returncode, done.stderr) == (1, "")
    assert (results(output), kept(output)) == (expected, before)
    done = lamb("label", videos, "--output", output, "--max-rate-hz", "5", *OPTIONS)
    assert "1 done before, 4 to do" in done.stderr, "what cannot be read needs no other setting"
    new = kept(output) - before
    assert (new["facial"], new["labels"], new["speech"], new["acoustic"]) == (3, 3, 0, 0)
    assert results(output) != expected


def test_killed_at_random_moments(videos: Path, labelled: Path, tmp_path: Path) -> None:
    output, chance = tmp_path / "results", random.Random(1)
    command = [sys.executable, "-m", "pipeline.cli", "label", str(videos), "--output", str(output), "--quiet", *OPTIONS]
    for _ in range(6):
        run = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(2, 9))
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=300, check=False).returncode == 1
    assert results(output) == results(labelled)


def test_no_keep_leaves_no_stage_results(videos: Path, labelled: Path, tmp_path: Path) -> None:
    done = lamb("label", videos, "--output", tmp_path / "out", "--no-keep", "--quiet", *OPTIONS)
    assert done.returncode == 1
    assert results(tmp_path / "out") == results(labelled)
    assert not list((tmp_path / "out" / "cache").rglob("*.safetensors"))


def test_watching_labels_what_arrives_and_stops_when_told(videos: Path, tmp_path: Path) -> None:
    inbox, output = tmp_path / "inbox", tmp_path / "results"
    inbox.mkdir()
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "label",
        str(inbox),
        "-o",
        str(output),
        "--watch",
        "--interval",
        ".2",
    ]
    watching = subprocess.Popen([*command, *OPTIONS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for name in ("tone.mp4", "sound.wav"):
            arrived = Path(shutil.copy(videos / name, inbox / name))
            os.utime(arrived, (time.time() - 60, time.time() - 60))  # a file that changes no more
            until_s = time.monotonic() + 120
            while not (output / "json" / f"{name}.json").exists() and time.monotonic() < until_s:
                time.sleep(0.1)
            assert (output / "json" / f"{name}.json").exists()
        growing = inbox / "growing.mp4"
        growing.write_bytes((videos / "tone.mp4").read_bytes()[:1000])
        time.sleep(1.5)
        assert not (output / "json" / "growing.mp4.json").exists(), "it is still being written"
    finally:
        watching.send_signal(signal.SIGTERM)  # SIGINT is ignored where pytest runs in a script's background
        said, complaints = watching.communicate(timeout=60)
    assert watching.returncode == 0, complaints
    assert "stopped" in complaints
    assert "Traceback" not in complaints
    assert said.count("files") >= 2


def test_extract_writes_the_features_of_a_folder(videos: Path, tmp_path: Path) -> None:
    from data import FeatureTrack

    done = lamb("extract", videos, "--output", tmp_path / "all", "--only", "acoustic", "--csv", "--quiet", *OPTIONS)
    assert done.returncode == 1, done.stderr
    one = lamb("extract", videos / "talking.mp4", "-o", tmp_path / "one", "--only", "acoustic", "-q", *OPTIONS)
    alone = FeatureTrack.load(Path(one.stdout.strip()) / "audio")
    folder = tmp_path / "all" / "features" / "talking.mp4"
    found = FeatureTrack.load(folder / "audio")
    assert found.description() == alone.description()
    assert all((found.arrays()[name] == array).all() for name, array in alone.arrays().items())
    assert {path.name for path in folder.iterdir()} == {"audio.csv", "audio.json", "audio.safetensors", "clip.json"}
    assert {path.name for path in (tmp_path / "all" / "features").iterdir()} == {
        "deep", "talking.mp4", "tone.mp4", "sound.wav",
    }  # fmt: skip
    shutil.rmtree(folder)
    assert (
        lamb("extract", videos, "-o", tmp_path / "all", "--only", "acoustic", "--csv", "-q", *OPTIONS).returncode == 1
    )
    assert (folder / "clip.json").is_file(), "a lost result is written again"


def test_dry_run_only_plans(videos: Path, tmp_path: Path) -> None:
    done = lamb("label", videos, "--output", tmp_path / "out", "--dry-run", *OPTIONS)
    assert (done.returncode, done.stdout) == (0, "")
    assert "5 to do (7 s)" in done.stderr
    assert not (tmp_path / "out" / "labels.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("label", "nowhere", "-o", "out"), "Expected a folder at 'nowhere' but there is none"),
        (("label", "file.mp4", "-o", "out"), "is a file"),
        (("label", ".", "-o", "."), "nothing is written beside them"),
        (("label", ".", "-o", "/proc/out"), "Could not write"),
        (("label", ".", "-o", "mine"), "other files are there"),
        (("label", ".",), "Missing option '--output'"),
        (("label", ".", "-o", "out", "--workers", "0"), "--workers"),
        (("label", ".", "-o", "out", "--checkpoint", "none"), "Expected a LAMB checkpoint"),
        (("label", ".", "-o", "out", "--json-log", "/proc/x"), "Expected a log file"),
        (("extract", ".", "file.mp4", "-o", "out"), "one folder"),
    ],
)  # fmt: skip
def test_wrong_use_exits_with_2(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "file.mp4").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = lamb(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hostile_folder_ends_with_the_table_of_outcomes(tmp_path: Path) -> None:
    """Every case of the corpus in one folder: the outcome of each is the table's, and none takes another one with it."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    cases = {name: case for name, case in make_corpus(folder).items() if case.listed}
    done = lamb("label", folder, "--output", tmp_path / "out", "--workers", "2", "--quiet", *OPTIONS)
    assert done.returncode == 1, done.stderr
    rows = {row["file"]: row for row in pq.read_table(tmp_path / "out" / "files.parquet").to_pylist()}
    shown = {os.fsencode(name).decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace").decode(): case
             for name, case in cases.items()}  # fmt: skip
    assert set(rows) == set(shown)
    wrong = {
        name: (rows[name]["outcome"], rows[name]["error_code"], rows[name]["reasons"], case)
        for name, case in shown.items()
        if (rows[name]["outcome"], rows[name]["error_code"] or "", tuple(rows[name]["reasons"]))
        != (case.outcome, case.code, case.reasons)
    }
    assert not wrong
