"""The starter checkpoint: how it is made (on planted data), and that the one that ships fits the extractors beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

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

SHARES = {"text": 0.5, "audio": 0.2, "visual": 0.1, "joined": 0.2}


def planted(n_each: int, seed: int) -> dict:
    """Per modality, samples whose class is written into the last six columns; one in seven neutral."""
    from pipeline.starter_joins import single

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
    from pipeline.starter_joins import join
    from pipeline.starter_training import Prepared

    groups = {split: planted(n_each, seed) for seed, split in enumerate(("train", "valid", "test"))}
    for seed, found in enumerate(groups.values()):
        found["joined"] = join(found, 150, np.random.default_rng(seed))
    return Prepared(groups, SPECS, {"text": 0, "audio": 0, "visual": 0})


def quick(modality: str):
    """One teacher of the modality and few epochs."""
    from pipeline.starter_teachers import VOICE, WORDS

    how = {"text": WORDS, "audio": VOICE}[modality]
    update = {"batch_size": 32, "ema_decay": 0.9, "learning_rate": 3e-3}
    teacher = how.teacher.model_copy(update={**update, "epochs": 12})
    return replace(how, n_teachers=1, teacher=teacher, student=how.student.model_copy(update={**update, "epochs": 1}))


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
    from pipeline.starter_joins import draw_weights

    groups = prepared().groups["train"]
    groups["audio"] = (
        groups["audio"][:70] + [s for s in groups["audio"][70:] if s.labels is not None and s.labels[0]] * 5
    )
    samples, weights = draw_weights(groups, SHARES)
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

    from pipeline.starter_training import augmenter

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


def test_training_reads_what_predictions_read() -> None:
    """Pooled once or in every batch, with columns of spread, joined or not: the logits are those of the checkpoint."""
    import torch

    from lamb.checkpoint import Checkpoint
    from lamb.model import LAMB
    from pipeline.evaluate import logits_of
    from pipeline.starter_joins import LABELS
    from pipeline.starter_training import Ready, Recipe

    recipe = Recipe(
        {"n_labels": 6, "width": 10, "heads": 2, "pooling": (1, 3, 2), "kernel_sizes": (1, 3, 1)},
        spread_steps=(0, 1, 0),
    )
    data = prepared(70)
    ready = Ready.of(data, recipe)
    torch.manual_seed(0)
    model = LAMB(ready.model)
    inside = LAMB(ready.model.model_copy(update={"pooling": (1, 1, 1)}))
    inside.load_state_dict(model.state_dict())
    checkpoint = Checkpoint(
        model, LABELS, data.specs, ready.normalization, max_steps=(60, 800, 400), spread_steps=recipe.spread_steps
    )
    for name, raw in data.groups["valid"].items():
        batch = collate(ready.groups["valid"][name], ready.model.dims, None)
        with torch.no_grad():
            found = inside.eval()(batch).numpy()
        np.testing.assert_allclose(found, logits_of(checkpoint, raw, "cpu"), atol=1e-4, err_msg=name)


def test_offsets_leave_columns_of_spread_alone() -> None:
    import torch

    from lamb.derived import with_spread
    from pipeline.starter_training import augmenter

    batch = collate([with_spread(sample, (0, 1, 0)) for sample in planted(70, 0)["audio"]], (8, 24, 8))
    changed = augmenter(SPECS)(batch, torch.Generator().manual_seed(0))
    mask = changed.masks["audio"]
    assert torch.equal(changed.values["audio"][mask][:, 8:], batch.values["audio"][mask][:, 8:])
    assert not torch.equal(changed.values["audio"][mask][:, :8], batch.values["audio"][mask][:, :8])
    hidden = augmenter(SPECS, (0.0, 0.5, 0.0))(batch, torch.Generator().manual_seed(0)).values["audio"]
    gone = ((hidden == 0) & (changed.values["audio"] != 0)).any(1).float().mean()
    assert 0.4 < gone < 0.6


def test_every_kind_of_input_counts_the_same_in_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain search over the mean of the four kinds' mean losses; one kind is better calibrated, and larger."""
    from pipeline import starter_measure

    chance = np.random.default_rng(0)
    logits, truth = {}, {}
    for name, n, factor in (("text", 8000, 1.0), ("audio", 500, 4.0), ("visual", 700, 4.0), ("joined", 600, 3.0)):
        x = chance.normal(0, 2, (n, 6))
        truth[name] = (chance.random(x.shape) < 1 / (1 + np.exp(-x))).astype(np.float32)
        logits[name] = (x * factor).astype(np.float32)
    monkeypatch.setattr(starter_measure, "logits_of", lambda checkpoint, name, device: logits[name])
    monkeypatch.setattr(starter_measure, "_truth", lambda name: truth[name])
    checkpoint = SimpleNamespace()
    starter_measure.calibrate_shared(checkpoint, {name: name for name in logits})  # type: ignore[arg-type]

    def loss(temperature: float) -> float:
        wrong_way = [np.where(truth[name] > 0.5, -x, x) / temperature for name, x in logits.items()]
        return float(np.mean([np.logaddexp(0, each).mean() for each in wrong_way]))

    best = min(np.geomspace(0.5, 10, 400), key=loss)
    assert checkpoint.temperature == pytest.approx(best, rel=0.05)
    assert best > 2


def test_where_the_face_is_in_the_frame_does_not_count() -> None:
    from lamb.normalization import Normalization
    from pipeline.starter_training import without_frame_position

    samples = [s for found in planted(70, 0).values() for s in found]
    muted = without_frame_position(Normalization.measure(samples), SPECS["visual"])
    values = next(s.values["visual"] for s in samples if s.presence[2])
    rows = muted.apply("visual", values, np.ones(len(values), bool))
    assert np.abs(rows[:, 0]).max() < 1e-3  # FaceRectX
    assert np.abs(rows[:, 1:]).max() > 0.5


def test_the_recipe_learns_planted_emotions_and_writes_its_card() -> None:
    from pipeline.starter import measured
    from pipeline.starter_card import model_card
    from pipeline.starter_training import LICENCE, TRAINING, Recipe, train

    data = prepared(210)
    recipe = Recipe(
        model={"n_labels": 6, "width": 20, "ff_hidden": 40, "dropout": 0.1, "pooling": (1, 2, 2)},
        training=TRAINING.model_copy(update={"epochs": 12, "batch_size": 32, "learning_rate": 3e-3}),
        shares=dict.fromkeys(SHARES, 0.25),  # the real sets differ a hundredfold in size, the planted ones do not
        column_dropout=(0.0, 0.2, 0.0),
        spread_steps=(0, 1, 0),
        finishes=(quick("text"), quick("audio")),
    )
    lines: list[str] = []
    checkpoint = train(data, recipe, lines.append)
    assert [line.split(":")[0] for line in lines[-4:]] == [
        "teacher 0 of text",
        "text, epoch 1",
        "teacher 0 of audio",
        "audio, epoch 1",
    ]
    assert any(line.endswith("best") for line in lines)
    checkpoint.provenance = {"command": "the command"}
    checkpoint.metrics = measured(checkpoint, data)
    for key in ("goemotions_macro_f1_7", "ravdess_uar_6", "stills_uar_6", "joined_uar_6"):
        assert checkpoint.metrics[key] > 0.7, (key, checkpoint.metrics[key])
    together = checkpoint.metrics["joined_by_parts"].pop("together")
    assert together > max(checkpoint.metrics["joined_by_parts"].values()) + 0.1, "parts may be neutral, never all"
    checkpoint.metrics["joined_by_parts"]["together"] = together
    card = model_card(checkpoint)
    assert f"**{checkpoint.metrics['ravdess_uar_6']:.3f}**" in card
    for part in (LICENCE, "the command", "No real training sample shows two modalities at once"):
        assert part in card


def test_agreement_is_of_one_modality_with_all() -> None:
    """Its mean over many draws against the mean over every observed modality alone, each run as a clip of its own."""
    import torch

    from lamb.settings import ModelSettings
    from pipeline.starter_training import Agreeing

    torch.manual_seed(0)
    model = Agreeing(ModelSettings(dims=(8, 8, 8), n_labels=6, width=10, heads=2, dropout=0.0)).eval()
    samples = prepared(70).groups["train"]["joined"][:24]
    batch = collate(samples, (8, 8, 8))
    together = model(batch).detach().double().sigmoid().numpy()
    expected = []
    for sample, p in zip(samples, together, strict=True):
        losses = []
        for name in MODALITIES:
            if sample.valid[name].any():
                valid = {m: mask & (m == name) for m, mask in sample.valid.items()}
                x = model(collate([replace(sample, valid=valid)], (8, 8, 8))).detach().double().numpy()[0]
                losses.append(np.mean(np.logaddexp(0, x) - p * x))
        expected.append(np.mean(losses))
    assert float(model.training_loss(batch, torch.Tensor.mean).detach()) == pytest.approx(
        float(model(batch).mean().detach())
    )
    model.agreement = 2.0
    with torch.no_grad():
        found = [float(model.training_loss(batch, lambda logits: logits.sum() * 0)) for _ in range(150)]
    uncertainty = np.std(found) / np.sqrt(len(found))
    assert 0 < uncertainty < 0.02
    assert np.mean(found) == pytest.approx(2 * np.mean(expected), abs=4 * uncertainty)
    single = collate(planted(14, 0)["audio"], (8, 8, 8))
    assert float(model.training_loss(single, lambda logits: logits.sum() * 0).detach()) == 0


@pytest.mark.parametrize(("modality", "other", "dropout"), [("text", "audio", 0.0), ("audio", "text", None)])
def test_what_teachers_say_is_a_share_of_the_targets(modality: str, other: str, dropout: float | None) -> None:
    """Against cross-entropy written out in numpy on mixed targets: it is linear in them."""
    import torch

    from lamb.model import LAMB
    from lamb.objective import objective
    from lamb.settings import ModelSettings
    from pipeline.starter_teachers import Student
    from pipeline.starter_training import VOICE, WORDS

    torch.manual_seed(0)
    how = {"text": WORDS, "audio": VOICE}[modality]
    assert (how.dropout, how.teaching) == (dropout, 0.7)
    settings = ModelSettings(dims=(8, 8, 8), n_labels=6, width=10, heads=2, dropout=0.3)
    teachers = [LAMB(settings.model_copy(update={"encoders": (how.encoder,)})).eval() for _ in range(2)]
    model = Student(settings, teachers, how)
    assert set(model.state_dict()) == set(LAMB(settings).state_dict()), "teachers do not ship"
    for name, varies in ((modality, dropout is None), (other, True), (modality, dropout is None)):
        batch = collate(planted(14, 0)[name], (8, 8, 8))

        def criterion(x: torch.Tensor, y: torch.Tensor | None = batch.labels) -> torch.Tensor:
            assert y is not None
            return objective(x, y, smoothing=0.0)

        model.train()
        found = [float(model.training_loss(batch, criterion).detach()) for _ in range(2)]
        assert (found[0] != found[1]) == varies, name
        if name == modality:
            assert batch.labels is not None
            model.eval()
            found = [float(model.training_loss(batch, criterion).detach())]
            x = model(batch).detach().double().numpy()
            said = np.mean([teacher(batch).detach().double().sigmoid().numpy() for teacher in teachers], axis=0)
            y = 0.3 * batch.labels.double().numpy() + 0.7 * said
            assert found[0] == pytest.approx((np.logaddexp(0, x) - y * x).sum(axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_one_modality_is_finished_without_touching_the_others(modality: str) -> None:
    import torch

    from lamb.model import LAMB
    from pipeline.starter_teachers import finish
    from pipeline.starter_training import Ready, Recipe

    ready = Ready.of(prepared(140), Recipe(model={"n_labels": 6, "width": 20, "ff_hidden": 40}))
    torch.manual_seed(0)
    model = LAMB(ready.model.model_copy(update={"pooling": (1, 1, 1)}))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    lines: list[str] = []
    how = quick(modality)
    after = finish(before, model.settings, ready.groups, how, lambda b, _: b, lines.append, 0)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(f"blending.encoders.{modality[0].upper()}.") for name in changed)
    model.eval()
    for name in ("text", "audio", "visual", "joined"):
        batch = collate(ready.groups["valid"][name], ready.model.dims, None)
        model.load_state_dict(before)
        first = model(batch).detach()
        model.load_state_dict(after)
        assert torch.equal(first, model(batch).detach()) == (name not in (modality, "joined")), name


def test_the_command_with_other_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole command on few items: comments through a table of 300-d vectors, planted voices and faces."""
    from lamb.checkpoint import Checkpoint
    from pipeline import starter
    from pipeline.starter_training import TRAINING

    monkeypatch.setenv("LAMB_CACHE", str(tmp_path / "cache"))
    chance = np.random.default_rng(0)
    words = [f"word{chr(97 + k)}" for k in range(7)]
    vectors = tmp_path / "vectors.300d.txt"
    rows = [" ".join([word, *(f"{x:.3f}" for x in chance.normal(size=300))]) for word in words]
    vectors.write_text("\n".join(rows) + "\n", encoding="utf-8")
    items, tracks = {}, {}
    for name in MODALITIES:
        items[name], tracks[name] = [], {}
        for number in range(84):
            emotion, split = number % 7 - 1, ("train", "train", "valid", "test")[number // 7 % 4]
            labels = () if emotion < 0 else (EMOTIONS[emotion],)
            item = LabelledItem(f"{name}/{number}", split, labels, text=f"{words[emotion + 1]} {words[number % 3]}")
            values = chance.normal(0, 0.5, (6, 8)).astype(np.float32)
            values[:, 2 + emotion] += 2.5
            times = np.arange(6) / 100
            items[name].append(item)
            tracks[name][item.id] = FeatureTrack(values, times, times + 0.01, np.ones(6, bool), SPECS[name])
    folder_of = {source: name for name, (source, _) in starter.SOURCE_OF.items()}
    monkeypatch.setattr(starter, "SOURCES", SimpleNamespace(get=lambda source: lambda path: items[folder_of[source]]))
    monkeypatch.setattr(starter, "voice_tracks", lambda *_: tracks["audio"])
    monkeypatch.setattr(starter, "face_tracks", lambda *_: tracks["visual"])
    monkeypatch.setattr(starter, "N_JOINED", {"train": 40, "valid": 40, "test": 40})
    monkeypatch.setattr(starter, "TRAINING", TRAINING.model_copy(update={"epochs": 1}))
    arguments = ["--data", tmp_path, "--work", tmp_path, "--output", tmp_path / "out", "--vectors", "glove-6b-300d"]
    monkeypatch.setattr("sys.argv", ["starter", *map(str, arguments), "--vectors-path", str(vectors)])
    starter.main()
    made = Checkpoint.load(tmp_path / "out" / "starter")
    assert made.settings.dims == (300, 24, 8)
    assert (made.specs["text"].dim, made.specs["audio"].dim) == (300, 8)
    assert "--vectors glove-6b-300d --vectors-path FILE" in made.provenance["command"]
    assert made.metrics["test_samples"] == {"text": 21, "audio": 21, "visual": 21, "joined": 40}
    assert "## Known failures" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


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
    from pipeline.starter_data import voice_track
    from pipeline.starter_joins import single
    from pipeline.starter_measure import scores

    checkpoint = Checkpoint.load(starter_checkpoint())
    items = [item for item in SOURCES.get("ravdess")(shared_data / "ravdess") if item.split == "test" and item.labels]
    chosen = items[::11]  # 27 clips of all six actors and emotions
    settings = PipelineSettings(device="cpu")
    samples = [single(item, "audio", voice_track(item, settings), checkpoint.specs) for item in chosen]
    p, truth = scores(checkpoint, samples)
    assert unweighted_average_recall(truth.argmax(1), p.argmax(1)) > 0.3
