"""Pickles: what published sets hold is read, at every version; anything else is refused by its name and never run."""

import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointmadi.data import pickles

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(4, dtype=">i2"),
    np.array([True, False]),
    np.array(["chair", "läufer"]),
    np.array([b"a", b"bc"]),
    np.zeros((0, 3)),
    np.array(7, np.int64),
    np.arange(4)[::2] + 1j,
]


def write(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def same(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b))
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in b)
    return bool(type(a) is type(b) and a == b)


@pytest.mark.parametrize("protocol", range(6))
def test_what_published_sets_hold_is_read(tmp_path: Path, protocol: int) -> None:
    shared = np.ones(3)
    value = {
        "arrays": ARRAYS, "scalars": (np.float32(1.5), np.int64(-3), np.bool_(True)), "twice": [shared, shared],
        "numbers": [0, -1, 255, 256, 70_000, 2**40, -(2**70), 0.5, float("inf"), True, False, None],
        "texts": ["", "a", "é€😀\n\\", b"", b"\x00\xff", b"x" * 300, "y" * 300],
        "nested": ([], (), {}, [{1: (2,)}], (1, 2, 3, 4)),
        3: "number", None: 1,
    }  # fmt: skip
    assert same(pickles.load(write(tmp_path / "set.pkl", value, protocol)), value)


def test_what_python_2_wrote_is_read(tmp_path: Path) -> None:
    raw = np.arange(200, 206, dtype="<u2").tobytes().decode("latin-1")
    head = "cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n"
    kind = "cnumpy\ndtype\np6\n(S'u2'\np7\nI0\nI1\ntp8\nRp9\n(I3\nS'<'\np10\nNNNI-1\nI-1\nI0\ntp11\nb"
    content = "".join(f"\\x{ord(sign):02x}" for sign in raw)
    text = f"(lp20\n{head}(I1\n(I2\nI3\ntp12\n{kind}I00\nS'{content}'\np13\ntp14\nbaL12L\naS'it\\'s'\na."
    (tmp_path / "old.pkl").write_bytes(text.encode())
    array, number, word = pickles.load(tmp_path / "old.pkl")
    assert same(array, np.arange(200, 206, dtype="<u2").reshape(2, 3)) and (number, word) == (12, "it's")
    binary = b"\x80\x02]q\x00(U\x04caf\xe9q\x01T\x02\x00\x00\x00\xe9\xe8e."
    (tmp_path / "old.pkl").write_bytes(binary)
    assert pickles.load(tmp_path / "old.pkl") == ["café", "éè"]


class Call:
    """Something that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_is_ever_run(tmp_path: Path, protocol: int) -> None:
    sprung = tmp_path / "sprung"
    np.save(tmp_path / "a.npy", np.zeros(3))
    for call, name in (
        (Call(os.mkdir, str(sprung)), "mkdir"),
        (Call(os.system, f"mkdir {sprung}"), "system"),
        (Call(eval, f"__import__('os').mkdir({str(sprung)!r})"), "eval"),
        (Call(exec, ""), "exec"),
        (Call(getattr, "text", "join"), "getattr"),
        (Call(np.load, str(tmp_path / "a.npy")), "load"),
        (Call(np.fromfile, str(tmp_path / "a.npy")), "fromfile"),
        (Call(np.zeros, (10**12,)), "zeros"),
        (Call(np.memmap, str(sprung), "u1", "w+"), "memmap"),
        (Call(np.ndarray, (10**12,)), "ndarray"),
        (Call(np.dtype, np.ndarray), "holds a|dtype"),
        (Call(bytearray, 10**12), "bytearray"),
        (Call(bytes, 10**12), "bytes"),
        (Fraction(1, 2), "Fraction"),
        (OrderedDict(a=1), "OrderedDict"),
        ({1, 2}, "set|EMPTY_SET"),
        (np.array([{}, 1], dtype=object), "of type 'O8'"),
        (np.zeros(2, [("a", "f4"), ("b", "O")]), "of type 'V12'"),
        (np.zeros(2, "M8[s]"), "of type 'M8'"),
        (np.ndarray, "function or a class|ndarray"),
        (np.ma.masked_array([1, 2]), "ma"),
        (os.system, "system"),
    ):
        for value in (call, [call], {"a": (call,)}):
            with pytest.raises(ValueError, match=name) as caught:
                pickles.load(write(tmp_path / "trap.pkl", value, protocol))
            assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))
    assert not sprung.exists()


def array(shape: bytes, raw: bytes, kind: bytes = b"f4") -> bytes:
    """Spell an array of that shape and content, after the head of a pickle."""
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01bt"
    dtype = b"cnumpy\ndtype\n(V" + kind + b"\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"
    return start + b"R(I1\n" + shape + dtype + b"I00\nC" + bytes([len(raw)]) + raw + b"tb"


def test_the_spelling_of_arrays_below_is_right(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + array(b"(I2\nI1\nt", bytes(8)) + b".")
    assert same(pickles.load(tmp_path / "a.pkl"), np.zeros((2, 1), np.float32))


def test_bombs_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    laugh = b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(60))  # the hash of it takes 2^60 steps
    for content, message in (
        (array(b"(I1000000000\nI1000\nt", b"abcd"), "promises 4000000000000 bytes and has 4"),
        (array(b"(I-1\nt", b"abcd"), "impossible shape"),
        (b"K\x00" + laugh + b"0" + array(b"(h\x3bt", b"abcd"), "impossible shape"),
        (array(b"(" + b"I1\n" * 65 + b"t", b"abcd"), "impossible shape"),
        (b"K\x00" + laugh + b"V1\n\x93", "no text"),
        (array(b"(I0\nI1000000000\nI1000000000\nI1000000000\nt", b""), "big|large|overflow|dimension"),
        (array(b"(V1\nt", b"abcd"), "impossible shape"),
        (array(b"(I1\nt", b"abcd", b"S0"), "of type 'S0'"),
        (array(b"(I1\nt", b"abcd", b"(1000000000)f4"), "of type"),
        (array(b"(I1\nt", b"abcd", b"f4,O"), "of type"),
        (b"B" + struct.pack("<I", 2**32 - 1) + b"abc", "promises 4294967295 bytes"),
        (b"\x8e" + struct.pack("<Q", 2**63) + b"abc", "promises"),
        (b"\x96" + struct.pack("<Q", 2**40), "promises 1099511627776 bytes"),
        (b"\x8b" + struct.pack("<i", -5), "damaged"),
        (b"I" + b"9" * 5000 + b"\n", "5000 digits"),
        (b"Nr" + struct.pack("<I", 2**32 - 1), "damaged"),
        (b"}K\x00" + laugh + b"K\x01s", "key of type tuple"),
        (b"}L" + str(2**61 - 1).encode() + b"\nK\x01s", "key of type int"),
        (b"]h\x00a", "damaged"),
        (b"c__main__\nX\n", "__main__.X"),
        (b"\x97", "NEXT_BUFFER"),
        (b"\x82\x01", "EXT1"),
        (b"P1\n", "PERSID"),
        (b"(i__main__\nX\n", "INST"),
        (b"Q", "BINPERSID"),
        (b"\xff", "instruction ff"),
    ):
        (tmp_path / "bomb.pkl").write_bytes(b"\x80\x04" + content)
        with pytest.raises(ValueError, match=message) as caught:
            pickles.load(tmp_path / "bomb.pkl")
        assert "\n" not in str(caught.value)


def test_a_string_that_is_encoded_again_and_again_is_refused(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x000"
    again = b"c_codecs\nencode\nh\x00V" + b"latin1\n\x86R"
    (tmp_path / "bomb.pkl").write_bytes(b"\x80\x02(" + text + again * 1000 + b"l.")
    with pytest.raises(ValueError, match="promises far more"):
        pickles.load(tmp_path / "bomb.pkl")


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "set.pkl", {"a": ARRAYS, "b": [1, "two"]}).read_bytes()
    for size in [*range(0, len(whole), 7), len(whole) - 1]:
        (tmp_path / "set.pkl").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"set\.pkl: (damaged|the file is empty)") as caught:
            pickles.load(tmp_path / "set.pkl")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        pickles.load(tmp_path / "none.pkl")
