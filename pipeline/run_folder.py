"""A training run's folder: whose it is, whether it is done, and its log.

In: the run's record (plain JSON values: settings, the dataset's sha256). Out: run.json, log.jsonl, tensorboard/.

    if is_done(record, folder): ...
    begin(record, settings_text, folder)
    with run_log(folder, resume, rank) as write: write(event)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import InputError
from lamb.training import Event
from lamb.training_state import TrainState
from pipeline.predict import publish

SETTINGS_NAME, RUN_NAME, LOG_NAME, METRICS_NAME = "settings.yaml", "run.json", "log.jsonl", "metrics.json"


def is_done(record: dict[str, Any], folder: Path) -> bool:
    """Whether the folder holds this run's results. Raises InputError if it holds another run, or anything else."""
    path = folder / RUN_NAME
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"Expected a run in {str(folder)!r} but its {RUN_NAME} cannot be read.") from error
        differing = _first_difference(record, found)
        if differing:
            raise InputError(
                f"Expected the run that {str(folder)!r} holds but {differing}.",
                remedy="Choose another --output, or the settings.yaml of that run.",
                code="other_run",
            )
        return (folder / METRICS_NAME).exists()
    if folder.exists() and not (folder.is_dir() and _empty(folder)):
        raise InputError(
            f"Expected an empty or new folder but {str(folder)!r} holds other files.",
            remedy="Choose another --output.",
            code="output_exists",
        )
    return False


def begin(record: dict[str, Any], settings_text: str, folder: Path) -> None:
    """Make the folder this run's, unless it is already."""
    if not (folder / RUN_NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        publish(folder / SETTINGS_NAME, settings_text.encode())
        publish(folder / RUN_NAME, (json.dumps(record, indent=1) + "\n").encode())


def _empty(folder: Path) -> bool:
    """But for settings of a run that was killed before its first line."""
    return all(path.name == SETTINGS_NAME or path.name.startswith(".partial-") for path in folder.iterdir())


def _first_difference(mine: Any, found: Any, name: str = "") -> str:
    if isinstance(mine, dict) and isinstance(found, dict):
        for key in sorted(mine.keys() | found.keys()):
            differing = _first_difference(mine.get(key), found.get(key), f"{name}.{key}".removeprefix(".settings."))
            if differing:
                return differing
        return ""
    return "" if mine == found else f"{name.removeprefix('.')} is {str(mine)[:80]}, not {str(found)[:80]}"


@contextmanager
def run_log(folder: Path, resume: TrainState | None, rank: int) -> Iterator[Callable[[Event], None]]:
    """A function that logs an epoch to JSONL and TensorBoard; what a killed run logged beyond its state is dropped."""
    if rank:
        yield lambda event: None
        return
    from torch.utils.tensorboard.writer import SummaryWriter

    history: Sequence[Event] = resume.history if resume is not None else ()
    text = "".join(json.dumps(event) + "\n" for event in history)
    publish(folder / LOG_NAME, text.encode())
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(history) + 1)
    with (folder / LOG_NAME).open("a", encoding="utf-8") as log:

        def write(event: Event) -> None:
            log.write(json.dumps(event) + "\n")
            log.flush()
            for name, value in event.items():
                if isinstance(value, float):
                    board.add_scalar(name, value, event["epoch"])
            board.flush()

        try:
            yield write
        finally:
            board.close()
