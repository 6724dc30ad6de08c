"""Tables and arrays: txt xyz csv, npy npz, h5, bin."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from pointmadi.data import arrays
from pointmadi.data.arrays import Archive, Array, check_size, guarded
from pointmadi.data.formats.raw import ALIASES, GROUPS, INTENSITY, NORMALS, RGB, Raw, shades, with_channels

ARRAYS = {
    "points": ("points", "xyz", "pos", "vertices", "pc", "data", "arr_0"),
    "faces": ("faces", "face"),
    "normals": ("normals", "normal"),
    "rgb": ("rgb", "colors", "color"),
    "intensity": ("intensity",),
    "part": ("part", "pid", "seg", "semantic", "label"),
}


def of_columns(table: Array, names: Sequence[str] = ()) -> Raw:
    """Understand a table of three or more columns; unnamed extra columns are guessed (docs/datasets.md)."""
    if table.ndim == 3:
        raise ValueError(
            f"a set of many shapes {table.shape}, not one; give a folder with one shape a file, or pack it"
        )
    if table.ndim != 2 or table.shape[1] < 3 or table.dtype.kind not in "fiu":
        raise ValueError(f"expected a table of rows x y z …, found {table.shape} {table.dtype}")
    if not names:
        extra = table[:, 3:]
        count, names = extra.shape[1], ()
        if count in (3, 4, 6, 7):
            lengths = np.linalg.norm(extra[:, :3].astype(np.float64), axis=1)
            names = NORMALS if np.all(np.abs(lengths - 1) < 0.05) else RGB
        if count in (6, 7):
            names = (*names, *(RGB if names == NORMALS else NORMALS))
        if count in (1, 4, 7):
            names = (*names, *INTENSITY)
        names = ("x", "y", "z", *names, *(f"column{i + 4}" for i in range(len(names), count)))
    found = {name: table[:, i] for i, name in enumerate(names)}
    points = np.stack([found.pop(axis) for axis in "xyz"], axis=1).astype(np.float64)
    colors = [name for name in RGB if name in found]
    if colors:
        found |= dict(zip(colors, shades(np.stack([found[name] for name in colors])), strict=True))
    return with_channels(points, found)


def read_text(path: Path) -> Raw:
    """Read a text of one point a line."""
    text = re.sub("[,;]", " ", path.read_bytes().decode("utf-8-sig", errors="replace"))
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    words = first.lstrip("#/ ").replace('"', "").lower().split()
    try:
        list(map(float, words))
        names, skip = [], int(len(words) == 1)  # a single number is the count of the rows
    except ValueError:
        names, skip = [ALIASES.get(word, word) for word in words], int(not first.startswith(("#", "//")))
    text = text.lstrip()
    if not any(line.strip() and not line.lstrip().startswith(("#", "//")) for line in text.splitlines()[skip:]):
        raise ValueError("holds no rows of numbers")
    rows = io.StringIO(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is one for a file without numbers
        table = guarded(lambda: np.loadtxt(rows, comments=("#", "//"), skiprows=skip, ndmin=2))
    named = {"x", "y", "z"} <= set(names) and len(names) == len(set(names)) == table.shape[1]
    return of_columns(table, names if named else ())


def read_bin(path: Path) -> Raw:
    """Read a scan of KITTI: rows of four little-endian float32, x y z intensity."""
    content = path.read_bytes()
    if len(content) % 16:
        raise ValueError(f"{len(content)} bytes are no rows of four float32 (x y z intensity, as in KITTI)")
    return of_columns(np.frombuffer(content, "<f4").reshape(-1, 4), (*"xyz", *INTENSITY))


def read_npy(path: Path) -> Raw:
    """Read an array of one point a row."""
    with path.open("rb") as file:
        return of_columns(guarded(lambda: arrays.read_npy(file, path.stat().st_size)))


def read_npz(path: Path) -> Raw:
    """Read an archive of named arrays that make one shape."""
    with Archive(path) as archive:
        return _of_arrays(list(archive.members), archive.read)


def read_h5(path: Path) -> Raw:
    """Read a file of HDF5 whose datasets make one shape; links to other files are not followed."""
    import h5py

    held = path.stat().st_size
    with guarded(lambda: h5py.File(path, "r")) as file:

        def read(name: str) -> Array:
            dataset = file[name]
            if dataset.external or dataset.is_virtual or dataset.dtype.kind not in "fiub":
                raise ValueError(f"'{name}' lies in another file, or does not hold numbers")
            check_size(dataset.size * dataset.dtype.itemsize, held, packed=dataset.chunks is not None)
            values: Array = dataset[()]
            return values

        def is_array(name: str) -> bool:
            here = isinstance(file.get(name, getlink=True), h5py.HardLink)
            return here and isinstance(file[name], h5py.Dataset)

        names = guarded(lambda: [name for name in file if is_array(name)])
        return _of_arrays(names, lambda name: guarded(lambda: read(name)))


def _of_arrays(names: Sequence[str], read: Callable[[str], Array]) -> Raw:
    """Put the named arrays of one shape together."""
    has = {kind: next((name for name in known if name in names), None) for kind, known in ARRAYS.items()}
    if has["points"] is None:
        raise ValueError(f"no array called {' or '.join(ARRAYS['points'])}; it has: {_listed(names)}")
    given = {kind: read(name) for kind, name in has.items() if name is not None}
    raw = of_columns(given["points"])
    found = {name: raw.features[:, i] for i, name in enumerate(raw.feature_names)}
    rows = len(raw.points)
    for kind in ("normals", "rgb", "intensity"):
        if kind in given:
            values, wide = given[kind], len(GROUPS[kind])
            if values.size < rows * wide or values.size % rows or values.dtype.kind not in "fiu":
                raise ValueError(f"'{has[kind]}' is {values.shape} {values.dtype}, for {rows} points")
            values = values.reshape(rows, -1)[:, :wide]
            found |= dict(zip(GROUPS[kind], (shades(values) if kind == "rgb" else values).T, strict=True))
    faces = given.get("faces", np.zeros(0, np.int64))
    if faces.size % 3 or faces.dtype.kind not in "iuf":
        raise ValueError(f"'{has['faces']}' is {faces.shape} {faces.dtype}, and triangles are (M, 3) whole numbers")
    part = given.get("part")
    if part is not None and part.size == rows and part.dtype.kind in "iu" and not faces.size:
        found["part"] = part.reshape(rows)  # a single label is that of the shape, not of its points
    return with_channels(raw.points, found, faces.astype(np.int64).reshape(-1, 3) if faces.size else None)


def _listed(names: Iterable[str], most: int = 20) -> str:
    return ", ".join(re.sub(r"[^\x20-\x7e]", "?", name)[:40] for name in list(names)[:most]) or "nothing"
