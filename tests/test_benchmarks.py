"""The benchmarks' own claims: the plain version is the same model, and no planted group of events tells its label."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from benchmarks import model_speed, planted
from lamb.settings import TABLE2


def test_the_plain_version_computes_lamb_s_logits() -> None:
    assert model_speed.check_same() < 1e-5


def test_another_weight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = model_speed.PlainLAMB.load

    def wrong(self: model_speed.PlainLAMB, model: model_speed.LAMB) -> model_speed.PlainLAMB:
        with torch.no_grad():
            load(self, model).blocks[3].mlp[0].weight.mul_(1.1)  # type: ignore[index, union-attr]
        return self

    monkeypatch.setattr(model_speed.PlainLAMB, "load", wrong)
    with pytest.raises(SystemExit, match="compute LAMB's logits"):
        model_speed.check_same()


def test_the_speed_report_has_ratios_to_plain_and_time_per_step() -> None:
    cases = [case for case in model_speed.CASES if case.name.startswith("unaligned b32")]
    results = {
        (case.name, model): {"forward_ms": 1.0, "both_ms": time_ms, "peak_mib": 10.0}
        for case, scale in zip(cases, (10, 1), strict=True)
        for model, time_ms in (("lamb", 20.0 * scale), ("plain", 100.0 * scale))
    }
    text = "\n".join(model_speed.report(results, cases, ["lamb", "plain"]))
    assert "| unaligned b32 | lamb | 1 | 200 | 10 | 160 | 0.20 | 1.00 |" in text
    share = model_speed.make_batch(cases[1]).masks["audio"].float().mean().item()
    assert 0.2 < share < 0.45
    assert f"ratio {0.1 / share:.1f}" in text


# ---- planted data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> planted.Planted:
    world = planted.World.make((9, 10, 11))
    return planted.draw(60_000, world, np.random.default_rng(0))


def test_labels_are_the_codes_in_common(data: planted.Planted) -> None:
    labels = data.batch.labels
    assert labels is not None
    for n in range(500):
        first, second = (set(group.tolist()) for group in data.groups[n])
        own = labels[n, data.question[n]].item()
        assert len(first) == len(second) == planted.N_EVENTS
        assert len(first & second) == own
        assert labels[n, -1].item() == own * data.marked[n]
        assert labels[n, :-1].sum() == own


def test_no_group_alone_says_anything_about_its_label(data: planted.Planted) -> None:
    """Every pair of codes within a group, role by role, is as frequent where the label holds as where it does not."""
    holds = data.batch.labels.numpy()[np.arange(len(data.question)), data.question] == 1  # type: ignore[union-attr]
    assert holds.mean() == pytest.approx(0.5, abs=0.01)
    for group in (0, 1):
        has = (data.groups[:, group, :, None] == np.arange(planted.N_CODES)).any(axis=1)  # (N, K)
        for codes in itertools.combinations(range(planted.N_CODES), 2):
            shown = has[:, codes].all(axis=1)
            # 3·2 / (12·11) of 60,000 samples, about 2,700: four standard deviations are .04
            assert holds[shown].mean() == pytest.approx(0.5, abs=0.045)


def test_a_sample_shows_its_groups_and_nothing_else() -> None:
    """Events read back from the values by their known looks."""
    world = planted.World.make((9, 10, 11))
    data = planted.draw(200, world, np.random.default_rng(1))
    for n in range(200):
        label = planted.QUESTIONS[data.question[n]]
        for m, (name, letter) in enumerate(zip(planted.MODALITIES, "TAV", strict=True)):
            x = data.batch.values[name][n][data.batch.masks[name][n]].numpy() @ world.looks[m] / planted.AMPLITUDE
            for role in (0, 1):
                rows = x[x[:, planted.CODE_WIDTH + role] > 0.5][:, : planted.CODE_WIDTH]
                found = sorted((rows @ world.codes.T).argmax(axis=1).tolist())
                groups = [
                    g
                    for g, (owner, r) in enumerate(((label[0], 0), (label[-1], int(len(label) == 1))))
                    if (owner, r) == (letter, role)
                ]
                assert found == sorted(data.groups[n, groups].ravel().tolist())
            assert (~data.batch.masks[name][n]).any() or letter in label


def test_every_ablation_is_judged_or_says_why_not() -> None:
    assert planted.expected_losses("only unimodal") == ("TA", "TV", "AV")
    assert planted.expected_losses("only multimodal") == ("T", "A", "V")
    assert planted.expected_losses("only audio-text") == ("T", "A", "V", "TV", "AV")
    assert planted.expected_losses("only visual") == ("T", "A", "TA", "TV", "AV")
    for row in TABLE2:
        assert row == "full" or bool(planted.expected_losses(row)) != (row in planted.UNJUDGED)


def test_a_lost_margin_fails() -> None:
    good: dict[str, float] = dict.fromkeys(planted.LABELS, 0.9)
    bad = {**good, "TA": 0.5, "TV": 0.5, "AV": 0.8}
    lines, holds = planted.verdicts({"full": [good], "only unimodal": [bad]})
    assert not holds
    assert "FAILS" in lines[0]
    assert "+0.10 at least (AV)" in lines[0]
    assert planted.verdicts({"full": [good], "only unimodal": [{**bad, "AV": 0.5}]})[1]


def test_the_quick_run_shows_what_a_pair_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """Six questions take minutes; one takes seconds: full and text-audio solve the pair, the others do not."""
    assert planted.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "logic holds" in printed
    rows = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("| ")]
    found = {name.strip(): float(cell.strip().strip("*").split("*")[0].split()[0]) for name, cell in rows[1:]}
    assert found["full"] > 0.9
    assert found["only audio-text"] > 0.9
    assert found["only unimodal"] < 0.75
    assert abs(found["only text"] - 0.5) < 0.1
    assert "only audio-text: not judged" in printed


def test_a_run_that_learns_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert planted.main(["--quick", "--steps", "3", "--batch-size", "8"]) == 1
    assert "only unimodal: FAILS" in capsys.readouterr().out
