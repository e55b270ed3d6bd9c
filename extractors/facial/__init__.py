"""Video frames to the visual track: 20 action units, 7 emotions, head pose, face box and score, one row per frame.

In: frames with times, as a stream. Out: a FeatureTrack of 35 columns (``COLUMNS``) with one row per frame; a frame without
a face is a row with valid = False. AUs, emotions, box and score are 0..1 (box relative to the frame), pose is in radians.

    result = extract_faces(frames, FaceSettings())
    result.track.values.shape                               # (n_frames, 35)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data.registry import Registry
from data.spec import FeatureSpec
from data.track import FeatureTrack
from extractors.facial.columns import ACTION_UNITS, BLENDSHAPES, COLUMNS, EMOTION_COLUMNS, FACE_RECT, POSE
from extractors.frame import Frame

__all__ = [
    "ACTION_UNITS",
    "BLENDSHAPES",
    "COLUMNS",
    "EMOTION_COLUMNS",
    "FACE_BACKENDS",
    "FACE_RECT",
    "POSE",
    "FaceSettings",
    "FacialResult",
    "Frame",
    "check_backend",
    "extract_faces",
    "facial_spec",
]

FACE_BACKENDS = Registry("face backend", "extractors.facial.backends")
FOLLOW = ("largest", "speaker", "all")


@dataclass(frozen=True)
class FaceSettings:
    """What to run and whom to follow.

    Parameters
    ----------
    backend : name in FACE_BACKENDS.
    follow : "largest" – the largest, most central, most persistent face, and where it is not seen the next one;
        "speaker" – the face whose mouth moves with the speech; "all" – as "largest", plus a track per face.
    max_faces : faces looked at in one frame; each costs a landmark pass.
    landmarker_path, emotions_path : weights to use instead of the cached or packaged ones (same bytes expected).
    pyfeat_path : folder with the weights of a py-feat backend, instead of the cached ones.
    device, threads : "cpu" or "cuda", and CPU threads, of the py-feat backends; MediaPipe runs on the CPU.
    """

    backend: str = "mediapipe"
    follow: Literal["largest", "speaker", "all"] = "largest"
    max_faces: int = 4
    landmarker_path: Path | None = None
    emotions_path: Path | None = None
    pyfeat_path: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.follow not in FOLLOW:
            raise ValueError(f"Expected follow to be one of {FOLLOW} but got {self.follow!r}")
        if self.max_faces < 1:
            raise ValueError(f"Expected max_faces >= 1 but got {self.max_faces}")


@dataclass(frozen=True)
class FacialResult:
    """What was seen. All tracks have one row per frame, on the file's clock.

    ``track`` : the followed face, 35 columns. ``blendshapes`` : the backend's raw shapes of the same face (52 columns for
    MediaPipe; not valid where the backend has none). ``faces`` : with follow="all", a 35-column track per face, most
    prominent first. ``n_faces`` : faces told apart over the whole video. ``reason`` : "no_face", "no_video" (not a single
    frame), or None.
    """

    track: FeatureTrack
    blendshapes: FeatureTrack
    faces: tuple[FeatureTrack, ...]
    n_faces: int
    reason: str | None


def facial_spec(settings: FaceSettings | str = "mediapipe") -> FeatureSpec:
    """Spec of the 35-column track, of a backend by name or of settings.

    Raises UnknownName for a backend that does not exist; WeightsError, ToolError where it depends on what is not there.
    """
    if isinstance(settings, str):
        settings = FaceSettings(backend=settings)
    make = FACE_BACKENDS.get(settings.backend)
    return make.spec_for(settings) if hasattr(make, "spec_for") else make.spec()


def check_backend(settings: FaceSettings) -> None:
    """Check that the backend's weights and tools are there and whole, without loading them. Raises WeightsError, ToolError."""
    make = FACE_BACKENDS.get(settings.backend)
    if hasattr(make, "check"):
        make.check(settings)


def extract_faces(
    frames: Iterable[Frame],
    settings: FaceSettings = FaceSettings(),
    *,
    speech_energy: tuple[np.ndarray, np.ndarray] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> FacialResult:
    """Run the backend over the frames, tell the faces apart, and return one row per frame.

    Parameters
    ----------
    frames : in order of time; read once, a few at a time.
    speech_energy : (times in seconds, energy in any unit), both [shape=(m,)], for follow="speaker"; without it that
        falls back to "largest".
    on_progress : called with the end, in seconds of the file's clock, of the last frame done.

    Raises
    ------
    WeightsError, ToolError : weights or native libraries are missing.
    """
    from extractors.facial.extraction import extract

    return extract(frames, settings, speech_energy, on_progress)
