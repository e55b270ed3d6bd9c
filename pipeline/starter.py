"""The one command that makes the checkpoint which ships inside the package, and the numbers on its card.

    python -m pipeline.starter --data ../shared/data --work /tmp/starter --output lamb/starter

Needs the folders goemotions/, ravdess/ and faces/ in DATA (clips/crema_d/ too, for the end-to-end rows). No recording
in them has more than one modality, so fusion is learnt from joined samples: a sentence, a voice and a face of different
people that were given the same emotion, some of them neutral, put into one clip. The joins are made here, fixed by seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.batches import Batch, Sample
from data.labels import EMOTIONS, LabelSet
from data.sources import SOURCES, LabelledItem, Split
from data.spec import MODALITIES, FeatureSpec, Modality
from data.track import FeatureTrack
from lamb.checkpoint import Checkpoint
from lamb.metrics import expected_calibration_error, f1_per_label, tune_thresholds, unweighted_average_recall
from lamb.model import LAMB
from lamb.normalization import Normalization
from lamb.settings import ModelSettings
from lamb.training import TrainSettings, fit, predict_logits
from pipeline.settings import PipelineSettings
from pipeline.starter_card import model_card
from pipeline.starter_data import Tracks, face_tracks, text_tracks, voice_tracks

LABELS = LabelSet(EMOTIONS)
NAME = "starter"
LICENCE = "CC BY-NC-SA 4.0 (non-commercial, because RAVDESS is)"
SOURCE_OF: dict[Modality, tuple[str, str]] = {
    "text": ("goemotions", "goemotions"),
    "audio": ("ravdess", "ravdess"),
    "visual": ("face-stills", "faces"),
}
MAX_STEPS = (60, 800, 400)
# Share of draws: forty thousand comments would drown a thousand voices and faces.
SHARES = {"text": 0.6, "audio": 0.15, "visual": 0.08, "joined": 0.17}
N_JOINED = {"train": 10_000, "valid": 600, "test": 1200}
JOINS = (("text", "audio", "visual"), ("audio", "visual"), ("text", "audio"), ("text", "visual"))
JOIN_SHARES = (0.4, 0.3, 0.15, 0.15)
NEUTRAL_SHARE = 0.4  # of the parts of a joined clip that carry no emotion although the clip does

Say = Callable[[str], None]
Groups = dict[str, list[Sample]]


def model_settings(specs: Mapping[Modality, FeatureSpec]) -> ModelSettings:
    """Wider than the paper's 30 and with a residual decoder; voice pooled to 12.5 Hz and face to 15 Hz (cheaper), and a
    kernel of 5 pooled steps (.4 s) on the voice."""
    text, audio, visual = (specs[name].dim for name in MODALITIES)
    return ModelSettings(
        dims=(text, audio, visual),
        n_labels=len(LABELS),
        width=60,
        ff_hidden=160,
        dropout=0.4,
        decoder="residual",
        kernel_sizes=(1, 5, 1),
        pooling=(1, 8, 2),
    )


TRAINING = TrainSettings(
    epochs=8,
    batch_size=128,
    learning_rate=1.5e-3,
    plateau_patience=1,
    plateau_factor=0.3,
    early_stop=5,
    label_smoothing=0.1,
    modality_dropout=0.15,
    select_by="mean_average_precision",
    max_steps=MAX_STEPS,
    seed=0,
)


@dataclass(frozen=True)
class Prepared:
    """Samples per split and group ("text", "audio", "visual", "joined"), not yet normalised, and their specs."""

    groups: dict[Split, Groups]
    specs: dict[Modality, FeatureSpec]
    undetected: dict[str, int]


def prepare(root: Path, work: Path, settings: PipelineSettings, say: Say) -> Prepared:
    """Read the three sets, extract their tracks, and join them."""
    items = {name: SOURCES.get(source)(root / folder) for name, (source, folder) in SOURCE_OF.items()}
    tracks: dict[str, Tracks] = {
        "text": text_tracks(items["text"], settings),
        "audio": voice_tracks(items["audio"], work, settings, say),
        "visual": face_tracks(items["visual"], work, settings, say),
    }
    specs: dict[Modality, FeatureSpec] = {name: next(iter(tracks[name].values())).spec for name in MODALITIES}
    groups: dict[Split, Groups] = {"train": {}, "valid": {}, "test": {}}
    undetected = {}
    for name in MODALITIES:
        lost = [item for item in items[name] if not tracks[name][item.id].observed]
        undetected[name] = len(lost)
        for split, found in groups.items():
            chosen = [i for i in items[name] if i.split == split and tracks[name][i.id].observed]
            found[name] = [single(item, name, tracks[name][item.id], specs) for item in chosen]
    for number, (split, found) in enumerate(groups.items()):
        found["joined"] = join(found, N_JOINED[split], np.random.default_rng(number))
    return Prepared(groups, specs, undetected)


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


def draw_weights(groups: Groups) -> tuple[list[Sample], np.ndarray]:
    """All samples of a split and their drawing weights: groups by SHARES; inside a group classes are balanced, for text
    by the square root of their frequency (its rare labels are also its noisiest)."""
    samples: list[Sample] = []
    weights: list[np.ndarray] = []
    for name, share in SHARES.items():
        found = groups[name]
        classes = np.array([_class(sample.labels) for sample in found])  # type: ignore[arg-type]
        frequency = np.array([(classes == c).mean() for c in classes])
        inside = frequency ** (-0.5 if name == "text" else -1.0)
        samples += found
        weights.append(share * inside / inside.sum())
    return samples, np.concatenate(weights)


def augmenter(specs: Mapping[Modality, FeatureSpec]) -> Callable[[Batch, torch.Generator], Batch]:
    """Changes that must not change a label. Values are normalised, so one unit is one standard deviation.

    Voice: another microphone, codec and distance (offsets of the cepstrum; large ones for half of the samples, because
    other recordings were seen two deviations away), another speaker's pitch. Face: a slightly other pose. All: single
    steps are hidden.
    """
    audio, visual = specs["audio"].columns, specs["visual"].columns
    offsets = {
        "audio": torch.tensor([_voice_spread(name) for name in audio]),
        "visual": torch.tensor([0.3 if name in ("Pitch", "Roll", "Yaw") else 0.1 for name in visual]),
    }

    def augment(batch: Batch, generator: torch.Generator) -> Batch:
        values, masks, place = dict(batch.values), dict(batch.masks), generator.device
        for name in MODALITIES:
            n_samples, n_steps, n_columns = values[name].shape
            if not n_steps:
                continue
            share = torch.rand(n_samples, 1, generator=generator, device=place) * (0.2 if name == "text" else 0.5)
            hidden = torch.rand(n_samples, n_steps, generator=generator, device=place) < share
            kept = masks[name] & ~hidden
            masks[name] = torch.where(kept.any(1, keepdim=True), kept, masks[name])
            if name == "text":
                continue
            shift = torch.randn(n_samples, 1, n_columns, generator=generator, device=place) * offsets[name].to(place)
            if name == "audio":
                wide = torch.rand(n_samples, 1, 1, generator=generator, device=place) >= 0.5
                shift = shift * torch.where(wide, 5.0, 0.5)
            values[name] = (values[name] + shift).masked_fill(~masks[name][..., None], 0.0)
        return Batch(values, masks, batch.labels, batch.weights)

    return augment


def _voice_spread(column: str) -> float:
    if column == "MCEP_0":
        return 0.6
    return {"F0": 0.25}.get(column, 0.2 if column.startswith("MCEP") else 0.1)


def train(prepared: Prepared, settings: ModelSettings, training: TrainSettings, say: Say) -> Checkpoint:
    """Fit on the train split, pick the epoch and tune thresholds on the valid split."""
    singles = [s for name in MODALITIES for s in prepared.groups["train"][name]]
    normalization = without_frame_position(Normalization.measure(singles), prepared.specs["visual"])
    samples, weights = draw_weights(_normalised(prepared.groups["train"], normalization))
    valid = _normalised(prepared.groups["valid"], normalization)
    watched = [s for name in ("audio", "visual", "joined") for s in valid[name]] + valid["text"][:1500]
    torch.manual_seed(training.seed)
    model = LAMB(settings)

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
        training,
        LABELS.names,
        on_epoch=on_epoch,
        sampler_weights=weights,
        augment=augmenter(prepared.specs),
    )
    model.load_state_dict(result.best_state)
    checkpoint = Checkpoint(
        model=model,
        label_set=LABELS,
        specs=prepared.specs,
        normalization=normalization,
        max_steps=MAX_STEPS,
        licence=LICENCE,
    )
    checkpoint.thresholds = shared_thresholds(checkpoint, prepared.groups["valid"])
    return checkpoint


def without_frame_position(normalization: Normalization, visual: FeatureSpec) -> Normalization:
    """Box and score switched off (a huge deviation makes them 0): they tell how a picture was framed, and the model would
    learn which collection a photograph is from."""
    std = normalization.std["visual"].copy()
    std[[name.startswith("FaceRect") or name == "FaceScore" for name in visual.columns]] = 1e6
    return replace(normalization, std={**normalization.std, "visual": std})


def _normalised(groups: Groups, normalization: Normalization) -> Groups:
    return {name: [normalization.apply_to(sample) for sample in samples] for name, samples in groups.items()}


def scores(checkpoint: Checkpoint, samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and truth, both (N, c)."""
    ready = [checkpoint.normalization.apply_to(sample) for sample in samples]
    logits = predict_logits(checkpoint.model, ready, TRAINING)
    probabilities = 1 / (1 + np.exp(-logits / checkpoint.temperature))
    return probabilities, np.stack([s.labels for s in samples if s.labels is not None])


def shared_thresholds(checkpoint: Checkpoint, valid: Groups) -> np.ndarray:
    """One threshold per label for whatever is observed: the mean of those that suit each kind of input best."""
    found = [tune_thresholds(*scores(checkpoint, valid[name])) for name in SHARES]
    return np.clip(np.mean(found, axis=0), 0.1, 0.9)


def with_neutral(probabilities: np.ndarray) -> np.ndarray:
    """A seventh score: that no label holds, ∏ (1 − p)."""
    return np.column_stack([probabilities, np.prod(1 - probabilities, axis=1)])


def _truth_with_neutral(truth: np.ndarray) -> np.ndarray:
    return np.column_stack([truth, truth.sum(axis=1) == 0])


def measure(checkpoint: Checkpoint, prepared: Prepared) -> dict[str, Any]:
    """Results on data never trained on, each modality alone and joined."""
    valid, test = prepared.groups["valid"], prepared.groups["test"]
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
    for name in SHARES:
        p, truth = scores(checkpoint, test[name])
        results[f"calibration_error_{name}"] = expected_calibration_error(truth, p)
    results["test_samples"] = {name: len(samples) for name, samples in test.items()}
    results["undetected"] = prepared.undetected
    return results


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


def main() -> None:
    """Prepare, train, measure, write."""
    parser = argparse.ArgumentParser(description="Train the starter checkpoint.")
    parser.add_argument("--data", type=Path, required=True, help="folder with goemotions/, ravdess/, faces/")
    parser.add_argument("--work", type=Path, required=True, help="where extracted features are kept between runs")
    parser.add_argument("--output", type=Path, required=True, help="folder for starter.safetensors, .json and the card")
    parser.add_argument(
        "--seed", type=int, default=TRAINING.seed, help="of first weights, order, dropout, augmentation"
    )
    parser.add_argument(
        "--others",
        type=Path,
        nargs="*",
        default=[],
        help="checkpoints of other seeds, for the card to name their results",
    )
    arguments = parser.parse_args()
    training = TRAINING.model_copy(update={"seed": arguments.seed})
    torch.set_num_threads(1)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {line}", flush=True)

    settings = PipelineSettings(device="cpu")
    prepared = prepare(arguments.data, arguments.work, settings, say)
    for split, found in prepared.groups.items():
        say(f"{split}: " + ", ".join(f"{len(samples)} {name}" for name, samples in found.items()))
    checkpoint = train(prepared, model_settings(prepared.specs), training, say)
    checkpoint.provenance = {
        "name": NAME,
        "command": "python -m pipeline.starter --data ../shared/data --work WORK --output lamb/starter"
        f" --seed {training.seed}" + (" --others SEED…" if arguments.others else ""),
        "data": ["GoEmotions (Ekman grouping)", "RAVDESS speech, actors 1-16", "facial_expressions stills"],
        "training": training.model_dump(mode="json"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - started),
    }
    checkpoint.metrics = measure(checkpoint, prepared)
    clips = arguments.data / "clips" / "crema_d"
    if clips.is_dir():
        checkpoint.metrics["crema_d"] = end_to_end(checkpoint, clips, settings)
    arguments.output.mkdir(parents=True, exist_ok=True)
    written = checkpoint.save(arguments.output / NAME, half=True)
    # What is measured must be what ships: half-precision weights, read back.
    shipped = Checkpoint.load(written)
    shipped.metrics = measure(shipped, prepared) | (
        {"crema_d": end_to_end(shipped, clips, settings)} if clips.is_dir() else {}
    )
    shipped.metrics["other_seeds"] = [seed_results(Checkpoint.load(path)) for path in arguments.others]
    shipped.save(arguments.output / NAME, half=True)
    (arguments.output / "README.md").write_text(model_card(shipped), encoding="utf-8")
    say(json.dumps(shipped.metrics, indent=1))


if __name__ == "__main__":
    sys.exit(main())
