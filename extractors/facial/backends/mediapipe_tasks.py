"""The default face backend: MediaPipe's FaceLandmarker on the packaged model, and mini-XCEPTION for the emotions.

In: a few consecutive frames. Out: for each, the faces seen, 35 columns and 52 blendshapes each.

One landmarker runs over the whole frame in video mode. Its detector misses faces below about an eighth of the frame's
longer side, so when it sees none (or, with follow "speaker" or "all", fewer than max_faces) the bundled detector is also run
over overlapping tiles, at most once per TILE_INTERVAL_S; a face found there gets a landmarker of its own on a crop that
follows it. FaceScore is that detector's confidence, which the landmarker does not hand out: measured every
SCORE_INTERVAL_S and held in between.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import WeightsError
from data.spec import FeatureSpec
from extractors.facial import COLUMNS, FACE_BACKENDS, FaceSettings
from extractors.facial.action_units import action_units, face_crop, head_pose
from extractors.facial.columns import BLENDSHAPES
from extractors.facial.extraction import FaceObservation
from extractors.facial.tracking import overlap
from extractors.frame import Frame
from extractors.native import load_cv2, load_mediapipe, quiet_stderr
from extractors.weights import CATALOGUE, resolve

VERSION = "1"

SCORE_INTERVAL_S = 0.5
SCORE_FLOOR = 0.3  # the detector is asked for faces above this; a followed face it does not confirm gets this score
OPEN_SCORE = 0.5  # a tile's detection must reach this to be followed
TILE_INTERVAL_S = 1.0  # between tile searches while nothing is seen
MANY_INTERVAL_S = 2.0  # between tile searches for more faces, with follow "speaker" or "all"
TILE_SHARES = (0.6, 0.35)  # sides of the square tiles, as shares of the frame's shorter side
MIN_TILE_PX = 160
CROP_FACTOR = 3.0  # side of a followed crop, in face sizes
RECROP_OFFSET = 0.2  # the crop moves when the face is farther than this share of its side from its middle
RECROP_SHARES = (0.22, 0.5)  # … or when the face fills less or more of it
LARGE_FACE = 0.25  # of the longer side: the whole-frame landmarker does such faces
LOST_AFTER_S = 0.5  # a crop is given up when its face was not seen for so long
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
        return Box(*low, *(high - low), self.score)


class Landmarker:
    """One FaceLandmarker in video mode. Timestamps are its own: strictly increasing whatever the frames' times."""

    def __init__(self, model: bytes, n_faces: int) -> None:
        self._mp = load_mediapipe()
        tasks = self._mp.tasks
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
        result = self._run(rgb, time_s)
        if self._tracking and not result.face_landmarks:  # lost (a cut): only a second call detects afresh
            result = self._run(rgb, time_s)
        self._tracking = bool(result.face_landmarks)
        height, width = rgb.shape[:2]
        found = []
        for marks, shapes, matrix in zip(
            result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True
        ):
            points = np.array([(p.x * width + left, p.y * height + top, p.z * width) for p in marks])
            found.append(Found(points, np.array([s.score for s in shapes], np.float32), np.asarray(matrix)))
        return [one for one in found if np.isfinite(one.landmarks).all() and np.isfinite(one.matrix).all()]

    def _run(self, rgb: np.ndarray, time_s: float) -> Any:
        self._last_ms = max(self._last_ms + 1, round(time_s * 1000))
        image = self._mp.Image(self._mp.ImageFormat.SRGB, np.ascontiguousarray(rgb))
        return self._task.detect_for_video(image, self._last_ms)

    def close(self) -> None:
        self._task.close()


class Detector:
    """The landmarker bundle's own face detector, which says how sure it is. About 3 ms whatever the picture's size."""

    def __init__(self, model: bytes) -> None:
        self._mp = load_mediapipe()
        tasks = self._mp.tasks
        options = tasks.vision.FaceDetectorOptions(
            base_options=tasks.BaseOptions(model_asset_buffer=model), min_detection_confidence=SCORE_FLOOR
        )
        with quiet_stderr():
            self._task = tasks.vision.FaceDetector.create_from_options(options)
            self.find(np.zeros((64, 64, 3), np.uint8))

    def find(self, rgb: np.ndarray, left: int = 0, top: int = 0) -> list[Box]:
        image = self._mp.Image(self._mp.ImageFormat.SRGB, np.ascontiguousarray(rgb))
        boxes = []
        for one in self._task.detect(image).detections:
            box = one.bounding_box
            score = float(one.categories[0].score or 0.0)
            boxes.append(Box(box.origin_x + left, box.origin_y + top, box.width, box.height, score))
        return boxes

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


@dataclass
class View:
    """A square crop that follows one small face with a landmarker of its own."""

    landmarker: Landmarker
    box: Box  # the face, where it was last seen
    seen_s: float
    region: tuple[int, int, int, int] = (0, 0, 0, 0)  # left, top, right, bottom
    current: Found | None = None

    def aim(self, frame_size: tuple[int, int]) -> None:
        """Move the crop if the face left its middle or changed size; a moved crop starts afresh."""
        height, width = frame_size
        left, top, right, bottom = self.region
        side = max(right - left, bottom - top)
        if side:
            x, y = self.box.centre
            # At the frame's border the crop cannot be centred: compare with the best it could do.
            wanted = _square(self.box, side, width, height)
            moved = max(abs(wanted[0] - left), abs(wanted[1] - top)) / side
            share = self.box.size / side
            inside = left <= x <= right and top <= y <= bottom
            if inside and moved <= RECROP_OFFSET and RECROP_SHARES[0] <= share <= RECROP_SHARES[1]:
                return
        self.region = _square(self.box, round(CROP_FACTOR * self.box.size), width, height)
        self.landmarker.forget()


def _square(box: Box, side: int, width: int, height: int) -> tuple[int, int, int, int]:
    """A square of at most ``side`` around the box's centre, pushed inside the frame."""
    x, y = box.centre
    left = int(np.clip(round(x - side / 2), 0, max(0, width - side)))
    top = int(np.clip(round(y - side / 2), 0, max(0, height - side)))
    return left, top, min(width, left + side), min(height, top + side)


@FACE_BACKENDS.register("mediapipe")
class MediaPipeFaces:
    """FaceLandmarker + mini-XCEPTION. Use as a context manager: MediaPipe's objects have to be closed."""

    @staticmethod
    def spec() -> FeatureSpec:
        """The 35 columns; the digest covers both weight sets."""
        both = "\n".join(CATALOGUE[name].digest for name in ("face-landmarker", "facial-emotions"))
        return FeatureSpec(
            "visual", COLUMNS, None, "mediapipe-faces", VERSION, hashlib.sha256(both.encode()).hexdigest()
        )

    @staticmethod
    def shape_spec() -> FeatureSpec:
        """The 52 raw blendshapes."""
        digest = CATALOGUE["face-landmarker"].digest
        return FeatureSpec("visual", BLENDSHAPES, None, "mediapipe-blendshapes", VERSION, digest)

    def __init__(self, settings: FaceSettings) -> None:
        from extractors.facial.emotion_net import EmotionNet

        self._settings = settings
        path = resolve("face-landmarker", settings.landmarker_path).file("face_landmarker.task")
        emotions = resolve("facial-emotions", settings.emotions_path).file("emotion_model.hdf5")
        self._model = path.read_bytes()
        try:
            with zipfile.ZipFile(path) as bundle:
                detector_model = bundle.read("face_detector.tflite")
        except (zipfile.BadZipFile, KeyError) as error:
            raise WeightsError(f"Expected a face landmarker bundle at {path} but got {error}.") from error
        load_cv2()
        self._emotions = EmotionNet.load(emotions)
        self._n_faces = settings.max_faces
        # With one face the landmarker would smooth over time and stay on whichever face it met first.
        self._main = Landmarker(self._model, max(2, self._n_faces))
        self._detector = Detector(detector_model)
        self._views: list[View] = []
        self._spare: list[Landmarker] = []
        self._scores: list[Box] = []  # the detector's last look at the whole frame
        self._scored_s = -np.inf
        self._tiled_s = -np.inf

    def __enter__(self) -> MediaPipeFaces:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every native object; MediaPipe complains at interpreter exit otherwise."""
        for task in [self._main, self._detector, *(view.landmarker for view in self._views), *self._spare]:
            task.close()
        self._views, self._spare = [], []

    def observe(self, frames: Sequence[Frame]) -> list[list[FaceObservation]]:
        """The faces of each frame; the emotion network runs once over all of them."""
        found = [self._find(frame.rgb, frame.start_s) for frame in frames]
        crops = [face_crop(frame.rgb, one.landmarks) for frame, ones in zip(frames, found, strict=True) for one in ones]
        emotions = iter(self._emotions.predict(np.stack(crops)) if crops else ())
        seen = []
        for frame, ones in zip(frames, found, strict=True):
            height, width = frame.rgb.shape[:2]
            seen.append([_observation(one, next(emotions), width, height) for one in ones])
        return seen

    def _find(self, rgb: np.ndarray, time_s: float) -> list[Found]:
        """Faces of one frame, each once."""
        found = self._follow_views(rgb, time_s)
        for one in self._main.find(rgb, time_s):
            if all(one.box.overlap(other.box) < SAME_FACE for other in found):
                found.append(one)
        if self._tiles_due(len(found), time_s):
            self._tiled_s = time_s
            for box in self._detector.find_in_tiles(rgb):
                if len(found) >= self._n_faces:
                    break
                if all(box.overlap(other.box) < SAME_FACE / 2 for other in found):
                    found += self._open_view(box, rgb, time_s)
        found = sorted(found, key=lambda one: -one.box.size)[: self._n_faces]
        self._score(found, rgb, time_s)
        return found

    def _tiles_due(self, n_found: int, time_s: float) -> bool:
        if n_found >= self._n_faces or (n_found and self._settings.follow == "largest"):
            return False
        return time_s - self._tiled_s >= (MANY_INTERVAL_S if n_found else TILE_INTERVAL_S)

    def _open_view(self, box: Box, rgb: np.ndarray, time_s: float) -> list[Found]:
        """Start to follow a detected face; empty if the landmarker does not see one there."""
        landmarker = self._spare.pop() if self._spare else Landmarker(self._model, 2)
        view = View(landmarker, box, time_s)
        found = self._look(view, rgb, time_s)
        if found is None:
            self._spare.append(landmarker)
            return []
        found.score = box.score
        self._views.append(view)
        return [found]

    def _follow_views(self, rgb: np.ndarray, time_s: float) -> list[Found]:
        found: list[Found] = []
        for view in list(self._views):
            one = self._look(view, rgb, time_s)
            doubled = one is not None and any(one.box.overlap(other.box) >= SAME_FACE for other in found)
            grown = one is not None and one.box.size > LARGE_FACE * max(rgb.shape[:2])
            if one is not None and not doubled and not grown:
                found.append(one)
            elif doubled or grown or time_s - view.seen_s > LOST_AFTER_S:
                self._views.remove(view)
                self._spare.append(view.landmarker)
        return found

    def _look(self, view: View, rgb: np.ndarray, time_s: float) -> Found | None:
        """The view's face in this frame: of what its landmarker finds, the one nearest to where it was."""
        view.aim((rgb.shape[0], rgb.shape[1]))
        left, top, right, bottom = view.region
        candidates = view.landmarker.find(rgb[top:bottom, left:right], time_s, left, top)
        best = max(candidates, key=lambda one: one.box.overlap(view.box), default=None)
        if best is None or best.box.overlap(view.box) == 0:
            return None
        if view.current is not None:
            best.score = view.current.score
        view.box, view.seen_s, view.current = best.box, time_s, best
        return best

    def _score(self, found: list[Found], rgb: np.ndarray, time_s: float) -> None:
        """Put the detector's confidence on the faces: fresh every SCORE_INTERVAL_S, else the last one nearby."""
        if not found:
            return
        if time_s - self._scored_s >= SCORE_INTERVAL_S or not self._scores:
            self._scored_s = time_s
            height, width = rgb.shape[:2]
            self._scores = self._detector.find(rgb)
            for view in self._views:
                left, top, right, bottom = view.region
                self._scores += self._detector.find(rgb[top:bottom, left:right], left, top)
            for one in found:  # neither look confirmed it: look at it closely
                if not any(one.box.overlap(box) >= SAME_FACE for box in self._scores):
                    left, top, right, bottom = _square(one.box, round(2 * one.box.size), width, height)
                    self._scores += self._detector.find(rgb[top:bottom, left:right], left, top)
        for one in found:
            one.score = max((b.score for b in self._scores if one.box.overlap(b) >= SAME_FACE), default=one.score)


def _observation(found: Found, emotions: np.ndarray, width: int, height: int) -> FaceObservation:
    """The 35 columns of one face."""
    low = np.clip(found.landmarks[:, :2].min(axis=0) / (width, height), 0.0, 1.0)
    high = np.clip(found.landmarks[:, :2].max(axis=0) / (width, height), 0.0, 1.0)
    values = np.concatenate(
        [
            action_units(found.shapes, found.landmarks),
            np.clip(emotions, 0.0, 1.0),
            head_pose(found.matrix),
            low,
            high - low,
            [min(1.0, found.score)],
        ]
    )
    return FaceObservation(values.astype(np.float32), np.clip(found.shapes, 0.0, 1.0))
