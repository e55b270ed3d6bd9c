"""Training on several processes: each takes its share of every batch, and gradients are summed.

In: a process group that the caller has started (torchrun), or none. Out: what one process would have computed, up to the
order of sums.

    rank, world = place()
    share = batch_indices[rank::world]
    add_up_gradients(model.parameters())

One flat sum per step instead of hooks per parameter: the model has a hundred thousand values, and a parameter that no
process used keeps no gradient.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn


def place() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes; none stays none where no process has one."""
    if place()[1] == 1:
        return
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    flat = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in wanted]
        + [torch.tensor([p.grad is not None for p in wanted], dtype=wanted[0].dtype, device=wanted[0].device)]
    )
    distributed.all_reduce(flat)
    used = flat[-len(wanted) :].cpu()
    position = 0
    for parameter, anywhere in zip(wanted, used.tolist(), strict=True):
        summed = flat[position : position + parameter.numel()].view_as(parameter)
        position += parameter.numel()
        parameter.grad = summed.clone() if anywhere else None


def total(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if place()[1] > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return value


def agreed(value: float, device: torch.device) -> float:
    """The first process's value, for all: where each decided by its own rounding, one might stop and the others wait."""
    if place()[1] == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    distributed.broadcast(shared, 0)
    return float(shared)


@contextmanager
def process_group(cuda: bool) -> Iterator[None]:
    """Join the processes that torchrun started (WORLD_SIZE in the environment); nothing without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not distributed.is_available():
        yield
        return
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()
