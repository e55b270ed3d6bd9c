"""py-feat in a process of its own: frames in through stdin, rows of every face out through stdout.

It runs under the Python of py-feat's virtual environment (``python -I pyfeat_worker.py``), not under LAMB's, so it imports
nothing of LAMB. A message is a line of JSON and, where that names ``n_bytes``, so many raw bytes after it.

    > {"detector": "v1", "files": {"py-feat/xgb_au/…": "/path"}, "device": "cpu", "threads": 1}
    < {"ready": true, "columns": ["AU01", …]}
    > {"shape": [8, 720, 1280, 3], "max_faces": 4, "n_bytes": …} + uint8 RGB
    < {"faces": [1, 0, …], "n_bytes": …}          + float32 (sum of faces, columns), in py-feat's own units
    < {"error": "one line"}                         instead of any answer

``--where`` only prints {"version": …, "resources": …} of the py-feat of this Python, without importing it. When stdin ends,
whoever asked is gone and the process ends at once, whatever it is doing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import queue
import signal
import sys
import threading
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

SCORE_AT_LEAST = 0.5  # py-feat's own default for a face to count
# A detection pass took about 220 bytes per pixel (v2, CPU); a batch is cut so that memory stays bounded.
PIXELS_PER_PASS = {"cpu": 2_000_000, "cuda": 16_000_000}
FAILED_AT_MOST = (
    10  # faces on which py-feat may fail (landmarks all in one place, say) while it fails on more than it does
)
SIZES_KEPT = 16  # frame sizes whose anchors py-feat's face detector may keep
# skops builds whatever types a file names, and py-feat trusts them all; the AU file has no business with others than these.
TRUSTED = ("feat.au_detectors.", "numpy.", "scipy.", "sklearn.", "xgboost.")
BOX = ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore")


def where() -> dict[str, str | None]:
    """Version of the installed py-feat and the folder in which it keeps its weights; None where it is missing."""
    try:
        version = importlib.metadata.version("py-feat")
    except importlib.metadata.PackageNotFoundError:
        return {"version": None, "resources": None}
    spec = importlib.util.find_spec("feat")  # finds without importing
    places = list(spec.submodule_search_locations or []) if spec else []
    return {"version": version, "resources": str(Path(places[0]) / "resources") if places else None}


def give_files(files: dict[str, str]) -> None:
    """Let py-feat find these files ("repository/name" → path) where it would ask the hub, and nothing else anywhere."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def given(repo_id: str, filename: str, **_: Any) -> str:
        path = files.get(f"{repo_id}/{filename}")
        if path is None:
            raise LocalEntryNotFoundError(f"py-feat asks for {repo_id}/{filename}, which was not given")
        return path

    huggingface_hub.hf_hub_download = given  # before py-feat binds the name


def without_torchcodec() -> None:
    """Stand in for torchcodec, which needs system FFmpeg libraries at import and decodes nothing here."""

    class VideoDecoder:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("frames are decoded by LAMB")

    package, decoders = types.ModuleType("torchcodec"), types.ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = VideoDecoder  # type: ignore[attr-defined]
    package.decoders = decoders  # type: ignore[attr-defined]
    sys.modules.update({"torchcodec": package, "torchcodec.decoders": decoders})


def check_types(path: str) -> None:
    """Raises ValueError if a skops file would build types from elsewhere than TRUSTED."""
    untrusted = importlib.import_module("skops.io").get_untrusted_types(file=path)
    strange = [name for name in untrusted if not name.startswith(TRUSTED)]
    if strange:
        raise ValueError(f"{path} would build {', '.join(strange[:3])}: refused")


class Detector:
    """One of py-feat's detectors, its stages called one by one on small batches; nothing is kept between them."""

    def __init__(self, start: dict[str, Any]) -> None:
        files: dict[str, str] = start["files"]
        give_files(files)
        without_torchcodec()
        for name, path in files.items():
            if name.endswith(".skops"):
                check_types(path)
        feat = importlib.import_module("feat")
        import torch

        torch.set_num_threads(start["threads"])
        self.torch, self.device = torch, start["device"]
        self.n_described = self.n_failed = 0
        if start["detector"] == "v1":
            self.model = feat.Detectorv1(identity_model=None, gaze_model=None, device=self.device)
            self.anchors: dict[Any, Any] = self.model.facepose_detector._prior_cache
            self.options = {"face_size": self.model.face_size}
            lists = importlib.import_module("feat.pretrained").AU_LANDMARK_MAP["Feat"]
            emotions, shapes = importlib.import_module("feat.utils").FEAT_EMOTION_COLUMNS, ()
        else:
            weights = next(path for name, path in files.items() if "/face_multitask" in name)
            self.model = feat.Detectorv2(identity_model=None, multitask_weights=weights, device=self.device)
            self.anchors, self.options = self.model.face_detector._prior_cache, {}
            lists, emotions = self.model.multitask.au_names, self.model.multitask.emotion_names
            shapes = importlib.import_module("feat.utils").MP_BLENDSHAPE_NAMES
        self.columns = [*lists, *emotions, "Pitch", "Roll", "Yaw", *BOX, *shapes]

    def observe(self, frames: Any, max_faces: int) -> list[Any]:
        """Rows of the ``max_faces`` largest faces of each frame, largest first, each float32 [shape=(n_faces, n_columns)].

        ``frames`` uint8 [shape=(n, H, W, 3)].
        """
        n, height, width, _ = frames.shape
        step = max(1, PIXELS_PER_PASS[self.device] // (height * width))
        with self.torch.inference_mode():
            return [rows for at in range(0, n, step) for rows in self._pass(frames[at : at + step], max_faces)]

    def _pass(self, frames: Any, max_faces: int) -> list[Any]:
        numpy = importlib.import_module("numpy")
        images = self.torch.from_numpy(frames).permute(0, 3, 1, 2)  # (n, 3, H, W)
        if len(self.anchors) > SIZES_KEPT:
            self.anchors.clear()
        found = self.model.detect_faces(images, face_detection_threshold=SCORE_AT_LEAST, **self.options)
        rows = [numpy.zeros((0, len(self.columns)), numpy.float32)] * len(frames)
        # A frame without faces comes with one face of NaN, on which the networks would run in vain.
        seen = [(i, kept) for i, one in enumerate(found) if (kept := self._largest(one, max_faces)) is not None]
        if seen:
            try:
                table = self._describe(images, seen)
            except (ValueError, RuntimeError):
                table = self._one_by_one(images, seen)
            for i, values in table:
                rows[i] = values
        return rows

    def _largest(self, face: dict[str, Any], max_faces: int) -> dict[str, Any] | None:
        """The largest ``max_faces`` of a frame's faces, or None if it has none."""
        boxes = face["boxes"]
        real = self.torch.isfinite(boxes).all(dim=1).nonzero()[:, 0]
        if not len(real):
            return None
        area = (boxes[real, 2] - boxes[real, 0]) * (boxes[real, 3] - boxes[real, 1])
        kept = real[self.torch.argsort(area, descending=True, stable=True)[:max_faces]]
        return self._choose(face, kept)

    def _choose(self, face: dict[str, Any], kept: Any) -> dict[str, Any]:
        return {
            name: part[kept.to(part.device)] if isinstance(part, self.torch.Tensor) else part
            for name, part in face.items()
        }

    def _describe(self, images: Any, seen: Sequence[tuple[int, dict[str, Any]]]) -> list[tuple[int, Any]]:
        """(frame, rows) of faces that were found, through py-feat's own second stage."""
        torch, n = self.torch, len(seen)
        zeros = torch.zeros(n)
        batch = {
            "Image": images[[i for i, _ in seen]],
            "Padding": dict.fromkeys(("Left", "Top", "Right", "Bottom"), zeros),
            "Scale": torch.ones(n),
        }
        table = self.model.forward([face for _, face in seen], batch)
        values = table[self.columns].to_numpy("float32")
        self.n_described += len(values)
        out, at = [], 0
        for i, face in seen:
            out.append((i, values[at : at + len(face["boxes"])]))
            at += len(face["boxes"])
        return out

    def _one_by_one(self, images: Any, seen: Sequence[tuple[int, dict[str, Any]]]) -> list[tuple[int, Any]]:
        """As :meth:`_describe` where one face makes py-feat fail: that face is left out. Raises if most faces do."""
        numpy, out = importlib.import_module("numpy"), []
        for i, face in seen:
            rows = []
            for k in range(len(face["boxes"])):
                try:
                    rows.append(self._describe(images, [(i, self._choose(face, self.torch.tensor([k])))])[0][1])
                except (ValueError, RuntimeError):
                    self.n_failed += 1
                    if self.n_failed > max(FAILED_AT_MOST, self.n_described):
                        raise
            if rows:
                out.append((i, numpy.concatenate(rows)))
        return out


def main() -> None:
    """Answer until stdin ends."""
    answers = _private_stdout()
    questions: queue.Queue[tuple[dict[str, Any], bytes]] = queue.Queue(2)
    threading.Thread(target=_read, args=(questions,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asks; stdin ends then
    try:
        detector = Detector(questions.get()[0])
        _send(answers, {"ready": True, "columns": detector.columns})
        import numpy

        while True:
            header, payload = questions.get()
            frames = numpy.frombuffer(bytearray(payload), numpy.uint8).reshape(header["shape"])
            rows = detector.observe(frames, header["max_faces"])
            _send(answers, {"faces": [len(one) for one in rows]}, b"".join(one.tobytes() for one in rows))
    except Exception as error:
        line = " ".join(str(error).split())[:500]
        _send(answers, {"error": f"{type(error).__name__}: {line}"})
        raise


def _private_stdout() -> BinaryIO:
    """The real stdout for answers; what libraries print goes to stderr from here on."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _read(questions: queue.Queue[tuple[dict[str, Any], bytes]]) -> None:
    while line := sys.stdin.buffer.readline():
        header = json.loads(line)
        n_bytes = header.get("n_bytes", 0)
        payload = sys.stdin.buffer.read(n_bytes)
        if len(payload) < n_bytes:
            break
        questions.put((header, payload))
    os._exit(0)


def _send(answers: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    try:
        answers.write(json.dumps({**header, "n_bytes": len(payload)}).encode() + b"\n" + payload)
        answers.flush()
    except BrokenPipeError:
        os._exit(1)


if __name__ == "__main__":
    if sys.argv[1:] == ["--where"]:
        print(json.dumps(where()))
    else:
        main()
