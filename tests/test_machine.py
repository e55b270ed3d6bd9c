"""What the program does on a machine of whatever kind: nothing is reported to anybody, and a read-only home is enough."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
from packaging.version import Version

from extractors.native import undefined_symbols
from extractors.weights import cache_dir, writable_cache_dir


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_library_may_report_whatever_the_environment_says() -> None:
    code = "import os, extractors; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    assert run(code, ORT_DISABLE_TELEMETRY="0", HF_HUB_DISABLE_TELEMETRY="0").split() == ["1", "1"]
    assert Version(onnxruntime.__version__) < Version("1.29"), "this release reports usage by default"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the Linux library")
def test_mediapipe_cannot_open_a_connection() -> None:
    spec = importlib.util.find_spec("mediapipe")
    assert spec is not None
    assert spec.submodule_search_locations
    library = Path(spec.submodule_search_locations[0]) / "tasks" / "c" / "libmediapipe.so"
    undefined = set(undefined_symbols(library.read_bytes()))
    assert {"malloc", "pthread_create"} <= undefined, "the symbol table was not read"
    assert undefined.isdisjoint({"socket", "connect", "send", "sendto", "getaddrinfo", "gethostbyname"})


def test_voice_activity_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    code = (
        "import numpy as np\nfrom extractors.speech.voice_activity import speech_probability\n"
        "print(speech_probability(np.zeros(16000, np.float32)).max() < 0.5)"
    )
    assert run(code, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache")).strip() == "True"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_cache_that_cannot_be_made_is_replaced_by_a_private_one_that_goes_away(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    code = (
        "import os, numpy as np\nfrom extractors.acoustic.lpc import levinson\n"
        "assert levinson(np.array([1.0, 0.5]), 1)[1] == -0.5\n"
        "print(os.environ['NUMBA_CACHE_DIR'], oct(os.stat(os.path.dirname(os.environ['NUMBA_CACHE_DIR'])).st_mode & 0o777))"
    )
    clean = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "LAMB_CACHE": str(blocker / "cache"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder, mode = done.stdout.split()
    assert Path(folder).is_relative_to(tmp_path)
    assert mode == "0o700"
    assert list(tmp_path.iterdir()) == [blocker]


def test_a_cache_that_can_be_made_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMB_CACHE", str(tmp_path / "deep" / "cache"))
    assert writable_cache_dir() == cache_dir() == tmp_path / "deep" / "cache"
    assert not (tmp_path / "deep").exists(), "nothing is made before it is needed"
