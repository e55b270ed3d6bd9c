"""The training loop: Adam, a plateau schedule, clipped gradients, early stopping, best epoch kept.

In: a model, training and validation :class:`data.batches.Sample` lists (already normalised), settings. Out: the best
epoch's weights and one record per epoch. Works for LAMB and for any model that takes a Batch and gives logits (N, c), on one
process or, under torchrun, on several with the same result (see ``lamb/distributed.py``).

    model = LAMB(settings)
    result = fit(model, train, valid, TrainSettings(seed=1), labels.names, on_epoch=print)
    model.load_state_dict(result.best_state)

A model with loss terms of its own has ``training_loss(batch, criterion) -> scalar``, where ``criterion(logits)`` is
the objective of this run; else the loss is ``criterion(model(batch))``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from data.batches import Batch, Sample
from data.resident import Resident
from lamb.distributed import add_up_gradients, agreed, place, total
from lamb.metrics import evaluate
from lamb.objective import objective
from lamb.settings import LOWER_IS_BETTER, TrainSettings
from lamb.training_state import TrainState

Event = dict[str, Any]
Augment = Callable[[Batch, torch.Generator], Batch]


@dataclass(eq=False)
class FitResult:
    """The best epoch's state dict; one event per epoch; and the state after the last. Tensors on the CPU."""

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
    on_step: Callable[[int, int, int], None] | None = None,
    on_state: Callable[[TrainState], None] | None = None,
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
    on_step : called with epoch, steps done and steps of the epoch.
    on_state : called after each epoch with all that a resumed run needs; on the first process only.
    sampler_weights : (len(train),); samples are drawn with replacement in proportion. Default: each once an epoch.
    positive_weights : (c,), see :func:`lamb.objective.objective`.
    augment : changes each training batch, on the device where it is, with the generator given.
    resume : state of an earlier run with these settings; goes on as if it had never stopped.

    Raises
    ------
    ValueError : no or unlabelled samples, wrong lengths, or a loss that is no longer finite (names the epoch).
    """
    _check(train, valid, names, sampler_weights)
    settings = settings.resolved()
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
    average = averaged(model, settings.ema_decay)
    if resume is not None:
        model.load_state_dict(resume.model)
        optimizer.load_state_dict(resume.optimizer)
        schedule.load_state_dict(resume.schedule)
        first, best_score, best_epoch = resume.epoch + 1, resume.best_score, resume.best_epoch
        best_state, history = resume.best_state, list(resume.history)
        if average is not None:
            average.load_state_dict(resume.average)

    def state() -> TrainState:
        moved = optimizer.state_dict()
        moments = {i: {k: _on_cpu(v) for k, v in found.items()} for i, found in moved["state"].items()}
        return TrainState(
            epoch=len(history),
            model={name: _on_cpu(value) for name, value in model.state_dict().items()},
            optimizer={"state": moments, "param_groups": moved["param_groups"]},
            schedule=dict(schedule.state_dict()),
            best_score=best_score,
            best_epoch=best_epoch,
            best_state=best_state,
            average={} if average is None else {name: _on_cpu(value) for name, value in average.state_dict().items()},
            history=list(history),
        )

    train_set, valid_set = (resident(model, samples, settings) for samples in (train, valid))
    rank, _ = place()
    # the caller's random state is left alone; each epoch has its own seed, so that a resumed run draws the same
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(first, settings.epochs + 1):
            if epoch - 1 - best_epoch >= settings.early_stop:
                break
            started_s = time.perf_counter()
            torch.manual_seed((settings.seed * 1_000_003 + epoch) * 1_009 + rank)
            rate = optimizer.param_groups[0]["lr"]
            step = None if on_step is None else partial(on_step, epoch)
            run = _Epoch(model, optimizer, settings, epoch, positive, augment, average, step)
            loss, norm = run(train_set, sampler_weights)
            train_s = time.perf_counter() - started_s
            judged = model if average is None else average.module
            measured = validate(judged, valid_set, settings, names, positive)
            score = agreed(sign * measured[settings.select_by], device)
            best = score > best_score
            if best:
                best_score, best_epoch = score, epoch
                best_state = {name: _on_cpu(value) for name, value in judged.state_dict().items()}
            schedule.step(score)
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
            if on_state is not None and rank == 0:
                on_state(state())
            if on_epoch is not None and rank == 0:
                on_epoch(event)

    return FitResult(best_state, best_epoch, history, state())


def _on_cpu(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    """The moving average of a model's weights, or None without a decay; the first steps count for more."""

    def update(average: Any, current: Any, n_averaged: Tensor | int) -> None:
        n = float(n_averaged)
        for mean, value in zip(average, current, strict=True):
            mean.lerp_(value, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=update) if decay else None


@dataclass
class _Epoch:
    """One pass over the training set."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    settings: TrainSettings
    epoch: int
    positive_weights: Tensor | None
    augment: Augment | None
    average: AveragedModel | None
    on_step: Callable[[int, int], None] | None

    def __call__(self, train: Resident, sampler_weights: Sequence[float] | np.ndarray | None) -> tuple[float, float]:
        """Mean loss per sample in nats, and mean gradient norm before clipping."""
        settings, (rank, world) = self.settings, place()
        indices = None
        if sampler_weights is not None:
            shares = np.asarray(sampler_weights, dtype=np.float64)
            draw = np.random.default_rng([settings.seed, self.epoch, 1])
            indices = draw.choice(len(train), size=len(train), p=shares / shares.sum())
        batches = train.buckets(settings.batch_size, [settings.seed, self.epoch], indices)
        generator = torch.Generator(train.device).manual_seed((settings.seed * 1_000_003 + self.epoch) * 1_009 + rank)

        self.model.train()
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        for number, chosen in enumerate(batches):
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(self._backward(train, chosen[rank::world], len(chosen), generator))
            add_up_gradients(self.model.parameters())
            norms.append(nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip).detach())
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
            if self.on_step is not None:
                self.on_step(number + 1, len(batches))
        # read once an epoch: each reading waits for the device
        loss = total(torch.stack(losses)).cpu().numpy()
        mean = float(np.average(loss, weights=[len(chosen) for chosen in batches]))
        if not math.isfinite(mean):
            raise ValueError(
                f"Expected a finite loss but it is {mean} in epoch {self.epoch} (lower learning_rate, check features)"
            )
        return mean, float(torch.stack(norms).mean())

    def _backward(self, train: Resident, share: Sequence[int], n_all: int, generator: torch.Generator) -> Tensor:
        """Add this share's gradients; its part of the batch's mean loss."""
        settings = self.settings
        if not share:
            return torch.zeros((), device=settings.device)
        batch = train.batch(share)
        if self.augment is not None:
            batch = self.augment(batch, generator)
        if settings.modality_dropout:
            batch = drop_modalities(batch, settings.modality_dropout, generator)
        batch = batch.to(settings.device)
        loss = _loss(self.model, batch, settings, self.positive_weights) * (len(share) / n_all)
        loss.backward()
        return loss.detach()


def _loss(model: nn.Module, batch: Batch, settings: TrainSettings, positive_weights: Tensor | None) -> Tensor:
    def criterion(logits: Tensor) -> Tensor:
        assert batch.labels is not None
        return objective(logits, batch.labels, settings.label_smoothing, positive_weights, batch.weights)

    with _precision(settings):
        own = getattr(model, "training_loss", None)
        return own(batch, criterion) if own is not None else criterion(model(batch))


def validate(
    model: nn.Module,
    samples: Sequence[Sample] | Resident,
    settings: TrainSettings,
    names: Sequence[str],
    positive_weights: Tensor | None = None,
) -> dict[str, float]:
    """All metrics of :func:`lamb.metrics.evaluate`, and "loss": the objective without smoothing, in nats."""
    held = samples if isinstance(samples, Resident) else resident(model, samples, settings)
    if held.labels is None:
        raise ValueError("Expected labels to measure against but the samples have none")
    logits = predict_logits(model, held, settings)
    truth = held.labels.cpu()
    positive = None if positive_weights is None else positive_weights.cpu()
    loss = objective(torch.from_numpy(logits), truth, smoothing=0.0, positive_weights=positive)
    probabilities = torch.from_numpy(logits).sigmoid().numpy()
    return {**evaluate(probabilities, truth.numpy(), names, settings.threshold), "loss": float(loss)}


def predict_logits(model: nn.Module, samples: Sequence[Sample] | Resident, settings: TrainSettings) -> np.ndarray:
    """Logits float32 [shape=(N, c)] in the order of ``samples``, model in eval mode, on the settings' device."""
    settings = settings.resolved()
    model.to(settings.device).eval()
    held = samples if isinstance(samples, Resident) else resident(model, samples, settings)
    batches = held.buckets(settings.batch_size)
    with torch.inference_mode(), _precision(settings):
        found = [model(held.batch(chosen).to(settings.device)).detach().float() for chosen in batches]
    logits = torch.cat(found).cpu().numpy()
    ordered = np.empty_like(logits)
    ordered[np.concatenate(batches)] = logits
    return ordered


def drop_modalities(batch: Batch, probability: float, generator: torch.Generator) -> Batch:
    """Hide each modality of each sample with ``probability``; a sample that would lose all it has keeps all."""
    kept = torch.rand(len(batch), 3, generator=generator, device=generator.device).cpu() >= probability
    emptied = ~(kept & batch.presence).any(dim=1, keepdim=True)
    return batch.keep(kept | emptied)


def resident(model: nn.Module, samples: Sequence[Sample], settings: TrainSettings) -> Resident:
    """The samples as tensors: on the settings' device where they fit into half of its free memory, else on the CPU."""
    model_settings = getattr(model, "settings", None)
    fixed = not getattr(model_settings, "padding_masks", True)  # such scores depend on the padded length: fix it
    text, audio, visual = (samples[0].values[name].shape[1] for name in ("text", "audio", "visual"))
    held = Resident(samples, (text, audio, visual), settings.max_steps, settings.truncation, fixed)
    device = torch.device(settings.resolved().device)
    if device.type == "cuda" and held.n_bytes() < torch.cuda.mem_get_info(device)[0] / 2:
        held.to(device)
    return held


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
