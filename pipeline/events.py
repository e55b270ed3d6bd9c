"""Events: the only way library code says how far it is. One callback feeds progress bars, plain lines or a log.

show = reporter()                               # rich bar on a terminal, plain lines elsewhere; always stderr
with show as notify:
    notify(Event("clip.mp4", "speech", 0.5))
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STAGES = ("probe", "speech", "acoustic", "facial", "lamb")


@dataclass(frozen=True)
class Event:
    """``stage`` of ``file`` has done ``fraction`` (0..1) of its work; ``detail`` is for people."""

    file: str
    stage: str
    fraction: float
    detail: str = ""


Notify = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The callback of those who do not listen."""


@contextmanager
def reporter(quiet: bool = False) -> Iterator[Notify]:
    """Progress on stderr: a bar per file on a terminal, one line per finished stage elsewhere, nothing if ``quiet``."""
    if quiet:
        yield ignore
    elif sys.stderr.isatty():
        with _bars() as notify:
            yield notify
    else:
        yield _plain_lines


def one_line(text: str) -> str:
    """File names may hold newlines and control characters; a terminal must not see them."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _plain_lines(event: Event) -> None:
    if event.fraction >= 1.0:
        detail = f": {event.detail}" if event.detail else ""
        print(f"{one_line(event.file)}  {event.stage} done{detail}", file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[Notify]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, int] = {}

        def notify(event: Event) -> None:
            if event.file not in tasks:
                tasks[event.file] = progress.add_task("", total=len(STAGES))
            done = STAGES.index(event.stage) + event.fraction if event.stage in STAGES else 0.0
            name = escape(one_line(event.file))
            progress.update(tasks[event.file], completed=done, description=f"{name}  [dim]{event.stage}")  # type: ignore[arg-type]

        yield notify
