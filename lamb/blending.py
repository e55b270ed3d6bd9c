"""Blending, eq. 1–5: three feature sequences to one sequence of mixed-level tokens.

In: a :class:`data.batches.Batch`. Out: :class:`Tokens`, (N, M, d) with a mask and, for each token, the encoder and
step that made it. Shapes: N samples, L_a steps of modality a, d width, h heads, M tokens.

    tokens = Blending(ModelSettings())(batch)
    tokens.values.shape, tokens.mask.shape               # (N, M, d), (N, M)

Masks: a step counts if it is valid; a token of Z_{a→b} counts if its own step is valid and b has a valid step in that
sample. An attention without any key gives exactly 0, so an absent modality is nothing but a mask; one that is absent
from the whole batch is not computed at all.

Padding costs nothing on the CPU: after the convolution only the R steps to attend to go on, packed into rows (R, d), and
the compiled attention of :mod:`lamb.kernel` runs on those. Elsewhere (GPU, float64) sequences stay padded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.batches import Batch
from data.spec import MODALITIES, Modality
from lamb.kernel import Dropout, Rows, packed_attention
from lamb.settings import MODALITY_OF, ModelSettings

FUSED_WIDTH_MULTIPLE = 8  # of head widths in CUDA's fused attention; the paper's 6 would fall to the slow kernel


class MultiHeadAttention(nn.Module):
    """Eq. 2: scaled dot product attention with h heads and an output projection, all with bias."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        for part in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(
        self, queries: Tensor, context: Tensor, mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``queries`` (N, Lq, d) to ``context`` (N, Lk, d).

        ``mask`` is bool, broadcastable to (N, Lq, Lk), True where a key may be attended; None allows all. Returns
        (N, Lq, d), exactly 0 for a query without any key, and if asked for the weights (N, h, Lq, Lk), 0 where masked.
        """
        n, n_queries, width = queries.shape
        n_keys = context.shape[1]
        if n_keys == 0:
            return torch.zeros_like(queries), queries.new_zeros(n, self.heads, n_queries, 0) if need_weights else None
        q = self._split(self.query(queries))
        k = self._split(self.key(context))
        v = self._split(self.value(context))

        allowed = has_key = None
        if mask is not None:
            has_key = mask.any(dim=-1, keepdim=True)  # (N, Lq, 1)
            allowed = (mask | ~has_key).unsqueeze(1)  # (N, 1, Lq, Lk); a row of nothing would give NaN
        weights = None
        if need_weights:
            weights = self._weights(q, k, allowed)  # (N, h, Lq, Lk)
            attended = functional.dropout(weights, self.dropout, self.training).to(v.dtype) @ v
            if has_key is not None:
                weights = weights * has_key.unsqueeze(1)
        else:
            multiple = FUSED_WIDTH_MULTIPLE if q.is_cuda else 1
            attended = fused_attention(q, k, v, allowed, self.dropout if self.training else 0.0, multiple)
        merged = attended.transpose(1, 2).reshape(n, n_queries, width)  # (N, h, Lq, d/h) → (N, Lq, d)
        result = self.output(merged)
        if has_key is not None:
            result = result.masked_fill(~has_key, 0.0)
        return result, weights

    def packed(self, queries: Tensor, context: Tensor, own: Rows, other: Rows) -> Tensor:
        """The same for packed rows: ``queries`` (Rq, d) of samples ``own`` attend to ``context`` (Rk, d) of ``other``."""
        q, k, v = self.query(queries), self.key(context), self.value(context)
        dropout = self.dropout if self.training else 0.0
        result = self.output(packed_attention(q, k, v, own, other, self.heads, dropout))
        if (other.counts == 0).any():
            has_key = torch.from_numpy(np.repeat(other.counts > 0, own.counts))  # (Rq,)
            result = result.masked_fill(~has_key.unsqueeze(-1), 0.0)
        return result

    def _split(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        return x.view(n, length, self.heads, width // self.heads).transpose(1, 2)  # (N, L, d) → (N, h, L, d/h)

    def _weights(self, q: Tensor, k: Tensor, allowed: Tensor | None) -> Tensor:
        scores = (q @ k.transpose(-2, -1)).float() / math.sqrt(q.shape[-1])
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        return scores.softmax(dim=-1)


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, dropout: float, width_multiple: int = 1
) -> Tensor:
    """Scaled dot product attention, (N, h, L, d/h) to (N, h, Lq, d/h), where ``allowed`` (N, 1, 1 or Lq, Lk).

    ``width_multiple`` pads heads with zeros, which change no dot product, to a width that a fused kernel takes.
    """
    head_width = q.shape[-1]
    missing = -head_width % width_multiple
    if missing:
        q, k, v = (functional.pad(x, (0, missing)) for x in (q, k, v))
    attended = functional.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if allowed is None else allowed.expand(-1, -1, q.shape[2], -1),
        dropout_p=dropout,
        scale=1 / math.sqrt(head_width),
    )
    return attended[..., :head_width]


def perceptron(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """The two-layer MLP of eq. 3, 4 and 6."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, width))


class EncoderLayer(nn.Module):
    """One block of eq. 3 or 4: attention, then perceptron, each with residual and norm after it."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(settings.width, settings.heads, settings.attention_dropout)
        self.attention_norm = nn.LayerNorm(settings.width)
        self.mlp = perceptron(settings.width, settings.ff_hidden, settings.dropout)
        self.mlp_norm = nn.LayerNorm(settings.width)
        self.dropout = Dropout(settings.dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | tuple[Rows, Rows]) -> Tensor:
        """``x`` (N, La, d) attends to ``context`` (N, Lb, d) where ``mask`` (N, 1, Lb); or rows (R, d) of samples."""
        if isinstance(mask, tuple):
            attended = self.attention.packed(x, context, *mask)
        else:
            attended, _ = self.attention(x, context, mask)
        x = self.attention_norm(self.dropout(attended) + x)
        return self.mlp_norm(self.dropout(self.mlp(x)) + x)


class Encoder(nn.Module):
    """U_a (eq. 3) or Z_{a→b} (eq. 4), by name: "T" refines text, "TA" lets text query audio."""

    def __init__(self, name: str, settings: ModelSettings) -> None:
        super().__init__()
        self.own: Modality = MODALITY_OF[name[0]]
        self.other: Modality = MODALITY_OF[name[-1]]
        self.layers = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.layers))

    def forward(
        self, sequences: dict[Modality, Tensor], masks: dict[Modality, Tensor], rows: dict[Modality, Rows] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convolved sequences (N, L, d) and their masks (N, L) to tokens (N, L_own, d) and their mask (N, L_own).

        With ``rows`` the sequences are packed (R, d), and so are the tokens; masks are the same.
        """
        x, context, mask = sequences[self.own], sequences[self.other], masks[self.other]
        allowed = mask[:, None] if rows is None else (rows[self.own], rows[self.other])
        for layer in self.layers:
            # eq. 3; eq. 4, where keys and values stay the convolved input however deep
            x = layer(x, x if self.own == self.other else context, allowed)
        return x, masks[self.own] & mask.any(dim=1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Tokens:
    """Blended tokens (eq. 5).

    ``values`` (N, M, d); ``mask`` bool (N, M); ``encoder`` (M,) index into the settings' encoders and ``step`` (M,)
    step of the encoder's own modality after pooling, both int64 on the CPU. Packed tokens have values (R, d), and
    ``places`` int64 (R,): row r is token places[r] of the N·M.
    """

    values: Tensor
    mask: Tensor
    encoder: Tensor
    step: Tensor
    places: Tensor | None = None

    def padded(self) -> Tensor:
        """Values (N, M, d), 0 where a packed token does not exist."""
        if self.places is None:
            return self.values
        width = self.values.shape[1]
        empty = self.values.new_zeros(self.mask.numel(), width)
        return empty.index_copy(0, self.places, self.values).view(*self.mask.shape, width)  # (N·M, d) → (N, M, d)

    def rows(self) -> Rows | None:
        """Which packed rows are usable tokens of which sample; None where tokens are not packed."""
        if self.places is None:
            return None
        usable = np.flatnonzero(self.mask.view(-1)[self.places].numpy())
        sample = (self.places.numpy() // self.mask.shape[1])[usable]
        return Rows.from_counts(self.mask.sum(dim=1), usable[np.argsort(sample, kind="stable")])


class Blending(nn.Module):
    """Eq. 1–5. Only what the settings' encoders need is built."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.convolutions = nn.ModuleDict()
        for name, dim, size in zip(MODALITIES, settings.dims, settings.kernel_sizes, strict=True):
            if name in settings.modalities:
                self.convolutions[name] = nn.Conv1d(
                    dim, settings.width, size, padding=size // 2, bias=settings.conv_bias
                )
        self.encoders = nn.ModuleDict({name: Encoder(name, settings) for name in settings.encoders})

    def forward(self, batch: Batch) -> Tokens:
        """All blended tokens of a batch; none (M = 0) where it has nothing that the encoders read."""
        present = {name for name, found in zip(MODALITIES, batch.presence.any(dim=0).tolist(), strict=True) if found}
        packing = batch.device.type == "cpu" and next(self.parameters()).dtype != torch.float64
        sequences: dict[Modality, Tensor] = {}
        masks: dict[Modality, Tensor] = {}
        rows: dict[Modality, Rows] = {}
        for name in self.settings.modalities:
            if name in present:
                sequences[name], masks[name] = self.convolve(name, batch.values[name], batch.masks[name], packing)
                if packing:
                    rows[name] = Rows.from_counts(masks[name].sum(dim=1))

        values, mask, encoder_index, steps, own = [], [], [], [], []
        for i, (name, encoder) in enumerate(self.encoders.items()):
            if not {MODALITY_OF[letter] for letter in name} <= present:
                continue
            tokens, usable = encoder(sequences, masks, rows if packing else None)
            values.append(tokens)
            mask.append(usable)
            encoder_index.append(torch.full((usable.shape[1],), i))
            steps.append(torch.arange(usable.shape[1]))
            own.append(masks[MODALITY_OF[name[0]]])
        if not values:
            nothing = torch.zeros(len(batch), 0, self.settings.width, device=batch.device)
            none = torch.zeros(0, dtype=torch.int64)
            return Tokens(nothing, nothing.new_zeros(len(batch), 0, dtype=torch.bool), none, none)
        joined = torch.cat(mask, dim=1)
        return Tokens(  # eq. 5
            torch.cat(values, dim=0 if packing else 1),
            joined,
            torch.cat(encoder_index),
            torch.cat(steps),
            places_of(own) if packing else None,
        )

    def convolve(self, name: Modality, values: Tensor, valid: Tensor, packing: bool = False) -> tuple[Tensor, Tensor]:
        """Eq. 1: (N, L, d_a) and its mask (N, L) to (N, L/pooling, d) and the mask of steps to attend to.

        With ``packing`` those steps alone, (R, d).
        """
        n_pooled = self.settings.pooling[MODALITIES.index(name)]
        convolution = self.convolutions[name]
        assert isinstance(convolution, nn.Conv1d)
        pointwise = convolution.kernel_size == (1,)
        if packing and pointwise and n_pooled == 1 and self._each_alone:
            return self._pointwise(packed(values, valid), convolution), valid
        values = values.masked_fill(~valid.unsqueeze(-1), 0.0)
        values, valid = pool(values, valid, n_pooled)
        # (N, L, d_a) → (N, L, d); a longer kernel by way of (N, d_a, L)
        x = self._pointwise(values, convolution) if pointwise else convolution(values.mT).mT
        if self.settings.positions == "sinusoidal":
            x = x + sinusoids(x.shape[1], x.shape[2], x) * valid.unsqueeze(-1)
        if not self.settings.padding_masks:  # padding is attended; absence stays a mask
            valid = valid.any(dim=1, keepdim=True).expand_as(valid)
        return (packed(x, valid) if packing else x), valid

    @property
    def _each_alone(self) -> bool:
        """Whether a step's convolved row depends on nothing but that step, so that others need not be computed."""
        return self.settings.positions == "none" and self.settings.padding_masks

    @staticmethod
    def _pointwise(x: Tensor, convolution: nn.Conv1d) -> Tensor:
        return functional.linear(x, convolution.weight.squeeze(-1), convolution.bias)  # no transpositions


def packed(x: Tensor, mask: Tensor) -> Tensor:
    """``x`` (N, L, d) where ``mask`` (N, L): (R, d), without a copy where nothing is masked."""
    if mask.all():
        return x.reshape(-1, x.shape[-1])
    return x.reshape(-1, x.shape[-1]).index_select(0, mask.reshape(-1).nonzero().squeeze(1))


def places_of(masks: list[Tensor]) -> Tensor:
    """Where packed rows of several (N, L_e) lie in their concatenation (N, M): index into N·M, rows of e = 0 first."""
    length = sum(mask.shape[1] for mask in masks)
    found, begin = [], 0
    for mask in masks:
        sample, step = mask.nonzero(as_tuple=True)
        found.append(sample * length + begin + step)
        begin += mask.shape[1]
    return torch.cat(found)


def pool(values: Tensor, valid: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
    """Mean of the valid steps of every ``n_steps``, 0 where none is: (N, L, d), (N, L) → (N, ⌈L/n⌉, d), (N, ⌈L/n⌉)."""
    if n_steps == 1:
        return values, valid
    missing = -values.shape[1] % n_steps
    values, valid = functional.pad(values, (0, 0, 0, missing)), functional.pad(valid, (0, missing))
    n, length, dim = values.shape
    groups = valid.view(n, length // n_steps, n_steps)  # (N, L) → (N, L/n, n)
    total = values.view(n, length // n_steps, n_steps, dim).sum(dim=2)  # (N, L, d) → (N, L/n, n, d) → (N, L/n, d)
    return total / groups.sum(dim=2, keepdim=True).clamp(min=1), groups.any(dim=2)


def sinusoids(n_steps: int, width: int, like: Tensor) -> Tensor:
    """Positions (n_steps, width) as ``like``: sines, then cosines, of wavelengths 2π to 10000·2π."""
    half = (width + 1) // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10_000) / max(1, half - 1)))
    angles = torch.arange(n_steps, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width].to(like)
