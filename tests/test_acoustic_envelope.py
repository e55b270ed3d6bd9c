"""Envelope, harmonics, LF pulse and phases against truths written out here: known filters, known pulses, silence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import median_filter
from scipy.signal import filtfilt, lfilter

from extractors.acoustic import COLUMNS, covarep_features
from extractors.acoustic.envelope import harmonics_and_cepstra, mel_cepstrum, true_envelope
from extractors.acoustic.lf_rd import estimate_rd
from extractors.acoustic.phase import _running_median, phase_distortion, smooth_both_ways
from extractors.acoustic.sinusoids import harmonic_frames
from tests.acoustic_signals import RATE_HZ, lf_pulse, tract, voice

TIME_S = np.arange(0.2, 0.8, 0.01)
MODES = ("compat", "fixed")


def through_tract(source: np.ndarray) -> np.ndarray:
    return np.asarray(lfilter([1.0], tract(), source))


def gain(hz: np.ndarray) -> np.ndarray:
    """The tract's amplitude response, from its polynomial."""
    z = np.exp(-2j * np.pi * hz / RATE_HZ)
    return 1 / np.abs(np.polyval(tract()[::-1], z))


def cosines(f0_hz: float, amplitude: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """One second of the harmonics 1..n of f0."""
    t = np.arange(RATE_HZ) / RATE_HZ
    h = np.arange(1, len(amplitude) + 1)
    return amplitude @ np.cos(2 * np.pi * f0_hz * np.outer(h, t) + phase[:, None])


def vowel(f0_hz: float) -> np.ndarray:
    """Band-limited impulses through the tract: every harmonic's amplitude is the tract's gain."""
    n = int(RATE_HZ / 2 / f0_hz) - 1
    return through_tract(cosines(f0_hz, np.ones(n), np.zeros(n)))


def frames(f0_hz: float, signal: np.ndarray, mode: str):
    return harmonics_and_cepstra(signal, RATE_HZ, TIME_S, np.full(len(TIME_S), f0_hz), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("f0_hz", [90.0, 140.0, 230.0])
def test_harmonics_have_the_filters_amplitudes(f0_hz: float, mode: str) -> None:
    harmonics, _ = frames(f0_hz, vowel(f0_hz), mode)
    n = int(7500 / f0_hz)
    found = 2 * harmonics.amplitude[:, 1 : n + 1]  # half of a cosine's amplitude lies at negative frequencies
    assert np.abs(20 * np.log10(found / gain(f0_hz * np.arange(1, n + 1)))).max() < 0.3


@pytest.mark.parametrize("f0_hz", [90.0, 140.0, 230.0])
def test_true_envelope_follows_the_filter_at_the_harmonics(f0_hz: float) -> None:
    spoken = vowel(f0_hz)
    seen: list[np.ndarray] = []
    harmonic_frames(spoken, RATE_HZ, TIME_S, np.full(len(TIME_S), f0_hz), reader=lambda _, level: seen.append(level))
    level = np.concatenate(seen)
    order = round(0.6 * RATE_HZ / f0_hz)
    curve = true_envelope(level, np.full(len(level), order))
    assert (level - curve).max() <= 2 * np.log(10) / 20 + 1e-9
    h = np.arange(1, int(7500 / f0_hz) + 1)
    bins = np.round(h * f0_hz / RATE_HZ * 4096).astype(int)
    off_db = 20 / np.log(10) * (curve[:, bins] - np.log(gain(h * f0_hz) / 2))
    assert off_db.min() > -2.0
    assert off_db.max() < 3.5  # at 230 Hz: a curve this smooth cannot dip between the first two formants
    assert np.median(np.abs(off_db)) < 0.8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("f0_hz", [90.0, 140.0])
def test_cepstra_are_those_of_the_filter(f0_hz: float, mode: str) -> None:
    _, cepstra = frames(f0_hz, vowel(f0_hz), mode)
    mel = np.linspace(0, np.log1p(8000 / 700), 2049)
    wanted = np.fft.irfft(np.log(gain(700 * np.expm1(mel)) / 2))[:25] * np.where(np.arange(25) > 0, 2, 1)
    off = np.abs(np.median(cepstra, axis=0) - wanted)
    assert off[0] < 0.15
    assert off[1:].max() < 0.12


def test_fixed_cepstra_do_not_depend_on_the_level() -> None:
    rng = np.random.default_rng(2)
    spoken = vowel(120.0)
    spoken += 0.02 * np.abs(spoken).max() * rng.standard_normal(RATE_HZ)
    loud, soft = (frames(120.0, scale * spoken, "fixed")[1] for scale in (1.0, 1e-4))
    soft[:, 0] -= np.log(1e-4)
    np.testing.assert_allclose(soft, loud, atol=2e-3)
    exact = frames(120.0, spoken, "compat")[1]
    assert np.median(np.abs(exact - loud)) < 0.03  # another rule for the steps, a coarser grid


def test_silent_frames_of_compat_have_no_cepstra() -> None:
    signal = np.concatenate([vowel(120.0), np.zeros(RATE_HZ), vowel(120.0)])
    time_s = np.arange(0.1, 2.9, 0.05)
    harmonics, cepstra = harmonics_and_cepstra(signal, RATE_HZ, time_s, np.full(len(time_s), 120.0), "compat")
    silent = (harmonics.time_s > 1.02) & (harmonics.time_s < 1.98)
    np.testing.assert_array_equal(np.isnan(cepstra).all(axis=1), silent)
    rd, confidence = estimate_rd(harmonics, RATE_HZ, "compat")
    np.testing.assert_array_equal(np.isnan(confidence), silent)
    np.testing.assert_allclose(rd[silent], 0.3 + 2.2 * (3 - 5**0.5) / 2)  # where a search by golden sections begins


def test_harmonics_that_come_with_cepstra_are_those_alone() -> None:
    spoken = vowel(120.0)
    f0_hz = np.full(len(TIME_S), 120.0)
    harmonics, cepstra = frames(120.0, spoken, "compat")
    alone = harmonic_frames(spoken, RATE_HZ, TIME_S, f0_hz)
    for name in ("frame", "spacing_hz", "count", "amplitude", "phase"):
        np.testing.assert_array_equal(getattr(harmonics, name), getattr(alone, name))
    assert cepstra.shape == (len(harmonics.frame), 25)


def test_mel_cepstrum_of_one_wave_over_mel() -> None:
    mel = np.log1p(np.linspace(0, 8000, 2049) / 700)
    amplitude = np.exp(-3 + 0.7 * np.cos(np.pi * 4 * mel / mel[-1]))
    wanted = np.zeros(25)
    wanted[[0, 4]] = -3, 0.7
    np.testing.assert_allclose(mel_cepstrum(amplitude[None], RATE_HZ, 24)[0], wanted, atol=1e-4)


@pytest.mark.parametrize(("f0_hz", "mode"), [(0.0, "fixed"), (120.0, "fixed"), (1.0, "compat")])
def test_digital_silence_stays_finite(f0_hz: float, mode: str) -> None:
    n = 4 * RATE_HZ
    signal = through_tract(np.random.default_rng(3).standard_normal(n))
    signal[RATE_HZ : 3 * RATE_HZ] = 0.0
    time_s = np.arange(0.1, 3.9, 0.05)
    harmonics, cepstra = harmonics_and_cepstra(signal, RATE_HZ, time_s, np.full(len(time_s), f0_hz), mode)
    assert len(harmonics.frame) > (0 if f0_hz == 1.0 else 70)
    rd, confidence = estimate_rd(harmonics, RATE_HZ, mode)
    mean, deviation = phase_distortion(harmonics, RATE_HZ, mode)
    for values in (harmonics.amplitude, harmonics.phase, cepstra, rd, confidence, mean, deviation):
        assert np.isfinite(values).all()


def test_one_hertz_frames_are_kept_apart() -> None:
    signal = np.random.default_rng(4).standard_normal(4 * RATE_HZ)
    time_s, f0_hz = np.array([1.8, 1.9, 2.0, 2.1]), np.array([110.0, 1.0, 1.0, 125.0])
    harmonics = harmonic_frames(signal, RATE_HZ, time_s, f0_hz)
    assert harmonics.wide is not None
    np.testing.assert_array_equal(harmonics.wide.frame, [1, 2])
    np.testing.assert_array_equal(harmonics.count, [72, 0, 0, 64])
    np.testing.assert_array_equal(harmonics.wide.count, [8000, 8000])
    assert harmonics.amplitude.shape == (4, 73)
    rd, _ = estimate_rd(harmonics, RATE_HZ, "compat")
    assert (rd >= 0.3).all()


@pytest.mark.parametrize(("rd", "f0_hz"), [(0.6, 105.0), (1.0, 150.0), (1.8, 120.0)])
def test_rd_of_a_pulse_train_through_a_tract(rd: float, f0_hz: float) -> None:
    spectrum = np.fft.fft(lf_pulse(rd, 1 << 14)) / (1 << 14)
    h = np.arange(1, int(RATE_HZ / 2 / f0_hz))
    spoken = through_tract(cosines(f0_hz, 2 * np.abs(spectrum[h]), np.angle(spectrum[h])))
    harmonics = harmonic_frames(spoken, RATE_HZ, TIME_S, np.full(len(TIME_S), f0_hz), "fixed")
    found, confidence = estimate_rd(harmonics, RATE_HZ, "fixed")
    assert np.median(np.abs(found - rd)) < 0.05
    assert np.median(confidence) > 0.9
    np.testing.assert_allclose(harmonics.spacing_hz, f0_hz, atol=0.6)


@pytest.mark.parametrize("f0_hz", [90.0, 120.0])
@pytest.mark.parametrize("rd", [0.5, 0.8, 1.2, 1.8, 2.3])
def test_a_voice_gives_its_rd_from_end_to_end(rd: float, f0_hz: float) -> None:
    track = covarep_features(voice(f0_hz, 0.6, rd=rd), RATE_HZ)
    assert track.defined is not None
    column = COLUMNS.index("Rd")
    inner = track.defined[:, column] & (track.start_s > 0.1) & (track.end_s < 0.5)
    assert inner.sum() > 30
    assert np.abs(track.values[inner, column] - rd).max() < 0.04


@pytest.mark.parametrize("n_rows", [2, 5, 30, 200])
def test_smoothing_is_scipys_forward_backward_filter(n_rows: int) -> None:
    values = np.random.default_rng(5).standard_normal((n_rows, 7))
    for window in (np.ones(9), np.hanning(9), np.ones(25)):
        pad = min(3 * (len(window) - 1), n_rows - 1)
        wanted = filtfilt(window / window.sum(), 1.0, values, axis=0, padlen=pad)
        np.testing.assert_allclose(smooth_both_ways(values, window), wanted, atol=1e-12)


def test_running_median_is_scipys() -> None:
    values = np.random.default_rng(6).standard_normal((40, 11))
    found = np.empty_like(values)
    _running_median(values, found)
    np.testing.assert_array_equal(found, median_filter(values, size=(9, 1), mode="constant", cval=0.0))
