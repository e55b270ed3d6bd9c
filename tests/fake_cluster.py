"""Operators of a cluster run with fake workers (:mod:`tests.fake_worker`), importable on every node.

A file that says "die with the actor" ends the process that supervises its worker, too.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pipeline.crew
from pipeline.cluster import ClusterOptions, ClusterRun
from pipeline.cluster_needs import Needs
from pipeline.cluster_stage import Job, Stages
from pipeline.stages import Item, Work
from tests.fake_run import ABOUT
from tests.fake_worker import FakePlan

REPOSITORY = Path(__file__).parents[1]


class FakeStages(Stages):
    """The real operator around a fake worker."""

    def __init__(self, *arguments: Any) -> None:
        pipeline.crew.WORKER = [sys.executable, "-m", "tests.fake_worker"]
        os.environ["PYTHONPATH"] = os.fspath(REPOSITORY)
        super().__init__(*arguments)

    def _task(self, stage: Work, local: Item, state: dict[str, Any]) -> dict[str, Any]:
        if stage == "open" or Path(local.path).read_bytes() != b"die with the actor":
            return super()._task(stage, local, state)
        with self._counted(local.name):
            os.kill(os.getpid(), signal.SIGKILL)
        return {}


def fake_job(folder: str, output: str, marks: Path, slow_s: float = 0.0, **limits: Any) -> Job:
    """A job of fake stages."""
    marks.mkdir(exist_ok=True)
    plan: Any = FakePlan()
    start = {"settings": {}, "marks": os.fspath(marks), "setting": "", "slow_s": slow_s}
    return Job(folder, output, plan, {"cpu": plan, "cuda": plan}, start, ABOUT, **limits)


def fake_cluster_run(job: Job, needs: dict[Work, Needs] | None = None) -> ClusterRun:
    """A run of fake stages on the cluster that was joined."""
    memory = 10**8
    run = ClusterRun(ClusterOptions(job.folder, job.output, memory_limit=memory), job, needs)
    run.operator = FakeStages
    return run
