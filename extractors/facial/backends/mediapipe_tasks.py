"""The default face backend: MediaPipe's FaceLandmarker on the packaged model, and mini-XCEPTION for the emotions.

In: a few consecutive frames. Out: for each, the faces seen, 35 columns and 52 blendshapes each.

One landmarker runs over the whole frame in video mode. Its detector misses faces below about an eighth of the frame's
longer side, so when it sees none (or, with follow "speaker" or "all", fewer than max_faces) the bundled detector is also run
over overlapping tiles, at most once per TILE_INTERVAL_S; a face found there gets a landmarker of its own on a crop that
follows it. FaceScore is that detector's confidence, which the landmarker does not hand out: measured every
SCORE_INTERVAL_S and held in between.
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.errors import WeightsError
from data.spec import FeatureSpec
from extractors.facial import COLUMNS, FACE_BACKENDS, FaceSettings
from extractors.facial.action_units import action_units, face_crop, head_pose
from extractors.facial.columns import BLENDSHAPES
from extractors.facial.extraction import FaceObservation
from extractors.facial.mediapipe_parts import SAME_FACE, Box, Detector, Found, Landmarker
from extractors.frame import Frame
from extractors.native import load_cv2
from extractors.weights import CATALOGUE, resolve

if TYPE_CHECKING:
    from extractors.facial.emotion_net import EmotionNet

VERSION = "1"

SCORE_INTERVAL_S = 0.5
TILE_INTERVAL_S = 1.0  # between tile searches while nothing is seen
MANY_INTERVAL_S = 2.0  # between tile searches for more faces, with follow "speaker" or "all"
CROP_FACTOR = 3.0  # side of a followed crop, in face sizes
RECROP_OFFSET = 0.2  # the crop moves when the face is farther than this share of its side from its middle
RECROP_SHARES = (0.22, 0.5)  # … or when the face fills less or more of it
LARGE_FACE = 0.25  # of the longer side: the whole-frame landmarker does such faces
LOST_AFTER_S = 0.5  # a crop is given up when its face was not seen for so long


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
        region = _square(self.box, round(CROP_FACTOR * self.box.size), width, height)
        if region != self.region:
            self.region = region
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

    @staticmethod
    def check(settings: FaceSettings) -> None:
        """Raises WeightsError for weights that are missing or not the expected bytes."""
        resolve("face-landmarker", settings.landmarker_path).verify()
        resolve("facial-emotions", settings.emotions_path).verify()

    def __init__(self, settings: FaceSettings) -> None:
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
        self._emotions = _emotion_net(emotions, emotions.stat().st_mtime_ns)
        self._n_faces = settings.max_faces
        # With one face the landmarker would smooth over time and stay on whichever face it met first.
        self._main = Landmarker(self._model, max(2, self._n_faces))
        self._detector = Detector(detector_model)
        self._views: list[View] = []
        self._spare: list[Landmarker] = []
        self._scores: list[Box] = []  # the detector's last look at the whole frame
        self._scored_s = -np.inf
        self._tiled_s = -np.inf
        self._empty: tuple[np.ndarray, bool] | None = (
            None  # the last picture, if it showed no face; whether by tiles too
        )

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
        if self._still_empty(rgb, time_s):
            return []
        seen_whole = self._main.find(rgb, time_s)
        found = self._follow_views(rgb, time_s, seen_whole)
        found += [one for one in seen_whole if not _among(one, found)]
        tiled = self._tiles_due(len(found), time_s)
        if tiled:
            self._tiled_s = time_s
            for box in self._detector.find_in_tiles(rgb):
                if len(found) >= self._n_faces:
                    break
                if all(box.overlap(other.box) < SAME_FACE / 2 for other in found):
                    found += self._open_view(box, rgb, time_s)
        self._empty = None if found or self._views else (rgb, tiled)
        found = sorted(found, key=lambda one: -one.box.size)[: self._n_faces]
        self._score(found, rgb, time_s)
        return found

    def _still_empty(self, rgb: np.ndarray, time_s: float) -> bool:
        """Whether a frame repeats one without faces (slides, black): then it has none either, and nothing needs to run."""
        if self._empty is None:
            return False
        last, tiled = self._empty
        due = self._tiles_due(0, time_s)
        if (due and not tiled) or last.shape != rgb.shape:
            return False
        if not (np.array_equal(last[::16], rgb[::16]) and np.array_equal(last, rgb)):
            return False
        if due:  # the same tiles would show the same
            self._tiled_s = time_s
        return True

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

    def _follow_views(self, rgb: np.ndarray, time_s: float, seen_whole: list[Found]) -> list[Found]:
        """The crops' faces; gives up crops that lost theirs, or whose face the whole frame now shows large enough."""
        found: list[Found] = []
        for view in list(self._views):
            one = self._look(view, rgb, time_s)
            large = doubled = False
            if one is not None:
                doubled = _among(one, found)
                large = one.box.size > LARGE_FACE * max(rgb.shape[:2]) and _among(one, seen_whole)
                if not doubled and not large:
                    found.append(one)
            if doubled or large or time_s - view.seen_s > LOST_AFTER_S:
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


@functools.lru_cache(maxsize=1)
def _emotion_net(path: Path, changed_ns: int) -> EmotionNet:
    """The network, kept for the next file: it has no state."""
    from extractors.facial.emotion_net import EmotionNet

    return EmotionNet.load(path)


def _among(one: Found, others: list[Found]) -> bool:
    """Whether a face is one of the others."""
    return any(one.box.overlap(other.box) >= SAME_FACE for other in others)


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
