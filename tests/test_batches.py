"""Samples to padded batches, batches of like samples, and the normalisation in front of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import Clip, FeatureSpec, FeatureTrack, LabelSet
from data.batches import Batch, Sample, bucketed_batches, collate, truncate
from data.spec import MODALITIES, Modality
from lamb.normalization import Normalization, RunningMoments

torch.set_num_threads(1)

DIMS = (3, 2, 4)


def make_sample(lengths: tuple[int, int, int], seed: int = 0, **more: object) -> Sample:
    rng = np.random.default_rng(seed)
    values: dict[Modality, np.ndarray] = {}
    valid: dict[Modality, np.ndarray] = {}
    for name, dim, length in zip(MODALITIES, DIMS, lengths, strict=True):
        values[name] = rng.normal(size=(length, dim)).astype(np.float32)
        valid[name] = np.ones(length, dtype=bool)
    return Sample(values, valid, **more)  # type: ignore[arg-type]


def test_collate_pads_right_with_zeros_and_masks() -> None:
    first, second = make_sample((2, 5, 0), 1), make_sample((4, 3, 0), 2)
    first.valid["audio"][1] = False
    batch = collate([first, second], DIMS)
    assert {name: tuple(batch.values[name].shape) for name in MODALITIES} == {
        "text": (2, 4, 3),
        "audio": (2, 5, 2),
        "visual": (2, 0, 4),
    }
    assert batch.masks["text"].tolist() == [[True, True, False, False], [True] * 4]
    assert batch.masks["audio"].tolist() == [[True, False, True, True, True], [True, True, True, False, False]]
    np.testing.assert_array_equal(batch.values["text"][0, :2], first.values["text"])
    np.testing.assert_array_equal(batch.values["text"][1], second.values["text"])
    for name in MODALITIES:
        assert (batch.values[name][~batch.masks[name]] == 0).all()
    assert batch.presence.tolist() == [[True, True, False], [True, True, False]]
    assert batch.labels is None


def test_collate_takes_clips() -> None:
    tracks = {}
    for name, dim in zip(MODALITIES, DIMS, strict=True):
        spec = FeatureSpec(name, tuple(f"{name}{i}" for i in range(dim)), 10.0, "test", "1")
        tracks[name] = FeatureTrack.from_rate(np.ones((4, dim), np.float32), spec)
    tracks["audio"] = FeatureTrack.empty(tracks["audio"].spec, "no_audio")
    clip = Clip("a", "a.mp4", 0.0, 0.4, tracks, labels=("fear",))
    batch = collate([clip], DIMS)
    assert batch.presence.tolist() == [[True, False, True]]
    assert tuple(batch.values["audio"].shape) == (1, 0, 2)
    labels = LabelSet(("joy", "fear"))
    sample = Sample.from_clip(clip, labels)
    assert sample.labels is not None
    assert sample.labels.tolist() == [0.0, 1.0]
    assert sample.presence == (True, False, True)


def test_fixed_padding_pads_everything_to_max_steps() -> None:
    batch = collate([make_sample((2, 5, 0))], DIMS, (4, 6, 3), fixed=True)
    assert [batch.values[name].shape[1] for name in MODALITIES] == [4, 6, 3]
    assert batch.presence.tolist() == [[True, True, False]]


def test_labels_and_weights_come_along() -> None:
    samples = [make_sample((1, 1, 1), i, labels=np.eye(3)[i], weight=i + 0.5) for i in range(3)]
    batch = collate(samples, DIMS)
    assert batch.labels is not None
    assert batch.weights is not None
    assert batch.labels.tolist() == np.eye(3).tolist()
    assert batch.weights.tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    ("samples", "kwargs", "message"),
    [
        ([], {}, "at least one sample"),
        ([make_sample((1, 1, 1))], {"dims": (3, 2, 5)}, r"visual values of shape \(1, 5\) but got \(1, 4\)"),
        ([make_sample((1, 1, 1), labels=np.ones(2)), make_sample((1, 1, 1))], {}, "for all samples or for none"),
        ([make_sample((1, 1, 1))], {"max_steps": None, "fixed": True}, "Expected max_steps"),
    ],
    ids=["none", "columns", "labels", "fixed"],
)
def test_collate_refuses(samples: list[Sample], kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate(samples, **{"dims": DIMS, **kwargs})


def test_keep_hides_modalities() -> None:
    batch = collate([make_sample((2, 2, 2)), make_sample((2, 2, 2))], DIMS)
    kept = batch.keep(torch.tensor([[True, False, True], [False, True, True]]))
    assert kept.presence.tolist() == [[True, False, True], [False, True, True]]
    assert not kept.masks["audio"][0].any()
    assert kept.masks["audio"][1].all()
    assert batch.presence.all()


def test_moving_a_batch_keeps_everything() -> None:
    batch = collate([make_sample((2, 3, 0), labels=np.ones(2))], DIMS)
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.values["text"].device.type == moved.device.type == "meta"
    assert moved.labels is not None
    assert moved.labels.device.type == "meta"
    assert moved.presence.tolist() == [[True, True, False]]  # stays on the CPU
    assert len(moved) == 1


# ---- truncation -----------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 40), st.sampled_from(["even", "head"]))
@settings(max_examples=300, deadline=None)
def test_truncation_keeps_increasing_steps_within_the_limit(mask: list[bool], limit: int, policy: str) -> None:
    valid = np.array(mask, dtype=bool)
    kept = truncate(valid, limit, policy)  # type: ignore[arg-type]
    last = np.flatnonzero(valid)[-1] if valid.any() else -1
    assert len(kept) <= limit
    assert (np.diff(kept) > 0).all()
    assert not len(kept) or 0 <= kept[0] <= kept[-1] <= last
    if last < limit:
        assert kept.tolist() == list(range(last + 1))  # nothing to cut but trailing padding
    elif policy == "head":
        assert kept.tolist() == list(range(limit))
    else:
        assert valid[kept].all()
        assert len(kept) == min(limit, valid.sum())


def test_even_truncation_spreads_over_the_whole_utterance() -> None:
    kept = truncate(np.ones(1000, dtype=bool), 500, "even")
    assert kept.tolist() == list(range(0, 1000, 2))
    kept = truncate(np.ones(700, dtype=bool), 500, "even")
    assert set(np.diff(kept)) == {1, 2}
    assert kept[0] == 0
    assert kept[-1] >= 697


# ---- batches of like samples ----------------------------------------------------------------------------------------


def mixed_samples(n: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        here = [(1, 1, 1), (1, 0, 0), (0, 1, 1)][int(rng.integers(3))]
        samples.append(make_sample(tuple(int(rng.integers(1, 40)) * there for there in here), i))  # type: ignore[arg-type]
    return samples


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_every_sample_is_in_exactly_one_batch(seed: int | None) -> None:
    samples = mixed_samples(203)
    batches = bucketed_batches(samples, 16, seed)
    assert sorted(i for batch in batches for i in batch) == list(range(203))
    assert max(len(batch) for batch in batches) == 16
    assert sum(len(batch) < 8 for batch in batches) <= 1


def test_like_is_batched_with_like() -> None:
    samples = mixed_samples(600)
    batches = bucketed_batches(samples, 16, 0)
    pure = [batch for batch in batches if len({samples[i].presence for i in batch}) == 1]
    assert len(batches) - len(pure) <= 2

    def padded(batch: list[int]) -> int:
        return sum(len(batch) * max(samples[i].n_steps(name) for i in batch) for name in MODALITIES)

    rng = np.random.default_rng(0)
    order = rng.permutation(600)
    at_random = [order[k : k + 16].tolist() for k in range(0, 600, 16)]
    assert sum(map(padded, batches)) < 0.7 * sum(map(padded, at_random))


def test_batches_follow_the_seed() -> None:
    samples = mixed_samples(100)
    assert bucketed_batches(samples, 8, [1, 2]) == bucketed_batches(samples, 8, [1, 2])
    assert bucketed_batches(samples, 8, [1, 2]) != bucketed_batches(samples, 8, [1, 3])


def test_drawn_indices_are_kept_with_their_repetitions() -> None:
    samples = mixed_samples(20)
    drawn = [3, 3, 3, 7, 7, 19]
    batches = bucketed_batches(samples, 4, 0, drawn)
    assert Counter(i for batch in batches for i in batch) == Counter(drawn)


# ---- normalisation --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_streamed_moments_are_those_of_all_rows(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    chunks = [rng.normal(1e3, 2.0, size=(n, 3)) for n in lengths]
    masks = [rng.random(n) < 0.7 for n in lengths]
    moments = RunningMoments()
    for chunk, mask in zip(chunks, masks, strict=True):
        moments.update(chunk, mask)
    rows = np.concatenate(chunks)[np.concatenate(masks)]
    assert (moments.n == len(rows)).all()
    if len(rows):
        np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.std, rows.std(axis=0), rtol=1e-7, atol=1e-9)


def test_normalised_training_data_has_mean_0_and_std_1() -> None:
    samples = [make_sample((20, 30, 10), i) for i in range(30)]
    for sample in samples:
        sample.values["audio"][:] = sample.values["audio"] * 50 + 1000
        sample.valid["audio"][::3] = False
        sample.values["audio"][::3] = 1e9  # what is not valid must not count
    normalization = Normalization.measure(samples, clip=None)
    normalised = [normalization.apply_to(sample) for sample in samples]
    for name in MODALITIES:
        rows = np.concatenate([one.values[name][one.valid[name]] for one in normalised])
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(rows.std(axis=0), 1, atol=1e-3)
        assert all((one.values[name][~one.valid[name]] == 0).all() for one in normalised)


def test_undefined_columns_count_for_nothing_and_become_the_mean() -> None:
    sample = make_sample((5, 40, 5))
    defined = np.ones((40, DIMS[1]), bool)
    defined[::2, 0] = False
    sample.values["audio"][~defined] = 1e9
    sample = replace(sample, defined={"audio": defined})
    normalization = Normalization.measure([sample], clip=None)
    column = sample.values["audio"][1::2, 0]
    np.testing.assert_allclose(normalization.mean["audio"][0], column.mean(), rtol=1e-5)
    np.testing.assert_allclose(normalization.std["audio"][0], column.std(), rtol=1e-5)
    result = normalization.apply_to(sample).values["audio"]
    assert (result[::2, 0] == 0).all()
    np.testing.assert_allclose(result[1::2, 0].std(), 1, atol=1e-4)


def test_outliers_are_clipped_and_dead_columns_stay_small() -> None:
    sample = make_sample((100, 100, 0))
    sample.values["text"][0, 0] = 1e4
    sample.values["audio"][:, 0] = 0.1  # constant: its measured deviation is rounding
    sample.values["audio"][:, 1] = 0.0
    normalization = Normalization.measure([sample], clip=5.0)
    assert normalization.std["audio"].tolist() == [1.0, 1.0]
    assert normalization.std["visual"].tolist() == [1.0] * 4  # nobody has it
    result = normalization.apply_to(sample)
    assert result.values["text"].max() == 5.0
    assert np.abs(result.values["audio"]).max() < 1e-6
    assert result.values["text"].dtype == np.float32


def test_statistics_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Normalization.measure([])
    good = Normalization.identity(DIMS)
    with pytest.raises(ValueError, match="std > 0"):
        Normalization(good.mean, {**good.std, "text": np.zeros(3, np.float32)})
    moments = RunningMoments()
    moments.update(np.ones((2, 3)), np.ones(2, bool))
    with pytest.raises(ValueError, match="Expected 3 columns but got 2"):
        moments.update(np.ones((2, 2)), np.ones(2, bool))
