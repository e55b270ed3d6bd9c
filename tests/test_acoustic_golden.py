"""Numbers that must not move unnoticed: all 74 columns of a generated sound, in both modes, against stored ones.

After a change that is meant to move them (and a new version in ``extractors.acoustic.VERSIONS``), write them anew:

    python -m tests.test_acoustic_golden [FILE]

``ACOUSTIC_GOLDEN=FILE`` compares with those of another file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from extractors.acoustic import COLUMNS, VERSIONS, covarep_features
from tests.acoustic_signals import lf_pulse, tract, voice

STORED = Path(os.environ.get("ACOUSTIC_GOLDEN", Path(__file__).with_name("acoustic_golden.npz")))
CASES = [("fixed", 16000), ("compat", 16000), ("fixed", 44100), ("compat", 8000)]
N_SCALARS = COLUMNS.index("MCEP_0")  # of these columns every row is stored, of the many others every sixth
STEP = 6
# of a column's spread; the search for Rd ends within .01, sooner or later by a last bit
TOLERANCE, TOLERANCES = 1e-4, {"Rd": 5e-3}
CREAKS_S = (0.036, 0.028, 0.041, 0.033, 0.029, 0.038, 0.031)


def creaks(rate_hz: int) -> np.ndarray:
    """Lone glottal pulses, irregularly 28 to 41 ms apart, through the tract; peak .4."""
    source = np.zeros(round(sum(CREAKS_S) * rate_hz))
    pulse = lf_pulse(0.6, round(0.008 * rate_hz))
    for begin in np.round(np.cumsum((0, *CREAKS_S[:-1])) * rate_hz).astype(int):
        source[begin : begin + len(pulse)] += pulse
    spoken = np.asarray(lfilter([1.0], tract(rate_hz), source))
    return 0.4 * spoken / np.abs(spoken).max()


def sound(rate_hz: int) -> np.ndarray:
    """1.9 s in which every constant of the method has something to decide.

    A tense voice, then one so hoarse that its pitch is barely clear; digital silence, and noise near the floor of peakSlope;
    a voice at 60 Hz and creaks; digital silence; a breathy high voice. Faint noise under all but the pauses.
    """
    rng = np.random.default_rng(5)

    def noise(seconds: float) -> np.ndarray:
        return rng.standard_normal(round(seconds * rate_hz))

    hoarse = 0.5 * voice(115.0, 0.3, rd=1.0, rate_hz=rate_hz) + 0.25 * noise(0.3)
    low = 0.8 * voice(60.0, 0.26, rd=0.6, rate_hz=rate_hz)
    spoken = [voice(115.0, 0.42, rd=0.8, rate_hz=rate_hz), hoarse, low, creaks(rate_hz)]
    spoken.append(0.5 * voice(205.0, 0.52, rd=1.9, rate_hz=rate_hz))
    spoken = [part + 1e-3 * rng.standard_normal(len(part)) for part in spoken]
    spoken = [part - part.mean() for part in spoken]  # without an offset in the file, pauses stay as faint as they are
    pauses = [np.zeros(round(0.1 * rate_hz)), 1e-10 * noise(0.08), np.zeros(round(0.05 * rate_hz))]
    return np.concatenate([*spoken[:2], *pauses[:2], *spoken[2:4], pauses[2], spoken[4]])


def measured(mode: str, rate_hz: int) -> np.ndarray:
    """What is stored, (T, 74) float32: undefined cells NaN in all rows; 0 where a value is not kept."""
    track = covarep_features(sound(rate_hz), rate_hz, mode)  # type: ignore[arg-type]
    values = track.values.astype(np.float32)
    dropped = np.arange(len(values)) % STEP != 0
    values[dropped, N_SCALARS:] = 0.0
    return values if track.defined is None else np.where(track.defined, values, np.float32(np.nan))


def differences(found: np.ndarray, expected: np.ndarray, column: str) -> np.ndarray:
    """Of the rows that are kept and defined, (R,)."""
    kept = ~np.isnan(expected)
    if COLUMNS.index(column) >= N_SCALARS:
        kept &= np.arange(len(expected)) % STEP == 0
    apart = found[kept].astype(np.float64) - expected[kept]
    return np.abs(np.angle(np.exp(1j * apart)) if column.startswith("HMPDM") else apart)


def spread(expected: np.ndarray, column: str) -> float:
    """Standard deviation of the rows that are kept and defined; 1 rad for angles."""
    kept = expected if COLUMNS.index(column) < N_SCALARS else expected[::STEP]
    return 1.0 if column.startswith("HMPDM") else float(np.nanstd(kept))


@pytest.mark.parametrize(("mode", "rate_hz"), CASES)
def test_columns_are_those_of_this_version(mode: str, rate_hz: int) -> None:
    """Bounds are some ten times what nine BLAS and numpy kernels (SSE to AVX-512) differ by."""
    with np.load(STORED) as stored:
        assert VERSIONS[mode] in stored["versions"], "write the stored numbers anew, see above"
        expected = stored[f"{mode}_{rate_hz}"]
    found = measured(mode, rate_hz)
    assert found.shape == expected.shape
    for i, name in enumerate(COLUMNS):
        np.testing.assert_array_equal(np.isnan(found[:, i]), np.isnan(expected[:, i]), err_msg=name)
        apart = differences(found[:, i], expected[:, i], name)
        if name.startswith("HMPDD") or name == "HMPDM_24":
            # rounding decides some bins, random phases others: rows move a little, and no more than a few of them
            assert np.quantile(apart, 0.75) <= 2e-3, name
            assert apart.max() <= 0.05, name
        else:
            off = apart > max(TOLERANCES.get(name, TOLERANCE) * spread(expected[:, i], name), 1e-6)
            # a last bit may tip a choice between two peaks; a change of the method moves more than one row
            assert off.sum() <= 1, f"{name}: {off.sum()} rows, up to {apart.max():.2g}"


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else STORED
    arrays = {f"{mode}_{rate_hz}": measured(mode, rate_hz) for mode, rate_hz in CASES}
    np.savez_compressed(path, versions=np.array(list(VERSIONS.values())), **arrays)  # type: ignore[arg-type]
    print(f"wrote {path} ({path.stat().st_size} bytes)")
