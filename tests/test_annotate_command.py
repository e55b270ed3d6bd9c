"""`lamb annotate`, corrections by hand, and `lamb dataset import`: what people corrected comes back as labels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.table import read_table
from tests.media_maker import picture_and_tone

LABELS = ["anger", "fear"]


def lamb(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


def utterance(start_s: float, end_s: float, text: str, labels: list[str]) -> dict[str, Any]:
    probabilities = {name: 0.9 if name in labels else 0.1 for name in LABELS}
    return {"start_s": start_s, "end_s": end_s, "text": text, "labels": labels, "probabilities": probabilities}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Results as `lamb label` leaves them, and their videos."""
    videos = tmp_path / "videos"
    (videos / "deep").mkdir(parents=True)
    picture_and_tone(videos / "deep" / "a.mp4")
    (tmp_path / "results" / "json" / "deep").mkdir(parents=True)
    (tmp_path / "results" / "lamb-folder.json").write_text(json.dumps({"folder": str(videos)}))
    spoken = [utterance(0.1, 0.4, "leave me", ["anger"]), utterance(0.5, 0.9, "help", [])]
    record = {"file": "deep/a.mp4", "outcome": "ok", "duration_s": 1.0, "utterances": spoken}
    failed = {"file": "b.mp4", "outcome": "failed", "error": {"code": "not_media", "message": "x"}}
    document = {"schema": 1, "checkpoint": {"labels": LABELS, "fingerprint": "f" * 64}, "files": [record, failed]}
    (tmp_path / "results" / "json" / "deep" / "a.mp4.json").write_text(json.dumps(document))
    return tmp_path


def test_corrections_in_elan_come_back_as_labels(project: Path) -> None:
    done = lamb("annotate", "results", "--output", "corrections", cwd=project)
    assert done.returncode == 0, done.stderr
    path = project / "corrections" / "deep" / "a.mp4.eaf"
    text = path.read_text(encoding="utf-8")
    assert "../../videos/deep/a.mp4" in text
    lamb("dataset", "import", "elan", ".", "--output", "as_said.csv", cwd=project)
    said = read_table(project / "as_said.csv")
    assert [(item.start_s, item.end_s, item.text, item.labels) for item in said.items] == [
        (0.1, 0.4, "leave me", ("anger",)),
        (0.5, 0.9, "help", ()),
    ]
    # somebody hears fear in the second one, and corrects a word
    slots = [part.split('"')[0] for part in text.split('TIME_SLOT_ID="')[1:]]
    times = [int(part.split('"')[0]) for part in text.split('TIME_VALUE="')[1:]]
    first, last = (slots[times.index(time_ms)] for time_ms in (500, 900))
    added = (
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="mine" TIME_SLOT_REF1="{first}" TIME_SLOT_REF2="{last}">'
        "<ANNOTATION_VALUE>x</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
    )
    tier = '<TIER LINGUISTIC_TYPE_REF="utterance" TIER_ID="fear" />'
    assert tier in text
    text = text.replace(tier, tier.replace(" />", f">{added}</TIER>")).replace(">help<", ">help me<")
    path.write_text(text, encoding="utf-8")
    done = lamb("dataset", "import", "elan", ".", "--output", "corrected.csv", cwd=project)
    assert done.returncode == 0, done.stderr
    corrected = read_table(project / "corrected.csv")
    assert corrected.problems == ()
    assert [(item.text, item.labels) for item in corrected.items] == [("leave me", ("anger",)), ("help me", ("fear",))]
    assert all(item.path and item.path.samefile(project / "videos" / "deep" / "a.mp4") for item in corrected.items)


def test_label_studio_tasks_and_their_configuration(project: Path) -> None:
    done = lamb("annotate", "results", "--output", "tasks", "--tool", "label-studio", cwd=project)
    assert done.returncode == 0, done.stderr
    (task,) = json.loads((project / "tasks" / "tasks.json").read_text())
    regions = [r for r in task["predictions"][0]["result"] if r["type"] == "labels"]
    assert [(r["value"]["start"], r["value"]["labels"]) for r in regions] == [(0.1, ["anger"]), (0.5, ["neutral"])]
    assert '<Label value="fear"/>' in (project / "tasks" / "config.xml").read_text()
    again = lamb("annotate", "results", "--output", "tasks", cwd=project)
    assert again.returncode == 2
    assert "there is one" in again.stderr
    nothing = lamb("annotate", "videos", "--output", "more", cwd=project)
    assert nothing.returncode == 2
    assert "Expected results" in nothing.stderr
    assert not (project / "more").exists()
