"""Explanations: what carried each label of one clip, as integrated gradients (Sundararajan et al. 2017).

In: a checkpoint and a clip, or a normalised sample. Out: attributions in logits: a label's logit minus its logit at the
baseline is the sum of what every feature value of the clip gave to it. The baseline is the mean of every column at the
same steps: normalised 0. What the decoder attended to is told beside it (``lamb.attention``).

    found = attribute(checkpoint, clip, labels=["anger"])        # logits
    found.per_step("text")[0], found.per_column("audio")[0]      # (L,), (d,)
    found.relative_gaps                                          # (c,), how complete they are
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.batches import Batch, Sample, collate, truncate
from data.clip import Clip
from data.errors import InputError
from data.spec import MODALITIES, Modality
from lamb.attention import attention_of_steps
from lamb.checkpoint import Checkpoint
from lamb.derived import to_source
from lamb.model import LAMB

FIRST_CUTS = (0.0, 1 / 16, 1 / 4, 1.0)  # of the path from the baseline, the steep part first
NODES = 8  # of Gauss and Legendre on each piece of the path
PIECES = 64  # of the path at most: 1000 gradients
TOLERANCE = 0.01  # of |logit − baseline logit|, or of 0.1 where that is smaller
SMALLEST_CHANGE = 0.1  # logits; below it a relative gap says nothing


@dataclass(frozen=True, eq=False)
class Attribution:
    """What carried the labels of one clip, in logits. Shapes: c explained labels, L kept steps, d columns.

    Parameters
    ----------
    labels : names of the explained labels.
    logits, baseline_logits : float64 [shape=(c,)], before the checkpoint's temperature.
    values : per modality float64 [shape=(c, L, d)], d the spec's columns; what a column of spread (:mod:`lamb.derived`)
        gave is its source's. All of them sum to ``logits − baseline_logits`` but for :attr:`gaps`.
    rows : per modality int64 [shape=(L,)], the row of the clip's own track that each kept step is.
    start_s, end_s : per modality float64 [shape=(L,)], seconds on the file's clock; None for a sample, which has no times.
    attention : per modality float64 [shape=(c, L)], see ``attention_of_steps``; None without a decoder.
    n_gradients : int64 [shape=(c,)], gradients that each label's path integral took.
    """

    labels: tuple[str, ...]
    logits: np.ndarray
    baseline_logits: np.ndarray
    values: dict[Modality, np.ndarray]
    rows: dict[Modality, np.ndarray]
    start_s: dict[Modality, np.ndarray] | None
    end_s: dict[Modality, np.ndarray] | None
    attention: dict[Modality, np.ndarray] | None
    n_gradients: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """Completeness gap (c,): |sum of all values − (logit − baseline logit)|."""
        return np.abs(self.per_modality().sum(axis=1) - (self.logits - self.baseline_logits))

    @property
    def relative_gaps(self) -> np.ndarray:
        """:attr:`gaps` as a share of |logit − baseline logit|, or of 0.1 where that is smaller (c,)."""
        return self.gaps / np.maximum(np.abs(self.logits - self.baseline_logits), SMALLEST_CHANGE)

    def per_step(self, modality: Modality) -> np.ndarray:
        """Sum over columns (c, L)."""
        return self.values[modality].sum(axis=2)

    def per_column(self, modality: Modality) -> np.ndarray:
        """Sum over steps (c, d)."""
        return self.values[modality].sum(axis=1)

    def per_modality(self) -> np.ndarray:
        """Sum over steps and columns (c, 3), in the order text, audio, visual."""
        return np.stack([self.values[name].sum(axis=(1, 2)) for name in MODALITIES], axis=1)

    def over_time(self, modality: Modality, edges_s: np.ndarray, attention: bool = False) -> np.ndarray:
        """Attribution (or attention) between each two ``edges_s`` [shape=(B + 1,)]: (c, B).

        A step is spread evenly over its own time; what reaches beyond the first or last edge goes to the outer bins, so
        that sums stay. Raises ValueError without times, or without attention.
        """
        if self.start_s is None or self.end_s is None:
            raise ValueError("Expected an attribution of a clip but this one is of a sample, which has no times")
        if attention and self.attention is None:
            raise ValueError("Expected a model with a decoder but this one has no attention")
        amount = self.attention[modality] if attention and self.attention else self.per_step(modality)
        start_s, end_s = self.start_s[modality][:, None], self.end_s[modality][:, None]
        reached = np.clip((edges_s[None] - start_s) / np.maximum(end_s - start_s, 1e-9), 0.0, 1.0)  # (L, B + 1)
        reached[:, 0], reached[:, -1] = 0.0, 1.0
        return amount @ np.diff(reached, axis=1)  # (c, L) @ (L, B)


def attribute(
    checkpoint: Checkpoint,
    clip: Clip | Sample,
    labels: Sequence[str] | None = None,
    *,
    tolerance: float = TOLERANCE,
    max_pieces: int = PIECES,
) -> Attribution:
    """Integrated gradients of the labels' logits with respect to the normalised features at the clip's observed steps.

    The straight path from the baseline to the clip is cut where the integral is worst, until the completeness gap is
    within ``tolerance`` (of |logit − baseline logit|, at least 0.1) or there are ``max_pieces``; ``relative_gaps`` tells
    what was reached.

    Parameters
    ----------
    clip : a clip, or a sample that is already normalised (:meth:`lamb.checkpoint.Checkpoint.ready`).
    labels : names; default all of the checkpoint's.

    Raises
    ------
    InputError : an unknown label (unknown_label).
    SpecMismatch : the clip's features are not the checkpoint's.
    ValueError : the clip has no observed step in any modality that the model reads.
    """
    names = checkpoint.label_set.names
    chosen = tuple(names if labels is None else labels)
    unknown = [name for name in chosen if name not in names]
    if unknown or not chosen:
        raise InputError(f"Expected labels among {', '.join(names)} but got {unknown}.", code="unknown_label")
    model, settings = checkpoint.model.eval(), checkpoint.settings
    if isinstance(clip, Clip):
        valid = {name: track.valid for name, track in clip.tracks.items()}
        batch = checkpoint.batch([clip])
    else:
        valid = clip.valid
        fixed = not settings.padding_masks
        batch = collate([clip], settings.dims, checkpoint.max_steps, checkpoint.truncation, fixed)
    read: list[Modality] = [name for name in settings.modalities if valid[name].any()]
    if not read:
        raise ValueError(f"Expected an observed step of {', '.join(settings.modalities)} but clip {clip.id!r} has none")
    limits = checkpoint.max_steps or (np.iinfo(np.int64).max,) * 3
    rows: dict[Modality, np.ndarray] = {
        name: truncate(valid[name] if name in read else valid[name][:0], int(limit), checkpoint.truncation)
        for name, limit in zip(MODALITIES, limits, strict=True)
    }
    batch = batch.to(model.device)
    index = [names.index(name) for name in chosen]
    found = [_integrate(model, batch, read, label, tolerance, max_pieces) for label in index]
    values: dict[Modality, np.ndarray] = {
        name: to_source(
            np.stack([parts[read.index(name)][: len(rows[name])] for _, _, parts, _ in found]),
            checkpoint.specs[name].dim,
        )
        if name in read
        else np.zeros((len(chosen), 0, checkpoint.specs[name].dim))
        for name in MODALITIES
    }
    attention: dict[Modality, np.ndarray] | None = None
    if model.aggregation is not None:
        with torch.inference_mode():
            record = model(batch, return_attention=True)[1]
        by_step = attention_of_steps(record, batch.masks, settings)
        attention = {name: by_step[name][0, index, : len(rows[name])] for name in MODALITIES}
    start_s: dict[Modality, np.ndarray] | None = None
    end_s: dict[Modality, np.ndarray] | None = None
    if isinstance(clip, Clip):
        start_s = {name: clip.tracks[name].start_s[rows[name]] for name in MODALITIES}
        end_s = {name: clip.tracks[name].end_s[rows[name]] for name in MODALITIES}
    logits, baseline, _, n_gradients = zip(*found, strict=True)
    return Attribution(
        chosen, np.array(logits), np.array(baseline), values, rows, start_s, end_s, attention, np.array(n_gradients)
    )


def _integrate(
    model: LAMB, batch: Batch, read: Sequence[Modality], label: int, tolerance: float, max_pieces: int
) -> tuple[float, float, list[np.ndarray], int]:
    """Logit, baseline logit, attributions (L, d) of each modality ``read``, and the number of gradients taken.

    Attributions along a path are the sum of those along its pieces, and each piece has a completeness gap of its own,
    which tells where to cut: perceptrons put kinks everywhere, norms make the first part of the path steep.
    """
    from captum.attr import IntegratedGradients  # seconds to import

    scores = _scores(model, batch, read)
    method = IntegratedGradients(scores)
    clip = [batch.values[name].masked_fill(~batch.masks[name].unsqueeze(-1), 0.0) for name in read]  # (1, L, d)

    def at(alphas: Sequence[float]) -> tuple[Tensor, ...]:
        return tuple(torch.cat([alpha * x for alpha in alphas]) for x in clip)

    def logits_at(alphas: Sequence[float]) -> dict[float, float]:
        with torch.no_grad():
            return dict(zip(alphas, scores(*at(alphas))[:, label].double().tolist(), strict=True))

    def integrate(spans: Sequence[tuple[float, float]]) -> None:
        begins, ends = zip(*spans, strict=True)
        parts = method.attribute(at(ends), at(begins), target=label, n_steps=NODES, method="gausslegendre")
        parts = [part.detach().double().cpu().numpy() for part in parts]
        for k, (begin, end) in enumerate(spans):
            values = [part[k] for part in parts]
            pieces[begin, end] = values, sum(float(x.sum()) for x in values) - (known[end] - known[begin])

    known = logits_at(FIRST_CUTS)
    pieces: dict[tuple[float, float], tuple[list[np.ndarray], float]] = {}
    integrate(list(itertools.pairwise(FIRST_CUTS)))
    n_integrated = len(pieces)
    allowed = tolerance * max(abs(known[1.0] - known[0.0]), SMALLEST_CHANGE)
    while abs(sum(gap for _, gap in pieces.values())) > allowed and len(pieces) < max_pieces:
        begin, end = max(pieces, key=lambda span: abs(pieces[span][1]))
        middle = (begin + end) / 2
        known |= logits_at([middle])
        del pieces[begin, end]
        integrate([(begin, middle), (middle, end)])
        n_integrated += 2
    values = [np.sum([parts[i] for parts, _ in pieces.values()], axis=0) for i in range(len(read))]
    return known[1.0], known[0.0], values, n_integrated * NODES


def _scores(model: LAMB, batch: Batch, read: Sequence[Modality]) -> Callable[..., Tensor]:
    """The model as a function of the sequences (N, L, d) of the modalities ``read``; all else as in ``batch``."""

    def scores(*sequences: Tensor) -> Tensor:
        n = len(sequences[0])
        given = dict(zip(read, sequences, strict=True))
        values: dict[Modality, Tensor] = {
            name: given.get(name, batch.values[name].expand(n, -1, -1)) for name in MODALITIES
        }
        masks: dict[Modality, Tensor] = {name: batch.masks[name].expand(n, -1) for name in MODALITIES}
        logits = model(Batch(values, masks))
        # an encoder whose other modality is absent reads nothing: its input still has a gradient, which is 0
        return logits + 0.0 * sum(sequence.sum(dim=(1, 2)) for sequence in sequences).unsqueeze(1)  # type: ignore[union-attr]

    return scores
