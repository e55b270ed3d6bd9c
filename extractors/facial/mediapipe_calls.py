"""Calls of MediaPipe's C functions without what its Python wrapper adds: a hop to another thread and, for one face, 530
Python objects. On one machine that was 1 ms of a frame's 15.

In: a MediaPipe task and a picture, uint8 [shape=(H, W, 3)]. Out: plain arrays, the same numbers that the wrapper's
objects hold (a test). It reads names that begin with an underscore: MediaPipe is pinned to one release.

    calls = Calls(load_mediapipe())
    for landmarks, shapes, matrix in calls.faces_in_video(landmarker, rgb, time_ms): ...
    for x, y, width, height, score in calls.detections(detector, rgb): ...
"""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import numpy as np

Face = tuple[np.ndarray, np.ndarray, np.ndarray]


class Calls:
    """The C functions of one process. A task may be used by one thread at a time."""

    def __init__(self, mediapipe: ModuleType) -> None:
        from mediapipe.tasks.python.components.containers import category_c, detections_c, landmark_c
        from mediapipe.tasks.python.core import mediapipe_c_bindings, mediapipe_c_utils
        from mediapipe.tasks.python.vision.face_landmarker import FaceLandmarkerResultC

        self._mp = mediapipe
        self._library = mediapipe_c_bindings.load_raw_library()
        self._check = mediapipe_c_utils.handle_status
        self._landmarks_type = FaceLandmarkerResultC
        self._detections_type = detections_c.DetectionResultC
        self._point = _floats_of(landmark_c.NormalizedLandmarkC, ("x", "y", "z"))
        self._category = _floats_of(category_c.CategoryC, ("score",))

    def faces_in_video(self, landmarker: Any, rgb: np.ndarray, time_ms: int) -> list[Face]:
        """Faces of the next frame of a FaceLandmarker in video mode.

        Returns
        -------
        per face: landmarks float64 [shape=(478, 3)], x and y relative to the picture, z in the scale of x; blendshapes
        float32 [shape=(52,)]; pose matrix float32 [shape=(4, 4)].

        Raises
        ------
        ValueError, RuntimeError : as MediaPipe's own method does.
        """
        image = self._image(rgb)
        result = self._landmarks_type()
        self._call("MpFaceLandmarkerDetectForVideo", landmarker._handle, image._image_ptr, None, time_ms, result)
        try:
            faces = []
            for i in range(result.face_landmarks_count):
                points, shapes = result.face_landmarks[i], result.face_blendshapes[i]
                xyz = _array(points.landmarks, points.landmarks_count, self._point)
                scores = _array(shapes.categories, shapes.categories_count, self._category)["score"]
                landmarks = np.stack([xyz["x"], xyz["y"], xyz["z"]], axis=1).astype(np.float64)
                faces.append(
                    (landmarks, scores.astype(np.float32), result.facial_transformation_matrixes[i].to_numpy())
                )
            return faces
        finally:
            self._library.MpFaceLandmarkerCloseResult(ctypes.byref(result))

    def detections(self, detector: Any, rgb: np.ndarray) -> list[tuple[int, int, int, int, float]]:
        """Boxes in pixels (left, top, width, height) and scores of a FaceDetector in image mode. Raises as above."""
        image = self._image(rgb)
        result = self._detections_type()
        self._call("MpFaceDetectorDetectImage", detector._handle, image._image_ptr, None, result)
        try:
            found = [
                (one.bounding_box, one.categories[0].score) for one in result.detections[: result.detections_count]
            ]
            return [(box.left, box.top, box.right - box.left, box.bottom - box.top, score) for box, score in found]
        finally:
            self._library.MpFaceDetectorCloseResult(ctypes.byref(result))

    def _image(self, rgb: np.ndarray) -> Any:
        return self._mp.Image(self._mp.ImageFormat.SRGB, np.ascontiguousarray(rgb))

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function whose last argument is a result to fill; raises what its status says."""
        message = ctypes.c_char_p()
        *given, result = arguments
        status = getattr(self._library, name)(*given, ctypes.byref(result), ctypes.byref(message))
        try:
            self._check(status, message)
        finally:
            if message.value is not None:
                self._library.MpErrorFree(message)


def _floats_of(struct: Any, names: tuple[str, ...]) -> np.dtype:
    """A numpy type that reads some float members of a C struct where they lie."""
    offsets = [getattr(struct, name).offset for name in names]
    return np.dtype(
        {"names": names, "formats": ["f4"] * len(names), "offsets": offsets, "itemsize": ctypes.sizeof(struct)}
    )


def _array(pointer: Any, n: int, kind: np.dtype) -> np.ndarray:
    """``n`` C structs, copied: MediaPipe frees them when the result is closed."""
    return np.frombuffer(ctypes.string_at(pointer, n * kind.itemsize), kind) if n else np.zeros(0, kind)
