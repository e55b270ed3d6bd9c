"""Training that begins with a checkpoint's weights: which one, and what is taken over from it.

In: settings with ``start``. Out: the checkpoint, and the settings with everything that comes from it written in.

    start = load_start(settings.start)
    settings = settled(settings, start)                          # model, spread_steps, max_steps, truncation, clip_std
    line = transfer_line(transfer(start, model, names))          # "4 of 6 labels known: …; new: …"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.errors import InputError
from lamb.checkpoint import Checkpoint
from lamb.settings import ablation
from lamb.transfer import FREE, Transfer
from pipeline.predict import load_checkpoint
from pipeline.run_settings import RunSettings

STARTER = "starter"  # in place of a path: the checkpoint that ships


def load_start(path: Path) -> Checkpoint:
    """The checkpoint at ``path``, on the CPU; the shipped one for the path ``starter``. Raises CheckpointError."""
    return load_checkpoint(None if str(path) == STARTER else path, "cpu")


def settled(settings: RunSettings, start: Checkpoint) -> RunSettings:
    """The settings with what comes from the checkpoint in its place.

    Raises InputError (bad_settings) for one that was given and says something else; dropout may.
    """
    taken: dict[str, Any] = {"spread_steps": start.spread_steps, "clip_std": start.normalization.clip}
    for key, value in taken.items():
        _agree(key, settings, key, value)
    training = {"max_steps": start.max_steps, "truncation": start.truncation}
    for key, value in training.items():
        _agree(f"training.{key}", settings.training, key, value)
    _agree("model.dims", settings.model, "dims", start.settings.dims)
    model = start.settings.model_dump(exclude={"dims", "n_labels"})
    given = settings.model.model_fields_set
    for key, value in model.items():
        if key not in FREE:
            _agree(f"model.{key}", settings.model, key, value)
    model |= {key: getattr(settings.model, key) for key in (*FREE, "dims", "n_labels") if key in given}
    if ablation(settings.row, start.settings) != start.settings:
        raise _other("row", "full", settings.row)
    return settings.model_copy(
        update=taken
        | {
            "model": type(settings.model).parse(model),
            "training": settings.training.model_copy(update=training),
        }
    )


def _agree(name: str, settings: Any, key: str, value: Any) -> None:
    if key in settings.model_fields_set and getattr(settings, key) != value:
        raise _other(name, value, getattr(settings, key))


def _other(name: str, value: Any, given: Any) -> InputError:
    return InputError(
        f"Expected {name} to be {value}, as in the checkpoint to start from, but got {given}.",
        remedy="Leave it out: it comes from the checkpoint.",
        code="bad_settings",
    )


def transfer_line(found: Transfer) -> str:
    """Which labels keep what was learnt of them."""
    n = len(found.known) + len(found.new)
    parts = [f"{len(found.known)} of {n} labels known: {', '.join(found.known) or 'none'}"]
    if found.new:
        parts.append(f"new: {', '.join(found.new)}")
    if found.dropped:
        parts.append(f"no longer there: {', '.join(found.dropped)}")
    return "; ".join(parts)
