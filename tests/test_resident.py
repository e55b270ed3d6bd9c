"""Batches gathered from flat tensors are those that collate makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batches import Sample, collate
from data.resident import Resident
from data.spec import MODALITIES

DIMS = (3, 5, 2)
LIMITS = (6, 20, 15)


def make(n: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        lengths = rng.integers(0, (9, 40, 20)) * (rng.random(3) < 0.8)
        lengths[int(rng.integers(3))] += 1
        values = {
            m: rng.normal(size=(k, d)).astype(np.float32) for m, k, d in zip(MODALITIES, lengths, DIMS, strict=True)
        }
        valid = {m: rng.random(k) < 0.8 for m, k in zip(MODALITIES, lengths, strict=True)}
        for m in MODALITIES:
            values[m][~valid[m]] = 0
        samples.append(Sample(values, valid, rng.integers(0, 2, 4).astype(np.float32), float(i), str(i)))  # type: ignore[arg-type]
    return samples


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([None, LIMITS]), st.sampled_from(["even", "head"]))
def test_a_gathered_batch_is_the_collated_one(n: int, seed: int, limits: tuple[int, int, int] | None, how: str) -> None:
    samples = make(n, seed)
    chosen = np.random.default_rng(seed).integers(0, n, size=5)
    for fixed in (False, True) if limits else (False,):
        came = Resident(samples, DIMS, limits, how, fixed).batch(chosen)  # type: ignore[arg-type]
        expected = collate([samples[i] for i in chosen], DIMS, limits, how, fixed)  # type: ignore[arg-type]
        for name in MODALITIES:
            assert torch.equal(came.values[name], expected.values[name])
            assert torch.equal(came.masks[name], expected.masks[name])
        assert came.labels is not None
        assert expected.labels is not None
        assert torch.equal(came.labels, expected.labels)
        assert torch.equal(came.weights, expected.weights)  # type: ignore[arg-type]
        assert torch.equal(came.presence, expected.presence)


@pytest.mark.parametrize("fault", ["none", "columns", "labels", "fixed"])
def test_what_does_not_fit_is_refused(fault: str) -> None:
    samples = make(3, 0)
    odd = Sample(
        {**samples[0].values, "audio": np.zeros((len(samples[0].valid["audio"]), 4), np.float32)}, samples[0].valid
    )
    bare = Sample(samples[1].values, samples[1].valid)
    given_samples = {"none": [], "columns": [odd], "labels": [samples[0], bare], "fixed": samples}[fault]
    with pytest.raises(ValueError, match="Expected"):
        Resident(given_samples, DIMS, None, fixed=fault == "fixed")
