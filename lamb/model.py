"""LAMB: three feature sequences to one score per label (eq. 1–7).

In: a :class:`data.batches.Batch` on the model's device. Out: logits (N, c), float32; sigmoid makes probabilities.

    model = LAMB(ModelSettings(dims=(300, 74, 35), n_labels=6)).eval()
    probabilities = model(batch).sigmoid()                       # (N, 6)
    logits, attention = model(batch, return_attention=True)      # for figures 2 and 3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor, nn

from data.batches import Batch
from lamb.aggregation import LabelAggregation, first_tokens
from lamb.blending import Blending
from lamb.settings import ModelSettings


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """What the last decoder layer attended to.

    Parameters
    ----------
    label_to_label : (N, h, c, c); rows sum to 1. With one layer the same for every sample.
    label_to_token : (N, h, c, M); rows sum to 1 over the sample's usable tokens, 0 elsewhere.
    token_mask : bool (N, M), usable tokens.
    token_encoder : int64 (M,), index into ``encoders``.
    token_step : int64 (M,), step of the encoder's own (first-letter) modality in the batch, after pooling: pooled step
        s covers steps s·p .. s·p + p − 1 for a pooling of p.
    encoders : names, "T" … "VA".
    """

    label_to_label: Tensor
    label_to_token: Tensor
    token_mask: Tensor
    token_encoder: Tensor
    token_step: Tensor
    encoders: tuple[str, ...]


class Classifier(nn.Module):
    """Eq. 7: a shared Linear(d→1) over the label axis; one row per label where asked for or where all share an embedding."""

    def __init__(self, width: int, n_rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_rows, width))
        self.bias = nn.Parameter(torch.zeros(n_rows))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, labels: Tensor) -> Tensor:
        """(N, c, d) → (N, c)."""
        return (labels * self.weight).sum(dim=-1) + self.bias


class LAMB(nn.Module):
    """Label-induced mixed-level blending.

    Raises
    ------
    ValueError : a sample of the batch has no valid step in any modality (names its index), or ``return_attention`` on
        a model without decoder. A sample that lacks only what this model's encoders read is scored without evidence.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.blending = Blending(settings)
        self.aggregation: LabelAggregation | None = None
        if settings.aggregation == "decoder":
            self.aggregation = LabelAggregation(settings)
            shared = settings.classifier == "shared" and settings.label_embeddings == "per_label"
            n_rows = 1 if shared else settings.n_labels
            self.classifier: nn.Module = Classifier(settings.width, n_rows)
        else:
            self.classifier = nn.Linear(len(settings.encoders) * settings.width, settings.n_labels)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def n_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    @overload
    def forward(self, batch: Batch, return_attention: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, batch: Batch, return_attention: Literal[True]) -> tuple[Tensor, AttentionRecord]: ...
    def forward(self, batch: Batch, return_attention: bool = False) -> Tensor | tuple[Tensor, AttentionRecord]:
        """Logits (N, c), and with ``return_attention`` an :class:`AttentionRecord`."""
        nothing = (~batch.presence.any(dim=1)).nonzero().flatten().tolist()
        if nothing:
            raise ValueError(f"Expected a valid step in some modality of every sample but samples {nothing} have none")
        if return_attention and self.aggregation is None:
            raise ValueError(
                "Expected a model with a decoder but this one (aggregation='first_token') has no attention"
            )

        tokens = self.blending(batch)  # eq. 1–5
        if self.aggregation is None:
            return self.classifier(first_tokens(tokens, len(self.settings.encoders))).float()
        rows = None if return_attention else tokens.rows()
        values = tokens.padded() if rows is None else tokens.values
        labels, to_label, to_token = self.aggregation(values, tokens.mask, return_attention, rows)  # eq. 6
        logits = self.classifier(labels).float()  # eq. 7
        if not return_attention:
            return logits
        assert to_label is not None
        assert to_token is not None
        record = AttentionRecord(to_label, to_token, tokens.mask, tokens.encoder, tokens.step, self.settings.encoders)
        return logits, record
