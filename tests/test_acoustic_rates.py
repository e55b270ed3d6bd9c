"""One recording at several sampling rates gives one answer in ``fixed``: files from different cameras meet one model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import resample_poly

from extractors.acoustic import COLUMNS, covarep_features
from tests.acoustic_signals import voice


@pytest.mark.parametrize(("rate_hz", "up", "down"), [(44100, 441, 160), (48000, 3, 1), (32000, 2, 1)])
def test_columns_do_not_depend_on_the_recording_rate(rate_hz: int, up: int, down: int) -> None:
    sound = voice(130, 1.0, rate_hz=16000)
    at_16k = covarep_features(sound, 16000)
    other = covarep_features(resample_poly(sound, up, down), rate_hz)
    assert len(other) == len(at_16k)
    for name in ("F0", "NAQ", "MDQ", "Rd", "peakSlope", *(f"MCEP_{i}" for i in range(6))):
        i = COLUMNS.index(name)
        ours, theirs = at_16k.values[20:-20, i], other.values[20:-20, i]
        scale = max(1.0, float(np.abs(ours).max()))
        # .04 is what the two resamplers' roll-off below 8 kHz costs. `compat`, which analyses at the file's own rate, differs
        # by .04 to 2.9 in MCEP_0..5 of this voice, and by .3 to 3.6 in those of an ARCTIC and a LibriSpeech recording
        assert np.median(np.abs(ours - theirs)) < 0.06 * scale, name
