"""Every choice the paper makes or leaves open, as two frozen records (model, training), and the rows of its Table 2.

In: plain values. Out: checked settings. No units but steps, epochs and layers; modality tuples are in the order text, audio,
visual; encoders are named by first letters, queries first: "TA" is Z_{text→audio}.

    settings = ModelSettings(dims=(300, 74, 35), n_labels=6)     # the paper's model, 136,337 parameters
    settings = ablation("w/o decoder", settings)                 # one row of Table 2
    settings = ModelSettings.parse({"widht": 30})                # InputError: ... Did you mean 'width'?
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.batches import MAX_STEPS, Truncation
from data.errors import InputError
from data.spec import MODALITIES, Modality

UNIMODAL = ("T", "A", "V")
MULTIMODAL = ("TA", "TV", "AT", "AV", "VT", "VA")
ENCODERS = UNIMODAL + MULTIMODAL  # the order of eq. 5

MODALITY_OF: dict[str, Modality] = dict(zip(UNIMODAL, MODALITIES, strict=True))

Dim = Annotated[int, Field(ge=1, le=100_000)]
Odd = Annotated[int, Field(ge=1, le=99)]
Steps = Annotated[int, Field(ge=1, le=10_000)]


class StrictSettings(BaseModel):
    """Frozen pydantic record that refuses unknown keys, naming the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, record: Any) -> Any:
        if isinstance(record, Mapping):
            for key in record:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, 1)
                    hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(cls.model_fields)}."
                    raise ValueError(f"unknown setting {key!r}.{hint}")
        return record

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """Settings from a plain mapping (JSON, YAML). Raises InputError: one line, all faults."""
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise InputError(f"Expected valid {cls.__name__} but got {one_line(error)}", code="bad_settings") from error


def one_line(error: ValidationError) -> str:
    """All faults of a pydantic error on one line."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{where}: {message} (got {str(fault['input'])[:60]})" if where else message)
    return "; ".join(faults)


class ModelSettings(StrictSettings):
    """Settings of the model; the defaults are the paper's, or this project's documented reading of it.

    Parameters
    ----------
    dims : feature columns of text, audio, visual (d_a of eq. 1).
    n_labels : c.
    width, heads : common dimension d and attention heads h; ``width % heads == 0``.
    layers, decoder_layers : depth of every encoder, and of the label decoder.
    ff_hidden, decoder_hidden : hidden units of the two-layer perceptrons (eq. 3–4; eq. 6).
    kernel_sizes, conv_bias : the temporal convolutions of eq. 1; odd kernels, so that length is kept.
    positions : "none" (no equation has them) or "sinusoidal", added to the convolved input at valid steps.
    padding_masks : True masks padded and unobserved steps out of every attention. False reproduces the predecessors,
        which attend to padding as zeros, so that scores depend on the padded length (see ``collate(fixed=True)``);
        a modality of which a sample has no valid step is masked out even then.
    decoder : "literal" eq. 6 (no residual around attention), or "residual": residual and norm around each sub-layer.
    dropout : after every sub-layer and inside perceptrons.
    attention_dropout : on attention weights. 0 by default: the paper does not name it, and on CPU it costs the fused
        attention path (about four times the time and memory).
    encoders : which of the nine encoders exist, in the paper's order (Table 2 removes some).
    aggregation : "decoder" (eq. 6), or "first_token": the first unpadded token of each encoder, concatenated, zeros
        where an encoder has none (Table 2, "w/o decoder").
    label_correlations : False puts an identity mask on label-to-label attention.
    label_embeddings : "per_label", or "shared": one embedding for all labels and one classifier row per label, because
        eq. 7's shared row would give every label the same score.
    classifier : "shared" is eq. 7, one row for all labels; "per_label" gives each label its own row and bias, which
        did better on a small set (``benchmarks/ravdess_voice.py``).
    pooling : steps of each modality averaged into one (valid ones only) before the convolution. 1 is the paper; more
        is this project's extension, cost of self-attention falls with its square.
    """

    dims: tuple[Dim, Dim, Dim] = (300, 74, 35)
    n_labels: int = Field(default=6, ge=1, le=10_000)
    width: int = Field(default=30, ge=1, le=4096)
    heads: int = Field(default=5, ge=1, le=256)
    layers: int = Field(default=1, ge=1, le=64)
    decoder_layers: int = Field(default=1, ge=1, le=64)
    ff_hidden: int = Field(default=120, ge=1, le=65_536)
    decoder_hidden: int = Field(default=256, ge=1, le=65_536)
    kernel_sizes: tuple[Odd, Odd, Odd] = (1, 1, 1)
    conv_bias: bool = False
    positions: Literal["none", "sinusoidal"] = "none"
    padding_masks: bool = True
    decoder: Literal["literal", "residual"] = "literal"
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    encoders: tuple[str, ...] = ENCODERS
    aggregation: Literal["decoder", "first_token"] = "decoder"
    label_correlations: bool = True
    label_embeddings: Literal["per_label", "shared"] = "per_label"
    classifier: Literal["shared", "per_label"] = "shared"
    pooling: tuple[Steps, Steps, Steps] = (1, 1, 1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd to keep the length, but are {self.kernel_sizes}")
        unknown = [name for name in self.encoders if name not in ENCODERS]
        if unknown or not self.encoders:
            raise ValueError(f"encoders must be some of {' '.join(ENCODERS)}, but are {self.encoders}")
        if self.encoders != tuple(name for name in ENCODERS if name in self.encoders):
            raise ValueError(
                f"encoders must be distinct and in the order {' '.join(ENCODERS)}, but are {self.encoders}"
            )
        return self

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that any encoder reads, in the order text, audio, visual."""
        letters = set("".join(self.encoders))
        return tuple(MODALITY_OF[letter] for letter in UNIMODAL if letter in letters)


LOWER_IS_BETTER = ("loss", "hamming_loss", "calibration_error")
SELECTABLE = (
    "accuracy",
    "micro_precision",
    "micro_recall",
    "micro_f1",
    "macro_f1",
    "hamming_loss",
    "subset_accuracy",
    "mean_average_precision",
    "calibration_error",
    "loss",
)


class TrainSettings(StrictSettings):
    """Settings of one training run; defaults are the paper's, or this project's reading of it.

    Parameters
    ----------
    learning_rate, plateau_factor, plateau_patience : Adam's rate, multiplied by the factor after ``plateau_patience``
        epochs without improvement of ``select_by`` on the validation set.
    gradient_clip : largest gradient norm.
    early_stop : epochs without improvement after which training ends.
    label_smoothing : ε of eq. 8.
    modality_dropout : probability of hiding each modality of a training sample; never all that it has.
    seed : of order, weighted draws, dropout and augmentation. The model's first weights are the caller's.
    device, precision : "auto" takes a GPU where there is one, and bfloat16 (autocast) on a GPU that has it, else float32.
    select_by : validation metric that picks the best epoch; a rare-label problem may prefer "macro_f1".
    threshold : probability from which a label holds in the validation metrics.
    max_steps, truncation : see :func:`data.batches.collate`.
    ema_decay : with more than 0, a moving average of the weights over optimiser steps, ``decay = min(ema_decay, (1 + step)
        / (10 + step))``, is what is validated and kept as the best instead of the weights themselves.
    """

    epochs: int = Field(default=50, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_clip: float = Field(default=0.8, gt=0)
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    plateau_patience: int = Field(default=5, ge=0)
    early_stop: int = Field(default=10, ge=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    select_by: str = "accuracy"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    max_steps: tuple[int, int, int] | None = MAX_STEPS
    truncation: Truncation = "even"
    ema_decay: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _known_metric(self) -> Self:
        if self.select_by not in SELECTABLE:
            raise ValueError(f"select_by must be one of {', '.join(SELECTABLE)}, but is {self.select_by!r}")
        return self

    def resolved(self) -> TrainSettings:
        """The same with a device and a precision in place of "auto"."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
        return self.model_copy(update={"device": device, "precision": precision})


TABLE2: dict[str, dict[str, Any]] = {
    "only text": {"encoders": ("T",)},
    "only audio": {"encoders": ("A",)},
    "only visual": {"encoders": ("V",)},
    "only text-audio": {"encoders": ("TA",)},
    "only text-visual": {"encoders": ("TV",)},
    "only audio-text": {"encoders": ("AT",)},
    "only audio-visual": {"encoders": ("AV",)},
    "only visual-text": {"encoders": ("VT",)},
    "only visual-audio": {"encoders": ("VA",)},
    "only unimodal": {"encoders": UNIMODAL},
    "only multimodal": {"encoders": MULTIMODAL},
    "w/o decoder": {"aggregation": "first_token"},
    "w/o label correlations": {"label_correlations": False},
    "w/o label embeddings": {"label_embeddings": "shared"},
    "full": {},
}
"""Rows of the paper's Table 2, each as changes to the full model's settings."""


def ablation(name: str, settings: ModelSettings | None = None) -> ModelSettings:
    """``settings`` (default: the paper's) changed into the Table 2 row ``name``. Raises InputError for another name."""
    if name not in TABLE2:
        near = difflib.get_close_matches(name, TABLE2, 1)
        hint = f"Did you mean {near[0]!r}?" if near else None
        raise InputError(f"Expected a row of Table 2 ({', '.join(TABLE2)}) but got {name!r}.", remedy=hint)
    base = settings or ModelSettings()
    return ModelSettings.model_validate({**base.model_dump(), **TABLE2[name]})
