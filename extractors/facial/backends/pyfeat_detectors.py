"""py-feat as a face backend: ``py-feat`` (its v1 detectors, one network a task) and ``py-feat-v2`` (one network for all).

In: a few consecutive frames. Out: for each, the faces seen, 35 columns each, the same as the default backend's and in the
same order; v2 also has the 52 blendshapes. py-feat runs in another process (:mod:`extractors.facial.pyfeat_process`), often
in another virtual environment, and is given frames in batches; what it says of them is renamed and scaled here.

A face with a number that is not finite is not seen: nothing in a valid row may be made up.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from data.errors import ToolError
from data.spec import FeatureSpec
from extractors.facial import COLUMNS, FACE_BACKENDS, FaceSettings
from extractors.facial.columns import BLENDSHAPES, EMOTION_COLUMNS, FACE_RECT, POSE
from extractors.facial.extraction import FaceObservation
from extractors.facial.pyfeat_process import VERSION as PYFEAT_VERSION
from extractors.facial.pyfeat_process import Start, Worker, borrowed, resources
from extractors.facial.pyfeat_weights import PyFeatWeights, find
from extractors.frame import Frame

VERSION = f"1 on py-feat {PYFEAT_VERSION}"

OTHER_NAMES = {
    "happy": "happiness",
    "sad": "sadness",
}  # v2 writes Happy, Sad, Neutral, …; contempt is not a column of ours
UNIT_RANGE = np.array([name not in POSE for name in COLUMNS])  # all but the angles are 0..1
X, Y, WIDTH, HEIGHT = (COLUMNS.index(name) for name in FACE_RECT)


class PyFeatFaces:
    """One of py-feat's detectors. Its process starts with the first frame and is kept for the next file."""

    detector: ClassVar[str]

    @classmethod
    def spec_for(cls, settings: FaceSettings) -> FeatureSpec:
        """The 35 columns; the digest covers all weight files. Raises WeightsError, ToolError where they are not there."""
        return FeatureSpec("visual", COLUMNS, None, f"py-feat-{cls.detector}", VERSION, cls._weights(settings).digest)

    @classmethod
    def check(cls, settings: FaceSettings) -> None:
        """Raises ToolError where py-feat is not installed, WeightsError where weights are missing or changed."""
        resources()
        _ = cls._weights(settings).digest

    @classmethod
    def _weights(cls, settings: FaceSettings) -> PyFeatWeights:
        return find(cls.detector, settings.pyfeat_path, resources)

    def __init__(self, settings: FaceSettings) -> None:
        weights = self._weights(settings)
        self._spec = self.spec_for(settings)
        self._start = Start(
            self.detector,
            tuple((key, str(path.absolute())) for key, path in weights.files),
            settings.device,
            settings.threads,
        )
        self._max_faces = settings.max_faces
        self._stack = contextlib.ExitStack()
        self._worker: Worker | None = None
        self._order: tuple[np.ndarray, np.ndarray | None] | None = None

    def spec(self) -> FeatureSpec:
        return self._spec

    def shape_spec(self) -> FeatureSpec:
        """The 52 blendshapes; v1 has none, and then no row is valid."""
        return FeatureSpec(
            "visual", BLENDSHAPES, None, f"py-feat-{self.detector}-blendshapes", VERSION, self._spec.weights
        )

    def __enter__(self) -> PyFeatFaces:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def observe(self, frames: Sequence[Frame]) -> list[list[FaceObservation]]:
        """The faces of each frame, largest first. Raises ToolError if py-feat's process fails, dies or takes too long."""
        if self._worker is None:
            resources()
            self._worker = self._stack.enter_context(borrowed(self._start))
            self._order = column_order(self._worker.columns)
        assert self._order is not None
        seen: list[list[FaceObservation]] = []
        for (height, width, _), same in itertools.groupby(frames, lambda frame: frame.rgb.shape):
            for rows in self._worker.observe([frame.rgb for frame in same], self._max_faces):
                seen.append(observations(rows, self._order, width, height))
        return seen


@FACE_BACKENDS.register("py-feat")
class PyFeatV1(PyFeatFaces):
    """RetinaFace, 68 landmarks, XGBoost action units, ResMaskNet emotions, pose from landmarks."""

    detector = "v1"


@FACE_BACKENDS.register("py-feat-v2")
class PyFeatV2(PyFeatFaces):
    """RetinaFace, then one multitask network."""

    detector = "v2"


def column_order(theirs: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Where our 35 columns, and the 52 blendshapes or None, lie among py-feat's. Raises ToolError for one it does not have."""
    lowered = [OTHER_NAMES.get(name.lower(), name.lower()) for name in theirs]
    names = [lowered[i] if lowered[i] in EMOTION_COLUMNS else name for i, name in enumerate(theirs)]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ToolError(f"Expected py-feat to give {', '.join(missing)} but it does not.", code="pyfeat_failed")
    shapes = np.array([names.index(name) for name in BLENDSHAPES]) if set(BLENDSHAPES) <= set(names) else None
    return np.array([names.index(name) for name in COLUMNS]), shapes


def observations(
    rows: np.ndarray, order: tuple[np.ndarray, np.ndarray | None], width: int, height: int
) -> list[FaceObservation]:
    """Rows of py-feat, [shape=(n_faces, n)], as ours: box relative to the frame of ``width`` × ``height`` px and inside it,
    angles (radians, the same signs) as they come."""
    ours, shapes = order
    seen = []
    for row in rows:
        values = row[ours].astype(np.float64)
        extra = None if shapes is None else np.clip(row[shapes], 0.0, 1.0).astype(np.float32)
        if not np.isfinite(values).all() or (extra is not None and not np.isfinite(extra).all()):
            continue
        low = np.clip(values[[X, Y]] / (width, height), 0.0, 1.0)
        high = np.clip((values[[X, Y]] + values[[WIDTH, HEIGHT]]) / (width, height), 0.0, 1.0)
        values[[X, Y]], values[[WIDTH, HEIGHT]] = low, high - low
        values[UNIT_RANGE] = np.clip(values[UNIT_RANGE], 0.0, 1.0)
        seen.append(FaceObservation(values.astype(np.float32), extra))
    return seen
