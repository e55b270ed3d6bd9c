"""Makes OpenCV's and MediaPipe's native libraries load where only pip works, and keeps their chatter off the terminal.

Why: MediaPipe's Linux library names libEGL.so.1 and libGLESv2.so.2 as needed and binds every symbol at load, though
the CPU path never calls one. A bare Debian has neither, and pip cannot install them. Where they are missing, two
stub libraries are written, in which every egl*/gl* function that MediaPipe names returns 0, and are loaded first: the
dynamic linker then takes them for the real ones, because it compares sonames.

    cv2 = load_cv2()
    mediapipe = load_mediapipe()
    with quiet_stderr(): landmarker = FaceLandmarker.create_from_options(options)
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.util
import logging
import os
import platform
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from data.errors import ToolError
from extractors.weights import writable_cache_dir

CV2_REMEDY = "Run `pip install --force-reinstall --no-deps opencv-contrib-python-headless`."
MEDIAPIPE_REMEDY = "Run `pip install --force-reinstall --no-deps mediapipe==0.10.33`."
STUBBED = {"libEGL.so.1": "egl", "libGLESv2.so.2": "gl"}  # soname → prefix of the symbols it has to export

# (ELF machine number, code of a function that returns 0), by platform.machine()
MACHINES = {
    "x86_64": (62, bytes.fromhex("31c0c3")),  # xor eax,eax; ret
    "aarch64": (183, bytes.fromhex("000080d2c0035fd6")),  # mov x0,#0; ret
}
SEGMENT_ALIGN = 0x10000  # the largest page size in use (aarch64); smaller pages divide it


@functools.cache
def load_cv2() -> ModuleType:
    """OpenCV. Raises ToolError (``no_opencv``) naming the library that is missing."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ToolError(f"OpenCV does not load: {error}.", code="no_opencv", remedy=CV2_REMEDY) from error


@functools.cache
def load_mediapipe() -> ModuleType:
    """MediaPipe, ready to create CPU tasks. Raises ToolError (``no_mediapipe``, ``no_opencv``)."""
    load_cv2()  # MediaPipe imports it; this way its failure has a remedy
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or not spec.submodule_search_locations:
        raise ToolError("MediaPipe is not installed.", code="no_mediapipe", remedy=MEDIAPIPE_REMEDY)
    if sys.platform == "linux":
        _load_missing_stubs(Path(spec.submodule_search_locations[0]) / "tasks" / "c" / "libmediapipe.so")
    plotting = logging.getLogger("matplotlib")  # imported by MediaPipe; talks of its font cache on its first run
    level = plotting.level
    plotting.setLevel(logging.ERROR)
    try:
        module = importlib.import_module("mediapipe")
        importlib.import_module("mediapipe.tasks.python.vision")
    except (ImportError, OSError) as error:
        raise ToolError(f"MediaPipe does not load: {error}.", code="no_mediapipe", remedy=MEDIAPIPE_REMEDY) from error
    finally:
        plotting.setLevel(level)
    return module


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2; it is shown after all if the block raises.

    MediaPipe's library takes no log level from the environment, hence the descriptor. Process-wide: keep blocks short.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # no stderr at all (a service): nothing to hold back
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _load_missing_stubs(libmediapipe: Path) -> None:
    """Write and load a stub for each of STUBBED that the system does not have."""
    missing = [soname for soname in STUBBED if not _loads(soname)]
    if not missing:
        return
    machine = platform.machine()
    if machine not in MACHINES:
        packages = "apt-get install libegl1 libgles2"
        raise ToolError(f"{missing[0]} is missing.", code="no_mediapipe", remedy=f"Install it (Debian: `{packages}`).")
    try:
        undefined = undefined_symbols(libmediapipe.read_bytes())
    except (OSError, struct.error, ValueError, StopIteration) as error:
        raise ToolError(
            f"Expected MediaPipe's library at {libmediapipe} but it cannot be read ({error!r}).",
            code="no_mediapipe",
            remedy=MEDIAPIPE_REMEDY,
        ) from error
    for soname in missing:
        names = [name for name in undefined if name.startswith(STUBBED[soname])]
        path = _publish(soname, stub_library(soname, names, machine))
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _loads(soname: str) -> bool:
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


def _publish(soname: str, content: bytes) -> Path:
    """Write a library into the cache under its content's hash (atomic rename), unless it is there unchanged."""
    path = writable_cache_dir() / "native" / hashlib.sha256(content).hexdigest()[:16] / soname
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(partial, path)
    return path


def undefined_symbols(library: bytes) -> list[str]:
    """Names that an ELF64 little-endian shared library expects others to define (section index 0 in .dynsym)."""
    if library[:6] != b"\x7fELF\x02\x01":
        raise ValueError("Expected a little-endian ELF64 file")
    (sections_at,) = struct.unpack_from("<Q", library, 40)
    size, count = struct.unpack_from("<HH", library, 58)
    # each section header: name, type, flags, address, offset, size, link, info, align, entry size
    headers = [struct.unpack_from("<IIQQQQIIQQ", library, sections_at + i * size) for i in range(count)]
    symbols = next(header for header in headers if header[1] == 11)  # SHT_DYNSYM
    strings_at = headers[symbols[6]][4]
    names = []
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, _info, _other, section = struct.unpack_from("<IBBH", library, at)
        if section == 0 and name:
            begin = strings_at + name
            names.append(library[begin : library.index(b"\0", begin)].decode())
    return names


def stub_library(soname: str, names: list[str], machine: str | None = None) -> bytes:
    """An ELF64 shared library called ``soname`` in which every function of ``names`` returns 0.

    Two loadable segments: headers, symbol tables and code (read, execute); the dynamic section (read, write, because
    the dynamic linker fills in addresses there). No section headers: only linkers at build time need them.
    """
    elf_machine, code = MACHINES[machine or platform.machine()]
    strings = b"\0" + b"".join(text.encode() + b"\0" for text in [soname, *names])
    offsets, at = [], 1
    for text in [soname, *names]:
        offsets.append(at)
        at += len(text.encode()) + 1

    n_symbols = len(names) + 1  # symbol 0 is reserved
    symbols_at = 64 + 4 * 56  # after the file header and four program headers
    hash_at = symbols_at + n_symbols * 24
    strings_at = hash_at + 4 * (3 + n_symbols)
    code_at = -(-(strings_at + len(strings)) // 16) * 16
    text_size = code_at + len(code)
    dynamic_at = -(-text_size // SEGMENT_ALIGN) * SEGMENT_ALIGN

    # All symbols share one function: global (1 << 4) function (2), default visibility, in "section 1", i.e. defined.
    symbols = bytes(24) + b"".join(struct.pack("<IBBHQQ", at, 0x12, 0, 1, code_at, len(code)) for at in offsets[1:])
    # One hash bucket holding a chain of all symbols 1, 2 … n, 0: no hash function needed for a hundred names.
    chain = [0, *range(2, n_symbols), 0] if n_symbols > 1 else [0]
    hashes = struct.pack(f"<{3 + n_symbols}I", 1, n_symbols, min(1, len(names)), *chain)
    tags = [(14, offsets[0]), (4, hash_at), (5, strings_at), (6, symbols_at), (10, len(strings)), (11, 24), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)  # SONAME HASH STRTAB SYMTAB STRSZ SYMENT NULL

    def segment(kind: int, flags: int, at: int, size: int, align: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, align)

    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, elf_machine, 1, 0, 64, 0, 0, 64, 56, 4, 64, 0, 0)
    header += segment(1, 5, 0, text_size, SEGMENT_ALIGN)  # PT_LOAD, read + execute
    header += segment(1, 6, dynamic_at, len(dynamic), SEGMENT_ALIGN)  # PT_LOAD, read + write
    header += segment(2, 6, dynamic_at, len(dynamic), 8)  # PT_DYNAMIC
    header += segment(0x6474E551, 6, 0, 0, 16)  # PT_GNU_STACK without execute: newer loaders refuse an absent one
    head = header + symbols + hashes + strings
    return head.ljust(code_at, b"\0") + code.ljust(dynamic_at - code_at, b"\0") + dynamic
