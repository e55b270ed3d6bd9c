"""The folder run with fake workers: each file once, whatever dies, and the bytes of an undisturbed run."""

from __future__ import annotations

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
from typing import Any

import pyarrow.parquet as pq
import pytest

from data import InputError
from pipeline.books import MARKER
from pipeline.store import LocalStore
from tests.fake_run import complete, fake_run

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Nine files: seven contents, one of them twice, one broken."""
    folder = tmp_path / "videos"
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(6):
        (folder / f"{number}.mp4").write_text(f"content {number}")
    shutil.copy(folder / "3.mp4", folder / "deep" / "3.mp4")
    (folder / "deep" / "er" / "3.mp4").write_text("another content")
    (folder / "broken.mp4").write_text("broken")
    return folder


def results(output: Path) -> dict[str, Any]:
    """All that a run promises: every file but the cache, without the seconds that stages took."""
    found: dict[str, Any] = {}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_file() and not name.startswith("cache/"):
            found[name] = path.read_bytes()
    table = pq.read_table(output / "files.parquet").to_pylist()
    found["files.parquet"] = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in table]
    return found


def calls(marks: Path) -> Counter[str]:
    """How often each stage ran on each content."""
    path = marks / "calls"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def test_each_file_once_and_the_tables(videos: Path, tmp_path: Path) -> None:
    output, marks = tmp_path / "out", tmp_path / "marks"
    run = fake_run(videos, output, marks, n_workers=2)
    done = complete(run)
    assert sorted(one.name for one in done) == [
        "0.mp4", "1.mp4", "2.mp4", "3.mp4", "4.mp4", "5.mp4", "broken.mp4", "deep/3.mp4", "deep/er/3.mp4",
    ]  # fmt: skip
    stages = calls(marks)
    assert len(stages) == 7 * 4, "seven contents, four stages"
    assert set(stages.values()) == {1}, "equal contents share"
    rows = pq.read_table(output / "files.parquet").to_pylist()
    assert [row["file"] for row in rows] == sorted(one.name for one in done)
    assert Counter(row["outcome"] for row in rows) == {"ok": 8, "failed": 1}
    assert [row["error_code"] for row in rows if row["outcome"] == "failed"] == ["not_media"]
    texts = {row["file"]: row["text"] for row in pq.read_table(output / "labels.parquet").to_pylist()}
    assert texts["deep/3.mp4"] == texts["3.mp4"] == "content 3"
    assert texts["deep/er/3.mp4"] == "another content", "same name, other folder, other result"
    document = json.loads((output / "json" / "deep" / "3.mp4.json").read_text())
    assert document["files"][0]["file"] == "deep/3.mp4"
    assert {path.name for path in output.iterdir()} == {
        "cache", "json", "labels.csv", "labels.parquet", "files.parquet", MARKER,
    }  # fmt: skip

    before = results(output)
    again = fake_run(videos, output, marks)
    assert {one.cached for one in again.scan()} == {True}
    assert not again.todo
    complete(again)
    assert calls(marks) == stages
    assert results(output) == before


def test_only_what_depends_on_a_change_runs_again(videos: Path, tmp_path: Path) -> None:
    output, marks = tmp_path / "out", tmp_path / "marks"
    complete(fake_run(videos, output, marks))
    (videos / "0.mp4").rename(videos / "deep" / "renamed.mp4")
    before = calls(marks)
    complete(fake_run(videos, output, marks))
    assert calls(marks) == before, "a renamed file is the same content"
    assert "deep/renamed.mp4" in [row["file"] for row in pq.read_table(output / "files.parquet").to_pylist()]

    before = calls(marks)
    complete(fake_run(videos, output, marks, setting="-other"))
    assert {stage.split()[0] for stage in calls(marks) - before} == {"facial", "finish"}

    before = calls(marks)
    (videos / "1.mp4").write_text("changed")
    complete(fake_run(videos, output, marks))
    assert sum((calls(marks) - before).values()) == 4


def test_what_dies_hangs_or_eats_costs_one_file(videos: Path, tmp_path: Path) -> None:
    output, marks = tmp_path / "out", tmp_path / "marks"
    for said in ("die", "hang", "eat", "die once"):
        (videos / f"{said}.mp4").write_text(said)
    run = fake_run(videos, output, marks, n_workers=2, time_limit_s=8.0, time_limit_per_s=0.0, memory_limit=400 * 10**6)
    done = {one.name: one for one in complete(run)}
    failed = {name: one.reasons for name, one in done.items() if one.outcome == "failed"}
    assert failed == {
        "broken.mp4": ("not_media",), "die.mp4": ("worker_died",), "hang.mp4": ("time_limit",), "eat.mp4": ("memory_limit",),
    }  # fmt: skip
    assert len(done) == 13
    assert all("\n" not in one.message for one in done.values())
    # what was not the file's own fault for good is tried again by the next run, what is broken is not
    (videos / "hang.mp4").write_text("behaves now")
    again = fake_run(videos, output, marks, time_limit_s=8.0, memory_limit=400 * 10**6)
    assert "broken.mp4" in {one.name for one in again.scan()}
    assert {item.name for item in again.todo} == {"die.mp4", "eat.mp4", "hang.mp4"}


def test_retry_failed_tries_what_failed_for_good(videos: Path, tmp_path: Path) -> None:
    output, marks = tmp_path / "out", tmp_path / "marks"
    complete(fake_run(videos, output, marks))
    run = fake_run(videos, output, marks, retry_failed=True)
    assert [one.name for one in complete(run)] == ["broken.mp4"]


def process(videos: Path, output: Path, marks: Path, **options: Any) -> subprocess.Popen[bytes]:
    given = {"folder": str(videos), "output": str(output), "marks": str(marks), **options}
    command = [sys.executable, "-m", "tests.fake_run", json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)


def test_killed_at_random_moments_the_next_run_ends_with_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    complete(fake_run(videos, tmp_path / "whole", marks, n_workers=2))
    expected = results(tmp_path / "whole")
    chance, output = random.Random(5), tmp_path / "out"
    kills = 0
    for _ in range(15):
        run = process(videos, output, tmp_path / "marks2", n_workers=2, slow_s=0.03, claims_stale_s=600.0)
        try:
            run.wait(chance.uniform(0.3, 2.5))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
        else:
            shutil.rmtree(output)  # it came through: from the beginning
        finally:
            if run.stdout:
                run.stdout.close()
    assert kills >= 6
    assert process(videos, output, tmp_path / "marks2", n_workers=2).wait(120) == 0
    until_s = time.monotonic() + 30
    while any((output / ".partial").glob("*")) and time.monotonic() < until_s:  # the kernel still writes for a dead one
        time.sleep(0.2)
        LocalStore(output).sweep()
    assert results(output) == expected, "claims, half-written files and the dead leave nothing behind"


def test_dead_runs_leave_no_workers(videos: Path, tmp_path: Path) -> None:
    import psutil

    (videos / "hang.mp4").write_text("hang")
    run = process(videos, tmp_path / "out", tmp_path / "marks", n_workers=2)
    workers: list[psutil.Process] = []
    until_s = time.monotonic() + 30
    while len(workers) < 2 and time.monotonic() < until_s:
        workers = psutil.Process(run.pid).children(recursive=True)
        time.sleep(0.05)
    assert len(workers) == 2
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_two_runs_at_once_share_the_work(videos: Path, tmp_path: Path) -> None:
    for number in range(30):
        (videos / f"more{number}.mp4").write_text(f"more {number}")
    output, marks = tmp_path / "out", tmp_path / "marks"
    runs = [process(videos, output, marks, slow_s=0.02) for _ in range(3)]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    done = [name for line in said for name in json.loads(line)]
    assert sorted(done) == sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*.mp4"))
    stages = calls(marks)
    assert sum(stages.values()) <= 37 * 4 + 8, "each file once; equal contents may be met by two runs at one moment"
    assert pq.read_table(output / "files.parquet").num_rows == len(done)
    assert not list((output / "cache" / "claims").iterdir())


def test_a_run_waits_for_what_another_one_lets_fall(videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (videos / "0.mp4").write_text("die once 1")
    slow = process(videos, output, tmp_path / "marks", slow_s=0.5)
    time.sleep(2.0)
    quick = process(videos, output, tmp_path / "marks", claims_stale_s=120.0)
    time.sleep(0.5)
    slow.kill()
    slow.wait()
    assert quick.wait(60) == 0
    rows = pq.read_table(output / "files.parquet").to_pylist()
    assert Counter(row["outcome"] for row in rows) == {"ok": 8, "failed": 1}


def test_files_that_vanish_or_grow_fail_alone(videos: Path, tmp_path: Path) -> None:
    output, marks = tmp_path / "out", tmp_path / "marks"
    run = fake_run(videos, output, marks)
    run.scan()
    (videos / "1.mp4").unlink()
    (videos / "2.mp4").write_text("grown since it was listed")
    done: dict[str, Any] = {}
    run.work(lambda one: done.update({one.name: one.reasons}))
    assert done["1.mp4"] == ("vanished",)
    assert done["2.mp4"] == ("changed",)
    assert run.finish() == {"ok": 6, "failed: not_media": 1, "failed: vanished": 1, "failed: changed": 1}
    again = fake_run(videos, output, marks)
    assert [one.name for one in complete(again)] == ["2.mp4"]
    assert again.finish() == {"ok": 7, "failed: not_media": 1}


def test_damaged_cache_is_made_again(videos: Path, tmp_path: Path) -> None:
    output, marks = tmp_path / "out", tmp_path / "marks"
    complete(fake_run(videos, output, marks))
    expected = results(output)
    for path in [*(output / "cache" / "finish").iterdir(), *(output / "cache" / "files").rglob("*.json")]:
        path.write_bytes(path.read_bytes()[:-5])
    (output / "json" / "0.mp4.json").write_text("{")
    (output / "labels.csv").unlink()
    complete(fake_run(videos, output, marks))
    assert results(output) == expected


def test_a_full_disk_fails_files_and_the_next_run_goes_on(videos: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        complete(fake_run(videos, disk / "out", tmp_path / "marks"))
        expected = results(disk / "out")
        shutil.rmtree(disk / "out")
        (disk / "filler").write_bytes(b"x" * (2 * 2**20 - 100_000))
        run = fake_run(videos, disk / "out", tmp_path / "marks")
        run.scan()
        done: dict[str, Any] = {}
        run.work(lambda one: done.update({one.name: one.reasons}))
        assert len(done) == 9
        assert ("disk_full",) in done.values()
        (disk / "filler").unlink()
        complete(fake_run(videos, disk / "out", tmp_path / "marks"))
        assert results(disk / "out") == expected
    finally:
        unmount = ["umount", "-l", str(disk)]
        subprocess.run(unmount, check=True)


def test_other_peoples_folders_are_refused(videos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for output in (mine, videos):
        with pytest.raises(InputError) as caught:
            fake_run(videos, output, tmp_path / "marks")
        assert caught.value.code == "output_exists"
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    complete(fake_run(videos, tmp_path / "out", tmp_path / "marks"))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InputError, match="those of"):
        fake_run(other, tmp_path / "out", tmp_path / "marks")
    moved = videos.rename(tmp_path / "moved")
    assert len(fake_run(moved, tmp_path / "out", tmp_path / "marks").scan()) == 9, "a folder that moved is the same"
    with pytest.raises(InputError) as caught:
        fake_run(tmp_path / "nowhere", tmp_path / "out", tmp_path / "marks").scan()
    assert caught.value.code == "not_found"


def test_workers_that_cannot_start_end_the_run(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline.crew

    run = fake_run(videos, tmp_path / "out", tmp_path / "marks", n_workers=2)
    monkeypatch.setattr(pipeline.crew, "WORKER", [sys.executable, "-c", "raise SystemExit(1)"])
    run.scan()
    with pytest.raises(InputError, match="died before one had done anything"):
        run.work(lambda done: None)


def test_workers_are_replaced_after_many_tasks(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline.crew

    complete(fake_run(videos, tmp_path / "one", tmp_path / "marks", n_workers=2))
    monkeypatch.setattr(pipeline.crew, "TASKS_PER_WORKER", 3)
    hired: list[object] = []
    hire = pipeline.crew.Crew._hire
    monkeypatch.setattr(pipeline.crew.Crew, "_hire", lambda crew, lane: hired.append(lane) or hire(crew, lane))
    complete(fake_run(videos, tmp_path / "other", tmp_path / "marks", n_workers=2))
    assert len(hired) >= 7, "some thirty tasks"
    assert results(tmp_path / "other") == results(tmp_path / "one")


def test_files_are_settled_by_their_time_or_by_ours(videos: Path, tmp_path: Path) -> None:
    now_s = time.time()
    for path in videos.rglob("*.mp4"):
        os.utime(path, (now_s - 100, now_s - 100))
    os.utime(videos / "0.mp4", (now_s + 3600, now_s + 3600))  # another machine's clock
    (videos / "1.mp4").write_text("just now")
    run = fake_run(videos, tmp_path / "out", tmp_path / "marks")
    run.scan(settled_s=0.5)
    assert {"0.mp4", "1.mp4"}.isdisjoint(item.name for item in run.todo)
    time.sleep(0.6)
    run.scan(settled_s=0.5)
    assert {"0.mp4", "1.mp4"} <= {item.name for item in run.todo}


def test_results_inside_the_folder_are_not_taken_for_videos(videos: Path, tmp_path: Path) -> None:
    output = videos / "results"
    complete(fake_run(videos, output, tmp_path / "marks"))
    (output / "json" / "x.mp4").write_text("not a video of the user's")
    run = fake_run(videos, output, tmp_path / "marks")
    assert len(run.scan()) == 9
    assert not run.todo


def test_names_that_are_long_or_no_text(videos: Path, tmp_path: Path) -> None:
    names = ["x" * 251 + ".mp4", "new\nline.mp4", os.fsdecode(b"\xff\xfe.mp4"), "-o.mp4", "ünï 日本.mp4"]
    for name in names:
        (videos / name).write_text(f"said {len(name)}")
    complete(fake_run(videos, tmp_path / "out", tmp_path / "marks"))
    rows = pq.read_table(tmp_path / "out" / "files.parquet").to_pylist()
    assert Counter(row["outcome"] for row in rows) == {"ok": 13, "failed": 1}
    assert len(list((tmp_path / "out" / "json").rglob("*.json"))) == 14
    run = fake_run(videos, tmp_path / "out", tmp_path / "marks")
    assert len(run.scan()) == 14
