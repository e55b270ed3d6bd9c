"""The stub library writer, the symbol reader, and stderr held back."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys

import pytest

from data.errors import ToolError
from extractors import native

linux_only = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in native.MACHINES,
    reason="ELF stubs are for Linux x86_64/aarch64",
)

NAMES = ["eglInitialize", "eglGetDisplay", "glFinish", "g"]

USE_STUB = """
import ctypes, sys
path, names = sys.argv[1], sys.argv[2:]
library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
for name in names:
    function = getattr(library, name)
    function.restype = ctypes.c_uint64
    assert function(1, 2, 3) == 0, name
    getattr(ctypes.CDLL(None), name)              # global: found by whoever is loaded later
assert not hasattr(library, "eglNoSuchFunction")
# Loaded again by soname alone: the linker finds the library already there, as it does for a DT_NEEDED entry.
assert ctypes.CDLL("libLambStub.so.7").eglGetDisplay() == 0
print("ok")
"""


@linux_only
def test_stub_library_loads_and_every_function_returns_0(tmp_path):
    path = tmp_path / "any-file-name"
    path.write_bytes(native.stub_library("libLambStub.so.7", NAMES))
    done = subprocess.run(
        [sys.executable, "-c", USE_STUB, str(path), *NAMES], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


@linux_only
def test_stub_library_without_symbols_loads(tmp_path):
    path = tmp_path / "empty.so"
    path.write_bytes(native.stub_library("libLambEmpty.so.1", []))
    done = subprocess.run(
        [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(path)!r})"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not installed")
@pytest.mark.parametrize(("machine", "called"), [("x86_64", "X86-64"), ("aarch64", "AArch64")])
def test_readelf_agrees_for_both_machines(tmp_path, machine, called):
    path = tmp_path / "stub.so"
    path.write_bytes(native.stub_library("libLambStub.so.7", NAMES, machine))
    shown = subprocess.run(
        ["readelf", "-W", "-h", "-l", "-d", "--use-dynamic", "-s", str(path)],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert called in shown.stdout
    assert "soname: [libLambStub.so.7]" in shown.stdout
    assert all(f"GLOBAL DEFAULT    1 {name}\n" in shown.stdout for name in NAMES)
    assert "GNU_STACK" in shown.stdout
    assert "RWE" not in shown.stdout  # nothing writable is executable
    assert "Warning" not in shown.stderr
    assert "Error" not in shown.stderr


@linux_only
def test_missing_libraries_are_published_once_and_reused(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMB_CACHE", str(tmp_path))
    content = native.stub_library("libLambStub.so.7", NAMES)
    path = native._publish("libLambStub.so.7", content)
    assert path.is_relative_to(tmp_path)
    assert path.read_bytes() == content
    before = path.stat().st_mtime_ns
    assert native._publish("libLambStub.so.7", content) == path
    assert path.stat().st_mtime_ns == before  # not written again
    path.write_bytes(b"damaged")
    assert native._publish("libLambStub.so.7", content).read_bytes() == content  # mended
    assert [p.name for p in path.parent.iterdir()] == ["libLambStub.so.7"]  # nothing half-written left


@linux_only
def test_undefined_symbols_of_a_real_library():
    """Against nm where there is one, else against what the mediapipe library is known to want."""
    spec = importlib.util.find_spec("mediapipe")
    assert spec is not None
    assert spec.submodule_search_locations
    path = os.path.join(spec.submodule_search_locations[0], "tasks", "c", "libmediapipe.so")
    with open(path, "rb") as file:
        names = native.undefined_symbols(file.read())
    assert {"eglGetDisplay", "glFinish", "malloc"} <= set(names)
    if shutil.which("nm"):
        listed = subprocess.run(
            ["nm", "-D", "--undefined-only", path],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        expected = {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}
        assert set(names) == expected


def test_undefined_symbols_refuses_what_is_not_elf():
    with pytest.raises(ValueError, match="ELF64"):
        native.undefined_symbols(b"MZ" + bytes(100))


def test_missing_opencv_is_one_line_with_a_remedy(monkeypatch):
    def fail(name: str):
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    native.load_cv2.cache_clear()
    monkeypatch.setattr(native.importlib, "import_module", fail)
    with pytest.raises(ToolError) as caught:
        native.load_cv2()
    monkeypatch.undo()
    assert "libGL.so.1" in str(caught.value)
    assert "pip install --force-reinstall --no-deps opencv-contrib-python-headless" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert native.load_cv2().__name__ == "cv2"  # the failure is not remembered


def test_stderr_is_held_back_and_shown_when_the_block_fails(capfd):
    with native.quiet_stderr():
        os.write(2, b"chatter\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), native.quiet_stderr():  # noqa: PT012
        os.write(2, b"the reason\n")
        _ = 1 / 0
    assert capfd.readouterr().err == "the reason\n"
    os.write(2, b"as before\n")
    assert capfd.readouterr().err == "as before\n"


FACE_RUN = """
import numpy as np
from extractors.facial import FaceSettings, Frame, extract_faces
frames = [Frame(i, i / 25, (i + 1) / 25, np.zeros((120, 160, 3), np.uint8)) for i in range(3)]
print(extract_faces(frames, FaceSettings()).reason)
"""


def test_a_face_run_leaves_stderr_empty():
    """Neither the native libraries' log lines nor an exception at interpreter exit reach the terminal."""
    done = subprocess.run([sys.executable, "-c", FACE_RUN], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "no_face", done.stderr
    assert done.stderr == ""
