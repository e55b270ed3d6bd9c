"""The default backend on real pictures and clips: signs, expressions, coming and going, several and small faces."""

from __future__ import annotations

import csv
import zipfile

import cv2
import numpy as np
import pytest

from data.errors import WeightsError
from extractors.facial import BLENDSHAPES, COLUMNS, FaceSettings, Frame, extract_faces, facial_spec
from extractors.weights import resolve
from tests.package_media import read_frames, read_rgb, still_frames

SMILE, SURPRISE, TURNED, ANGRY = "0-f15-hao-ph.jpg", "0-f1-su-ph.jpg", "45-m7-di-ph.jpg", "15-f13-anc-ph.jpg"


def _row(rgb: np.ndarray) -> dict[str, float]:
    """Columns of the one face in a picture."""
    track = extract_faces(still_frames(rgb)).track
    assert track.valid.all()
    return dict(zip(COLUMNS, track.values[-1].tolist(), strict=True))


@pytest.fixture(scope="module")
def rows(feat_media) -> dict[str, dict[str, float]]:
    return {name: _row(read_rgb(feat_media / name)) for name in (SMILE, SURPRISE, TURNED, ANGRY)}


# ---- pose


@pytest.mark.parametrize("degrees", [15, -15])
def test_turning_the_picture_changes_roll_by_that_much(feat_media, rows, degrees):
    rgb = read_rgb(feat_media / SMILE)
    height, width = rgb.shape[:2]
    # OpenCV's positive angle turns the picture anticlockwise: the crown goes left, to the subject's right shoulder.
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = _row(cv2.warpAffine(rgb, turn, (width, height), borderMode=cv2.BORDER_REPLICATE))
    assert turned["Roll"] - rows[SMILE]["Roll"] == pytest.approx(np.radians(degrees), abs=0.05)
    assert turned["Pitch"] == pytest.approx(rows[SMILE]["Pitch"], abs=0.12)


def test_mirroring_flips_yaw_and_roll_and_keeps_pitch(feat_media, rows):
    """The head of this picture is turned to the left in the picture, i.e. to the subject's right: positive yaw."""
    mirrored = _row(np.ascontiguousarray(read_rgb(feat_media / TURNED)[:, ::-1]))
    assert rows[TURNED]["Yaw"] > 0.4
    for name, sign in (("Yaw", -1), ("Roll", -1), ("Pitch", 1)):
        assert mirrored[name] == pytest.approx(sign * rows[TURNED][name], abs=0.06)


def test_pitch_follows_the_nose(feat_media):
    """Independent of the pose matrix: looking up lifts the tip of the nose above the line between the ears."""
    from extractors.facial.action_units import head_pose
    from extractors.facial.backends.mediapipe_tasks import Landmarker

    model = resolve("face-landmarker").file("face_landmarker.task").read_bytes()
    landmarker = Landmarker(model, 2)
    nose, pitch = [], []
    for frame in read_frames(feat_media / "WolfgangLanger_Pexels.mp4", step=12):
        for one in landmarker.find(frame.rgb, frame.start_s)[:1]:
            marks = one.landmarks
            ears = (marks[234, 1] + marks[454, 1]) / 2
            nose.append((ears - marks[1, 1]) / np.linalg.norm(marks[10] - marks[152]))
            pitch.append(head_pose(one.matrix)[0])
    landmarker.close()
    assert len(pitch) >= 30
    assert np.ptp(pitch) > 0.1
    assert np.corrcoef(nose, pitch)[0, 1] > 0.8


# ---- expressions


def test_expressions_raise_their_units(rows):
    calm = rows[ANGRY]  # lips closed
    assert rows[SMILE]["AU12"] > 0.6 > 0.2 > calm["AU12"]
    assert rows[SMILE]["AU06"] > calm["AU06"] + 0.3
    assert rows[SURPRISE]["AU26"] > calm["AU26"] + 0.3
    assert rows[SURPRISE]["AU25"] > calm["AU25"] + 0.3
    assert rows[SURPRISE]["AU01"] > calm["AU01"] + 0.3
    assert calm["AU04"] > max(rows[SMILE]["AU04"], rows[SURPRISE]["AU04"]) + 0.3


def test_emotions_of_posed_pictures(rows):
    emotions = COLUMNS[20:27]
    for row in rows.values():
        assert sum(row[name] for name in emotions) == pytest.approx(1.0, abs=1e-4)
    assert max(emotions, key=rows[SMILE].get) == "happiness"
    assert max(emotions, key=rows[SURPRISE].get) == "surprise"
    assert rows[ANGRY]["happiness"] < 0.1


def test_everything_is_in_range_and_the_box_holds_the_face(rows):
    for row in rows.values():
        assert all(0 <= row[name] <= 1 for name in COLUMNS if name not in ("Pitch", "Roll", "Yaw"))
        assert row["FaceScore"] > 0.8
        assert row["FaceRectX"] < 0.5 < row["FaceRectX"] + row["FaceRectWidth"]
        assert 0.3 < row["FaceRectWidth"] < 0.7


# ---- clips


def test_a_talking_head_is_seen_in_every_frame(feat_media):
    frames = list(read_frames(feat_media / "single_face.mp4", step=2))
    result = extract_faces(frames)
    assert result.track.valid.all()
    assert (len(result.track), result.n_faces, result.reason) == (len(frames), 1, None)
    np.testing.assert_allclose(result.track.start_s, [frame.start_s for frame in frames])
    assert result.track.spec == facial_spec()
    assert result.blendshapes.spec.columns == BLENDSHAPES
    assert result.blendshapes.valid.all()
    assert np.abs(np.diff(result.track.values[:, COLUMNS.index("FaceRectX")])).max() < 0.05  # follows, does not jump


def test_no_face_keeps_a_row_per_frame(feat_media):
    frames = list(read_frames(feat_media / "no_face.mp4", step=2))
    result = extract_faces(frames)
    assert (len(result.track), result.n_faces, result.reason) == (len(frames), 0, "no_face")
    assert not result.track.valid.any()
    assert (result.track.values == 0).all()


@pytest.mark.parametrize(("name", "face_first"), [("face_noface.mov", True), ("noface_face.mov", False)])
def test_a_face_that_comes_or_goes_keeps_the_clock(feat_media, name, face_first):
    # Each clip holds one black frame, at the cut or at the end, which belongs to neither part.
    frames = [frame for frame in read_frames(feat_media / name, step=3) if frame.rgb.mean() > 1]
    track = extract_faces(frames).track
    np.testing.assert_allclose(track.start_s, [frame.start_s for frame in frames])
    assert track.valid[0] == face_first
    assert track.valid[-1] != face_first
    assert np.count_nonzero(np.diff(track.valid)) == 1  # one change, no flicker
    # Both clips are the 72 frames of one face clip beside 97 frames without a face.
    assert track.valid.mean() == pytest.approx(72 / 169, abs=0.03)


# ---- several faces, small faces


def _paste(canvas: np.ndarray, rgb: np.ndarray, left: int, top: int, size: int) -> None:
    canvas[top : top + size, left : left + size] = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA)


def _grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_two_faces_keep_their_tracks_while_they_move_and_one_leaves(feat_media):
    surprised, smiling = read_rgb(feat_media / SURPRISE), read_rgb(feat_media / SMILE)
    frames, away = [], range(8, 14)
    for i in range(22):
        canvas = _grey(480, 1000)
        _paste(canvas, surprised, 50 + 3 * i, 90, 330)
        if i not in away:
            _paste(canvas, smiling, 650 - 3 * i, 100, 290)
        frames.append(Frame(i, i / 25, (i + 1) / 25, canvas))
    result = extract_faces(frames, FaceSettings(follow="all"))
    assert result.n_faces == len(result.faces) == 2
    first, second = result.faces
    smile = COLUMNS.index("AU12")
    assert first.valid.all()
    np.testing.assert_array_equal(np.flatnonzero(~second.valid), list(away))
    assert (first.values[:, smile] < 0.2).all()
    assert (second.values[second.valid][:, smile] > 0.5).all()
    np.testing.assert_array_equal(result.track.values, first.values)  # the larger one


def test_the_speaking_face_is_followed(feat_media):
    """A large face that smiles all along, a smaller one whose mouth opens and closes while there is sound."""
    surprised, angry = read_rgb(feat_media / SURPRISE), read_rgb(feat_media / ANGRY)
    smiling = read_rgb(feat_media / SMILE)
    frames, loud = [], []
    for i in range(48):
        talking = (i // 12) % 2 == 0
        canvas = _grey(480, 900)
        _paste(canvas, smiling, 20, 30, 420)
        _paste(canvas, surprised if talking and i % 6 < 3 else angry, 560, 100, 300)
        frames.append(Frame(i, i / 12, (i + 1) / 12, canvas))
        loud.append(float(talking))
    energy = (np.arange(48) / 12 + 1 / 24, np.array(loud))
    rect = COLUMNS.index("FaceRectX")
    speaker = extract_faces(frames, FaceSettings(follow="speaker"), speech_energy=energy).track
    assert speaker.valid.mean() > 0.9
    assert (speaker.values[speaker.valid][:, rect] > 0.5).all()
    largest = extract_faces(frames[:12], FaceSettings()).track
    assert (largest.values[:, rect] < 0.5).all()


def test_all_five_faces_of_a_group_are_found_by_tiles(feat_media):
    rgb = read_rgb(feat_media / "multi_face.jpg")
    result = extract_faces(still_frames(rgb, 3), FaceSettings(follow="all", max_faces=8))
    assert result.n_faces == 5
    assert all(track.valid.all() for track in result.faces)
    assert np.mean([track.values[0, COLUMNS.index("AU12")] for track in result.faces]) > 0.5  # they laugh


def test_a_small_face_is_found_and_followed(feat_media):
    """About 50 px wide in 1280×720, moving: a single look at the whole frame finds nothing."""
    smiling = read_rgb(feat_media / SMILE)
    frames = []
    for i in range(30):
        canvas = _grey(720, 1280)
        _paste(canvas, smiling, 200 + 12 * i, 300 + 4 * (i % 5), 90)
        frames.append(Frame(i, i / 25, (i + 1) / 25, canvas))
    track = extract_faces(frames).track
    assert track.valid.all()
    values = dict(zip(COLUMNS, track.values.T, strict=True))
    middle_px = (values["FaceRectX"] + values["FaceRectWidth"] / 2) * 1280
    assert np.abs(middle_px - (200 + 12 * np.arange(30) + 45)).max() < 10
    assert (values["AU12"] > 0.5).all()
    assert (values["happiness"] > 0.5).all()


def test_noise_and_odd_sizes_never_break():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (48, 64), (300, 31)):
        result = extract_faces(still_frames(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)))
        assert np.isfinite(result.track.values).all()
        assert len(result.track) == 2


# ---- contract


def test_spec_covers_both_weight_sets():
    spec = facial_spec("mediapipe")
    assert (spec.modality, spec.dim, spec.rate_hz, spec.columns) == ("visual", 35, None, COLUMNS)
    assert len(spec.weights) == 64
    assert spec.weights not in (resolve("face-landmarker").digest, resolve("facial-emotions").digest)


def test_weights_that_differ_are_refused(tmp_path):
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="sha256"):
        extract_faces([], FaceSettings(landmarker_path=path))


@pytest.mark.shared
def test_emotions_on_labelled_stills(shared_data):
    """Some 60 stills: most faces found; accuracy far above chance (1/7), near the .52 measured on all 1,797."""
    with (shared_data / "faces" / "labels.csv").open() as file:
        labelled = [row for row in csv.DictReader(file) if row["emotion"] != "fear"]  # 21 of 1,916: too few
    right = seen = 0
    emotions = COLUMNS[20:27]
    chosen = labelled[:: len(labelled) // 60]
    canvas_frames = []
    for i, row in enumerate(chosen):
        rgb = read_rgb(shared_data / "faces" / row["image"])
        canvas_frames.append(Frame(i, i * 0.5, i * 0.5 + 0.5, rgb))
    result = extract_faces(canvas_frames, FaceSettings())
    track = result.track
    assert len(track) == len(chosen)
    for row, valid, values in zip(chosen, track.valid, track.values, strict=True):
        seen += bool(valid)
        right += bool(valid) and emotions[int(np.argmax(values[20:27]))] == row["emotion"]
    assert seen > 0.85 * len(chosen)
    assert right > 0.4 * seen


def test_a_cut_to_another_place_loses_no_frame(feat_media):
    surprised, smiling = read_rgb(feat_media / SURPRISE), read_rgb(feat_media / SMILE)
    frames = []
    for i in range(10):
        canvas = _grey(480, 900)
        _paste(canvas, *((smiling, 20, 60, 340) if i < 5 else (surprised, 540, 100, 340)))
        frames.append(Frame(i, i / 25, (i + 1) / 25, canvas))
    track = extract_faces(frames).track
    assert track.valid.all()
    smile = track.values[:, COLUMNS.index("AU12")]
    assert (smile[:5] > 0.5).all()
    assert (smile[5:] < 0.2).all()


def test_results_do_not_depend_on_earlier_runs(feat_media):
    frames = still_frames(read_rgb(feat_media / SMILE), 3)
    np.testing.assert_array_equal(extract_faces(frames).track.values, extract_faces(frames).track.values)


# ---- what is done faster gives the same numbers


def test_direct_calls_give_the_numbers_of_mediapipe_s_own_objects(feat_media):
    from extractors.facial.backends.mediapipe_tasks import Detector, Landmarker
    from extractors.native import load_mediapipe

    mp = load_mediapipe()
    path = resolve("face-landmarker").file("face_landmarker.task")
    with zipfile.ZipFile(path) as bundle:
        detector = Detector(bundle.read("face_detector.tflite"))
    ours, theirs = Landmarker(path.read_bytes(), 2), Landmarker(path.read_bytes(), 2)
    rgb = read_rgb(feat_media / "multi_face.jpg")
    height, width = rgb.shape[:2]
    for i in range(2):  # detected, then followed
        found = ours.find(rgb, i / 25, left=7, top=5)
        image = mp.Image(mp.ImageFormat.SRGB, rgb)
        expected = theirs._task.detect_for_video(image, 100 + 40 * i)
        assert len(found) == len(expected.face_landmarks) > 0
        for one, marks, shapes, matrix in zip(
            found,
            expected.face_landmarks,
            expected.face_blendshapes,
            expected.facial_transformation_matrixes,
            strict=True,
        ):
            points = np.array([(p.x * width + 7, p.y * height + 5, p.z * width) for p in marks])
            np.testing.assert_array_equal(one.landmarks, points)
            np.testing.assert_array_equal(one.shapes, np.array([s.score for s in shapes], np.float32))
            np.testing.assert_array_equal(one.matrix, matrix)
    boxes = [(b.x, b.y, b.width, b.height, b.score) for b in detector.find(rgb)]
    detected = detector._task.detect(mp.Image(mp.ImageFormat.SRGB, rgb)).detections
    assert boxes == [
        (d.bounding_box.origin_x, d.bounding_box.origin_y, d.bounding_box.width, d.bounding_box.height, c.score)
        for d in detected
        for c in d.categories
    ]
    assert boxes
    for task in (ours, theirs, detector):
        task.close()


def test_a_repeated_picture_without_a_face_is_looked_at_once(feat_media, monkeypatch):
    from extractors.facial.backends import mediapipe_tasks

    looks = []
    find = mediapipe_tasks.Landmarker.find
    monkeypatch.setattr(
        mediapipe_tasks.Landmarker, "find", lambda self, *a, **k: looks.append(1) or find(self, *a, **k)
    )
    # A face of 90 px in 1280×720 is found by tiles only, which are searched once a second: the clock must go on.
    canvas = _grey(720, 1280)
    with_face = canvas.copy()
    _paste(with_face, read_rgb(feat_media / SMILE), 400, 300, 90)
    frames = [Frame(i, i / 25, (i + 1) / 25, with_face if i >= 40 else canvas.copy()) for i in range(62)]
    still = extract_faces(frames).track
    assert len(looks) < 40
    looks.clear()
    monkeypatch.setattr(mediapipe_tasks.MediaPipeFaces, "_still_empty", lambda *_: False)
    every = extract_faces(frames).track
    assert len(looks) >= 62
    assert every.valid.any()
    assert not every.valid.all()
    np.testing.assert_array_equal(still.valid, every.valid)
    np.testing.assert_array_equal(still.values, every.values)


def test_the_crop_is_that_of_a_blur_of_the_whole_picture():
    """Squares anywhere, turned, half outside: only a part is blurred, and nobody can tell."""
    from extractors.facial.action_units import CROP_SCALE, CROP_SHIFT_DOWN, LEFT_EYE_OUTER, RIGHT_EYE_OUTER, face_crop

    rng = np.random.default_rng(0)
    rgb = cv2.resize(rng.integers(0, 256, (60, 100, 3), dtype=np.uint8), (1000, 600))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    for _ in range(60):
        marks = np.zeros((478, 3))
        marks[:, :2] = rng.uniform(-0.5, 0.5, (478, 2)) * rng.uniform(150, 500) + rng.uniform(0, 1, 2) * (1000, 600)
        across = marks[LEFT_EYE_OUTER, :2] - marks[RIGHT_EYE_OUTER, :2]
        angle = np.arctan2(across[1], across[0])
        level = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        turned = marks[:, :2] @ level.T
        low, high = turned.min(axis=0), turned.max(axis=0)
        extent = (high - low).max()
        side = CROP_SCALE * extent
        blurred = cv2.GaussianBlur(grey, (0, 0), 0.35 * side / 64)
        to_crop = level * (64 / side)
        offset = 32 - to_crop @ (level.T @ ((low + high) / 2 + (0.0, CROP_SHIFT_DOWN * extent)))
        expected = cv2.warpAffine(blurred, np.c_[to_crop, offset], (64, 64), borderMode=cv2.BORDER_REPLICATE)
        # Positions are rounded from another origin, hence a few grey levels here and there.
        assert np.abs(face_crop(rgb, marks).astype(int) - expected).max() <= 2
