"""Arrays of npy and npz files; what their headers promise is checked before memory is taken."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

SMALL, RATIO = 1 << 26, 200  # bytes that may always be unpacked; beyond, so many from each byte of a file

Array = np.ndarray[Any, np.dtype[Any]]


def guarded(parse: Callable[[], Any]) -> Any:
    """Call a parser of another library, and say in one line that the file is damaged if it fails."""
    try:
        return parse()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # damaged files make parsers fail in every way; Rust's panics are no Exception
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if isinstance(error, ImportError):  # a guesser of encodings, not there
            raise ValueError("damaged, or not what its name says") from None
        raise ValueError(f"damaged, or not what its name says ({reason.removeprefix('damaged: ')[:200]})") from None


def check_size(promised: int, held: int, packed: bool = False) -> None:
    """Refuse, before memory is taken, what a header promises and a file of `held` bytes cannot hold.

    Args:
        promised: bytes in memory.
        held: bytes of the file, or of the part of it in question.
        packed: whether they are compressed, so that a few may become many.
    """
    if promised < 0 or promised > (max(held * RATIO, SMALL) if packed else held):
        raise ValueError(f"damaged: its header promises {promised} bytes, more than {held} bytes can hold")


def read_npy(stream: IO[bytes], held: int) -> Array:
    """Read the array of a stream of `held` bytes; never a pickled one."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"of version {version[0]}.{version[1]}, and 1.0 to 3.0 are read")
    start = stream.tell()
    if version != (1, 0):  # whose header is short in any case
        check_size(int.from_bytes(stream.read(4), "little"), held)
        stream.seek(start)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    if min(shape, default=0) < 0 or max(shape, default=0) > 2**62:
        raise ValueError(f"an array of shape {str(shape)[:100]}")
    check_size(math.prod(shape) * dtype.itemsize, held - stream.tell())
    stream.seek(0)
    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


class Archive:
    """Give the arrays of an npz file by their names, one at a time; use it inside a `with` block.

    Raises:
        ValueError: it is no archive.
    """

    def __init__(self, path: Path) -> None:
        self.held = path.stat().st_size
        self.file: zipfile.ZipFile = guarded(lambda: zipfile.ZipFile(path))
        members = [info for info in self.file.infolist() if info.filename.endswith(".npy")]
        self.members = {info.filename.removesuffix(".npy"): info for info in members}

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, name: str) -> Array:
        """Read one array.

        Raises:
            ValueError: it is damaged, holds Python objects, or promises more than the file can hold.
        """
        array: Array = guarded(lambda: self._read(self.members[name]))
        return array

    def _read(self, info: zipfile.ZipInfo) -> Array:
        check_size(info.file_size, self.held, packed=info.compress_type != zipfile.ZIP_STORED)
        with self.file.open(info) as stream:
            return read_npy(stream, info.file_size)
