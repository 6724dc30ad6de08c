"""Small meshes to build objects from, and points sampled on them by area. y is up; lengths have no unit."""

from functools import cache

import numpy as np

Mesh = tuple[np.ndarray, np.ndarray]  # (V, 3) vertices, (F, 3) triangles

_HEXAHEDRON = np.array([[0, 1, 2, 3], [4, 7, 6, 5], [0, 4, 5, 1], [1, 5, 6, 2], [2, 6, 7, 3], [3, 7, 4, 0]])
_SQUARE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


@cache
def _strip(rows: int, columns: int) -> np.ndarray:
    """List the triangles of a grid of rings: vertices row·columns + column -> (F, 3)."""
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    a, b = r * columns + c, r * columns + (c + 1) % columns
    return np.stack([a, b, b + columns, a, b + columns, a + columns], -1).reshape(-1, 3)


@cache
def _circle(sides: int) -> np.ndarray:
    turn = 2 * np.pi * np.arange(sides) / sides
    return np.stack([np.cos(turn), np.sin(turn)], 1)


def _fan(first: int, count: int, center: int) -> np.ndarray:
    ring = first + np.arange(count)
    return np.stack([ring, np.roll(ring, -1), np.full(count, center)], 1)


def hexahedron(corners: np.ndarray) -> Mesh:
    """Close a body with six sides: (8, 3), four corners around the bottom and the four above them."""
    return np.asarray(corners, dtype=float), _HEXAHEDRON[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)


def box(x: float, y: float, z: float, at: tuple[float, float, float] = (0, 0, 0), taper: float = 1.0) -> Mesh:
    """Make a box of these edges whose bottom is centred at `at`; its top is `taper` times as wide."""
    bottom = np.insert(_SQUARE * [x, z], 1, 0.0, axis=1)
    top = np.insert(_SQUARE * [x * taper, z * taper], 1, y, axis=1)
    return hexahedron(np.concatenate([bottom, top]) + at)


def revolve(profile: np.ndarray | list[tuple[float, float]], sides: int = 24) -> Mesh:
    """Turn a line (P, 2) of (radius, height) about the y axis; it is closed where its radius ends at 0."""
    line, ring = np.asarray(profile, dtype=float), _circle(sides)
    flat = line[:, 0, None, None] * ring
    height = np.broadcast_to(line[:, 1, None], flat.shape[:2])
    vertices = np.stack([flat[..., 0], height, flat[..., 1]], -1).reshape(-1, 3)
    return vertices, _strip(len(line), sides)


def disc(radius: float, thickness: float, at: tuple[float, float, float] = (0, 0, 0), top: float = 1.0) -> Mesh:
    """Make a closed cylinder about the y axis whose bottom is centred at `at`; its top is `top` times as wide."""
    return moved(revolve([(0, 0), (radius, 0), (radius * top, thickness), (0, thickness)]), at)


def ellipsoid(x: float, y: float, z: float, at: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    """Make an ellipsoid of these semi-axes."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 11)
    vertices, faces = revolve(np.stack([np.cos(angle), np.sin(angle)], 1))
    return vertices * [x, y, z] + at, faces


def tube(path: np.ndarray, radius: float | np.ndarray, sides: int = 10, closed: bool = False) -> Mesh:
    """Sweep a circle along a line (P, 3); `radius` may differ from point to point. Ends are capped."""
    path = np.asarray(path, dtype=float)
    if closed:
        path = np.concatenate([path, path[:1]])
    radii = np.broadcast_to(np.asarray(radius, dtype=float), (len(path),))
    ahead = np.gradient(path, axis=0)
    if closed:
        ahead[0] = ahead[-1] = path[1] - path[-2]
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    # The normal of a plane curve does not turn along it, so one helper direction serves the whole path.
    helper = np.cross(path[:-1] - path[0], path[1:] - path[0]).sum(0)
    if np.linalg.norm(helper) < 1e-6 * np.ptp(path, axis=0).max() ** 2:
        helper = np.eye(3)[np.abs(path[-1] - path[0]).argmin()]
    across = np.cross(helper, ahead)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(ahead, across)
    ring = _circle(sides)
    around = ring[None, :, :1] * across[:, None] + ring[None, :, 1:] * other[:, None]
    vertices = (path[:, None] + radii[:, None, None] * around).reshape(-1, 3)
    faces = _strip(len(path), sides)
    if closed:
        return vertices, faces
    count = len(vertices)
    caps = [_fan(0, sides, count), _fan(count - sides, sides, count + 1)]
    return np.concatenate([vertices, path[[0, -1]]]), np.concatenate([faces, *caps])


def rod(start: tuple[float, float, float], end: tuple[float, float, float], radius: float, top: float = 1.0) -> Mesh:
    """Make a straight round bar; its end is `top` times as thick as its start."""
    return tube(np.array([start, end]), np.array([radius, radius * top]), sides=8)


def extrude(outline: np.ndarray, thickness: float) -> Mesh:
    """Thicken an outline (P, 2) in the xy plane along z, about z = 0; it must be seen whole from its middle."""
    outline = np.asarray(outline, dtype=float)
    count = len(outline)
    rings = [np.insert(outline, 2, z, axis=1) for z in (-thickness / 2, thickness / 2)]
    middle = [ring.mean(0, keepdims=True) for ring in rings]
    faces = [_strip(2, count), _fan(0, count, 2 * count), _fan(count, count, 2 * count + 1)]
    return np.concatenate(rings + middle), np.concatenate(faces)


def moved(mesh: Mesh, by: tuple[float, float, float] | np.ndarray) -> Mesh:
    """Translate a mesh."""
    return mesh[0] + np.asarray(by), mesh[1]


def scaled(mesh: Mesh, by: tuple[float, float, float]) -> Mesh:
    """Scale a mesh along the axes; −1 mirrors it."""
    return mesh[0] * np.asarray(by), mesh[1]


def turned(mesh: Mesh, axis: str, degrees: float, about: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    """Rotate a mesh about an axis through a point."""
    return (mesh[0] - about) @ rotation(axis, degrees).T + about, mesh[1]


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Return the matrix that rotates about an axis: (3, 3)."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[[first, first, second, second], [first, second, first, second]] = cosine, -sine, sine, cosine
    return matrix


class Draw:
    """Draw the proportions of one object."""

    def __init__(self, *key: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def between(self, low: float, high: float) -> float:
        """Draw U(low, high)."""
        return float(self.generator.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Draw a yes with this probability."""
        return bool(self.generator.random() < probability)

    def whole(self, low: int, high: int) -> int:
        """Draw one of low, …, high."""
        return int(self.generator.integers(low, high + 1))

    def pick(self, *options: str) -> str:
        """Draw one of the options."""
        return options[int(self.generator.integers(len(options)))]


Parts = list[tuple[str, Mesh]]  # an object: named pieces, of which several may be one part


def sample(parts: Parts, count: int, draw: Draw) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Sample points uniform by area: -> (N, 3) points, names of the parts, (N,) which of them each point is on."""
    names = list(dict.fromkeys(name for name, _ in parts))
    corners = np.concatenate([vertices[faces] for _, (vertices, faces) in parts])
    sizes = [len(faces) for _, (_, faces) in parts]
    owner = np.repeat([names.index(name) for name, _ in parts], sizes)
    a, b, c = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = np.stack([b[:, i - 2] * c[:, i - 1] - b[:, i - 1] * c[:, i - 2] for i in range(3)])
    edges = np.sqrt((normal * normal).sum(0)).cumsum()
    which = np.searchsorted(edges, draw.generator.random(count) * edges[-1])
    u, v = draw.generator.random((2, count, 1))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    return a[which] + b[which] * u + c[which] * v, names, owner[which]
