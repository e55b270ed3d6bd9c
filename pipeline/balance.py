"""What a training set has too little of: rare labels, missing modalities; what is done about it, said in lines.

In: 0/1 labels (N, c), samples. Out: factors on rare labels' positives and the offsets that undo them, the encoders that can
be learnt at all, lines for people.

    weights = positive_weights(dataset.labels("train"), "sqrt")
    checkpoint.offsets = offsets(weights, n_labels)              # of the logits: probabilities mean what they say again
    lines = label_lines(names, train_labels, valid_labels, "sqrt")

A factor w on the positive part of a label's loss moves the best logit by log w, so log w is taken off again: the model has
looked at rare labels harder, and its probabilities are still those of the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.batches import Sample
from data.spec import MODALITIES
from lamb.settings import ENCODERS, UNIMODAL

FEW = 10  # positives of a label below which its results are chance
HARDLY = 0.05  # share of training samples with a modality below which it is hardly learnt
SPOKEN = {"text": "words", "audio": "a voice", "visual": "a face"}


def positive_weights(labels: np.ndarray, how: str) -> np.ndarray | None:
    """Factors on the positive part of each label's loss [shape=(c,)]; 1 for a label without positives or negatives.

    ``how`` is of :class:`pipeline.run_settings.RunSettings`; "auto" is "sqrt".
    """
    if how == "none":
        return None
    positives = labels.sum(axis=0)
    odds = np.where(positives > 0, (len(labels) - positives) / np.maximum(positives, 1), 1.0)
    odds = np.where(odds > 0, odds, 1.0)  # a label that always holds has nothing to be weighed against
    return odds if how == "balanced" else np.sqrt(odds)


def offsets(weights: np.ndarray | None, n_labels: int) -> np.ndarray:
    """What the factors added to the logits of a model that fits them [shape=(c,)]: their logarithms, 0 without factors."""
    return np.zeros(n_labels, np.float32) if weights is None else np.log(weights).astype(np.float32)


def label_lines(names: Sequence[str], train: np.ndarray, valid: np.ndarray, how: str) -> list[str]:
    """Positives of every label, what is done about rare ones, and a warning for each that cannot be learnt or tuned."""
    counts, held = train.sum(axis=0).astype(int), valid.sum(axis=0).astype(int)
    n_train, n_valid = len(train), len(valid)
    weights = positive_weights(train, how)
    lines = []
    for k, name in enumerate(names):
        ratio = f" (1 to {(n_train - counts[k]) / counts[k]:.1f})" if counts[k] else ""
        counted = "" if weights is None else f", positives count {weights[k]:.2f} times"
        lines.append(
            f"label {name}: {counts[k]:,} of {n_train:,} training samples{ratio}, {held[k]:,} of {n_valid:,} validation"
            + counted
        )
    said = {
        "none": "class_weights none: all positives count the same, as in the paper",
        "sqrt": "class_weights sqrt: positives count √(negatives / positives) times; probabilities are corrected for it",
        "balanced": "class_weights balanced: positives count negatives / positives times; probabilities are corrected for it",
    }
    lines.append(said["sqrt" if how == "auto" else how])
    for k, name in enumerate(names):
        if counts[k] < FEW:
            lines.append(
                f"warning: {name} has {counts[k]} positives in training; with fewer than {FEW} its results are chance"
            )
        if not held[k]:
            lines.append(f"warning: {name} has no positives in validation: its threshold stays at 0.5")
        elif held[k] < FEW:
            lines.append(f"warning: {name} has {held[k]} positives in validation: its threshold rests on them alone")
    return lines


def modality_shares(samples: Sequence[Sample]) -> dict[str, float]:
    """Share of the samples that have any observed step of text, audio, visual."""
    present = np.array([sample.presence for sample in samples]).reshape(-1, len(MODALITIES))
    return dict(zip(MODALITIES, present.mean(axis=0).tolist(), strict=True)) if len(present) else {}


def modality_lines(samples: Sequence[Sample], known: Sequence[str] = ()) -> list[str]:
    """Shares of the modalities, where some sample lacks one, and a warning for each that is hardly there.

    ``known`` are modalities that the first weights read already: these can only fade.
    """
    shares = modality_shares(samples)
    if min(shares.values()) == 1.0:
        return []
    lines = ["in training samples: " + ", ".join(f"{SPOKEN[name]} in {share:.1%}" for name, share in shares.items())]
    lines += [
        f"warning: {SPOKEN[name]} in {share:.2%} of training samples: hardly learnt"
        for name, share in shares.items()
        if 0 < share < HARDLY
    ]
    lines += [
        f"warning: no training sample has {SPOKEN[name]}: what the first weights know of it may fade, and is not measured"
        for name, share in shares.items()
        if not share and name in known
    ]
    return lines


def learnable(encoders: Sequence[str], samples: Sequence[Sample]) -> tuple[str, ...]:
    """The encoders of which some sample has all modalities, in their order; all of them if there is none.

    One that never read anything keeps its first, random weights: in a video that has its modalities it would add noise.
    """
    seen = {sample.presence for sample in samples}
    index = {letter: i for i, letter in enumerate(UNIMODAL)}
    kept = tuple(e for e in encoders if any(all(present[index[letter]] for letter in e) for present in seen))
    return kept or tuple(encoders)


def encoder_lines(kept: Sequence[str]) -> list[str]:
    """What leaving encoders out means."""
    gone = [name for name in ENCODERS if name not in kept]
    if not gone:
        return []
    lines = []
    unread = [name for letter, name in zip(UNIMODAL, MODALITIES, strict=True) if letter not in "".join(kept)]
    if unread:
        lines.append(
            f"no training sample has {' or '.join(SPOKEN[name] for name in unread)}: the model will not read it"
        )
    lines.append(f"encoders that no training sample could train are left out: {' '.join(gone)}")
    return lines
