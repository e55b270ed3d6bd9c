"""Explanations: what was planted ranks first, attributions are complete, figures agree with plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from data import Clip, FeatureSpec, FeatureTrack, LabelSet
from data.batches import Sample, collate, truncate
from data.errors import InputError
from data.spec import MODALITIES, Modality
from lamb.attention import attention_of_steps, encoder_histogram, label_attention
from lamb.checkpoint import Checkpoint
from lamb.explain import attribute
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.settings import ModelSettings
from lamb.training import TrainSettings, fit

torch.set_num_threads(1)

DIMS = (6, 5, 4)
NAMES = ("a", "b", "c", "d")
PLANTED: dict[int, tuple[Modality, int]] = {0: ("text", 0), 1: ("text", 1), 2: ("audio", 0), 3: ("visual", 2)}
SPECS: dict[Modality, FeatureSpec] = {
    name: FeatureSpec(name, tuple(f"{name}{i}" for i in range(dim)), None, f"{name}-tool", "1")
    for name, dim in zip(MODALITIES, DIMS, strict=True)
}


def planted(n: int, seed: int) -> tuple[list[Sample], list[dict[int, int]]]:
    """Noise; each label that holds adds 5 to its column at one step, which the second list tells per label."""
    rng = np.random.default_rng(seed)
    samples, places = [], []
    for i in range(n):
        labels = (rng.random(4) < 0.4).astype(np.float32)
        values: dict[Modality, np.ndarray] = {}
        for name, dim, longest in zip(MODALITIES, DIMS, (8, 12, 10), strict=True):
            values[name] = rng.normal(size=(int(rng.integers(4, longest + 1)), dim)).astype(np.float32)
        valid: dict[Modality, np.ndarray] = {name: rng.random(len(x)) < 0.9 for name, x in values.items()}
        steps = {}
        for label in np.flatnonzero(labels):
            name, column = PLANTED[int(label)]
            steps[int(label)] = int(rng.integers(len(values[name])))
            values[name][steps[int(label)], column] += 5.0
            valid[name][steps[int(label)]] = True
        for name in MODALITIES:
            valid[name][0] = True
            values[name][~valid[name]] = 0.0
        samples.append(Sample(values, valid, labels, id=str(i)))
        places.append(steps)
    return samples, places


def checkpoint_of(model: LAMB, normalization: Normalization | None = None, **changes: Any) -> Checkpoint:
    names = LabelSet(NAMES[: model.settings.n_labels])
    return Checkpoint(model, names, SPECS, normalization or Normalization.identity(DIMS), **changes)


def make_model(seed: int = 0, **changes: Any) -> LAMB:
    torch.manual_seed(seed)
    model = LAMB(ModelSettings.parse({"dims": DIMS, "n_labels": 4, **changes}))
    for parameter in model.parameters():  # no bias is 0, so that nothing is right by chance
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def make_clip(seed: int, lengths: tuple[int, int, int] = (7, 40, 30), **changes: Any) -> Clip:
    rng = np.random.default_rng(seed)
    tracks: dict[Modality, FeatureTrack] = {}
    for name, n_steps in zip(MODALITIES, lengths, strict=True):
        edges = 1.0 + np.arange(n_steps + 1) * (3.0 / max(1, n_steps))
        values = rng.normal(2.0, 2.0, size=(n_steps, SPECS[name].dim))
        valid = rng.random(n_steps) < 0.8
        valid[:1] = True
        defined = rng.random(values.shape) < 0.9
        tracks[name] = FeatureTrack(values, edges[:-1], edges[1:], valid, SPECS[name], None, defined)
    return Clip(**{"id": "clip", "source": "a.mp4", "start_s": 1.0, "end_s": 4.0, "tracks": tracks, **changes})


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    samples, _ = planted(300, 0)
    valid, _ = planted(60, 1)
    model = make_model(decoder="residual")
    fit(model, samples, valid, TrainSettings(epochs=20, batch_size=32, learning_rate=5e-3), NAMES)
    return checkpoint_of(model.eval())  # the last epoch's: by accuracy one of the third may be as good, and knows less


# ---- planted data ---------------------------------------------------------------------------------------------------


def test_the_planted_token_and_column_rank_first(trained: Checkpoint) -> None:
    """Among all steps and all columns of all three modalities, for nearly every label that holds.

    Nearly: labels attend to each other, so another label's column may win where a training, which rounding leads its own
    way, left the model unsure. Over five first weights and kernels from SSE to AVX-512 at most 1 of 71 did not rank first.
    """
    samples, places = planted(40, 2)
    first: dict[int, list[tuple[bool, bool, bool]]] = {label: [] for label in PLANTED}
    for sample, steps in zip(samples, places, strict=True):
        if not steps:
            continue
        found = attribute(trained, sample, [NAMES[label] for label in steps])
        assert (found.relative_gaps < 0.01).all()
        for i, (label, step) in enumerate(steps.items()):
            name, column = PLANTED[label]
            kept = found.rows[name].tolist().index(step)
            first[label].append(
                (
                    found.per_step(name)[i, kept] == max(found.per_step(m)[i].max() for m in MODALITIES),
                    found.per_column(name)[i, column] == max(found.per_column(m)[i].max() for m in MODALITIES),
                    found.values[name][i, kept, column] == max(found.values[m][i].max() for m in MODALITIES),
                )
            )
    assert min(map(len, first.values())) >= 12
    assert np.mean(np.concatenate(list(first.values())), axis=0).min() >= 0.95  # steps, columns, cells
    for label, ranks in first.items():
        assert np.mean(ranks, axis=0).min() >= 0.8, NAMES[label]


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_token_that_weights_point_at_is_attended_most(modality: Modality) -> None:
    """One head whose query is a chosen token, keys as they are: normed tokens have one length, so none is nearer."""
    torch.manual_seed(1)
    model = LAMB(ModelSettings(dims=DIMS, n_labels=4, heads=1, width=16)).eval()
    sample = planted(1, 3)[0][0]
    batch = collate([sample], DIMS)
    step = int(np.flatnonzero(sample.valid[modality])[-1])
    with torch.no_grad():
        tokens = model.blending(batch)
        own = model.settings.encoders.index(modality[0].upper())
        chosen = int(((tokens.encoder == own) & (tokens.step == step)).nonzero())
        attention = model.aggregation.layers[0].token_attention  # type: ignore[union-attr]
        attention.query.weight.zero_()  # type: ignore[union-attr]
        attention.query.bias.copy_(tokens.padded()[0, chosen])  # type: ignore[union-attr]
        attention.key.weight.copy_(torch.eye(16))  # type: ignore[union-attr]
        _, record = model(batch, return_attention=True)
    found = attention_of_steps(record, batch.masks, model.settings)
    assert (found[modality][0].argmax(axis=-1) == step).all()
    counts = encoder_histogram(model, [sample], top=1)
    assert (counts[:, own] == 1).all()
    assert counts.sum() == 4


# ---- attribution ----------------------------------------------------------------------------------------------------

VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"pooling": (1, 8, 2), "kernel_sizes": (1, 5, 1), "decoder": "residual"},
    {"padding_masks": False, "positions": "sinusoidal"},
    {"aggregation": "first_token"},
    {"encoders": ("T", "VA")},
)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_attributions_are_complete_and_agree_with_a_plain_sum(changes: dict[str, Any]) -> None:
    checkpoint = checkpoint_of(make_model(**changes), max_steps=(50, 60, 60))
    clip = make_clip(0)
    found = attribute(checkpoint, clip, ["d", "a"])
    assert found.labels == ("d", "a")
    assert (found.relative_gaps < 0.01).all()

    batch = checkpoint.batch([clip])
    sums = [{name: torch.zeros_like(batch.values[name][0]) for name in MODALITIES} for _ in range(2)]
    for begin, end in ((0.0, 1 / 16), (1 / 16, 1 / 4), (1 / 4, 1.0)):  # it is steep near the baseline
        nodes = begin + (end - begin) * (torch.arange(60) + 0.5) / 60
        moved: dict[Modality, torch.Tensor] = {
            name: (nodes[:, None, None] * batch.values[name]).requires_grad_() for name in MODALITIES
        }
        logits = checkpoint.model(type(batch)(moved, {name: batch.masks[name].expand(60, -1) for name in MODALITIES}))
        for total, label in zip(sums, (3, 0), strict=True):
            slopes = torch.autograd.grad(
                logits[:, label].sum(), list(moved.values()), retain_graph=True, allow_unused=True
            )
            for name, slope in zip(MODALITIES, slopes, strict=True):
                if slope is not None:
                    total[name] += slope.mean(dim=0) * (end - begin)
    size = np.sum([np.abs(found.values[name]).sum(axis=(1, 2)) for name in MODALITIES], axis=0)
    for i, total in enumerate(sums):
        distance = 0.0
        for name in MODALITIES:
            expected = (total[name] * batch.values[name][0]).numpy()
            distance += np.abs(found.values[name][i] - expected[: len(found.rows[name])]).sum()
        assert distance < 0.03 * size[i]
    with torch.no_grad():
        assert found.logits == pytest.approx(checkpoint.model(batch)[0][[3, 0]].numpy(), abs=1e-5)
        nothing = type(batch)({name: torch.zeros_like(batch.values[name]) for name in MODALITIES}, batch.masks)
        assert found.baseline_logits == pytest.approx(checkpoint.model(nothing)[0][[3, 0]].numpy(), abs=1e-5)


def test_what_was_not_observed_has_exactly_nothing() -> None:
    checkpoint = checkpoint_of(
        make_model(kernel_sizes=(3, 3, 3)), Normalization.measure([Sample.from_clip(make_clip(9))])
    )
    clip = make_clip(1)
    found = attribute(checkpoint, clip, ["a"])
    assert found.attention is not None
    for name in MODALITIES:
        track = clip.tracks[name]
        assert not track.valid.all()
        valid, defined = track.valid[found.rows[name]], track.defined
        assert defined is not None
        assert (found.values[name][0][~valid] == 0).all()
        assert (found.values[name][0][~defined[found.rows[name]]] == 0).all()
        assert (found.per_step(name)[0][valid] != 0).all()
        assert (found.attention[name][0][~valid] == 0).all()
        assert (found.attention[name][0][valid] > 0).all()
        assert np.array_equal(found.start_s[name], track.start_s[found.rows[name]])  # type: ignore[index]


def test_an_absent_modality_and_an_encoder_without_its_other_one() -> None:
    checkpoint = checkpoint_of(make_model(encoders=("T", "AV")))
    full = make_clip(2)
    clip = make_clip(2, tracks={**full.tracks, "visual": FeatureTrack.empty(SPECS["visual"], "no_face")})
    found = attribute(checkpoint, clip, ["b"])
    assert found.values["visual"].shape == (1, 0, 4)
    assert (found.values["audio"] == 0).all()
    assert (found.relative_gaps < 0.01).all()
    nothing = make_clip(2, tracks={name: FeatureTrack.empty(SPECS[name], "none") for name in MODALITIES})
    with pytest.raises(ValueError, match="observed step"):
        attribute(checkpoint, nothing)
    with pytest.raises(InputError, match="joy"):
        attribute(checkpoint, full, ["joy"])


@pytest.mark.parametrize("policy", ["even", "head"])
def test_truncated_clips_map_back_to_their_own_rows(policy: Any) -> None:
    checkpoint = checkpoint_of(make_model(), max_steps=(4, 10, 12), truncation=policy)
    clip = make_clip(3)
    found = attribute(checkpoint, clip, ["c"])
    kept = {}
    for name, limit in zip(MODALITIES, (4, 10, 12), strict=True):
        track = clip.tracks[name]
        rows = found.rows[name]
        assert rows.tolist() == truncate(track.valid, limit, policy).tolist()
        assert found.values[name].shape == (1, limit, track.spec.dim)
        assert np.array_equal(found.end_s[name], track.end_s[rows])  # type: ignore[index]
        cut = None if track.defined is None else track.defined[rows]
        kept[name] = FeatureTrack(
            track.values[rows], track.start_s[rows], track.end_s[rows], track.valid[rows], track.spec, None, cut
        )
    alone = attribute(checkpoint_of(checkpoint.model), make_clip(3, tracks=kept), ["c"])
    for name in MODALITIES:
        n_steps = len(alone.rows[name])  # without what is not valid at the end
        assert alone.values[name] == pytest.approx(found.values[name][:, :n_steps], abs=1e-6)
        assert (found.values[name][:, n_steps:] == 0).all()


def test_time_bins_keep_the_sum_and_the_place() -> None:
    found = attribute(checkpoint_of(make_model()), make_clip(4), ["a", "b"])
    edges = np.linspace(1.0, 4.0, 31)
    for name in MODALITIES:
        assert found.over_time(name, edges).sum(axis=1) == pytest.approx(found.per_step(name).sum(axis=1))
    short = found.over_time("text", np.array([1.5, 2.0, 3.0]))  # steps reach beyond both ends
    assert short.sum(axis=1) == pytest.approx(found.per_step("text").sum(axis=1))
    # 40 audio steps of 0.075 s in bins of 0.1 s: bin 1 has a third of step 1 … (0.1–0.15), then two thirds of step 2
    step = found.per_step("audio")
    assert found.over_time("audio", edges)[:, 1] == pytest.approx(step[:, 1] * 2 / 3 + step[:, 2] * 2 / 3)
    sample, _ = planted(1, 0)
    with pytest.raises(ValueError, match="times"):
        attribute(checkpoint_of(make_model()), sample[0], ["a"]).over_time("text", edges)


# ---- figures 2 and 3 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"padding_masks": False}, {"pooling": (1, 3, 2), "encoders": ("T", "AV")}], ids=str
)
def test_histogram_agrees_with_a_plain_loop(changes: dict[str, Any]) -> None:
    model = make_model(**changes)
    samples, _ = planted(9, 4)
    lone: dict[Modality, np.ndarray] = {name: np.arange(len(samples[0].valid[name])) < 0 for name in MODALITIES}
    lone["text"][:2] = True  # two usable tokens at most
    samples.append(Sample(samples[0].values, lone))
    samples.append(Sample(samples[0].values, {name: np.zeros_like(mask) for name, mask in lone.items()}))  # none
    limits = (6, 9, 9)

    expected = np.zeros((4, len(model.settings.encoders)), dtype=int)
    for sample in samples[:-1]:
        batch = collate([Sample(sample.values, sample.valid)], DIMS, limits, fixed=not model.settings.padding_masks)
        with torch.no_grad():
            _, record = model(batch, return_attention=True)
        for label in range(4):
            weighed = []
            for token in range(record.label_to_token.shape[-1]):
                if record.token_mask[0, token]:
                    highest = max(float(record.label_to_token[0, head, label, token]) for head in range(5))
                    weighed.append((-highest, token))
            for _, token in sorted(weighed)[:5]:
                expected[label, int(record.token_encoder[token])] += 1

    samples = [Sample(sample.values, sample.valid) for sample in samples]
    found = encoder_histogram(model, samples, batch_size=3, max_steps=limits)
    assert found.tolist() == expected.tolist()
    if not changes:
        assert found.sum() == 4 * (9 * 5 + 2)


def test_label_attention_is_the_softmax_of_the_weights() -> None:
    model = make_model()
    samples, _ = planted(3, 5)
    found = label_attention(model, samples)
    layer = model.aggregation.layers[0].label_attention  # type: ignore[union-attr]
    with torch.no_grad():
        embeddings = model.aggregation.embeddings.double()  # type: ignore[union-attr]
        queries = embeddings @ layer.query.weight.double().T + layer.query.bias.double()  # type: ignore[union-attr, operator]
        keys = embeddings @ layer.key.weight.double().T + layer.key.bias.double()  # type: ignore[union-attr, operator]
    for head in range(5):
        own = slice(6 * head, 6 * head + 6)
        scores = (queries[:, own] @ keys[:, own].T).numpy() / np.sqrt(6)
        expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[head], expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-6)
    identity = label_attention(make_model(label_correlations=False), samples)
    assert np.array_equal(identity, np.broadcast_to(np.eye(4), (5, 4, 4)))


def test_deep_label_attention_is_the_mean_over_samples() -> None:
    model = make_model(decoder_layers=2)
    samples, _ = planted(5, 6)
    each = []
    for sample in samples:
        with torch.no_grad():
            each.append(model(collate([sample], DIMS), return_attention=True)[1].label_to_label[0].numpy())
    assert np.abs(each[0] - each[1]).max() > 1e-4
    np.testing.assert_allclose(label_attention(model, samples, batch_size=2), np.mean(each, axis=0), atol=1e-6)


def test_attention_of_steps_agrees_with_a_plain_loop() -> None:
    model = make_model(pooling=(1, 3, 2))
    samples, _ = planted(3, 7)
    batch = collate(samples, DIMS)
    with torch.no_grad():
        _, record = model(batch, return_attention=True)
    found = attention_of_steps(record, batch.masks, model.settings)
    expected = {name: np.zeros((3, 4, batch.masks[name].shape[1])) for name in MODALITIES}
    for n in range(3):
        for token, encoder in enumerate(record.token_encoder.tolist()):
            i = "TAV".index(record.encoders[encoder][0])
            name, pooling = MODALITIES[i], (1, 3, 2)[i]
            begin = int(record.token_step[token]) * pooling
            mask = batch.masks[name][n].numpy()
            covered = [k for k in range(begin, min(begin + pooling, len(mask))) if mask[k]]
            for k in covered:
                expected[name][n, :, k] += record.label_to_token[n, :, :, token].mean(dim=0).numpy() / len(covered)
    for name in MODALITIES:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    total = np.sum([found[name].sum(axis=2) for name in MODALITIES], axis=0)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


def test_without_decoder_there_is_attribution_but_no_attention() -> None:
    model = make_model(aggregation="first_token")
    samples, _ = planted(2, 8)
    for figure in (encoder_histogram, label_attention):
        with pytest.raises(InputError, match="no attention") as caught:
            figure(model, samples)
        assert caught.value.code == "no_attention"
    found = attribute(checkpoint_of(model), samples[0])
    assert found.attention is None
    assert (found.relative_gaps < 0.01).all()
    with pytest.raises(InputError, match="observed step"):
        label_attention(make_model(), [])
