"""One file in, one cloud or mesh out; and from there a cloud of exactly N points."""

import hashlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pointmadi.data.clouds import Clouds
from pointmadi.ops.sampling import farthest_points

POOL = 50_000  # points among which the farthest are searched; of larger clouds a random choice of this many
LARGEST = 1e15  # coordinates beyond it are taken for garbage, and shapes smaller than 1 / LARGEST for a single place
HALF_MAX = float(np.finfo(np.float16).max)
ROUNDING = 1e-7  # a shape smaller than this share of its distance from the origin is lost in rounding

NORMALS, RGB, INTENSITY = ("nx", "ny", "nz"), ("r", "g", "b"), ("intensity",)
GROUPS = {"normals": NORMALS, "rgb": RGB, "intensity": INTENSITY}
ALIASES = {
    "red": "r", "green": "g", "blue": "b", "diffuse_red": "r", "diffuse_green": "g", "diffuse_blue": "b",
    "normal_x": "nx", "normal_y": "ny", "normal_z": "nz", "scalar_intensity": "intensity", "reflectance": "intensity",
}  # fmt: skip
ARRAYS = {
    "points": ("points", "xyz", "pos", "vertices", "pc", "arr_0"),
    "faces": ("faces", "face"),
    "normals": ("normals", "normal"),
    "rgb": ("rgb", "colors", "color"),
    "intensity": ("intensity",),
}

# Rotations that turn the axis that points up into y, and handedness stays.
TO_Y_UP = {
    "x": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
    "y": np.eye(3),
    "z": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
}

Array = np.ndarray[Any, np.dtype[Any]]
Up = Literal["x", "y", "z"]


@dataclass(frozen=True, eq=False)
class Raw:
    """What a file holds.

    Args:
        points: (N, 3) float64, the points of a cloud or the vertices of a mesh.
        features: (N, F) float32, what the file says about each point; F may be 0.
        feature_names: a name for each channel: nx ny nz r g b intensity, or the file's own.
        faces: (M, 3) int64, triangles; None for a cloud.
        part: (N,) int64, the part or semantic class of each point of a cloud, −1 unknown; None where there are none.
    """

    points: Array
    features: Array
    feature_names: tuple[str, ...] = ()
    faces: Array | None = None
    part: Array | None = None


@dataclass(frozen=True)
class Reading:
    """How files become clouds of N points.

    Args:
        num_points: N. Meshes are sampled by area; larger clouds are thinned by farthest points (of a random
            `POOL` where they are larger than that), smaller ones repeat theirs. All by the content of the file alone.
        features: what to keep beside coordinates: normals, rgb, intensity, or names of the file's own channels.
        up: the axis that points up in the files; clouds are turned so that it is y. Nothing is guessed.
        scale: what coordinates are multiplied by, for instance 0.001 for files in millimetres.
    """

    num_points: int
    features: tuple[str, ...] = ()
    up: Up = "y"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {self.num_points}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be a positive number, got {self.scale}")


def channels(features: Iterable[str]) -> tuple[str, ...]:
    """Spell out the groups among names of features: normals, rgb -> nx, ny, nz, r, g, b."""
    return tuple(channel for name in features for channel in GROUPS.get(name, (name,)))


def read_cloud(path: str | Path, reading: Reading) -> Clouds:
    """Read one file as a set of one cloud.

    Raises:
        ValueError: the file cannot be read, holds no usable shape, or lacks a feature; one line that names it.
        OSError: the file is not there or may not be read.
    """
    raw = read_file(path)
    try:
        cloud = resample(raw, reading)
        known = {"features": cloud.features[None], "feature_names": cloud.feature_names} if reading.features else {}
        return Clouds.pack(torch.from_numpy(cloud.points)[None], [Path(path).name], **known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_file(path: str | Path) -> Raw:
    """Read a mesh or cloud and check that it is a shape.

    Raises:
        ValueError: not a shape, with one line that names the file and says why.
        OSError: the file is not there or may not be read.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: files of this kind are not read; these are: {' '.join(SUFFIXES)}")
    with path.open("rb") as file:  # a missing or forbidden file speaks for itself
        if not file.read(1):
            raise ValueError(f"{path}: the file is empty")
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused
            raw = reader(path)
            _check(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return raw


def _parse(path: Path, parse: Callable[[], Any]) -> Any:
    """Call a parser of another library, and say in one line that the file is damaged if it fails."""
    try:
        return parse()
    except Exception as error:  # damaged files make parsers fail in every possible way
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        detail = "" if isinstance(error, ImportError) else f" ({reason[:200]})"  # a guesser of encodings, not there
        raise ValueError(f"damaged, or not what its name says{detail}") from None


def _check(raw: Raw) -> None:
    """Refuse what is not a shape."""
    points = raw.points
    if raw.faces is not None:
        if not 0 <= int(raw.faces.min()) <= int(raw.faces.max()) < len(points):
            raise ValueError(f"a face names vertex {int(raw.faces.max())} of {len(points)}")
        points = points[raw.faces.ravel()]
    if len(points) < 2:
        raise ValueError(f"holds {len(points)} point{'s' if len(points) != 1 else ''}, which is no shape")
    bad = len(points) - int(np.isfinite(points).all(axis=1).sum())
    if bad:
        raise ValueError(f"{bad} of {len(points)} points have NaN or infinite coordinates")
    largest = float(np.abs(points).max())
    extent = float(np.ptp(points, axis=0).max())
    if largest > LARGEST:
        raise ValueError(f"coordinates as large as {largest:.3g}; the file is damaged or of another kind")
    if extent <= max(1 / LARGEST, largest * ROUNDING):
        raise ValueError(f"all {len(points)} points are at one place (extent {extent:.3g})")


def resample(raw: Raw, reading: Reading) -> Raw:
    """Bring a cloud or mesh to a cloud of N points with the wanted channels, turned and scaled as asked.

    Every random choice depends on the content alone, so it is the same on every machine and in every order of files.

    Raises:
        ValueError: a channel is missing, or does not fit into 16 bits.
    """
    content = hashlib.blake2b(np.ascontiguousarray(raw.points).tobytes(), digest_size=8)
    if raw.faces is not None:
        content.update(np.ascontiguousarray(raw.faces).tobytes())
    random = np.random.default_rng(int.from_bytes(content.digest(), "little"))
    names = channels(reading.features)
    has = raw.feature_names if raw.faces is None else (*dict.fromkeys((*raw.feature_names, *NORMALS)),)
    missing = [name for name in names if name not in has]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}; it has: {', '.join(has) or 'coordinates only'}")

    part = None
    if raw.faces is None:
        index = _thin(raw.points, reading.num_points, random)
        points, part = raw.points[index], None if raw.part is None else raw.part[index]
        values = {name: raw.features[index, i] for i, name in enumerate(raw.feature_names)}
    else:
        face, weights = _pick_on_surface(raw.points, raw.faces, reading.num_points, random)
        corners = raw.faces[face]
        points = np.einsum("nk,nkd->nd", weights, raw.points[corners])
        blended = np.einsum("nk,nkf->nf", weights, raw.features[corners])
        values = {name: blended[:, i] for i, name in enumerate(raw.feature_names)}
        values |= dict(zip(NORMALS, _face_normals(raw.points, raw.faces)[face].T, strict=True))
    columns = _columns(values, names, reading.num_points)
    if not np.all(np.abs(columns) <= HALF_MAX):
        raise ValueError(f"features hold NaN or values beyond {HALF_MAX:.0f}, which do not fit in 16 bits")
    return orient(Raw(points, columns, names, part=part), reading)


def orient(raw: Raw, reading: Reading) -> Raw:
    """Turn a cloud or mesh so that y points up, with its normals, and scale it."""
    if reading.up == "y" and reading.scale == 1:
        return raw
    turn, features = TO_Y_UP[reading.up], raw.features.copy()
    if set(NORMALS) <= set(raw.feature_names):
        normals = [raw.feature_names.index(name) for name in NORMALS]
        features[:, normals] = features[:, normals] @ turn.T
    return replace(raw, points=raw.points @ turn.T * reading.scale, features=features)


def _columns(values: dict[str, Array], names: Sequence[str], rows: int) -> Array:
    return np.stack([values[n] for n in names], axis=1).astype(np.float32) if names else np.zeros((rows, 0), np.float32)


def _thin(points: Array, count: int, random: np.random.Generator) -> Array:
    """Choose `count` of the points, spread evenly; fewer points are repeated: -> (count,) indices."""
    if len(points) <= count:
        return np.arange(count) % len(points)
    pool = np.arange(len(points))
    if len(pool) > max(POOL, count):
        pool = np.sort(random.choice(len(pool), max(POOL, count), replace=False))
    around = points[pool] - points[pool].mean(axis=0)
    unit = torch.from_numpy(around / np.abs(around).max()).float()
    return pool[farthest_points(unit[None], count)[0].numpy()]


def _crosses(vertices: Array, faces: Array) -> Array:
    """Return twice the area of each face along its normal: (M, 3)."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def _face_normals(vertices: Array, faces: Array) -> Array:
    crosses = _crosses(vertices, faces)
    return crosses / np.maximum(np.linalg.norm(crosses, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _pick_on_surface(vertices: Array, faces: Array, count: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Pick places on a surface, uniform by area: -> faces (count,), weights of their three corners (count, 3)."""
    areas = np.linalg.norm(_crosses(vertices, faces), axis=1).cumsum()
    if not areas[-1] > 0:
        raise ValueError(f"the {len(faces)} faces of the mesh have no area")
    face = np.searchsorted(areas, random.random(count) * areas[-1], side="right").clip(max=len(faces) - 1)
    root, share = np.sqrt(random.random(count)), random.random(count)
    return face, np.stack([1 - root, root * (1 - share), root * share], axis=1)


def _of_columns(table: Array, names: Sequence[str] = ()) -> Raw:
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


def _read_text(path: Path) -> Raw:
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
        table = _parse(path, lambda: np.loadtxt(rows, comments=("#", "//"), skiprows=skip, ndmin=2))
    named = names[:3] == ["x", "y", "z"] and len(names) == table.shape[1]
    return _of_columns(table, names[3:] if named else ())


def _read_npy(path: Path) -> Raw:
    content = io.BytesIO(path.read_bytes())
    return _of_columns(_parse(path, lambda: np.load(content, allow_pickle=False)))


def _read_npz(path: Path) -> Raw:
    content = io.BytesIO(path.read_bytes())
    with _parse(path, lambda: np.load(content, allow_pickle=False)) as archive:
        arrays = _parse(path, lambda: {name: archive[name] for name in archive.files})
    found = {
        kind: arrays[next(name for name in names if name in arrays)]
        for kind, names in ARRAYS.items()
        if any(name in arrays for name in names)
    }
    if "points" not in found:
        raise ValueError(f"no array called {' or '.join(ARRAYS['points'])}; it has: {', '.join(arrays)}")
    if found["points"].ndim == 3:
        raise ValueError("a packed set of many shapes, not one shape; give it as a source of its own")
    raw = _of_columns(found["points"])
    columns, names = [raw.features], list(raw.feature_names)
    for kind in ("normals", "rgb", "intensity"):
        if kind in found:
            values = found[kind].reshape(len(raw.points), -1)[:, : len(GROUPS[kind])]
            scale = 255 if kind == "rgb" and values.max(initial=0) > 1 else 1
            columns.append(values.astype(np.float32) / scale)
            names += GROUPS[kind]
    faces = found["faces"].astype(np.int64).reshape(-1, 3) if found.get("faces", np.zeros(0)).size else None
    return Raw(raw.points, np.concatenate(columns, axis=1), tuple(names), faces)


def _read_geometry(path: Path) -> Raw:
    """Read ply, obj, off, stl or glb by trimesh."""
    import trimesh

    log = logging.getLogger("trimesh")
    if not log.handlers:  # without one, Python prints the tracebacks that trimesh logs about damaged files
        log.addHandler(logging.NullHandler())
    kind = path.suffix.lower()[1:]
    content = path.read_bytes()
    if kind in ("obj", "off"):  # old exporters write comments and names in any encoding
        content = content.decode("utf-8", errors="replace").encode()
    if kind == "ply":
        _check_length(content)
    options: dict[str, Any] = {"skip_materials": True} if kind == "obj" else {}
    stream = io.BytesIO(content)
    loaded: Any = _parse(path, lambda: trimesh.load(stream, file_type=kind, process=False, **options))
    pieces: Any = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    meshes = [piece for piece in pieces if isinstance(piece, trimesh.Trimesh) and len(piece.faces)]
    if meshes:
        mesh: Any = meshes[0] if len(meshes) == 1 else trimesh.util.concatenate(meshes)
        features, names = _vertex_channels(mesh)
        return Raw(np.asarray(mesh.vertices, np.float64), features, names, np.asarray(mesh.faces, np.int64))
    clouds = [piece for piece in pieces if len(getattr(piece, "vertices", ()))]
    if not clouds:
        raise ValueError("holds no points and no faces")
    points = np.concatenate([np.asarray(cloud.vertices, np.float64) for cloud in clouds])
    features, names = _vertex_channels(clouds[0]) if len(clouds) == 1 else (np.zeros((len(points), 0), np.float32), ())
    return Raw(points, features, names)


def _check_length(content: bytes) -> None:
    """Refuse an ASCII ply that ends before what its header promises; trimesh would take what is there."""
    header, _, body = content.partition(b"end_header")
    if b"format ascii" in header:
        promised = sum(map(int, re.findall(rb"^\s*element\s+\S+\s+(\d+)", header, re.MULTILINE)))
        found = len(body.partition(b"\n")[2].splitlines())
        if found < promised:
            raise ValueError(f"damaged: it ends after {found} of the {promised} lines that its header promises")


def _vertex_channels(geometry: Any) -> tuple[Array, tuple[str, ...]]:
    """Collect what is known of each vertex: colours, and the other properties of a ply file."""
    rows = len(geometry.vertices)
    found: dict[str, Array] = {}
    colors = getattr(geometry, "colors", None)
    if colors is None and getattr(geometry.visual, "kind", None) == "vertex":
        colors = geometry.visual.vertex_colors
    if colors is not None and len(colors) == rows:
        found |= dict(zip(RGB, np.asarray(colors, np.float32).T[:3] / 255, strict=True))
    vertex = geometry.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    data = {} if vertex is None else vertex if isinstance(vertex, dict) else {n: vertex[n] for n in vertex.dtype.names}
    for name, values in data.items():
        name, values = ALIASES.get(name.lower(), name), np.asarray(values)
        if name not in (*"xyz", *RGB, "alpha") and values.dtype.kind in "fiu" and values.size == rows:
            found[name] = values.reshape(rows)
    return _columns(found, tuple(found), rows), tuple(found)


READERS: dict[str, Callable[[Path], Raw]] = {
    **dict.fromkeys((".ply", ".obj", ".off", ".stl", ".glb"), _read_geometry),
    **dict.fromkeys((".xyz", ".txt"), _read_text),
    ".npy": _read_npy,
    ".npz": _read_npz,
}
SUFFIXES = tuple(READERS)
