"""A dataset as flat tensors on one device, from which batches are gathered without touching a sample again.

In: samples, truncated once. Out: :class:`data.batches.Batch` of any indices, what :func:`data.batches.collate` would give
but for the time it takes: one gather per modality instead of a loop over samples, and nothing crosses to the device but
indices.

    resident = Resident(samples, dims=(50, 74, 35)).to("cuda")
    for indices in resident.buckets(64, seed=0):         # like lengths together
        batch = resident.batch(indices)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.batches import MAX_STEPS, Batch, Sample, Truncation, buckets, truncate
from data.spec import MODALITIES, Modality


class Resident:
    """N samples as ``values[m] (1 + ΣL, d)`` and ``valid[m] (1 + ΣL,)``, row 0 being padding; lengths stay on the CPU.

    Parameters
    ----------
    dims, max_steps, truncation, fixed : see :func:`data.batches.collate`. ``max_steps`` limits what is kept at all.

    Raises
    ------
    ValueError : no samples, columns that differ from ``dims``, or only some samples with labels.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        dims: tuple[int, int, int],
        max_steps: tuple[int, int, int] | None = MAX_STEPS,
        truncation: Truncation = "even",
        fixed: bool = False,
    ) -> None:
        if not samples:
            raise ValueError("Expected at least one sample but got none")
        if fixed and max_steps is None:
            raise ValueError("Expected max_steps together with fixed=True but got None")
        self.fixed = max_steps if fixed else None
        self.lengths = np.zeros((len(samples), len(MODALITIES)), dtype=np.int64)
        self.presence = torch.zeros(len(samples), len(MODALITIES), dtype=torch.bool)
        self.values: dict[Modality, Tensor] = {}
        self.valid: dict[Modality, Tensor] = {}
        self.begins: dict[Modality, Tensor] = {}
        for m, name in enumerate(MODALITIES):
            limit = max_steps[m] if max_steps is not None else np.iinfo(np.int64).max
            kept = [truncate(sample.valid[name], int(limit), truncation) for sample in samples]
            self.lengths[:, m] = [len(steps) for steps in kept]
            ends = 1 + np.cumsum(self.lengths[:, m])
            begins = ends - self.lengths[:, m]
            values = np.zeros((int(ends[-1]), dims[m]), dtype=np.float32)
            valid = np.zeros(len(values), dtype=bool)
            for n, (sample, steps, begin, end) in enumerate(zip(samples, kept, begins, ends, strict=True)):
                if sample.values[name].shape != (len(sample.valid[name]), dims[m]):
                    expected = (len(sample.valid[name]), dims[m])
                    raise ValueError(
                        f"Expected {name} values of shape {expected} but got {sample.values[name].shape} "
                        f"in sample {sample.id!r}"
                    )
                valid[begin:end] = sample.valid[name][steps]
                values[begin:end] = sample.values[name][steps]
                self.presence[n, m] = bool(valid[begin:end].any())
            values[~valid] = 0.0
            self.values[name], self.valid[name] = torch.from_numpy(values), torch.from_numpy(valid)
            self.begins[name] = torch.from_numpy(begins)
        vectors = [sample.labels for sample in samples if sample.labels is not None]
        if vectors and len(vectors) != len(samples):
            raise ValueError(f"Expected labels for all samples or for none but got {len(vectors)} of {len(samples)}")
        self.labels = torch.from_numpy(np.stack(vectors).astype(np.float32)) if vectors else None
        self.weights = torch.tensor([sample.weight for sample in samples], dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def device(self) -> torch.device:
        return self.weights.device

    def n_bytes(self) -> int:
        """Size of the tensors in bytes."""
        tensors = [*self.values.values(), *self.valid.values(), *self.begins.values(), self.weights]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def to(self, device: str | torch.device) -> Resident:
        """Move to a device, in place."""
        for group in (self.values, self.valid, self.begins):
            for name, tensor in group.items():
                group[name] = tensor.to(device)
        self.weights = self.weights.to(device)
        self.labels = None if self.labels is None else self.labels.to(device)
        return self

    def buckets(
        self,
        batch_size: int,
        seed: int | Sequence[int] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
    ) -> list[list[int]]:
        """Indices of like samples, batch by batch: :func:`data.batches.buckets`."""
        return buckets(self.lengths.sum(axis=1), self.presence.numpy(), batch_size, seed, indices)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples ``indices``, padded on the right to the longest of each modality, on this device."""
        chosen = np.asarray(indices, dtype=np.int64)
        longest = self.fixed or self.lengths[chosen].max(axis=0).tolist()
        rows_of = torch.from_numpy(chosen).to(self.device)
        lengths = torch.from_numpy(self.lengths[chosen]).to(self.device)
        values: dict[Modality, Tensor] = {}
        masks: dict[Modality, Tensor] = {}
        for m, name in enumerate(MODALITIES):
            step = torch.arange(longest[m], device=self.device)  # (L,)
            rows = self.begins[name][rows_of][:, None] + step  # (N, L)
            rows = torch.where(step < lengths[:, m, None], rows, 0)
            values[name] = self.values[name][rows]  # (N, L, d)
            masks[name] = self.valid[name][rows]  # (N, L)
        labels = None if self.labels is None else self.labels[rows_of]
        return Batch(values, masks, labels, self.weights[rows_of], self.presence[torch.from_numpy(chosen)])
