"""What a person sees of a folder run: the plan, progress with rate and time left, the table at the end; and a JSON log.

In: a run and the files it finishes. Out: text on stderr and stdout, bars on a terminal, plain lines elsewhere.

    for line in plan_lines(plan_of(run, done)): print(line)
    with progress(total_s, quiet=False, log=None) as (report, look): run.work(report, look)
    print_outcomes(outcomes, console)
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from pipeline.books import Done
from pipeline.events import one_line
from pipeline.folder import FolderRun, Report
from pipeline.survey import survey

ASKED = 200  # files whose length is asked before the start; the others are taken to be like them
TYPICAL_RATE = 1.4  # seconds of video per second and worker, for the first estimate alone; benchmarks/pipeline_speed.py
Look = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Survey:
    """What a run is going to do. Lengths in seconds; ``exact`` is False where they were estimated from some files."""

    n_files: int
    n_bytes: int
    n_done: int
    done_s: float
    n_todo: int
    todo_s: float
    exact: bool
    n_ignored: int
    n_unreadable: int
    n_workers: int
    rate: float
    measured: bool

    @property
    def estimate_s(self) -> float:
        """How long it will take."""
        return self.todo_s / (self.rate * self.n_workers)


def survey_run(run: FolderRun, done: Sequence[Done]) -> Survey:
    """Count what is done and ask how long the rest is."""
    todo = list(run.todo)
    asked = todo if len(todo) <= ASKED else [todo[i * len(todo) // ASKED] for i in range(ASKED)]
    lengths = [length or 0.0 for length in survey([Path(item.path) for item in asked])] if asked else []
    todo_s = sum(lengths) * (len(todo) / len(asked)) if asked else 0.0
    spent_s = sum(sum(one.seconds.values()) for one in done)
    done_s = sum(one.duration_s for one in done)
    measured = spent_s > 0 and done_s > 60
    return Survey(
        n_files=len(run.found.files),
        n_bytes=sum(file.size for file in run.found.files),
        n_done=len(done),
        done_s=done_s,
        n_todo=len(todo),
        todo_s=todo_s,
        exact=len(asked) == len(todo),
        n_ignored=run.found.n_ignored,
        n_unreadable=run.found.n_unreadable,
        n_workers=run.options.n_workers,
        rate=done_s / spent_s if measured else TYPICAL_RATE,
        measured=measured,
    )


def plan_lines(plan: Survey) -> list[str]:
    """The plan for people."""
    about = "" if plan.exact else "about "
    lines = [
        f"{plan.n_files:,} files, {_size(plan.n_bytes)}, {about}{_time(plan.done_s + plan.todo_s)} of recordings; "
        f"{plan.n_done:,} done before, {plan.n_todo:,} to do ({about}{_time(plan.todo_s)})"
    ]
    if plan.n_ignored or plan.n_unreadable:
        lines.append(f"left alone: {plan.n_ignored:,} other files; unreadable: {plan.n_unreadable:,}")
    if plan.n_todo:
        source = "as so far" if plan.measured else "typical; better known after the first files"
        workers = "1 worker" if plan.n_workers == 1 else f"{plan.n_workers} workers"
        lines.append(
            f"{workers}: about {_time(plan.estimate_s)} at {plan.rate * plan.n_workers:.1f} times real time ({source})"
        )
    return lines


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    minutes = seconds / 60
    if minutes >= 90:
        return f"{minutes / 60:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"


@contextlib.contextmanager
def progress(plan: Survey, quiet: bool, log: Path | None) -> Iterator[tuple[Report, Look]]:
    """Callbacks for ``FolderRun.work``: bars on a terminal, a line per file elsewhere, nothing if ``quiet``; events as JSON
    lines at the end of ``log``. Raises InputError (output_unwritable) if that cannot be written."""
    with contextlib.ExitStack() as stack:
        listeners: list[Report] = []
        looks: list[Look] = []
        if log is not None:
            listeners.append(_json_lines(stack.enter_context(_opened(log)), plan))
        if not quiet and sys.stderr.isatty():
            report, look = stack.enter_context(_bars(plan))
            listeners.append(report)
            looks.append(look)
        elif not quiet:
            listeners.append(_plain_lines(plan))

        def report_all(done: Done) -> None:
            for listener in listeners:
                listener(done)

        def look_all(shares: dict[str, float]) -> None:
            for look in looks:
                look(shares)

        yield report_all, look_all


def _opened(log: Path) -> TextIO:
    from data.errors import InputError

    try:
        return log.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(
            f"Expected a log file that can be written at {str(log)!r} but {error.strerror}.", code="output_unwritable"
        ) from error


def _json_lines(stream: TextIO, plan: Survey) -> Report:
    _write_line(stream, "plan", asdict(plan))
    return lambda done: _write_line(stream, "file", asdict(done))


def _write_line(stream: TextIO, event: str, values: dict[str, Any]) -> None:
    stream.write(json.dumps({"time": round(time.time(), 3), "event": event, **values}, ensure_ascii=False) + "\n")
    stream.flush()


class _Pace:
    """Counts of a run under way."""

    def __init__(self, plan: Survey) -> None:
        self.plan, self.started_s = plan, time.monotonic()
        self.n_files, self.video_s = 0, 0.0

    def add(self, done: Done) -> None:
        self.n_files += 1
        self.video_s += done.duration_s

    def said(self) -> str:
        spent_s = max(time.monotonic() - self.started_s, 1e-3)
        left_s = spent_s * (self.plan.n_todo - self.n_files) / max(self.n_files, 1)
        if self.video_s > 0 and self.plan.todo_s > self.video_s:
            left_s = spent_s * (self.plan.todo_s - self.video_s) / self.video_s
        return f"{self.video_s / spent_s:.1f}x real time, {_time(max(left_s, 0.0))} left"


def _about(done: Done) -> str:
    reasons = f" ({', '.join(done.reasons)})" if done.reasons else ""
    message = f": {one_line(done.message)}" if done.message else ""
    return f"{one_line(done.name)}  {done.outcome}{reasons}{message}"


def _plain_lines(plan: Survey) -> Report:
    pace = _Pace(plan)

    def report(done: Done) -> None:
        pace.add(done)
        print(f"{pace.n_files}/{plan.n_todo}  {_about(done)}  [{pace.said()}]", file=sys.stderr, flush=True)

    return report


@contextlib.contextmanager
def _bars(plan: Survey) -> Iterator[tuple[Report, Look]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("[dim]{task.fields[said]}"))  # fmt: skip
    pace = _Pace(plan)
    with Progress(*columns, console=console, transient=True) as bars:
        whole = bars.add_task("files", total=max(plan.n_todo, 1), said="")
        rows: dict[str, Any] = {}

        def report(done: Done) -> None:
            pace.add(done)
            bars.update(whole, completed=pace.n_files, said=pace.said())
            if done.outcome == "failed":
                console.print(f"[red]{escape(_about(done))}")

        def look(shares: dict[str, float]) -> None:
            for name in [name for name in rows if name not in shares]:
                bars.remove_task(rows.pop(name))
            for name, share in shares.items():
                if name not in rows:
                    shown = one_line(name)
                    shown = shown if len(shown) <= 40 else "…" + shown[-39:]
                    rows[name] = bars.add_task(f"  {escape(shown)}", total=100, said="")
                bars.update(rows[name], completed=int(100 * share))

        yield report, look


def log_end(log: Path, outcomes: Counter[str], peak_bytes: int) -> None:
    """The last line of a JSON log: outcomes, and the most memory that one worker took. Raises InputError."""
    with _opened(log) as stream:
        _write_line(stream, "end", {"outcomes": dict(outcomes), "worker_peak_bytes": peak_bytes})


def print_outcomes(outcomes: Counter[str], output: Path, stream: TextIO) -> None:
    """The table at the end: how many files had which outcome."""
    order = sorted(outcomes, key=lambda name: (["ok", "partial"].index(name) if name in ("ok", "partial") else 2, name))
    width = max([len(name) for name in order] + [5])
    for name in order:
        print(f"{name:<{width}}  {outcomes[name]:>7,}", file=stream)
    print(f"{'files':<{width}}  {sum(outcomes.values()):>7,}  in {output}", file=stream)
