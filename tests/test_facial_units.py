"""Action units, pose angles, the face crop, tracking and choosing: numbers only, no model."""

from __future__ import annotations

import numpy as np
import pytest

from extractors.facial import BLENDSHAPES, COLUMNS, FaceSettings
from extractors.facial.action_units import action_units, face_crop, head_pose
from extractors.facial.tracking import FaceTracker, overlap, prominence, speaking_correlation

EXPECTED_COLUMNS = (
    "AU01 AU02 AU04 AU05 AU06 AU07 AU09 AU10 AU11 AU12 AU14 AU15 AU17 AU20 AU23 AU24 AU25 AU26 AU28 AU43 "
    "anger disgust fear happiness sadness surprise neutral Pitch Roll Yaw "
    "FaceRectX FaceRectY FaceRectWidth FaceRectHeight FaceScore"
)


def test_columns_are_the_35_in_order():
    assert tuple(EXPECTED_COLUMNS.split()) == COLUMNS
    assert len(COLUMNS) == 35
    assert len(set(BLENDSHAPES)) == 52


# ---- action units


def _units(**shapes: float) -> dict[str, float]:
    vector = np.zeros(52)
    for name, value in shapes.items():
        vector[BLENDSHAPES.index(name)] = value
    marks = np.zeros((478, 3))
    marks[152] = (0, 100, 0)  # chin, 100 px below the forehead; the lips touch
    return dict(zip(COLUMNS, action_units(vector, marks), strict=False))


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"browInnerUp": 0.6}, {"AU01": 0.6}),
        ({"browOuterUpLeft": 0.6, "browOuterUpRight": 0.2}, {"AU02": 0.4}),
        ({"mouthSmileLeft": 0.8, "mouthSmileRight": 0.4}, {"AU12": 0.6}),
        ({"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "eyeSquintLeft": 0.4, "eyeSquintRight": 0.4},
         {"AU12": 0.9, "AU07": 0.4, "AU06": 0.6}),
        ({"noseSneerLeft": 0.5, "noseSneerRight": 0.5, "mouthUpperUpLeft": 0.5, "mouthUpperUpRight": 0.5},
         {"AU09": 0.5, "AU10": 0.5, "AU11": 0.5}),
        ({"mouthPressLeft": 0.2, "mouthPressRight": 0.2, "mouthRollLower": 1.0, "mouthRollUpper": 0.2},
         {"AU24": 0.2, "AU28": 0.6, "AU23": 0.3}),
        ({"jawOpen": 0.7}, {"AU26": 0.7}),
        ({"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}, {"AU43": 1.0}),
    ],
)  # fmt: skip
def test_blendshapes_to_action_units(shapes, expected):
    units = _units(**shapes)
    nonzero = {name: pytest.approx(value) for name, value in expected.items()}
    assert {name: value for name, value in units.items() if value > 1e-9} == nonzero


def test_lip_gap_is_au25_relative_to_the_face_and_clipped():
    marks = np.zeros((478, 3))
    marks[152] = (0, 100, 0)
    marks[14] = (0, 10, 0)  # a gap of a tenth of the face's height; a fifth counts as 1
    au25 = COLUMNS.index("AU25")
    assert action_units(np.zeros(52), marks)[au25] == pytest.approx(0.5)
    assert action_units(np.zeros(52), marks * 7)[au25] == pytest.approx(0.5)  # size does not matter
    marks[14] = (0, 60, 0)
    assert action_units(np.zeros(52), marks)[au25] == 1.0


# ---- pose: hand-made rotations, in the camera's axes (x right in the picture, y up, z to the viewer)


def _about(axis: str, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.eye(4)
    matrix[:3, :3] = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]
    return matrix


NOSE, CROWN = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])


@pytest.mark.parametrize("angle", [0.1, 0.7])
def test_pose_signs(angle):
    up = _about("x", -angle)
    assert (up[:3, :3] @ NOSE)[1] > 0  # the nose points up
    assert head_pose(up) == pytest.approx((angle, 0, 0))

    tilted = _about("z", angle)
    assert (tilted[:3, :3] @ CROWN)[0] < 0  # the crown is left in the picture: the subject's right shoulder
    assert head_pose(tilted) == pytest.approx((0, angle, 0))

    turned = _about("y", -angle)
    assert (turned[:3, :3] @ NOSE)[0] < 0  # the nose points left in the picture: the subject's right
    assert head_pose(turned) == pytest.approx((0, 0, angle))


def test_pose_angles_combined_scaled_and_mirrored():
    pitch, roll, yaw = 0.2, -0.3, 0.4
    matrix = _about("z", roll) @ _about("y", -yaw) @ _about("x", -pitch)
    assert head_pose(matrix) == pytest.approx((pitch, roll, yaw))
    matrix[:3, :3] *= 1.7
    matrix[:3, 3] = (3, -2, -40)
    assert head_pose(matrix) == pytest.approx((pitch, roll, yaw))
    mirror = np.diag([-1.0, 1, 1, 1])
    assert head_pose(mirror @ matrix @ mirror) == pytest.approx((pitch, -roll, -yaw))


# ---- crop


def test_crop_levels_the_eyes_and_keeps_the_face():
    """A white disc per eye and one on the chin: wherever the face lies and however it is tilted, they land alike."""
    cv2 = pytest.importorskip("cv2")
    eye_r, eye_l, chin = np.array([-20.0, -15]), np.array([20.0, -15]), np.array([0.0, 40])

    def crop_of(angle: float, centre: tuple[float, float], size: float) -> np.ndarray:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        rgb = np.zeros((400, 600, 3), np.uint8)
        outline = 45 * np.stack([np.cos(np.arange(478)), np.sin(np.arange(478))], axis=1)
        outline[33], outline[263] = eye_r, eye_l
        for point in (eye_r, eye_l, chin):
            x, y = size * turn @ point + centre
            cv2.circle(rgb, (round(x), round(y)), round(5 * size), (255, 255, 255), -1)
        return face_crop(rgb, np.c_[size * outline @ turn.T + centre, np.zeros(478)]).astype(float)

    upright = crop_of(0.0, (300, 200), 1.0)
    assert upright.shape == (64, 64)
    rows, columns = np.nonzero(upright > 128)
    assert columns.mean() == pytest.approx(31.5, abs=1.0)  # symmetric about the middle
    assert (rows < 32).sum() > 1.6 * (rows > 45).sum() > 0  # two eyes above, one chin below
    for angle, centre, size in [(0.5, (300, 200), 1.0), (-0.4, (200, 150), 1.5), (0.0, (80, 60), 1.0)]:
        other = crop_of(angle, centre, size)
        assert np.corrcoef(upright.ravel(), other.ravel())[0, 1] > 0.85
    assert face_crop(np.zeros((50, 50, 3), np.uint8), np.full((478, 3), 900.0)).shape == (64, 64)  # out of the picture


# ---- tracking


def _box(x: float, y: float, size: float = 0.2) -> np.ndarray:
    return np.array([x - size / 2, y - size / 2, size, size])


def test_overlap_is_intersection_over_union():
    assert overlap(np.array([0, 0, 2, 2.0]), np.array([1, 1, 2, 2.0])) == pytest.approx(1 / 7)
    assert overlap(_box(0.2, 0.2), _box(0.2, 0.2)) == pytest.approx(1)
    assert overlap(_box(0.2, 0.2), _box(0.8, 0.8)) == 0


def test_ids_follow_faces_whatever_their_order_in_the_frame():
    tracker = FaceTracker()
    first = tracker.assign([_box(0.2, 0.5), _box(0.8, 0.5)], 0.0)
    assert len(set(first)) == 2
    for i in range(1, 20):
        boxes = [_box(0.8 - 0.01 * i, 0.5), _box(0.2 + 0.01 * i, 0.5)]  # listed the other way round
        assert tracker.assign(boxes, i / 25) == first[::-1]


def test_a_face_that_comes_back_nearby_keeps_its_id_and_a_stranger_does_not_get_it():
    tracker = FaceTracker()
    (left, right) = tracker.assign([_box(0.2, 0.5), _box(0.8, 0.5)], 0.0)
    assert tracker.assign([_box(0.2, 0.5)], 0.1) == [left]
    assert tracker.assign([_box(0.2, 0.5), _box(0.72, 0.5)], 1.0) == [left, right]  # back, a little moved
    assert tracker.assign([_box(0.5, 0.1, 0.1)], 1.1)[0] not in (left, right)  # elsewhere, half the size
    assert tracker.assign([_box(0.2, 0.5)], 60.0)[0] not in (left, right)  # a minute later


def test_two_boxes_never_share_an_id():
    tracker = FaceTracker()
    tracker.assign([_box(0.5, 0.5)], 0.0)
    ids = tracker.assign([_box(0.5, 0.5), _box(0.52, 0.5)], 0.04)
    assert len(set(ids)) == 2


def test_prominence_grows_with_size_centrality_and_persistence():
    base = prominence(np.array([_box(0.3, 0.5)] * 10), 20)
    assert prominence(np.array([_box(0.3, 0.5, 0.3)] * 10), 20) > base
    assert prominence(np.array([_box(0.5, 0.5)] * 10), 20) > base
    assert prominence(np.array([_box(0.3, 0.5)] * 15), 20) > base


def test_speaking_correlation_prefers_the_mouth_that_moves_with_the_sound():
    rng = np.random.default_rng(1)
    time_s = np.arange(250) / 25
    talking = (time_s % 4) < 2
    energy_times_s = np.arange(1000) / 100
    energy = ((energy_times_s % 4) < 2) * (1 + 0.2 * rng.random(1000))
    speaks = 0.2 + talking * 0.2 * np.sin(2 * np.pi * 4 * time_s) + 0.005 * rng.random(250)
    listens = 0.2 + ~talking * 0.2 * np.sin(2 * np.pi * 4 * time_s) + 0.005 * rng.random(250)
    still, jitter = np.full(250, 0.4), 1e-4 * speaks  # jitter has the right rhythm, but is no talking
    scores = [speaking_correlation(mouth, time_s, energy_times_s, energy) for mouth in (speaks, listens, still, jitter)]
    assert scores[0] > 0.7
    assert scores[1] < -0.5
    assert scores[2] == 0.0
    assert abs(scores[3]) < 0.01
    assert speaking_correlation(speaks[:3], time_s[:3], energy_times_s, energy) == 0.0  # too little to tell


def test_settings_are_checked():
    with pytest.raises(ValueError, match="follow"):
        FaceSettings(follow="loudest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_faces"):
        FaceSettings(max_faces=0)
