"""The training loop learns what is planted, repeats itself by seed, and goes on where it stopped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

from data.batches import Batch, Sample, collate
from data.errors import CheckpointError, InputError
from data.spec import MODALITIES, Modality
from lamb.metrics import f1_per_label, tune_thresholds
from lamb.model import LAMB
from lamb.objective import objective
from lamb.settings import ModelSettings
from lamb.training import TrainSettings, drop_modalities, fit, predict_logits, validate
from lamb.training_state import TrainState, load_state, save_state

torch.set_num_threads(1)

DIMS = (6, 5, 4)
NAMES = ("a", "b", "c", "d")
PLANTED: dict[int, tuple[Modality, int]] = {0: ("text", 0), 1: ("text", 1), 2: ("audio", 0), 3: ("visual", 2)}


def planted(n: int, seed: int, drop: float = 0.0) -> list[Sample]:
    """Noise of many lengths; each label adds 3 to one column at a third of one modality's steps."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        labels = (rng.random(4) < (0.5, 0.3, 0.3, 0.2)).astype(np.float32)
        values: dict[Modality, np.ndarray] = {}
        valid: dict[Modality, np.ndarray] = {}
        for name, dim, longest in zip(MODALITIES, DIMS, (8, 16, 12), strict=True):
            n_steps = int(rng.integers(4, longest + 1))
            values[name] = rng.normal(size=(n_steps, dim)).astype(np.float32)
            valid[name] = np.ones(n_steps, dtype=bool)
        for label, (name, column) in PLANTED.items():
            n_steps = len(valid[name])
            steps = rng.choice(n_steps, size=max(2, n_steps // 3), replace=False)
            values[name][steps, column] += 3.0 * labels[label]
        for name in MODALITIES:
            if rng.random() < drop and sum(mask.any() for mask in valid.values()) > 1:
                valid[name][:] = False
        samples.append(Sample(values, valid, labels, id=str(i)))
    return samples


def make_model(seed: int = 0, **changes: Any) -> LAMB:
    torch.manual_seed(seed)
    return LAMB(ModelSettings.parse({"dims": DIMS, "n_labels": 4, **changes}))


TRAIN, VALID = planted(96, 0), planted(48, 1)
SHORT = TrainSettings(epochs=4, batch_size=32)


def test_a_planted_problem_is_learned() -> None:
    train, valid, test = planted(256, 10), planted(96, 11), planted(200, 12)
    model = make_model()
    settings = TrainSettings(epochs=7, batch_size=16, learning_rate=3e-3, select_by="macro_f1")
    before = validate(model, test, settings, NAMES)["macro_f1"]
    result = fit(model, train, valid, settings, NAMES)
    model.load_state_dict(result.best_state)
    truth = np.stack([sample.labels for sample in test if sample.labels is not None])
    chance = f1_per_label(truth, np.ones_like(truth)).mean()  # the best macro-F1 without looking
    after = validate(model, test, settings, NAMES)["macro_f1"]
    assert after > 0.8 > chance + 0.25
    assert before < 0.6
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_the_loop_is_adam_with_clipped_gradients() -> None:
    """Whole-set batches without dropout, against a loop written out here; the clipping is strong enough to matter."""
    settings = TrainSettings(epochs=4, batch_size=96, learning_rate=1e-2, gradient_clip=0.05)
    fitted = make_model(dropout=0.0)
    result = fit(fitted, TRAIN, VALID, settings, NAMES)

    def by_hand(gradient_clip: float) -> torch.Tensor:
        model = make_model(dropout=0.0).train()
        batch = collate(TRAIN, DIMS)
        assert batch.labels is not None
        weights = list(model.parameters())
        first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
        for t in range(1, 5):
            targets = batch.labels * 0.9 + 0.05
            p = model(batch).sigmoid()
            loss = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum() / len(batch)
            gradients = torch.autograd.grad(loss, weights)
            norm = torch.sqrt(sum(((g**2).sum() for g in gradients), torch.tensor(0.0)))
            assert t > 1 or result.history[0]["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
            for w, g, m, v in zip(weights, gradients, first, second, strict=True):
                g = g * min(1.0, gradient_clip / float(norm))
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                w.data -= 1e-2 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        with torch.no_grad():
            return model.eval()(batch)

    with torch.no_grad():
        logits = fitted.eval()(collate(TRAIN, DIMS))
    torch.testing.assert_close(logits, by_hand(0.05), rtol=0, atol=2e-3)
    assert (logits - by_hand(1e9)).abs().max() > 2e-2


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for seed in (3, 3, 4):
        result = fit(
            make_model(), TRAIN, VALID, SHORT.model_copy(update={"seed": seed, "modality_dropout": 0.3}), NAMES
        )
        states.append(result.state.model)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_resumed_run_ends_where_an_unbroken_one_does() -> None:
    settings = SHORT.model_copy(update={"plateau_patience": 0, "learning_rate": 1e-2})
    whole = fit(make_model(), TRAIN, VALID, settings, NAMES)
    half = fit(make_model(), TRAIN, VALID, settings.model_copy(update={"epochs": 2}), NAMES)
    rest = fit(make_model(9), TRAIN, VALID, settings, NAMES, resume=half.state)
    assert [event["epoch"] for event in rest.history] == [1, 2, 3, 4]
    assert all(torch.equal(whole.state.model[name], rest.state.model[name]) for name in whole.state.model)
    assert all(torch.equal(whole.best_state[name], rest.best_state[name]) for name in whole.best_state)
    for one, other in zip(whole.history, rest.history, strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert one["learning_rate"] == other["learning_rate"]


def test_a_saved_state_is_the_same_state(tmp_path: Path) -> None:
    """Through a file after every epoch, with averaged weights: the same bits as in one go."""
    settings = SHORT.model_copy(update={"plateau_patience": 0, "learning_rate": 1e-2, "ema_decay": 0.9})
    whole = fit(make_model(), TRAIN, VALID, settings, NAMES)
    path = tmp_path / "state.safetensors"
    state: TrainState | None = None
    for epochs in range(1, 5):
        part = settings.model_copy(update={"epochs": epochs})
        fit(make_model(epochs - 1), TRAIN, VALID, part, NAMES, resume=state, on_state=lambda s: save_state(s, path))
        state = load_state(path)
    assert state is not None
    assert [e["train_loss"] for e in state.history] == [e["train_loss"] for e in whole.history]
    for part_name in ("model", "best_state", "average"):
        mine, theirs = getattr(state, part_name), getattr(whole.state, part_name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), part_name
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="training state"):
        load_state(path)


def test_averaged_weights_are_the_moving_mean() -> None:
    """Against the recursion written out, on a model whose weights after each step are known."""
    seen: list[torch.Tensor] = []

    class Watched(Counting):
        def forward(self, batch: Batch) -> torch.Tensor:
            if self.training:
                seen.append(self.bias.detach().clone())
            return super().forward(batch)

    model = Watched()
    settings = TrainSettings(epochs=1, batch_size=1, learning_rate=0.1, ema_decay=0.8)
    result = fit(model, TRAIN[:20], VALID, settings, NAMES)
    after = [*seen[1:], model.bias.detach()]
    mean = after[0]
    for n, value in enumerate(after[1:], 1):
        decay = min(0.8, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * value
    torch.testing.assert_close(result.best_state["bias"], mean)
    assert not torch.allclose(mean, model.bias.detach(), atol=1e-3)


def test_bfloat16_trains_like_float32() -> None:
    half, full = (
        fit(make_model(), TRAIN, VALID, SHORT.model_copy(update={"precision": precision}), NAMES).history
        for precision in ("bf16", "fp32")
    )
    for one, other in zip(half, full, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)
        assert one["train_loss"] != other["train_loss"]  # it was not the same arithmetic


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_like_the_cpu() -> None:
    settings = SHORT.model_copy(update={"precision": "fp32"})
    losses = [
        [event["train_loss"] for event in fit(make_model(dropout=0.0), TRAIN, VALID, s, NAMES).history]
        for s in (settings.model_copy(update={"device": "cpu"}), settings.model_copy(update={"device": "cuda"}))
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)


def _worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    model = make_model(dropout=0.0)
    result = fit(model, TRAIN, VALID, TrainSettings(epochs=2, batch_size=32), NAMES)
    np.save(f"{folder}/{rank}.npy", predict_logits(model, VALID, SHORT))
    np.save(f"{folder}/loss{rank}.npy", [event["train_loss"] for event in result.history])
    torch.distributed.destroy_process_group()


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, (2, str(tmp_path)), nprocs=2)
    model = make_model(dropout=0.0)
    result = fit(model, TRAIN, VALID, TrainSettings(epochs=2, batch_size=32), NAMES)
    alone = predict_logits(model, VALID, SHORT)
    first, second = (np.load(tmp_path / f"{rank}.npy") for rank in (0, 1))
    assert np.array_equal(first, second)
    np.testing.assert_allclose(first, alone, atol=1e-4)
    losses = [event["train_loss"] for event in result.history]
    np.testing.assert_allclose(np.load(tmp_path / "loss0.npy"), losses, rtol=1e-4)


def test_the_caller_s_random_state_is_left_alone() -> None:
    model = make_model()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(model, TRAIN[:8], VALID[:8], TrainSettings(epochs=1), NAMES)
    assert torch.equal(torch.rand(3), expected)


def test_each_epoch_is_told_and_the_best_is_kept() -> None:
    events: list[dict[str, Any]] = []
    settings = TrainSettings(epochs=6, batch_size=32, learning_rate=1e-2, select_by="loss")
    model = make_model()
    result = fit(model, TRAIN, VALID, settings, NAMES, on_epoch=events.append)
    assert events == result.history
    assert [event["epoch"] for event in events] == [1, 2, 3, 4, 5, 6]
    losses = [event["valid/loss"] for event in events]
    assert result.best_epoch == int(np.argmin(losses)) + 1
    assert [event["best"] for event in events] == [
        loss < min(losses[:i], default=math.inf) for i, loss in enumerate(losses)
    ]
    for key in ("seconds", "samples_per_s", "learning_rate", "gradient_norm", "train_loss", "valid/accuracy"):
        assert math.isfinite(events[0][key]), key
    model.load_state_dict(result.best_state)
    assert validate(model, VALID, settings, NAMES)["loss"] == pytest.approx(min(losses), abs=1e-6)


class Constant(nn.Module):
    """Learns nothing: its logits do not follow its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, batch: Batch) -> torch.Tensor:
        return torch.ones(len(batch), 4) + 0 * self.weight


def test_a_plateau_lowers_the_rate_and_then_stops() -> None:
    settings = TrainSettings(epochs=50, batch_size=32, plateau_patience=2, early_stop=7)
    result = fit(Constant(), TRAIN, VALID, settings, NAMES)
    rates = [event["learning_rate"] for event in result.history]
    assert rates == pytest.approx([1e-3] * 4 + [1e-4] * 3 + [1e-5])
    assert len(result.history) == 8
    assert result.best_epoch == 1


def test_validation_measures_the_objective_without_smoothing() -> None:
    model = make_model().eval()
    batch = collate(VALID, DIMS)
    assert batch.labels is not None
    with torch.no_grad():
        logits = model(batch)
    measured = validate(model, VALID, SHORT, NAMES)
    assert measured["loss"] == pytest.approx(float(objective(logits, batch.labels, 0.0)), abs=1e-5)
    truth = batch.labels.numpy()
    expected = f1_per_label(truth, (logits.sigmoid() >= 0.5).numpy()).mean()
    assert measured["macro_f1"] == pytest.approx(expected)
    np.testing.assert_allclose(predict_logits(model, VALID, SHORT), logits.numpy(), atol=1e-5)


class Counting(nn.Module):
    """Remembers the labels and weights it saw; learns one bias per label."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4))
        self.batches: list[Batch] = []

    def forward(self, batch: Batch) -> torch.Tensor:
        if self.training:
            self.batches.append(batch)
        return self.bias.expand(len(batch), 4)


def test_sampler_weights_decide_what_is_drawn() -> None:
    rare = np.array([sample.labels[3] == 1 for sample in TRAIN if sample.labels is not None])
    model = Counting()
    fit(model, TRAIN, VALID, TrainSettings(epochs=3), NAMES, sampler_weights=np.where(rare, 1.0, 0.0))
    drawn = torch.cat([batch.labels for batch in model.batches if batch.labels is not None])
    assert len(drawn) == 3 * len(TRAIN)
    assert (drawn[:, 3] == 1).all()
    assert not rare.all()


def test_positive_and_sample_weights_move_the_solution() -> None:
    """The best constant logit is known: odds of the weighted positives."""
    settings = TrainSettings(epochs=40, batch_size=96, learning_rate=0.1, label_smoothing=0.0, select_by="loss")
    truth = np.stack([sample.labels for sample in TRAIN if sample.labels is not None])
    weights = np.where(truth[:, 0] == 1, 2.0, 0.5)
    weighted = [Sample(s.values, s.valid, s.labels, float(w)) for s, w in zip(TRAIN, weights, strict=True)]
    model = Counting()
    fit(model, weighted, VALID, settings.model_copy(update={"early_stop": 40}), NAMES, positive_weights=[1, 1, 4, 1])
    positive = (weights[:, None] * truth).sum(axis=0) * [1, 1, 4, 1]
    negative = (weights[:, None] * (1 - truth)).sum(axis=0)
    np.testing.assert_allclose(model.bias.detach().numpy(), np.log(positive / negative), atol=0.1)


def test_augmentation_sees_every_training_batch() -> None:
    draws: list[float] = []

    def augment(batch: Batch, generator: torch.Generator) -> Batch:
        draws.append(float(torch.rand(1, generator=generator)))
        return batch.keep(torch.tensor([[True, False, True]]).expand(len(batch), 3))

    model = Counting()
    fit(model, TRAIN, VALID, TrainSettings(epochs=2, batch_size=32), NAMES, augment=augment)
    assert len(model.batches) == len(draws) == 6
    assert len(set(draws)) == 6
    assert not any(batch.presence[:, 1].any() for batch in model.batches)


def test_modality_dropout_never_leaves_a_sample_empty() -> None:
    batch = collate(planted(300, 5, drop=0.1), DIMS)
    generator = torch.Generator().manual_seed(0)
    kept = drop_modalities(batch, 0.5, generator).presence
    assert kept.any(dim=1).all()
    assert not (kept & ~batch.presence).any()
    share = kept[batch.presence.all(dim=1)].float().mean()
    assert float(share) == pytest.approx(1 / 2 + 1 / 8, abs=0.06)  # an emptied sample keeps all three
    assert torch.equal(drop_modalities(batch, 0.0, generator).presence, batch.presence)


def test_a_model_may_bring_its_own_loss_terms() -> None:
    class Own(Counting):
        def training_loss(self, batch: Batch, criterion: Any) -> torch.Tensor:
            return criterion(self(batch)) + 100.0

    plain = fit(Counting(), TRAIN, VALID, TrainSettings(epochs=1), NAMES).history[0]
    own = fit(Own(), TRAIN, VALID, TrainSettings(epochs=1), NAMES).history[0]
    assert own["train_loss"] == pytest.approx(plain["train_loss"] + 100, rel=1e-5)
    assert own["valid/loss"] == pytest.approx(plain["valid/loss"])


def test_single_modality_batches_cost_only_that_modality() -> None:
    samples = planted(64, 6)
    for i, sample in enumerate(samples):
        for name in MODALITIES:
            if name != ("text", "audio")[i % 2]:
                sample.valid[name][:] = False
    model = make_model()
    ran: list[str] = []
    for name, encoder in model.blending.encoders.items():
        encoder.register_forward_hook(lambda *_, name=name: ran.append(name))
    fit(model, samples, VALID[:1], TrainSettings(epochs=1, batch_size=32), NAMES)
    assert sorted(ran[:2]) == ["A", "T"]  # two pure batches; the rest is validation
    assert len(ran) == 2 + 9


def test_models_without_padding_masks_train_on_fixed_lengths() -> None:
    model = make_model(padding_masks=False)
    settings = TrainSettings(epochs=1, max_steps=(8, 16, 12))
    fit(model, TRAIN[:16], VALID[:8], settings, NAMES)
    together = predict_logits(model, VALID, settings)
    alone = np.concatenate([predict_logits(model, [sample], settings) for sample in VALID])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_thresholds_tuned_on_validation_help_rare_labels() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((400, 1)) < 0.1).astype(int)
    probabilities = np.clip(0.1 + 0.2 * truth + 0.05 * rng.normal(size=(400, 1)), 0, 1)
    thresholds = tune_thresholds(probabilities[:200], truth[:200])
    assert f1_per_label(truth[200:], probabilities[200:] >= 0.5)[0] < 0.1
    assert f1_per_label(truth[200:], probabilities[200:] >= thresholds)[0] > 0.8


def test_a_loss_that_explodes_is_an_error() -> None:
    samples = planted(8, 0)
    samples[0].values["text"][:] = np.inf
    with pytest.raises(ValueError, match="finite loss but it is nan in epoch 1"):
        fit(make_model(), samples, VALID, SHORT, NAMES)


@pytest.mark.parametrize(
    ("train", "kwargs", "message"),
    [
        ([], {}, "Expected training samples"),
        ([Sample(TRAIN[0].values, TRAIN[0].valid, None, id="x")], {}, "Expected 4 labels in training sample 'x'"),
        (TRAIN, {"sampler_weights": [1.0]}, "Expected 96 sampler weights"),
        (TRAIN, {"sampler_weights": [0.0] * 96}, "not all 0"),
    ],
    ids=["none", "unlabelled", "weights", "zero weights"],
)
def test_what_cannot_be_trained_on_is_refused(train: list[Sample], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(make_model(), train, VALID, SHORT, NAMES, **kwargs)


def test_empty_samples_are_refused_by_name() -> None:
    empty = Sample(
        TRAIN[0].values, {name: np.zeros_like(mask) for name, mask in TRAIN[0].valid.items()}, np.ones(4), id="e"
    )
    with pytest.raises(ValueError, match="observed modality in validation sample 'e'"):
        fit(make_model(), TRAIN, [empty], SHORT, NAMES)


def test_training_settings_are_strict() -> None:
    with pytest.raises(InputError, match="Did you mean 'epochs'"):
        TrainSettings.parse({"epoch": 3})
    with pytest.raises(InputError, match="select_by must be one of"):
        TrainSettings.parse({"select_by": "f7"})
