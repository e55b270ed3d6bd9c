"""Augmentation of training batches, against learning a small set by heart.

In: a :class:`data.batches.Batch` and a generator. Out: a new batch of as many samples, on the same device; the one given
stays as it was. Random tensors are made on ``generator.device``. Such functions are what :func:`lamb.training.fit` takes:

    fit(model, train, valid, settings, names, augment=partial(drop_columns, share=0.5))
"""

from __future__ import annotations

from dataclasses import replace

import torch

from data.batches import Batch
from data.spec import Modality


def drop_columns(batch: Batch, generator: torch.Generator, share: float = 0.5, modality: Modality = "audio") -> Batch:
    """Each feature column of each sample is 0 at all its steps with probability ``share``; draws are independent.

    Values are to be normalised, so that 0 is the mean. The columns left are not scaled up as in dropout: a measurement
    is missing, the others are as large as ever. Values (N, L, d) and masks keep their shapes. Raises ValueError for a
    ``share`` outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"Expected a share of columns from 0 to 1 but got {share}")
    values = batch.values[modality]
    drawn = torch.rand((len(batch), 1, values.shape[-1]), generator=generator, device=generator.device)
    kept = (drawn >= share).to(values)  # (N, 1, d)
    return replace(batch, values={**batch.values, modality: values * kept})
