"""Training of the starter checkpoint: the recipe, and how it is followed.

In: prepared samples per split and group ("text", "audio", "visual", "joined"), raw, and a recipe. Out: a checkpoint, its
temperature and thresholds fitted on validation.

    checkpoint = train(prepared, Recipe(), print)

Columns of spread, normalisation and the model's pooling are done once, before the first epoch; ``Checkpoint`` does the same
to every clip (a test).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.batches import Batch, Sample
from data.sources import Split
from data.spec import MODALITIES, FeatureSpec, Modality
from lamb.augmentation import drop_columns
from lamb.checkpoint import Checkpoint
from lamb.derived import widened_dims, with_spread
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.settings import ModelSettings
from lamb.training import TrainSettings, fit
from pipeline.starter_data import pooled
from pipeline.starter_joins import LABELS, Groups, draw_weights
from pipeline.starter_measure import calibrate_shared
from pipeline.starter_teachers import VOICE, WORDS, Finish, finish

LICENCE = "CC BY-NC-SA 4.0 (non-commercial, because RAVDESS is)"
MAX_STEPS = (60, 800, 400)
SPLITS: tuple[Split, Split] = ("train", "valid")
N_WATCHED_TEXTS = 1500  # of the validation comments, so that voices and faces count when an epoch is picked

Say = Callable[[str], None]

MODEL: dict[str, Any] = {
    "n_labels": len(LABELS),
    "width": 60,
    "ff_hidden": 160,
    "dropout": 0.2,
    "decoder": "residual",
    "classifier": "per_label",
    "kernel_sizes": (1, 3, 1),
    "pooling": (1, 16, 2),
}
TRAINING = TrainSettings(
    epochs=8,
    batch_size=128,
    learning_rate=2e-3,
    plateau_patience=1,
    plateau_factor=0.3,
    early_stop=5,
    label_smoothing=0.05,
    modality_dropout=0.15,
    select_by="mean_average_precision",
    ema_decay=0.99,
    max_steps=MAX_STEPS,
    seed=0,
)


@dataclass(frozen=True)
class Recipe:
    """How the starter is made from prepared samples.

    Parameters
    ----------
    model : of :class:`ModelSettings`, but for ``dims``.
    spread_steps : see :mod:`lamb.derived`; 3 steps of the voice are 30 ms.
    shares : of draws; forty thousand comments would drown a thousand voices and faces.
    column_dropout : share of the columns of text, audio and visual that are hidden in each training sample.
    agreement : weight of :class:`Agreeing`'s loss, 0 for none.
    finishes : how single encoders are trained on at the end, one after another.
    """

    model: dict[str, Any] = field(default_factory=lambda: dict(MODEL))
    training: TrainSettings = TRAINING
    spread_steps: tuple[int, int, int] = (0, 3, 0)
    shares: dict[str, float] = field(
        default_factory=lambda: {"text": 0.7, "audio": 0.06, "visual": 0.06, "joined": 0.18}
    )
    column_dropout: tuple[float, float, float] = (0.0, 0.5, 0.0)
    agreement: float = 0.5
    finishes: tuple[Finish, ...] = (WORDS, VOICE)


@dataclass(frozen=True)
class Prepared:
    """Samples per split and group ("text", "audio", "visual", "joined"), not yet normalised, and their specs."""

    groups: dict[Split, Groups]
    specs: dict[Modality, FeatureSpec]
    undetected: dict[str, int]


class Agreeing(LAMB):
    """LAMB whose training loss asks of one observed modality, drawn by chance, to say what all that are there say.

    Only for batches most of whose samples have several. ``agreement`` weighs the cross-entropy of the one's probabilities
    against those of all, which get no gradient from it.
    """

    agreement = 0.0

    def training_loss(self, batch: Batch, criterion: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of :func:`lamb.training.fit` and the agreement."""
        logits = self(batch)
        loss = criterion(logits)
        if self.agreement and (batch.presence.sum(dim=1) >= 2).float().mean() > 0.5:
            chosen = torch.rand(len(batch), 3).masked_fill(~batch.presence, -1.0).argmax(dim=1)  # (N,)
            alone = self(batch.keep(functional.one_hot(chosen, 3).bool()))
            loss = loss + self.agreement * functional.binary_cross_entropy_with_logits(alone, logits.detach().sigmoid())
        return loss


def train(prepared: Prepared, recipe: Recipe, say: Say) -> Checkpoint:
    """Fit on the train split; pick the epoch, fit the temperature and tune thresholds on the valid split."""
    training = recipe.training
    ready = Ready.of(prepared, recipe)
    samples, weights = draw_weights(ready.groups["train"], recipe.shares)
    valid = ready.groups["valid"]
    watched = [s for name in ("audio", "visual", "joined") for s in valid[name]] + valid["text"][:N_WATCHED_TEXTS]
    torch.manual_seed(training.seed)
    # samples are pooled already, so that it is not done again in every epoch
    settings = ready.model.model_copy(update={"pooling": (1, 1, 1)})
    model = Agreeing(settings)
    model.agreement = recipe.agreement
    augment = augmenter(prepared.specs, recipe.column_dropout)

    def on_epoch(event: dict[str, Any]) -> None:
        say(
            f"epoch {event['epoch']:2d}  {event['seconds']:.0f} s  {event['samples_per_s']:.0f} samples/s  loss "
            f"{event['train_loss']:.3f}  valid mAP {event['valid/mean_average_precision']:.3f}"
            + ("  best" if event["best"] else "")
        )

    result = fit(
        model,
        samples,
        watched,
        training.model_copy(update={"max_steps": None}),
        LABELS.names,
        on_epoch=on_epoch,
        sampler_weights=weights,
        augment=augment,
    )
    state = result.best_state
    for how in recipe.finishes:
        state = finish(state, settings, ready.groups, how, augment, say, training.seed)
    final = LAMB(ready.model)
    final.load_state_dict(state)
    checkpoint = Checkpoint(
        model=final,
        label_set=LABELS,
        specs=prepared.specs,
        normalization=ready.normalization,
        max_steps=training.max_steps,
        licence=LICENCE,
        spread_steps=recipe.spread_steps,
    )
    calibrate_shared(checkpoint, prepared.groups["valid"])
    return checkpoint


@dataclass(frozen=True)
class Ready:
    """Samples with columns of spread, normalised and pooled, and what was measured for it."""

    groups: dict[Split, Groups]
    normalization: Normalization
    model: ModelSettings

    @classmethod
    def of(cls, prepared: Prepared, recipe: Recipe) -> Ready:
        """Of training and validation; joined samples take over the arrays of their parts."""
        specs = prepared.specs
        dims = (specs["text"].dim, specs["audio"].dim, specs["visual"].dim)
        model = ModelSettings.parse({**recipe.model, "dims": widened_dims(dims, recipe.spread_steps)})
        limits = recipe.training.max_steps

        def wide(split: Split) -> dict[str, list[Sample]]:
            return {
                name: [with_spread(s, recipe.spread_steps) for s in prepared.groups[split][name]] for name in MODALITIES
            }

        found: dict[Split, dict[str, list[Sample]]] = {split: wide(split) for split in SPLITS}
        normalization = Normalization.measure(s for samples in found["train"].values() for s in samples)
        normalization = without_frame_position(normalization, specs["visual"])
        groups: dict[Split, Groups] = {}
        for split, singles in found.items():
            raw = prepared.groups[split]
            groups[split] = {
                name: [pooled(normalization.apply_to(s), model.pooling, limits) for s in samples]
                for name, samples in singles.items()
            }
            made = {
                (name, id(before.values[name])): after
                for name in MODALITIES
                for before, after in zip(raw[name], groups[split][name], strict=True)
            }
            groups[split]["joined"] = [_joined_of(sample, made, model.dims) for sample in raw["joined"]]
        return cls(groups, normalization, model)


def _joined_of(sample: Sample, made: Mapping[tuple[str, int], Sample], dims: tuple[int, int, int]) -> Sample:
    values, valid = {}, {}
    for name, dim in zip(MODALITIES, dims, strict=True):
        part = made.get((name, id(sample.values[name])))
        values[name] = np.zeros((0, dim), np.float32) if part is None else part.values[name]
        valid[name] = np.zeros(0, bool) if part is None else part.valid[name]
    return replace(sample, values=values, valid=valid, defined={})


def without_frame_position(normalization: Normalization, visual: FeatureSpec) -> Normalization:
    """Box and score switched off (a huge deviation makes them 0): they tell how a picture was framed, and the model would
    learn which collection a photograph is from."""
    std = normalization.std["visual"].copy()
    std[[name.startswith("FaceRect") or name == "FaceScore" for name in visual.columns]] = 1e6
    return replace(normalization, std={**normalization.std, "visual": std})


def augmenter(
    specs: Mapping[Modality, FeatureSpec], column_dropout: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Callable[[Batch, torch.Generator], Batch]:
    """Changes that must not change a label. Values are normalised, so one unit is one standard deviation.

    Voice: another microphone, codec and distance (offsets of the cepstrum; large ones for half of the samples, because
    other recordings were seen two deviations away), another speaker's pitch. Face: a slightly other pose. All: single
    steps are hidden, and columns as :func:`drop_columns` does it. Offsets leave columns of spread as they are.
    """
    audio, visual = specs["audio"].columns, specs["visual"].columns
    offsets = {
        "audio": torch.tensor([_voice_spread(name) for name in audio]),
        "visual": torch.tensor([0.3 if name in ("Pitch", "Roll", "Yaw") else 0.1 for name in visual]),
    }

    def augment(batch: Batch, generator: torch.Generator) -> Batch:
        values, masks, place = dict(batch.values), dict(batch.masks), generator.device
        for name in MODALITIES:
            n_samples, n_steps, _ = values[name].shape
            if not n_steps:
                continue
            share = torch.rand(n_samples, 1, generator=generator, device=place) * (0.2 if name == "text" else 0.5)
            hidden = torch.rand(n_samples, n_steps, generator=generator, device=place) < share
            kept = masks[name] & ~hidden
            masks[name] = torch.where(kept.any(1, keepdim=True), kept, masks[name])
            if name == "text":
                continue
            offset = offsets[name].to(place)
            shift = torch.randn(n_samples, 1, len(offset), generator=generator, device=place) * offset
            if name == "audio":
                wide = torch.rand(n_samples, 1, 1, generator=generator, device=place) >= 0.5
                shift = shift * torch.where(wide, 5.0, 0.5)
            shift = functional.pad(shift, (0, values[name].shape[-1] - len(offset)))
            values[name] = (values[name] + shift).masked_fill(~masks[name][..., None], 0.0)
        changed = Batch(values, masks, batch.labels, batch.weights)
        for name, hidden_share in zip(MODALITIES, column_dropout, strict=True):
            if hidden_share:
                changed = drop_columns(changed, generator, hidden_share, name)
        return changed

    return augment


def _voice_spread(column: str) -> float:
    if column == "MCEP_0":
        return 0.6
    return {"F0": 0.25}.get(column, 0.2 if column.startswith("MCEP") else 0.1)
