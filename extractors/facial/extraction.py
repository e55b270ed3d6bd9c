"""The loop behind ``extract_faces``: stream frames through a backend, tell faces apart, choose, lay rows on the clock.

In: frames, a few at a time. Out: FacialResult. Only numbers are kept per frame and face (35 + 52 floats), so memory does
not grow with the picture size, and per-frame time does not grow along the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from data.spec import FeatureSpec
from data.track import FeatureTrack
from extractors.facial import COLUMNS, FACE_BACKENDS, FaceSettings, FacialResult
from extractors.facial.tracking import MIN_SPEAKER_CORRELATION, FaceTracker, prominence, speaking_correlation
from extractors.frame import Frame

CHUNK_FRAMES = 8  # enough to batch the emotion network; 8 frames of 1080p are 50 MB
MIN_SEEN_S = 0.3  # a face seen for less (a false alarm of the tile search, mostly) is not counted …
MIN_SEEN_SHARE = 0.5  # … unless that is half of the video

BOX = slice(COLUMNS.index("FaceRectX"), COLUMNS.index("FaceRectHeight") + 1)
MOUTH = [COLUMNS.index("AU25"), COLUMNS.index("AU26")]


@dataclass(frozen=True)
class FaceObservation:
    """One face in one frame: ``values`` float32 [shape=(35,)], ``shapes`` raw blendshapes, or None."""

    values: np.ndarray
    shapes: np.ndarray | None = None

    @property
    def box(self) -> np.ndarray:
        """x, y, width, height relative to the frame."""
        return self.values[BOX]


@dataclass
class _Face:
    """All that was seen of one face: row numbers and their values."""

    rows: list[int] = field(default_factory=list)
    seen: list[FaceObservation] = field(default_factory=list)

    def values(self) -> np.ndarray:
        return np.stack([one.values for one in self.seen])  # (n_seen, 35)


def extract(
    frames: Iterable[Frame],
    settings: FaceSettings,
    speech_energy: tuple[np.ndarray, np.ndarray] | None,
    on_progress: Callable[[float], None] | None,
) -> FacialResult:
    """See :func:`extractors.facial.extract_faces`."""
    make = FACE_BACKENDS.get(settings.backend)
    tracker = FaceTracker()
    faces: dict[int, _Face] = {}
    start_s: list[float] = []
    end_s: list[float] = []
    with make(settings) as backend:
        spec, shape_spec = backend.spec(), backend.shape_spec()
        for chunk in _chunks(frames, CHUNK_FRAMES):
            for frame, seen in zip(chunk, backend.observe(chunk), strict=True):
                for face, one in zip(tracker.assign([o.box for o in seen], frame.start_s), seen, strict=True):
                    kept = faces.setdefault(face, _Face())
                    kept.rows.append(len(start_s))
                    kept.seen.append(one)
                start_s.append(frame.start_s)
                end_s.append(max(frame.end_s, frame.start_s))
            if on_progress is not None:
                on_progress(end_s[-1])

    clock = (np.array(start_s), np.array(end_s))
    n_frames = len(start_s)
    if n_frames == 0:
        none = FeatureTrack.empty(spec, "no_video")
        return FacialResult(none, FeatureTrack.empty(shape_spec, "no_video"), (), 0, "no_video")
    shown_s = clock[1] - clock[0]
    needed_s = min(MIN_SEEN_S, MIN_SEEN_SHARE * float(shown_s.sum())) - 1e-6
    lasting = [face for face in faces.values() if float(shown_s[face.rows].sum()) >= needed_s]
    ranked = sorted(lasting, key=lambda face: prominence(face.values()[:, BOX], n_frames), reverse=True)
    chosen = ranked
    if settings.follow == "speaker" and speech_energy is not None:
        chosen = _speakers(ranked, clock, speech_energy) or ranked
    reason = None if ranked else "no_face"
    return FacialResult(
        track=_lay_out(chosen, clock, spec, reason, lambda one: one.values),
        blendshapes=_lay_out(chosen, clock, shape_spec, reason, lambda one: one.shapes),
        faces=tuple(_lay_out([face], clock, spec, None, lambda one: one.values) for face in ranked)
        if settings.follow == "all"
        else (),
        n_faces=len(ranked),
        reason=reason,
    )


def _chunks(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    iterator = iter(frames)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _speakers(
    faces: Sequence[_Face], clock: tuple[np.ndarray, np.ndarray], speech_energy: tuple[np.ndarray, np.ndarray]
) -> list[_Face]:
    """Faces whose mouth moves with the speech, best first; may be empty."""
    middle_s = (clock[0] + clock[1]) / 2
    times_s, energy = (np.asarray(part, dtype=np.float64) for part in speech_energy)
    scored = [
        (speaking_correlation(face.values()[:, MOUTH].sum(axis=1), middle_s[face.rows], times_s, energy), -i)
        for i, face in enumerate(faces)
    ]
    return [faces[-i] for score, i in sorted(scored, reverse=True) if score >= MIN_SPEAKER_CORRELATION]


def _lay_out(
    faces: Sequence[_Face],
    clock: tuple[np.ndarray, np.ndarray],
    spec: FeatureSpec,
    reason: str | None,
    part: Callable[[FaceObservation], np.ndarray | None],
) -> FeatureTrack:
    """One row per frame: the first face's where it is seen, else the second's, and so on; else not valid."""
    n_frames = len(clock[0])
    values = np.zeros((n_frames, spec.dim), dtype=np.float32)
    valid = np.zeros(n_frames, dtype=bool)
    taken = np.zeros(n_frames, dtype=bool)
    for face in faces:
        for row, one in zip(face.rows, face.seen, strict=True):
            row_values = part(one)
            if not taken[row] and row_values is not None:
                values[row], valid[row] = row_values, True
            taken[row] = True
    return FeatureTrack(values, clock[0], clock[1], valid, spec, reason)
