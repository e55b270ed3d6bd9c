"""Package media for tests: the folder of a media set, or a skip that says why it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import LambError
from extractors.package_media import package_media


def media_or_skip(name: str) -> Path:
    """Folder of the media set ``name``; skips the calling test, with the reason, where it cannot be had."""
    try:
        return package_media(name)
    except LambError as error:
        pytest.skip(f"{name} media: {error}")


def read_rgb(path: Path):
    """A picture as (H, W, 3) uint8 RGB."""
    from extractors.native import load_cv2

    cv2 = load_cv2()
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert bgr is not None, f"cannot read {path}"
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
