"""The training objective, eq. 8: binary cross-entropy, summed over labels, averaged over samples.

In: logits (N, c) and labels (N, c) in 0..1. Out: a scalar in nats.

    loss = objective(model(batch), batch.labels, smoothing=0.1)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def objective(
    logits: Tensor,
    labels: Tensor,
    smoothing: float = 0.1,
    positive_weights: Tensor | None = None,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """Eq. 8 with label smoothing ε: targets are y(1−ε) + ε/2.

    Parameters
    ----------
    positive_weights : (c,), factors on the positive part of each label's loss, against rare labels never predicted.
    sample_weights : (N,), factors on each sample's loss; the mean is over N, not over the weights.
    """
    targets = labels * (1 - smoothing) + smoothing / 2
    losses = functional.binary_cross_entropy_with_logits(
        logits.float(), targets.float(), pos_weight=positive_weights, reduction="none"
    ).sum(dim=1)  # (N, c) → (N,); eq. 8
    if sample_weights is not None:
        losses = losses * sample_weights
    return losses.mean()
