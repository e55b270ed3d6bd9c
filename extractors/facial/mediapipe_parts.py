"""MediaPipe's tasks behind plain types: a face landmarker in video mode, and the face detector of the same bundle.

In: RGB pictures, uint8 [shape=(H, W, 3)]. Out: ``Found`` (478 landmarks in pixels, 52 blendshapes, 4×4 pose matrix) and
``Box`` (pixels, with a score). Both objects have to be closed; MediaPipe complains at interpreter exit otherwise.

    landmarker, detector = Landmarker(bundle_bytes, n_faces=2), Detector(detector_bytes)
    faces = landmarker.find(rgb, time_s)
    boxes = detector.find_in_tiles(rgb)                    # also faces that one look at the whole picture misses
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extractors.facial.mediapipe_calls import Calls, Face
from extractors.facial.tracking import overlap
from extractors.native import load_mediapipe, quiet_stderr

SCORE_FLOOR = 0.3  # the detector is asked for faces above this; a followed face it does not confirm gets this score
OPEN_SCORE = 0.5  # a tile's detection must reach this to be followed
TILE_SHARES = (0.6, 0.35)  # sides of the square tiles, as shares of the frame's shorter side
MIN_TILE_PX = 160
SAME_FACE = 0.3  # intersection over union of two views' boxes that makes them one face


@dataclass
class Box:
    """A box in pixels: left, top, width, height, and the detector's score."""

    x: float
    y: float
    width: float
    height: float
    score: float = 0.0

    @property
    def size(self) -> float:
        return max(self.width, self.height)

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    def overlap(self, other: Box) -> float:
        a, b = (np.array([box.x, box.y, box.width, box.height]) for box in (self, other))
        return overlap(a, b)


@dataclass
class Found:
    """One face found by a landmarker, in pixels of the whole frame."""

    landmarks: np.ndarray  # (478, 3)
    shapes: np.ndarray  # (52,)
    matrix: np.ndarray  # (4, 4)
    score: float = SCORE_FLOOR

    @property
    def box(self) -> Box:
        low, high = self.landmarks[:, :2].min(axis=0), self.landmarks[:, :2].max(axis=0)
        return Box(float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]), self.score)


class Landmarker:
    """One FaceLandmarker in video mode. Timestamps are its own: strictly increasing whatever the frames' times."""

    def __init__(self, model: bytes, n_faces: int) -> None:
        mediapipe = load_mediapipe()
        self._calls = Calls(mediapipe)
        tasks = mediapipe.tasks
        options = tasks.vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_buffer=model),
            running_mode=tasks.vision.RunningMode.VIDEO,
            num_faces=n_faces,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        self._last_ms = -1
        self._tracking = False
        with quiet_stderr():
            self._task = tasks.vision.FaceLandmarker.create_from_options(options)
            self.forget()  # the model's first run also writes to stderr

    def forget(self) -> None:
        """Drop what it tracks, by showing it a black picture."""
        self._run(np.zeros((64, 64, 3), np.uint8), 0.0)
        self._tracking = False

    def find(self, rgb: np.ndarray, time_s: float, left: int = 0, top: int = 0) -> list[Found]:
        """Faces in ``rgb``, whose corner lies at (left, top) of the frame."""
        faces = self._run(rgb, time_s)
        if self._tracking and not faces:  # lost (a cut): only a second call detects afresh
            faces = self._run(rgb, time_s)
        self._tracking = bool(faces)
        height, width = rgb.shape[:2]
        found = [
            Found(marks * (width, height, width) + (left, top, 0), shapes, matrix) for marks, shapes, matrix in faces
        ]
        return [one for one in found if np.isfinite(one.landmarks).all() and np.isfinite(one.matrix).all()]

    def _run(self, rgb: np.ndarray, time_s: float) -> list[Face]:
        self._last_ms = max(self._last_ms + 1, round(time_s * 1000))
        return self._calls.faces_in_video(self._task, rgb, self._last_ms)

    def close(self) -> None:
        self._task.close()


class Detector:
    """The landmarker bundle's own face detector, which says how sure it is. About 3 ms whatever the picture's size."""

    def __init__(self, model: bytes) -> None:
        mediapipe = load_mediapipe()
        self._calls = Calls(mediapipe)
        tasks = mediapipe.tasks
        options = tasks.vision.FaceDetectorOptions(
            base_options=tasks.BaseOptions(model_asset_buffer=model), min_detection_confidence=SCORE_FLOOR
        )
        with quiet_stderr():
            self._task = tasks.vision.FaceDetector.create_from_options(options)
            self.find(np.zeros((64, 64, 3), np.uint8))

    def find(self, rgb: np.ndarray, left: int = 0, top: int = 0) -> list[Box]:
        found = self._calls.detections(self._task, rgb)
        return [Box(x + left, y + top, width, height, score) for x, y, width, height, score in found]

    def find_in_tiles(self, rgb: np.ndarray) -> list[Box]:
        """Faces too small for one look at the whole frame: square tiles that overlap by half; best score first."""
        height, width = rgb.shape[:2]
        boxes = []
        for share in TILE_SHARES:
            side = round(share * min(height, width))
            if side < MIN_TILE_PX:
                continue
            for top in _starts(height, side):
                for left in _starts(width, side):
                    boxes += self.find(rgb[top : top + side, left : left + side], left, top)
        kept: list[Box] = []
        for box in sorted(boxes, key=lambda box: -box.score):
            if box.score >= OPEN_SCORE and all(box.overlap(other) < SAME_FACE for other in kept):
                kept.append(box)
        return kept

    def close(self) -> None:
        self._task.close()


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin along one axis: evenly, at least half overlapping, the last one flush with the end."""
    count = max(1, int(np.ceil((length - side) / (side / 2))) + 1)
    return [round(start) for start in np.linspace(0, max(0, length - side), count)]
