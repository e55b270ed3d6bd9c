"""Weights of a trained model for a new one that may have other labels.

In: a checkpoint, and a fresh model of the same settings but for the number of labels. Out: the model holds the checkpoint's
weights; rows that belong to a label go by the label's name, those of labels that the checkpoint does not know stay as they
were initialised.

    model = LAMB(settings_like(start, n_labels=4))
    found = transfer(start, model, ("anger", "boredom", "joy", "shame"))
    found.known, found.new                                       # ("anger", "joy"), ("boredom", "shame")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lamb.checkpoint import Checkpoint
from lamb.model import LAMB
from lamb.settings import ModelSettings

FREE = ("dropout", "attention_dropout")  # settings that no weight depends on


@dataclass(frozen=True)
class Transfer:
    """Labels of the new model that the old one knew, those that it did not, and the old one's that are gone."""

    known: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


def settings_like(start: Checkpoint, n_labels: int, **free: float) -> ModelSettings:
    """The checkpoint's model settings for ``n_labels`` labels; ``free`` are new values of :data:`FREE` settings."""
    return ModelSettings.parse({**start.settings.model_dump(), "n_labels": n_labels, **free})


def transfer(start: Checkpoint, model: LAMB, names: Sequence[str]) -> Transfer:
    """Copy the checkpoint's weights into ``model``, whose labels are ``names`` [shape=(c,)], in place.

    Raises ValueError unless the model's settings are the checkpoint's but for labels and dropout.
    """
    settings, theirs = model.settings, start.label_set.names
    like = settings_like(start, settings.n_labels, **{name: getattr(settings, name) for name in FREE})
    if like != settings or len(names) != settings.n_labels:
        raise ValueError(f"Expected a model of {like} with its labels but got {settings} and {len(names)} labels")
    with torch.device("meta"):  # a tensor that grows with a label has a row per label
        one_more = LAMB(settings_like(start, settings.n_labels + 1)).state_dict()
    old, state = start.model.state_dict(), model.state_dict()
    known = [name for name in names if name in theirs]
    mine, their_rows = [list(names).index(name) for name in known], [theirs.index(name) for name in known]
    with torch.no_grad():
        for key, tensor in state.items():  # the model's own tensors: what is written there is the model's
            if one_more[key].shape == tensor.shape:
                tensor.copy_(old[key])
            else:
                tensor[mine] = old[key][their_rows].to(tensor)
    return Transfer(
        tuple(known),
        tuple(name for name in names if name not in theirs),
        tuple(name for name in theirs if name not in names),
    )
