"""The acoustic track as a whole: columns, rows and times, robustness, and what synthetic voices must give."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from data import InputError
from extractors.acoustic import COLUMNS, Mode, acoustic_spec, covarep_features
from extractors.acoustic.blocks import Sound
from extractors.acoustic.covarep import matrix
from tests.acoustic_signals import RATE_HZ, voice

_TIME = np.arange(RATE_HZ) / RATE_HZ
_RNG = np.random.default_rng(1)
AWKWARD = {
    "one_sample": np.array([0.1]),
    "fifty_ms": 0.1 * _RNG.standard_normal(800),
    "fifty_ms_voice": voice(120, 0.05),
    "half_second": voice(120, 0.5),
    "noise": 0.1 * _RNG.standard_normal(RATE_HZ),
    "constant": np.full(RATE_HZ, 0.3),
    "clipped": np.clip(3 * voice(150), -0.5, 0.5),
    "eight_bit": np.round(8 * voice(150)) / 128,
    "impulse": np.eye(1, RATE_HZ, 8000)[0],
    "silence_inside": np.concatenate([voice(120, 0.5), np.zeros(RATE_HZ // 2), voice(120, 0.5)]),
    "tiny": 1e-30 * voice(120),
    "not_a_number": np.where(np.arange(RATE_HZ) % 999 == 0, np.nan, voice(120)),
}


def column(track, name: str) -> np.ndarray:
    return track.values[:, COLUMNS.index(name)]


@pytest.fixture(scope="module")
def vowel():
    return covarep_features(voice(120.0, 1.5), RATE_HZ)


def test_columns_are_the_74_in_order() -> None:
    head = ("F0", "VUV", "NAQ", "QOQ", "H1H2", "PSP", "MDQ", "peakSlope", "Rd", "Rd_conf", "creak")
    assert COLUMNS[:11] == head
    assert COLUMNS[11:36] == tuple(f"MCEP_{i}" for i in range(25))
    assert COLUMNS[36:61] == tuple(f"HMPDM_{i}" for i in range(25))
    assert COLUMNS[61:] == tuple(f"HMPDD_{i}" for i in range(13))
    assert len(COLUMNS) == 74


def test_mode_is_part_of_the_contract() -> None:
    fixed, compat = acoustic_spec(), acoustic_spec("compat")
    assert (fixed.modality, fixed.rate_hz, fixed.columns) == ("audio", 100.0, COLUMNS)
    assert fixed.fingerprint() != compat.fingerprint()
    assert len(fixed.weights) == len(compat.weights) == 64  # sha256 of the creak networks
    assert fixed.weights != compat.weights  # of more networks
    with pytest.raises(ValueError, match="fixed"):
        acoustic_spec("original")


def test_import_is_cheap() -> None:
    code = "import sys, extractors.acoustic; print([m for m in ('librosa', 'numba', 'scipy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 44100])
def test_rows_cover_the_file(rate_hz: int) -> None:
    n_samples = round(0.733 * rate_hz)
    track = covarep_features(voice(120, 1.0, rate_hz=rate_hz)[:n_samples], rate_hz)
    assert len(track) == int(np.ceil(n_samples / rate_hz * 100 - 1e-6))
    np.testing.assert_allclose(track.start_s, np.arange(len(track)) / 100)
    np.testing.assert_allclose(track.end_s - track.start_s, 0.01)


def test_first_channel_is_used() -> None:
    mono = voice(140, 0.4)
    stereo = np.stack([mono, _RNG.standard_normal(len(mono))], axis=1)
    np.testing.assert_array_equal(covarep_features(stereo, RATE_HZ).values, covarep_features(mono, RATE_HZ).values)


def test_memory_map_gives_the_same(tmp_path) -> None:
    mono = voice(140, 0.4).astype(np.float32)
    mono.tofile(tmp_path / "audio.f32")
    mapped = np.memmap(tmp_path / "audio.f32", dtype=np.float32, mode="r")
    np.testing.assert_array_equal(covarep_features(mapped, RATE_HZ).values, covarep_features(mono, RATE_HZ).values)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("mode", ["fixed", "compat"])
def test_awkward_audio_gives_finite_rows(name: str, mode: str) -> None:
    samples = AWKWARD[name]
    track = covarep_features(samples, RATE_HZ, mode)
    assert np.isfinite(track.values).all()
    if mode == "fixed":
        assert len(track) == int(np.ceil(len(samples) / 160))


def test_empty_and_silent_say_so() -> None:
    empty = covarep_features(np.zeros(0), RATE_HZ)
    assert (len(empty), empty.reason) == (0, "no_audio")
    silent = covarep_features(np.zeros(RATE_HZ), RATE_HZ)
    assert (len(silent), silent.reason, silent.observed) == (100, "silence", False)
    assert not silent.values.any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.1, -1 / 128, 1e-30, np.nan])
@pytest.mark.parametrize("n_samples", [160, 2 * RATE_HZ])
def test_a_constant_is_silence(value: float, n_samples: int) -> None:
    track = covarep_features(np.full(n_samples, value), RATE_HZ)
    assert (len(track), track.reason, track.observed) == (int(np.ceil(n_samples / 160)), "silence", False)
    assert track.defined is not None
    assert not track.values.any()
    assert not track.defined.any()


def test_less_than_ten_ms_is_silent_only_at_zero() -> None:
    for value, reason in ((0.0, "silence"), (0.3, None)):
        track = covarep_features(np.full(100, value), RATE_HZ)
        assert (len(track), track.reason) == (1, reason)
        assert not track.values.any()


def test_silence_of_eight_bits_is_silence() -> None:
    steps = np.round(64 * AWKWARD["silence_inside"]) / 128
    shifted = covarep_features(steps - 1 / 128, RATE_HZ)
    np.testing.assert_array_equal(shifted.valid, covarep_features(steps, RATE_HZ).valid)
    assert not shifted.valid[50:100].any()


@pytest.mark.parametrize("offset", [0.001, -0.01, 0.1])
def test_offset_changes_nothing(offset: float) -> None:
    noise = 1e-3 * _RNG.standard_normal(len(AWKWARD["silence_inside"]))
    samples = np.where(AWKWARD["silence_inside"] == 0.0, 0.0, AWKWARD["silence_inside"] + noise)
    track, moved = covarep_features(samples, RATE_HZ), covarep_features(samples + offset, RATE_HZ)
    np.testing.assert_array_equal(moved.valid, track.valid)
    np.testing.assert_array_equal(moved.defined, track.defined)
    differs = np.abs(moved.values - track.values) > 2e-3
    assert differs.any(axis=1).sum() <= 1, "a last bit may tip a choice"


def test_lopsided_voice_gives_pauses_no_offset() -> None:
    """Its pulses all point one way, as generated voices' may: the mean is that of the voice, not of a recorder."""
    lopsided = np.maximum(voice(120, 1.0), 0.0)
    pause = 1e-4 * np.random.default_rng(2).standard_normal(RATE_HZ)
    sound = Sound(np.concatenate([lopsided, pause, lopsided]), RATE_HZ, centred=True)
    assert lopsided.mean() > 0.01
    assert np.abs(sound.read(RATE_HZ, 2 * RATE_HZ) - pause).max() < 1e-4


def test_offset_is_left_to_compat() -> None:
    samples = voice(120, 0.3) + 0.1
    np.testing.assert_array_equal(Sound(samples, RATE_HZ).read(0, len(samples)), samples)
    assert covarep_features(np.full(RATE_HZ, 0.1), RATE_HZ, "compat").valid.all()


def test_silent_stretch_is_not_valid() -> None:
    track = covarep_features(AWKWARD["silence_inside"], RATE_HZ)
    assert track.valid[:50].all()
    assert not track.valid[50:100].any()
    assert track.valid[100:].all()
    assert track.reason is None


def test_columns_exist_only_where_the_quantity_does() -> None:
    noise = 0.05 * _RNG.standard_normal(RATE_HZ)
    track = covarep_features(np.concatenate([voice(120, 1.0), noise]), RATE_HZ)
    assert track.valid.all()
    assert track.defined is not None
    voiced, unvoiced = slice(10, 90), slice(110, 190)
    glottal = [COLUMNS.index(name) for name in ("F0", "NAQ", "QOQ", "H1H2", "PSP", "MDQ", "Rd", "Rd_conf")]
    others = [i for i in range(len(COLUMNS)) if i not in glottal]
    assert track.defined[voiced].all()
    assert not track.defined[unvoiced][:, glottal].any()
    assert track.defined[unvoiced][:, others].all()
    assert not track.values[unvoiced][:, glottal].any()
    assert not track.defined[[0, -1]][:, [COLUMNS.index("VUV"), COLUMNS.index("MCEP_0")]].any(), (
        "half a window is missing"
    )
    assert covarep_features(voice(120, 0.3), RATE_HZ, "compat").defined is None


@pytest.mark.parametrize("seconds", [0.03, 0.1, 0.2, 0.5])
def test_short_clips_have_what_fits(seconds: float) -> None:
    track = covarep_features(voice(150, seconds), RATE_HZ)
    assert track.defined is not None
    assert np.isfinite(track.values).all()
    names = {name for name, known in zip(COLUMNS, track.defined.any(axis=0), strict=True) if known}
    assert ("peakSlope" in names) == (seconds > 0.04)
    assert ({"F0", "VUV", "MCEP_0", "HMPDM_0"} <= names) == (seconds >= 0.2)


@pytest.mark.parametrize(
    ("samples", "rate_hz"),
    [
        (np.zeros((2, 2, 2)), 16000),
        (np.zeros((100, 0)), 16000),
        (np.zeros((2, 32000)), 16000),
        (np.zeros(100, dtype=np.int16), 16000),
        (np.zeros(100), 4000),
        (np.zeros(100), 192000),
        (np.zeros(100), 16000.4),
        (np.zeros(100), float("nan")),
        (np.zeros(100), "16000"),
        (np.zeros(100), None),
        (np.zeros(100), [16000]),
    ],
)
@pytest.mark.parametrize("mode", ["fixed", "compat"])
def test_wrong_input_is_named(samples, rate_hz: int, mode: Mode) -> None:
    with pytest.raises(InputError) as caught:
        covarep_features(samples, rate_hz, mode)
    assert caught.value.code == "bad_audio"


def test_channels_first_are_told_to_turn() -> None:
    with pytest.raises(InputError, match="Transpose"):
        covarep_features(np.zeros((2, 32000)), RATE_HZ)
    assert len(covarep_features(np.zeros((0, 2)), RATE_HZ)) == 0
    assert len(covarep_features(0.1 * _RNG.standard_normal((5, 6)), RATE_HZ)) == 1


@pytest.mark.parametrize("rate_hz", [16000.0, np.float32(16000), np.int64(16000), np.array(16000)])
def test_whole_rates_of_any_type_will_do(rate_hz) -> None:
    assert len(covarep_features(AWKWARD["fifty_ms"], rate_hz)) == 5


def test_too_short_for_a_row_is_not_called_silence() -> None:
    track = covarep_features(np.array([0.3]), RATE_HZ, "compat")
    assert (len(track), track.reason) == (0, "no_audio")


def test_missing_creak_does_not_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that lie at the output instants must not mix with a neighbour that the reference lacks."""

    def every_other(features: np.ndarray, duration_s: float, mode: str) -> np.ndarray:
        return np.where(np.arange(len(features)) % 2, 1.0, np.nan)

    monkeypatch.setattr("extractors.acoustic.covarep.creak_posterior", every_other)
    creak = column(covarep_features(voice(120, 4.0), RATE_HZ, "compat"), "creak")
    np.testing.assert_array_equal(creak[1:-1:2], 1.0)
    np.testing.assert_array_equal(creak[:-1:2], 0.0)


@pytest.mark.parametrize("f0_hz", [90.0, 120.0, 210.0, 330.0])
def test_f0_of_a_vowel(f0_hz: float) -> None:
    track = covarep_features(voice(f0_hz), RATE_HZ)
    inner = slice(10, -10)
    assert column(track, "VUV")[inner].mean() == 1.0
    np.testing.assert_allclose(column(track, "F0")[inner], f0_hz, atol=1.5)


def test_noise_is_not_voiced() -> None:
    assert column(covarep_features(AWKWARD["noise"], RATE_HZ), "VUV").mean() < 0.1


def test_inverting_the_recording_changes_nothing() -> None:
    samples = voice(130, 0.6)
    upright, inverted = covarep_features(samples, RATE_HZ), covarep_features(-samples, RATE_HZ)
    np.testing.assert_allclose(upright.values, inverted.values, atol=1e-5)


def test_breathy_voice_reads_breathier() -> None:
    tense = covarep_features(voice(120, 1.0, rd=0.6), RATE_HZ)
    breathy = covarep_features(voice(120, 1.0, rd=2.2), RATE_HZ)
    inner = slice(20, -20)
    for name, least in (("NAQ", 0.03), ("H1H2", 3.0), ("Rd", 0.5)):
        assert np.median(column(breathy, name)[inner]) > np.median(column(tense, name)[inner]) + least, name


def test_louder_moves_only_the_level(vowel) -> None:
    louder = covarep_features(1.9 * voice(120.0, 1.5), RATE_HZ)
    inner = slice(10, -10)
    shift = column(louder, "MCEP_0")[inner] - column(vowel, "MCEP_0")[inner]
    np.testing.assert_allclose(shift, np.log(1.9), atol=1e-4)
    same = [i for i, name in enumerate(COLUMNS) if name not in ("MCEP_0", "creak")]
    np.testing.assert_allclose(louder.values[inner][:, same], vowel.values[inner][:, same], atol=3e-2)


def test_compat_keeps_what_the_reference_says_of_silence() -> None:
    samples = voice(120.0, 2.0)
    samples[RATE_HZ // 2 : RATE_HZ] = 0.0
    fixed, compat = covarep_features(samples, RATE_HZ), covarep_features(samples, RATE_HZ, "compat")
    assert not fixed.valid[55:95].any()
    assert compat.valid.all()
    wanted = matrix(samples, RATE_HZ, "compat")[1][60:90, COLUMNS.index("creak")]
    np.testing.assert_allclose(column(compat, "creak")[60:90], wanted, atol=1e-6)
    assert (column(compat, "creak")[60:90] > 0.05).all()
    silent = covarep_features(0 * samples, RATE_HZ, "compat")
    assert (silent.valid.any(), silent.reason) == (False, "silence")
