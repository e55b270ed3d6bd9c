"""`lamb train` and `lamb evaluate`: settings, run folders, kills and resumption, results against scikit-learn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn import metrics as sklearn_metrics

from data.batches import collate
from data.dataset import load_dataset
from data.errors import InputError
from data.spec import MODALITIES
from lamb.checkpoint import Checkpoint
from pipeline.evaluate import logits_of
from pipeline.run_settings import RunSettings, read_settings
from pipeline.train import TrainingReport, column_dropout, positive_weights, train_run
from tests.planted_dataset import DIMS, NAMES, SIZES, planted_folder, planted_samples

QUICK = ["training.epochs=3", "training.batch_size=16", "training.learning_rate=0.003"]


def lamb(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **more)  # type: ignore[call-overload]


def changed(*changes: str) -> list[str]:
    return [part for change in (*QUICK, *changes) for part in ("--set", change)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_folder(tmp_path_factory.mktemp("data") / "planted")


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run by the command, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    done = lamb("train", "--dataset", dataset, "--output", folder, *changed("training.epochs=6"))
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def test_a_run_leaves_its_checkpoint_settings_log_and_results(run: tuple[Path, str]) -> None:
    folder, said = run
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "settings.yaml",
        "run.json",
        "log.jsonl",
        "tensorboard",
        "metrics.json",
        "model.json",
        "model.safetensors",
        "README.md",
    }
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in events] == [1, 2, 3, 4, 5, 6]
    for event in events:
        line = next(line for line in said.splitlines() if line.startswith(f"epoch {event['epoch']:3d}/6"))
        assert f"{event['train_loss']:.4f} nats" in line
        assert "samples/s" in line
        assert f"accuracy {event['valid/accuracy']:.4f}" in line
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    assert settings["training"]["epochs"] == 6
    assert settings["model"]["width"] == 30  # the paper's, written out
    assert read_settings(folder / "settings.yaml").training.learning_rate == 0.003
    checkpoint = Checkpoint.load(folder)
    assert checkpoint.label_set.names == NAMES
    assert checkpoint.licence == "CC0"
    assert checkpoint.provenance["best_epoch"] == max(events, key=lambda e: e["valid/accuracy"])["epoch"]


def test_tensorboard_has_what_the_log_has(run: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run[0] / "tensorboard"))
    board.Reload()
    events = [json.loads(line) for line in (run[0] / "log.jsonl").read_text().splitlines()]
    shown = [scalar.value for scalar in board.Scalars("valid/macro_f1")]
    np.testing.assert_allclose(shown, [event["valid/macro_f1"] for event in events], rtol=1e-6)


def test_results_are_scikit_learn_s(run: tuple[Path, str], dataset: Path) -> None:
    done = lamb("evaluate", run[0], "--dataset", dataset, "--json")
    results = json.loads(done.stdout)
    checkpoint, held = Checkpoint.load(run[0]), load_dataset(dataset)
    truth = held.labels("test")
    logits = logits_of(checkpoint, held.splits["test"], "cpu")
    probabilities = 1 / (1 + np.exp(-logits / checkpoint.temperature))
    assert results["samples"] == SIZES["test"]
    assert results["unobserved"] == 1
    assert (logits[7] < -20).all()  # nothing observed, nothing claimed
    for name, limits in (("at_half", 0.5), ("at_thresholds", checkpoint.thresholds)):
        said = probabilities >= limits
        found = results[name]
        assert found["micro_f1"] == pytest.approx(sklearn_metrics.f1_score(truth, said, average="micro"))
        assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(truth, said, average="macro"))
        assert found["micro_precision"] == pytest.approx(sklearn_metrics.precision_score(truth, said, average="micro"))
        assert found["hamming_loss"] == pytest.approx(sklearn_metrics.hamming_loss(truth, said))
        assert found["subset_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, said))
    expected = sklearn_metrics.average_precision_score(truth, probabilities, average=None)
    assert [results["at_half"][f"ap/{name}"] for name in NAMES] == pytest.approx(list(expected), abs=1e-5)
    assert results["at_half"]["macro_f1"] > 0.7  # planted, so it can be learned
    bars = results["calibration"]["reliability"]
    assert sum(bars["decisions"]) == truth.size
    gaps = [
        n * abs(p - share)
        for n, p, share in zip(bars["decisions"], bars["mean_probability"], bars["share_positive"], strict=True)
        if n
    ]
    assert sum(gaps) / truth.size == pytest.approx(results["calibration"]["ece"], abs=1e-4)
    assert json.loads((run[0] / "metrics.json").read_text())["test"] == results
    shown = lamb("evaluate", run[0], "--dataset", dataset).stdout
    assert f"{results['at_half']['micro_f1']:.4f}" in shown
    assert "48 samples, 1 of them with nothing observed" in shown


def test_calibration_is_fitted_on_validation(run: tuple[Path, str], dataset: Path) -> None:
    checkpoint, held = Checkpoint.load(run[0]), load_dataset(dataset)
    found = json.loads((run[0] / "metrics.json").read_text())["calibration"]
    logits, truth = logits_of(checkpoint, held.splits["valid"], "cpu"), held.labels("valid")

    def nats(temperature: float) -> float:
        p = 1 / (1 + np.exp(-logits / temperature))
        return sklearn_metrics.log_loss(truth.ravel(), p.ravel())

    assert checkpoint.temperature == found["temperature"]
    best = nats(checkpoint.temperature)
    assert all(best <= nats(checkpoint.temperature * factor) + 1e-9 for factor in (0.8, 0.95, 1.05, 1.25))


def test_a_run_that_is_done_is_only_read(run: tuple[Path, str], dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run[0].rglob("*")}
    done = lamb("train", "--dataset", dataset, "--output", run[0], *changed("training.epochs=6"))
    assert "is done already" in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in run[0].rglob("*")}


def test_another_run_s_folder_is_refused(run: tuple[Path, str], dataset: Path, tmp_path: Path) -> None:
    other = lamb("train", "--dataset", dataset, "--output", run[0], *changed("training.epochs=6", "training.seed=1"))
    assert other.returncode == 2
    assert "training.seed is 1, not 0" in other.stderr
    (tmp_path / "mine.txt").write_text("x")
    foreign = lamb("train", "--dataset", dataset, "--output", tmp_path, *changed())
    assert foreign.returncode == 2
    assert "holds other files" in foreign.stderr


def test_killed_at_any_moment_it_ends_with_the_same_weights(dataset: Path, tmp_path: Path) -> None:
    """kill -9 three times, at moments that differ, and then to the end: the bytes of an unbroken run."""
    arguments = ["train", "--dataset", dataset, *changed("training.epochs=8", "training.ema_decay=0.9")]
    assert lamb(*arguments, "--output", tmp_path / "whole").returncode == 0
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments), "--output", str(broken)]
    for extra_s in (0.0, 0.07, 0.31):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch"):  # the first of this process
                break
        time.sleep(extra_s)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    done = lamb(*arguments, "--output", broken)
    assert done.returncode == 0, done.stderr
    assert "goes on after epoch" in done.stderr
    assert (broken / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    for key in ("epoch", "train_loss", "valid/accuracy"):
        logs = [
            [json.loads(line)[key] for line in (f / "log.jsonl").read_text().splitlines()]
            for f in (broken, tmp_path / "whole")
        ]
        assert logs[0] == logs[1]


def test_torchrun_trains_on_two_processes(dataset: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "pipeline.cli",
    ]
    arguments = ["train", "--dataset", str(dataset), *changed("model.dropout=0")]
    done = subprocess.run(
        [*command, *arguments, "--output", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch   3/3") == 1
    assert lamb(*arguments, "--output", tmp_path / "one").returncode == 0
    losses = [
        [json.loads(line)["train_loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.epoch=3"], "Did you mean 'epochs'"),
        (["trainig.epochs=3"], "Did you mean 'training'"),
        (["model.widht=3"], "Did you mean 'width'"),
        (["model.dims=[1,2,3]"], "model.dims to be (6, 5, 4)"),
        (["training.learning_rate=fast"], "learning_rate"),
        (["row=only smell"], "row must be one of"),
        (["nonsense"], "--set key=value"),
        (["dataset.x=1"], "dataset"),
    ],
)
def test_wrong_settings_are_one_line(changes: list[str], message: str, dataset: Path, tmp_path: Path) -> None:
    def attempt() -> None:
        settings = read_settings(None, [*changes], None if changes[0].startswith("dataset") else dataset)
        train_run(settings, tmp_path / "run", TrainingReport(lambda line: None))

    with pytest.raises(InputError) as caught:
        attempt()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00", "x: !!python/object/apply:os.system [echo]"])
def test_broken_yaml_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_settings(path, (), tmp_path)
    assert "\n" not in str(caught.value)


def test_features_and_labels_of_another_kind_are_refused(run: tuple[Path, str], tmp_path: Path) -> None:
    from data.dataset import DatasetHeader, Reading, save_dataset
    from data.labels import LabelSet
    from tests.planted_dataset import planted_header

    header = planted_header()
    renamed = DatasetHeader("other", LabelSet(("calm", "joy", "fury")), header.specs, False, {})
    save_dataset(Reading(renamed, planted_samples()), tmp_path / "labels")
    specs = {**header.specs, "audio": header.specs["audio"].__class__("audio", tuple("abcde"), None, "planted", "2")}
    save_dataset(
        Reading(DatasetHeader("other", header.label_set, specs, False, {}), planted_samples()), tmp_path / "specs"
    )
    for name, message in (("labels", "fury"), ("specs", "version 1 expected, 2 came")):
        done = lamb("evaluate", run[0], "--dataset", tmp_path / name)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_figures_of_a_run(run: tuple[Path, str], dataset: Path, tmp_path: Path) -> None:
    done = lamb("explain", "--checkpoint", run[0], "--dataset", dataset, "--output", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    names = ["encoder_histogram.csv", "encoder_histogram.png", "label_attention.csv", "label_attention.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names
    rows = (tmp_path / "figures" / "encoder_histogram.csv").read_text().splitlines()[1:]
    counts = {label: sum(int(row.split(",")[2]) for row in rows if row.startswith(label)) for label in NAMES}
    assert set(counts.values()) == {5 * (SIZES["test"] - 1)}  # five tokens of every sample that has any
    both = lamb("explain", "clip.mp4", "--dataset", dataset, "--output", tmp_path / "x")
    assert both.returncode == 2
    assert "not both" in both.stderr


def test_columns_are_hidden_by_modality() -> None:
    assert column_dropout((0.0, 0.0, 0.0)) is None
    samples = [sample for split, sample in planted_samples() if split == "train"]
    batch = collate(samples, (DIMS["text"], DIMS["audio"], DIMS["visual"]))
    augment = column_dropout((0.0, 0.5, 0.9))
    assert augment is not None
    hidden = augment(batch, torch.Generator().manual_seed(0))
    for name, share in zip(MODALITIES, (0.0, 0.5, 0.9), strict=True):
        gone = (hidden.values[name] == 0).all(dim=1)  # (N, d)
        assert float(gone.float().mean()) == pytest.approx(share, abs=0.06)
        assert torch.equal(hidden.masks[name], batch.masks[name])


def test_columns_of_spread_are_a_setting(dataset: Path, tmp_path: Path) -> None:
    settings = read_settings(None, [*QUICK, "training.epochs=1", "spread_steps=[0, 1, 0]"], dataset)
    metrics = train_run(settings, tmp_path / "run", TrainingReport(lambda line: None))
    checkpoint = Checkpoint.load(tmp_path / "run")
    assert checkpoint.spread_steps == (0, 1, 0)
    assert checkpoint.settings.dims == (DIMS["text"], 3 * DIMS["audio"], DIMS["visual"])
    logits = logits_of(checkpoint, load_dataset(dataset).splits["test"], "cpu")
    assert np.isfinite(logits).all()
    assert metrics["test"]


def test_class_weights_are_the_odds() -> None:
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    assert positive_weights(labels, "none") is None
    np.testing.assert_allclose(positive_weights(labels, "balanced"), [4, 2 / 3, 1])
    np.testing.assert_allclose(positive_weights(labels, "sqrt"), [2, (2 / 3) ** 0.5, 1])
    assert RunSettings.parse({"dataset": "x", "class_weights": "balanced"}).class_weights == "balanced"
