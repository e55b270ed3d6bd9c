"""Creaky voice: twelve measurements of irregular, widely spaced glottal pulses, and a posterior 0..1 made of them.

In: upright mono signal (N,) at any rate, pitch track. Out: features (M, 12) and posterior (M,) every 10 ms.
Sources: Ishi, Sakakibara, Ishiguro & Hagita 2008 (short-term power peaks, IFP, IPS); Drugman, Kane & Gobl 2012, 2014
(secondary residual peaks, H2−H1, creak F0).

    time_s, features = creak_features(signal, 16000, pitch)
    posterior = creak_posterior(features)
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from numba import njit

from extractors.acoustic.frames import HOP_S, to_instants
from extractors.acoustic.pitch import Pitch, at_most_16k
from extractors.acoustic.residual import lp_residual
from extractors.weights import check_sha256

WEIGHTS = Path(__file__).with_name("creak.safetensors")
CARD = WEIGHTS.with_suffix(".json")

FEATURES = (
    "h2h1_db", "residual_prominence", "zero_crossing_rate", "ifp", "ips", "power_fall_db", "power_rise_db", "f0_hz",
    "median_f0_hz", "log_energy_db", "short_power_std_db", "creak_f0_hz",
)  # fmt: skip
POWER_WINDOW_S, POWER_HOP_S = 0.004, 0.002
BAND_HZ = (100.0, 1500.0)
PEAK_DB = 2.0  # a power peak stands out by this much on both sides within 10 ms
PAIR_S = 0.1  # pulses further apart are no pair
FRAME_S = 0.05


def _framed(values: np.ndarray, centres: np.ndarray, half: int) -> np.ndarray:
    """Rows of values around centres, zeros outside, (M, 2·half)."""
    from librosa.util import frame

    padded = np.concatenate([np.zeros(half), values, np.zeros(half)])
    return frame(padded, frame_length=2 * half, hop_length=1, axis=0)[centres]


@njit(cache=True)
def _power_peaks(power_db, reach, threshold):
    n = power_db.shape[0]
    rise, fall = np.zeros(n), np.zeros(n)
    is_peak = np.zeros(n, dtype=np.bool_)
    for i in range(n):
        before, after = power_db[i], power_db[i]
        for j in range(max(0, i - reach), i):
            before = min(before, power_db[j])
        for j in range(i + 1, min(n, i + reach + 1)):
            after = min(after, power_db[j])
        rise[i], fall[i] = power_db[i] - before, power_db[i] - after
        if 0 < i < n - 1 and power_db[i] > power_db[i - 1] and power_db[i] >= power_db[i + 1]:
            is_peak[i] = rise[i] > threshold and fall[i] > threshold
    return np.flatnonzero(is_peak), rise, fall


@njit(cache=True)
def _pulse_similarity(band, peaks, half, slack, longest):
    """Largest normalised cross-correlation of each peak's surroundings with the next peak's."""
    n = band.shape[0]
    out = np.zeros(len(peaks))
    for k in range(len(peaks) - 1):
        a, b = peaks[k], peaks[k + 1]
        if b - a > longest or a - half < 0 or b + half + slack >= n:
            continue
        ea = 0.0
        for i in range(-half, half + 1):
            ea += band[a + i] * band[a + i]
        best = 0.0
        for shift in range(-slack, slack + 1):
            if b + shift - half < 0:
                continue
            eb, ab = 0.0, 0.0
            for i in range(-half, half + 1):
                v = band[b + shift + i]
                eb += v * v
                ab += band[a + i] * v
            if ea > 0.0 and eb > 0.0:
                best = max(best, ab / np.sqrt(ea * eb))
        out[k] = best
    return out


def _autocorrelation(rows: np.ndarray, n_lags: int) -> np.ndarray:
    """Normalised autocorrelation of rows, unbiased for overlap, (M, n_lags)."""
    from scipy.fft import irfft, next_fast_len, rfft

    size = next_fast_len(rows.shape[1] + n_lags)
    spectra = np.asarray(rfft(rows, size, axis=1))
    lags = np.asarray(irfft(np.abs(spectra) ** 2, size, axis=1))[:, :n_lags]
    n = rows.shape[1]
    return lags / np.maximum(lags[:, :1], 1e-20) * (n / (n - np.arange(n_lags)))


def _spread(peaks_s: np.ndarray, values: np.ndarray, time_s: np.ndarray, rest: float) -> np.ndarray:
    """The value of the nearest peak within half a pair's distance, else ``rest``."""
    if not len(peaks_s):
        return np.full(len(time_s), rest)
    right = np.clip(np.searchsorted(peaks_s, time_s), 0, len(peaks_s) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(peaks_s[left] - time_s) <= np.abs(peaks_s[right] - time_s), left, right)
    return np.where(np.abs(peaks_s[nearest] - time_s) <= PAIR_S / 2, values[nearest], rest)


def creak_features(signal: np.ndarray, rate_hz: int, pitch: Pitch) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and the twelve static features, (M, 12), every 10 ms from 10 ms on."""
    from scipy.signal import butter, sosfiltfilt

    signal, rate_hz = at_most_16k(signal, rate_hz)
    n_rows = int(len(signal) / (HOP_S * rate_hz))
    time_s = HOP_S * np.arange(1, n_rows + 1)
    out = np.zeros((n_rows, len(FEATURES)))
    if n_rows < 3:
        return time_s, out
    centres = np.minimum((time_s * rate_hz).astype(int), len(signal) - 1)
    half = int(FRAME_S / 2 * rate_hz)
    sos = butter(3, np.array(BAND_HZ) / (rate_hz / 2), "bandpass", output="sos")
    band = sosfiltfilt(sos, signal, padlen=min(30, len(signal) - 1))
    width, hop = int(POWER_WINDOW_S * rate_hz), int(POWER_HOP_S * rate_hz)
    cumulated = np.concatenate([[0.0], np.cumsum(band * band)])
    begins = np.arange(0, len(band) - width + 1, hop)
    power_db = 10 * np.log10((cumulated[begins + width] - cumulated[begins]).clip(0) / width + 1e-10)
    power_s = (begins + width / 2) / rate_hz
    peaks, rise, fall = _power_peaks(power_db, int(0.01 / POWER_HOP_S), PEAK_DB)
    at = (begins[peaks] + width // 2).astype(np.int64)
    similarity = _pulse_similarity(band, at, int(0.005 * rate_hz), int(0.005 * rate_hz), int(PAIR_S * rate_hz))
    similarity[1:] = np.maximum(similarity[1:], similarity[:-1])  # a pulse resembles either neighbour

    residual = lp_residual(signal, rate_hz)
    rows = _framed(band, centres, int(0.016 * rate_hz))
    n_lags = int(0.015 * rate_hz)
    periodicity = _autocorrelation(rows, n_lags)[:, int(0.002 * rate_hz) :].max(axis=1)

    envelope = np.abs(residual)
    smoothing = np.hanning(int(0.002 * rate_hz) + 2)
    envelope = np.convolve(envelope, smoothing / smoothing.sum(), mode="same")
    rows = _framed(envelope, centres, half)
    lowest, highest = int(rate_hz / 200), int(rate_hz / 25)
    lags = _autocorrelation(rows - rows.mean(axis=1, keepdims=True), highest)
    creak_f0 = rate_hz / (lags[:, lowest:].argmax(axis=1) + lowest)

    rows = np.abs(_framed(residual, centres, half))
    top = rows.argmax(axis=1)
    aside = np.abs(np.arange(rows.shape[1])[None, :] - top[:, None]) > int(0.006 * rate_hz)
    highest_peak = rows.max(axis=1)
    prominence = 1 - np.where(aside, rows, 0).max(axis=1) / np.maximum(highest_peak, 1e-12)

    rows = _framed(signal, centres, half)
    energy_db = 10 * np.log10(np.mean(rows**2, axis=1) + 1e-10)
    crossings = np.mean(np.signbit(rows[:, 1:]) != np.signbit(rows[:, :-1]), axis=1)
    spectra = np.abs(np.fft.rfft(_framed(residual, centres, half) * np.hanning(2 * half), 2048, axis=1))
    bin_hz = rate_hz / 2048
    first = np.take_along_axis(spectra, np.round(creak_f0 / bin_hz).astype(int)[:, None], axis=1)[:, 0]
    second = np.take_along_axis(spectra, np.round(2 * creak_f0 / bin_hz).astype(int)[:, None], axis=1)[:, 0]

    window = 16
    padded = np.pad(power_db, (window // 2, window - window // 2), mode="edge")
    sums = np.cumsum(np.concatenate([[0.0], padded])), np.cumsum(np.concatenate([[0.0], padded**2]))
    mean, square = ((s[window:] - s[:-window])[: len(power_db)] / window for s in sums)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))

    out[:, 0] = 20 * np.log10((second + 1e-9) / (first + 1e-9))
    out[:, 1] = prominence
    out[:, 2] = crossings
    out[:, 3] = np.clip(periodicity, 0, 1)
    out[:, 4] = _spread(power_s[peaks], similarity, time_s, 0.0)
    out[:, 5] = _spread(power_s[peaks], fall[peaks], time_s, 0.0)
    out[:, 6] = _spread(power_s[peaks], rise[peaks], time_s, 0.0)
    out[:, 7] = to_instants(pitch.time_s, pitch.f0_hz, time_s)
    out[:, 8] = pitch.median_hz
    out[:, 9] = energy_db - energy_db.max()
    out[:, 10] = to_instants(power_s, deviation, time_s)
    out[:, 11] = creak_f0
    return time_s, out


def with_derivatives(features: np.ndarray) -> np.ndarray:
    """The features with their first and second differences over time, (M, 36)."""
    if len(features) < 3:
        return np.concatenate([features, np.zeros_like(features), np.zeros_like(features)], axis=1)
    slope = np.gradient(features, axis=0)
    return np.concatenate([features, slope, np.gradient(slope, axis=0)], axis=1)


def run_network(inputs: np.ndarray, network: dict[str, np.ndarray]) -> np.ndarray:
    """Posterior 0..1 of inputs (M, 36): scaled to −1..1 by the training range, 32 tanh units, one logistic. (M,)."""
    low, high = network["low"], network["high"]
    scaled = np.clip(2 * (inputs - low) / np.maximum(high - low, 1e-12) - 1, -2, 2)
    hidden = np.tanh(scaled @ network["hidden_weight"].T + network["hidden_bias"])
    return 1 / (1 + np.exp(-(hidden @ network["out_weight"].T + network["out_bias"])[:, 0]))


@functools.lru_cache(maxsize=1)
def _network() -> dict[str, np.ndarray]:
    """The shipped network, its sha256 checked against its card. Raises WeightsError if it is missing or differs."""
    from safetensors.numpy import load_file

    card = json.loads(CARD.read_text())
    check_sha256(WEIGHTS, card["sha256"])
    return load_file(WEIGHTS)


def creak_posterior(features: np.ndarray) -> np.ndarray:
    """Posterior 0..1 per row of features (M, 12), by the network that ``train_creak`` made."""
    return run_network(with_derivatives(features), _network())
