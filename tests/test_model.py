"""The model against its equations, written out in float64 numpy: one sample, one head, one token at a time."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batches import Batch, Sample, collate
from data.errors import InputError
from data.spec import MODALITIES, Modality
from lamb.blending import fused_attention
from lamb.kernel import Dropout, Rows, packed_attention
from lamb.model import LAMB
from lamb.objective import objective
from lamb.settings import ENCODERS, MODALITY_OF, TABLE2, ModelSettings, ablation

torch.set_num_threads(1)

DIMS = (7, 5, 4)
N_LABELS = 4


@dataclass(frozen=True)
class Case:
    id: str
    changes: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> ModelSettings:
        return ModelSettings.parse({"dims": DIMS, "n_labels": N_LABELS, **self.changes})


TABLE = [Case(name, changes) for name, changes in TABLE2.items()]
OPTIONS = [
    Case("kernels 1/3/3", {"kernel_sizes": (1, 3, 3)}),
    Case("kernels 5/3/3 with bias", {"kernel_sizes": (5, 3, 3), "conv_bias": True}),
    Case("positions", {"positions": "sinusoidal"}),
    Case("positions, odd width", {"positions": "sinusoidal", "width": 15, "heads": 3}),
    Case("residual decoder", {"decoder": "residual"}),
    Case("two layers", {"layers": 2, "decoder_layers": 2}),
    Case(
        "two layers, residual, no correlations", {"decoder_layers": 2, "decoder": "residual", "label_correlations": 0}
    ),
    Case("shared embedding, residual", {"label_embeddings": "shared", "decoder": "residual"}),
    Case("a classifier row per label", {"classifier": "per_label"}),
    Case("pooling", {"pooling": (1, 4, 3)}),
    Case("pooling, kernels, positions", {"pooling": (2, 4, 3), "kernel_sizes": (3, 3, 3), "positions": "sinusoidal"}),
    Case("other widths", {"width": 16, "heads": 2, "ff_hidden": 9, "decoder_hidden": 11}),
    Case("first token, kernels", {"aggregation": "first_token", "kernel_sizes": (3, 3, 3), "conv_bias": True}),
    Case("pair of encoders", {"encoders": ("A", "VT")}),
]
UNMASKED = [
    Case("no padding masks", {"padding_masks": False}),
    Case("no padding masks, kernels", {"padding_masks": False, "kernel_sizes": (3, 3, 3), "conv_bias": True}),
    Case("no padding masks, positions", {"padding_masks": False, "positions": "sinusoidal", "pooling": (1, 2, 2)}),
    Case("no padding masks, first token", {"padding_masks": False, "aggregation": "first_token"}),
]


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


def make_model(settings: ModelSettings, seed: int = 0) -> LAMB:
    """Random weights everywhere, biases and norms too, so that no part can be left out unnoticed."""
    torch.manual_seed(seed)
    model = LAMB(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def make_samples(seed: int = 0, dims: tuple[int, int, int] = DIMS) -> list[Sample]:
    """Six samples of many lengths, unobserved steps within, absent modalities in the last four."""
    rng = np.random.default_rng(seed)
    absent = [(), (), ("text",), ("audio",), ("text", "visual"), ("audio", "visual")]
    samples = []
    for missing in absent:
        values: dict[Modality, np.ndarray] = {}
        valid: dict[Modality, np.ndarray] = {}
        for name, dim, longest in zip(MODALITIES, dims, (6, 13, 9), strict=True):
            n_steps = int(rng.integers(3, longest + 1))
            valid[name] = rng.random(n_steps) < 0.6
            valid[name][rng.integers(n_steps)] = True
            if name in missing:
                valid[name][:] = False
            values[name] = rng.normal(size=(n_steps, dim)).astype(np.float32) * valid[name][:, None]
        samples.append(Sample(values, valid))
    return samples


# ---- the equations ------------------------------------------------------------------------------------------------


class Equations:
    """Eq. 1–7 for one sample with a model's weights, float64; only attended steps exist here, there are no masks."""

    def __init__(self, model: LAMB) -> None:
        self.settings = model.settings
        self.w = {name: value.detach().numpy().astype(np.float64) for name, value in model.state_dict().items()}

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def mlp(self, x: np.ndarray, name: str) -> np.ndarray:
        return self.linear(np.maximum(self.linear(x, f"{name}.0"), 0), f"{name}.3")

    def attention(
        self, queries: np.ndarray, context: np.ndarray, name: str, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        h, width = self.settings.heads, self.settings.width
        if not len(context):
            return np.zeros_like(queries), np.zeros((h, len(queries), 0))
        q, k, v = (
            self.linear(x, f"{name}.{part}") for x, part in ((queries, "query"), (context, "key"), (context, "value"))
        )
        heads, weights = [], []
        for i in range(h):
            columns = slice(i * width // h, (i + 1) * width // h)
            scores = np.exp(q[:, columns] @ k[:, columns].T / math.sqrt(width / h))
            if allowed is not None:
                scores = scores * allowed
            weights.append(scores / scores.sum(axis=1, keepdims=True))
            heads.append(weights[-1] @ v[:, columns])
        return self.linear(np.concatenate(heads, axis=1), f"{name}.output"), np.stack(weights)

    def convolved(self, name: Modality, values: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """X̂ (eq. 1) at the attended steps, and which steps those are."""
        i = MODALITIES.index(name)
        p = self.settings.pooling[i]
        x, seen = [], []
        for begin in range(0, len(valid), p):
            rows = [values[t].astype(np.float64) for t in range(begin, min(begin + p, len(valid))) if valid[t]]
            x.append(np.mean(rows, axis=0) if rows else np.zeros(values.shape[1]))
            seen.append(bool(rows))
        kernel = self.w[f"blending.convolutions.{name}.weight"]  # (d, d_a, k)
        bias = self.w.get(f"blending.convolutions.{name}.bias", 0.0)
        half = kernel.shape[2] // 2
        result = []
        for t in range(len(x)):
            row = np.zeros(self.settings.width) + bias
            for j in range(kernel.shape[2]):
                if 0 <= t + j - half < len(x):
                    row = row + kernel[:, :, j] @ x[t + j - half]
            if self.settings.positions == "sinusoidal" and seen[t]:
                n_sines = (self.settings.width + 1) // 2
                for column in range(self.settings.width):
                    rate = 10_000 ** (-(column % n_sines) / (n_sines - 1))
                    row[column] += math.sin(t * rate) if column < n_sines else math.cos(t * rate)
            result.append(row)
        attended = np.array(seen, dtype=bool)
        if not self.settings.padding_masks and any(seen):
            attended[:] = True
        return np.array(result).reshape(-1, self.settings.width)[attended], np.flatnonzero(attended)

    def tokens(self, values: dict[Modality, np.ndarray], valid: dict[Modality, np.ndarray]) -> dict[str, tuple]:
        x = {name: self.convolved(name, values[name], valid[name]) for name in self.settings.modalities}
        result = {}
        for name in self.settings.encoders:
            own, other = MODALITY_OF[name[0]], MODALITY_OF[name[-1]]
            u, steps = x[own]
            if not len(x[other][0]):
                u, steps = u[:0], steps[:0]
            for i in range(self.settings.layers):
                layer = f"blending.encoders.{name}.layers.{i}"
                context = u if own == other else x[other][0]
                u = self.norm(self.attention(u, context, f"{layer}.attention")[0] + u, f"{layer}.attention_norm")
                u = self.norm(self.mlp(u, f"{layer}.mlp") + u, f"{layer}.mlp_norm")
            result[name] = u, steps
        return result

    def __call__(self, values: dict[Modality, np.ndarray], valid: dict[Modality, np.ndarray]) -> dict[str, Any]:
        c, width = self.settings.n_labels, self.settings.width
        tokens = self.tokens(values, valid)
        if self.settings.aggregation == "first_token":
            joined = np.concatenate([u[0] if len(u) else np.zeros(width) for u, _ in tokens.values()])
            return {"logits": self.linear(joined, "classifier")}
        blended = np.concatenate([u for u, _ in tokens.values()])  # eq. 5
        d = np.tile(self.w["aggregation.embeddings"], (c if self.settings.label_embeddings == "shared" else 1, 1))
        allowed = None if self.settings.label_correlations else np.eye(c)
        residual = self.settings.decoder == "residual"
        for i in range(self.settings.decoder_layers):
            layer = f"aggregation.layers.{i}"
            s, to_label = self.attention(d, d, f"{layer}.label_attention", allowed)
            if residual:
                s = self.norm(s + d, f"{layer}.label_norm")
            m, to_token = self.attention(s, blended, f"{layer}.token_attention")
            if residual:
                m = self.norm(m + s, f"{layer}.token_norm")
            d = self.norm(self.mlp(m, f"{layer}.mlp") + m, f"{layer}.mlp_norm")  # eq. 6
        rows = np.broadcast_to(self.w["classifier.weight"], (c, width))
        logits = np.array([rows[j] @ d[j] for j in range(c)]) + self.w["classifier.bias"]  # eq. 7
        where = [(name, int(step)) for name, (_, steps) in tokens.items() for step in steps]
        return {"logits": logits, "to_label": to_label, "to_token": to_token, "where": where}


def reference(model: LAMB, batch: Batch) -> list[dict[str, Any]]:
    equations = Equations(model)
    return [
        equations(
            {name: batch.values[name][n].numpy() for name in MODALITIES},
            {name: batch.masks[name][n].numpy() for name in MODALITIES},
        )
        for n in range(len(batch))
    ]


@each(TABLE + OPTIONS + UNMASKED)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_model_computes_its_equations(case: Case, seed: int) -> None:
    model = make_model(case.settings(), seed)
    batch = collate(make_samples(seed), DIMS)
    with torch.no_grad():
        logits = model(batch).numpy()
    expected = np.stack([one["logits"] for one in reference(model, batch)])
    assert logits.shape == (6, N_LABELS)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@each([case for case in TABLE + OPTIONS + UNMASKED if case.settings().aggregation == "decoder"])
def test_the_attention_record_is_that_of_the_equations(case: Case) -> None:
    model = make_model(case.settings())
    batch = collate(make_samples(), DIMS)
    with torch.no_grad():
        plain = model(batch)
        logits, record = model(batch, return_attention=True)
    np.testing.assert_allclose(logits, plain, rtol=0, atol=1e-5)
    for n, one in enumerate(reference(model, batch)):
        np.testing.assert_allclose(record.label_to_label[n], one["to_label"], rtol=0, atol=1e-5)
        used = record.token_mask[n]
        where = [
            (record.encoders[encoder], step)
            for encoder, step in zip(record.token_encoder[used].tolist(), record.token_step[used].tolist(), strict=True)
        ]
        assert where == one["where"]
        np.testing.assert_allclose(record.label_to_token[n][..., used], one["to_token"], rtol=0, atol=1e-5)
        assert (record.label_to_token[n][..., ~used] == 0).all()
        if used.any():
            np.testing.assert_allclose(record.label_to_token[n].sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(record.label_to_label.sum(-1), 1.0, atol=1e-5)
    if not model.settings.label_correlations:
        assert torch.equal(record.label_to_label, torch.eye(N_LABELS).expand_as(record.label_to_label))


# ---- size -----------------------------------------------------------------------------------------------------------


def test_the_paper_s_setting_has_136337_parameters() -> None:
    assert LAMB(ModelSettings()).n_parameters() == 136_337


def test_kernels_1_3_3_have_142877_parameters() -> None:
    assert LAMB(ModelSettings(kernel_sizes=(1, 3, 3))).n_parameters() == 142_877


def test_a_classifier_row_per_label_adds_only_its_rows() -> None:
    model = LAMB(ModelSettings(classifier="per_label"))
    assert model.n_parameters() == 136_337 + 5 * (30 + 1)
    with torch.no_grad():
        before = model.eval()(batch := collate(make_samples(dims=(300, 74, 35)), (300, 74, 35)))
        bias = model.classifier.bias
        assert isinstance(bias, torch.Tensor)
        bias[2] += 1.0
        moved = model(batch) - before
    np.testing.assert_allclose(moved, np.eye(6)[[2] * len(batch)], atol=1e-5)  # a shared row would move all


@each(TABLE)
def test_table_2_builds_only_what_it_uses(case: Case) -> None:
    settings = ablation(case.id)
    d, encoder = 30, 11_190
    dims = dict(zip(MODALITIES, settings.dims, strict=True))
    expected = sum(dims[name] * d for name in settings.modalities) + encoder * len(settings.encoders)
    if case.id == "w/o decoder":
        expected += 9 * d * 6 + 6
    elif case.id == "w/o label embeddings":
        expected += 23_146 + d + 6 * d + 6
    else:
        expected += 23_146 + 6 * d + d + 1
    assert LAMB(settings).n_parameters() == expected


# ---- masks ----------------------------------------------------------------------------------------------------------


@each([case for case in TABLE + OPTIONS if case.settings().padding_masks])
def test_a_padded_batch_scores_like_single_samples(case: Case) -> None:
    model = make_model(case.settings())
    samples = make_samples()
    with torch.no_grad():
        together = model(collate(samples, DIMS))
        alone = torch.cat([model(collate([sample], DIMS)) for sample in samples])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@each([*TABLE, *OPTIONS, *UNMASKED])
@pytest.mark.parametrize("absent", MODALITIES)
def test_an_absent_modality_is_only_a_mask(case: Case, absent: Modality) -> None:
    """Zero length in the whole batch, zero length in one sample, and masked rubbish of full length score alike."""
    model = make_model(case.settings())
    whole = make_samples()[0]
    # without padding masks scores depend on the padded length of what is there: fix it
    text, audio, visual = (len(whole.valid[name]) for name in MODALITIES)
    fixed = not case.settings().padding_masks
    padding = {"max_steps": (text, audio, visual), "fixed": fixed}
    dim = DIMS[MODALITIES.index(absent)]
    none = Sample(dict(whole.values), dict(whole.valid))
    none.values[absent], none.valid[absent] = np.zeros((0, dim), np.float32), np.zeros(0, bool)
    masked = collate([whole, whole], DIMS, **padding)
    masked.values[absent][1] = float("nan")
    masked.masks[absent][1] = False
    masked = Batch(masked.values, masked.masks)
    with torch.no_grad():
        skipped = model(collate([none], DIMS, **padding))[0]
        mixed = model(collate([whole, none], DIMS, **padding))[1]
        rubbish = model(masked)[1]
    assert torch.isfinite(skipped).all()
    torch.testing.assert_close(mixed, skipped, rtol=0, atol=1e-5)
    torch.testing.assert_close(rubbish, skipped, rtol=0, atol=1e-5)


def test_a_sample_without_anything_is_refused_by_index() -> None:
    samples = make_samples()
    nothing = Sample(samples[0].values, {name: np.zeros_like(mask) for name, mask in samples[0].valid.items()})
    with pytest.raises(ValueError, match=r"samples \[1, 3\] have none"):
        make_model(ModelSettings(dims=DIMS))(collate([samples[0], nothing, samples[1], nothing], DIMS))


def test_what_is_absent_from_the_batch_is_not_computed() -> None:
    model = make_model(ModelSettings(dims=DIMS, n_labels=N_LABELS))
    ran: list[str] = []
    for name, encoder in model.blending.encoders.items():
        encoder.register_forward_hook(lambda *_, name=name: ran.append(name))
    only_audio, only_text = make_samples()[4], make_samples()[5]
    model(collate([only_audio, only_audio], DIMS))
    assert ran == ["A"]
    ran.clear()
    model(collate([only_audio, only_text], DIMS))
    assert ran == ["T", "A", "TA", "AT"]


def test_evidence_the_model_does_not_read_leaves_the_prior() -> None:
    model = make_model(ModelSettings(dims=DIMS, n_labels=N_LABELS, encoders=("T",)))
    batch = collate(make_samples(), DIMS)
    with torch.no_grad():
        logits = model(batch)
    blind = ~batch.presence[:, 0]
    torch.testing.assert_close(logits[blind][0], logits[blind][1])
    assert not torch.allclose(logits[~blind][0], logits[~blind][1], atol=1e-3)


@pytest.mark.parametrize("modality", MODALITIES)
def test_order_of_steps_matters_only_with_positions(modality: Modality) -> None:
    sample = make_samples()[0]
    rng = np.random.default_rng(3)
    n_steps = len(sample.valid[modality])
    order = rng.permutation(n_steps)
    while sample.valid[modality][order].tolist() == sample.valid[modality].tolist() and n_steps > 1:
        order = rng.permutation(n_steps)
    shuffled = Sample(
        {**sample.values, modality: sample.values[modality][order]},
        {**sample.valid, modality: sample.valid[modality][order]},
    )
    for case, same in ((Case("none"), True), (Case("positions", {"positions": "sinusoidal"}), False)):
        model = make_model(case.settings())
        with torch.no_grad():
            before, after = model(collate([sample], DIMS)), model(collate([shuffled], DIMS))
        assert torch.allclose(before, after, rtol=0, atol=1e-5) == same


# ---- packed rows (CPU) against padded sequences (float64) -----------------------------------------------------------


@each(TABLE + OPTIONS + UNMASKED)
@pytest.mark.parametrize("seed", [0, 1])
def test_packing_changes_no_logit_and_no_gradient(case: Case, seed: int) -> None:
    """float32 packs what is to be attended, float64 keeps it padded and masked: holes and absent modalities alike."""
    model = make_model(case.settings(), seed)
    batch = collate(make_samples(seed), DIMS)
    exact = copy.deepcopy(model).double()
    double = Batch({name: values.double() for name, values in batch.values.items()}, batch.masks)
    upstream = torch.randn(len(batch), N_LABELS, generator=torch.Generator().manual_seed(seed))
    assert model.blending(batch).places is not None
    assert exact.blending(double).places is None

    logits, expected = model(batch), exact(double)
    torch.testing.assert_close(logits.double(), expected.double(), rtol=0, atol=1e-5)
    (logits * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for (name, one), two in zip(model.named_parameters(), exact.parameters(), strict=True):
        if one.grad is None or two.grad is None:
            assert one.grad is two.grad, name
        else:
            torch.testing.assert_close(one.grad.double(), two.grad, rtol=1e-4, atol=2e-5, msg=lambda m, n=name: n + m)


def random_rows(heads: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Rows, Rows]:
    """Queries, keys and values of four samples, one without keys, one without queries; keys in mixed order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(20)[:17]
    queries, keys = Rows(np.array([0, 3, 4, 4, 11])), Rows(np.array([0, 9, 9, 14, 17]), order)
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(n, heads * width, generator=generator, requires_grad=True) for n in (11, 20, 20))
    return q, k, v, queries, keys


@pytest.mark.parametrize(("heads", "width"), [(5, 6), (1, 1), (2, 7), (3, 16)])
def test_packed_attention_is_attention_sample_by_sample(heads: int, width: int) -> None:
    q, k, v, queries, keys = random_rows(heads, width)
    result = packed_attention(q, k, v, queries, keys, heads)
    upstream = torch.randn(result.shape)
    found = torch.autograd.grad(result, (q, k, v), upstream)

    def split(x: Tensor) -> Tensor:
        return x.double().unflatten(1, (heads, width)).transpose(0, 1)  # (L, d) → (h, L, d/h)

    parts = []
    for n in range(4):
        rows = torch.from_numpy(keys.places[keys.ends[n] : keys.ends[n + 1]])
        own = q[queries.ends[n] : queries.ends[n + 1]]
        weights = (split(own) @ split(k[rows]).mT / math.sqrt(width)).softmax(-1)
        parts.append((weights @ split(v[rows])).transpose(0, 1).flatten(1))
    expected = torch.cat(parts)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-6)
    assert (result[3] == 0).all()
    for one, two in zip(found, torch.autograd.grad(expected, (q, k, v), upstream.double()), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    q, k, v, queries, keys = random_rows(2, 4)
    result = packed_attention(q * 300, k * 300, v, queries, keys, 2)
    assert torch.isfinite(result).all()
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(result.sum(), (q, k, v)))
    rows = torch.from_numpy(keys.places[:9])
    nearest = (q[:3, :4] @ k[rows, :4].T).argmax(dim=1)  # such scores leave one key per query
    torch.testing.assert_close(result[:3, :4], v[rows][nearest][:, :4])


def test_dropout_of_weights_is_what_its_gradient_is_of() -> None:
    """With the identity for values the result shows the dropped weights; their gradient is torch's own, so masked."""
    n_keys, share = 64, 0.3
    q, k = (torch.randn(200, n_keys, requires_grad=True), torch.randn(n_keys, n_keys, requires_grad=True))
    identity = torch.eye(n_keys, requires_grad=True)
    rows = Rows(np.array([0, 200])), Rows(np.array([0, n_keys]))
    torch.manual_seed(3)
    dropped = packed_attention(q, k, identity, *rows, heads=1, dropout=share)
    weights = (q @ k.T / math.sqrt(n_keys)).softmax(-1)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=0.02)  # 12,800 draws: sd .004
    expected = weights * kept / (1 - share)
    torch.testing.assert_close(dropped, expected, rtol=1e-4, atol=1e-6)
    assert abs(torch.corrcoef(kept[:, :2].float().T)[0, 1]) < 0.3  # neighbouring keys
    upstream = torch.randn(dropped.shape)
    found = torch.autograd.grad(dropped, (q, k, identity), upstream)
    wanted = torch.autograd.grad(expected @ identity, (q, k, identity), upstream)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    torch.manual_seed(3)
    assert torch.equal(packed_attention(q, k, identity, *rows, heads=1, dropout=share), dropped)
    assert not torch.equal(packed_attention(q, k, identity, *rows, heads=1, dropout=share), dropped)


def test_dropout_by_hashes_keeps_the_share_and_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 100, requires_grad=True)
    layer = Dropout(0.1)
    result = layer(x)
    assert result.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert result.mean().item() == pytest.approx(1, abs=0.01)  # sd .0019
    for rows in (result, result.T):  # no row and no column is dropped together
        assert (rows == 0).float().mean(dim=1).max() < 0.3
    (grad,) = torch.autograd.grad(result.sum(), x)
    assert torch.equal(grad, result.detach())
    assert torch.equal(layer.eval()(x), x)


def test_threads_change_nothing() -> None:
    q, k, v, queries, keys = random_rows(5, 6)
    results = []
    try:
        for n_threads in (1, 2, 7):
            torch.set_num_threads(n_threads)
            torch.manual_seed(0)
            result = packed_attention(q, k, v, queries, keys, 5, dropout=0.2)
            results.append((result, *torch.autograd.grad(result.square().sum(), (q, k, v))))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


# ---- training and devices -------------------------------------------------------------------------------------------


@each([Case("full"), Case("residual", {"decoder": "residual"}), Case("kernels", {"kernel_sizes": (1, 3, 3)})])
def test_gradient_reaches_every_parameter(case: Case) -> None:
    torch.manual_seed(0)
    model = LAMB(case.settings()).train()
    model(collate(make_samples()[:2], DIMS)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith("key.bias"):  # shifts all scores of a query alike: softmax is blind to it
            assert parameter.grad.abs().max() > 1e-9, name


def test_float32_on_the_cpu_is_deterministic() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        model = LAMB(ModelSettings(dims=DIMS, attention_dropout=0.1)).train()
        loss = model(collate(make_samples(), DIMS)).square().sum()
        loss.backward()
        results.append([loss.detach()] + [parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_dropout_acts_in_training_only() -> None:
    model = make_model(ModelSettings(dims=DIMS))
    batch = collate(make_samples(), DIMS)
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.allclose(model(batch), model(batch), atol=1e-3)


@each([Case("full"), Case("residual", {"decoder": "residual"}), Case("w/o decoder", {"aggregation": "first_token"})])
def test_bfloat16_autocast(case: Case) -> None:
    model = make_model(case.settings())
    batch = collate(make_samples(), DIMS)
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(batch)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.15)
    rough.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_heads_padded_for_the_fused_kernel_attend_alike() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 5, length, 6) for length in (4, 9, 9))
    allowed = torch.rand(2, 1, 1, 9) < 0.7
    allowed[..., 0] = True
    torch.testing.assert_close(
        fused_attention(q, k, v, allowed, 0.0, 8), fused_attention(q, k, v, allowed, 0.0), rtol=0, atol=1e-6
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_scores_like_the_cpu() -> None:
    batch = collate(make_samples(), DIMS)
    for case in TABLE + OPTIONS + UNMASKED:
        model = make_model(case.settings())
        with torch.no_grad():
            expected = model(batch)
            result = model.cuda()(batch.to("cuda")).cpu()
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-3, msg=lambda text, id=case.id: f"{id}: {text}")


# ---- objective (eq. 8) ----------------------------------------------------------------------------------------------


def test_the_objective_is_eq_8() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 3)), (rng.random((5, 3)) < 0.4).astype(float)
    positive, weights, smoothing = np.array([1.0, 2.0, 5.0]), rng.random(5), 0.1
    total = 0.0
    for n in range(5):
        for j in range(3):
            p = 1 / (1 + math.exp(-logits[n, j]))
            y = labels[n, j] * (1 - smoothing) + smoothing / 2
            total -= weights[n] * (positive[j] * y * math.log(p) + (1 - y) * math.log(1 - p))
    result = objective(
        torch.tensor(logits),
        torch.tensor(labels),
        smoothing,
        torch.tensor(positive, dtype=torch.float32),
        torch.tensor(weights),
    )
    assert float(result) == pytest.approx(total / 5, rel=1e-6)
    plain = objective(torch.tensor(logits), torch.tensor(labels), 0.0)
    expected = torch.nn.BCEWithLogitsLoss(reduction="sum")(torch.tensor(logits), torch.tensor(labels)) / 5
    assert float(plain) == pytest.approx(float(expected), rel=1e-6)


# ---- settings -------------------------------------------------------------------------------------------------------


def test_table_2_has_fifteen_rows() -> None:
    assert len(TABLE2) == 15
    assert ablation("full") == ModelSettings()
    assert ablation("only visual-audio").encoders == ("VA",)
    assert {name for row in TABLE2.values() for name in row.get("encoders", ())} == set(ENCODERS)


@dataclass(frozen=True)
class Refusal:
    record: dict[str, Any]
    message: str


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal({"widht": 30}, "Did you mean 'width'"),
        Refusal({"width": 31}, "not a multiple of heads 5"),
        Refusal({"kernel_sizes": (1, 2, 1)}, "must be odd"),
        Refusal({"encoders": ("A", "T")}, "in the order T A V"),
        Refusal({"encoders": ("TT",)}, "encoders must be some of"),
        Refusal({"encoders": ()}, "encoders must be some of"),
        Refusal({"dropout": 1.0}, "dropout"),
        Refusal({"decoder": "plain"}, "decoder"),
    ],
    ids=lambda refusal: str(refusal.record),
)
def test_settings_are_refused_in_one_line(refusal: Refusal) -> None:
    with pytest.raises(InputError, match=refusal.message) as caught:
        ModelSettings.parse(refusal.record)
    assert "\n" not in str(caught.value)


def test_an_unknown_row_of_table_2_names_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'w/o decoder'"):
        ablation("without decoder")


def test_a_model_without_decoder_has_no_attention_to_return() -> None:
    with pytest.raises(ValueError, match="has no attention"):
        make_model(ModelSettings(dims=DIMS, aggregation="first_token"))(
            collate(make_samples(), DIMS), return_attention=True
        )
