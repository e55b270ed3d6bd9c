"""Which box is which face over time, and which face to follow.

In: boxes per frame, (x, y, width, height) relative to the frame. Out: an id per box that stays with its face as long as
overlap or nearness says so, also across a gap; and a ranking of the faces.

    tracker = FaceTracker()
    ids = tracker.assign(boxes, time_s)                    # one id per box
    order = rank_by_prominence(tracks, n_frames)           # most prominent first
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_OVERLAP = 0.2  # intersection over union that makes two boxes the same face
MAX_STEP = 0.8  # centres nearer than this many face sizes are the same face, if nothing overlaps
MAX_GAP_S = 10.0  # a face that was away for longer comes back as a new one
MAX_GROWTH = 1.8  # sizes may differ by this factor
MIN_SPEAKER_CORRELATION = 0.1
MOUTH_SMOOTH_S = 0.25
TALKING_MOTION_HZ = 1.0  # rms change per second of AU25 + AU26; measured 2.7–4 in speech, .4–.8 in silent faces


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return float(shared / (a[2] * a[3] + b[2] * b[3] - shared))


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """How much two boxes look like one face: 1..2 if they overlap, 0..1 if they are only near, 0 if neither."""
    shared = overlap(a, b)
    if shared >= MIN_OVERLAP:
        return 1.0 + shared
    size_a, size_b = np.sqrt(a[2] * a[3]), np.sqrt(b[2] * b[3])
    if max(size_a, size_b) > MAX_GROWTH * min(size_a, size_b):
        return 0.0
    distance = np.hypot(a[0] + a[2] / 2 - b[0] - b[2] / 2, a[1] + a[3] / 2 - b[1] - b[3] / 2)
    return float(max(0.0, 1.0 - distance / (MAX_STEP * max(size_a, size_b))))


class FaceTracker:
    """Gives every box of every frame the id of its face, best matches first."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[np.ndarray, float]] = {}  # id → (box, time)
        self._next = 0

    def assign(self, boxes: Sequence[np.ndarray], time_s: float) -> list[int]:
        """Ids for the boxes of the frame at ``time_s``; no id is given twice in one frame."""
        pairs = []
        for i, box in enumerate(boxes):
            for face, (last, seen_s) in self._last.items():
                gap_s = time_s - seen_s
                if gap_s <= MAX_GAP_S and (alike := likeness(box, last)) > 0:
                    pairs.append((alike - 0.05 * gap_s, i, face))  # of two candidates the one seen last
        ids: dict[int, int] = {}
        for _, i, face in sorted(pairs, reverse=True):
            if i not in ids and face not in ids.values():
                ids[i] = face
        for i, box in enumerate(boxes):
            if i not in ids:
                ids[i] = self._next
                self._next += 1
            self._last[ids[i]] = (np.asarray(box, dtype=np.float64), time_s)
        return [ids[i] for i in range(len(boxes))]


def prominence(boxes: np.ndarray, n_frames: int) -> float:
    """Size × centrality, summed over the frames where the face is seen, per frame of the video.

    ``boxes`` [shape=(n_seen, 4)]. Centrality falls from 1 in the middle to 0.5 in a corner.
    """
    size = np.sqrt(boxes[:, 2] * boxes[:, 3])
    off_centre = np.hypot(boxes[:, 0] + boxes[:, 2] / 2 - 0.5, boxes[:, 1] + boxes[:, 3] / 2 - 0.5) / np.sqrt(0.5)
    return float((size * (1.0 - 0.5 * np.minimum(off_centre, 1.0))).sum() / n_frames)


def speaking_correlation(
    mouth: np.ndarray, time_s: np.ndarray, energy_times_s: np.ndarray, energy: np.ndarray
) -> float:
    """Pearson correlation of how much the mouth moves with the speech energy at the same times; 0 if undefined.

    It is scaled down where the mouth hardly moves at all, else a still face's jitter could correlate by chance.

    Parameters
    ----------
    mouth : mouth opening (AU25 + AU26) [shape=(n,)] at ``time_s``, seconds.
    energy_times_s, energy : speech energy [shape=(m,)], any unit, on the same clock.
    """
    if len(mouth) < 8 or len(energy) < 2:
        return 0.0
    steps_s = np.maximum(np.diff(time_s), 1e-3)
    moving = np.abs(np.diff(mouth)) / steps_s
    moving[steps_s > 0.5] = 0.0  # across a gap there is no motion to speak of
    middle_s = (time_s[1:] + time_s[:-1]) / 2
    width = max(1, round(MOUTH_SMOOTH_S / float(np.median(steps_s))))
    box = np.ones(width) / width
    moving = np.convolve(moving, box, mode="same")
    loud = np.convolve(np.interp(middle_s, energy_times_s, energy), box, mode="same")
    if moving.std() < 1e-9 or loud.std() < 1e-12:
        return 0.0
    motion_hz = float(np.sqrt(np.mean(moving**2)))
    return float(np.corrcoef(moving, loud)[0, 1]) * min(1.0, motion_hz / TALKING_MOTION_HZ)
