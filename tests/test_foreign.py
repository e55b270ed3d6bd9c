"""Files by others: what is in them is read, what they would like to run does not run."""

from __future__ import annotations

import contextlib
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.foreign import load_pickle, load_torch

ARRAYS = {
    "float": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(5, dtype=">i4"),
    "bool": np.array([True, False]),
    "bytes": np.array([b"ab", b"c"]),
    "text": np.array(["grüße", ""]),
    "empty": np.zeros((0, 3), np.float32),
    "single": np.array(2.5),
    "objects": np.array([["a", 1.5], [None, b"x"]], dtype=object),
    "ragged": np.array([np.ones(2), np.zeros((3, 1))], dtype=object),
}


def same(came: Any, was: Any) -> bool:
    if isinstance(was, np.ndarray):
        equal = came.dtype == was.dtype and came.shape == was.shape
        return equal and all(same(a, b) for a, b in zip(came.ravel().tolist(), was.ravel().tolist(), strict=True))
    return type(came) is type(was) and came == was


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_are_read_as_pickle_reads_them(protocol: int, tmp_path: Path) -> None:
    content = {
        "arrays": ARRAYS,
        "shared": [ARRAYS["float"]] * 2,
        "scalars": [np.float32(1.5), np.int64(-3), np.str_("x"), np.bool_(True)],
        "plain": OrderedDict([("a", (1, 2.5, None, True)), ("b", {"s"}), ("c", frozenset({3})), ("d", b"bytes")]),
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    came = load_pickle(path)
    for name, array in ARRAYS.items():
        assert same(came["arrays"][name], array), name
    assert came["shared"][0] is came["shared"][1]
    assert [(type(a), a) for a in came["scalars"]] == [(type(a), a) for a in content["scalars"]]
    assert came["plain"] == content["plain"]
    assert type(came["plain"]) is OrderedDict


def test_names_of_old_numpy_and_strings_of_python_2(tmp_path: Path) -> None:
    # What Python 2 wrote for np.array([1, 2], 'i2'): protocol 0 names and one-byte strings, numpy.core not numpy._core.
    text = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'i2'\nI0\nI1\ntR"
        b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x01\\x00\\x02\\xff'\ntb."
    )
    path = tmp_path / "old.pkl"
    path.write_bytes(text)
    assert same(load_pickle(path), np.array([1, -254], "i2"))
    assert same(pickle.loads(text, encoding="latin1"), np.array([1, -254], "i2"))  # noqa: S301 (written above)


class Reduced:
    """An object that a pickle makes by calling ``function(*arguments)``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, bytes]:
    """Pickles that write ``marker`` (or would reach something that can) if they are obeyed."""
    import os
    import subprocess

    code = f"open({str(marker)!r}, 'w').close()"
    touch = f"touch {marker}"
    dumped = {
        "os.system": Reduced(os.system, touch),
        "eval": Reduced(eval, code),
        "exec": Reduced(exec, code),
        "import": Reduced(__import__, "os"),
        "getattr": Reduced(getattr, Reduced(__import__, "os"), "system"),
        "popen": Reduced(subprocess.Popen, ["touch", str(marker)]),
        "nested": {"train": [np.zeros(2), ("deep", Reduced(os.system, touch))]},
        "in_objects": np.array([1, Reduced(os.system, touch)], dtype=object),
        "in_key": {Reduced(os.system, touch): 1},
        "numpy.load": Reduced(np.load, str(marker), None, True),
        "numpy.fromfile": Reduced(np.fromfile, "/etc/hostname"),
        "map": Reduced(map, eval, [code]),
        "path": marker,
    }
    system = b"cposix\nsystem\n"
    written = {
        "inst": b"(S'" + touch.encode() + b"'\niposix\nsystem\n.",
        "obj": b"(" + system + b"S'" + touch.encode() + b"'\no.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__reduce__\x93.",
        "f2py": b"cnumpy.f2py.crackfortran\nmyeval\n(S'" + code.replace("'", '"').encode() + b"'\ntR.",
        "testing": b"cnumpy.testing._private.utils\nrunstring\n(S'" + code.replace("'", '"').encode() + b"'\n}tR.",
        "persistent": b"Psomething\n.",
        "extension": b"\x80\x02\x82\x01.",
        "bare_class": b"cnumpy\nndarray\n.",
        "build_on_builder": b"\x80\x02cnumpy\nndarray\n}X\x09\x00\x00\x00_functionK\x01sb.",
        "build_slots": b"\x80\x02cnumpy\nndarray\nN}X\x09\x00\x00\x00_functionK\x01s\x86b.",
        "newobj": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "setitem": b"\x80\x02cnumpy\nndarray\nK\x01K\x02s.",
        "unfinished_array": b"cnumpy.core.multiarray\n_reconstruct\n(tR.",
        "self_containing": b"]q\x00h\x00a.",
    }
    return {**{name: pickle.dumps(value, 2) for name, value in dumped.items()}, **written}


@pytest.mark.parametrize("name", sorted(attacks(Path("m"))))
def test_nothing_in_a_pickle_runs(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    path = tmp_path / "bad.pkl"
    path.write_bytes(attacks(marker)[name])
    for load in (load_pickle, load_torch):
        with pytest.raises(InputError) as caught:
            load(path)
        assert caught.value.code in ("unsafe_pickle", "bad_dataset")
        assert not marker.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    for name in ("os.system", "eval", "exec", "nested", "inst", "obj", "in_objects", "in_key"):
        marker = tmp_path / f"ran-{name}"
        with contextlib.suppress(TypeError):  # None as a key or item
            pickle.loads(attacks(marker)[name])  # noqa: S301 (what the reader must not do)
        assert marker.exists(), name


def test_the_error_names_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(attacks(tmp_path / "m")["os.system"])
    with pytest.raises(InputError, match=r"posix\.system") as caught:
        load_pickle(path)
    assert caught.value.code == "unsafe_pickle"


def forged(code: str, state: Any, content: Any, shape: tuple[int, ...] = (1,)) -> bytes:
    """An array pickle with a dtype state and contents of one's own choice."""

    class Type:
        def __reduce__(self) -> Any:
            return np.dtype, (code, False, True), state

    class Array:
        def __reduce__(self) -> Any:
            rebuild = np.zeros(1).__reduce__()[0]
            return rebuild, (np.ndarray, (0,), b"b"), (1, shape, Type(), False, content)

    return pickle.dumps(Array(), 2)


PLAIN = (3, "<", None, None, None, -1, -1, 0)


@pytest.mark.parametrize(
    ("code", "state", "content", "shape"),
    [
        ("O8", (3, "|", None, None, None, -1, -1, 0), struct.pack("<Q", 0xDEADBEEF), (1,)),  # bytes as an address
        ("O8", (3, "|", None, None, None, -1, -1, 63), ["a", "b"], (1,)),
        ("f8", PLAIN, b"\0" * 8, (2,)),  # reads past the end
        ("f8", PLAIN, b"\0" * 8, (-1,)),
        ("f8", PLAIN, b"", (2**62, 2**62, 0, 1, -1)),
        ("S0", (3, "|", None, None, None, 0, 1, 0), b"", (2**40,)),
        ("V8", (3, "|", None, ("a",), {"a": (1, 0)}, 8, 1, 16), b"\0" * 8, (1,)),
        ("f8", (3, "<", (1, (2**40,)), None, None, -1, -1, 0), b"\0" * 8, (1,)),
        ("f8", "<", b"\0" * 8, (1,)),
        ("f8", PLAIN, 5, (1,)),
    ],
)
def test_forged_arrays_are_refused(code: str, state: Any, content: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "forged.pkl"
    path.write_bytes(forged(code, state, content, shape))
    with pytest.raises(InputError):
        load_pickle(path)


def test_a_forged_array_that_is_in_order_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fine.pkl"
    path.write_bytes(forged("f8", PLAIN, struct.pack("<d", 1.25)))
    assert load_pickle(path).tolist() == [1.25]


def test_size_limit_missing_and_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(np.zeros(1000)))
    with pytest.raises(InputError) as caught:
        load_pickle(path, max_bytes=1000)
    assert caught.value.code == "too_large"
    with pytest.raises(InputError) as caught:
        load_torch(path, max_bytes=1000)
    assert caught.value.code == "too_large"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="readable pickle"):
        load_pickle(path)
    for load in (load_pickle, load_torch):
        with pytest.raises(InputError) as caught:
            load(tmp_path / "none")
        assert caught.value.code == "no_dataset"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_every_cut_off_pickle_is_one_error(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.pkl"
    content = pickle.dumps({"a": ARRAYS["float"], "b": [ARRAYS["objects"], np.float32(1)]}, protocol)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            load_pickle(path)


def test_deep_nesting_ends_in_an_error(tmp_path: Path) -> None:
    path = tmp_path / "deep.pkl"
    path.write_bytes(b"]" * 2000 + b"a" * 1999 + b".")
    with pytest.raises(InputError, match="nested"):
        load_pickle(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["tensors", "arrays", "lists"])
def test_torch_files(kind: str, zipped: bool, tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    value = {"tensors": torch.from_numpy(rows), "arrays": rows, "lists": rows.tolist()}[kind]
    content = {"train": {"src": [value, value], "tgt": [[2, 4, 3]]}, "dict": {"tgt": {"Happy": 4}}}
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    came = load_torch(path)
    assert came["dict"] == content["dict"]
    assert came["train"]["tgt"] == [[2, 4, 3]]
    assert np.array_equal(np.asarray(came["train"]["src"][1]), rows)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["os.system", "eval", "nested", "in_objects"])
def test_nothing_in_a_torch_file_runs(name: str, zipped: bool, tmp_path: Path) -> None:
    import os

    marker = tmp_path / "it-ran"
    bad = Reduced(os.system, f"touch {marker}")
    code = f"open({str(marker)!r}, 'w').close()"
    content = {
        "os.system": bad,
        "eval": Reduced(eval, code),
        "nested": {"a": [torch.zeros(2), bad]},
        "in_objects": None,
    }
    path = tmp_path / "a.pt"
    value = np.array([0, bad], dtype=object) if name == "in_objects" else content[name]
    torch.save({"train": value}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError):
        load_torch(path)
    assert not marker.exists()
