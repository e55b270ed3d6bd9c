"""The starter checkpoint: how it is made (on planted data), and that the one that ships fits the extractors beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data import EMOTIONS, FeatureSpec, FeatureTrack
from data.batches import collate
from data.sources import LabelledItem
from data.spec import MODALITIES

SPECS = {
    "text": FeatureSpec("text", tuple(f"t{i}" for i in range(8)), None, "test", "1"),
    "audio": FeatureSpec("audio", ("F0", "MCEP_0", *(f"a{i}" for i in range(6))), 100.0, "test", "1"),
    "visual": FeatureSpec("visual", ("FaceRectX", "Pitch", *(f"v{i}" for i in range(6))), None, "test", "1"),
}


def planted(n_each: int, seed: int) -> dict:
    """Per modality, samples whose class is written into the last six columns; one in seven neutral."""
    from pipeline.starter import single

    chance = np.random.default_rng(seed)
    groups = {}
    for name in MODALITIES:
        samples = []
        for number in range(n_each):
            emotion = number % 7 - 1
            values = chance.normal(0, 0.5, (int(chance.integers(4, 12)), 8)).astype(np.float32)
            if emotion >= 0:
                values[:, 2 + emotion] += 2.5
            times = np.arange(len(values)) / 100
            track = FeatureTrack(values, times, times + 0.01, np.ones(len(values), bool), SPECS[name])
            labels = (EMOTIONS[emotion],) if emotion >= 0 else ()
            samples.append(single(LabelledItem(f"{name}/{number}", "train", labels), name, track, SPECS))
        groups[name] = samples
    return groups


def prepared(n_each: int = 140):
    from pipeline.starter import Prepared, join

    groups = {split: planted(n_each, seed) for seed, split in enumerate(("train", "valid", "test"))}
    for seed, found in enumerate(groups.values()):
        found["joined"] = join(found, 150, np.random.default_rng(seed))
    return Prepared(groups, SPECS, {"text": 0, "audio": 0, "visual": 0})


def test_joined_samples_agree_with_their_parts() -> None:
    joined = prepared().groups["train"]["joined"]
    assert {sum(sample.presence) for sample in joined} == {2, 3}
    for sample in joined:
        assert sample.labels is not None
        carried = []
        for name in MODALITIES:
            if sample.valid[name].any():
                mean = sample.values[name].mean(axis=0)[2:]
                carried.append(int(mean.argmax()) if mean.max() > 1.2 else -1)
        emotion = int(sample.labels.argmax()) if sample.labels.any() else -1
        assert set(carried) <= {emotion, -1}, "a part may be neutral, never of another emotion"
        assert emotion in carried, "and at least one part carries the label"


def test_draws_follow_the_shares_and_balance_classes() -> None:
    from pipeline.starter import SHARES, draw_weights

    groups = prepared().groups["train"]
    groups["audio"] = (
        groups["audio"][:70] + [s for s in groups["audio"][70:] if s.labels is not None and s.labels[0]] * 5
    )
    samples, weights = draw_weights(groups)
    assert weights.sum() == pytest.approx(1)
    names = [sample.id.split("/")[0] for sample in samples]
    for name, share in SHARES.items():
        assert weights[[n == name for n in names]].sum() == pytest.approx(share)
    classes: dict[int, float] = {}
    for sample, weight in zip(samples, weights, strict=True):
        if sample.id.startswith("audio") and sample.labels is not None:
            emotion = int(sample.labels.argmax()) if sample.labels.any() else -1
            classes[emotion] = classes.get(emotion, 0) + weight
    assert max(classes.values()) == pytest.approx(min(classes.values()))


def test_augmentation_keeps_masks_honest() -> None:
    import torch

    from pipeline.starter import augmenter

    for name in ("audio", "visual"):
        batch = collate(planted(70, 0)[name], (8, 8, 8))
        changed = augmenter(SPECS)(batch, torch.Generator().manual_seed(0))
        mask = changed.masks[name]
        assert (mask & ~batch.masks[name]).sum() == 0
        assert mask.sum() < batch.masks[name].sum()
        assert mask.any(dim=1).all(), "no sample loses everything"
        assert (changed.values[name][~mask] == 0).all()
        change = changed.values[name][mask] - batch.values[name][mask]
        assert 0.01 < change.abs().mean() < 2


def test_where_the_face_is_in_the_frame_does_not_count() -> None:
    from lamb.normalization import Normalization
    from pipeline.starter import without_frame_position

    samples = [s for found in planted(70, 0).values() for s in found]
    muted = without_frame_position(Normalization.measure(samples), SPECS["visual"])
    values = next(s.values["visual"] for s in samples if s.presence[2])
    rows = muted.apply("visual", values, np.ones(len(values), bool))
    assert np.abs(rows[:, 0]).max() < 1e-3  # FaceRectX
    assert np.abs(rows[:, 1:]).max() > 0.5


def test_the_recipe_learns_planted_emotions_and_writes_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    from lamb.settings import ModelSettings
    from pipeline.starter import LICENCE, SHARES, TRAINING, measure, train
    from pipeline.starter_card import model_card

    for name in SHARES:  # the real sets differ a hundredfold in size, the planted ones do not
        monkeypatch.setitem(SHARES, name, 0.25)
    data = prepared(210)
    settings = ModelSettings(dims=(8, 8, 8), n_labels=6, width=20, ff_hidden=40, dropout=0.1)
    training = TRAINING.model_copy(update={"epochs": 12, "batch_size": 32, "learning_rate": 3e-3})
    lines: list[str] = []
    checkpoint = train(data, settings, training, lines.append)
    assert any(line.endswith("best") for line in lines)
    checkpoint.provenance = {"command": "the command"}
    checkpoint.metrics = measure(checkpoint, data)
    for key in ("goemotions_macro_f1_7", "ravdess_uar_6", "stills_uar_6", "joined_uar_6"):
        assert checkpoint.metrics[key] > 0.7, (key, checkpoint.metrics[key])
    card = model_card(checkpoint)
    assert f"**{checkpoint.metrics['ravdess_uar_6']:.3f}**" in card
    for part in (LICENCE, "the command", "No real training sample shows two modalities at once"):
        assert part in card


def test_shipped_checkpoint_fits_the_extractors_beside_it() -> None:
    """Whoever changes an extractor's numbers changes its version, and must train the starter again."""
    from lamb.checkpoint import Checkpoint
    from pipeline.predict import starter_checkpoint
    from pipeline.settings import PipelineSettings
    from pipeline.video import Extractors

    path = starter_checkpoint()
    checkpoint = Checkpoint.load(path)
    for spec in Extractors(PipelineSettings(device="cpu")).specs.values():
        checkpoint.check_spec(spec)
    assert checkpoint.label_set.names == EMOTIONS
    assert sum(p.stat().st_size for p in path.parent.iterdir()) < 3_000_000
    assert "non-commercial" in checkpoint.licence
    assert np.all((checkpoint.thresholds > 0) & (checkpoint.thresholds < 1))


def test_shipped_card_says_what_was_measured() -> None:
    from lamb.checkpoint import Checkpoint
    from pipeline.predict import starter_checkpoint
    from pipeline.starter_card import model_card

    card = starter_checkpoint().parent / "README.md"
    assert card.read_text(encoding="utf-8") == model_card(Checkpoint.load(starter_checkpoint()))


@pytest.mark.shared
def test_shipped_voice_results_are_repeated(shared_data: Path) -> None:
    """A sample of the card's RAVDESS test clips, extracted anew from sound to probabilities: far above chance (.17)."""
    from data.sources import SOURCES
    from lamb.checkpoint import Checkpoint
    from lamb.metrics import unweighted_average_recall
    from pipeline.predict import starter_checkpoint
    from pipeline.settings import PipelineSettings
    from pipeline.starter import scores, single
    from pipeline.starter_data import voice_track

    checkpoint = Checkpoint.load(starter_checkpoint())
    items = [item for item in SOURCES.get("ravdess")(shared_data / "ravdess") if item.split == "test" and item.labels]
    chosen = items[::11]  # 27 clips of all six actors and emotions
    settings = PipelineSettings(device="cpu")
    samples = [single(item, "audio", voice_track(item, settings), checkpoint.specs) for item in chosen]
    p, truth = scores(checkpoint, samples)
    assert unweighted_average_recall(truth.argmax(1), p.argmax(1)) > 0.3
