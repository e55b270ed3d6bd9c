"""`lamb label --cluster`: a folder run on Ray Data, for where one machine is not enough.

In: recordings at a path or URL. Out: at another, what a run on one machine writes, the same bytes (:mod:`pipeline.folder`);
each of the two goes on where the other was stopped. Memory in bytes, times in seconds.

    connect("auto")                                          # or "local", "host:port"
    run = plan_run(ClusterOptions("s3://bucket/videos", "s3://bucket/results"), settings)
    run.scan(); run.work(report); outcomes = run.finish()

A row is a file. Operators are actor pools, each with the CPUs, GPUs and memory of its stages; neighbouring stages with the
same needs are one operator, so that a file is fetched once for all of them. While one file waits for a stage, others are in
it: stages of one file need not run at once for the machines to be busy. Errors are rows. Actors that die with their node
start again elsewhere and find in the store what was done; should Ray itself give up, what is left is done in another round.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from data.errors import InputError
from pipeline.books import Done, failed, take_over, told
from pipeline.cluster_needs import Needs, fit, grouped
from pipeline.cluster_stage import Job, Stages, books_of, row
from pipeline.folder import Report
from pipeline.predict import Predictor, load_checkpoint
from pipeline.remote_store import absolute, list_media
from pipeline.settings import PipelineSettings
from pipeline.stages import Item, Plan, Work
from pipeline.video import Extractors

ROUNDS = 3  # of a run whose rows Ray lost, or whose kept results were damaged
MOST_BLOCKS = 20_000  # of rows: each costs the driver some memory and time
REACH_S = 10.0
READERS = 32  # requests to the store at once while the tables are written
AGAIN = frozenset(("damaged", "lost"))  # errors that another round mends
REPORTS_OFF = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}
LEVEL = {"RAY_BACKEND_LOG_LEVEL": "fatal"}  # of this process and of a cluster that it starts


@dataclass(frozen=True)
class ClusterOptions:
    """``folder`` and ``output`` are paths or URLs. needs : of stages that differ from ``Needs()``; on a cluster with GPUs the
    speech stage takes a quarter of one. n_actors : at most so many per operator. The rest as in ``FolderOptions``."""

    folder: str
    output: str
    needs: Mapping[Work, Needs] = field(default_factory=dict)
    n_actors: int | None = None
    time_limit_s: float = 300.0
    time_limit_per_s: float = 30.0
    memory_limit: int = 3 * 10**9
    retry_failed: bool = False
    keep: bool = True
    follow_links: bool = False


def import_ray() -> Any:
    """Ray, told to report nothing. Raises InputError (no_ray)."""
    os.environ.update(REPORTS_OFF)  # before the import, and inherited by what it starts
    for name, value in LEVEL.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            f"Expected Ray for --cluster but {error}.", code="no_ray", remedy="`pip install 'lamb-emotion[ray]'`."
        ) from error
    return ray


def connect(address: str, n_cpus: int | None = None) -> None:
    """Join the cluster at ``address``: "auto" (the one this machine belongs to, or RAY_ADDRESS), "local" (one of its own,
    of this machine alone, not reachable from others) or "host:port". Raises InputError (no_ray, no_cluster)."""
    ray = import_ray()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
    try:
        if address == "local":
            ray.init(num_cpus=n_cpus, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        else:
            _reach(os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"Expected a Ray cluster at {address!r} but {error}.",
            code="no_cluster",
            remedy="Start one with `ray start --head`, or use --cluster local.",
        ) from error


def _reach(address: str) -> None:
    """Raise OSError unless something listens at "host:port": Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


class ClusterRun:
    """One run on the cluster that :func:`connect` joined. Weights are checked here, and on every node before its first file.

    ``needs`` are those of the stages that need anything but ``Needs()``. Raises InputError (output_exists, bad_url).
    """

    operator: type[Stages] = Stages

    def __init__(self, options: ClusterOptions, job: Job, needs: Mapping[Work, Needs] | None = None) -> None:
        self.options, self.job, self.plan = options, job, job.plan
        self.needs = dict(needs or {})
        self.nodes = cluster_nodes()
        self.books = books_of(job)
        take_over(self.books.store, absolute(job.folder))
        self.items: list[Item] = []
        self.failures: dict[str, dict[str, str]] = {}

    def of(self, stage: Work) -> Needs:
        """What an actor of this stage takes."""
        return self.needs.get(stage, Needs(memory=self.options.memory_limit))

    def scan(self) -> list[Item]:
        """List the recordings; what was done before is found out by the nodes. Raises InputError (not_found, bad_url)."""
        self.items = list_media(self.job.folder, self.job.output, self.options.follow_links)
        return self.items

    # ---- the work ---------------------------------------------------------------------------------------------------------

    def work(self, report: Report) -> None:
        """Do what is to be done, ``report`` each file. Raises LambError where no node can work."""
        left = deque(self.items)
        for round_number in range(1, ROUNDS + 1):
            again, lost = self._round(list(left), report, last=round_number == ROUNDS)
            left = deque(item for item in left if item.name in again)
            if not left:
                break
        for item in left:
            if item.name not in self.failures:
                self._fail(item, {"code": "lost", "message": f"Expected a result from the cluster but {lost}."}, report)

    def _round(self, items: list[Item], report: Report, last: bool) -> tuple[set[str], str]:
        """One pass of all that is left; returns the names to be done again, and why Ray ended early if it did."""
        from ray.exceptions import RayError

        left = {item.name for item in items}
        lost = "it gave none"
        try:
            for state in self._rows(items):
                if "fatal" in state:
                    raise InputError(
                        f"The workers cannot start: {state['fatal']['message']}", code=state["fatal"]["code"]
                    )
                name, error = state["item"]["name"], state.get("error")
                if error is not None and error["code"] in AGAIN and not last:
                    continue
                left.discard(name)
                if error is not None:
                    self.failures[name] = error
                report(Done(name, **{**state["done"], "reasons": tuple(state["done"]["reasons"])}))
        except RayError as error:
            lost = f"Ray gave up: {str(error).strip().splitlines()[-1]}"
        return left, lost

    def _rows(self, items: list[Item]) -> Iterator[dict[str, Any]]:
        """The rows as they come out of the last operator."""
        ray = import_ray()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        n_blocks = min(len(items), MOST_BLOCKS)
        if not n_blocks:
            return
        rows = ray.data.from_items([{"file": row(item)} for item in items], override_num_blocks=n_blocks)
        fitted = fit(grouped(self.plan, self.of), self.of, self.nodes)
        for stages, needs in fitted.items():
            rows = rows.map(
                self.operator,
                fn_constructor_args=(self.job, stages, "cuda" if needs.gpus else "cpu"),
                compute=ray.data.ActorPoolStrategy(**self._pool(needs, n_blocks, len(fitted))),
                num_cpus=needs.cpus,
                num_gpus=needs.gpus,
                memory=needs.memory,
            )
        for one in rows.iter_rows():
            yield json.loads(one["file"])

    def _pool(self, needs: Needs, n_blocks: int, n_pools: int) -> dict[str, int]:
        """Size of an actor pool: a single one starts as large as the cluster is, several grow as Ray sees fit."""
        most = min(self.options.n_actors or n_blocks, n_blocks)
        slots = sum(
            int(min(node["CPU"] / needs.cpus, node.get("memory", 0) / max(1, needs.memory))) for node in self.nodes
        )
        initial = min(most, max(1, slots)) if n_pools == 1 else 1
        # one block ahead per actor: a row may be hours of work, and what waits in a queue cannot go to an idle one
        return {"min_size": 1, "max_size": most, "initial_size": initial, "max_tasks_in_flight_per_actor": 2}

    def _fail(self, item: Item, error: dict[str, str], report: Report) -> None:
        self.failures[item.name] = error
        record = self.books.publish(item, error)
        report(told(item.name, record | {"seconds": {}}, cached=False))

    # ---- results ----------------------------------------------------------------------------------------------------------

    def records(self) -> Iterator[dict[str, Any]]:
        """The record of every file, in order of names, with ``file`` and ``seconds``; read from the store, some at a time."""

        def read(item: Item) -> dict[str, Any] | None:
            error = self.failures.get(item.name)
            record = failed(item, error) if error else self.books.record(item)
            return None if record is None else {"file": item.name, "seconds": {}, **record}

        for record in _ahead(read, self.items):
            if record is not None:
                yield record

    def finish(self) -> Counter[str]:
        """Write the tables; returns how many files had which outcome."""
        return self.books.write_tables(self.records())


def _ahead(read: Callable[[Item], Any], items: list[Item]) -> Iterator[Any]:
    """``map``, with READERS calls at once and few results waiting."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[Any]] = deque()
        rest = iter(items)
        for item in itertools.islice(rest, 4 * READERS):
            waiting.append(pool.submit(read, item))
        while waiting:
            yield waiting.popleft().result()
            for item in itertools.islice(rest, 1):
                waiting.append(pool.submit(read, item))


def plan_run(options: ClusterOptions, settings: PipelineSettings, checkpoint: Path | None = None) -> ClusterRun:
    """The run of these settings on the cluster that was joined. Raises LambError where nothing can start: weights,
    checkpoint, no_cuda, output_exists, bad_url."""
    has_gpu = any(node.get("GPU") for node in cluster_nodes())
    if settings.device == "cuda" and not has_gpu:
        raise InputError("Expected a GPU in the cluster for --device cuda but no node has one.", code="no_cuda")
    needs: dict[Work, Needs] = {}
    if has_gpu and settings.device != "cpu":
        needs["speech"] = Needs(gpus=0.25, memory=options.memory_limit)
    needs |= options.needs
    speech_device = "cuda" if "speech" in needs and needs["speech"].gpus else "cpu"
    return ClusterRun(options, _job(options, settings, checkpoint, speech_device), needs)


def cluster_nodes() -> list[dict[str, float]]:
    """What the nodes that can work have to give: CPU, GPU, memory."""
    nodes = import_ray().nodes()
    return [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]


def _job(
    options: ClusterOptions, settings: PipelineSettings, checkpoint: Path | None, speech_device: Literal["cpu", "cuda"]
) -> Job:
    """What the nodes are told. Raises LambError for weights or a checkpoint that are not there."""
    on_cpu = settings.model_copy(update={"device": "cpu"})  # the driver may have no GPU, or the nodes none
    extractors = Extractors(on_cpu)
    extractors.prepare()
    loaded = load_checkpoint(checkpoint, "cpu")
    about, fingerprint = Predictor(loaded, extractors).checkpoint_record(), loaded.fingerprint()
    plans = {"cpu": Plan(extractors, "labels", fingerprint)}
    extractors.speech_settings = replace(extractors.speech_settings, device="cuda")
    plans["cuda"] = Plan(extractors, "labels", fingerprint)
    start = {
        "settings": on_cpu.model_dump(mode="json"),
        "product": "labels",
        "checkpoint": os.fspath(checkpoint.absolute()) if checkpoint else None,
        "fingerprint": fingerprint,
        "only": None,
        "tables": False,
    }
    limits = {name: getattr(options, name) for name in ("time_limit_s", "time_limit_per_s", "memory_limit")}
    return Job(
        absolute(options.folder),
        absolute(options.output),
        plans[speech_device],
        plans,
        start,
        about,
        retry_failed=options.retry_failed,
        keep=options.keep,
        **limits,
    )
