"""Assembly: all 74 columns of one file, from the stages in the neighbouring files.

In: samples (N,) or (N, channels) in ±1, rate in Hz. Out: FeatureTrack at 100 Hz (or the bare matrix, with −inf).
Polarity, residual scale, F0 range, voicing threshold and median F0 are global to the file: give the whole audio of a
video and cut utterances out of the track, not out of the audio.

    track = extract(samples, 16000, "fixed")
"""

from __future__ import annotations

import numpy as np

from data.errors import InputError
from data.track import FeatureTrack
from extractors.acoustic import COLUMNS, RATE_HZ, acoustic_spec
from extractors.acoustic.creak import creak_features, creak_posterior
from extractors.acoustic.envelope import mel_cepstra
from extractors.acoustic.frames import HOP_S, output_instants, round_half_up, to_instants
from extractors.acoustic.gci import glottal_closures
from extractors.acoustic.glottal import inverse_filter
from extractors.acoustic.lf_rd import estimate_rd
from extractors.acoustic.phase import phase_distortion
from extractors.acoustic.pitch import Pitch, srh_pitch
from extractors.acoustic.polarity import speech_polarity
from extractors.acoustic.residual import lp_residual
from extractors.acoustic.sinusoids import harmonic_frames, window_inside
from extractors.acoustic.voice_quality import voice_quality
from extractors.acoustic.wavelet import maxima_dispersion, peak_slope

RATE_LIMITS_HZ = (8000, 96000)
FIXED_RATE_HZ = 16000
"""`fixed` analyses every file at this rate. The cepstra span 0 Hz to half the rate, and slopes and windows follow it too, so
columns of files of different rates could not be compared, nor meet one model."""
SHORTEST_S = 0.03  # less holds no analysis frame


def first_channel(samples: np.ndarray) -> np.ndarray:
    """The first channel as float64 (N,), not-a-number and infinities silenced. Raises InputError for other shapes."""
    samples = np.asanyarray(samples)
    if samples.ndim not in (1, 2):
        raise InputError(f"Expected samples of shape (N,) or (N, channels) but got {samples.shape}.", code="bad_audio")
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(
            f"Expected float samples in -1..1 but got {samples.dtype}.",
            code="bad_audio",
            remedy="Divide integer samples by their full scale first.",
        )
    mono = np.array(samples if samples.ndim == 1 else samples[:, 0], dtype=np.float64)
    return np.nan_to_num(mono, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _voiced_closures(signal: np.ndarray, residual: np.ndarray, rate_hz: int, pitch: Pitch) -> np.ndarray:
    """Closures (0-based samples) where the pitch track is voiced."""
    closures = glottal_closures(signal, residual, rate_hz, pitch.median_hz)
    voicing = to_instants(pitch.time_s * rate_hz, pitch.voiced, closures.astype(float))
    return closures[voicing >= 0.5 - 1e-9]


def matrix(signal: np.ndarray, rate_hz: int, mode: str = "fixed") -> tuple[np.ndarray, np.ndarray]:
    """All columns of a mono signal (N,): instants (T,) as 1-based samples, values (T, 74) float64, −inf left in.

    A second of audio takes about 2 MB while it is worked on.
    """
    compat = mode == "compat"
    instants = output_instants(len(signal), rate_hz, mode)
    out = np.zeros((len(instants), len(COLUMNS)))
    column = {name: i for i, name in enumerate(COLUMNS)}
    if len(signal) < SHORTEST_S * rate_hz or not len(instants):
        return instants, out
    signal = signal * speech_polarity(signal, rate_hz)
    pitch = srh_pitch(signal, rate_hz, mode)
    samples = pitch.time_s * rate_hz
    out[:, column["F0"]] = to_instants(samples, pitch.f0_hz, instants)
    out[:, column["VUV"]] = to_instants(samples, pitch.voiced, instants) >= 0.5 - 1e-9

    residual = lp_residual(signal, rate_hz, silent=np.nan if compat else 0.0)
    closures = _voiced_closures(signal, residual, rate_hz, pitch)
    if len(closures) >= 2:
        # the reference filters around the sample before the closure
        flow, derivative = inverse_filter(signal, closures - 1 if compat else closures, rate_hz)
        quality = voice_quality(flow, derivative, closures, rate_hz, 1 if compat else 0)
        out[:, 2:6] = to_instants(closures + 1.0, quality, instants)
        dispersion = maxima_dispersion(np.nan_to_num(residual), closures)
        out[:, column["MDQ"]] = to_instants(closures + (0.0 if compat else 1.0), dispersion, instants)
    slope_s, slope = peak_slope(signal, rate_hz, None if compat else 1e-10)
    out[:, column["peakSlope"]] = to_instants(slope_s * rate_hz, slope, instants)

    creak_s, features = creak_features(signal, rate_hz, pitch)
    out[:, column["creak"]] = to_instants(creak_s * rate_hz, creak_posterior(features), instants)

    harmonics = harmonic_frames(signal, rate_hz, pitch.time_s, pitch.f0_hz)
    if len(harmonics.frame):
        at = harmonics.time_s * rate_hz
        first = column["MCEP_0"]
        out[:, 8:10] = to_instants(at, np.stack(estimate_rd(harmonics, rate_hz, mode), axis=1), instants)
        _, cepstra = mel_cepstra(signal, rate_hz, pitch.time_s, pitch.f0_hz)
        if compat:  # the reference forgets the frames' times and stretches them over the file
            inside = window_inside(len(signal), rate_hz, pitch.time_s, pitch.f0_hz)
            stretched = np.linspace(1, len(signal), inside.sum())[inside.cumsum()[harmonics.frame] - 1]
        out[:, first : first + 25] = to_instants(stretched if compat else at, cepstra, instants)
        mean, deviation = phase_distortion(harmonics, rate_hz, mode)
        around = np.concatenate([np.cos(mean), np.sin(mean)], axis=1)
        around = to_instants(at, around, instants)
        out[:, first + 25 : first + 50] = np.arctan2(around[:, 25:], around[:, :25])
        out[:, first + 50 :] = to_instants(at, deviation, instants)
    return instants, out


def _silent_rows(signal: np.ndarray, rate_hz: float, edges_s: np.ndarray) -> np.ndarray:
    """True for rows in which every sample is digital zero, (T,)."""
    edges = np.clip(np.floor(edges_s * rate_hz + 0.5).astype(int), 0, len(signal))
    loud = np.concatenate([[0], np.cumsum(signal != 0.0)])
    return loud[edges[1:]] == loud[edges[:-1]]


def extract(samples: np.ndarray, rate_hz: int, mode: str = "fixed") -> FeatureTrack:
    """The 74 columns of a whole file's audio.

    Parameters
    ----------
    samples : float [shape=(N,) or (N, channels)], ±1; the first channel is used; a memory map will do.
    rate_hz : 8000..96000.
    mode : "fixed" mends the reference's quirks; "compat" reproduces them (rows then follow its own sample grid).

    Returns a FeatureTrack whose rows cover the file; rows of digital silence are not valid. An empty file gives an
    empty track with reason ``no_audio``; a wholly silent one has reason ``silence``.

    Raises
    ------
    InputError : samples are not float (N,) or (N, channels), or the rate lies outside the limits.
    ValueError : unknown mode.
    """
    spec = acoustic_spec(mode)
    signal = first_channel(samples)
    if not RATE_LIMITS_HZ[0] <= rate_hz <= RATE_LIMITS_HZ[1]:
        raise InputError(
            f"Expected a sampling rate of {RATE_LIMITS_HZ[0]}..{RATE_LIMITS_HZ[1]} Hz but got {rate_hz}.",
            code="bad_audio",
            remedy="Resample the audio to 16000 Hz first.",
        )
    if not len(signal):
        return FeatureTrack.empty(spec, "no_audio")
    rate_hz = int(rate_hz)
    as_it_came = signal, rate_hz  # resampling leaves ripples in digital silence
    if mode == "fixed" and rate_hz != FIXED_RATE_HZ:
        import librosa

        signal = librosa.resample(signal, orig_sr=rate_hz, target_sr=FIXED_RATE_HZ, res_type="polyphase")
        rate_hz = FIXED_RATE_HZ
    instants, values = matrix(signal, rate_hz, mode)
    row_s = 1 / RATE_HZ if mode == "fixed" else round_half_up(HOP_S * rate_hz) / rate_hz
    edges_s = np.arange(len(instants) + 1) * row_s
    valid = ~_silent_rows(*as_it_came, edges_s)
    values[~np.isfinite(values)] = 0.0  # −inf of peakSlope at the edges of digital silence
    reason = None if valid.any() else "silence"
    return FeatureTrack(values, edges_s[:-1], edges_s[1:], valid, spec, reason)
