"""The py-feat backends without py-feat: pipe, process and columns with a toy detector, weights with a toy hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from data.errors import ToolError, WeightsError
from data.registry import UnknownName
from extractors.facial import COLUMNS, FaceSettings, Frame, check_backend, extract_faces, facial_spec, pyfeat_process
from extractors.facial import pyfeat_weights as weights
from extractors.facial.backends.pyfeat_detectors import PyFeatV1, column_order
from extractors.facial.columns import BLENDSHAPES
from pipeline.cli_options import pipeline_settings
from pipeline.video import Extractors

FAKE = Path(__file__).with_name("fake_pyfeat_worker.py")
REAL = pyfeat_process.SCRIPT
WIDTH, HEIGHT = 64, 48
DETECTORS = ("py-feat", "py-feat-v2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights that only a toy would take."""
    for detector in weights.FILES:
        for file in weights.FILES[detector]:
            path = tmp_path / "weights" / file.repository / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"not really {file.key}")
    return tmp_path / "weights"


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pyfeat_process, "SCRIPT", FAKE)
    monkeypatch.setenv("FAKE_PYFEAT_REAL", str(REAL))
    monkeypatch.setenv("FAKE_PYFEAT", "")
    monkeypatch.setenv(pyfeat_process.PYTHON_VARIABLE, sys.executable)
    pyfeat_process._resources.cache_clear()
    yield
    pyfeat_process.close_idle()
    pyfeat_process._resources.cache_clear()


def _frames(*widths_px: tuple[float, ...], size: tuple[int, int] = (HEIGHT, WIDTH)) -> list[Frame]:
    """Frames with faces of these widths (see the toy)."""
    frames = []
    for i, faces in enumerate(widths_px):
        rgb = np.zeros((*size, 3), np.uint8)
        rgb[0, : len(faces), 0] = [round(10 * width) for width in faces]
        frames.append(Frame(i, i / 25, (i + 1) / 25, rgb))
    return frames


def _settings(folder: Path, **options) -> FaceSettings:
    return FaceSettings(**{"backend": "py-feat", "pyfeat_path": folder, **options})


@pytest.mark.parametrize("backend", DETECTORS)
def test_columns_are_found_by_name_and_scaled_to_the_frame(folder, backend):
    track = extract_faces(_frames((16,), (16,)), _settings(folder, backend=backend)).track
    assert track.spec.columns == COLUMNS
    came = dict(zip(COLUMNS, track.values[1].tolist(), strict=True))
    # The toy's AU43 is its column 1, …, AU01 its column 20; then Neutral Happy Sad Surprise Fear Disgust Anger.
    assert (came["AU43"], came["AU01"], came["AU12"]) == pytest.approx((0.01, 0.20, 0.11))
    emotions = [came[name] for name in ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")]
    assert emotions == pytest.approx([0.21, 0.22, 0.23, 0.24, 0.25, 0.26, 0.27])
    assert (came["Pitch"], came["Roll"], came["Yaw"]) == pytest.approx(
        (-0.5, 0.25, 1.5)
    )  # radians, not clipped to 0..1
    # 4 px from the left, 3 px above the frame, 16 × 12 px: what is outside is cut off.
    box = [came[f"FaceRect{part}"] for part in ("X", "Y", "Width", "Height")]
    assert box == pytest.approx([4 / 64, 0, 16 / 64, 9 / 48])
    assert came["FaceScore"] == 0.75


def test_v2_has_the_blendshapes_and_v1_none():
    theirs = [*reversed(COLUMNS), *reversed(BLENDSHAPES)]
    ours, shapes = column_order(theirs)
    assert [theirs[i] for i in ours] == list(COLUMNS)
    assert shapes is not None
    assert [theirs[i] for i in shapes] == list(BLENDSHAPES)
    assert column_order(COLUMNS)[1] is None
    with pytest.raises(ToolError, match="Expected py-feat to give AU28, Yaw"):
        column_order([name for name in COLUMNS if name not in ("AU28", "Yaw")])


def test_rows_follow_frames_whatever_is_seen(folder):
    pattern = [1, 1, 0, 2, 2, 1, 0, 0, 1, 2, 2, 1] * 5
    frames = _frames(*[(16.0, 12.5)[:n] for n in pattern])
    result = extract_faces(iter(frames), _settings(folder))
    np.testing.assert_array_equal(result.track.valid, np.array(pattern) > 0)
    assert (result.track.values[~result.track.valid] == 0).all()
    np.testing.assert_array_equal(result.track.start_s, [frame.start_s for frame in frames])
    assert not result.blendshapes.valid.any()


def test_sizes_may_change_within_a_batch(folder):
    frames = [*_frames((16,), (16,)), *_frames((16,), size=(24, 32)), *_frames((16,), (0,))]
    with PyFeatV1(_settings(folder)) as backend:
        seen = backend.observe(frames)
    widths = [[float(one.box[2]) for one in faces] for faces in seen]
    assert widths == [[0.25], [0.25], [0.5], [0.25], []]


def test_a_face_with_a_number_missing_is_not_seen(folder, monkeypatch):
    monkeypatch.setenv("FAKE_PYFEAT", "nan")
    result = extract_faces(_frames((16,), (16,)), _settings(folder))
    assert result.reason == "no_face"
    assert not result.track.valid.any()


def test_a_process_that_dies_is_an_error_with_its_last_words(folder, monkeypatch):
    monkeypatch.setenv("FAKE_PYFEAT", "die")
    with pytest.raises(ToolError, match="ended with status 7: CUDA error: it is too hot") as caught:
        extract_faces(_frames(*[(16,)] * 20), _settings(folder))
    assert caught.value.code == "pyfeat_died"
    monkeypatch.setenv("FAKE_PYFEAT", "")
    assert extract_faces(_frames((16,), (16,)), _settings(folder)).track.valid.all()  # the next file has a new one


def test_a_batch_has_a_time_limit(folder, monkeypatch):
    monkeypatch.setenv("FAKE_PYFEAT", "hang")
    monkeypatch.setattr(pyfeat_process, "FRAME_LIMIT_S", 0.1)
    started = time.monotonic()
    with pytest.raises(ToolError, match="done with 8 frames within 1 s") as caught:
        extract_faces(_frames(*[(16,)] * 20), _settings(folder))
    assert caught.value.code == "pyfeat_timeout"
    assert time.monotonic() - started < 20
    assert not [child for child in psutil.Process().children() if FAKE.name in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("fail at start", "pyfeat_failed", "ValueError: no such thing"),
        ("hang at start", "pyfeat_timeout", "within 1 s"),
    ],
)
def test_a_process_that_does_not_start_is_an_error(folder, monkeypatch, mode, code, said):
    monkeypatch.setenv("FAKE_PYFEAT", mode)
    if mode == "hang at start":
        monkeypatch.setattr(pyfeat_process, "START_LIMIT_S", 1.0)
    with pytest.raises(ToolError, match=said) as caught:
        extract_faces(_frames((16,)), _settings(folder))
    assert caught.value.code == code


def test_large_batches_pass_the_pipe_both_ways(folder):
    frames = _frames(*[(16.0,) * 300] * 8, size=(720, 1280))  # 22 MB in, 0.4 MB out
    faces = extract_faces(frames, _settings(folder, max_faces=300, follow="all")).faces
    assert sum(track.valid.sum() for track in faces) == 8 * 300


def test_the_process_is_kept_for_the_next_file(folder):
    extract_faces(_frames((16,)), _settings(folder))
    (first,) = pyfeat_process._idle
    extract_faces(_frames((16,)), _settings(folder))
    assert pyfeat_process._idle == [first]
    extract_faces(_frames((16,)), _settings(folder, threads=2))
    (second,) = pyfeat_process._idle
    assert second.pid != first.pid
    assert not psutil.pid_exists(first.pid)


def test_a_process_that_died_while_it_waited_is_replaced(folder):
    extract_faces(_frames((16,)), _settings(folder))
    (first,) = pyfeat_process._idle
    os.kill(first.pid, signal.SIGKILL)
    first._process.wait()
    track = extract_faces(_frames((16,)), _settings(folder)).track
    assert track.valid.all()
    (second,) = pyfeat_process._idle
    assert second.pid != first.pid


def test_a_file_that_breaks_off_leaves_the_process_whole(folder):
    def frames():
        yield from _frames(*[(16,)] * 8)
        raise RuntimeError("the video ends here")

    with pytest.raises(RuntimeError, match="ends here"):
        extract_faces(frames(), _settings(folder))
    (kept,) = pyfeat_process._idle
    assert extract_faces(_frames((16,)), _settings(folder)).track.valid.all()
    assert pyfeat_process._idle == [kept]


@pytest.mark.parametrize("mode", ["", "hang"])
def test_the_process_dies_with_its_parent(folder, mode):
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import tests.test_pyfeat_backend as t\n"
        "from extractors.facial import pyfeat_process as p; p.SCRIPT = t.FAKE\n"
        "f = t._frames(*[(16,)] * 8); w = p.Worker(p.Start('v1', (), 'cpu', 1)); w.observe([one.rgb for one in f], 4)\n"
        "print(w.pid, flush=True); w.observe([one.rgb for one in f], 4); __import__('time').sleep(600)"
    )
    root = str(FAKE.parents[1])
    environment = {**os.environ, "FAKE_PYFEAT": mode}
    with subprocess.Popen([sys.executable, "-c", code, root], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.5)
        assert child.is_running()
        parent.send_signal(signal.SIGKILL)
    child.wait(timeout=10)


def test_another_python_is_named_when_it_has_no_pyfeat(folder, monkeypatch):
    monkeypatch.setattr(pyfeat_process, "SCRIPT", REAL)
    with pytest.raises(ToolError, match=r"Expected py-feat 2\.1\.5 in .* but got none.*make pyfeat") as caught:
        check_backend(_settings(folder))
    assert caught.value.code == "no_pyfeat"
    pyfeat_process._resources.cache_clear()
    monkeypatch.setenv(pyfeat_process.PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(ToolError, match="to name a Python but /nowhere/python does not run"):
        check_backend(_settings(folder))


def test_a_name_nearly_right_is_told():
    with pytest.raises(UnknownName, match=r"Did you mean 'py-feat'\?"):
        facial_spec("pyfeat")


def test_options_reach_the_backend(folder):
    options = {"face_backend": "py-feat-v2", "weights": [f"py-feat-v2={folder}"], "language": "en", "threads": 2}
    tools = Extractors(pipeline_settings(options))
    tools.prepare("facial")
    face = tools.face_settings
    assert (face.backend, face.pyfeat_path, face.device, face.threads) == ("py-feat-v2", folder, "cpu", 2)
    (folder / "face_multitask_v2" / "face_multitask_v28.safetensors").unlink()
    with pytest.raises(WeightsError):
        tools.prepare("facial")


# ---- weights ------------------------------------------------------------------------------------------------------------


def test_the_spec_tells_backends_and_weights_apart(folder):
    ours, v1, v2 = (facial_spec(_settings(folder, backend=name)) for name in ("mediapipe", *DETECTORS))
    assert ours.columns == v1.columns == v2.columns
    assert ours.differences(v1)[0] == "extractor mediapipe-faces expected, py-feat-v1 came"
    assert len({ours.fingerprint(), v1.fingerprint(), v2.fingerprint()}) == 3
    file = folder / "xgb_au" / "xgb_au_classifier_v2.skops"
    file.write_text("other action units")
    assert [line.split()[0] for line in v1.differences(facial_spec(_settings(folder)))] == ["weights"]
    assert facial_spec(_settings(folder, backend="py-feat-v2")) == v2


def test_missing_weights_are_named_with_licence_and_remedy(folder):
    (folder / "resmasknet" / "config.json").unlink()
    with pytest.raises(WeightsError) as caught:
        check_backend(_settings(folder))
    assert caught.value.code == "weights_missing"
    for part in ("py-feat/resmasknet/config.json", "MIT; trained on FER-2013", "lamb weights fetch py-feat`"):
        assert part in str(caught.value)
    assert "xgb_au" not in str(caught.value)  # that one is there


def test_order_of_places(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LAMB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError):
        weights.find("v2", None, lambda: tmp_path / "elsewhere")
    assert weights.find("v2", None, lambda: folder).source == "package"
    weights.folder().parent.mkdir(parents=True)
    weights.folder().symlink_to(folder)
    assert weights.find("v2", None, lambda: folder).source == "cache"
    assert weights.find("v2", folder).source == "path"


class Hub:
    """What py-feat's hub would answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.commit = "ab" * 20
        self.changed = False

    def __call__(self, url, target, *, max_bytes, time_limit_s, sha256=None, remedy=None, on_progress=None):
        import hashlib

        self.asked.append(url)
        path = url.removeprefix(weights.HUB + "/")
        if path.startswith("api/"):
            repository = path.split("/")[3]
            names = sorted({f.name for one in weights.FILES.values() for f in one if f.repository == repository})
            sums = {name: hashlib.sha256(self._content(f"{repository}/{name}")).hexdigest() for name in names}
            tree = [{"path": name, "size": 7, "lfs": {"oid": sums[name]}} for name in names]
            content = json.dumps(tree if "/tree/" in path else {"sha": self.commit}).encode()
        else:
            _, repository, _, commit, name = path.split("/")
            assert commit == self.commit
            content = self._content(f"{repository}/{name}") + b"!" * self.changed
        came = hashlib.sha256(content).hexdigest()
        if sha256 not in (None, came):
            raise ToolError(f"Could not download {url}: sha256 differs.", code="download")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return came

    @staticmethod
    def _content(what: str) -> bytes:
        return f"weights of {what}".encode()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    monkeypatch.setenv("LAMB_CACHE", str(tmp_path / "cache"))
    hub = Hub()
    monkeypatch.setattr(weights, "download", hub)
    return hub


def test_licences_come_before_any_download(hub):
    said: list[str] = []
    with pytest.raises(WeightsError, match="--accept-licences") as caught:
        weights.fetch("v1", say=said.append, accept=False)
    assert caught.value.code == "licence"
    assert hub.asked == []
    for repository in {file.repository for file in weights.FILES["v1"]}:
        assert any(f"py-feat/{repository}: " in line for line in said)


def test_the_command_shows_licences_and_stops(tmp_path):
    command = [sys.executable, "-m", "pipeline.cli", "weights", "fetch", "py-feat"]
    environment = {**os.environ, "LAMB_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 2
    assert "py-feat: py-feat/pose_mlp_v2: head pose; student of img2pose (CC BY-NC 4.0)" in done.stdout
    assert done.stderr.startswith("lamb: Expected these licences to be accepted")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("detector", ["v1", "v2"])
def test_download_lies_as_in_pyfeats_own_cache(hub, detector):
    said: list[str] = []
    found = weights.fetch(detector, say=said.append, accept=True)
    first_download = next(i for i, line in enumerate(said) if "downloading" in line)
    assert sum("py-feat/" in line and ": downloading" not in line for line in said[:first_download]) >= 2
    for file, (key, path) in zip(weights.FILES[detector], found.files, strict=True):
        assert key == f"py-feat/{file.repository}/{file.name}"
        root = weights.folder() / f"models--py-feat--{file.repository}"
        assert path == root / "snapshots" / hub.commit / file.name
        assert (root / "refs" / "main").read_text() == hub.commit
    n_asked = len(hub.asked)
    assert weights.fetch(detector, say=said.append, accept=True).digest == found.digest
    assert len(hub.asked) == n_asked  # all is there
    path.write_text("damaged")
    with pytest.raises(WeightsError) as caught:
        _ = weights.find(detector, None).digest
    assert caught.value.code == "weights_corrupt"


def test_what_the_hub_did_not_list_is_not_kept(hub):
    hub.changed = True
    with pytest.raises(ToolError, match="sha256 differs"):
        weights.fetch("v2", say=lambda line: None, accept=True)
    with pytest.raises(WeightsError):
        weights.find("v2", None)
    hub.changed, hub.commit = False, "../../../up"
    with pytest.raises(ToolError, match="Expected a commit"):
        weights.fetch("v2", say=lambda line: None, accept=True)


def test_offline_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "HUB", "https://127.0.0.1:9")
    with pytest.raises(ToolError, match=r"Could not download https://127\.0\.0\.1:9/api/models/py-feat/") as caught:
        weights.fetch("v2", say=lambda line: None, accept=True)
    assert caught.value.code == "download"
    assert "If this machine is offline" in str(caught.value)
