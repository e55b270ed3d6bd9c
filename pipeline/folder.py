"""A folder of videos: every file labelled (or its features extracted) once, whatever stops the run in between.

In: a folder and settings. Out: an output folder with one result per file, tables of all of them (:mod:`pipeline.tables`),
and a cache of stage results, from which the same command goes on. Several processes, also on several machines, may run it
on the same two folders: files are claimed one by one.

    run = FolderRun(FolderOptions(videos, results, n_workers=2), plan, start)
    run.scan()
    run.work(report)
    outcomes = run.finish()

Layout of the output folder: ``labels.parquet``, ``labels.csv``, ``files.parquet``, ``json/<name>.json`` or
``features/<name>/``; ``cache/`` (stage results, records, what is known of each file, claims).
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from data.errors import InputError
from pipeline.books import Books, Done, failed, take_over, told
from pipeline.claims import Claims
from pipeline.crew import Crew, Lane, Task
from pipeline.discovery import Discovery, Found, find_media
from pipeline.parts import unpack
from pipeline.settings import PipelineSettings
from pipeline.stages import FINAL, Item, Opened, Plan, Work
from pipeline.store import LocalStore

OPEN_BYTES_PER_S = 5e6  # a disk or network share slower than this runs into the time limit
GPU_STAGES: frozenset[str] = frozenset(("speech", "finish"))
GPU_BATCH = 16  # files whose speech or utterances go through a GPU together
LEAST_BYTES_PER_S = 1000.0  # of a recording; a small file that claims to last for hours gets no hours
TRIES = 2  # of a stage whose worker died
DEATHS = 6  # of workers before the first result, after which a run gives up
POLL_S = 1.0  # how often files that other processes work on are looked at
SETTLED_S = 5.0  # with --watch: a file that did not change for so long is complete


@dataclass(frozen=True)
class FolderOptions:
    """What a folder run may do and cost.

    n_workers : processes that extract. time_limit_s, time_limit_per_s : worker time one file may take, a constant plus so
    much per second of the video. memory_limit : bytes one worker may take. retry_failed : try again what failed for good.
    keep : keep the stages' results, so that a changed setting redoes only what depends on it. gpu : speech and the model run
    in one more process, on the GPU, in batches across files, fed by the others.
    """

    folder: Path
    output: Path
    n_workers: int = 1
    time_limit_s: float = 300.0
    time_limit_per_s: float = 30.0
    memory_limit: int = 3 * 10**9
    retry_failed: bool = False
    keep: bool = True
    follow_links: bool = False
    claims_stale_s: float = 120.0
    gpu: bool = False

    @property
    def lanes(self) -> list[Lane]:
        """The kinds of workers."""
        if not self.gpu:
            return [Lane(frozenset(get_args(Work)), self.n_workers)]
        return [
            Lane(GPU_STAGES, 1, GPU_BATCH),
            Lane(frozenset(get_args(Work)) - GPU_STAGES, self.n_workers),
        ]

    @property
    def n_active(self) -> int:
        """Files at work at a time: enough that no worker waits, few enough that nothing piles up."""
        return sum(lane.n_workers * lane.capacity for lane in self.lanes) + 2


def usual_limits(settings: PipelineSettings) -> dict[str, Any]:
    """Memory and time that a worker with these settings may take: py-feat's networks are larger, and slow on a CPU
    (docs/face_backends.md)."""
    if settings.face_backend.startswith("py-feat"):
        return {"memory_limit": 5 * 10**9, "time_limit_per_s": 120.0}
    return {"memory_limit": FolderOptions.memory_limit, "time_limit_per_s": FolderOptions.time_limit_per_s}


Report = Callable[[Done], None]


@dataclass(eq=False)
class _File:
    """A file at work."""

    item: Item
    opened: Opened | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    running: set[Work] = field(default_factory=set)
    made: set[Work] = field(default_factory=set)
    tries: Counter[str] = field(default_factory=Counter)


class FolderRun:
    """One run over a folder. ``start`` is what workers are told (:mod:`pipeline.worker`), ``about`` the checkpoint's part
    of each JSON document. ``find`` lists the files where they are not all of the folder.

    Raises InputError (output_exists, output_unwritable) if the output folder is somebody else's or cannot be written.
    """

    def __init__(
        self,
        options: FolderOptions,
        plan: Plan,
        start: dict[str, Any],
        about: dict[str, Any] | None,
        find: Callable[[], Discovery] | None = None,
    ) -> None:
        self.options, self.plan, self.start = options, plan, start
        self._find = find or functools.partial(
            find_media, options.folder, exclude=[options.output], follow_links=options.follow_links
        )
        self.store = LocalStore(options.output)
        self.books = Books(self.store, plan, about, options.retry_failed)
        self.found = Discovery((), 0, 0)
        self.todo: deque[Item] = deque()
        self.failures: dict[str, tuple[Item, dict[str, str]]] = {}  # of this run alone: the next tries them again
        self._finished: dict[str, tuple[Item, Done]] = {}
        self._seen: dict[str, tuple[Item, float]] = {}
        self._deaths, self._n_results = 0, 0
        self._numbers = itertools.count()
        self._tasks: dict[int, tuple[_File, Work]] = {}
        self.peak_bytes = 0
        take_over(self.store, os.fspath(options.folder.absolute()))
        self.store.sweep()

    # ---- what there is to do ----------------------------------------------------------------------------------------------

    def scan(self, settled_s: float = 0.0) -> list[Done]:
        """Look at the folder; returns what was done before. Files that changed in the last ``settled_s`` are left for later.

        Raises InputError (not_found, not_a_folder).
        """
        self.found = self._find()
        self.todo.clear()
        done = []
        for file in self.found.files:
            item = item_of(file)
            if settled_s and not self._settled(item, settled_s):
                continue
            before, known = self._finished.get(item.name, (None, None))
            if before == item and known is not None:  # with --watch nobody reads thousands of results every few seconds
                done.append(known)
                continue
            record = self.books.done(item)
            if record is not None:
                done.append(told(item.name, record, cached=True))
                self._finished[item.name] = item, done[-1]
            elif self._failure(item) is None:
                self.failures.pop(item.name, None)
                self.todo.append(item)
        return done

    def _settled(self, item: Item, settled_s: float) -> bool:
        """Whether a file has been the same for so long: by its own time, or by ours where that is in the future."""
        if item.mtime_ns <= time.time_ns() - int(settled_s * 1e9):
            return True
        seen, since_s = self._seen.get(item.name, (None, 0.0))
        if seen != item:
            self._seen[item.name] = item, time.monotonic()
            return False
        return time.monotonic() - since_s >= settled_s

    def _failure(self, item: Item) -> dict[str, str] | None:
        """What went wrong with this file in this run, if it has not changed since."""
        failed, error = self.failures.get(item.name, (None, None))
        return error if failed == item else None

    def _fail(self, item: Item, error: dict[str, str] | InputError) -> None:
        if isinstance(error, InputError):
            error = {"code": error.code, "message": str(error)}
        self.failures[item.name] = item, error

    # ---- the work ---------------------------------------------------------------------------------------------------------

    def work(self, report: Report, look: Callable[[dict[str, float]], None] = lambda at_work: None) -> None:
        """Do all that :meth:`scan` found, also what other processes let fall. ``look`` is called about twice a second with
        the share done of each file at work.

        Raises InputError (output_unwritable, disk_full) only where nothing at all can be written any more.
        """
        options = self.options
        active: list[_File] = []
        elsewhere: deque[Item] = deque()
        polled_s = 0.0
        with (
            Claims(options.output / "cache" / "claims", stale_s=options.claims_stale_s) as claims,
            Crew(self.start, options.lanes, options.memory_limit) as crew,
        ):
            while self.todo or active or elsewhere:
                if not self.todo and elsewhere and time.monotonic() - polled_s > POLL_S:
                    polled_s = time.monotonic()
                    self.todo, elsewhere = elsewhere, deque()
                while self.todo and len(active) < options.n_active:
                    item = self.todo.popleft()
                    try:
                        ours = claims.take(item.name)
                    except InputError as error:  # a full disk: what is done is kept, and this file is for another day
                        self._fail(item, error)
                        report(told(item.name, failed(item, self.failures[item.name][1]), cached=False))
                        continue
                    if not ours:
                        elsewhere.append(item)
                    elif not self._done_by_others(item, claims, report):
                        active.append(self._begin(item))
                self._assign(crew, active)
                for file in [file for file in active if not file.running and not self._advance(file, report)]:
                    active.remove(file)
                    claims.release(file.item.name)
                if not crew.at_work:
                    if not active and elsewhere:
                        time.sleep(POLL_S / 4)
                    continue
                for task, result in crew.wait(0.5):
                    self._settle(*self._tasks.pop(task.number), result)
                    self._check_workers(result)
                self.peak_bytes = max(self.peak_bytes, crew.peak_bytes)
                look(self._shares(crew))

    def _check_workers(self, result: dict[str, Any]) -> None:
        """Workers that die one after the other before any has done anything are not the files' fault."""
        died = result.get("error", {}).get("code") == "worker_died"
        self._deaths, self._n_results = self._deaths + died, self._n_results + (not died)
        if self._deaths >= DEATHS and not self._n_results:
            raise InputError(
                f"Expected workers to start but {self._deaths} died before one had done anything.",
                code="worker_died",
                remedy="Run `lamb predict` on one of the files: it says why.",
            )

    def _done_by_others(self, item: Item, claims: Claims, report: Report) -> bool:
        """Somebody else may have finished a file between our list and our claim."""
        record = self.books.done(item)
        if record is None:
            return False
        claims.release(item.name)
        report(told(item.name, record, cached=True))
        return True

    def _begin(self, item: Item) -> _File:
        file = _File(item)
        opened = self.books.opened(item)
        if opened is not None:
            file.opened, file.seconds["open"] = opened
        return file

    def _assign(self, crew: Crew, active: list[_File]) -> None:
        """Give idle workers what can be done now, first files first."""
        making = {self._place(file, stage) for file in active for stage in file.running}
        for file in active:
            for stage in self._ready(file):
                place = self._place(file, stage)
                if place in making:  # the same content under another name
                    continue
                if self._made_before(file, stage, place):
                    file.made.add(stage)
                elif crew.has_room(stage, alone=file.tries[stage] > 0):
                    making.add(place)
                    self._give(crew, file, stage)

    def _made_before(self, file: _File, stage: Work, place: str) -> bool:
        """Whether a stage's result is there, of this file or of another one with the same content."""
        if stage in self.plan.stages:
            return self.store.exists(place)
        if stage == "open" or self.plan.product == "features":  # each name has a folder of its own
            return False
        return self.books.finished(file.item) is not None

    def _place(self, file: _File, stage: Work) -> str:
        return f"open {file.item.name}" if file.opened is None else self.plan.place(stage, file.opened)

    def _ready(self, file: _File) -> list[Work]:
        """Stages of a file that wait for nothing."""
        ended = file.item.name in self.failures or "finish" in file.made
        if ended or file.running & {"open", "finish"}:
            return []
        if file.opened is None:
            return ["open"]
        left: list[Work] = [stage for stage in self.plan.stages if stage not in file.made | file.running]
        if not left and not file.running:
            return ["finish"]
        return [stage for stage in left if file.made >= set(self.plan.waits_for(stage))]

    def _give(self, crew: Crew, file: _File, stage: Work) -> None:
        item = file.item
        message: dict[str, Any] = {"stage": stage, "item": asdict(item), "open_s": file.seconds.get("open", 0.0)}
        duration_s = 0.0
        if file.opened is not None:
            message["opened"] = file.opened.to_dict()
            duration_s = min(file.opened.info.duration_s, item.size / LEAST_BYTES_PER_S)  # a header may say anything
        limit_s = self.options.time_limit_s + self.options.time_limit_per_s * duration_s
        if stage == "open":
            limit_s += item.size / OPEN_BYTES_PER_S
        number, alone = next(self._numbers), file.tries[stage] > 0
        file.running.add(stage)
        file.tries[stage] += 1
        self._tasks[number] = (file, stage)
        crew.give(Task(number, message, max(1.0, limit_s - sum(file.seconds.values())), alone))

    def _settle(self, file: _File, stage: Work, result: dict[str, Any]) -> None:
        """Take a task's result into account."""
        file.running.discard(stage)
        error = result.get("error")
        if error is not None:
            if result.get("fatal"):
                raise InputError(f"The workers cannot start: {error['message']}", code=error["code"])
            if (
                error["code"] == "damaged" and file.tries[stage] <= TRIES
            ):  # a kept result is not whole: it is made again
                file.made.clear()
                self._forget_damaged(file)
            elif error["code"] == "worker_died" and file.tries[stage] < TRIES:
                pass
            elif stage == "open" and error["code"] in FINAL:
                self._try_to_remember(file, {"error": error})
            else:
                self._fail(file.item, error)
            return
        file.seconds[stage] = result["seconds"]
        file.made.add(stage)
        if stage == "open":
            file.opened = Opened.from_dict(result["opened"], file.item.path)
            self._try_to_remember(file, {**result["opened"], "open_s": result["seconds"]})

    def _try_to_remember(self, file: _File, what: dict[str, Any]) -> None:
        try:
            self.books.remember(file.item, what)
        except InputError as error:
            self._fail(file.item, error)
        if "error" in what:
            file.made.add("finish")

    def _forget_damaged(self, file: _File) -> None:
        assert file.opened is not None
        for stage in self.plan.stages:
            place = self.plan.place(stage, file.opened)
            try:
                unpack(self.store.read(place) or b"")
            except InputError:
                self.store.remove(place)

    def _advance(self, file: _File, report: Report) -> bool:
        """Whether there is more to do for a file; if not, its result is published and reported."""
        item = file.item
        if item.name not in self.failures and "finish" not in file.made:
            return True
        self.books.retried.add(item.name)
        try:
            record = self.books.publish(item, self._failure(item))
            if not self.options.keep and file.opened is not None and record["outcome"] != "failed":
                for stage in self.plan.stages:
                    self.store.remove(self.plan.place(stage, file.opened))
        except InputError as error:
            self._fail(item, error)
            record = failed(item, self.failures[item.name][1])
        done = told(item.name, record | {"seconds": file.seconds}, cached=False)
        if self._failure(item) is None:
            self._finished[item.name] = item, done
        report(done)
        return False

    def _shares(self, crew: Crew) -> dict[str, float]:
        shares: dict[str, float] = {}
        n_stages = len(self.plan.stages) + 2
        for number, fraction in crew.at_work.items():
            file = self._tasks[number][0]
            shares[file.item.name] = shares.get(file.item.name, len(file.made) / n_stages) + fraction / n_stages
        return shares

    # ---- results ----------------------------------------------------------------------------------------------------------

    def records(self) -> Iterator[dict[str, Any]]:
        """The record of every file of the last scan, in order of names, with ``file`` and ``seconds``."""
        for file in self.found.files:
            item = item_of(file)
            error = self._failure(item)
            record = failed(item, error) if error else self.books.record(item)
            if record is not None:
                yield {"file": item.name, "seconds": {}, **record}

    def finish(self) -> Counter[str]:
        """Write the tables; returns how many files had which outcome ("ok", "partial", "failed: code")."""
        return self.books.write_tables(self.records())


def item_of(file: Found) -> Item:
    """A found file as the stages take it."""
    return Item(file.name, os.fspath(file.path), file.size, file.mtime_ns, file.inode)
