"""The starter's words, trained on alone at the end: by labels and by teachers that read nothing but words.

In: the weights of a trained starter and normalised, pooled samples per group. Out: weights in which only the encoder of the
words (U_t of eq. 3) is another: logits of a clip without words are the same to the bit.

    state = finish_words(state, settings, groups, Words(), augment, say, seed=0)

Forty thousand comments could teach more than a model learns that is to learn voices and faces too; taught together, the words
gain what the voice loses. Hinton, Vinyals and Dean (2015), "Distilling the knowledge in a neural network"; Beyer et al.
(2022), "Knowledge distillation: a good teacher is patient and consistent": the teachers judge the very view that the
student sees, with the same words hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from data.batches import Batch
from data.sources import Split
from lamb.kernel import Dropout
from lamb.model import LAMB
from lamb.settings import ModelSettings
from lamb.training import Augment, FitResult, TrainSettings, fit
from pipeline.starter_joins import LABELS, Groups, draw_weights

WORDS_ENCODER = "blending.encoders.T."
TEACHER = TrainSettings(
    epochs=5,
    batch_size=128,
    learning_rate=4e-3,
    plateau_patience=1,
    plateau_factor=0.3,
    label_smoothing=0.0,
    select_by="mean_average_precision",
    ema_decay=0.998,
    max_steps=None,
)
STUDENT = TEACHER.model_copy(update={"epochs": 3, "learning_rate": 2e-3})

Say = Callable[[str], None]


@dataclass(frozen=True)
class Words:
    """How the words are trained on.

    Parameters
    ----------
    n_teachers : that differ in their seeds, of the student's width, without dropout.
    teacher, student : settings of their training; the teachers keep their last averaged weights.
    teaching : share of the teachers' mean probabilities in the targets of comments, the rest are labels.
    shares : of draws; joined clips keep the words in tune with voice and face.
    """

    n_teachers: int = 2
    teacher: TrainSettings = TEACHER
    student: TrainSettings = STUDENT
    teaching: float = 0.7
    shares: dict[str, float] = field(default_factory=lambda: {"text": 0.9, "joined": 0.1})


class Student(LAMB):
    """LAMB that learns comments from labels and teachers, without dropout, and all else from labels as ever."""

    def __init__(self, settings: ModelSettings, teachers: Sequence[LAMB], teaching: float) -> None:
        super().__init__(settings)
        self.teachers = tuple(teachers)  # not modules of the student: they are no part of its state
        self.teaching = teaching

    def training_loss(self, batch: Batch, criterion: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of :func:`lamb.training.fit`, of comments with the teachers' probabilities among the targets."""
        comments = bool(batch.presence[:, 0].all()) and not bool(batch.presence[:, 1:].any())
        for part in self.modules():
            if isinstance(part, Dropout):
                part.p = 0.0 if comments else self.settings.dropout
        logits = self(batch)
        loss = criterion(logits)
        if not comments or not self.teachers:
            return loss
        said = mean_probabilities(self.teachers, batch)
        told = functional.binary_cross_entropy_with_logits(logits, said, reduction="none").sum(dim=1).mean()
        return (1 - self.teaching) * loss + self.teaching * told


@torch.no_grad()
def mean_probabilities(teachers: Sequence[LAMB], batch: Batch) -> Tensor:
    """(N, c), the teachers' mean."""
    return torch.stack([teacher(batch).sigmoid() for teacher in teachers]).mean(dim=0)


def finish_words(
    state: Mapping[str, Tensor],
    settings: ModelSettings,
    groups: Mapping[Split, Groups],
    words: Words,
    augment: Augment,
    say: Say,
    seed: int,
) -> dict[str, Tensor]:
    """``state`` of a model of ``settings`` with the words' encoder trained on; the epoch is picked on validation comments."""
    teachers = train_teachers(settings, groups, words, augment, say, seed)
    model = Student(settings, teachers, words.teaching)
    model.load_state_dict(state)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(WORDS_ENCODER))
    joined = [sample for sample in groups["train"]["joined"] if sample.presence[0]]
    samples, weights = draw_weights({**groups["train"], "joined": joined}, words.shares)
    own = words.student.model_copy(update={"seed": seed})
    result = fit(model, samples, groups["valid"]["text"], own, LABELS.names, sampler_weights=weights, augment=augment)
    for event in result.history:
        _tell(say, f"words, epoch {event['epoch']}", event)
    return result.best_state


def train_teachers(
    settings: ModelSettings, groups: Mapping[Split, Groups], words: Words, augment: Augment, say: Say, seed: int
) -> list[LAMB]:
    """Frozen models of ``settings`` with no encoder but the words', in eval mode."""
    alone = ModelSettings.parse({**settings.model_dump(), "encoders": ("T",), "dropout": 0.0})
    teachers = []
    for number in range(words.n_teachers):
        own = words.teacher.model_copy(update={"seed": 1000 * (seed + 1) + number})
        torch.manual_seed(own.seed)
        model = LAMB(alone)
        result = fit(model, groups["train"]["text"], groups["valid"]["text"], own, LABELS.names, augment=augment)
        model.load_state_dict(last_weights(result))
        teachers.append(model.eval().requires_grad_(False))
        _tell(say, f"teacher {number} of words", result.history[-1])
    return teachers


def last_weights(result: FitResult) -> dict[str, Tensor]:
    """Those after the last epoch, averaged if they were."""
    prefix = "module."
    averaged = {key.removeprefix(prefix): x for key, x in result.state.average.items() if key.startswith(prefix)}
    return averaged or result.state.model


def _tell(say: Say, what: str, event: dict[str, float]) -> None:
    say(f"{what}: {event['seconds']:.0f} s  valid mAP {event['valid/mean_average_precision']:.3f}")
