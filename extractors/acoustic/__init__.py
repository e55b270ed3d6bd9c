"""The acoustic track: 74 COVAREP columns at 100 Hz, from pitch to phase distortion, computed on a whole file.

In: samples (N,) or (N, channels) in ±1, 8–96 kHz. Out: FeatureTrack of 74 columns; row t covers t/100 .. (t+1)/100 s.

    from extractors.acoustic import covarep_features
    track = covarep_features(samples, 16000)            # mode="fixed"; "compat" reproduces the reference's quirks
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.spec import FeatureSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from data.track import FeatureTrack

Mode = Literal["fixed", "compat"]
COLUMNS: tuple[str, ...] = (
    "F0", "VUV", "NAQ", "QOQ", "H1H2", "PSP", "MDQ", "peakSlope", "Rd", "Rd_conf", "creak",
    *(f"MCEP_{i}" for i in range(25)),
    *(f"HMPDM_{i}" for i in range(25)),
    *(f"HMPDD_{i}" for i in range(13)),
)  # fmt: skip
RATE_HZ = 100.0
VERSIONS = {"fixed": "6-fixed", "compat": "7-compat"}


@functools.lru_cache(maxsize=2)
def _creak_digest(mode: str) -> str:
    """sha256 of the shipped creak networks, the only weights here, as their card records it; in ``compat`` of both kinds."""
    card = json.loads((Path(__file__).with_name("creak.json")).read_text())
    if mode == "fixed":
        return card["sha256"]
    return hashlib.sha256((card["sha256"] + card["compat_sha256"]).encode()).hexdigest()


def acoustic_spec(mode: str = "fixed") -> FeatureSpec:
    """The contract of the acoustic track. ``mode`` is part of its version. Raises ValueError for another mode."""
    if mode not in VERSIONS:
        raise ValueError(f"Expected mode to be 'fixed' or 'compat' but got {mode!r}")
    return FeatureSpec("audio", COLUMNS, RATE_HZ, "covarep", VERSIONS[mode], _creak_digest(mode))


def covarep_features(
    samples: np.ndarray, rate_hz: int, mode: Mode = "fixed", *, on_progress: Callable[[float], None] | None = None
) -> FeatureTrack:
    """The 74 columns of a whole file's audio; see :func:`extractors.acoustic.covarep.extract`."""
    from extractors.acoustic.covarep import extract

    return extract(samples, rate_hz, mode, on_progress)
