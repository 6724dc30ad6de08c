"""What the readers of published files share."""

import os
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pointmadi.data.formats import Array
from pointmadi.data.formats.raw import RGB, Raw, check
from pointmadi.data.listing import Entry

DENSEST = 1100  # bytes out of one byte of a compressed file: deflate cannot do more


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes a parser raise into one line that names the file."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused
            yield
    except Exception as error:
        if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno):  # it speaks for itself
            raise
        if str(error).startswith(f"{path}: "):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ValueError(f"{path}: damaged, or not of this layout ({reason})") from None


def cloud(table: Array, features: Sequence[str] = ()) -> Raw:
    """Make a cloud from rows x y z and named columns, (N, 3+F), and refuse what is no shape; colours are 0 … 255."""
    if table.ndim != 2 or table.shape[1] != 3 + len(features) or table.dtype.kind not in "fiu":
        raise ValueError(f"expected rows of x y z {' '.join(features)}, found {table.shape} {table.dtype}")
    values = table[:, 3:].astype(np.float32)
    values[:, [name in RGB for name in features]] /= 255
    raw = Raw(table[:, :3].astype(np.float64), values, tuple(features))
    check(raw)
    return raw


def labelled(raw: Raw, part: Array) -> Raw:
    """Give every point its part or class: (N,)."""
    if part.shape != (len(raw.points),):
        raise ValueError(f"{part.size} labels for {len(raw.points)} points")
    return replace(raw, part=part.astype(np.int64))


def lookup(values: Array, table: Array) -> Array:
    """Translate labels by a table, (N,) -> (N,); those beyond it are unknown, −1."""
    known = (values >= 0) & (values < len(table))
    return np.where(known, table[np.where(known, values, 0).astype(np.int64)], -1)


def within(values: Array, names: Sequence[str], what: str) -> Array:
    """Return labels as whole numbers, and refuse those that have no name."""
    labels = values.astype(np.int64)
    if labels.size and not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(f"{what} {labels.min()} … {labels.max()} of {len(names)}")
    return labels


def rows(source: Path | Sequence[bytes], columns: int, delimiter: str | None = None) -> Array:
    """Read a text of (N, columns) numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is one for a text without numbers
        values: Array = np.loadtxt(source, delimiter=delimiter, ndmin=2)
    if values.shape[1] != columns:
        raise ValueError(f"expected {columns} numbers a line, found {values.shape[1]}")
    return values


def array(path: Path, columns: int) -> Array:
    """Read an .npy of (N, columns) or, for none, (N,) numbers; a header that promises more than is there is refused."""
    values: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.dtype.kind not in "fiu" or values.shape[1:] != ((columns,) if columns else ()):
        raise ValueError(f"expected rows of {columns or 1} numbers, found {values.shape} {values.dtype}")
    return np.asarray(values)


def pickled(path: Path) -> Any:
    """Read a pickle of plain values; the last few are remembered as long as they do not change."""
    state = path.stat()
    return _pickled(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=2)
def _pickled(path: Path, size: int, time: int) -> Any:
    from pointmadi.data import pickles

    return pickles.load(path)


def h5_file(path: Path) -> Any:
    """Open an HDF5 file; open files are remembered as long as they do not change."""
    state = path.stat()
    return _opened(path, state.st_size, state.st_mtime_ns, os.getpid())


@lru_cache(maxsize=32)
def _opened(path: Path, size: int, time: int, process: int) -> Any:
    import h5py

    # By a file of Python's, since HDF5 takes a path that it has open already for the old file, changed or not.
    content = path.open("rb")
    try:
        file = h5py.File(content, "r")
    except BaseException:
        content.close()
        raise
    weakref.finalize(file, content.close)
    return file


def h5(path: Path, name: str) -> Any:
    """Return an array of an HDF5 file, yet to be read; one that points elsewhere or lies about its size is refused."""
    import h5py

    file, size = h5_file(path), path.stat().st_size
    values = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(values, h5py.Dataset) or values.dtype.kind not in "fiu" or values.is_virtual or values.external:
        raise ValueError(f"has no numbers called {name}; it has: {', '.join(file)}")
    if values.nbytes > DENSEST * size:
        raise ValueError(f"its header promises {values.nbytes} bytes of {name}, which {size} cannot hold")
    return values


def h5_entries(path: Path, classes: Sequence[str], split: int, group: str = "") -> list[Entry]:
    """List the shapes of an HDF5 file by its labels: (S,) or (S, 1)."""
    with reading(path):
        label, data = h5(path, "label"), h5(path, "data")
        if label.size != len(data) or data.ndim != 3:
            raise ValueError(f"{label.size} labels for data of {data.shape}")
        labels = within(np.asarray(label).ravel(), classes, "classes")
    return [Entry(f"{path.stem}/{row}", path, row, kind, split, group) for row, kind in enumerate(labels.tolist())]
