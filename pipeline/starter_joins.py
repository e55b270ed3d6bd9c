"""Samples of the starter checkpoint from single-modality tracks: singles, artificial joins, and how often each is drawn.

In: tracks of sentences, voices and faces with one emotion or none. Out: :class:`data.batches.Sample`. No recording of the
three sets has more than one modality, so fusion is learnt from joins: a sentence, a voice and a face of different people that
were given the same emotion, some of them neutral, put into one clip.

    sample = single(item, "audio", track, specs)
    joined = join({"text": texts, "audio": voices, "visual": faces}, 1000, np.random.default_rng(0))
    samples, weights = draw_weights(groups, SHARES)              # groups has "joined" too
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from data.batches import Sample
from data.labels import EMOTIONS, LabelSet
from data.sources import LabelledItem
from data.spec import MODALITIES, FeatureSpec, Modality
from data.track import FeatureTrack

LABELS = LabelSet(EMOTIONS)
JOINS = (("text", "audio", "visual"), ("audio", "visual"), ("text", "audio"), ("text", "visual"))
JOIN_SHARES = (0.4, 0.3, 0.15, 0.15)
NEUTRAL_SHARE = 0.4  # of the parts of a joined clip that carry no emotion although the clip does

Groups = dict[str, list[Sample]]


def single(
    item: LabelledItem, modality: Modality, track: FeatureTrack, specs: Mapping[Modality, FeatureSpec]
) -> Sample:
    """A sample with one modality; the two others are masked."""
    values = {name: np.zeros((0, specs[name].dim), np.float32) for name in MODALITIES}
    valid = {name: np.zeros(0, bool) for name in MODALITIES}
    values[modality], valid[modality] = track.values, track.valid
    defined = {} if track.defined is None else {modality: track.defined}
    return Sample(values, valid, LABELS.encode(item.labels), id=item.id, defined=defined)  # type: ignore[arg-type]


def join(found: Groups, n_samples: int, chance: np.random.Generator) -> list[Sample]:
    """Clips whose parts come from different people but agree in emotion; parts may be neutral, never all of them."""
    by_class: dict[str, dict[int, list[Sample]]] = {}
    for name in MODALITIES:
        classes: dict[int, list[Sample]] = {}
        for sample in found[name]:
            assert sample.labels is not None
            if sample.labels.sum() <= 1:
                classes.setdefault(_class(sample.labels), []).append(sample)
        by_class[name] = classes
    joined = []
    for number in range(n_samples):
        emotion = int(chance.integers(-1, len(LABELS)))  # -1: neutral
        names = JOINS[chance.choice(len(JOINS), p=JOIN_SHARES)]
        carries = chance.random(len(names)) >= NEUTRAL_SHARE
        if not carries.any():
            carries[chance.integers(len(names))] = True
        sample = joined_sample(
            [_pick(by_class[name], emotion if c else -1, chance) for name, c in zip(names, carries, strict=True)]
        )
        joined.append(replace(sample, labels=_vector(emotion), id=f"joined/{number}"))
    return joined


def joined_sample(parts: Sequence[Sample]) -> Sample:
    """One sample that has every part's observed modality."""
    values, valid, defined = dict(parts[0].values), dict(parts[0].valid), {}
    for part in parts:
        defined |= part.defined
    for part in parts[1:]:
        for name in MODALITIES:
            if part.valid[name].any():
                values[name], valid[name] = part.values[name], part.valid[name]
    return Sample(values, valid, defined=defined)


def _pick(classes: dict[int, list[Sample]], wanted: int, chance: np.random.Generator) -> Sample:
    candidates = classes.get(wanted) or classes[-1]  # a split may lack a rare class (fear among the faces)
    return candidates[int(chance.integers(len(candidates)))]


def _class(labels: np.ndarray) -> int:
    return int(labels.argmax()) if labels.any() else -1


def _vector(emotion: int) -> np.ndarray:
    vector = np.zeros(len(LABELS), np.float32)
    if emotion >= 0:
        vector[emotion] = 1.0
    return vector


def draw_weights(groups: Groups, shares: Mapping[str, float]) -> tuple[list[Sample], np.ndarray]:
    """All samples of a split and their drawing weights: groups by ``shares``; inside a group classes are balanced, for text
    by the square root of their frequency (its rare labels are also its noisiest)."""
    samples: list[Sample] = []
    weights: list[np.ndarray] = []
    for name, share in shares.items():
        found = groups[name]
        classes = np.array([_class(sample.labels) for sample in found])  # type: ignore[arg-type]
        frequency = np.array([(classes == c).mean() for c in classes])
        inside = frequency ** (-0.5 if name == "text" else -1.0)
        samples += found
        weights.append(share * inside / inside.sum())
    return samples, np.concatenate(weights)
