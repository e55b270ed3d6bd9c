"""Attention: what the decoder's labels attended to over a data set (figures 2 and 3), and at the steps of a batch.

In: a model with normalised samples, or the record of one pass. Out: counts of tokens, and weights that are shares of 1.

    counts = encoder_histogram(model, samples)                   # (c, n_encoders), figure 2
    weights = label_attention(model, samples)                    # (h, c, c), figure 3
    by_step = attention_of_steps(record, batch.masks, settings)  # per modality (N, c, L)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from data.batches import MAX_STEPS, Sample, Truncation, bucketed_batches, collate
from data.errors import InputError
from data.spec import MODALITIES, Modality
from lamb.model import LAMB, AttentionRecord
from lamb.settings import MODALITY_OF, ModelSettings

TOP_TOKENS = 5  # of figure 2


def encoder_histogram(
    model: LAMB,
    samples: Sequence[Sample],
    *,
    top: int = TOP_TOKENS,
    batch_size: int = 32,
    max_steps: tuple[int, int, int] | None = MAX_STEPS,
    truncation: Truncation = "even",
) -> np.ndarray:
    """Figure 2: which encoders made the tokens that each label attends to most.

    For each sample and label the ``top`` usable tokens by their highest weight over all heads, counted by encoder; of
    equal tokens the earlier. A sample with fewer usable tokens counts those it has, one without any observed step none.

    Parameters
    ----------
    samples : already normalised; see ``Normalization.apply_to``.

    Returns
    -------
    int64 [shape=(c, n_encoders)], encoders in the order of ``model.settings.encoders``.

    Raises
    ------
    InputError : the model has no decoder (no_attention).
    """
    counts = torch.zeros(model.settings.n_labels, len(model.settings.encoders), dtype=torch.int64)
    for record in _attention(model, samples, batch_size, max_steps, truncation):
        highest = record.label_to_token.amax(dim=1)  # (N, h, c, M) → (N, c, M)
        usable = record.token_mask[:, None].expand_as(highest)
        ranked = highest.masked_fill(~usable, -1.0).sort(dim=-1, descending=True, stable=True).indices[..., :top]
        counted = usable.gather(-1, ranked)  # (N, c, top)
        encoder = record.token_encoder.to(ranked.device)[ranked]
        for label in range(len(counts)):
            chosen = encoder[:, label][counted[:, label]]
            counts[label] += torch.bincount(chosen, minlength=counts.shape[1]).cpu()
    return counts.numpy()


def label_attention(
    model: LAMB,
    samples: Sequence[Sample],
    *,
    batch_size: int = 32,
    max_steps: tuple[int, int, int] | None = MAX_STEPS,
    truncation: Truncation = "even",
) -> np.ndarray:
    """Figure 3: label-to-label attention of each head in the last decoder layer, mean over samples.

    With one layer it does not depend on the input, and one sample is enough. With the identity mask
    (``label_correlations=False``) every head's matrix is the identity.

    Returns
    -------
    float64 [shape=(h, c, c)], rows sum to 1: how much a label (row) takes from each label (column).

    Raises
    ------
    InputError : the model has no decoder (no_attention), or no sample has an observed step (no_samples).
    """
    _decoder(model)
    observed = [sample for sample in samples if any(sample.presence)]
    if not observed:
        raise InputError("Expected a sample with an observed step but got none.", code="no_samples")
    if model.settings.decoder_layers == 1:
        observed = observed[:1]
    total = 0.0
    for record in _attention(model, observed, batch_size, max_steps, truncation):
        total = total + record.label_to_label.double().sum(dim=0).cpu().numpy()
    return np.asarray(total) / len(observed)


def _decoder(model: LAMB) -> None:
    if model.aggregation is None:
        raise InputError(
            "Expected a model with a decoder but this one (aggregation='first_token') has no attention.",
            code="no_attention",
            remedy="Explain a checkpoint with aggregation='decoder'; single clips can still be attributed.",
        )


def _attention(
    model: LAMB,
    samples: Sequence[Sample],
    batch_size: int,
    max_steps: tuple[int, int, int] | None,
    truncation: Truncation,
) -> Iterator[AttentionRecord]:
    """The attention of one batch after the other; samples without any observed step are left out."""
    _decoder(model)
    model.eval()
    fixed = not model.settings.padding_masks
    observed = np.array([i for i, sample in enumerate(samples) if any(sample.presence)], dtype=np.int64)
    for chosen in bucketed_batches(samples, batch_size, indices=observed):
        batch = collate([samples[i] for i in chosen], model.settings.dims, max_steps, truncation, fixed)
        with torch.inference_mode():
            yield model(batch.to(model.device), return_attention=True)[1]


def attention_of_steps(
    record: AttentionRecord, masks: dict[Modality, Tensor], settings: ModelSettings
) -> dict[Modality, np.ndarray]:
    """Label-to-token attention, mean over heads, summed over the encoders whose own (first) modality a step belongs to.

    A pooled token's weight is shared equally by the valid steps it was made of. What falls on steps that are padding
    (models without padding masks) belongs to no step; else a label's weights over all modalities sum to 1.

    Returns
    -------
    per modality float64 [shape=(N, c, L)], exactly 0 at masked steps.
    """
    weights = record.label_to_token.mean(dim=1).double()  # (N, h, c, M) → (N, c, M)
    found: dict[Modality, np.ndarray] = {}
    for name, pooling in zip(MODALITIES, settings.pooling, strict=True):
        mask = masks[name].to(weights.device)
        n, length = mask.shape
        groups = torch.nn.functional.pad(mask, (0, -length % pooling)).view(n, -1, pooling)  # (N, L) → (N, L/p, p)
        own = [MODALITY_OF[record.encoders[i][0]] == name for i in record.token_encoder.tolist()]
        chosen = torch.tensor(own, dtype=torch.bool).nonzero().flatten()
        pooled = weights.new_zeros(n, weights.shape[1], groups.shape[1])
        steps = record.token_step[chosen].to(weights.device)
        pooled.index_add_(2, steps, weights[:, :, chosen.to(weights.device)])
        share = groups / groups.sum(dim=2, keepdim=True).clamp(min=1)
        spread = (pooled.unsqueeze(-1) * share[:, None]).flatten(2)  # (N, c, L/p, p) → (N, c, L)
        found[name] = spread[..., :length].cpu().numpy()
    return found
