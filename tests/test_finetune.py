"""`lamb train --from`: what is copied, what is new, what is refused; rare labels and missing modalities."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn import metrics as sklearn_metrics

from data.batches import Sample, collate
from data.dataset import Reading, load_dataset, save_dataset
from data.errors import InputError, SpecMismatch
from data.labels import LabelSet
from data.sources import Split
from data.spec import MODALITIES, Modality
from lamb.checkpoint import Checkpoint
from lamb.model import LAMB
from lamb.settings import ModelSettings
from lamb.transfer import settings_like, transfer
from pipeline.balance import label_lines, learnable, modality_lines, offsets, positive_weights
from pipeline.compare import Table, compare
from pipeline.evaluate import hidden_results, logits_of
from pipeline.run_settings import read_settings
from pipeline.train import TrainingReport, train_run
from tests.planted_dataset import planted_header, planted_samples
from tests.test_checkpoint import CLIPS, make_checkpoint
from tests.test_train_command import QUICK, changed, lamb

Change = Callable[[Sample], Sample]


def write(
    folder: Path, names: tuple[str, ...] = ("calm", "joy", "rage"), change: Change | None = None, **header: Any
) -> Path:
    """The planted dataset with other label names, and samples changed."""
    found = replace(planted_header(), label_set=LabelSet(names), **header)

    def samples() -> Iterator[tuple[Split, Sample]]:
        for split, sample in planted_samples():
            labels = np.zeros(len(names), np.float32)
            assert sample.labels is not None
            labels[: min(3, len(names))] = sample.labels[: len(names)]
            sample = replace(sample, labels=labels)
            yield split, sample if change is None else change(sample)

    save_dataset(Reading(found, samples()), folder)
    return folder


def absent(sample: Sample, *gone: Modality) -> Sample:
    return replace(sample, valid={n: np.zeros_like(v) if n in gone else v for n, v in sample.valid.items()})


def train(dataset: Path, folder: Path, *changes: str, start: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    settings = read_settings(None, [*QUICK, *changes], dataset, start)
    return train_run(settings, folder, TrainingReport(said.append)), said


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose settings are none of the defaults."""
    folder = tmp_path_factory.mktemp("source")
    changes = [
        "model.width=20",
        "model.classifier=per_label",
        "spread_steps=[0, 1, 0]",
        "training.max_steps=[8, 9, 10]",
    ]
    train(write(folder / "data"), folder / "run", "training.epochs=6", "clip_std=4", *changes)
    return folder / "run"


# ---- weights -------------------------------------------------------------------------------------------------------------

SETTINGS = [
    {},
    {"classifier": "per_label", "width": 20},
    {"label_embeddings": "shared"},
    {"aggregation": "first_token"},
    {"encoders": ("T", "TA"), "decoder": "residual"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_known_label_s_logit_is_what_it_was(settings: dict[str, Any]) -> None:
    """Independent of which tensors have a row per label: with labels cut off and changed in order, logits go with them."""
    start = make_checkpoint(model={**settings, "label_correlations": False})  # so that a label minds no other
    torch.manual_seed(1)
    model = LAMB(settings_like(start, 3)).eval()
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    found = transfer(start, model, ("joy", "shame", "anger"))
    assert (found.known, found.new, found.dropped) == (("joy", "anger"), ("shame",), ("fear",))
    batch = collate(
        [start.ready(Sample.from_clip(clip)) for clip in CLIPS if clip.tracks["text"].observed], (6, 5, 4), (8, 10, 12)
    )
    start.model.eval()
    with torch.no_grad():
        before, after = start.model(batch), model(batch)
    np.testing.assert_allclose(after[:, [0, 2]], before[:, [2, 0]], atol=1e-6)
    own = [
        name
        for name, value in fresh.items()
        if name.startswith(("aggregation.embeddings", "classifier")) and len(value) == 3
    ]
    assert own
    for name in own:  # the new label's rows are as they were initialised
        assert torch.equal(model.state_dict()[name][1], fresh[name][1])


def test_a_model_of_other_settings_is_refused() -> None:
    start = make_checkpoint()
    with pytest.raises(ValueError, match="Expected a model of"):
        transfer(start, LAMB(ModelSettings(dims=(6, 5, 4), n_labels=3, width=10)), ("a", "b", "c"))
    free = LAMB(settings_like(start, 2, dropout=0.5))
    assert transfer(start, free, ("anger", "x")).known == ("anger",)


# ---- runs ----------------------------------------------------------------------------------------------------------------


def test_a_run_from_a_checkpoint(source: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", ("calm", "joy", "fury", "awe"))
    metrics, said = train(data, tmp_path / "run", "training.learning_rate=1e-9", "training.epochs=1", start=source)
    assert "2 of 4 labels known: calm, joy; new: fury, awe; no longer there: rage" in said
    start, found = Checkpoint.load(source), Checkpoint.load(tmp_path / "run")
    assert found.settings == start.settings.model_copy(update={"n_labels": 4})
    assert (found.spread_steps, found.max_steps, found.normalization.clip) == ((0, 1, 0), (8, 9, 10), 4.0)
    assert np.array_equal(found.normalization.mean["audio"], start.normalization.mean["audio"])
    theirs, mine = start.model.state_dict(), found.model.state_dict()
    assert torch.allclose(mine["classifier.weight"][:2], theirs["classifier.weight"][:2], atol=1e-6)  # hardly trained
    assert found.provenance["start"]["fingerprint"] == start.fingerprint()
    assert metrics["test"]["at_half"]["f1/calm"] > 0.5  # known from the start
    card = (tmp_path / "run" / "README.md").read_text()
    assert "First weights: planted full seed 0" in card
    assert "lamb train --dataset data --output RUN --from run --set " in card
    assert "spread_steps" not in card.split("```")[0]  # comes from the checkpoint
    # its settings, written out, are the same run
    settings = read_settings(tmp_path / "run" / "settings.yaml")
    assert train_run(settings, tmp_path / "run", TrainingReport(said.append)) == metrics
    assert said[-1].endswith("is done already")


def test_the_same_first_weights_are_asked_for(source: Path, tmp_path: Path) -> None:
    start = Checkpoint.load(source)
    start.save(tmp_path / "start")
    data = write(tmp_path / "data")
    train(data, tmp_path / "run", "training.epochs=1", start=tmp_path / "start")
    with torch.no_grad():
        next(start.model.parameters()).add_(1.0)
    start.save(tmp_path / "start")
    with pytest.raises(InputError, match="start_fingerprint is"):
        train(data, tmp_path / "run", "training.epochs=1", start=tmp_path / "start")


def test_stopped_and_gone_on_it_ends_with_the_same_bytes(source: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", ("calm", "fury"))
    train(data, tmp_path / "whole", start=source)

    def stop(line: str) -> None:
        if line.startswith("epoch   2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(read_settings(None, QUICK, data, source), tmp_path / "broken", TrainingReport(stop))
    _, said = train(data, tmp_path / "broken", start=source)
    assert "goes on after epoch 2" in said
    for name in ("model.safetensors", "README.md"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.width=30", "Expected model.width to be 20"),
        ("spread_steps=[0, 0, 0]", r"Expected spread_steps to be \(0, 1, 0\)"),
        ("training.max_steps=null", r"Expected training.max_steps to be \(8, 9, 10\)"),
        ("clip_std=5", "Expected clip_std to be 4.0"),
        ("row=only text", "Expected row to be full"),
        ("model.n_labels=9", "Expected model.n_labels to be 3"),
    ],
)
def test_settings_that_say_something_else_are_refused(change: str, message: str, source: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "run", change, start=source)
    assert not (tmp_path / "run").exists()


def test_other_features_are_refused_by_the_command(source: Path, tmp_path: Path) -> None:
    specs = planted_header().specs
    data = write(tmp_path / "data", specs={**specs, "audio": replace(specs["audio"], version="2")})
    done = lamb("train", "--dataset", data, "--from", source, "--output", tmp_path / "run", *changed())
    assert done.returncode == 2
    assert "version 1 expected, 2 came" in done.stderr
    assert "train again" in done.stderr
    aligned = {**specs, "audio": replace(specs["audio"], version="1-words")}
    mixed = write(tmp_path / "aligned", specs=aligned, aligned=True, notes={"source": "mosei-csd"})
    with pytest.raises(SpecMismatch, match="lamb dataset build mosei-csd PATH --output DIR, without --aligned"):
        train(mixed, tmp_path / "run", start=source)
    starter = lamb("train", "--dataset", data, "--from", "starter", "--output", tmp_path / "run", *changed())
    assert starter.returncode == 2
    assert "extractor glove expected, planted came" in starter.stderr
    assert "lamb dataset build" in starter.stderr
    assert not (tmp_path / "run").exists()


def test_it_learns_more_from_few_samples_than_from_scratch(tmp_path: Path) -> None:
    """Twelve training samples, labels two of which the checkpoint knows under their names."""
    train(write(tmp_path / "much"), tmp_path / "start", "training.epochs=12")
    few = load_dataset(
        write(tmp_path / "all", ("joy", "calm", "rage"), lambda s: replace(s, labels=s.labels[[1, 0, 2]]))
    )  # type: ignore[index]

    def samples() -> Iterable[tuple[Split, Sample]]:
        for split, n in (("train", 12), ("valid", 48), ("test", 48)):
            yield from ((split, sample) for sample in few.splits[split][:n])  # type: ignore[misc, index]

    save_dataset(Reading(few.header, samples()), tmp_path / "few")
    scratch, _ = train(tmp_path / "few", tmp_path / "scratch", "training.epochs=12")
    tuned, _ = train(tmp_path / "few", tmp_path / "tuned", "training.epochs=12", start=tmp_path / "start")
    key = "mean_average_precision"
    assert tuned["test"]["at_half"][key] > scratch["test"]["at_half"][key] + 0.1


# ---- rare labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sqrt", "balanced"])
def test_offsets_undo_the_weights(how: str) -> None:
    """The logit with the least weighted loss, minus the offset, is the logit of the data's own share."""
    labels = np.zeros((1000, 2), np.float32)
    labels[:30, 0], labels[:400, 1] = 1, 1
    weights = positive_weights(labels, how)
    assert weights is not None
    for k, share in enumerate((0.03, 0.4)):

        def nats(logit: float, k: int = k, share: float = share) -> float:
            p = expit(logit)
            return -(weights[k] * share * np.log(p) + (1 - share) * np.log(1 - p))

        best = minimize_scalar(nats, bounds=(-10, 10), method="bounded", options={"xatol": 1e-9}).x
        assert expit(best - offsets(weights, 2)[k]) == pytest.approx(share, abs=1e-4)
    assert not offsets(None, 2).any()


def test_auto_is_sqrt_but_the_paper_s_in_its_tables(tmp_path: Path) -> None:
    labels = np.array([[1], [0], [0], [0], [0]], np.float32)
    assert positive_weights(labels, "auto") == pytest.approx([2.0])
    settings = read_settings(None, [*QUICK, "training.epochs=1"], write(tmp_path / "data"))
    assert settings.class_weights == "auto"
    compare(
        Table.table1, [settings.dataset], settings, 1, tmp_path / "table", TrainingReport(lambda line: None), ["LAMB"]
    )
    (record,) = (tmp_path / "table").rglob("run.json")
    assert json.loads(record.read_text())["settings"]["class_weights"] == "none"
    assert not Checkpoint.load(record.parent).offsets.any()


def test_offsets_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    plain, shifted = make_checkpoint(), make_checkpoint(offsets=np.array([1.0, 0.0, -2.0]))
    assert plain.fingerprint() != shifted.fingerprint()
    assert "offsets" not in json.loads(plain.save(tmp_path / "plain").read_text())
    shifted.save(tmp_path / "shifted")
    loaded = Checkpoint.load(tmp_path / "shifted")
    assert np.array_equal(loaded.offsets, shifted.offsets)
    logit = np.log(plain.predict(CLIPS) / (1 - plain.predict(CLIPS))) * plain.temperature
    expected = expit((logit - [1.0, 0.0, -2.0]) / plain.temperature)
    np.testing.assert_allclose(loaded.predict(CLIPS), expected, atol=1e-5)
    with pytest.raises(ValueError, match="finite offsets"):
        make_checkpoint(offsets=np.array([1.0, np.nan, 0.0]))


def test_a_run_says_what_is_rare_and_what_it_does(tmp_path: Path) -> None:
    def rare(sample: Sample) -> Sample:
        labels = np.array(sample.labels)
        labels[2] *= sample.id in ("train1", "train9", "train17", "train20", "train33")
        return replace(sample, labels=labels)

    data = write(tmp_path / "data", change=rare)
    metrics, said = train(data, tmp_path / "run")
    n = int(load_dataset(data).labels("train")[:, 2].sum())
    assert 0 < n < 10
    assert any(line.startswith(f"label rage: {n} of 96 training samples (1 to {(96 - n) / n:.1f})") for line in said)
    assert any("class_weights sqrt" in line for line in said)
    assert f"warning: rage has {n} positives in training; with fewer than 10 its results are chance" in said
    assert "warning: rage has no positives in validation: its threshold stays at 0.5" in said
    assert metrics["calibration"]["thresholds_not_fitted"] == ["rage"]
    found = Checkpoint.load(tmp_path / "run")
    assert found.thresholds[2] == 0.5
    assert found.offsets[2] == pytest.approx(0.5 * np.log((96 - n) / n), rel=1e-5)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"results are chance: rage ({n})" in card
    assert "threshold left at 0.5: rage" in card


def test_lines_of_labels_without_weights() -> None:
    train_labels, valid = np.ones((40, 1), np.float32), np.ones((40, 1), np.float32)
    train_labels[20:] = 0
    lines = label_lines(["joy"], train_labels, valid, "none")
    assert lines == [
        "label joy: 20 of 40 training samples (1 to 1.0), 40 of 40 validation",
        "class_weights none: all positives count the same, as in the paper",
    ]
    everywhere = positive_weights(np.ones((4, 1)), "balanced")
    assert everywhere is not None
    assert everywhere.tolist() == [1.0]  # not 0: its logarithm is an offset


# ---- missing modalities --------------------------------------------------------------------------------------------------


def test_encoders_that_nothing_could_train_are_left_out(tmp_path: Path) -> None:
    """Words in all samples, a voice in some, never a face: what it says of a video must not depend on the face in it."""
    data = write(tmp_path / "data", change=lambda s: absent(s, "visual", *(["audio"] if int(s.id[-1]) % 2 else [])))  # type: ignore[list-item]
    metrics, said = train(data, tmp_path / "run")
    found = Checkpoint.load(tmp_path / "run")
    assert found.settings.encoders == ("T", "A", "TA", "AT")
    assert "in training samples: words in 100.0%, a voice in 50.0%, a face in 0.0%" in said
    assert "no training sample has a face: the model will not read it" in said
    samples = [sample for split, sample in planted_samples() if split == "valid"]
    with_face, without = (
        logits_of(found, [change(s) for s in samples], "cpu") for change in (lambda s: s, lambda s: absent(s, "visual"))
    )
    assert np.array_equal(with_face, without)
    assert set(metrics["hidden"]["rows"]) == {"all", "without text", "without audio"}
    assert "It does not read a face." in (tmp_path / "run" / "README.md").read_text()


def test_modalities_that_never_meet() -> None:
    words, voices = (
        [absent(s, *gone) for _, s in planted_samples()] for gone in (("audio", "visual"), ("text", "visual"))
    )
    assert learnable(("T", "A", "TA", "AT"), [*words, *voices]) == ("T", "A")
    assert learnable(("V",), words) == ("V",)  # nothing left: as it was
    lines = modality_lines([*words[:99], absent(voices[0], "visual")])
    assert "warning: a voice in 1.00% of training samples: hardly learnt" in lines
    assert modality_lines([s for _, s in planted_samples() if all(s.presence)]) == []


def test_what_only_the_first_weights_know_is_said(source: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", change=lambda s: absent(s, "visual"))
    _, said = train(data, tmp_path / "run", "training.epochs=1", start=source)
    assert (
        "warning: no training sample has a face: what the first weights know of it may fade, and is not measured"
        in said
    )
    card = (tmp_path / "run" / "README.md").read_text()
    assert "No training sample had a face" in card
    settings = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert settings["model"] == Checkpoint.load(tmp_path / "run").settings.model_dump(mode="json")
    assert settings["training"]["epochs"] == 1


def test_a_sample_without_what_the_model_reads_is_counted(tmp_path: Path) -> None:
    data = write(tmp_path / "data", change=lambda s: absent(s, *(["text"] if s.id.endswith("3") else [])))  # type: ignore[list-item]
    metrics, _ = train(data, tmp_path / "run", "row=only text")
    held = load_dataset(data).splits["test"]
    assert metrics["test"]["unobserved"] == sum(not s.presence[0] for s in held) > 1
    assert "hidden" not in metrics  # it reads one modality


def test_the_card_s_numbers_are_scikit_learn_s(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    train(data, tmp_path / "run", "training.epochs=6")
    checkpoint, held = Checkpoint.load(tmp_path / "run"), load_dataset(data)
    said = expit(logits_of(checkpoint, held.splits["test"], "cpu") / checkpoint.temperature) >= checkpoint.thresholds
    found = sklearn_metrics.precision_recall_fscore_support(held.labels("test"), said, zero_division=0)
    card = (tmp_path / "run" / "README.md").read_text()
    positives = held.labels("train").sum(axis=0).astype(int)
    for k, name in enumerate(checkpoint.label_set.names):
        precision, recall, f1, n = (column[k] for column in found)
        row = f"| {name} | {positives[k]} | {n} | {checkpoint.thresholds[k]:.3f} | {precision:.3f} | {recall:.3f} | {f1:.3f} |"
        assert row in card
    assert "lamb predict --checkpoint RUN clip.mp4" in card
    command = "lamb train --dataset data --output RUN --set training.epochs=6 --set training.batch_size=16"
    assert command in card
    assert card.startswith("---\nlibrary_name: lamb\n")
    assert str(tmp_path) not in card


def test_results_without_each_modality_are_scikit_learn_s(source: Path, tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "data"))
    checkpoint = Checkpoint.load(source)
    found = hidden_results(checkpoint, data, "test", "cpu")
    assert found is not None
    whole = [i for i, sample in enumerate(data.splits["test"]) if all(sample.presence)]
    assert found["samples"] == len(whole) == 47
    for name in MODALITIES:
        samples = [absent(data.splits["test"][i], name) for i in whole]
        said = expit(logits_of(checkpoint, samples, "cpu") / checkpoint.temperature) >= checkpoint.thresholds
        expected = sklearn_metrics.f1_score(data.labels("test")[whole], said, average="macro", zero_division=0)
        assert found["rows"][f"without {name}"]["macro_f1"] == pytest.approx(expected)
    rows = found["rows"]
    assert all(rows["all"]["macro_f1"] > rows[f"without {name}"]["macro_f1"] for name in MODALITIES)  # each has a label
    few = load_dataset(write(tmp_path / "few", change=lambda s: s if int(s.id[-1]) == 0 else absent(s, "text")))
    assert hidden_results(checkpoint, few, "test", "cpu") is None
