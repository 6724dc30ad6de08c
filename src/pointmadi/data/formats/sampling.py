"""From a cloud or mesh to a cloud of exactly N points."""

import hashlib

import numpy as np
import torch

from pointmadi.data.arrays import Array
from pointmadi.data.formats.raw import HALF_MAX, NORMALS, Raw, Reading, channels, orient, stack
from pointmadi.ops.sampling import farthest_points

POOL = 50_000  # points among which the farthest are searched; of larger clouds a random choice of this many


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
    features = stack(values, names, reading.num_points)
    if not np.all(np.abs(features) <= HALF_MAX):
        raise ValueError(f"features hold NaN or values beyond {HALF_MAX:.0f}, which do not fit in 16 bits")
    return orient(Raw(points, features, names, part=part), reading)


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
