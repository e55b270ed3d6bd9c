"""The benchmark of the whole path: every second of CPU is in one row, and the rows are those of a real run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks import pipeline_speed
from tests.media_maker import picture_and_tone


def _busy(seconds: float) -> None:
    end_s = time.process_time() + seconds
    while time.process_time() < end_s:
        pass


def test_a_row_s_clock_stands_while_a_row_inside_it_runs() -> None:
    watch = pipeline_speed.Stopwatch()
    inner = watch.timed("inner", lambda: _busy(0.05))
    begin_s = pipeline_speed.cpu_s()
    with watch.row("outer"):
        _busy(0.02)
        inner()
        assert list(watch.timed_iterator("steps", lambda: (_busy(0.01) or i for i in range(3)))()) == [0, 1, 2]
    spent_s = pipeline_speed.cpu_s() - begin_s
    # Lower bounds hold whatever else the machine does; the sum is exact but for the calls between.
    assert watch.spent_s["inner"] >= 0.05
    assert watch.spent_s["steps"] >= 0.03
    assert watch.spent_s["outer"] >= 0.02
    assert sum(watch.spent_s.values()) == pytest.approx(spent_s, abs=0.005)


def test_rows_add_up_and_nothing_stays_wrapped(tmp_path: Path) -> None:
    import pipeline.video
    from extractors.facial.mediapipe_parts import Landmarker

    before = Landmarker.find, pipeline.video.read_frames, pipeline.video.Extractors.facial
    clip = picture_and_tone(tmp_path / "clip.mp4", seconds=2.0)
    lines = pipeline_speed.stages_report([clip], tmp_path)
    assert before == (Landmarker.find, pipeline.video.read_frames, pipeline.video.Extractors.facial)

    begin = next(i for i, line in enumerate(lines) if line.startswith("clip.mp4"))
    assert "2.0 s, 50 frames" in lines[begin]
    names = (*pipeline_speed.STAGES, pipeline_speed.REST)
    cells = [line[28:].split() for line in lines[begin + 2 : begin + 3 + len(names)]]
    assert [line[:28].strip() for line in lines[begin + 2 : begin + 3 + len(names)]] == [*names, "sum"]
    spent = dict(zip(names, (float(row[0]) for row in cells), strict=False))
    total = float(cells[-1][0])
    assert sum(spent.values()) == pytest.approx(total, abs=1e-4 * len(names))
    assert sum(float(row[2].rstrip("%")) for row in cells[:-1]) == pytest.approx(100, abs=0.1 * len(names))
    for cost, speed, _ in cells:
        if speed != "-":  # both are rounded
            rounding = 0.05 * float(cost) + 0.5e-4 * float(speed)
            assert float(speed) * float(cost) == pytest.approx(1, abs=rounding + 1e-3)
    for stage in ("facial: decoding", "facial: to RGB", "facial: landmarks", "acoustic columns", "sound: decoding"):
        assert spent[stage] > 0, stage
    assert f"slowest: {max(spent, key=spent.__getitem__)};" in lines[begin + 3 + len(names)]
    assert lines[-1].startswith("peak memory")
