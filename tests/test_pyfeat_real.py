"""The real py-feat code behind the pipe, with random weights of the right shapes (``fake_pyfeat_weights``).

Run with $LAMB_PYFEAT_PYTHON set to the Python of its virtual environment (`make pyfeat`). What is tested is all but what the
networks learned: that every face comes with 35 columns where py-feat's own ``detect`` puts them, streams, and memory.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from data.errors import ToolError
from extractors.facial import COLUMNS, FaceSettings, Frame, check_backend, extract_faces, pyfeat_process
from extractors.facial.columns import ACTION_UNITS, BLENDSHAPES, EMOTION_COLUMNS
from extractors.facial.pyfeat_process import PYTHON_VARIABLE
from tests.package_media import read_frames, read_rgb

BUILDER = Path(__file__).with_name("fake_pyfeat_weights.py")
DETECTORS = {"py-feat": "v1", "py-feat-v2": "v2"}
# The builder's fitted face: in the 160 × 160 px picture the cell of 16 px around (79, 82), 64 px wide; both crops add 20 %.
SIDE_PX, CENTRE_PX, FACE_PX = 160, (72, 88), 64 * 1.2
UNITS, EMOTIONS = slice(0, 20), slice(20, 27)
BOX = slice(COLUMNS.index("FaceRectX"), COLUMNS.index("FaceRectHeight") + 1)

pytestmark = [
    pytest.mark.skipif(not os.environ.get(PYTHON_VARIABLE), reason=f"{PYTHON_VARIABLE} is not set (`make pyfeat`)"),
    pytest.mark.xdist_group("pyfeat"),
]


@dataclass(frozen=True)
class Random:
    folder: Path
    picture: np.ndarray
    reference: dict[str, dict[str, float]]

    def settings(self, backend: str, **options) -> FaceSettings:
        return FaceSettings(**{"backend": backend, "pyfeat_path": self.folder, **options})


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory, feat_media: Path):
    """Weights, the picture in which they find one face, and what py-feat itself says of it."""
    import cv2

    folder = tmp_path_factory.mktemp("pyfeat")
    picture = cv2.resize(read_rgb(feat_media / "single_face.jpg"), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    path = folder / "picture.png"
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    weights = folder / "weights"
    command = [pyfeat_process.python(), "-W", "ignore", "-I", str(BUILDER), str(pyfeat_process.SCRIPT), str(weights)]
    done = subprocess.run([*command, str(path), "79", "82"], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    yield Random(weights, picture, json.loads((weights / "reference.json").read_text()))
    pyfeat_process.close_idle()
    shutil.rmtree(weights)  # 800 MB; pytest keeps the folders of three runs


@pytest.fixture(params=DETECTORS, scope="module")  # of the module: each one's process is started once
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def _frames(pictures) -> list[Frame]:
    return [Frame(i, i / 25, (i + 1) / 25, picture) for i, picture in enumerate(pictures)]


def test_a_face_has_the_numbers_of_pyfeats_own_detect(random, backend):
    track = extract_faces(_frames([random.picture] * 2), random.settings(backend)).track
    assert track.valid.all()
    assert track.spec.columns == COLUMNS
    came = dict(zip(COLUMNS, track.values[0].tolist(), strict=True))
    said = random.reference[DETECTORS[backend]]
    names = {name: name for name in (*ACTION_UNITS, "Pitch", "Roll", "Yaw", "FaceScore")}
    if backend == "py-feat":
        names |= {name: name for name in EMOTION_COLUMNS}
    else:
        names |= {name: name.capitalize() for name in EMOTION_COLUMNS} | {"happiness": "Happy", "sadness": "Sad"}
    for ours, theirs in names.items():
        assert came[ours] == pytest.approx(said[theirs], abs=2e-5), ours
    for part in ("X", "Y", "Width", "Height"):
        assert came[f"FaceRect{part}"] == pytest.approx(said[f"FaceRect{part}"] / SIDE_PX, abs=1e-6)


def test_ranges_and_place(random, backend):
    result = extract_faces(_frames([random.picture] * 3), random.settings(backend))
    values = result.track.values[0]
    assert ((values[UNITS] >= 0) & (values[UNITS] <= 1)).all()
    assert values[UNITS].std() > 0.01  # not all the same
    assert values[EMOTIONS].sum() == pytest.approx(1, abs=1e-5)
    corner = [(c - FACE_PX / 2) / SIDE_PX for c in CENTRE_PX]
    np.testing.assert_allclose(values[BOX], [*corner, FACE_PX / SIDE_PX, FACE_PX / SIDE_PX], atol=1 / SIDE_PX)
    assert values[COLUMNS.index("FaceScore")] > 1 / (1 + math.exp(-1.99))  # fitted to a logit of 2 at least
    assert result.blendshapes.spec.columns == BLENDSHAPES
    assert result.blendshapes.valid.all() == (backend == "py-feat-v2")


def test_every_frame_is_a_row_and_every_face_comes_through(random, backend):
    none, one = np.zeros_like(random.picture), random.picture
    wide = [np.concatenate(pair, axis=1) for pair in [(one, one), (one, none), (none, none), (none, one), (one, one)]]
    pattern = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    result = extract_faces(_frames([wide[i] for i in pattern]), random.settings(backend, follow="all"))
    np.testing.assert_array_equal(result.track.valid, [i != 2 for i in pattern])
    assert (result.track.values[~result.track.valid] == 0).all()
    assert result.n_faces == 2
    left, right = sorted(result.faces, key=lambda track: track.values[track.valid][0, BOX][0])
    np.testing.assert_array_equal(left.valid, [i in (0, 1, 4) for i in pattern])
    np.testing.assert_array_equal(right.valid, [i in (0, 3, 4) for i in pattern])
    shift = right.values[0, BOX] - left.values[0, BOX]
    np.testing.assert_allclose(shift, [0.5, 0, 0, 0], atol=1e-6)  # the same face, half a frame to the right


def test_one_face_at_most_where_one_is_asked_for(random, backend):
    wide = np.concatenate([random.picture, random.picture], axis=1)
    assert extract_faces(_frames([wide] * 2), random.settings(backend, follow="all")).n_faces == 2
    assert extract_faces(_frames([wide] * 2), random.settings(backend, follow="all", max_faces=1)).n_faces == 1


def test_package_clips_are_read_to_their_end(random, backend, feat_media):
    """What a fitted random network takes for a face there means nothing; that every frame is a row, in its place, does."""
    frames = list(read_frames(feat_media / "noface_face.mov", step=24))
    track = extract_faces(frames, random.settings(backend)).track
    assert track.values.shape == (len(frames), 35)
    np.testing.assert_array_equal(track.start_s, [frame.start_s for frame in frames])
    assert (track.values[:, BOX] >= 0).all()
    assert (track.values[:, BOX] <= 1).all()
    assert not track.values[~track.valid].any()


def test_nothing_leaks_into_this_process(random, backend):
    check_backend(random.settings(backend))
    threads = os.environ.get("OMP_NUM_THREADS")
    extract_faces(_frames([random.picture] * 2), random.settings(backend))
    assert torch.is_grad_enabled()
    x = torch.ones(1, requires_grad=True)
    assert (2 * x).requires_grad
    assert os.environ.get("OMP_NUM_THREADS") == threads
    assert not {"feat", "torchcodec"} & set(sys.modules)


def test_memory_is_flat_over_800_frames(random, backend):
    """Every 80th frame has a face. What the process holds after 400 frames is what it holds after 800."""
    none, held = np.zeros_like(random.picture[:64, :64]), {}

    def frames():
        for i in range(801):
            if i in (400, 800):
                script = str(pyfeat_process.SCRIPT)
                (child,) = [one for one in psutil.Process().children() if script in one.cmdline()]
                held[i] = child.memory_info().rss
            yield Frame(i, i / 25, (i + 1) / 25, none if i % 80 else random.picture)

    track = extract_faces(frames(), random.settings(backend)).track
    np.testing.assert_array_equal(np.flatnonzero(track.valid), np.arange(0, 801, 80))
    assert held[800] - held[400] < 10e6, held  # as py-feat's floats, 400 frames of this size alone are 20 MB


def test_a_weight_file_that_would_build_other_types_is_refused(random, tmp_path):
    bad = tmp_path / "weights"
    bad.mkdir()
    for path in random.folder.iterdir():
        (bad / path.name).symlink_to(path)
    (bad / "xgb_au").mkdir()
    target = bad / "xgb_au" / "xgb_au_classifier_v2.skops"
    code = "import sys, subprocess, skops.io as s; s.dump([subprocess.Popen], sys.argv[1])"
    subprocess.run([pyfeat_process.python(), "-I", "-c", code, str(target)], check=True, timeout=300)
    with pytest.raises(ToolError, match=r"would build subprocess\.Popen: refused"):
        extract_faces(_frames([random.picture]), FaceSettings(backend="py-feat", pyfeat_path=bad))
