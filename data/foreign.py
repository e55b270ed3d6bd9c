"""Python pickles and torch files by others, read without running anything in them.

In: a ``.pkl`` (any protocol, also by Python 2) or a ``.pt`` (zip or the older format). Out: containers, strings, numbers
and numpy arrays.

    content = load_pickle(Path("unaligned_50.pkl"))
    content["train"]["audio"]                        # numpy array

A pickle is a program: it names functions and calls them. The reader here gives it substitutes only: containers, and its
own builders for numpy's dtype, array and scalar, which check sizes. Not even numpy's own are handed out: a forged dtype can
make ``ndarray.__setstate__`` take bytes for addresses. Every other name is an error, and none of them is called.
This is the only place in the project where a pickle is read; ``data/exports/mmsa_pkl.py`` writes one.
"""

from __future__ import annotations

import collections
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.errors import InputError

MAX_BYTES = 24 * 2**30  # CMU-MOSEI's largest published pickle holds 22,856 × (50×300 + 500×74 + 500×35) numbers
MAX_DEPTH = 50
DTYPE = re.compile(r"[<>=|]?(b1|\?|[iu][1248]|f[248]|[SU]\d{1,6}|O8?)")
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first of the five pickles in torch's older format
TORCH_HEADERS = 3  # magic number, protocol, system


class _Refused(pickle.UnpicklingError):
    pass


class _Call:
    """A callable that a pickle may call and nothing else: no attributes to read, none to set, no class to make."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of a builder")


class _Dtype:
    """Stands for a numpy dtype while its byte order is still to come."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not DTYPE.fullmatch(code):
            raise _Refused(f"numpy type {code!r}")
        self.dtype = np.dtype(code[:-1] if code.endswith("O8") else code)

    def __setstate__(self, state: Any) -> None:
        order, parts = state[1], state[2:5]
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if any(part is not None for part in parts) or order not in ("<", ">", "|", "="):
            raise _Refused("a numpy type with fields")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for a numpy array while its contents are still to come; ``value`` is the array."""

    __slots__ = ("value",)

    def __init__(self, *arguments: Any) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _built(content, dtype, shape, "F" if fortran else "C")


def _built(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise _Refused("an array of no known type")
    kind, shape = dtype.dtype, tuple(int(n) for n in shape)
    count = math.prod(shape)
    if any(n < 0 for n in shape):
        raise _Refused(f"an array of shape {shape}")
    if kind.hasobject:
        if not isinstance(content, list) or len(content) != count:
            raise _Refused("an array of objects without them")
        flat = np.empty(count, object)
        for i, item in enumerate(content):  # one by one: numpy would unfold lists of equal length
            flat[i] = item
        return flat.reshape(shape)  # numpy lists objects in C order whatever the array's own
    if isinstance(content, str):  # written by Python 2
        content = content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)) or len(content) != count * kind.itemsize:
        raise _Refused(f"{count} × {kind.itemsize} bytes of an array that are not there")
    return np.frombuffer(content, kind).reshape(shape, order=order)  # type: ignore[call-overload]


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.value = _built(content, dtype, shape, order)
    return array


def _scalar(dtype: Any, content: Any = b"") -> Any:
    return _built([content] if dtype.dtype.hasobject else content, dtype, (1,), "C")[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused(f"text in {encoding!r}")
    return text.encode("latin1")


def _container(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(*arguments: Any) -> Any:
        if len(arguments) > 1 or not all(isinstance(a, (list, tuple, dict, set, frozenset)) for a in arguments):
            raise _Refused("a container made of something else")  # bytearray(10 ** 12), list(a generator) …
        return kind(*arguments)

    return make


_NUMPY_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_BUILTINS = ("builtins", "__builtin__")
ALLOWED: dict[tuple[str, str], _Call] = {
    ("numpy", "ndarray"): _Call(_Array),
    ("numpy", "dtype"): _Call(_Dtype),
    ("_codecs", "encode"): _Call(_encode),
    ("collections", "OrderedDict"): _Call(_container(collections.OrderedDict)),
    **{(module, "_reconstruct"): _Call(_Array) for module in _NUMPY_MULTIARRAY},
    **{(module, "scalar"): _Call(_scalar) for module in _NUMPY_MULTIARRAY},
    **{(module, "_frombuffer"): _Call(_from_buffer) for module in _NUMPY_NUMERIC},
    **{
        (module, kind.__name__): _Call(_container(kind))
        for module in _BUILTINS
        for kind in (dict, list, tuple, set, frozenset, bytes)
    },
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("an object outside the pickle")


def load_pickle(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """What a pickle file holds, with numpy arrays (read-only) as the only objects beside plain Python ones.

    Needs as much memory as the file is large. Raises InputError: the file is missing, damaged, larger than ``max_bytes``,
    or names anything but arrays and plain containers; the error says what.
    """
    _check_size(path, max_bytes)
    with path.open("rb") as stream:
        return _read(stream, path)


def load_torch(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """What a file by ``torch.save`` holds: tensors, or numpy arrays where those were saved, in plain containers.

    torch's own safe reader (``weights_only=True``) knows tensors but no numpy arrays; a file that it refuses goes through the
    reader above. Raises InputError as :func:`load_pickle`; also for a file that has both.
    """
    import torch

    _check_size(path, max_bytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old or unusual files, which this function is for
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise _too_large(path) from error
    except Exception:  # torch raises many kinds; the reader below says what is wrong
        return _read_torch_pickle(path)


def _read_torch_pickle(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if len(names) != 1 or archive.getinfo(names[0]).compress_type != zipfile.ZIP_STORED:
                raise InputError(f"Expected a torch file at {str(path)!r} but got another archive.", code="bad_dataset")
            with archive.open(names[0]) as stream:
                return _read(stream, path)
    with path.open("rb") as stream:
        first = _read(stream, path)
        if first != TORCH_MAGIC:
            return first
        for _ in range(TORCH_HEADERS - 1):
            _read(stream, path)
        return _read(stream, path)


def _check_size(path: Path, max_bytes: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"Expected a file at {str(path)!r} but got {error}.", code="no_dataset") from error
    if size > max_bytes:
        raise InputError(
            f"Expected at most {max_bytes / 2**30:.1f} GiB but {path.name} has {size / 2**30:.1f}.", code="too_large"
        )


def _too_large(path: Path) -> InputError:
    return InputError(f"Expected enough memory for {path.name} but there is too little.", code="too_large")


def _read(stream: IO[bytes], path: Path) -> Any:
    try:
        return _resolved(_Reader(stream, encoding="latin1").load(), {}, 0)
    except _Refused as error:
        raise InputError(
            f"Expected only arrays and plain containers in {path.name} but it asks for {error}.",
            remedy="It was not opened: a pickle can run any program. Get the file from its publisher again.",
            code="unsafe_pickle",
        ) from error
    except MemoryError as error:
        raise _too_large(path) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"Expected a readable pickle at {str(path)!r} but got {type(error).__name__}: {error}.", code="bad_dataset"
        ) from error


def _resolved(item: Any, done: dict[int, tuple[Any, Any]], depth: int) -> Any:
    """``item`` with the stand-ins replaced by their arrays. ``done`` keeps what was seen, so that shared parts are
    resolved once."""
    if isinstance(item, (_Call, _Dtype)):
        raise _Refused("a numpy class as a value")
    if isinstance(item, _Array) and item.value is None:
        raise _Refused("an array without contents")
    array = item.value if isinstance(item, _Array) else item
    if isinstance(array, np.ndarray) and not array.dtype.hasobject:
        return array
    if not isinstance(array, (np.ndarray, dict, list, tuple, set, frozenset)):
        return array
    if id(item) in done:
        return done[id(item)][1]
    if depth > MAX_DEPTH:
        raise _Refused(f"containers nested more than {MAX_DEPTH} deep")

    def inside(part: Any) -> Any:
        return _resolved(part, done, depth + 1)

    if isinstance(array, np.ndarray):
        result: Any = np.empty(array.shape, object)
        for i, part in enumerate(array.reshape(-1)):
            result.reshape(-1)[i] = inside(part)
    elif isinstance(array, dict):
        pairs = [(inside(key), inside(value)) for key, value in array.items()]
        result = collections.OrderedDict(pairs) if isinstance(array, collections.OrderedDict) else dict(pairs)
    else:
        result = type(array)(inside(part) for part in array)
    done[id(item)] = (item, result)  # holding the item keeps its id from being used again
    return result
