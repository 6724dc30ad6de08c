"""Tables and arrays: txt, xyz, npy, npz."""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pointmadi.data.formats.raw import ALIASES, GROUPS, INTENSITY, NORMALS, RGB, Array, Raw, guarded

ARRAYS = {
    "points": ("points", "xyz", "pos", "vertices", "pc", "arr_0"),
    "faces": ("faces", "face"),
    "normals": ("normals", "normal"),
    "rgb": ("rgb", "colors", "color"),
    "intensity": ("intensity",),
}


def of_columns(table: Array, names: Sequence[str] = ()) -> Raw:
    """Understand a table of three or more columns; unnamed extra columns are guessed (docs/datasets.md)."""
    if table.ndim != 2 or table.shape[1] < 3 or table.dtype.kind not in "fiu":
        raise ValueError(f"expected a table of rows x y z …, found {table.shape} {table.dtype}")
    extra = table[:, 3:]
    if not names:
        count, names = extra.shape[1], ()
        if count in (3, 4, 6, 7):
            lengths = np.linalg.norm(extra[:, :3].astype(np.float64), axis=1)
            names = NORMALS if np.all(np.abs(lengths - 1) < 0.05) else RGB
        if count in (6, 7):
            names = (*names, *(RGB if names == NORMALS else NORMALS))
        if count in (1, 4, 7):
            names = (*names, *INTENSITY)
        names = (*names, *(f"column{i + 4}" for i in range(len(names), count)))
    values = extra.astype(np.float32)
    colors = [i for i, name in enumerate(names) if name in RGB]
    if colors and values[:, colors].max(initial=0) > 1:
        values[:, colors] /= 65535 if values[:, colors].max() > 255 else 255
    return Raw(table[:, :3].astype(np.float64), values, tuple(names))


def read_text(path: Path) -> Raw:
    """Read a text of one point a line."""
    text = re.sub("[,;]", " ", path.read_bytes().decode("utf-8-sig", errors="replace"))
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    words = first.lstrip("#/ ").lower().split()
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
    named = names[:3] == ["x", "y", "z"] and len(names) == table.shape[1]
    return of_columns(table, names[3:] if named else ())


def read_npy(path: Path) -> Raw:
    """Read an array of one point a row."""
    content = io.BytesIO(path.read_bytes())
    return of_columns(guarded(lambda: np.load(content, allow_pickle=False)))


def read_npz(path: Path) -> Raw:
    """Read an archive of named arrays that make one shape."""
    content = io.BytesIO(path.read_bytes())
    with guarded(lambda: np.load(content, allow_pickle=False)) as archive:
        arrays = guarded(lambda: {name: archive[name] for name in archive.files})
    found = {
        kind: arrays[next(name for name in names if name in arrays)]
        for kind, names in ARRAYS.items()
        if any(name in arrays for name in names)
    }
    if "points" not in found:
        raise ValueError(f"no array called {' or '.join(ARRAYS['points'])}; it has: {', '.join(arrays)}")
    if found["points"].ndim == 3:
        raise ValueError("a packed set of many shapes, not one shape; give it as a source of its own")
    raw = of_columns(found["points"])
    columns, names = [raw.features], list(raw.feature_names)
    for kind in ("normals", "rgb", "intensity"):
        if kind in found:
            values = found[kind].reshape(len(raw.points), -1)[:, : len(GROUPS[kind])]
            scale = 255 if kind == "rgb" and values.max(initial=0) > 1 else 1
            columns.append(values.astype(np.float32) / scale)
            names += GROUPS[kind]
    faces = found["faces"].astype(np.int64).reshape(-1, 3) if found.get("faces", np.zeros(0)).size else None
    return Raw(raw.points, np.concatenate(columns, axis=1), tuple(names), faces)
