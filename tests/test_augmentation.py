"""Dropped columns: whole, as many as asked, each sample its own; nothing else changes; training repeats itself."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from data.batches import Batch, Sample
from data.spec import MODALITIES, Modality
from lamb.augmentation import drop_columns
from lamb.model import LAMB
from lamb.settings import ModelSettings
from lamb.training import TrainSettings, fit

torch.set_num_threads(1)

DIMS = (3, 50, 2)
STEPS = (2, 4, 1)


def ones(n: int = 200) -> Batch:
    return Batch(
        {name: torch.ones(n, steps, dim) for name, steps, dim in zip(MODALITIES, STEPS, DIMS, strict=True)},
        {name: torch.ones(n, steps, dtype=torch.bool) for name, steps in zip(MODALITIES, STEPS, strict=True)},
        torch.zeros(n, 2),
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_columns_are_dropped_whole_and_as_many_as_asked() -> None:
    dropped = drop_columns(ones(), generator(), share=0.3).values["audio"].numpy()
    assert (dropped == dropped[:, :1]).all()
    assert set(np.unique(dropped)) == {0.0, 1.0}  # what is left is not scaled
    drawn = dropped[:, 0]
    assert drawn.mean() == pytest.approx(0.7, abs=0.02)  # 10,000 draws: four deviations
    # independent: as many zeros vary between samples, and between columns, as a binomial law says
    assert drawn.sum(axis=1).var() == pytest.approx(50 * 0.21, rel=0.4)
    assert drawn.sum(axis=0).var() == pytest.approx(200 * 0.21, rel=0.8)


@pytest.mark.parametrize(("share", "left"), [(0.0, 1.0), (1.0, 0.0)])
def test_none_and_all(share: float, left: float) -> None:
    assert drop_columns(ones(3), generator(), share).values["audio"].unique().tolist() == [left]


@pytest.mark.parametrize("modality", MODALITIES)
def test_nothing_else_changes(modality: Modality) -> None:
    batch = ones()
    dropped = drop_columns(batch, generator(), 0.5, modality)
    assert all(bool((batch.values[name] == 1).all()) for name in MODALITIES)
    for name in MODALITIES:
        assert torch.equal(dropped.values[name], batch.values[name]) == (name != modality)
        assert dropped.masks[name] is batch.masks[name]
    assert dropped.labels is batch.labels


def test_the_generator_decides() -> None:
    first, again, other = (drop_columns(ones(), generator(seed)).values["audio"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_share_is_not_a_percentage() -> None:
    with pytest.raises(ValueError, match="from 0 to 1 but got 30"):
        drop_columns(ones(2), generator(), share=30)


def test_training_with_it_repeats_itself_by_seed() -> None:
    rng = np.random.default_rng(0)
    train = []
    for i in range(24):
        values: dict[Modality, np.ndarray] = {}
        valid: dict[Modality, np.ndarray] = {}
        for name, steps, dim in zip(MODALITIES, STEPS, DIMS, strict=True):
            values[name] = rng.normal(size=(steps, dim)).astype(np.float32)
            valid[name] = np.ones(steps, bool)
        train.append(Sample(values, valid, np.eye(2, dtype=np.float32)[i % 2], id=str(i)))
    losses = []
    for augment in (drop_columns, drop_columns, partial(drop_columns, share=0.1)):
        torch.manual_seed(0)
        model = LAMB(ModelSettings(dims=DIMS, n_labels=2))
        result = fit(model, train, train[:4], TrainSettings(epochs=2, batch_size=8), ("a", "b"), augment=augment)
        losses.append(result.history[-1]["train_loss"])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
