"""A worker for tests of the folder run: the real protocol and the real store, stages that only name what they saw.

What a file says is what happens: "die" kills the worker, "hang" never answers, "eat" takes memory, "die once" kills the first
worker that meets it. Everything else is done: a stage writes the names of its file's content and of itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.stages import Item, Opened
from pipeline.store import LocalStore
from pipeline.worker import _private_stdout, _read, _send


class FakePlan:
    """What :class:`pipeline.stages.Plan` is, without extractors. ``setting`` stands for one that only "facial" sees."""

    product = "labels"
    stages = ("speech", "acoustic", "facial")

    def __init__(self, setting: str = "") -> None:
        self.setting = setting

    def waits_for(self, stage: str) -> tuple[str, ...]:
        return self.stages if stage == "finish" else ()

    def place(self, stage: str, opened: Opened) -> str:
        suffix = self.setting if stage in ("facial", "finish") else ""
        return f"cache/{stage}/{opened.sha256}{suffix}"


def perform(task: dict[str, Any], plan: FakePlan, store: LocalStore, marks: Path) -> dict[str, Any]:
    from extractors.media import MediaInfo

    item, stage = Item(**task["item"]), task["stage"]
    item.check()
    said = Path(item.path).read_text()
    if stage == "open":
        if said == "broken":
            return {"error": {"code": "not_media", "message": "Expected media."}}
        info = MediaInfo(Path(item.path), "fake", 1.0, 0.0, None, None, 0, 0)
        import hashlib

        return {"opened": Opened(hashlib.sha256(said.encode()).hexdigest(), info).to_dict(), "seconds": 0.0}
    opened = Opened.from_dict(task["opened"], item.path)
    with (marks / "calls").open("a") as calls:
        calls.write(f"{stage} {opened.sha256}\n")
    if stage == "speech" and said == "die in speech":
        os._exit(3)
    if stage == "acoustic":
        misbehave(said, marks / opened.sha256)
    if stage != "finish":
        store.write(plan.place(stage, opened), f"{stage} of {opened.sha256}".encode())  # type: ignore[arg-type]
        return {"seconds": 0.001}
    for part in plan.stages:
        content = store.read(plan.place(part, opened))
        if content != f"{part} of {opened.sha256}".encode():
            return {"error": {"code": "damaged", "message": f"{part}: {content!r}"}}
    record = {
        "sha256": opened.sha256, "duration_s": 1.0, "outcome": "ok", "reasons": [], "error": None,
        "utterances": [{
            "start_s": 0.0, "end_s": 1.0, "text": said, "probabilities": {"anger": 0.25}, "labels": [],
            "coverage": {"text": 1.0, "audio": 1.0, "visual": 1.0},
        }],
        "overall": {"probabilities": {"anger": 0.25}, "labels": []}, "seconds": {"open": time.time()},
    }  # fmt: skip
    store.write(plan.place("finish", opened), json.dumps(record).encode())
    return {"outcome": "ok", "seconds": 0.001}


def misbehave(said: str, mark: Path) -> None:
    if said.startswith("die once") and not mark.exists():
        mark.touch()
        os._exit(3)
    if said == "die":
        os._exit(3)
    if said == "hang":
        time.sleep(1000)
    if said == "eat":
        food = [bytearray(b"x" * 10**7) for _ in range(1000)]
        time.sleep(len(food))


def main() -> None:
    import queue
    import threading

    results, lines = _private_stdout(), queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    start = json.loads(lines.get())
    _send(results, {"task": None})
    plan, store = FakePlan(start["setting"]), LocalStore(Path(start["output"]))
    while True:
        task = json.loads(lines.get())
        if start.get("slow_s"):
            time.sleep(start["slow_s"])
        try:
            result = perform(task, plan, store, Path(start["marks"]))
        except Exception as error:
            result = {"error": {"code": getattr(error, "code", "internal"), "message": str(error)}}
        _send(results, {"task": task["task"], **result})


if __name__ == "__main__":
    sys.exit(main())
