"""Package media for tests: the folder of a media set, or a skip that says why it cannot be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.errors import LambError
from extractors.package_media import package_media


def media_or_skip(name: str) -> Path:
    """Folder of the media set ``name``; skips the calling test, with the reason, where it cannot be had (offline, before
    the first download). Continuous integration has the registry: there it is an error."""
    try:
        return package_media(name)
    except LambError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name} media: {error}")


def read_rgb(path: Path):
    """A picture as (H, W, 3) uint8 RGB."""
    from extractors.native import load_cv2

    cv2 = load_cv2()
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert bgr is not None, f"cannot read {path}"
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def read_frames(path: Path, step: int = 1):
    """Every ``step``-th frame of a video, with presentation times, as extractors.frame.Frame (decoded by PyAV)."""
    import av

    from extractors.frame import Frame

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        length_s = step / float(stream.average_rate or 25)
        for i, picture in enumerate(container.decode(stream)):
            if i % step == 0 and picture.time is not None:
                yield Frame(i // step, picture.time, picture.time + length_s, picture.to_ndarray(format="rgb24"))


def still_frames(rgb, n_frames: int = 2, rate_hz: float = 25.0):
    """One picture as a short video."""
    from extractors.frame import Frame

    return [Frame(i, i / rate_hz, (i + 1) / rate_hz, rgb) for i in range(n_frames)]
