"""Label-induced aggregation, eq. 6: one vector per label, gathered from the blended tokens by attention.

In: tokens (N, M, d) with their mask (N, M). Out: label vectors (N, c, d), and on request the attention weights.

    aggregation = LabelAggregation(ModelSettings())
    labels, to_label, to_token = aggregation(tokens.values, tokens.mask, need_weights=True)

As printed, eq. 6 has no residual and no norm around either attention ("literal"); "residual" puts both around every
sub-layer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lamb.blending import MultiHeadAttention, Tokens, perceptron
from lamb.kernel import Dropout, Rows
from lamb.settings import ModelSettings


class DecoderLayer(nn.Module):
    """One layer of eq. 6: label-to-label attention, label-to-token attention, perceptron."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.label_attention = MultiHeadAttention(width, settings.heads, settings.attention_dropout)
        self.token_attention = MultiHeadAttention(width, settings.heads, settings.attention_dropout)
        self.mlp = perceptron(width, settings.decoder_hidden, settings.dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.dropout = Dropout(settings.dropout)
        residual = settings.decoder == "residual"
        self.label_norm = nn.LayerNorm(width) if residual else None
        self.token_norm = nn.LayerNorm(width) if residual else None

    def forward(
        self,
        labels: Tensor,
        tokens: Tensor,
        mask: Tensor,
        label_mask: Tensor | None,
        need_weights: bool,
        rows: Rows | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """``labels`` (1 or N, c, d), ``tokens`` (N, M, d), ``mask`` (N, M), ``label_mask`` (1, c, c) or None.

        With ``rows`` the tokens are packed (R, d); they have no weights to show.
        """
        s, to_label = self.label_attention(labels, labels, label_mask, need_weights)
        if self.label_norm is not None:
            s = self.label_norm(self.dropout(s) + labels)
        s = s.expand(mask.shape[0], -1, -1)  # (1, c, d) → (N, c, d); the first layer's does not depend on the input
        if rows is None:
            m, to_token = self.token_attention(s, tokens, mask[:, None], need_weights)
        else:
            own = Rows(np.arange(s.shape[0] + 1) * s.shape[1])
            m, to_token = self.token_attention.packed(s.flatten(0, 1), tokens, own, rows).view(s.shape), None
        if self.token_norm is not None:
            m = self.token_norm(self.dropout(m) + s)
        return self.mlp_norm(self.dropout(self.mlp(m)) + m), to_label, to_token


class LabelAggregation(nn.Module):
    """Eq. 6 with its learnable label embeddings D⁰."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.n_labels = settings.n_labels
        n_rows = 1 if settings.label_embeddings == "shared" else settings.n_labels
        self.embeddings = nn.Parameter(torch.randn(n_rows, settings.width))
        self.layers = nn.ModuleList(DecoderLayer(settings) for _ in range(settings.decoder_layers))
        self.label_correlations = settings.label_correlations

    def forward(
        self, tokens: Tensor, mask: Tensor, need_weights: bool = False, rows: Rows | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Label vectors (N, c, d), and if asked for the last layer's weights: (N, h, c, c) and (N, h, c, M).

        ``tokens`` (N, M, d); with ``rows`` packed (R, d), and then without weights.
        """
        labels = self.embeddings.expand(self.n_labels, -1).unsqueeze(0)  # (1 or c, d) → (1, c, d)
        label_mask = None
        if not self.label_correlations:
            label_mask = torch.eye(self.n_labels, dtype=torch.bool, device=labels.device).unsqueeze(0)  # (1, c, c)
        to_label = to_token = None
        for layer in self.layers:
            labels, to_label, to_token = layer(labels, tokens, mask, label_mask, need_weights, rows)
        if to_label is not None:
            to_label = to_label.expand(mask.shape[0], -1, -1, -1)  # (1 or N, h, c, c) → (N, h, c, c)
        return labels, to_label, to_token


def first_tokens(tokens: Tokens, n_encoders: int) -> Tensor:
    """Table 2 "w/o decoder": each encoder's first unmasked token, (N, n_encoders·d); 0 where it has none."""
    values = tokens.padded()
    n, _, width = values.shape
    gathered = values.new_zeros(n, n_encoders, width)
    for i in tokens.encoder.unique().tolist():
        span = (tokens.encoder == i).nonzero().squeeze(1)
        begin, end = int(span[0]), int(span[-1]) + 1
        mask = tokens.mask[:, begin:end]
        first = mask.int().argmax(dim=1)  # (N,), the first maximum: the first usable step
        token = values[:, begin:end][torch.arange(n, device=mask.device), first]  # (N, d)
        gathered[:, i] = token * mask.any(dim=1, keepdim=True)
    return gathered.reshape(n, n_encoders * width)  # (N, n_encoders, d) → (N, n_encoders·d)
