"""Frame: one decoded video frame with its place on the file's clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame as it was shown (rotation applied).

    Parameters
    ----------
    index : running number of the frame in the stream, from 0.
    start_s, end_s : presentation interval in seconds on the file's clock.
    rgb : uint8 [shape=(H, W, 3)].
    """

    index: int
    start_s: float
    end_s: float
    rgb: np.ndarray
