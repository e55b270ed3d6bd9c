"""Results of a starter checkpoint on data never trained on: each modality alone, joined, and whole clips of CREMA-D.

In: the checkpoint and raw samples per split and group. Out: plain JSON values for its card.

    checkpoint.metrics = measure(checkpoint, valid, test)
    checkpoint.metrics["crema_d"] = end_to_end(checkpoint, Path("clips/crema_d"), settings)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.batches import Sample
from data.spec import MODALITIES
from lamb.calibration import fit_temperature
from lamb.checkpoint import Checkpoint
from lamb.metrics import expected_calibration_error, f1_per_label, tune_thresholds, unweighted_average_recall
from pipeline.evaluate import logits_of
from pipeline.settings import PipelineSettings
from pipeline.starter_joins import LABELS, Groups

GROUPS = ("text", "audio", "visual", "joined")


def scores(checkpoint: Checkpoint, samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and truth, both (N, c), of raw samples."""
    logits = logits_of(checkpoint, samples, "cpu")
    probabilities = 1 / (1 + np.exp(-logits / checkpoint.temperature))
    return probabilities, _truth(samples)


def calibrate_shared(checkpoint: Checkpoint, valid: Groups) -> None:
    """Set one temperature and one threshold per label for whatever is observed.

    Every kind of input counts the same: the temperature is fitted on as many draws of each, a threshold is the mean of
    those that suit each kind best.
    """
    found = {name: (logits_of(checkpoint, valid[name], "cpu"), _truth(valid[name])) for name in GROUPS}
    chance, n_draws = np.random.default_rng(0), max(len(truth) for _, truth in found.values())
    drawn = [chance.integers(len(truth), size=n_draws) for _, truth in found.values()]
    logits, truths = zip(*((x[rows], y[rows]) for (x, y), rows in zip(found.values(), drawn, strict=True)), strict=True)
    checkpoint.temperature = fit_temperature(np.concatenate(logits), np.concatenate(truths))
    best = [tune_thresholds(1 / (1 + np.exp(-x / checkpoint.temperature)), y) for x, y in found.values()]
    checkpoint.thresholds = np.clip(np.mean(best, axis=0), 0.1, 0.9).astype(np.float32)


def _truth(samples: Sequence[Sample]) -> np.ndarray:
    return np.stack([s.labels for s in samples if s.labels is not None])


def with_neutral(probabilities: np.ndarray) -> np.ndarray:
    """A seventh score: that no label holds, ∏ (1 − p)."""
    return np.column_stack([probabilities, np.prod(1 - probabilities, axis=1)])


def _truth_with_neutral(truth: np.ndarray) -> np.ndarray:
    return np.column_stack([truth, truth.sum(axis=1) == 0])


def measure(checkpoint: Checkpoint, valid: Groups, test: Groups) -> dict[str, Any]:
    """Results on data never trained on, each modality alone and joined."""
    results: dict[str, Any] = {}

    p, truth = scores(checkpoint, valid["text"])
    tuned = tune_thresholds(with_neutral(p), _truth_with_neutral(truth))
    p, truth = scores(checkpoint, test["text"])
    f1 = f1_per_label(_truth_with_neutral(truth), with_neutral(p) >= tuned)
    results["goemotions_macro_f1_7"] = float(f1.mean())
    results["goemotions_f1"] = dict(zip((*LABELS.names, "neutral"), map(float, f1), strict=True))
    results["goemotions_macro_f1_6_checkpoint_thresholds"] = float(
        f1_per_label(truth, p >= checkpoint.thresholds).mean()
    )

    p, truth = scores(checkpoint, test["audio"])
    emotional = truth.any(axis=1)
    results["ravdess_uar_6"] = unweighted_average_recall(truth[emotional].argmax(1), p[emotional].argmax(1))
    results["ravdess_recall"] = _recalls(truth[emotional].argmax(1), p[emotional].argmax(1), LABELS.names)

    # Faces: six classes, fear left out (a handful of pictures), neutral where ∏(1 − p) is the largest score.
    names = (*LABELS.names, "neutral")
    bias = neutral_bias(*scores(checkpoint, valid["visual"]))
    p, truth = scores(checkpoint, test["visual"])
    said, real = _seven(p, bias), _truth_with_neutral(truth).argmax(1)
    known = real != names.index("fear")
    results["stills_uar_6"] = unweighted_average_recall(real[known], said[known])
    results["stills_recall"] = _recalls(real, said, names)

    p, truth = scores(checkpoint, test["joined"])
    emotional = truth.any(axis=1)
    results["joined_uar_6"] = unweighted_average_recall(truth[emotional].argmax(1), p[emotional].argmax(1))
    results["joined_macro_f1"] = float(f1_per_label(truth, p >= checkpoint.thresholds).mean())
    results["joined_by_parts"] = by_parts(checkpoint, [s for s in test["joined"] if all(s.presence)])
    for name in GROUPS:
        p, truth = scores(checkpoint, test[name])
        results[f"calibration_error_{name}"] = expected_calibration_error(truth, p)
    results["test_samples"] = {name: len(samples) for name, samples in test.items()}
    return results


def by_parts(checkpoint: Checkpoint, joined: Sequence[Sample]) -> dict[str, float]:
    """Unweighted recall of clips with all three modalities from each part alone, and from all together."""
    emotional = [s for s in joined if s.labels is not None and s.labels.any()]
    found = {}
    for name in (*MODALITIES, "together"):
        seen = emotional if name == "together" else [_only(sample, name) for sample in emotional]
        p, truth = scores(checkpoint, seen)
        found[name] = unweighted_average_recall(truth.argmax(1), p.argmax(1))
    return found


def _only(sample: Sample, modality: str) -> Sample:
    valid = {name: mask if name == modality else np.zeros_like(mask) for name, mask in sample.valid.items()}
    return replace(sample, valid=valid)


def neutral_bias(p: np.ndarray, truth: np.ndarray) -> float:
    """Factor on the neutral score that gives the best unweighted recall on the valid split."""
    real = _truth_with_neutral(truth).argmax(1)
    return max(np.geomspace(0.1, 10, 41), key=lambda bias: unweighted_average_recall(real, _seven(p, bias)))


def _seven(p: np.ndarray, bias: float) -> np.ndarray:
    all_scores = with_neutral(p)
    all_scores[:, -1] *= bias
    return all_scores.argmax(1)


def _recalls(truth: np.ndarray, said: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    return {names[int(c)]: float((said[truth == c] == c).mean()) for c in np.unique(truth)}


CREMA_D = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "SAD": "sadness", "NEU": ""}


def end_to_end(checkpoint: Checkpoint, clips: Path, settings: PipelineSettings) -> list[dict[str, Any]]:
    """The CREMA-D clips through the whole pipeline: true label, the two likeliest, whether that counts as found."""
    from pipeline.predict import Predictor
    from pipeline.video import Extractors

    predictor = Predictor(checkpoint, Extractors(settings))
    rows = []
    for path in sorted(clips.glob("*.mp4")):
        true = CREMA_D[path.stem.split("_")[2]]
        overall = predictor.predict_file(path)["overall"]
        ranked = sorted(overall["probabilities"], key=lambda name: -overall["probabilities"][name])[:2]
        found = true in ranked if true else not overall["labels"]
        rows.append(
            {
                "clip": path.name,
                "true": true or "neutral",
                "top2": {name: overall["probabilities"][name] for name in ranked},
                "labels": overall["labels"],
                "found": found,
            }
        )
    return rows


def seed_results(checkpoint: Checkpoint) -> dict[str, float]:
    """What the card says of another seed: how far results of one recipe lie apart."""
    metrics = checkpoint.metrics
    keys = ("goemotions_macro_f1_7", "ravdess_uar_6", "stills_uar_6", "joined_uar_6")
    found = sum(row["found"] for row in metrics.get("crema_d", []))
    return {"seed": checkpoint.provenance["training"]["seed"], **{key: metrics[key] for key in keys}, "crema_d": found}
