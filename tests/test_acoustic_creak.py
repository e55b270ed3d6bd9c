"""Creak: measurements with known answers, blocks against the whole, the network against torch, the shipped card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from extractors.acoustic import creak
from extractors.acoustic.creak import (
    AFTER_SILENCE,
    BEFORE_SILENCE,
    CARD,
    COMPAT_FEATURES,
    CONTOURS,
    FEATURES,
    FRAME_FEATURES,
    compat_inputs,
    creak_features,
    creak_posterior,
    half_a_hop_before,
    missing_rows,
    network_inputs,
    run_network,
    run_networks,
    spoilt_rows,
)
from extractors.acoustic.pitch import Pitch, srh_pitch
from extractors.acoustic.train_creak import Network
from tests.acoustic_signals import RATE_HZ, tract, voice

SPOILT = len(FRAME_FEATURES)  # the first input after the frames' own


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, COMPAT_FEATURES.index(name)]


def shifted(pitch: Pitch, begin_s: float) -> Pitch:
    return Pitch(pitch.time_s - begin_s, pitch.f0_hz, pitch.voiced, pitch.score, pitch.median_hz)


def test_creak_rises_on_irregular_slow_pulses() -> None:
    rng = np.random.default_rng(5)
    modal = voice(120.0, 2.0)
    pulses = np.zeros(2 * RATE_HZ)
    pulses[np.cumsum(rng.integers(350, 800, 80))[:50]] = 1.0
    creaky = np.asarray(lfilter([1.0], tract(), pulses))
    creaky = 0.5 * creaky / np.abs(creaky).max() + 1e-4 * rng.standard_normal(len(creaky))
    posterior = []
    for samples in (modal, creaky):
        _, features = creak_features(samples, RATE_HZ, srh_pitch(samples, RATE_HZ))
        posterior.append(creak_posterior(features, len(samples) / RATE_HZ))
        assert ((posterior[-1] >= 0) & (posterior[-1] <= 1)).all()
    assert np.mean(posterior[1]) > np.mean(posterior[0]) + 0.1


def test_measurements_of_a_tone() -> None:
    time = np.arange(RATE_HZ) / RATE_HZ
    tone = 0.5 * np.sin(2 * np.pi * 250 * time)
    _, features = creak_features(tone, RATE_HZ, srh_pitch(tone, RATE_HZ))
    inner = features[10:-10]
    np.testing.assert_allclose(column(inner, "zero_crossing_rate_0"), 2 * 250 / RATE_HZ, rtol=0.1)
    np.testing.assert_allclose(column(inner, "energy_db_1"), 10 * np.log10(0.125), atol=0.05)
    np.testing.assert_allclose(column(inner, "ifp_highest"), 1.0, atol=0.02)
    periods = 250 * np.exp(column(inner, "log_period_s").astype(float))  # any multiple of 4 ms correlates fully
    np.testing.assert_allclose(periods, np.round(periods), atol=1e-3)


def test_a_block_gives_the_rows_of_the_whole() -> None:
    signal = voice(110.0, 3.0) + 1e-3 * np.random.default_rng(1).standard_normal(3 * RATE_HZ)
    pitch = srh_pitch(signal, RATE_HZ)
    _, whole = creak_features(signal, RATE_HZ, pitch, "compat")
    _, block = creak_features(signal[RATE_HZ:], RATE_HZ, shifted(pitch, 1.0), "compat")
    np.testing.assert_allclose(block[10:-10], whole[110:-10], atol=2e-3)
    np.testing.assert_allclose(creak_posterior(whole, 3.0)[115:-10], creak_posterior(block, 2.0)[15:-10], atol=0.02)


def test_level_does_not_matter() -> None:
    signal = voice(110.0, 1.0) + 1e-3 * np.random.default_rng(1).standard_normal(RATE_HZ)
    pitch = srh_pitch(signal, RATE_HZ)
    posterior = [creak_posterior(creak_features(gain * signal, RATE_HZ, pitch)[1], 1.0) for gain in (1.0, 0.1)]
    # the residual is digital zero after its last frame: there a fixed floor meets the level
    np.testing.assert_allclose(posterior[0][:-6], posterior[1][:-6], atol=1e-3)


def test_compat_is_spoilt_from_digital_silence_on() -> None:
    signal = voice(110.0, 2.0)
    signal[RATE_HZ : RATE_HZ + 1600] = 0.0
    _, features = creak_features(signal, RATE_HZ, srh_pitch(signal, RATE_HZ))
    assert not column(features, "silent")[:90].any()
    assert column(features, "silent")[102:108].all()
    spoilt = network_inputs(features, 2.0, "compat")[:, SPOILT]
    assert not spoilt[:90].any()
    assert spoilt[102:].all()
    assert not network_inputs(features, 2.0, "fixed")[:, SPOILT].any()
    assert np.isfinite(creak_posterior(features, 2.0)).all()


def test_the_reference_misses_rows_where_silence_begins() -> None:
    noise = 0.1 * np.random.default_rng(2).standard_normal(2 * RATE_HZ)
    pitch = srh_pitch(noise, RATE_HZ)

    def missing(n_zeros: int) -> list[int]:
        signal = noise.copy()
        signal[16080 : 16080 + n_zeros] = 0.0
        return np.flatnonzero(missing_rows(creak_features(signal, RATE_HZ, pitch)[1], 2.0)).tolist()

    # 394 frames over 32,000 samples: 1.02 s lies at place 200.4, the first empty frame is 201; row 0 always misses
    assert missing(0) == [0]
    assert missing(511) == [0]
    assert missing(4000) == [0, 101, 102]
    assert missing(512) == [0, 101, 102, 103]  # one empty frame: the differences of the next row too

    signal = noise.copy()
    signal[16080:20080] = 0.0
    _, features = creak_features(signal, RATE_HZ, pitch, "compat")
    assert np.flatnonzero(np.isnan(creak_posterior(features, 2.0, "compat"))).tolist() == [0, 101, 102]


NO_PITCH = Pitch(np.array([]), np.array([]), np.array([]), np.array([]), None)


def test_short_power_of_bursts_in_silence() -> None:
    signal = np.zeros(RATE_HZ)
    signal[8000:8064] = 0.25  # two frames of 4 ms hold half of it, the one between them all
    _, features = creak_features(signal, RATE_HZ, NO_PITCH, "compat")
    deviation, any_empty, share = (
        column(features, name) for name in ("power_deviation_db", "any_empty", "share_empty")
    )
    assert (any_empty == 1).all()
    np.testing.assert_allclose(share[[30, 49, 70]], [1, 30 / 33, 1], atol=1e-6)
    level = np.full(33, -140.0)
    level[15:18] = 10 * np.log10(0.0625 * np.array([0.5, 1, 0.5]))
    np.testing.assert_allclose(deviation[49], level.std(), atol=0.01)  # row 49 lies at .5 s
    np.testing.assert_allclose(deviation[[30, 70]], 0, atol=1e-3)
    assert np.flatnonzero(deviation > 1).tolist() == [46, 47, 48, 49, 50, 51, 52]  # within 34 ms
    _, sounding = creak_features(np.full(RATE_HZ, 0.1), RATE_HZ, NO_PITCH, "compat")
    assert not column(sounding, "any_empty").any()  # what lies outside the file is no silence
    np.testing.assert_allclose(column(sounding, "power_deviation_db"), 0, atol=1e-3)


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_h2h1_is_read_at_the_period_of_the_residual(rate_hz: int) -> None:
    pulses = np.zeros(2 * rate_hz)
    pulses[:: rate_hz // 80] = 1.0  # 80 Hz, all harmonics alike
    median_hz = 100.0
    found = creak._h2h1(pulses, median_hz, rate_hz, 200)[20:-20]
    np.testing.assert_allclose(np.exp(found[:, 1]), 80, rtol=0.01)
    turn = np.exp(2j * np.pi * np.array([80, 160]) / rate_hz)
    radius = np.exp(-np.pi * 315 / rate_hz)
    gain = 1 / np.abs(1 - 2 * radius * np.cos(2 * np.pi * median_hz / rate_hz) / turn + radius**2 / turn**2)
    np.testing.assert_allclose(found[:, 0], 20 * np.log10(gain[1] / gain[0]), atol=0.5)


def test_compat_has_networks_of_its_own_before_and_after_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = voice(110.0, 2.0)
    signal[RATE_HZ : RATE_HZ + 1600] = 0.0
    pitch = srh_pitch(signal, RATE_HZ)
    _, features = creak_features(signal, RATE_HZ, pitch, "compat")
    before, after = compat_inputs(features, 2.0)
    assert before.shape == (len(features), len(BEFORE_SILENCE))
    assert after.shape == (len(features), len(AFTER_SILENCE))
    np.testing.assert_array_equal(before[:, : len(AFTER_SILENCE)], after)
    crossings = column(features, "zero_crossing_rate_0")  # of the 32 ms from the row before on
    np.testing.assert_array_equal(after[1:, AFTER_SILENCE.index("earlier_zero_crossing_rate")], crossings[:-1])
    np.testing.assert_array_equal(after[:, AFTER_SILENCE.index("share_empty")], column(features, "share_empty"))
    np.testing.assert_array_equal(before[:, -1], column(features, "h2h1_log_f0"))
    np.testing.assert_allclose(before[50, -2], column(features, "h2h1_db")[45:56].mean(), rtol=1e-5)

    def saying_half(kind: str) -> Callable[[Path, str], dict[str, np.ndarray]]:
        return lambda path, key: {
            name: np.zeros_like(value) if name.startswith(kind) and "exit" in name else value
            for name, value in shipped(path, key).items()
        }

    shipped, spoilt, whole = creak._weights, spoilt_rows(features), creak_posterior(features, 2.0, "compat")
    first = int(spoilt.argmax())
    assert spoilt[first:].all()
    always = run_networks(network_inputs(features, 2.0, "compat"), shipped(creak.WEIGHTS, "sha256"))
    share = np.where(spoilt, creak.AFTER_SILENCE_SHARE, creak.BEFORE_SILENCE_SHARE)
    wanted = half_a_hop_before((1 - share) * always + share * 0.5)
    for kind, mine, others in (
        ("before_silence", slice(1, first), slice(first + 1, None)),
        ("after_silence", slice(first + 3, None), slice(0, first)),
    ):
        monkeypatch.setattr(creak, "_weights", saying_half(kind))
        found = creak_posterior(features, 2.0, "compat")
        np.testing.assert_allclose(found[mine], wanted[mine], atol=1e-6)
        assert (np.abs(found - whole)[mine] > 1e-3).any()
        np.testing.assert_array_equal(found[others], whole[others])
    fixed = creak_features(signal, RATE_HZ, pitch)[1]
    np.testing.assert_array_equal(fixed, features[:, : fixed.shape[1]])
    posterior = run_networks(network_inputs(fixed, 2.0, "fixed"), shipped(creak.WEIGHTS, "sha256"))
    np.testing.assert_array_equal(creak_posterior(fixed, 2.0), half_a_hop_before(posterior))


def test_contours_of_a_step_in_level() -> None:
    noise = 0.1 * np.random.default_rng(2).standard_normal(3 * RATE_HZ)
    noise[: 2 * RATE_HZ] *= 0.01  # 40 dB down for two seconds
    _, features = creak_features(noise, RATE_HZ, srh_pitch(noise, RATE_HZ))
    rows = network_inputs(features, 3.0, "fixed")
    contour = {name: rows[:, SPOILT + 1 + i] for i, name in enumerate(CONTOURS)}
    np.testing.assert_allclose(contour["below_files_loudest_db"][10:190], -40, atol=3)
    assert (contour["below_loudest_db"][:155] > -4).all()  # nothing louder within .4 s
    assert (contour["below_loudest_db"][165:195] < -36).all()
    assert (np.abs(contour["median_of_below_loudest_db"][170:190] + 40) < 3).all()
    assert not contour["all_zero"].any()
    assert not contour["mostly_zero"].any()


def test_network_is_torchs() -> None:
    torch.manual_seed(0)
    model = Network(6 * 47, 96, 0.1).eval()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 47)).astype(np.float32)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    weights |= {"mean": np.zeros(47, dtype=np.float32), "scale": np.ones(47, dtype=np.float32)}
    beside = torch.tensor(np.stack([rows[np.clip(np.arange(50) + step, 0, 49)] for step in range(-3, 3)], axis=1))
    with torch.no_grad():
        wanted = model(beside.reshape(50, -1)).numpy()
    mine = run_network(rows, weights)
    np.testing.assert_allclose(mine, wanted, atol=1e-5)
    silent = {**weights, "exit.weight": 0 * weights["exit.weight"], "exit.bias": np.zeros(1, dtype=np.float32)}  # ½
    pair = {f"{i}.{name}": value for i, network in enumerate((weights, silent)) for name, value in network.items()}
    np.testing.assert_allclose(run_networks(rows, pair), (mine + 0.5) / 2, atol=1e-6)


def test_output_rows_lie_between_the_networks_rows() -> None:
    np.testing.assert_array_equal(half_a_hop_before(np.array([0.25, 0.75, 0.0])), [0.25, 0.5, 0.375])


def test_residual_features_come_smoothed_too() -> None:
    signal = voice(110.0, 2.0)
    signal[RATE_HZ : RATE_HZ + 1600] = 0.0
    _, features = creak_features(signal, RATE_HZ, srh_pitch(signal, RATE_HZ))
    smooth = {mode: network_inputs(features, 2.0, mode)[:, -1] for mode in ("fixed", "compat")}
    prominence = column(features, "prominence_residual")
    wanted = [prominence[i - 5 : i + 6].mean() for i in range(5, len(prominence) - 5)]
    np.testing.assert_allclose(smooth["fixed"][5:-5], wanted, atol=1e-5)
    np.testing.assert_array_equal(smooth["compat"][:90], smooth["fixed"][:90])
    assert (smooth["compat"][102:] == -5).all()  # lost in the reference


def test_long_files_go_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, len(FEATURES))).astype(np.float32)
    whole = creak_posterior(features, 3.0)
    monkeypatch.setattr("extractors.acoustic.creak.CHUNK_ROWS", 64)
    np.testing.assert_allclose(creak_posterior(features, 3.0), whole, atol=1e-5)


def test_creak_network_has_a_card() -> None:
    card = json.loads(CARD.read_text())
    assert card["held_out"]["clips"] > 20
    assert card["held_out"]["median_r"] >= 0.9
    assert card["every_clip_without_its_actor"]["clips"] == sum(
        one["clips"] for one in card["left_out_in_turn"].values()
    )
    assert card["every_clip_without_its_actor"]["median_r"] >= 0.9
    assert min(one["median_r"] for one in card["left_out_in_turn"].values()) >= 0.85
