"""Some stages of each file that comes, as one operator of a cluster run: what an actor on some node does.

In: rows ``{"file": JSON}`` of :func:`row`. Out: the same rows, further on; results go into the run's store, never into rows.

    operator = Stages(job, ("open", "speech", "acoustic", "facial", "finish"))
    operator({"file": row(item)})                            # {"file": '{"item": …, "done": {"outcome": "ok", …}}'}

The work is done by a worker process of :mod:`pipeline.crew`, as in a run on one machine: a file that kills, hangs or bloats
it costs that process and becomes an error in its row. It writes to a folder of this node; what it made is then put into the
store. An actor that dies takes nothing with it: whoever gets its rows next finds in the store what was done.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError, LambError
from pipeline.books import Books, failed
from pipeline.crew import Crew, Lane, Task
from pipeline.folder import OPEN_BYTES_PER_S, TRIES
from pipeline.parts import unpack
from pipeline.remote_store import local_copy, open_store
from pipeline.stages import FINAL, Item, Opened, Plan, Work, digest, failure
from pipeline.store import LocalStore

ACTOR_TRIES = 3  # of a file with which whole actors died


@dataclass(frozen=True)
class Job:
    """What every node is told: where from and where to, the plan, the checkpoint's part of the documents, and limits.

    ``start`` is the first line of a worker (:mod:`pipeline.worker`) but for its output and device. ``plans`` are the plans as
    a worker on "cpu" and on "cuda" makes them itself: their names for the same results differ from those of ``plan`` where
    stages of one file run on different devices.
    """

    folder: str
    output: str
    plan: Plan
    plans: dict[str, Plan]
    start: dict[str, Any]
    about: dict[str, Any] | None
    time_limit_s: float = 300.0
    time_limit_per_s: float = 30.0
    memory_limit: int = 3 * 10**9
    retry_failed: bool = False
    keep: bool = True


def books_of(job: Job) -> Books:
    """The books of a run, kept in a store that may be anywhere. Raises InputError (bad_url)."""
    return Books(open_store(job.output), job.plan, job.about, job.retry_failed)


def row(item: Item) -> str:
    """A file as it enters the first operator."""
    return json.dumps({"item": asdict(item)})  # ASCII: names may be no UTF-8


class Stages:
    """An operator: these stages, one after the other, of every file."""

    def __init__(self, job: Job, stages: tuple[Work, ...], device: str = "cpu") -> None:
        self.job, self.stages, self.device = job, stages, device
        self.books, self.plan, self.worker_plan = books_of(job), job.plan, job.plans[device]
        workplace = LocalStore(Path(tempfile.gettempdir()) / f"lamb-cluster-{os.getuid()}")
        workplace.sweep()  # of actors that were killed
        self._exit = contextlib.ExitStack()
        self.scratch = LocalStore(self._exit.enter_context(workplace.scratch()))
        settings = {**job.start["settings"], "device": device}
        start = {**job.start, "settings": settings, "output": os.fspath(self.scratch.folder)}
        self.crew = self._exit.enter_context(Crew(start, [Lane(frozenset(stages), 1)], job.memory_limit))
        self.reborn = _reborn()
        self._n_tasks = 0

    def close(self) -> None:
        """End the worker and remove what lies on this node."""
        self._exit.close()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        state = json.loads(row["file"])
        if "done" not in state:
            item = Item(**state["item"])
            try:
                self._advance(state, item)
            except Exception as error:
                self._give_up(state, item, failure(item, error)["error"])
        return {"file": json.dumps(state)}

    def _advance(self, state: dict[str, Any], item: Item) -> None:
        if "open" in self.stages:
            record = self.books.done(item)
            if record is not None:
                state["done"] = _summary(record, record.get("seconds", {}), cached=True)
                return
            known = self.books.opened(item)
            if known is not None:
                state["opened"], state["seconds"] = known[0].to_dict(), {"open": known[1]}
        with contextlib.ExitStack() as stack:
            local: Item | None = None
            for stage in self.stages:
                if self._made(stage, state, item):
                    continue
                if local is None and stage != "finish":
                    local = stack.enter_context(local_copy(item, self.scratch.folder))
                result = self._task(stage, local or item, state)
                if "error" in result:
                    self._settle_error(stage, state, item, result)
                    return
                self._keep(stage, state, item, result)

    def _made(self, stage: Work, state: dict[str, Any], item: Item) -> bool:
        if stage == "open":
            return "opened" in state
        return stage != "finish" and self.books.store.exists(self.plan.place(stage, _opened(state, item)))

    def _task(self, stage: Work, local: Item, state: dict[str, Any]) -> dict[str, Any]:
        """Have the worker do one stage; {"seconds": …} or {"error": …}."""
        seconds = state.setdefault("seconds", {})
        message: dict[str, Any] = {"stage": stage, "item": asdict(local), "open_s": seconds.get("open", 0.0)}
        limit_s = self.job.time_limit_s - sum(seconds.values())
        if "opened" in state:
            message["opened"] = state["opened"]
            limit_s += self.job.time_limit_per_s * state["opened"]["info"]["duration_s"]
            self._bring(stage, _opened(state, local))
        else:
            limit_s += local.size / OPEN_BYTES_PER_S
        with self._counted(local.name):
            for _ in range(TRIES):
                self._n_tasks += 1
                self.crew.give(Task(self._n_tasks, message, max(1.0, limit_s)))
                results: list[tuple[Task, dict[str, Any]]] = []
                while not results:
                    results = self.crew.wait(5.0)
                result = results[0][1]
                if result.get("error", {}).get("code") != "worker_died":
                    break
        return result

    def _bring(self, stage: Work, opened: Opened) -> None:
        """Put the parts that a stage reads where the worker finds them."""
        for part in self.plan.waits_for(stage):
            place = self.worker_plan.place(part, opened)
            if not self.scratch.exists(place):
                content = self.books.store.read(self.plan.place(part, opened))
                if content is not None:
                    self.scratch.write(place, content)

    def _keep(self, stage: Work, state: dict[str, Any], item: Item, result: dict[str, Any]) -> None:
        """Put what the worker made into the store."""
        state["seconds"][stage] = result["seconds"]
        if stage == "open":
            state["opened"] = result["opened"]
            self.books.remember(item, {**result["opened"], "open_s": result["seconds"]})
            return
        opened = _opened(state, item)
        content = self.scratch.read(self.worker_plan.place(stage, opened))
        if content is None:
            raise LambError(
                f"Expected the result of {stage} under the name that the run gave it but this node made another.",
                code="node_differs",
                remedy="Install the same release and weights on every node (`lamb weights fetch`).",
            )
        self.books.store.write(self.plan.place(stage, opened), content)
        if stage == self.stages[-1]:
            self._clear(opened)
        if stage == "finish":
            record = self.books.publish(item, None)
            state["done"] = _summary(record, state["seconds"], cached=False)
            if not self.job.keep and record["outcome"] != "failed":
                for part in self.plan.stages:
                    self.books.store.remove(self.plan.place(part, opened))

    def _clear(self, opened: Opened) -> None:
        for stage in (*self.plan.stages, "finish"):
            (self.scratch.folder / self.worker_plan.place(stage, opened)).unlink(missing_ok=True)

    # ---- errors -----------------------------------------------------------------------------------------------------------

    def _settle_error(self, stage: Work, state: dict[str, Any], item: Item, result: dict[str, Any]) -> None:
        error = result["error"]
        if result.get("fatal"):  # no file will fare better: this node's worker cannot start
            state["fatal"] = error
        elif error["code"] == "damaged":
            self._forget_damaged_parts(_opened(state, item))
        elif stage == "open" and error["code"] in FINAL:
            self.books.remember(item, {"error": error})
        self._give_up(state, item, error)

    def _give_up(self, state: dict[str, Any], item: Item, error: dict[str, str]) -> None:
        record = failed(item, error)
        with contextlib.suppress(InputError):  # a store that is full or gone says the same to the driver
            if "fatal" not in state:
                record = self.books.publish(item, error)
            if "opened" in state:
                self._clear(_opened(state, item))
        state["error"] = error
        state["done"] = _summary(record, state.get("seconds", {}), cached=False)

    def _forget_damaged_parts(self, opened: Opened) -> None:
        self._clear(opened)
        for stage in self.plan.stages:
            place = self.plan.place(stage, opened)
            try:
                unpack(self.books.store.read(place) or b"")
            except InputError:
                self.books.store.remove(place)

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        """Bound how often one file may end whole actors. Only the first file after a rebirth is suspected: it is the one
        that was at work, and its count lies in the store until it is done. Raises LambError (worker_died)."""
        if not self.reborn:
            yield
            return
        self.reborn = False
        place = f"cache/attempts/{digest(name)}"
        n_died = int(self.books.store.read(place) or 0) + 1
        if n_died >= ACTOR_TRIES:
            self.books.store.remove(place)
            raise LambError(
                f"Expected the node to survive this file but its process died {n_died} times with it.",
                code="worker_died",
                remedy="Give each file more memory (--memory-limit).",
            )
        self.books.store.write(place, str(n_died).encode())
        yield
        self.books.store.remove(place)


def _opened(state: dict[str, Any], item: Item) -> Opened:
    return Opened.from_dict(state["opened"], item.path)


def _summary(record: dict[str, Any], seconds: dict[str, float], cached: bool) -> dict[str, Any]:
    """What the driver reports of a file (:class:`pipeline.folder.Done` without its name)."""
    error = record["error"] or {"code": "", "message": ""}
    return {
        "outcome": record["outcome"],
        "reasons": [error["code"]] if record["error"] else record["reasons"],
        "message": error["message"],
        "duration_s": record["duration_s"] or 0.0,
        "seconds": seconds,
        "cached": cached,
    }


def _reborn() -> bool:
    """Whether this process replaces one that died."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)
