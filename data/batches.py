"""Clips to padded tensors: samples, truncation, collation, and batches of like samples.

In: clips, or samples (arrays per modality, label vector). Out: :class:`Batch`, torch tensors padded with zeros on the
right. Shapes: values (N, L, d) float32, masks (N, L) bool (True = observed), labels (N, c) float32; L differs between
modalities and may be 0. This is the only module of ``data`` that imports torch.

    samples = [Sample.from_clip(clip, labels) for clip in clips]
    for indices in bucketed_batches(samples, batch_size=64, seed=0):
        batch = collate([samples[i] for i in indices], dims=(50, 74, 35)).to("cuda")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.clip import Clip
from data.labels import LabelSet
from data.spec import MODALITIES, Modality

Truncation = Literal["even", "head"]
MAX_STEPS = (50, 500, 500)  # text, audio, visual: lengths of the unaligned CMU-MOSEI sequences
WINDOW_BATCHES = 16  # batches sorted by length together: more gives less padding and less shuffling


@dataclass(frozen=True, eq=False)
class Sample:
    """One utterance as arrays.

    ``values[m]`` float32 [shape=(L_m, d_m)], ``valid[m]`` bool [shape=(L_m,)]; ``labels`` float32 [shape=(c,)] or None;
    ``weight`` scales the sample's loss; ``group`` is whoever speaks, or the video it was cut from, "" where unknown;
    ``defined[m]`` bool [shape=(L_m, d_m)] only where some columns of valid steps
    have no meaning (see FeatureTrack).
    """

    values: dict[Modality, np.ndarray]
    valid: dict[Modality, np.ndarray]
    labels: np.ndarray | None = None
    weight: float = 1.0
    id: str = ""
    defined: dict[Modality, np.ndarray] = field(default_factory=dict)
    group: str = ""

    @classmethod
    def from_clip(cls, clip: Clip, labels: LabelSet | None = None, weight: float = 1.0) -> Sample:
        """The clip's three tracks; its labels too where ``labels`` is given and the clip has any."""
        vector = labels.encode(clip.labels) if labels is not None and clip.labels is not None else None
        tracks = clip.tracks
        return cls(
            {name: tracks[name].values for name in MODALITIES},
            {name: tracks[name].valid for name in MODALITIES},
            vector,
            weight,
            clip.id,
            {name: known for name in MODALITIES if (known := tracks[name].defined) is not None},
        )

    @property
    def presence(self) -> tuple[bool, bool, bool]:
        """Whether text, audio, visual have a valid step."""
        text, audio, visual = (bool(self.valid[name].any()) for name in MODALITIES)
        return text, audio, visual

    def n_steps(self, modality: Modality) -> int:
        """Steps up to the last valid one; what follows is padding."""
        steps = np.flatnonzero(self.valid[modality])
        return int(steps[-1]) + 1 if len(steps) else 0


@dataclass(frozen=True, eq=False)
class Batch:
    """N padded samples.

    Parameters
    ----------
    values : per modality float32 [shape=(N, L, d)].
    masks : per modality bool [shape=(N, L)]; True where the step was observed.
    labels : float32 [shape=(N, c)] or None.
    weights : float32 [shape=(N,)] or None (all one).
    """

    values: dict[Modality, Tensor]
    masks: dict[Modality, Tensor]
    labels: Tensor | None = None
    weights: Tensor | None = None
    presence: Tensor = None  # type: ignore[assignment]
    """bool [shape=(N, 3)], always on the CPU: whether the sample has any valid step of text, audio, visual. Kept here
    so that a model on a GPU can skip an absent modality without waiting for the device; read from the masks where it is
    not given."""

    def __post_init__(self) -> None:
        if self.presence is None:
            rows = [self.masks[name].any(dim=1) for name in MODALITIES]
            object.__setattr__(self, "presence", torch.stack(rows, dim=1).cpu())

    def __len__(self) -> int:
        return len(self.presence)

    @property
    def device(self) -> torch.device:
        return self.masks["text"].device

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        values: dict[Modality, Tensor] = {
            key: value.to(device, non_blocking=True) for key, value in self.values.items()
        }
        masks: dict[Modality, Tensor] = {key: mask.to(device, non_blocking=True) for key, mask in self.masks.items()}
        return Batch(values, masks, move(self.labels), move(self.weights), self.presence)

    def keep(self, kept: Tensor) -> Batch:
        """The batch with modalities masked out where ``kept`` (bool [shape=(N, 3)]) is False; lengths stay."""
        masks: dict[Modality, Tensor] = {
            name: self.masks[name] & kept[:, i, None].to(self.masks[name].device) for i, name in enumerate(MODALITIES)
        }
        return Batch(self.values, masks, self.labels, self.weights, self.presence & kept.to(self.presence.device))


def truncate(valid: np.ndarray, max_steps: int, policy: Truncation = "even") -> np.ndarray:
    """Indices of the steps to keep, increasing, at most ``max_steps``.

    Steps after the last valid one are always dropped. A track that is still too long is cut by policy:

    - "even": unobserved steps go first; if that is not enough, ``max_steps`` of the observed steps, evenly spread over
      the whole utterance. Every kept row is a real observation (nothing is averaged), so statistics stay the same.
    - "head": the first ``max_steps`` steps, as the published sequences were cut.
    """
    observed = np.flatnonzero(valid)
    n_steps = int(observed[-1]) + 1 if len(observed) else 0
    if n_steps <= max_steps:
        return np.arange(n_steps)
    if policy == "head":
        return np.arange(max_steps)
    if len(observed) <= max_steps:
        return observed
    return observed[(np.arange(max_steps) * len(observed)) // max_steps]


def collate(
    samples: Sequence[Sample | Clip],
    dims: tuple[int, int, int],
    max_steps: tuple[int, int, int] | None = MAX_STEPS,
    truncation: Truncation = "even",
    fixed: bool = False,
) -> Batch:
    """Samples to one batch, padded with zeros on the right to the longest of each modality.

    Parameters
    ----------
    samples : samples or clips (a clip's own labels are not used: it knows names, not their order).
    dims : columns of text, audio, visual.
    max_steps : most steps of text, audio, visual, or None for no truncation; see :func:`truncate`.
    fixed : pad to ``max_steps`` whatever the lengths, for models without padding masks.

    Raises
    ------
    ValueError : no samples, a sample's columns differ from ``dims``, only some samples have labels, or ``fixed``
        without ``max_steps``.
    """
    if not samples:
        raise ValueError("Expected at least one sample but got none")
    if fixed and max_steps is None:
        raise ValueError("Expected max_steps together with fixed=True but got None")
    rows = [Sample.from_clip(sample) if isinstance(sample, Clip) else sample for sample in samples]
    values: dict[Modality, Tensor] = {}
    masks: dict[Modality, Tensor] = {}
    for i, name in enumerate(MODALITIES):
        limit = max_steps[i] if max_steps is not None else np.iinfo(np.int64).max
        for row in rows:
            shape = row.values[name].shape
            if shape != (len(row.valid[name]), dims[i]):
                expected = (len(row.valid[name]), dims[i])
                raise ValueError(f"Expected {name} values of shape {expected} but got {shape} in sample {row.id!r}")
        kept = [truncate(row.valid[name], int(limit), truncation) for row in rows]
        length = int(limit) if fixed else max(len(steps) for steps in kept)
        padded = np.zeros((len(rows), length, dims[i]), dtype=np.float32)
        mask = np.zeros((len(rows), length), dtype=bool)
        for n, (row, steps) in enumerate(zip(rows, kept, strict=True)):
            mask[n, : len(steps)] = row.valid[name][steps]
            padded[n, : len(steps)] = row.values[name][steps]
        padded[~mask] = 0.0
        values[name], masks[name] = torch.from_numpy(padded), torch.from_numpy(mask)
    vectors = [row.labels for row in rows if row.labels is not None]
    if vectors and len(vectors) != len(rows):
        raise ValueError(f"Expected labels for all samples or for none but got {len(vectors)} of {len(rows)}")
    labels = torch.from_numpy(np.stack(vectors).astype(np.float32)) if vectors else None
    return Batch(values, masks, labels, torch.tensor([row.weight for row in rows], dtype=torch.float32))


def bucketed_batches(
    samples: Sequence[Sample],
    batch_size: int,
    seed: int | Sequence[int] | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
) -> list[list[int]]:
    """:func:`buckets` of samples."""
    n_steps = np.array([sum(sample.n_steps(name) for name in MODALITIES) for sample in samples])
    presence = np.array([sample.presence for sample in samples]).reshape(-1, len(MODALITIES))
    return buckets(n_steps, presence, batch_size, seed, indices)


def buckets(
    n_steps: np.ndarray,
    presence: np.ndarray,
    batch_size: int,
    seed: int | Sequence[int] | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
) -> list[list[int]]:
    """Indices of like samples, batch by batch: same modalities present, similar length.

    A batch whose samples all lack a modality costs nothing for it, and like lengths waste little on padding. Each
    set of present modalities is cut into whole batches. What is left over of a set is a batch of its own if it fills
    half of one, else it is put together with other left-overs, so that no more than one batch is smaller than that.

    Parameters
    ----------
    n_steps : (N,), steps of all modalities together; presence : bool (N, 3), which modalities a sample has.
    seed : shuffles samples and batches; the same seed gives the same batches. None keeps a fixed order, longest first.
    indices : which samples, with repetition allowed (a weighted draw); default each once.
    """
    if batch_size < 1:
        raise ValueError(f"Expected batch_size >= 1 but got {batch_size}")
    order = np.arange(len(n_steps)) if indices is None else np.asarray(indices, dtype=np.int64)
    generator = None if seed is None else np.random.default_rng(seed)
    if generator is not None:
        order = generator.permutation(order)
    groups: dict[tuple[bool, ...], list[int]] = {}
    for i in order.tolist():
        groups.setdefault(tuple(presence[i].tolist()), []).append(i)

    batches: list[list[int]] = []
    leftovers: list[int] = []
    for key in sorted(groups):
        group = groups[key]
        window = batch_size * WINDOW_BATCHES if generator is not None else len(group)
        for begin in range(0, len(group), window):
            chunk = sorted(group[begin : begin + window], key=lambda i: -n_steps[i])
            whole = len(chunk) - len(chunk) % batch_size
            batches += [chunk[k : k + batch_size] for k in range(0, whole, batch_size)]
            rest = chunk[whole:]
            if 2 * len(rest) >= batch_size:
                batches.append(rest)
            else:
                leftovers += rest
    batches += [leftovers[k : k + batch_size] for k in range(0, len(leftovers), batch_size)]
    if generator is not None:
        batches = [batches[int(k)] for k in generator.permutation(len(batches))]
    return batches
