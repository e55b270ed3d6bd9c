"""Each acoustic stage against something it did not make: scipy, equations written out, signals with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz
from scipy.signal import freqz, lfilter, windows
from scipy.stats import skew

from extractors.acoustic.envelope import harmonics_and_cepstra, true_envelope
from extractors.acoustic.frames import hanning, output_instants, to_instants
from extractors.acoustic.gci import (
    closures_at,
    glottal_closures,
    mean_based_signal,
    periods,
    relative_positions,
    turning_points,
)
from extractors.acoustic.glottal import inverse_filter
from extractors.acoustic.lf_rd import estimate_rd, lf_spectrum, minimum_phase
from extractors.acoustic.lpc import fir, leaky_integrator, lpc, symmetric_fir
from extractors.acoustic.phase import mean_groups, phase_distortion
from extractors.acoustic.pitch import (
    at_most_16k,
    decide,
    frame_starts,
    frame_times,
    narrowed,
    outside,
    pitch_residual,
    search,
    srh_pitch,
)
from extractors.acoustic.polarity import polarity_from, polarity_sums, power_sums, skewness, speech_polarity
from extractors.acoustic.residual import lp_residual, raw_residual, residual_peak
from extractors.acoustic.sinusoids import Harmonics, harmonic_frames
from extractors.acoustic.voice_quality import _first_over_second, voice_quality
from extractors.acoustic.wavelet import maxima_dispersion, octave_band, peak_slope
from extractors.acoustic.zoom import fine_power, place, zoom_plan
from tests.acoustic_signals import RATE_HZ, lf_pulse, tract, voice


def test_hanning_is_scipys_without_its_zero_ends() -> None:
    np.testing.assert_allclose(hanning(401), windows.hann(403)[1:-1], atol=1e-12)


def test_interpolation_is_numpys_inside_and_zero_outside() -> None:
    at, values, where = np.array([2.0, 3.0, 7.0]), np.array([1.0, 5.0, -3.0]), np.linspace(0, 9, 91)
    wanted = np.where((where >= 2) & (where <= 7), np.interp(where, at, values), 0)
    np.testing.assert_allclose(to_instants(at, values, where), wanted, atol=1e-12)


def test_reference_instants() -> None:
    np.testing.assert_array_equal(output_instants(500, 16000, "compat"), [80, 240, 400])
    np.testing.assert_array_equal(output_instants(1200, 44100, "compat"), [221, 662, 1103])  # 220.5 rounds away from 0


def test_lpc_solves_the_normal_equations() -> None:
    frame = np.random.default_rng(0).standard_normal(400) * windows.hann(400)
    lags = np.correlate(frame, frame, "full")[399 : 399 + 19]
    wanted = np.concatenate([[1], -solve_toeplitz(lags[:-1], lags[1:])])
    np.testing.assert_allclose(lpc(frame, 18), wanted, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(fir(wanted, frame), lfilter(wanted, [1.0], frame), atol=1e-10)
    np.testing.assert_allclose(leaky_integrator(frame, 0.99), lfilter([1.0], [1, -0.99], frame), atol=1e-10)


@pytest.mark.parametrize("n", [20, 120, 700])
def test_symmetric_filter_is_numpys_convolution(n: int) -> None:
    rng = np.random.default_rng(6)
    half, frame = rng.standard_normal(150), rng.standard_normal(n)
    taps = np.concatenate([half[::-1], [0.7], half])
    np.testing.assert_allclose(symmetric_fir(taps, frame), np.convolve(taps, frame)[150 : 150 + n], atol=1e-11)


@pytest.mark.parametrize(
    ("n", "n_fft", "n_bins"),
    [(1598, 16000, 2501), (193, 16000, 8001), (1323, 44100, 900), (37, 11025, 5513), (90, 101, 51)],
)
def test_zoom_is_the_padded_transform(n: int, n_fft: int, n_bins: int) -> None:
    frame = np.random.default_rng(7).standard_normal(n)
    plan = zoom_plan(n, n_fft)
    row, power = np.zeros(plan.size), np.empty(n_bins)
    place(frame, plan.weights, row)
    fine_power(np.fft.rfft(row), plan.size, plan.taps, power)
    wanted = np.abs(np.fft.rfft(frame, n_fft))
    np.testing.assert_allclose(np.sqrt(power), wanted[:n_bins], atol=1e-11 * wanted.max())


def test_residual_undoes_a_known_filter() -> None:
    pulses = np.zeros(RATE_HZ)
    pulses[200::160] = 1.0
    residual = lp_residual(lfilter([1.0], tract(), pulses), RATE_HZ)
    peaks = np.sort(np.argsort(residual)[-80:])
    inner = peaks[(peaks > 1000) & (peaks < 15000)]
    assert np.all((inner - 200) % 160 == 0)


def test_polarity_of_both_ways_up() -> None:
    samples = voice(110, 1.0)
    assert speech_polarity(samples, RATE_HZ) == 1.0
    assert speech_polarity(-samples, RATE_HZ) == -1.0


def test_skewness_is_scipys() -> None:
    values = np.random.default_rng(8).gamma(2.0, size=5000) - 1.0
    assert skewness(power_sums(values)) == pytest.approx(skew(values), rel=1e-9)
    assert skewness(power_sums(np.full(50, 0.3))) == 0.0
    assert skewness(power_sums(np.zeros(0))) == 0.0


def test_pitch_does_not_depend_on_loudness() -> None:
    residual = pitch_residual(voice(120, 0.5), RATE_HZ)
    starts = frame_starts(len(residual), RATE_HZ)
    loud, quiet = search(residual, starts, RATE_HZ), search(residual * 1e-9, starts, RATE_HZ)
    np.testing.assert_array_equal(loud[0], quiet[0])
    np.testing.assert_allclose(loud[1], quiet[1], rtol=1e-9)
    silent = search(np.zeros(4000), frame_starts(4000, RATE_HZ), RATE_HZ)
    assert (silent[0] == 1).all()
    assert np.isnan(silent[1]).all()


def test_scores_are_the_sums_written_out() -> None:
    residual = pitch_residual(voice(140, 0.3), RATE_HZ)
    starts = frame_starts(len(residual), RATE_HZ)[:5]
    for mode, offset in (("fixed", 0), ("compat", 1)):
        for f0, score, start in zip(*search(residual, starts, RATE_HZ, mode), starts, strict=True):
            frame = residual[start : start + 1598] * np.blackman(1598)
            amplitude = np.abs(np.fft.rfft(frame - frame.mean(), RATE_HZ))[:8000]
            amplitude /= np.linalg.norm(amplitude)
            f = np.arange(50, 501)
            on = sum(amplitude[h * f - offset] for h in range(1, 6))
            between = sum(amplitude[np.floor((h + 0.5) * f + 0.5).astype(int) - offset] for h in range(1, 5))
            assert f0 == f[np.argmax(on - between)]
            assert score == pytest.approx((on - between).max(), abs=1e-9)


def test_pitch_follows_a_glide() -> None:
    f0 = np.linspace(110, 190, 2 * RATE_HZ)
    phase = np.cumsum(f0) / RATE_HZ
    pulses = np.diff(np.floor(phase), prepend=0.0)
    spoken = lfilter([1.0], np.convolve([1, -0.97], tract()), pulses)
    track = srh_pitch(spoken / np.abs(spoken).max(), RATE_HZ)
    wanted = np.interp(track.time_s, np.arange(2 * RATE_HZ) / RATE_HZ, f0)
    assert np.mean(np.abs(track.f0_hz - wanted) < 4) > 0.95
    assert track.voiced.mean() > 0.95


def test_faster_audio_is_brought_to_16_khz() -> None:
    t = np.arange(44100) / 44100
    down, rate_hz = at_most_16k(np.sin(2 * np.pi * 440 * t), 44100)
    assert (rate_hz, len(down)) == (16000, 16000)
    inner = slice(1000, -1000)
    np.testing.assert_allclose(down[inner], np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)[inner], atol=2e-3)


def test_closures_are_found_within_half_a_millisecond() -> None:
    samples = voice(100.0, 1.0, rd=0.8)
    closures = glottal_closures(samples, lp_residual(samples, RATE_HZ), RATE_HZ, 100.0)
    te = np.argmin(lf_pulse(0.8, 4096)) / 4096  # where the flow derivative is steepest
    truth = (np.arange(100) + te) * 160
    inner = truth[(truth > 1600) & (truth < 14400)]
    distance = np.abs(closures[None, :] - inner[:, None]).min(axis=1)
    assert np.mean(distance <= 8) > 0.95
    assert abs(np.sum((closures > 1600) & (closures < 14400)) - len(inner)) <= 3


def test_inverse_filter_finds_the_glottal_pulse() -> None:
    samples = voice(100.0, 1.0, rd=1.2)
    truth = np.tile(lf_pulse(1.2, 160), 100)
    closures = np.arange(1, 99) * 160 + int(np.argmin(truth[:160]))
    _, derivative = inverse_filter(samples, closures, RATE_HZ)
    inner = slice(4000, 12000)
    lagged = [np.corrcoef(derivative[inner], np.roll(truth, lag)[inner])[0, 1] for lag in range(-4, 12)]
    assert max(lagged) > 0.85


def test_inverse_filter_cuts_the_last_frame_off_at_the_end() -> None:
    samples = voice(100.0, 0.5)
    pair = np.array([7700, 7900])  # the second frame would end at 8100
    _, derivative = inverse_filter(samples, pair, RATE_HZ)
    assert np.abs(derivative[7901:7990]).max() > 1e-3
    _, padded = inverse_filter(np.append(samples, np.zeros(200)), pair, RATE_HZ)
    assert len(derivative) == 8000
    assert not np.allclose(derivative[7710:], padded[7710:8000], atol=1e-6)  # its window is as short as it is


def test_voice_quality_of_half_sine_pulses() -> None:
    period, width, n_cycles = 160, 100, 40
    pulse = np.concatenate([np.sin(np.pi * np.arange(width) / width), np.zeros(period - width)])
    flow = np.tile(pulse, n_cycles)
    derivative = np.gradient(flow)
    closures = np.arange(1, n_cycles) * period + width
    values = voice_quality(flow, derivative, closures, RATE_HZ)[5:-5]
    np.testing.assert_allclose(values[:, 0], 1 / (np.pi / width) / period, rtol=0.02)  # amplitude over steepest slope
    np.testing.assert_allclose(values[:, 1], width * 2 / 3 / period, atol=2 / period)  # sin > ½ over two thirds


@pytest.mark.parametrize("wanted_db", [-3.0, 0.0, 8.0])
def test_h1h2_of_known_harmonics(wanted_db: float) -> None:
    t = np.arange(RATE_HZ) / RATE_HZ
    levels_db = np.array([0.0, -wanted_db, -10, -14, -18, -22, -26, -30])
    derivative = sum(10 ** (level / 20) * np.cos(2 * np.pi * 125 * (h + 1) * t) for h, level in enumerate(levels_db))
    closures = np.arange(10, 110) * 128
    values = voice_quality(np.zeros(RATE_HZ), np.asarray(derivative), closures, RATE_HZ)
    np.testing.assert_allclose(values[5:-5, 2], wanted_db, atol=0.3)


def test_h1h2_of_part_of_the_spectrum_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(9)
    told = 0
    for _ in range(400):
        f0, n = rng.uniform(60, 400), int(rng.integers(150, 600))
        tones = np.cos(2 * np.pi * f0 * rng.uniform(0.9, 1.1) * np.arange(1, 9)[:, None] * np.arange(n) / RATE_HZ).sum(
            0
        )
        frame = (tones * rng.uniform(0, 1) + rng.standard_normal(n) * rng.uniform(0, 2)) * np.hamming(n)
        power = np.abs(np.fft.rfft(frame, RATE_HZ)) ** 2
        part = _first_over_second(power[: int(7 * f0)], f0, 0, False)
        if not np.isnan(part):
            told += 1
            assert part == _first_over_second(power, f0, 0, True)
    assert told > 200


def parabola(level_db: np.ndarray) -> float:
    """Alku's fit with numpy: a·k² + b over bins 0..N−1, N growing from 3 until the error is 1 % of the energy."""
    n = 3
    while True:
        k = np.arange(n)
        coefficients = np.linalg.lstsq(np.stack([k**2, np.ones(n)], axis=1), level_db[:n], rcond=None)[0]
        error = level_db[:n] - coefficients[0] * k**2 - coefficients[1]
        if np.sum(error**2) / np.sum(level_db[:n] ** 2) >= 0.01:
            return float(coefficients[0])
        n += 1


def test_a_pause_is_no_cycle() -> None:
    t = np.arange(RATE_HZ) / RATE_HZ
    derivative = sum(np.cos(2 * np.pi * 125 * h * t) / h for h in range(1, 9))
    flow = np.cumsum(np.asarray(derivative))
    closures = np.concatenate([np.arange(10, 30), np.arange(34, 60), [80]]) * 128  # pauses of 5 and 21 cycles
    bridged, told = (voice_quality(flow, np.asarray(derivative), closures, RATE_HZ, 0, limit) for limit in (None, 320))
    np.testing.assert_array_equal(told[20, [0, 1, 3]], 0)  # after the first pause
    assert told[20, 2] == pytest.approx(told[25, 2], abs=0.5)
    np.testing.assert_array_equal(told[46], 0)  # alone after the second
    assert (bridged[20, :2] > 0).all()
    np.testing.assert_allclose(told[1:20], bridged[1:20], atol=1e-9)
    np.testing.assert_array_equal(told[0, :2], 0)


def test_psp_is_the_ratio_of_two_parabolas() -> None:
    pulse = np.hanning(160) ** 1.3
    flow = np.tile(pulse, 30)
    psp = voice_quality(flow, np.gradient(flow), np.arange(1, 29) * 160, RATE_HZ)[2:-2, 3]
    cycle = flow[160:321]
    rows = cycle / cycle.max(), np.full(160, 1 / 160)
    spectra = (20 * np.log10(np.abs(np.fft.rfft(row, 2048)[:400]) + 1e-300) for row in rows)
    wanted = [parabola(level) for level in spectra]
    np.testing.assert_allclose(psp, wanted[0] / wanted[1], rtol=1e-6)
    assert 0 < psp[0] < 1  # a round pulse falls more slowly over the first bins than a box


def test_octave_band_is_the_convolution_written_out() -> None:
    samples = np.random.default_rng(2).standard_normal(3000)
    n = np.arange(-1000, 1001)
    for scale in (1, 8, 64):
        wavelet = -np.cos(np.pi * n / scale) * np.exp(-((n / scale) ** 2) / 2)
        np.testing.assert_allclose(
            octave_band(samples, scale), np.convolve(samples, wavelet)[1000:4000], atol=1e-9 * scale
        )


def test_sharp_closures_have_the_smallest_dispersion() -> None:
    closures = np.arange(5, 95) * 160
    sharp = np.zeros(RATE_HZ)
    sharp[closures] = -1.0
    spread = np.convolve(sharp, np.random.default_rng(3).standard_normal(60), mode="same")
    perfect = maxima_dispersion(sharp, closures)
    np.testing.assert_allclose(perfect[1:-1], 1 / 160)  # a perfect hit counts one sample of the period
    assert np.median(maxima_dispersion(spread, closures)) > 3 / 160


def test_the_reference_begins_midway_searches_one_sample_earlier() -> None:
    """Its rounding takes −10.5 to −11: so in clips whose closures lie at a twentieth of rises of 35 samples."""
    residual = np.zeros(100)
    residual[[9, 10]] = 1.0, 0.5  # 20 − 11 and 20 − 10
    found = [closures_at(residual, np.array([20]), np.array([55]), 0.05, away).tolist() for away in (True, False)]
    assert found == [[9], [10]]


def test_rounding_does_not_choose_maxima_in_silence() -> None:
    """Fourier transforms leave 1e-16 in digital silence, another one in every piece of a file."""
    residual = np.zeros(8000)
    residual[:4000] = np.random.default_rng(0).uniform(-1, 1, 4000)
    closures = np.arange(4000, 7900, 130)
    whole = maxima_dispersion(residual, closures)
    for start in range(160, 3200, 160):
        piece = maxima_dispersion(residual[start:], closures - start)
        np.testing.assert_allclose(piece[1:], whole[1:], atol=1e-9)


def test_peak_slope_of_a_tone_falls_away_from_its_octave() -> None:
    t = np.arange(RATE_HZ) / RATE_HZ
    low, high = (peak_slope(np.sin(2 * np.pi * hz * t), RATE_HZ)[1][20:-20] for hz in (125, 8000 / 2))
    assert (low < -0.3).all()
    assert (high > 0).all()
    silent = np.concatenate([np.zeros(8000), np.sin(2 * np.pi * 300 * t)])
    assert np.isfinite(peak_slope(silent, RATE_HZ, floor=1e-10)[1]).all()


def test_peak_slope_at_the_edges_of_digital_silence() -> None:
    samples = np.random.default_rng(11).standard_normal(6000)
    samples[1500:4321] = 0.0
    peaks = []
    n = np.arange(-1000, 1001)
    for scale in 2 ** np.arange(7):
        wavelet = -np.cos(np.pi * n / scale) * np.exp(-((n / scale) ** 2) / 2)
        band = np.abs(np.convolve(samples, wavelet)[1000:7000])
        peaks.append([band[at : at + 640].max() for at in range(0, 6000 - 639, 160)])
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log10(peaks)
        wanted = np.nan_to_num(-(np.arange(-3, 4) @ level) / 28, nan=0.0, neginf=-np.inf)
    found = peak_slope(samples, RATE_HZ)[1]
    assert np.isinf(wanted).any()
    assert (wanted == 0).any()
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_the_closure_after_a_pause_takes_the_next_cycle() -> None:
    closures = np.array([100, 200, 310, 5000, 5120, 9000, 20000])
    np.testing.assert_array_equal(periods(closures), [100, 100, 110, 4690, 120, 3880, 11000])
    np.testing.assert_array_equal(periods(closures, 800), [100, 100, 110, 120, 120, 800, 800])


class InBlocks:
    """Five seconds of gliding voice with a pause in the middle, cut in the pause; two seconds of margin."""

    cut, margin = 40000, 32000

    def __init__(self) -> None:
        n = 5 * RATE_HZ
        phase = np.cumsum(np.linspace(100, 170, n)) / RATE_HZ
        source = np.interp(phase % 1.0 * 4096 - 0.5, np.arange(4096), lf_pulse(1.0, 4096))
        loudness = np.interp(np.arange(n) / RATE_HZ, [0, 2.3, 2.35, 2.6, 2.65, 5], [1, 0.5, 0, 0, 0.8, 0.3])
        spoken = lfilter([1.0], tract(), source * loudness)
        spoken /= 2 * np.abs(spoken).max()
        self.signal = spoken + 1e-4 * np.random.default_rng(10).standard_normal(n)
        # samples of the block, and its core counted in the block
        self.blocks = [
            (slice(0, self.cut + self.margin), slice(0, self.cut)),
            (slice(self.cut - self.margin, n), slice(self.margin, n - self.cut + self.margin)),
        ]

    def joined(self, stage) -> np.ndarray:
        """``stage`` (block's samples → one value a sample) over all cores."""
        return np.concatenate([stage(self.signal[block])[core] for block, core in self.blocks])


@pytest.fixture(scope="module")
def in_blocks() -> InBlocks:
    return InBlocks()


def test_polarity_adds_up_over_blocks(in_blocks: InBlocks) -> None:
    whole = polarity_sums(in_blocks.signal, RATE_HZ)
    sums = sum(polarity_sums(in_blocks.signal[block], RATE_HZ, core) for block, core in in_blocks.blocks)
    np.testing.assert_allclose(sums, whole, rtol=1e-7, atol=1e-9)
    assert polarity_from(np.asarray(sums)) == polarity_from(whole) == 1.0


def test_residual_of_blocks(in_blocks: InBlocks) -> None:
    whole = lp_residual(in_blocks.signal, RATE_HZ)
    peak = residual_peak(in_blocks.joined(lambda samples: raw_residual(samples, RATE_HZ)))
    joined = in_blocks.joined(lambda samples: lp_residual(samples, RATE_HZ, peak=peak))
    np.testing.assert_allclose(joined, whole, atol=1e-12)
    assert np.abs(joined).max() == pytest.approx(1.0)


@pytest.mark.parametrize("mode", ["fixed", "compat"])
def test_pitch_of_blocks(in_blocks: InBlocks, mode: str) -> None:
    whole = srh_pitch(in_blocks.signal, RATE_HZ, mode)
    parts = []
    for block, core in in_blocks.blocks:
        residual = pitch_residual(in_blocks.signal[block], RATE_HZ, mode)
        starts = frame_starts(len(residual), RATE_HZ)
        starts = starts[(starts >= core.start) & (starts < core.stop)]
        parts.append((residual, starts, *search(residual, starts, RATE_HZ, mode)))
    range_hz = narrowed(*(np.concatenate([part[i] for part in parts]) for i in (2, 3)))
    n_again = 0
    for residual, starts, f0, score in parts:
        again = outside(f0, score, range_hz)
        f0[again], score[again] = search(residual, starts[again], RATE_HZ, mode, range_hz)
        n_again += len(again)
    first = [block.start for block, _ in in_blocks.blocks]
    time_s = np.concatenate([frame_times(part[1] + at, RATE_HZ) for at, part in zip(first, parts, strict=True)])
    pitch = decide(time_s, *(np.concatenate([part[i] for part in parts]) for i in (2, 3)), mode)
    assert n_again > 5
    np.testing.assert_allclose(pitch.time_s, whole.time_s)
    np.testing.assert_array_equal(pitch.f0_hz, whole.f0_hz)
    np.testing.assert_array_equal(pitch.voiced, whole.voiced)
    np.testing.assert_allclose(pitch.score, whole.score, atol=1e-9)
    assert pitch.median_hz == whole.median_hz


def test_closures_and_their_qualities_of_blocks(in_blocks: InBlocks) -> None:
    signal, longest = in_blocks.signal, RATE_HZ // 20
    residual = lp_residual(signal, RATE_HZ)
    whole = glottal_closures(signal, residual, RATE_HZ, 130.0)

    def qualities(samples: np.ndarray, residual: np.ndarray, closures: np.ndarray) -> np.ndarray:
        flow, derivative = inverse_filter(samples, closures, RATE_HZ, longest)
        values = voice_quality(flow, derivative, closures, RATE_HZ, 0, longest)
        return np.column_stack([values, maxima_dispersion(residual, closures, longest)])

    cycles = [turning_points(mean_based_signal(signal[block], RATE_HZ, 130.0)) for block, _ in in_blocks.blocks]
    positions = [
        relative_positions(residual[block], *pair, core)
        for (block, core), pair in zip(in_blocks.blocks, cycles, strict=True)
    ]
    ratio = float(np.median(np.concatenate(positions)))
    found, values = [], []
    for (block, core), pair in zip(in_blocks.blocks, cycles, strict=True):
        closures = closures_at(residual[block], *pair, ratio)
        inside = (closures >= core.start) & (closures < core.stop)
        found.append(closures[inside] + block.start)
        values.append(qualities(signal[block], residual[block], closures)[inside])
    np.testing.assert_array_equal(np.concatenate(found), whole)
    np.testing.assert_allclose(np.concatenate(values), qualities(signal, residual, whole), atol=1e-6)


def test_peak_slope_of_blocks(in_blocks: InBlocks) -> None:
    loudest = float(np.abs(in_blocks.signal).max())
    _, whole = peak_slope(in_blocks.signal, RATE_HZ, 1e-10, loudest)
    joined = []
    for block, core in in_blocks.blocks:
        _, slope = peak_slope(in_blocks.signal[block], RATE_HZ, 1e-10, loudest)
        joined.append(slope[core.start // 160 : core.stop // 160])
    np.testing.assert_allclose(np.concatenate(joined), whole, atol=1e-9)
    silence = np.zeros(RATE_HZ)
    np.testing.assert_allclose(peak_slope(silence, RATE_HZ, 1e-10, loudest)[1], 0, atol=1e-12)  # all bands at the floor


def test_harmonics_of_known_amplitude_and_phase() -> None:
    t = np.arange(RATE_HZ) / RATE_HZ
    amplitude, phase = np.array([0.5, 0.2, 0.1, 0.05]), np.array([0.3, -1.2, 2.0, 0.7])
    samples = sum(
        a * np.cos(2 * np.pi * 200 * (h + 1) * t + p) for h, (a, p) in enumerate(zip(amplitude, phase, strict=True))
    )
    time_s = np.arange(0.1, 0.9, 0.01)
    found = harmonic_frames(np.asarray(samples), RATE_HZ, time_s, np.full(len(time_s), 200.0))
    at = found.time_s[:, None] * 200 * 2 * np.pi * np.arange(1, 5)[None, :]
    np.testing.assert_allclose(2 * found.amplitude[:, 1:5], np.tile(amplitude, (len(at), 1)), rtol=0.01)
    np.testing.assert_allclose(np.angle(np.exp(1j * (found.phase[:, 1:5] - phase - at))), 0, atol=0.03)
    np.testing.assert_allclose(found.spacing_hz, 200, atol=0.5)


@pytest.mark.parametrize("rd", [0.5, 1.0, 2.0])
def test_lf_spectrum_is_that_of_the_pulse_in_time(rd: float) -> None:
    n = 1 << 14
    coefficients = np.fft.fft(lf_pulse(rd, n)) / n
    shifted = coefficients[1:31] * np.exp(-1j * np.pi * np.arange(1, 31) / n)  # samples sit at half steps
    mine = lf_spectrum(np.array([rd]), 30)[0]
    assert np.abs(mine - shifted).max() < 0.01 * np.abs(shifted[0])


def test_minimum_phase_is_that_of_an_all_pole_filter() -> None:
    _, response = freqz([1.0], tract(), worN=np.linspace(0, np.pi, 2049))
    mine = minimum_phase(np.log(np.abs(response))[None])[0]
    np.testing.assert_allclose(mine, np.unwrap(np.angle(response)), atol=0.01)


@pytest.mark.parametrize("rd", [0.5, 0.9, 1.4, 2.1])
def test_rd_of_a_known_pulse(rd: float) -> None:
    n = 60
    spectrum = np.fft.fft(lf_pulse(rd, 1 << 14))[: n + 1] / (1 << 14)
    harmonics = Harmonics(
        np.array([0]), np.array([0.1]), np.array([120.0]), np.array([120.0]), np.array([n]),
        np.abs(spectrum)[None], np.angle(spectrum)[None],
    )  # fmt: skip
    found, confidence = estimate_rd(harmonics, RATE_HZ, "fixed")
    assert found[0] == pytest.approx(rd, abs=0.05)
    assert confidence[0] > 0.95
    assert estimate_rd(harmonics, RATE_HZ, "compat")[1][0] < confidence[0]  # the sign of the LF phase matters


def test_true_envelope_touches_the_peaks() -> None:
    bins = np.arange(2049)
    shape = -2 + np.cos(bins / 2048 * np.pi * 3)
    comb = shape + np.log(np.abs(np.cos(bins / 2048 * np.pi * 40)) + 1e-3)
    curve = true_envelope(comb[None], np.array([48]))[0]
    assert (comb - curve).max() <= 2 * np.log(10) / 20 + 1e-9
    assert np.abs(curve - shape)[50:-50].max() < 0.5


def test_cepstra_of_a_known_filter() -> None:
    pulses = np.zeros(RATE_HZ)
    pulses[::128] = 1.0
    samples = lfilter([1.0], tract(), pulses)
    time_s = np.arange(0.2, 0.8, 0.01)
    _, cepstra = harmonics_and_cepstra(samples, RATE_HZ, time_s, np.full(len(time_s), 125.0), "compat")
    hz = np.linspace(0, 8000, 2049)
    _, response = freqz([1.0], tract(), worN=hz, fs=2 * 8000.0001)
    mel = np.linspace(0, np.log1p(8000 / 700), 2049)
    warped = np.log(np.interp(700 * np.expm1(mel), hz, np.abs(response)))
    wanted = np.fft.irfft(warped)[:25] * np.where(np.arange(25) > 0, 2, 1)
    median = np.median(cepstra, axis=0)
    assert np.corrcoef(median[1:16], wanted[1:16])[0, 1] > 0.97
    assert np.abs(median[1:16] - wanted[1:16]).max() < 0.25


def test_phase_groups_and_steady_phases() -> None:
    groups = mean_groups()
    assert list(groups[:8]) == list(range(8))
    assert groups[-1] == 24
    assert (np.diff(groups) >= 0).all()
    assert set(groups) == set(range(25))
    # the same pulse everywhere: no deviation, up to its floor; random phases: a large one
    n_frames, n = 120, 50
    amplitude = np.tile(1 / np.arange(1, n + 2), (n_frames, 1))
    base = [np.arange(n_frames), np.arange(n_frames) / 100, np.full(n_frames, 150.0), np.full(n_frames, 150.0)]
    steady = np.tile(np.linspace(0, 3, n + 1), (n_frames, 1))
    random = np.random.default_rng(4).uniform(-np.pi, np.pi, (n_frames, n + 1))
    level = [
        phase_distortion(Harmonics(*base, np.full(n_frames, n), amplitude, phase), RATE_HZ)[1][20:-20, 0]
        for phase in (steady, random)
    ]
    assert level[0].max() < np.log(0.01)
    assert level[1].min() > level[0].max() + 2
