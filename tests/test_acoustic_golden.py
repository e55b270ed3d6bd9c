"""Numbers that must not move unnoticed: all 74 columns of two generated voices, in both modes, against stored ones.

After a change that is meant to move them (and a new ``extractors.acoustic.VERSION``), write them anew:

    python -m tests.test_acoustic_golden
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extractors.acoustic import COLUMNS, VERSION, covarep_features
from tests.acoustic_signals import voice

STORED = Path(__file__).with_name("acoustic_golden.npz")
CASES = [("fixed", 16000), ("compat", 16000), ("fixed", 44100), ("compat", 8000)]
STEP = 3  # every third row is stored


def sound(rate_hz: int) -> np.ndarray:
    """1.6 s: a tense low voice and a breathy high one, with faint noise between and under them."""
    rng = np.random.default_rng(5)
    voices = [voice(115.0, 0.7, rd=0.8, rate_hz=rate_hz), 0.5 * voice(205.0, 0.6, rd=1.9, rate_hz=rate_hz)]
    whole = np.concatenate([voices[0], np.zeros(round(0.3 * rate_hz)), voices[1]])
    return whole + 1e-3 * rng.standard_normal(len(whole))


def measured(mode: str, rate_hz: int) -> np.ndarray:
    """Every third row, undefined cells NaN, (T, 74) float32."""
    track = covarep_features(sound(rate_hz), rate_hz, mode)  # type: ignore[arg-type]
    values = track.values if track.defined is None else np.where(track.defined, track.values, np.nan)
    return values[::STEP].astype(np.float32)


@pytest.mark.parametrize(("mode", "rate_hz"), CASES)
def test_columns_are_those_of_this_version(mode: str, rate_hz: int) -> None:
    with np.load(STORED) as stored:
        assert str(stored["version"]) == VERSION, "write the stored numbers anew, see above"
        expected = stored[f"{mode}_{rate_hz}"]
    found = measured(mode, rate_hz)
    assert found.shape == expected.shape
    for i, name in enumerate(COLUMNS):
        np.testing.assert_array_equal(np.isnan(found[:, i]), np.isnan(expected[:, i]), err_msg=name)
        difference = found[:, i] - expected[:, i]
        if name.startswith("HMPDM"):
            difference = np.angle(np.exp(1j * difference))
        scale = max(1.0, float(np.nanmax(np.abs(expected[:, i]), initial=0.0)))
        apart = np.nan_to_num(np.abs(difference)) > 1e-3 * scale
        # a last bit may tip a choice between two peaks; a change of the method moves more than one row
        assert apart.sum() <= 1, f"{name}: rows {np.flatnonzero(apart)}"


if __name__ == "__main__":
    arrays = {f"{mode}_{rate_hz}": measured(mode, rate_hz) for mode, rate_hz in CASES}
    np.savez_compressed(STORED, version=np.array(VERSION), **arrays)
    print(f"wrote {STORED} ({STORED.stat().st_size} bytes)")
