"""Creaky voice: measurements of irregular, widely spaced glottal pulses, and a posterior 0..1 made of them.

In: upright mono signal (N,) at any rate, pitch track. Out: measurements (M, 31), in ``compat`` (M, 36), and posterior (M,)
every 10 ms.
Sources: Ishi, Sakakibara, Ishiguro & Hagita 2008 (short-term power contour, intra-frame periodicity); Drugman, Kane &
Gobl 2012, 2014 (residual resonator, H2−H1, residual peak prominence).
Measurements depend on the block of signal they come from, the posterior on all rows of a file.

    time_s, features = creak_features(signal, 16000, pitch)
    posterior = creak_posterior(features, len(signal) / 16000)
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extractors.acoustic.frames import HOP_S, to_instants
from extractors.acoustic.pitch import Pitch, at_most_16k
from extractors.acoustic.residual import raw_residual
from extractors.weights import check_sha256

WEIGHTS = Path(__file__).with_name("creak.safetensors")
COMPAT_WEIGHTS = Path(__file__).with_name("creak_compat.safetensors")
CARD = WEIGHTS.with_suffix(".json")

BAND_HZ = (100.0, 1500.0)
FRAME_S = 0.032
FINE_HOP_S = 0.005  # of level and zero crossings
LAGS_S = (0.0025, 0.015)  # periods that count for the intra-frame periodicity
RESONATOR_HZ = 150.0  # bandwidth
RESONATOR_FRAME_S = 0.05
RESONATOR_LAGS_S = (0.002, 0.033)
COMPAT_RESONATOR_HZ, COMPAT_LAGS_S = 315.0, (0.002, 0.025)  # for H2−H1, see _h2h1
HARMONICS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)  # of the median F0
PEAK_REACH_S, PEAK_ITSELF_S = 0.015, 0.006
FLOOR_DB = -120.0
SHORT_S, SHORT_HOP_S, SHORT_REACH, SHORT_FLOOR = 0.004, 0.002, 16, 1e-14  # very short-term power; 33 frames per row
MEDIAN_ROWS, AROUND_ROWS = 9, 81  # smoothing of the level contour; reach of the loudest frame around it

FRAME_FEATURES = (
    "silent", "log_nonzero", "ifp_highest", "ifp_lowest", "ifp_mean", "log_period_s", "log_f0", "voiced", "srh_score",
    "log_median_f0", "log_f0_over_median", "resonator_r", "resonator_log_f0", "h2h1_resonator_db", "h2h1_pitch_db",
    *(f"resonator_{h}_f0_db" for h in HARMONICS), "prominence_resonator", "prominence_residual",
)  # fmt: skip
FINE_FEATURES = ("energy_db", "all_zero", "zero_crossing_rate")
FEATURES = (*FRAME_FEATURES, *(f"{name}_{i}" for name in FINE_FEATURES for i in range(2)))
SHORT_FEATURES = ("power_deviation_db", "any_empty", "share_empty")
COMPAT_FEATURES = (*FEATURES, *SHORT_FEATURES, "h2h1_db", "h2h1_log_f0")
RESIDUAL = slice(FRAME_FEATURES.index("resonator_r"), FRAME_FEATURES.index("prominence_residual") + 1)
CONTOURS = (
    "zero_crossing_rate", "below_files_loudest_db", "below_loudest_db", "median_below_loudest_db",
    "median_of_below_loudest_db", "all_zero", "mostly_zero",
)  # fmt: skip
SMOOTH_ROWS = 11  # 100 ms: of the lengths tried, H2−H1 told most of the reference so
LOST = -5.0  # stands for residual features that the reference has lost
EARLIER_FRAMES = 4  # 20 ms: zero crossings as the reference counts them, to the resolution of 5 ms
AFTER_SILENCE = (*FRAME_FEATURES[: RESIDUAL.start], *CONTOURS, "earlier_zero_crossing_rate", *SHORT_FEATURES)
BEFORE_SILENCE = (*AFTER_SILENCE, "h2h1_db_smooth", "h2h1_log_f0")
BEFORE_SILENCE_SHARE, AFTER_SILENCE_SHARE = 0.25, 0.5  # more of the first and recordings of other origin agree less
BEFORE_ROWS, AFTER_ROWS = 3, 2  # what the network sees of the neighbours
CHUNK_ROWS, MARGIN_ROWS = 4096, 8


@dataclass(frozen=True)
class Networks:
    """Weights by name: ``seed.layer.weight`` of the networks of both modes, ``kind.seed.layer.weight`` of those of ``compat``.

    The kinds are ``before_silence`` and ``after_silence``.
    """

    always: dict[str, np.ndarray]
    compat: dict[str, np.ndarray]


def _frames(values: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Rows of values from starts on (negative ones too), zeros outside, (M, length)."""
    padded = np.concatenate([np.zeros(length), values, np.zeros(length)])
    rows = np.lib.stride_tricks.sliding_window_view(padded, length)
    return rows[np.minimum(starts + length, len(rows) - 1)]


def _sums(values: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Sums of values over windows, zeros outside, (M,)."""
    cumulated = np.concatenate([[0.0], np.cumsum(values)])
    n = len(values)
    return cumulated[np.clip(starts + length, 0, n)] - cumulated[np.clip(starts, 0, n)]


def _decibel(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))


def _autocorrelation(rows: np.ndarray, taper: np.ndarray, n_lags: int) -> np.ndarray:
    """Autocorrelation of tapered rows over that of the taper, 1 at lag 0, (M, n_lags)."""
    from scipy.fft import irfft, next_fast_len, rfft

    size = next_fast_len(rows.shape[1] + n_lags, real=True)
    lags = np.asarray(irfft(np.abs(np.asarray(rfft(rows * taper, size, axis=1))) ** 2, size, axis=1))[:, :n_lags]
    own = np.asarray(irfft(np.abs(np.asarray(rfft(taper, size))) ** 2, size))[:n_lags]
    return lags / np.maximum(lags[:, :1], 1e-20) / (own / own[0])


def _highest_peak(lags: np.ndarray, low: int, high: int) -> np.ndarray:
    """Lag of the highest local maximum within low..high, ``low`` where there is none, (M,)."""
    inner = lags[:, low : high + 1]
    peak = (inner > lags[:, low - 1 : high]) & (inner >= lags[:, low + 1 : high + 2])
    return np.where(peak, inner, -9.0).argmax(axis=1) + low


def _at(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(rows, np.minimum(index, rows.shape[1] - 1)[:, None], axis=1)[:, 0]


def _periodicity(rows: np.ndarray, rate_hz: int) -> np.ndarray:
    """Autocorrelation at the strongest period and its multiples: highest, lowest, mean (IFP), log period, (M, 4)."""
    low, high = (int(s * rate_hz) for s in LAGS_S)
    lags = _autocorrelation(rows, np.ones(rows.shape[1]), high + 2)
    period = _highest_peak(lags, low, high)
    first = _at(lags, period)
    lowest, total, count = first.copy(), first.copy(), np.ones(len(rows))
    for multiple in range(2, high // low + 1):
        inside = multiple * period <= high
        value = _at(lags, multiple * period)
        lowest = np.where(inside, np.minimum(lowest, value), lowest)
        total += np.where(inside, value, 0.0)
        count += inside
    return np.stack([first, lowest, total / count, np.log(period / rate_hz)], axis=1)


def _resonance(residual: np.ndarray, median_hz: float, rate_hz: int, bandwidth_hz: float = RESONATOR_HZ) -> np.ndarray:
    """The residual through a second-order resonator at the median F0 (Drugman, Kane & Gobl 2012), (N,)."""
    from scipy.signal import lfilter

    radius = np.exp(-np.pi * bandwidth_hz / rate_hz)
    feedback = [1.0, -2 * radius * np.cos(2 * np.pi * median_hz / rate_hz), radius * radius]
    return np.asarray(lfilter([1.0], feedback, residual))


def _prominence(values: np.ndarray, centres: np.ndarray, rate_hz: int) -> np.ndarray:
    """1 minus the second largest magnitude over the largest one of the frame, more than 6 ms away from it, (M,)."""
    reach, itself = int(PEAK_REACH_S * rate_hz), int(PEAK_ITSELF_S * rate_hz)
    magnitude = np.abs(values)
    top = centres - reach + _frames(magnitude, centres - reach, 2 * reach).argmax(axis=1)
    rows = _frames(magnitude, np.clip(top, 0, len(values) - 1) - reach, 2 * reach)
    aside = np.maximum(rows[:, : reach - itself].max(axis=1), rows[:, reach + itself + 1 :].max(axis=1))
    return np.clip(1 - aside / np.maximum(rows[:, reach], 1e-9), -3, 1)


def _resonator_features(rows: np.ndarray, f0_hz: np.ndarray, median_hz: float, rate_hz: int) -> np.ndarray:
    """Autocorrelation peak, log F0 at it, H2−H1 there and at the pitch track, levels at parts of the median, (M, 12)."""
    from scipy.fft import rfft

    taper = np.hanning(rows.shape[1] + 2)[1:-1]
    low, high = (int(s * rate_hz) for s in RESONATOR_LAGS_S)
    lags = _autocorrelation(rows, taper, high + 2)
    period = _highest_peak(lags, low, high)
    size = 4096
    level = 20 * np.log10(np.abs(np.asarray(rfft(rows * taper, size, axis=1)))[:, : size // 8] + 1e-9)
    bin_hz = rate_hz / size

    def rise(f0: np.ndarray) -> np.ndarray:
        first, second = (np.round(k * f0 / bin_hz).astype(int) for k in (1, 2))
        return _at(level, second) - _at(level, first)

    parts = level[:, np.minimum(np.round(np.array(HARMONICS) * median_hz / bin_hz).astype(int), size // 8 - 1)]
    f0 = rate_hz / period
    known = np.where(f0_hz > 20, f0_hz, median_hz)
    head = np.stack([_at(lags, period), np.log(f0), rise(f0), rise(known)], axis=1)
    return np.concatenate([head, parts - parts.max(axis=1, keepdims=True)], axis=1)


def _h2h1(residual: np.ndarray, median_hz: float, rate_hz: int, n_rows: int) -> np.ndarray:
    """H2−H1 (dB) of the resonator's output and the log F0 it is read at (after Drugman, Kane & Gobl 2012), (M, 2).

    The details are those that explain the reference's posterior best in clips without digital silence.
    Frames of 50 ms have their middles 5 ms before and after each row, which takes their mean. F0 is where the
    autocorrelation of the tapered frame, over the share of samples that overlap at that lag, is highest.
    """
    from scipy.fft import rfft

    resonance = _resonance(residual, median_hz, rate_hz, COMPAT_RESONATOR_HZ)
    length, size = int(RESONATOR_FRAME_S * rate_hz) // 2 * 2, 4096
    middles = np.round((HOP_S * np.arange(n_rows + 1) + HOP_S / 2) * rate_hz).astype(int)
    rows = _frames(resonance, middles - length // 2, length) * np.hanning(length + 2)[1:-1]
    low, high = (int(s * rate_hz) for s in COMPAT_LAGS_S)
    period = low + _autocorrelation(rows, np.ones(length), high)[:, low:].argmax(axis=1)
    level = 20 * np.log10(np.abs(np.asarray(rfft(rows, size, axis=1)))[:, : size // 4] + 1e-9)
    first, second = (np.round(k * size / period).astype(int) for k in (1, 2))
    found = np.stack([_at(level, second) - _at(level, first), np.log(rate_hz / period)], axis=1)
    return (found[:-1] + found[1:]) / 2


def _short_power(signal: np.ndarray, rate_hz: int, n_rows: int) -> np.ndarray:
    """Very short-term power (Ishi et al. 2008) in 33 frames around each row: deviation in dB, empty frames, (M, 3).

    Frames of 4 ms every 2 ms; those outside the signal are left out. Of empty ones: whether any is, and their share.
    """
    length, per_row = int(SHORT_S * rate_hz), round(HOP_S / SHORT_HOP_S)
    frames = np.arange(-SHORT_REACH, per_row * n_rows + SHORT_REACH)  # row r, from 1 on, lies amid frame 5 r - 1
    starts = np.round(SHORT_HOP_S * rate_hz * frames).astype(int)
    inside = (starts >= 0) & (starts + length <= len(signal))
    empty = inside & (_sums((signal != 0.0).astype(float), starts, length) == 0)
    level = 10 * np.log10(np.maximum(_sums(signal * signal, starts, length), 0.0) / length + SHORT_FLOOR)
    around = per_row * np.arange(1, n_rows + 1) - 1  # in ``frames``, which begin 16 earlier
    n, total, squares, n_empty = (
        _sums(np.where(inside, values, 0.0), around, 2 * SHORT_REACH + 1)
        for values in (np.ones(len(frames)), level, level * level, empty)
    )
    n = np.maximum(n, 1)
    deviation = np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0.0))
    return np.stack([deviation, n_empty > 0, n_empty / (2 * SHORT_REACH + 1)], axis=1)


def creak_features(
    signal: np.ndarray, rate_hz: int, pitch: Pitch, mode: str = "fixed"
) -> tuple[np.ndarray, np.ndarray]:
    """Times (s, from the block's start) and measurements every 10 ms from 10 ms on.

    They are (M, len(FEATURES)), in ``compat`` (M, len(COMPAT_FEATURES)).
    ``pitch`` has times from the block's start and the median of the whole file.
    A block must begin at a multiple of 10 ms in the file; rows nearer than 60 ms to its ends are wrong.
    """
    from scipy.signal import butter, sosfiltfilt

    signal, rate_hz = at_most_16k(signal, rate_hz)
    residual = raw_residual(signal, rate_hz, silent=np.nan)
    n_rows = int(len(signal) / (HOP_S * rate_hz))
    time_s = HOP_S * np.arange(1, n_rows + 1)
    if n_rows < 3:
        n_columns = len(COMPAT_FEATURES) if mode == "compat" else len(FEATURES)
        return time_s, np.zeros((n_rows, n_columns), dtype=np.float32)
    starts = np.round(HOP_S * rate_hz * np.arange(n_rows)).astype(int)
    centres = np.round(HOP_S * rate_hz * np.arange(1, n_rows + 1)).astype(int)
    lost = np.isnan(residual)
    residual = np.where(lost, 0.0, residual)
    median_hz = pitch.median_hz or 100.0

    width = int(FRAME_S * rate_hz)
    nonzero = (signal != 0.0).astype(float)
    fine = np.round(FINE_HOP_S * rate_hz * np.arange(2 * n_rows)).astype(int)
    count = _sums(nonzero, fine, width)
    changes = np.diff(signal >= 0.0, prepend=signal[0] >= 0.0).astype(float)  # +0 counts as positive
    crossings = _sums(changes, fine + 1, width - 1) / width
    energy_db = _decibel(_sums(signal * signal, fine, width) / width)
    sos = butter(3, np.array(BAND_HZ) / (rate_hz / 2), "bandpass", output="sos")
    band = np.asarray(sosfiltfilt(sos, signal, padlen=min(30, len(signal) - 1)))
    periodicity = _periodicity(_frames(band, centres, width), rate_hz)
    f0_hz, voiced, score = to_instants(
        np.round(pitch.time_s, 9),  # a row at the last frame's time is inside, whatever the last bit says
        np.stack([pitch.f0_hz, pitch.voiced, np.nan_to_num(pitch.score)], axis=1),
        np.round(time_s, 9),
    ).T
    resonance = _resonance(residual, median_hz, rate_hz)
    length = int(RESONATOR_FRAME_S * rate_hz)
    frames = _frames(resonance, centres - length // 2, length)
    resonator = _resonator_features(frames, f0_hz, median_hz, rate_hz)
    prominence = [_prominence(values, centres, rate_hz) for values in (resonance, residual)]

    silent = _sums(lost.astype(float), starts, centres[0]) > 0
    log_f0, log_median = np.log(np.maximum(f0_hz, 20.0)), np.full(n_rows, np.log(median_hz))
    columns = [silent, np.log2(1 + count[::2]), *periodicity.T]
    columns += [log_f0, voiced, score, log_median, log_f0 - log_median, *resonator.T, *prominence]
    frame_part = np.stack(columns, axis=1)
    fine_part = [values.reshape(n_rows, 2) for values in (energy_db, count == 0, crossings)]
    parts = [frame_part, *fine_part]
    if mode == "compat":
        parts += [_short_power(signal, rate_hz, n_rows), _h2h1(residual, median_hz, rate_hz, n_rows)]
    return time_s, np.concatenate(parts, axis=1).astype(np.float32)


def network_inputs(features: np.ndarray, duration_s: float, mode: str) -> np.ndarray:
    """What the network sees of a whole file's features: (M, 47) float32.

    Levels become relative to the loudest frames; what the residual shows is there row by row and smoothed over 100 ms.
    In the reference, digital silence makes the residual NaN and, through recursive filters, every residual feature after
    it: ``compat`` marks those rows, ``fixed`` none.
    """
    from scipy.ndimage import uniform_filter1d

    rows, fine = _parts(features)
    spoilt = spoilt_rows(features) if mode == "compat" else np.zeros(len(rows), dtype=bool)
    smooth = uniform_filter1d(rows[:, RESIDUAL].astype(float), SMOOTH_ROWS, axis=0, mode="nearest")
    smooth[spoilt] = LOST
    parts = [rows, spoilt[:, None], _contours(fine, duration_s, mode), smooth]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def compat_inputs(features: np.ndarray, duration_s: float) -> tuple[np.ndarray, np.ndarray]:
    """What the networks of ``compat`` see of a whole file's features: before digital silence (M, 24), after it (M, 22).

    They differ in what the residual shows, which the reference has lost after silence.
    """
    from scipy.ndimage import uniform_filter1d

    rows, fine = _parts(features)
    earlier = fine[2][np.maximum(2 * np.arange(1, len(rows) + 1) - EARLIER_FRAMES, 0)]
    short = features[:, len(FEATURES) : len(FEATURES) + len(SHORT_FEATURES)]
    parts = [rows[:, : RESIDUAL.start], _contours(fine, duration_s, "compat"), earlier[:, None], short]
    after = np.concatenate(parts, axis=1, dtype=np.float32)
    h2h1, log_f0 = features[:, -2].astype(float), features[:, -1]
    smooth = uniform_filter1d(h2h1, SMOOTH_ROWS, mode="nearest")
    return np.concatenate([after, np.stack([smooth, log_f0], axis=1)], axis=1, dtype=np.float32), after


def spoilt_rows(features: np.ndarray) -> np.ndarray:
    """Rows in or after digital silence, where the reference has lost what the residual shows, (M,) bool."""
    return np.maximum.accumulate(features[:, FEATURES.index("silent")] > 0)


def _parts(features: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Features by their step: per row (M, 25), every 5 ms (3 times 2 M)."""
    first = len(FRAME_FEATURES)
    fine = np.split(features[:, first : len(FEATURES)], len(FINE_FEATURES), axis=1)
    return features[:, :first], [part.reshape(-1) for part in fine]


def _places(n_rows: int, duration_s: float, mode: str) -> tuple[np.ndarray, int]:
    """Where the rows' times lie among the frames of 5 ms hop (M,), and the number of those frames.

    The reference lays the frames evenly over the file, the first at its first and the last at its last sample, though
    the last one begins 32 ms before the end: ``compat`` does so too, ``fixed`` takes the frame around the row's time.
    """
    time_s = HOP_S * np.arange(1, n_rows + 1)
    n_frames = min(2 * n_rows, max(2, int((duration_s - FRAME_S) / FINE_HOP_S + 1e-6) + 1))
    if mode == "compat":
        return time_s / (duration_s - 1 / 16000) * (n_frames - 1), n_frames
    return (time_s - FRAME_S / 2) / FINE_HOP_S, n_frames


def _contours(fine: list[np.ndarray], duration_s: float, mode: str) -> np.ndarray:
    """Zero crossings, levels below the loudest frame of the file and of .8 s around, digital silence, (M, 7)."""
    from scipy.ndimage import maximum_filter1d, median_filter

    places, n_frames = _places(len(fine[0]) // 2, duration_s, mode)
    level, empty, crossings = (np.interp(places, np.arange(n_frames), values[:n_frames]) for values in fine)
    loudest = float(fine[0][:n_frames].max(initial=FLOOR_DB))

    def below_loudest(values: np.ndarray) -> np.ndarray:
        return values - maximum_filter1d(values, AROUND_ROWS, mode="constant", cval=2 * FLOOR_DB)

    def smooth(values: np.ndarray) -> np.ndarray:
        return median_filter(values, MEDIAN_ROWS, mode="constant", cval=FLOOR_DB)

    below = below_loudest(level)
    contours = [crossings, level - loudest, below, below_loudest(smooth(level)), smooth(below), empty]
    contours.append(median_filter(empty, MEDIAN_ROWS, mode="nearest"))
    return np.stack(contours, axis=1)


def missing_rows(features: np.ndarray, duration_s: float) -> np.ndarray:
    """Rows where the reference has NaN: one of the two times it averages has features both +inf and −inf, (M,) bool.

    Interpolated towards an empty frame the level is −inf, and so are its differences in time; towards the next frame
    with sound the differences are +inf; between two empty frames nothing is left to add up. The first time is missing.
    """
    places, n_frames = _places(len(features), duration_s, "compat")
    empty = _parts(features)[1][1][:n_frames] > 0
    before = np.clip(np.floor(places).astype(int), 0, n_frames - 2)
    entry = ~empty[before] & empty[before + 1]
    filled = ~empty[before] & ~empty[before + 1]
    lost = entry | (np.append(False, entry[:-1]) & filled)
    return lost | np.append(True, lost[:-1])


def windows(rows: np.ndarray) -> np.ndarray:
    """Every row with the three before and the two after it, the ends repeated: (M, d) → (M, 6 d), earliest first."""
    padded = np.pad(rows, ((BEFORE_ROWS, AFTER_ROWS), (0, 0)), mode="edge")
    beside = np.lib.stride_tricks.sliding_window_view(padded, BEFORE_ROWS + 1 + AFTER_ROWS, axis=0)  # (M, d, 6)
    return beside.transpose(0, 2, 1).reshape(len(rows), -1)


def scaled(rows: np.ndarray, network: dict[str, np.ndarray]) -> np.ndarray:
    """Rows (M, d) less the training rows' mean, over their deviation, within ±5."""
    return np.clip((rows - network["mean"]) / network["scale"], -5, 5)


def run_network(rows: np.ndarray, network: dict[str, np.ndarray]) -> np.ndarray:
    """Posterior at the rows' times, (M,): two hidden layers (tanh) over the windows of rows, then logistic."""
    hidden = windows(scaled(rows, network))
    for name in ("entry", "middle"):
        hidden = np.tanh(hidden @ network[f"{name}.weight"].T + network[f"{name}.bias"])
    return 1 / (1 + np.exp(-(hidden @ network["exit.weight"].T + network["exit.bias"])[:, 0]))


def run_networks(rows: np.ndarray, weights: dict[str, np.ndarray], kind: str = "") -> np.ndarray:
    """Mean posterior of networks that differ in their seed, at the rows' times, (M,).

    ``weights`` are named ``seed.layer.weight``, those of a ``kind`` ``kind.seed.layer.weight``. Long files go in chunks, with
    the same result.
    """
    start = f"{kind}." if kind else ""
    mine = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    seeds = sorted({name.partition(".")[0] for name in mine})
    networks = [
        {name.partition(".")[2]: value for name, value in mine.items() if name.startswith(f"{seed}.")} for seed in seeds
    ]
    posterior = np.empty(len(rows))
    for begin in range(0, len(rows), CHUNK_ROWS):
        first, last = max(0, begin - MARGIN_ROWS), min(len(rows), begin + CHUNK_ROWS + MARGIN_ROWS)
        part = np.mean([run_network(rows[first:last], network) for network in networks], axis=0)
        posterior[begin : begin + CHUNK_ROWS] = part[begin - first : begin - first + CHUNK_ROWS]
    return posterior


def compat_posterior(
    rows: np.ndarray, spoilt: np.ndarray, before: np.ndarray, after: np.ndarray, weights: Networks
) -> np.ndarray:
    """What the networks that speak everywhere say, and those of ``compat`` by their shares, at the rows' times, (M,)."""
    others = np.empty(len(rows))
    for kind, inputs, there in (("before_silence", before, ~spoilt), ("after_silence", after, spoilt)):
        if there.any():
            others[there] = run_networks(inputs, weights.compat, kind)[there]
    share = np.where(spoilt, AFTER_SILENCE_SHARE, BEFORE_SILENCE_SHARE)
    return (1 - share) * run_networks(rows, weights.always) + share * others


def half_a_hop_before(posterior: np.ndarray) -> np.ndarray:
    """Where the output rows lie: the mean of two neighbours. The first row has none before it and stands alone, (M,)."""
    return (np.append(posterior[:1], posterior[:-1]) + posterior) / 2


@functools.lru_cache(maxsize=2)
def _weights(path: Path, key: str) -> dict[str, np.ndarray]:
    """Shipped networks, their sha256 checked against their card. Raises WeightsError if missing or different."""
    from safetensors.numpy import load_file

    check_sha256(path, json.loads(CARD.read_text())[key])
    return load_file(path)


def creak_posterior(features: np.ndarray, duration_s: float, mode: str = "fixed") -> np.ndarray:
    """Posterior 0..1 of a whole file's features, each 5 ms before its row's time, (M,).

    ``features`` are those of :func:`creak_features` in the same mode. ``compat`` has NaN where the reference does.
    """
    if not len(features):
        return np.zeros(0)
    always, rows = _weights(WEIGHTS, "sha256"), network_inputs(features, duration_s, mode)
    if mode != "compat":
        return half_a_hop_before(run_networks(rows, always))
    networks = Networks(always, _weights(COMPAT_WEIGHTS, "compat_sha256"))
    posterior = compat_posterior(rows, spoilt_rows(features), *compat_inputs(features, duration_s), networks)
    posterior = half_a_hop_before(posterior)
    posterior[missing_rows(features, duration_s)] = np.nan
    return posterior
