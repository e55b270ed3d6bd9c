"""The training loop: Adam, a plateau schedule, clipped gradients, early stopping, best epoch kept.

In: a model, training and validation :class:`data.batches.Sample` lists (already normalised), settings. Out: the best
epoch's weights and one record per epoch. Works for LAMB and for any model that takes a Batch and gives logits (N, c).

    model = LAMB(settings)
    result = fit(model, train, valid, TrainSettings(seed=1), labels.names, on_epoch=print)
    model.load_state_dict(result.best_state)

A model with loss terms of its own has ``training_loss(batch, criterion) -> scalar``, where ``criterion(logits)`` is
the objective of this run; else the loss is ``criterion(model(batch))``.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.batches import MAX_STEPS, Batch, Sample, Truncation, bucketed_batches, collate
from lamb.metrics import evaluate
from lamb.objective import objective
from lamb.settings import StrictSettings

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

Event = dict[str, Any]
Augment = Callable[[Batch, torch.Generator], Batch]


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
    device : "cpu", "cuda" …; ``precision`` "bf16" runs the model under autocast.
    select_by : validation metric that picks the best epoch; a rare-label problem may prefer "macro_f1".
    threshold : probability from which a label holds in the validation metrics.
    max_steps, truncation : see :func:`data.batches.collate`.
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
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    select_by: str = "accuracy"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    max_steps: tuple[int, int, int] | None = MAX_STEPS
    truncation: Truncation = "even"

    @model_validator(mode="after")
    def _known_metric(self) -> Self:
        if self.select_by not in SELECTABLE:
            raise ValueError(f"select_by must be one of {', '.join(SELECTABLE)}, but is {self.select_by!r}")
        return self


@dataclass(eq=False)
class TrainState:
    """All that training goes on from after an epoch: state dicts (on the training device) and counts."""

    epoch: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    best_score: float
    best_epoch: int
    best_state: dict[str, Tensor]
    history: list[Event]


@dataclass(eq=False)
class FitResult:
    """The best epoch's state dict, on the CPU; one event per epoch; and the state after the last."""

    best_state: dict[str, Tensor]
    best_epoch: int
    history: list[Event] = field(repr=False)
    state: TrainState = field(repr=False)


def fit(
    model: nn.Module,
    train: Sequence[Sample],
    valid: Sequence[Sample],
    settings: TrainSettings,
    names: Sequence[str],
    *,
    on_epoch: Callable[[Event], None] | None = None,
    sampler_weights: Sequence[float] | np.ndarray | None = None,
    positive_weights: Sequence[float] | np.ndarray | None = None,
    augment: Augment | None = None,
    resume: TrainState | None = None,
) -> FitResult:
    """Train ``model`` in place; it is left with the last epoch's weights (load ``best_state`` for the best).

    Parameters
    ----------
    names : the c label names, for the events.
    on_epoch : called with each epoch's event: epoch, seconds, samples_per_s, learning_rate, gradient_norm, train_loss,
        best (whether it is the best so far) and ``valid/<metric>`` for each metric.
    sampler_weights : (len(train),); samples are drawn with replacement in proportion. Default: each once an epoch.
    positive_weights : (c,), see :func:`lamb.objective.objective`.
    augment : changes each training batch (on the CPU) with the generator given.
    resume : ``FitResult.state`` of an earlier run with these settings; goes on as if it had never stopped.

    Raises
    ------
    ValueError : no or unlabelled samples, wrong lengths, or a loss that is no longer finite (names the epoch).
    """
    _check(train, valid, names, sampler_weights)
    device = torch.device(settings.device)
    model.to(device)
    optimizer = torch.optim.Adam(
        model.parameters(),
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # one kernel for all: a fifth of the step's time on many small tensors
    )
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", settings.plateau_factor, settings.plateau_patience
    )
    positive = None if positive_weights is None else torch.as_tensor(positive_weights, dtype=torch.float32).to(device)
    sign = -1.0 if settings.select_by in LOWER_IS_BETTER else 1.0
    first, best_score, best_epoch, best_state, history = 1, -math.inf, 0, {}, []
    if resume is not None:
        model.load_state_dict(resume.model)
        optimizer.load_state_dict(resume.optimizer)
        schedule.load_state_dict(resume.schedule)
        first, best_score, best_epoch = resume.epoch + 1, resume.best_score, resume.best_epoch
        best_state, history = resume.best_state, list(resume.history)

    # the caller's random state is left alone; each epoch has its own seed, so that a resumed run draws the same
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(first, settings.epochs + 1):
            if epoch - 1 - best_epoch >= settings.early_stop:
                break
            started_s = time.perf_counter()
            torch.manual_seed(settings.seed * 1_000_003 + epoch)
            rate = optimizer.param_groups[0]["lr"]
            loss, norm = _one_epoch(model, train, settings, epoch, optimizer, sampler_weights, positive, augment)
            train_s = time.perf_counter() - started_s
            measured = validate(model, valid, settings, names, positive)
            score = sign * measured[settings.select_by]
            schedule.step(score)
            best = score > best_score
            if best:
                best_score, best_epoch = score, epoch
                best_state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            event: Event = {
                "event": "epoch",
                "epoch": epoch,
                "epochs": settings.epochs,
                "seconds": time.perf_counter() - started_s,
                "samples_per_s": len(train) / train_s,
                "learning_rate": rate,
                "gradient_norm": norm,
                "train_loss": loss,
                "best": best,
                "best_epoch": best_epoch,
                **{f"valid/{name}": value for name, value in measured.items()},
            }
            history.append(event)
            if on_epoch is not None:
                on_epoch(event)

    state = TrainState(
        len(history),
        copy.deepcopy(model.state_dict()),
        copy.deepcopy(optimizer.state_dict()),
        copy.deepcopy(schedule.state_dict()),
        best_score,
        best_epoch,
        best_state,
        list(history),
    )
    return FitResult(best_state, best_epoch, history, state)


def _one_epoch(
    model: nn.Module,
    train: Sequence[Sample],
    settings: TrainSettings,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    sampler_weights: Sequence[float] | np.ndarray | None,
    positive_weights: Tensor | None,
    augment: Augment | None,
) -> tuple[float, float]:
    """One pass; mean loss per sample in nats, and mean gradient norm before clipping."""
    device = torch.device(settings.device)
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    indices = None
    if sampler_weights is not None:
        shares = np.asarray(sampler_weights, dtype=np.float64)
        draw = np.random.default_rng([settings.seed, epoch, 1])
        indices = draw.choice(len(train), size=len(train), p=shares / shares.sum())
    batches = bucketed_batches(train, settings.batch_size, [settings.seed, epoch], indices)

    model.train()
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    sizes: list[int] = []
    for chosen in batches:
        batch = _collate(model, [train[i] for i in chosen], settings)
        if augment is not None:
            batch = augment(batch, generator)
        if settings.modality_dropout:
            batch = drop_modalities(batch, settings.modality_dropout, generator)
        batch = batch.to(device)
        loss = _loss(model, batch, settings, positive_weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip).detach())
        optimizer.step()
        losses.append(loss.detach())  # read once an epoch: each reading waits for the device
        sizes.append(len(chosen))
    mean = float(np.average(torch.stack(losses).cpu().numpy(), weights=sizes))
    if not math.isfinite(mean):
        raise ValueError(
            f"Expected a finite loss but it is {mean} in epoch {epoch} (lower learning_rate, check features)"
        )
    return mean, float(torch.stack(norms).mean())


def _loss(model: nn.Module, batch: Batch, settings: TrainSettings, positive_weights: Tensor | None) -> Tensor:
    def criterion(logits: Tensor) -> Tensor:
        assert batch.labels is not None
        return objective(logits, batch.labels, settings.label_smoothing, positive_weights, batch.weights)

    with _precision(settings):
        own = getattr(model, "training_loss", None)
        return own(batch, criterion) if own is not None else criterion(model(batch))


def validate(
    model: nn.Module,
    samples: Sequence[Sample],
    settings: TrainSettings,
    names: Sequence[str],
    positive_weights: Tensor | None = None,
) -> dict[str, float]:
    """All metrics of :func:`lamb.metrics.evaluate`, and "loss": the objective without smoothing, in nats."""
    logits = predict_logits(model, samples, settings)
    truth = np.stack([sample.labels for sample in samples if sample.labels is not None])
    loss = objective(
        torch.from_numpy(logits),
        torch.from_numpy(truth.astype(np.float32)),
        smoothing=0.0,
        positive_weights=None if positive_weights is None else positive_weights.cpu(),
    )
    probabilities = torch.from_numpy(logits).sigmoid().numpy()
    return {**evaluate(probabilities, truth, names, settings.threshold), "loss": float(loss)}


def predict_logits(model: nn.Module, samples: Sequence[Sample], settings: TrainSettings) -> np.ndarray:
    """Logits float32 [shape=(N, c)] in the order of ``samples``, model in eval mode, on the settings' device."""
    model.to(settings.device).eval()
    found: list[tuple[list[int], Tensor]] = []
    with torch.inference_mode(), _precision(settings):
        for chosen in bucketed_batches(samples, settings.batch_size):
            batch = _collate(model, [samples[i] for i in chosen], settings)
            found.append((chosen, model(batch.to(settings.device)).detach().float()))
    logits = torch.cat([rows for _, rows in found]).cpu().numpy()
    ordered = np.empty_like(logits)
    ordered[[i for chosen, _ in found for i in chosen]] = logits
    return ordered


def drop_modalities(batch: Batch, probability: float, generator: torch.Generator) -> Batch:
    """Hide each modality of each sample with ``probability``; a sample that would lose all it has keeps all."""
    kept = torch.rand(len(batch), 3, generator=generator) >= probability
    emptied = ~(kept & batch.presence).any(dim=1, keepdim=True)
    return batch.keep(kept | emptied)


def _collate(model: nn.Module, samples: list[Sample], settings: TrainSettings) -> Batch:
    model_settings = getattr(model, "settings", None)
    fixed = not getattr(model_settings, "padding_masks", True)  # such scores depend on the padded length: fix it
    text, audio, visual = (samples[0].values[name].shape[1] for name in ("text", "audio", "visual"))
    return collate(samples, (text, audio, visual), settings.max_steps, settings.truncation, fixed)


def _precision(settings: TrainSettings) -> torch.autocast:
    device_type = torch.device(settings.device).type
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=settings.precision == "bf16")


def _check(
    train: Sequence[Sample],
    valid: Sequence[Sample],
    names: Sequence[str],
    sampler_weights: Sequence[float] | np.ndarray | None,
) -> None:
    for what, samples in (("training", train), ("validation", valid)):
        if not samples:
            raise ValueError(f"Expected {what} samples but got none")
        for sample in samples:
            if sample.labels is None or sample.labels.shape != (len(names),):
                shape = None if sample.labels is None else sample.labels.shape
                raise ValueError(f"Expected {len(names)} labels in {what} sample {sample.id!r} but got {shape}")
            if not any(sample.presence):
                raise ValueError(f"Expected an observed modality in {what} sample {sample.id!r} but it has none")
    if sampler_weights is not None:
        shares = np.asarray(sampler_weights, dtype=np.float64)
        if shares.shape != (len(train),) or not (
            np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0
        ):
            raise ValueError(f"Expected {len(train)} sampler weights >= 0, not all 0, but got shape {shares.shape}")
