"""Pickles of published sets, read without running anything.

A pickle is a program for a small machine that may call any function of Python. The machine here calls none: it knows
numbers, strings, bytes, lists, tuples, dicts and numeric numpy arrays, and refuses everything else by its name.
"""

import math
import mmap
import pickletools
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MODULES = {
    "numpy.core.multiarray": "numpy", "numpy._core.multiarray": "numpy", "numpy.core.numeric": "numpy",
    "numpy._core.numeric": "numpy", "__builtin__": "builtins",
}  # fmt: skip
KNOWN = {
    "numpy.ndarray", "numpy.dtype", "numpy._reconstruct", "numpy._frombuffer", "numpy.scalar",
    "_codecs.encode", "builtins.bytes", "builtins.bytearray",
}  # fmt: skip
ROOM = 1 << 20  # bytes that strings may take when they are encoded anew, beside four times the file

# What follows the byte of an instruction: a number of a fixed width, or a text or bytes after their length.
FIXED = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d", b"h": "<B", b"j": "<I", b"q": "<B", b"r": "<I",
         b"\x80": "<B", b"\x95": "<Q"}  # fmt: skip
SIZED = {b"T": "<i", b"U": "<B", b"B": "<I", b"C": "<B", b"\x8e": "<Q", b"\x96": "<Q", b"X": "<I", b"\x8c": "<B",
         b"\x8d": "<Q", b"\x8a": "<B", b"\x8b": "<i"}  # fmt: skip
LINES = b"ILFSVgpc"
NAMES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}


def load(path: str | Path) -> Any:
    """Read a pickle of numbers, strings, bytes, lists, tuples, dicts and numeric arrays; arrays cannot be written to.

    Strings of Python 2 are read as latin-1.

    Raises:
        ValueError: it is damaged or holds anything else; one line that names the file and what it holds.
        OSError: the file is not there or may not be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        if not file.read(1):
            raise ValueError(f"{path}: the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Machine(content).run()
            except (ArithmeticError, LookupError, TypeError, struct.error, MemoryError) as e:
                reason = str(e).splitlines()[:1] or [type(e).__name__]
                raise ValueError(f"{path}: damaged, or no pickle ({reason[0][:200]})") from None
            except ValueError as error:
                raise ValueError(f"{path}: {(str(error).splitlines() or ['damaged'])[0][:300]}") from None


@dataclass(frozen=True)
class _Function:
    name: str


@dataclass
class _Begun:
    """An array or type of which the content is still to come.

    Args:
        value: the type; None for an array.
        keys: where the memory has it.
    """

    value: np.dtype[Any] | None = None
    keys: list[int] = field(default_factory=list)


class _Arguments(tuple[Any, ...]):
    """A tuple that names a function, which nothing but a call may hold."""


class _Machine:
    """Run a pickle: a stack, the stacks below the marks, and a memory."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 0
        self.room = ROOM + 4 * len(content)
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memory: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute up to the end, and return what is on the stack."""
        while (code := self._take(1)) != b".":
            self._step(code, self._argument(code))
        (result,) = self.stack
        return _whole(result)

    def _take(self, size: int) -> bytes:
        taken = self.content[self.at : self.at + size] if size >= 0 else b""
        if size < 0 or len(taken) < size:
            raise ValueError(f"damaged: it ends early, or promises {size} bytes that are not there")
        self.at += size
        return taken

    def _line(self) -> bytes:
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise ValueError("damaged, or no pickle (it ends inside a line)")
        return self._take(end + 1 - self.at)[:-1].rstrip(b"\r")

    def _number(self, kind: str) -> Any:
        return struct.unpack(kind, self._take(struct.calcsize(kind)))[0]

    def _argument(self, code: bytes) -> Any:
        if code in FIXED:
            return self._number(FIXED[code])
        if code in SIZED:
            return self._take(self._number(SIZED[code]))
        return self._line() if code in LINES else None

    def _step(self, code: bytes, argument: Any) -> None:
        stack = self.stack
        match code:
            case b"J" | b"K" | b"M" | b"G":
                stack.append(argument)
            case b"I" if argument in (b"00", b"01"):
                stack.append(argument == b"01")
            case b"I" | b"L":
                stack.append(_integer(argument.rstrip(b"L")))
            case b"F":
                stack.append(float(argument))
            case b"\x8a" | b"\x8b":
                stack.append(int.from_bytes(argument, "little", signed=True))
            case b"S":
                stack.append(_quoted(argument))
            case b"T" | b"U":
                stack.append(argument.decode("latin-1"))
            case b"V":
                stack.append(argument.decode("raw-unicode-escape"))
            case b"X" | b"\x8c" | b"\x8d":
                stack.append(argument.decode("utf-8", "surrogatepass"))
            case b"B" | b"C" | b"\x8e" | b"\x96":
                stack.append(argument)
            case b"N" | b"\x88" | b"\x89":
                stack.append({b"N": None, b"\x88": True, b"\x89": False}[code])
            case b"]" | b"}" | b")":
                stack.append({b"]": list, b"}": dict, b")": tuple}[code]())
            case b"(":
                self.below.append(stack)
                self.stack = []
            case b"1":
                self._since_mark()
            case b"0":
                stack.pop()
            case b"2":
                stack.append(_whole(stack[-1]))
            case b"l" | b"t":
                items = self._since_mark()
                self.stack.append([*map(_whole, items)] if code == b"l" else _tuple(items))
            case b"\x85" | b"\x86" | b"\x87":
                count = code[0] - 0x84
                items = [stack.pop() for _ in range(count)][::-1]
                stack.append(_tuple(items))
            case b"d":
                items = self._since_mark()
                self.stack.append({})
                self._set(items)
            case b"a" | b"e":
                items = self._since_mark() if code == b"e" else [stack.pop()]
                target = self.stack[-1]
                if type(target) is not list:
                    raise ValueError("damaged: it appends to what is no list")
                target.extend(map(_whole, items))
            case b"s" | b"u":
                self._set(self._since_mark() if code == b"u" else [stack.pop(-2), stack.pop()])
            case b"p" | b"q" | b"r" | b"\x94":
                key = len(self.memory) if code == b"\x94" else _integer(argument) if code == b"p" else argument
                self.memory[key] = stack[-1]
                if isinstance(stack[-1], _Begun):
                    stack[-1].keys.append(key)
            case b"g" | b"h" | b"j":
                stack.append(self.memory[_integer(argument) if code == b"g" else argument])
            case b"c":
                stack.append(_function(argument.decode(), self._line().decode()))
            case b"\x93":
                name = stack.pop()
                stack.append(_function(stack.pop(), name))
            case b"R":
                arguments = stack.pop()
                stack.append(self._call(stack.pop(), arguments))
            case b"b":
                state = stack.pop()
                self._finish(stack.pop(), state)
            case b"\x80" | b"\x95":  # the version, and how much to read at a time
                pass
            case _:
                raise ValueError(f"uses the instruction {NAMES.get(code, code.hex())}, which {NOT_READ}")

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("damaged: it sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashes of nested tuples can take forever, and large numbers can be made to have the same one.
            if not isinstance(key, (str, bytes, int, float, type(None))) or (isinstance(key, int) and abs(key) >> 60):
                raise ValueError(
                    f"holds a dict with such a key of type {type(key).__name__.lstrip('_')}, which {NOT_READ}"
                )
            target[key] = _whole(value)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise ValueError("damaged: it calls what is no function")
        match function.name, arguments:
            case "numpy._reconstruct", (_Function("numpy.ndarray"), tuple(), bytes() | str()):
                return _Begun()
            case "numpy.dtype", (str(kind), *_):
                return _Begun(_dtype(kind))
            case "numpy._frombuffer", (bytes(raw), np.dtype() as dtype, tuple(shape), "C" | "F" as order):
                return _array(raw, dtype, shape, order)
            case "numpy.scalar", (np.dtype() as dtype, bytes() | str() as raw):
                return _array(self._bytes(raw), dtype, (1,))[0]
            case "_codecs.encode", (str(text), "latin1" | "latin-1"):
                return self._bytes(text)
            case (("builtins.bytes" | "builtins.bytearray"), ()):
                return b""
            case (("builtins.bytes" | "builtins.bytearray"), (bytes(raw),)):
                return raw
            case "builtins.bytearray", (str(text), "latin1" | "latin-1"):
                return self._bytes(text)
        raise ValueError(f"calls {function.name} in a way that {NOT_READ}")

    def _finish(self, begun: Any, state: Any) -> None:
        """Give an array its content, or a type its order of bytes."""
        value: Any
        match begun, state:
            case _Begun(value=None), (int(), tuple(shape), np.dtype() as dtype, bool() | int() as fortran, raw):
                value = _array(self._bytes(raw), dtype, shape, "F" if fortran else "C")
            case _Begun(value=np.dtype() as dtype), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                value = dtype if order == "|" else dtype.newbyteorder(order)
            case _:
                raise ValueError(f"holds an object with a state, which {NOT_READ}")
        self.stack.append(value)
        for key in begun.keys:
            self.memory[key] = value

    def _bytes(self, raw: Any) -> bytes:
        """Return bytes as they are, and strings of Python 2 as the bytes that they were."""
        if isinstance(raw, bytes):
            return raw
        if not isinstance(raw, str):
            raise ValueError(f"holds an array of a {type(raw).__name__}, which {NOT_READ}")
        self.room -= len(raw)
        if self.room < 0:
            raise ValueError("damaged: it promises far more than the file holds")
        return raw.encode("latin-1")


NOT_READ = "is not read from pickles: numbers, strings, lists, tuples, dicts and numeric arrays are"


def _whole(value: Any) -> Any:
    """Refuse what may stand on the stack, but not in a result."""
    if isinstance(value, _Begun):
        raise ValueError("damaged: an array without its content")
    if isinstance(value, (_Function, _Arguments)):
        raise ValueError(f"holds a function or a class, which {NOT_READ}")
    return value


def _tuple(items: list[Any]) -> tuple[Any, ...]:
    functions = any(isinstance(item, _Function) for item in items)
    return _Arguments(items) if functions else tuple(map(_whole, items))


def _function(module: Any, name: Any) -> _Function:
    if not isinstance(module, str) or not isinstance(name, str):  # to show or hash nested tuples can take forever
        raise ValueError("damaged: the name of a function is no text")
    called = f"{MODULES.get(module, module)}.{name}"
    if called not in KNOWN:
        shown = re.sub(r"[^\x20-\x7e]", "?", f"{module}.{name}")[:100]
        raise ValueError(f"holds {shown}, which {NOT_READ}")
    return _Function(called)


def _dtype(kind: str) -> np.dtype[Any]:
    if not re.fullmatch(r"[<>|=]?([biufc]\d{1,2}|[SU][1-9]\d{0,8}|\?)", kind):
        raise ValueError(f"holds an array of type {kind[:40]!r}, which {NOT_READ}")
    return np.dtype(kind)


def _array(raw: bytes, dtype: np.dtype[Any], shape: tuple[Any, ...], order: Any = "C") -> Any:
    """View bytes as an array; there are exactly as many as its shape says."""
    if len(shape) > 64 or not all(type(length) is int and 0 <= length < 2**62 for length in shape):
        raise ValueError("damaged: an array of impossible shape")
    size = math.prod(shape) * dtype.itemsize
    if size != len(raw):
        raise ValueError(f"damaged: an array of {str(shape)[:100]} {dtype} promises {size} bytes and has {len(raw)}")
    if not size:
        return np.zeros(shape, dtype)
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _integer(digits: bytes) -> int:
    if len(digits) > 4000:  # reading them takes the square of their number
        raise ValueError(f"damaged: a number of {len(digits)} digits")
    return int(digits)


def _quoted(line: bytes) -> str:
    """Read a string as Python 2 spells it."""
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("damaged: a string without quotes")
    return line[1:-1].decode("unicode_escape")
