"""What is installed, which weights, which device: the first thing to ask for in a bug report.

In: nothing. Out: a plain dict, printed by ``lamb doctor``, as JSON with ``--json``.

    report = examine()
    report["problems"]             # remedies, empty where all is well
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable
from typing import Any

from data.errors import LambError

PACKAGES = (
    "torch",
    "opencv-contrib-python",
    "librosa",
    "openai-whisper",
    "faster-whisper",
    "gensim",
    "mediapipe",
    "ffmpeg-python",
    "av",
    "numpy",
    "scipy",
)


def examine() -> dict[str, Any]:
    """Checks grouped as ``packages``, ``tools``, ``weights``, ``device``, ``checkpoint``; ``problems`` lists remedies."""
    problems: list[str] = []

    def tried(check: Callable[[], str]) -> str:
        try:
            return check()
        except LambError as error:
            problems.append(str(error))
            return "missing"

    return {
        "lamb": _version("lamb-emotion"),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "tools": {"ffmpeg": tried(_ffmpeg), "opencv": tried(_opencv), "mediapipe": tried(_mediapipe)},
        "weights": {name: tried(lambda name=name: _weights(name)) for name in _weight_names()},
        "device": _device(),
        "checkpoint": tried(_checkpoint),
        "problems": problems,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ffmpeg() -> str:
    from extractors.media import ffmpeg_binary

    return ffmpeg_binary()


def _opencv() -> str:
    from extractors.native import load_cv2

    return load_cv2().__version__


def _mediapipe() -> str:
    from extractors.native import load_mediapipe

    return load_mediapipe().__version__


def _weight_names() -> list[str]:
    from extractors.weights import CATALOGUE

    return list(CATALOGUE)


def _weights(name: str) -> str:
    from extractors.weights import resolve

    found = resolve(name)
    found.verify()
    return f"{found.source}, sha256 {found.digest[:12]}, {found.weights.licence}"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return f"cpu: {torch.get_num_threads()} torch threads (no CUDA device)"


def _checkpoint() -> str:
    from pipeline.predict import load_checkpoint

    checkpoint = load_checkpoint(None, "cpu")
    return f"{checkpoint.provenance.get('name', 'unnamed')}, fingerprint {checkpoint.fingerprint()[:12]}, {checkpoint.licence}"


def lines(report: dict[str, Any]) -> list[str]:
    """The report as text, one fact a line."""
    out = [
        f"lamb        {report['lamb']}",
        f"python      {report['python']} ({sys.executable})",
        f"device      {report['device']}",
    ]
    out += [f"checkpoint  {report['checkpoint']}"]
    for group in ("tools", "weights", "packages"):
        out += [f"{group:<12}{name}: {value}" for name, value in report[group].items()]
    out += [f"problem     {line}" for line in report["problems"]] or ["no problems found"]
    return out
