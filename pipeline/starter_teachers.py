"""The starter's words and voice, each trained on alone at the end: by labels and by teachers that observe nothing else.

In: the weights of a trained starter and normalised, pooled samples per group. Out: weights in which only the encoder of one
modality (U_a of eq. 3) is another: logits of a clip without that modality are the same to the bit.

    state = finish(state, settings, groups, WORDS, augment, say, seed=0)

Forty thousand comments could teach more than a model learns that is to learn voices and faces too; taught together, the words
gain what the voice loses. Hinton, Vinyals and Dean (2015), "Distilling the knowledge in a neural network"; Beyer et al.
(2022), "Knowledge distillation: a good teacher is patient and consistent": the teachers judge the very view that the
student sees, with the same rows and columns hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from data.batches import Batch
from data.sources import Split
from data.spec import MODALITIES, Modality
from lamb.kernel import Dropout
from lamb.model import LAMB
from lamb.settings import UNIMODAL, ModelSettings
from lamb.training import Augment, FitResult, TrainSettings, fit
from pipeline.starter_joins import LABELS, Groups, draw_weights

Say = Callable[[str], None]


@dataclass(frozen=True)
class Finish:
    """How the encoder of one modality is trained on.

    Parameters
    ----------
    n_teachers : that differ in their seeds, of the student's width.
    teacher, student : settings of their training; the teachers keep their last averaged weights.
    teaching : share of the teachers' mean probabilities in the targets of clips of this modality alone, the rest are labels.
    joined : share of draws from joined clips, which keep the modality in tune with the others.
    dropout : in teachers, and in the student on clips of this modality alone; None for the model's own.
    """

    modality: Modality
    n_teachers: int
    teacher: TrainSettings
    student: TrainSettings
    teaching: float = 0.7
    joined: float = 0.1
    dropout: float | None = None

    @property
    def encoder(self) -> str:
        """Its name among the model's, "T", "A" or "V"."""
        return UNIMODAL[MODALITIES.index(self.modality)]

    @property
    def prefix(self) -> str:
        """Of the names of its weights."""
        return f"blending.encoders.{self.encoder}."


_ALONE = TrainSettings(plateau_factor=0.3, select_by="mean_average_precision", max_steps=None)
_WORDS = {"batch_size": 128, "plateau_patience": 1, "label_smoothing": 0.0, "ema_decay": 0.998}
_VOICE = {"label_smoothing": 0.05, "learning_rate": 2e-3}
WORDS = Finish(
    "text",
    n_teachers=2,
    teacher=_ALONE.model_copy(update={**_WORDS, "epochs": 5, "learning_rate": 4e-3}),
    student=_ALONE.model_copy(update={**_WORDS, "epochs": 3, "learning_rate": 2e-3}),
    dropout=0.0,
)
VOICE = Finish(
    "audio",
    n_teachers=5,
    teacher=_ALONE.model_copy(
        update={**_VOICE, "epochs": 40, "batch_size": 32, "plateau_patience": 6, "ema_decay": 0.98}
    ),
    student=_ALONE.model_copy(
        update={**_VOICE, "epochs": 8, "batch_size": 64, "plateau_patience": 1, "ema_decay": 0.99}
    ),
    joined=0.2,
)


class Student(LAMB):
    """LAMB that learns clips of one modality from labels and teachers, and all else from labels as ever."""

    def __init__(self, settings: ModelSettings, teachers: Sequence[LAMB], how: Finish) -> None:
        super().__init__(settings)
        self.teachers = tuple(teachers)  # not modules of the student: they are no part of its state
        self.how = how

    def training_loss(self, batch: Batch, criterion: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of :func:`lamb.training.fit`, of such clips with the teachers' probabilities among the targets."""
        mine = torch.tensor([name == self.how.modality for name in MODALITIES], device=batch.presence.device)
        alone = bool((batch.presence == mine).all())
        if self.how.dropout is not None:
            for part in self.modules():
                if isinstance(part, Dropout):
                    part.p = self.how.dropout if alone else self.settings.dropout
        logits = self(batch)
        loss = criterion(logits)
        if not alone or not self.teachers:
            return loss
        said = mean_probabilities(self.teachers, batch)
        told = functional.binary_cross_entropy_with_logits(logits, said, reduction="none").sum(dim=1).mean()
        return (1 - self.how.teaching) * loss + self.how.teaching * told


@torch.no_grad()
def mean_probabilities(teachers: Sequence[LAMB], batch: Batch) -> Tensor:
    """(N, c), the teachers' mean."""
    return torch.stack([teacher(batch).sigmoid() for teacher in teachers]).mean(dim=0)


def finish(
    state: Mapping[str, Tensor],
    settings: ModelSettings,
    groups: Mapping[Split, Groups],
    how: Finish,
    augment: Augment,
    say: Say,
    seed: int,
) -> dict[str, Tensor]:
    """``state`` of a model of ``settings`` with one encoder trained on; the epoch is picked on its validation clips."""
    teachers = train_teachers(settings, groups, how, augment, say, seed)
    model = Student(settings, teachers, how)
    model.load_state_dict(state)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(how.prefix))
    index = MODALITIES.index(how.modality)
    joined = [sample for sample in groups["train"]["joined"] if sample.presence[index]]
    shares = {how.modality: 1 - how.joined, "joined": how.joined}
    samples, weights = draw_weights({**groups["train"], "joined": joined}, shares)
    own = how.student.model_copy(update={"seed": seed})
    valid = groups["valid"][how.modality]
    result = fit(model, samples, valid, own, LABELS.names, sampler_weights=weights, augment=augment)
    for event in result.history:
        _tell(say, f"{how.modality}, epoch {event['epoch']}", event)
    return result.best_state


def train_teachers(
    settings: ModelSettings, groups: Mapping[Split, Groups], how: Finish, augment: Augment, say: Say, seed: int
) -> list[LAMB]:
    """Frozen models of ``settings`` with no encoder but this modality's, in eval mode."""
    dropout = settings.dropout if how.dropout is None else how.dropout
    alone = ModelSettings.parse({**settings.model_dump(), "encoders": (how.encoder,), "dropout": dropout})
    train, valid = groups["train"][how.modality], groups["valid"][how.modality]
    teachers = []
    for number in range(how.n_teachers):
        own = how.teacher.model_copy(update={"seed": 1000 * (seed + 1) + number})
        torch.manual_seed(own.seed)
        model = LAMB(alone)
        result = fit(model, train, valid, own, LABELS.names, augment=augment)
        model.load_state_dict(last_weights(result))
        teachers.append(model.eval().requires_grad_(False))
        _tell(say, f"teacher {number} of {how.modality}", result.history[-1])
    return teachers


def last_weights(result: FitResult) -> dict[str, Tensor]:
    """Those after the last epoch, averaged if they were."""
    prefix = "module."
    averaged = {key.removeprefix(prefix): x for key, x in result.state.average.items() if key.startswith(prefix)}
    return averaged or result.state.model


def _tell(say: Say, what: str, event: dict[str, float]) -> None:
    say(f"{what}: {event['seconds']:.0f} s  valid mAP {event['valid/mean_average_precision']:.3f}")
