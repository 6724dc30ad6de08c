"""Wireframes: the edges of five tessellated bodies, plain or subdivided, as tables of segments."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

FAMILIES = ("sphere", "cube", "cone", "cylinder", "torus")
LARGEST = 0.6  # largest radius of a body; cones and cylinders keep their height of 2 whatever the radius
_MINOR = 0.3  # tube radius of the torus, of its major radius

Mesh = tuple[np.ndarray, list[np.ndarray]]  # (V, 3) vertices; groups (F, corners) of faces


def _grid(rows: int, columns: int, wrap: bool) -> np.ndarray:
    """List the quads of a grid of vertices that closes on itself along its columns: -> (F, 4)."""
    r, c = np.meshgrid(np.arange(rows if wrap else rows - 1), np.arange(columns), indexing="ij")
    below, right = (r + 1) % rows, (c + 1) % columns
    corners = [r * columns + c, r * columns + right, below * columns + right, below * columns + c]
    return np.stack(corners, -1).reshape(-1, 4)


def _ring(count: int) -> np.ndarray:
    """Place vertices on the unit circle: -> (count, 2)."""
    turn = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(turn), np.sin(turn)], 1)


def _sphere() -> Mesh:
    ring, angle = _ring(32), np.pi * np.arange(1, 16) / 16
    wall = [np.column_stack([ring * np.sin(t), np.full(32, np.cos(t))]) for t in angle]
    vertices = np.concatenate([*wall, [[0, 0, 1], [0, 0, -1]]])
    i, j = np.arange(32), (np.arange(32) + 1) % 32
    fans = np.concatenate([np.stack([i, np.full(32, 480), j], 1), np.stack([448 + j, np.full(32, 481), 448 + i], 1)])
    return vertices, [_grid(15, 32, wrap=False), fans]


def _cube() -> Mesh:
    vertices = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
    faces = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    return vertices, [np.array(faces)]


def _cone() -> Mesh:
    vertices = np.concatenate([np.column_stack([_ring(32), np.full(32, -1.0)]), [[0, 0, 1]]])
    i = np.arange(32)
    return vertices, [np.stack([i, (i + 1) % 32, np.full(32, 32)], 1), i[None, ::-1]]


def _cylinder() -> Mesh:
    ring, i = _ring(32), np.arange(32)
    vertices = np.concatenate([np.column_stack([ring, np.full(32, z)]) for z in (1.0, -1.0)])
    return vertices, [_grid(2, 32, wrap=False), i[None], (32 + i)[None, ::-1]]


def _torus() -> Mesh:
    tube = _ring(12) * _MINOR
    columns = [np.stack([c * (1 + x), s * (1 + x), z]) for c, s in _ring(48) for x, z in tube]
    return np.array(columns), [_grid(48, 12, wrap=True)]


def subdivide(mesh: Mesh, smooth: bool) -> Mesh:
    """Split every face of a closed mesh into quads, in its plane or by Catmull and Clark's rule (1978).

    Args:
        mesh: vertices (V, 3) and groups of faces with the same number of corners.
        smooth: move the vertices by Catmull and Clark's rule.
    """
    vertices, groups = mesh
    corner = np.concatenate([faces.ravel() for faces in groups])
    stops = np.cumsum([faces.size for faces in groups])
    places = [np.arange(stop - f.size, stop).reshape(f.shape) for stop, f in zip(stops, groups, strict=True)]
    previous = np.concatenate([np.roll(place, 1, axis=1).ravel() for place in places])  # corner before, in its face
    following = np.concatenate([np.roll(faces, -1, axis=1).ravel() for faces in groups])
    middle = np.concatenate([vertices[faces].mean(1) for faces in groups])
    sizes = np.concatenate([np.full(len(faces), faces.shape[1]) for faces in groups])
    face = np.repeat(np.arange(len(sizes)), sizes)
    ends = np.sort(np.stack([corner, following], 1), axis=1)
    edges, edge = np.unique(ends, axis=0, return_inverse=True)
    edge = edge.ravel()
    between = vertices[edges].mean(1)

    moved = vertices
    if smooth:
        valence = np.bincount(corner, minlength=len(vertices))[:, None]
        around = _means(corner, middle[face], len(vertices))
        across = _means(edges.ravel(), np.repeat(between, 2, axis=0), len(vertices))
        moved = (around + 2 * across + (valence - 3) * vertices) / valence
        between = (between + _means(edge, middle[face], len(edges))) / 2

    first_middle, first_edge = len(vertices), len(vertices) + len(middle)
    quads = np.stack([corner, first_edge + edge, first_middle + face, first_edge + edge[previous]], 1)
    return np.concatenate([moved, middle, between]), [quads]


def _means(group: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Average rows of values by group: (M,), (M, 3) -> (count, 3)."""
    sums = np.zeros((count, 3))
    np.add.at(sums, group, values)
    return sums / np.bincount(group, minlength=count)[:, None]


@dataclass(frozen=True, eq=False)
class Wires:
    """Edges of every (family, smooth, level): template = family·4 + smooth·2 + level.

    Bodies have radius 1; the height of cones and cylinders is 2 and does not scale with the radius.

    Attributes:
        ends: (E, 6) start and end of every edge.
        keys: (E,) int64 template·2^32 + upper end of the edge's share of 2^32 by length.
        total: (20,) length of all edges, cones and cylinders at their largest radius, others at radius 1.
        tall: (20,) bool, cones and cylinders.
    """

    ends: Tensor
    keys: Tensor
    total: Tensor
    tall: Tensor

    def pick(self, template: Tensor, bits: Tensor) -> Tensor:
        """Choose edges by length: (M,) template, (M,) int32 random bits -> (M,) index into `ends`."""
        wanted = (template << 32) + (bits.to(torch.int64) & 0xFFFFFFFF)
        return torch.searchsorted(self.keys, wanted, right=True)


@cache
def wires(device: torch.device) -> Wires:
    """Tessellate the five bodies, at both schemes and levels, and list their edges."""
    ends: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    total: list[float] = []
    tall: list[bool] = []
    for name, body in zip(FAMILIES, (_sphere(), _cube(), _cone(), _cylinder(), _torus()), strict=True):
        for smooth in (False, True):
            for level in (0, 1):
                mesh = body
                for _ in range(3 if name == "cube" and level else level):  # the cube gets two levels more
                    mesh = subdivide(mesh, smooth)
                vertices, groups = mesh
                pairs = np.concatenate([np.stack([f, np.roll(f, -1, axis=1)], -1).reshape(-1, 2) for f in groups])
                pairs = np.unique(np.sort(pairs, axis=1), axis=0)
                is_tall = name in ("cone", "cylinder")
                size = np.array([LARGEST, LARGEST, 1.0]) if is_tall else np.ones(3)
                length = np.linalg.norm((vertices[pairs[:, 0]] - vertices[pairs[:, 1]]) * size, axis=1)
                share = np.round(np.cumsum(length) / length.sum() * 2**32).astype(np.int64)
                keys.append(share + (len(total) << 32))
                ends.append(vertices[pairs].reshape(-1, 6))
                total.append(float(length.sum()))
                tall.append(is_tall)
    return Wires(
        torch.from_numpy(np.concatenate(ends)).to(torch.float32).to(device),
        torch.from_numpy(np.concatenate(keys)).to(device),
        torch.tensor(total, dtype=torch.float32, device=device),
        torch.tensor(tall, device=device),
    )
