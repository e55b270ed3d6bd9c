"""What training goes on from, as one file that is there whole or not at all.

In: a :class:`TrainState`. Out: ``<path>``, a safetensors file (weights, Adam's moments) whose header holds the rest as JSON.
Nothing is pickled. A run that is killed at any moment goes on from the last whole epoch to the same final weights.

    save_state(result.state, Path("run/state.safetensors"))
    fit(..., resume=load_state(Path("run/state.safetensors")))
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import CheckpointError
from data.files import write_whole

KIND = "lamb-training-state"
SCHEMA = 1
STATES = ("model", "best_state", "average")


@dataclass(eq=False)
class TrainState:
    """All that training goes on from after an epoch: state dicts and counts.

    ``average`` is the moving average of the weights and its count; empty where nothing is averaged.
    """

    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    best_score: float
    best_epoch: int
    best_state: dict[str, Tensor]
    average: dict[str, Tensor]
    history: list[dict[str, Any]]


def save_state(state: TrainState, path: Path) -> None:
    """Write ``path``, replacing it whole."""
    from safetensors.torch import save

    tensors = {f"{part}/{name}": value for part in STATES for name, value in getattr(state, part).items()}
    moments: dict[str, list[str]] = {}
    for index, found in state.optimizer["state"].items():
        moments[str(index)] = sorted(found)
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in found.items()}
    record = {
        "kind": KIND,
        "schema": SCHEMA,
        "epoch": state.epoch,
        "best_score": state.best_score,
        "best_epoch": state.best_epoch,
        "history": state.history,
        "schedule": state.schedule,
        "param_groups": state.optimizer["param_groups"],
        "moments": moments,
    }
    # copies: tensors that share memory cannot be stored
    content = save(
        {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}, {"record": json.dumps(record)}
    )
    write_whole(path, content)


def load_state(path: Path) -> TrainState:
    """Read what :func:`save_state` wrote, on the CPU. Raises CheckpointError if it is not one, or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["record"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if (record["kind"], record["schema"]) != (KIND, SCHEMA):
            raise ValueError(f"kind {record['kind']!r}, schema {record['schema']!r}")
        parts = {
            part: {name.removeprefix(f"{part}/"): t for name, t in tensors.items() if name.startswith(f"{part}/")}
            for part in STATES
        }
        moments = {
            int(index): {name: tensors[f"optimizer/{index}/{name}"] for name in names}
            for index, names in record["moments"].items()
        }
        return TrainState(
            epoch=record["epoch"],
            optimizer={"state": moments, "param_groups": record["param_groups"]},
            schedule=record["schedule"],
            best_score=record["best_score"],
            best_epoch=record["best_epoch"],
            history=record["history"],
            **parts,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"Expected a saved training state at {path} but it cannot be read: {error}.",
            remedy="Delete it to start this run anew.",
        ) from error
