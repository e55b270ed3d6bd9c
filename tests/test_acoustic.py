"""The 74 acoustic columns: order, clock, known truths of synthetic voices, odd input, and the recorded reference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from extractors.acoustic import COLUMNS, acoustic_spec, covarep_features

RATE_HZ = 16_000


def column(track, name: str) -> np.ndarray:
    return track.values[:, COLUMNS.index(name)]


def lf_pulses(f0_hz: float, seconds: float, *, open_share: float = 0.6, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A train of simple glottal flow derivative pulses (Rosenberg): open for ``open_share`` of each period."""
    period = rate_hz / f0_hz
    phase = (np.arange(int(seconds * rate_hz)) % period) / period
    rising, falling = 2 / 3 * open_share, 1 / 3 * open_share
    flow = np.where(
        phase < rising,
        0.5 * (1 - np.cos(np.pi * phase / rising)),
        np.where(phase < open_share, np.cos(np.pi / 2 * (phase - rising) / falling), 0.0),
    )
    return np.diff(flow, prepend=0.0)


def voice(f0_hz: float, seconds: float = 1.5, *, open_share: float = 0.6, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Those pulses through two formants (500 and 1500 Hz), with a little noise, peak .5."""
    sound = lf_pulses(f0_hz, seconds, open_share=open_share, rate_hz=rate_hz)
    for centre_hz, width_hz in ((500, 80), (1500, 120)):
        radius = np.exp(-np.pi * width_hz / rate_hz)
        sound = lfilter([1.0], [1, -2 * radius * np.cos(2 * np.pi * centre_hz / rate_hz), radius**2], sound)
    sound = 0.5 * sound / np.abs(sound).max()
    return sound + 1e-4 * np.random.default_rng(0).standard_normal(len(sound))


def middle(values: np.ndarray) -> np.ndarray:
    return values[len(values) // 5 : -len(values) // 5]


def test_names_and_order() -> None:
    assert len(COLUMNS) == 74
    assert COLUMNS[:11] == ("F0", "VUV", "NAQ", "QOQ", "H1H2", "PSP", "MDQ", "peakSlope", "Rd", "Rd_conf", "creak")
    assert [COLUMNS[i] for i in (11, 35, 36, 60, 61, 73)] == [
        "MCEP_0",
        "MCEP_24",
        "HMPDM_0",
        "HMPDM_24",
        "HMPDD_0",
        "HMPDD_12",
    ]
    assert acoustic_spec("fixed").fingerprint() != acoustic_spec("compat").fingerprint()
    with pytest.raises(ValueError, match="mode"):
        acoustic_spec("other")


@pytest.mark.parametrize(("f0_hz", "rate_hz"), [(90, 16000), (120, 16000), (210, 16000), (120, 44100), (150, 8000)])
def test_pitch_of_a_known_voice(f0_hz: float, rate_hz: int) -> None:
    track = covarep_features(voice(f0_hz, rate_hz=rate_hz), rate_hz)
    assert len(track) == pytest.approx(150, abs=1)
    np.testing.assert_allclose(np.diff(track.start_s), 0.01, atol=1e-9)
    assert np.median(middle(column(track, "F0"))) == pytest.approx(f0_hz, abs=1.5)
    assert middle(column(track, "VUV")).mean() > 0.95


def test_noise_and_silence_are_unvoiced() -> None:
    noise = 0.1 * np.random.default_rng(1).standard_normal(RATE_HZ)
    assert column(covarep_features(noise, RATE_HZ), "VUV").mean() < 0.1
    silence = covarep_features(np.zeros(RATE_HZ), RATE_HZ)
    assert silence.reason == "silence"
    assert not silence.valid.any()


def test_inverted_sound_gives_the_same_source() -> None:
    """Polarity is found, so turning the microphone's wires round must not change the glottal columns."""
    sound = voice(110)
    upright, inverted = (covarep_features(s, RATE_HZ) for s in (sound, -sound))
    for name in ("NAQ", "QOQ", "PSP", "MDQ", "Rd", "H1H2"):
        np.testing.assert_allclose(middle(column(upright, name)), middle(column(inverted, name)), atol=1e-3)


def test_open_quotient_orders_the_voice_quality() -> None:
    """A longer open phase is a laxer voice: NAQ, QOQ and Rd rise, as in Alku (2002) and Fant (1995)."""
    medians = {
        share: {
            name: float(np.median(middle(column(covarep_features(voice(110, open_share=share), RATE_HZ), name))))
            for name in ("NAQ", "QOQ", "Rd")
        }
        for share in (0.4, 0.85)
    }
    for name in ("NAQ", "QOQ", "Rd"):
        assert medians[0.85][name] > medians[0.4][name], medians


def test_loudness_moves_only_the_zeroth_cepstrum() -> None:
    """Ten times the amplitude adds ln 10 to MCEP_0 and leaves the rest."""
    quiet, loud = (covarep_features(gain * voice(120), RATE_HZ) for gain in (0.1, 1.0))
    shift = middle(loud.values - quiet.values)
    assert np.median(shift[:, COLUMNS.index("MCEP_0")]) == pytest.approx(np.log(10), abs=1e-3)
    others = [COLUMNS.index(n) for n in ("F0", "NAQ", "QOQ", "Rd", "MDQ", *(f"MCEP_{i}" for i in range(1, 25)))]
    assert np.abs(np.median(shift[:, others], axis=0)).max() < 1e-3


def test_envelope_follows_a_known_filter() -> None:
    """The cepstrum of a voice through a known filter minus that without it is that filter's own mel cepstrum."""
    sound = voice(100, 2.0)
    radius, angle = 0.97, 2 * np.pi * 2500 / RATE_HZ
    poles = [1, -2 * radius * np.cos(angle), radius**2]
    plain = covarep_features(0.2 * sound, RATE_HZ)
    filtered = covarep_features(0.02 * lfilter([1.0], poles, sound), RATE_HZ)
    mcep = slice(COLUMNS.index("MCEP_0"), COLUMNS.index("MCEP_24") + 1)
    change = np.median(middle(filtered.values[:, mcep] - plain.values[:, mcep]), axis=0)

    # The filter's log amplitude on a mel axis (2595 log10(1 + f/700)), as cosine series: c0, 2·c1 … 2·c24.
    mel = np.linspace(0, 2595 * np.log10(1 + RATE_HZ / 2 / 700), 2049)
    hz = 700 * (10 ** (mel / 2595) - 1)
    response = 1 / np.polyval(poles[::-1], np.exp(-2j * np.pi * hz / RATE_HZ))
    log_amplitude = np.log(np.abs(0.1 * response))
    cepstrum = np.fft.irfft(log_amplitude)[:25]
    cepstrum[1:] *= 2
    assert np.corrcoef(change[1:], cepstrum[1:])[0, 1] > 0.95


ODD = {
    "one sample": np.ones(1) * 0.1,
    "fifty milliseconds": voice(120, 0.05),
    "two hundred milliseconds": voice(120, 0.2),
    "constant": np.full(8000, 0.5),
    "clipped": np.clip(20 * voice(120, 0.6), -1, 1),
    "offset": voice(120, 0.6) + 0.4,
    "digital gaps": np.where(np.arange(9600) // 1600 % 2, voice(120, 0.6), 0.0),
    "eight bits": np.round(voice(120, 0.6) * 127) / 127,
    "one impulse": np.eye(1, 8000, 4000)[0],
    "very quiet": 1e-7 * voice(120, 0.6),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_sounds_give_finite_rows(name: str) -> None:
    track = covarep_features(ODD[name], RATE_HZ)  # the track itself refuses NaN and infinity
    assert len(track) == pytest.approx(len(ODD[name]) / 160, abs=1)
    assert np.isfinite(track.values).all()


def test_no_sound_is_an_empty_track() -> None:
    track = covarep_features(np.zeros(0), RATE_HZ)
    assert (len(track), track.reason) == (0, "no_audio")


def test_digital_silence_inside_is_not_observed() -> None:
    sound = voice(120, 1.5)
    sound[8000:16000] = 0.0
    track = covarep_features(sound, RATE_HZ)
    assert not track.valid[60:90].any()
    assert track.valid[10:40].all()


# Worst correlation over these recordings that the columns reach today; the next issue of the acoustic room raises them.
REACHED = {"F0": 0.999, "VUV": 0.999, "NAQ": 0.999, "QOQ": 0.999, "H1H2": 0.999, "MDQ": 0.999, "peakSlope": 0.9999}
REACHED |= {"Rd": 0.97, "Rd_conf": 0.999, "PSP": 0.75} | {f"MCEP_{i}": 0.99 for i in range(25)}
REACHED |= {f"HMPDD_{i}": 0.85 for i in range(13)}


@pytest.mark.shared
@pytest.mark.parametrize("name", ["libri_f367_16k", "bdl_m_32k", "arctic_m_inverted_16k", "babble0dB_16k"])
def test_agreement_with_the_recorded_reference(name: str, shared_data: Path) -> None:
    import soundfile

    folder = shared_data / "covarep" / name
    assert tuple(json.loads((folder.parent / "feature_names.json").read_text())) == COLUMNS
    samples, rate_hz = soundfile.read(folder / f"{name}.wav")
    reference = np.nan_to_num(np.load(folder / "covarep.npy"), posinf=0, neginf=0)
    ours = covarep_features(samples, rate_hz, mode="compat").values
    assert len(ours) == pytest.approx(len(reference), abs=1)
    n_rows = min(len(ours), len(reference))
    for column_name, least in REACHED.items():
        i = COLUMNS.index(column_name)
        assert np.corrcoef(ours[:n_rows, i], reference[:n_rows, i])[0, 1] >= least, column_name
