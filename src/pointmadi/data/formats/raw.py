"""What a file holds, how it is to be read, and what is no shape."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pointmadi.data.arrays import Array

LARGEST = 1e15  # coordinates beyond it are taken for garbage, and shapes smaller than 1 / LARGEST for a single place
HALF_MAX = float(np.finfo(np.float16).max)
ROUNDING = 1e-7  # a shape smaller than this share of its distance from the origin is lost in rounding

NORMALS, RGB, INTENSITY = ("nx", "ny", "nz"), ("r", "g", "b"), ("intensity",)
GROUPS = {"normals": NORMALS, "rgb": RGB, "intensity": INTENSITY}
PARTS = ("part", "label", "classification", "class", "semantic")
ALIASES = {
    "red": "r", "green": "g", "blue": "b", "diffuse_red": "r", "diffuse_green": "g", "diffuse_blue": "b",
    "normal_x": "nx", "normal_y": "ny", "normal_z": "nz", "scalar_intensity": "intensity", "reflectance": "intensity",
}  # fmt: skip

# Rotations that turn the axis that points up into y, and handedness stays.
TO_Y_UP = {
    "x": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
    "y": np.eye(3),
    "z": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
}

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


def orient(raw: Raw, reading: Reading) -> Raw:
    """Turn a cloud or mesh so that y points up, with its normals, and scale it."""
    if reading.up == "y" and reading.scale == 1:
        return raw
    turn, features = TO_Y_UP[reading.up], raw.features.copy()
    if set(NORMALS) <= set(raw.feature_names):
        normals = [raw.feature_names.index(name) for name in NORMALS]
        features[:, normals] = features[:, normals] @ turn.T
    return replace(raw, points=raw.points @ turn.T * reading.scale, features=features)


def stack(values: dict[str, Array], names: Sequence[str], rows: int) -> Array:
    """Put channels side by side: (N,) each -> (N, F) float32; F may be 0."""
    return np.stack([values[n] for n in names], axis=1).astype(np.float32) if names else np.zeros((rows, 0), np.float32)


def shades(values: Array) -> Array:
    """Bring colours of 8 or 16 bits to 0 … 1; what is there already stays."""
    largest = values.max(initial=0)
    return (values / (1 if largest <= 1 else 255 if largest <= 255 else 65535)).astype(np.float32)


def with_channels(points: Array, found: dict[str, Array], faces: Array | None = None) -> Raw:
    """Put together what is known of each point: (N, 3), (N,) each; whole numbers called as in `PARTS` are parts too."""
    part = None
    for name in PARTS:
        if faces is None and name in found and np.all(np.abs(found[name]) < 2**31):
            whole = found[name].astype(np.int64)
            part = whole if part is None and np.array_equal(whole, found[name]) else part
    return Raw(points, stack(found, tuple(found), len(points)), tuple(found), faces, part)


def check(raw: Raw) -> None:
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
