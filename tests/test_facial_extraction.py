"""The extraction loop with a scripted backend: one row per frame, choosing, filling in, streaming."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from data.registry import UnknownName
from data.spec import FeatureSpec
from extractors.facial import COLUMNS, FACE_BACKENDS, FaceSettings, Frame, extract_faces
from extractors.facial.extraction import FaceObservation

AU12, AU26, SCORE = (COLUMNS.index(name) for name in ("AU12", "AU26", "FaceScore"))


def _face(x: float, size: float, smile: float, jaw: float = 0.0) -> FaceObservation:
    values = np.zeros(35, np.float32)
    values[[AU12, AU26, SCORE]] = smile, jaw, 0.9
    values[COLUMNS.index("FaceRectX") : COLUMNS.index("FaceRectHeight") + 1] = x, 0.5 - size / 2, size, size
    return FaceObservation(values, np.array([smile], np.float32))


class Scripted:
    """Frames carry their row number in their first pixel; ``script[row]`` lists the faces of that frame."""

    script: ClassVar[list[list[FaceObservation]]] = []
    largest_chunk = 0
    closed = False

    @staticmethod
    def spec() -> FeatureSpec:
        return FeatureSpec("visual", COLUMNS, None, "scripted", "1")

    @staticmethod
    def shape_spec() -> FeatureSpec:
        return FeatureSpec("visual", ("smile",), None, "scripted-shapes", "1")

    def __init__(self, settings: FaceSettings) -> None:
        Scripted.largest_chunk, Scripted.closed = 0, False

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        Scripted.closed = True

    def observe(self, frames):
        Scripted.largest_chunk = max(Scripted.largest_chunk, len(frames))
        return [self.script[frame.index] for frame in frames]


FACE_BACKENDS.register("scripted-for-tests")(Scripted)


def _run(script, follow="largest", speech_energy=None, times_s=None, **options):
    Scripted.script = script
    starts_s = np.arange(len(script)) / 25 if times_s is None else times_s
    picture = np.zeros((4, 4, 3), np.uint8)
    frames = (Frame(i, s, s + 0.04, picture) for i, s in enumerate(starts_s))  # a generator: read once
    settings = FaceSettings(backend="scripted-for-tests", follow=follow)
    return extract_faces(frames, settings, speech_energy=speech_energy, **options)


def test_every_frame_is_a_row_on_its_own_time():
    times_s = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.09, 40)) + 1.5  # variable rate, late start
    script = [[_face(0.4, 0.2, 0.5)] if 10 <= i < 30 else [] for i in range(40)]
    result = _run(script, times_s=times_s)
    np.testing.assert_array_equal(result.track.start_s, times_s)
    np.testing.assert_array_equal(np.flatnonzero(result.track.valid), np.arange(10, 30))
    assert (result.track.values[~result.track.valid] == 0).all()  # FaceScore included
    assert (result.track.values[10:30, AU12] == 0.5).all()
    assert (result.blendshapes.values[10:30, 0] == 0.5).all()
    assert result.reason is None
    assert Scripted.closed


def test_no_face_is_a_reason_not_an_error():
    result = _run([[] for _ in range(20)])
    assert (len(result.track), result.track.observed, result.reason, result.n_faces) == (20, False, "no_face", 0)
    assert result.track.reason == "no_face"
    assert len(result.blendshapes) == 20


def test_no_frames_is_an_empty_track():
    result = _run([])
    assert (len(result.track), result.reason) == (0, "no_video")


def test_largest_is_followed_and_the_next_fills_in_where_it_is_away():
    big, small = _face(0.4, 0.3, 0.8), _face(0.05, 0.12, 0.1)
    script = [[small, big] if i < 20 else [small] for i in range(30)]
    result = _run(script)
    assert result.n_faces == 2
    assert (result.track.values[:20, AU12] == np.float32(0.8)).all()
    assert (result.track.values[20:, AU12] == np.float32(0.1)).all()
    assert result.faces == ()


def test_all_gives_a_track_per_face_on_the_full_clock():
    big, small = _face(0.4, 0.3, 0.8), _face(0.05, 0.12, 0.1)
    script = [[small, big] if i < 20 else [small] for i in range(30)]
    first, second = _run(script, follow="all").faces
    assert first.valid.sum() == 20
    assert second.valid.sum() == 30
    assert len(first) == len(second) == 30
    assert (second.values[:, AU12] == np.float32(0.1)).all()  # never mixed with the other face


def test_a_flicker_is_not_a_face():
    script = [[_face(0.4, 0.3, 0.8)] + ([_face(0.05, 0.1, 0.0)] if i == 7 else []) for i in range(20)]
    assert _run(script).n_faces == 1


def test_speaker_beats_size_when_its_mouth_moves_with_the_sound():
    rng = np.random.default_rng(3)
    talking = [(i // 25) % 2 == 0 for i in range(200)]
    script = [
        [
            _face(0.35, 0.4, 0.9, jaw=0.02 * rng.random()),
            _face(0.05, 0.15, 0.1, jaw=0.3 * (i % 6 < 3) if talking[i] else 0.0),
        ]
        for i in range(200)
    ]
    times_s = np.arange(800) / 100
    energy = np.array([1.0 if talking[min(199, int(t * 25))] else 0.01 for t in times_s])
    followed = _run(script, follow="speaker", speech_energy=(times_s, energy))
    assert (followed.track.values[:, AU12] == np.float32(0.1)).all()
    without_sound = _run(script, follow="speaker")
    assert (without_sound.track.values[:, AU12] == np.float32(0.9)).all()
    silence = _run(script, follow="speaker", speech_energy=(times_s, np.zeros(800)))
    assert (silence.track.values[:, AU12] == np.float32(0.9)).all()


def test_frames_are_streamed_and_progress_is_in_seconds():
    ends_s: list[float] = []
    _run([[_face(0.4, 0.2, 0.5)]] * 50, on_progress=ends_s.append)
    assert Scripted.largest_chunk <= 8
    assert ends_s == sorted(ends_s)
    assert ends_s[-1] == pytest.approx(2.0)
    assert len(ends_s) == 7


def test_unknown_backend_names_the_nearest():
    with pytest.raises(UnknownName, match="mediapipe"):
        extract_faces([], FaceSettings(backend="mediapip"))
