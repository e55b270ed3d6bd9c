"""`compat` against recorded COVAREP output, column by column (needs the shared data)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.covarep_agreement import agreement, recordings
from extractors.acoustic import COLUMNS, covarep_features
from extractors.acoustic.covarep import matrix

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "covarep"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="recorded reference output is not there"),
]
NAMES = (
    "arctic_m_inverted_16k",
    "bdl_m_32k",
    "chinese_48k",
    "gaps_digital_zero_16k",
    "libri_f3331_8k",
    "libri_f533_wn10dB_16k",
)
# the worst r a column group may have in any of these recordings
LIMITS = {
    ("F0", "VUV", "NAQ", "QOQ", "MDQ", "PSP", "H1H2", "Rd", "Rd_conf"): 0.999,
    ("peakSlope",): 0.9999,
    tuple(f"MCEP_{i}" for i in range(25)): 0.9999,
    tuple(f"HMPDM_{i}" for i in range(24)): 0.98,
    ("HMPDM_24",): 0.9,
    ("HMPDD_0",): 0.998,
    tuple(f"HMPDD_{i}" for i in range(1, 13)): 0.6,  # rounding decides: see docs/acoustic.md
}


@pytest.mark.parametrize("name", NAMES)
def test_compat_agrees_with_the_reference(name: str) -> None:
    found = agreement(SHARED / name)
    limit = {column: least for columns, least in LIMITS.items() for column in columns}
    low = {column: round(r, 4) for column, (r, _) in found.items() if r < limit.get(column, -1)}
    assert not low


@pytest.mark.parametrize("name", NAMES)
def test_f0_and_voicing_are_equal(name: str) -> None:
    samples, rate_hz, reference = recordings(SHARED / name)
    values = matrix(samples, rate_hz, "compat")[1]  # a track would mask digital silence, where the reference says 1 Hz
    assert len(values) == len(reference)
    for column in ("F0", "VUV"):
        i = COLUMNS.index(column)
        assert np.mean(np.abs(values[:, i] - reference[:, i]) < 1e-3) >= 0.999


@pytest.mark.parametrize("name", ["short600ms_16k", "white_noise_16k", "zeros_16k"])
def test_where_the_original_fails_ours_does_not(name: str) -> None:
    import soundfile

    samples, rate_hz = soundfile.read(SHARED / name / f"{name}.wav", dtype="float64")
    track = covarep_features(samples, rate_hz)
    assert len(track) == int(np.ceil(len(samples) / rate_hz * 100 - 1e-6))
    assert track.observed  # the file called zeros holds ±1 LSB of dither
