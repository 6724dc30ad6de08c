"""Draw the parameters of procedural shapes, and sample points of them."""

import math
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from enum import IntEnum

import torch
from torch import Tensor

from pointmadi.data.synthetic.primitives import (
    GRID,
    MAX_PATCHES,
    MAX_PRIMITIVES,
    PATCHES,
    Patches,
    euler,
    extents,
    fields,
    lay_out,
    rotate,
)
from pointmadi.data.synthetic.streams import Stream, choose, uniform
from pointmadi.data.synthetic.wires import LARGEST

EDGE = 1.8  # largest edge of the bounding box before cuts
_VERTEX_TRIES = 8  # vertices looked at to find one outside the cutter


class Purpose(IntEnum):
    """What a stream of random numbers is for."""

    COUNT, LAYOUT, FIELDS, HEIGHTS, CUT, WIRE, VERTICES, POINTS, STRUTS = range(9)


@dataclass(frozen=True)
class ProceduralConfig:
    """The recipe of the procedural corpus: unions of bumpy primitives, some cut, some with a wireframe.

    Attributes:
        weights: of 1, 2, … primitives in a shape.
        max_primitives: the most primitives; the weights of more are left out.
        types: weights of ellipsoids, boxes and cylinders.
        smooth: share of patches without a height field.
        cut: share of shapes from which a body is subtracted.
        shell: smallest and largest thickness of the wall that a cut leaves.
        wire: share of shapes with a wireframe beside them.
        strut: smallest and largest thickness of the wireframe's struts.
        body: smallest and largest radius of cutters and wireframes.
        remove_interior: drop points inside another primitive of the shape; the published corpus keeps them.
    """

    weights: tuple[float, ...] = (5, 5, 5, 4, 4, 3, 2, 1, 1)
    max_primitives: int = MAX_PRIMITIVES
    types: tuple[float, float, float] = (1, 1, 1)
    smooth: float = 0.6
    cut: float = 0.4
    shell: tuple[float, float] = (0.01, 0.02)
    wire: float = 0.2
    strut: tuple[float, float] = (0.01, 0.03)
    body: tuple[float, float] = (0.3, LARGEST)
    remove_interior: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_primitives <= MAX_PRIMITIVES:
            raise ValueError(f"max_primitives must be 1 to {MAX_PRIMITIVES}, got {self.max_primitives}")
        if len(self.weights) > MAX_PRIMITIVES:
            raise ValueError(f"weights name up to {MAX_PRIMITIVES} primitives, got {len(self.weights)}")
        if min(self.weights) < 0 or sum(self.weights[: self.max_primitives]) <= 0:
            raise ValueError(f"weights must not be negative, nor all zero, got {self.weights}")
        for name in ("smooth", "cut", "wire"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")
        if not 0 < self.body[0] <= self.body[1] <= LARGEST:
            raise ValueError(f"body must lie in (0, {LARGEST}], got {self.body}")


@dataclass(frozen=True, eq=False)
class Body:
    """A cutter or a wireframe in each shape.

    Attributes:
        present: (B,) bool.
        family: (B,) sphere, cube, cone, cylinder, torus.
        size: (B,) radius.
        rotation, center: (B, 3, 3) and (B, 3).
        thickness: (B,) of the shell or the struts.
        template: (B,) of the wireframe.
    """

    present: Tensor
    family: Tensor
    size: Tensor
    rotation: Tensor
    center: Tensor
    thickness: Tensor
    template: Tensor

    def select(self, rows: Tensor) -> "Body":
        """Return the bodies of some shapes; rows may repeat."""
        return Body(*(getattr(self, part.name)[rows] for part in dataclass_fields(self)))

    def contains(self, points: Tensor) -> Tensor:
        """Tell which points lie inside the bodies: (B, 3, M) -> (B, M), False where there is none."""
        x, y, z = rotate(self.rotation.transpose(1, 2), points - self.center[..., None]).unbind(1)
        size, family = self.size[:, None], self.family[:, None]
        disc = x * x + y * y
        wide = (family == 2).to(z.dtype)
        tall = z.abs() < 1
        slope = size * (1 - (z + 1) * 0.5 * wide)  # radius at this height of cones and cylinders
        ring = disc.sqrt() - size
        found = torch.where(family == 0, disc + z * z < size * size, (disc < slope * slope) & tall)
        box = torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs()) < size
        torus = ring * ring + z * z < (0.3 * size) ** 2
        return torch.where(family == 1, box, torch.where(family == 4, torus, found)) & self.present[:, None]


def _between(values: Tensor, limits: tuple[float, float]) -> Tensor:
    return values * (limits[1] - limits[0]) + limits[0]


@dataclass(frozen=True, eq=False)
class Shapes:
    """The parameters of a batch of shapes: everything but the points.

    Attributes:
        index, seed, config: what the shapes are a function of.
        count: (B,) number of primitives.
        primitive, axes, rotation, translation: (B, 9), (B, 9, 3), (B, 9, 3, 3), (B, 9, 3).
        patches: their surfaces.
        cut, wire: the body taken away and the wireframe added.
    """

    index: Tensor
    seed: int
    config: ProceduralConfig
    count: Tensor
    primitive: Tensor
    axes: Tensor
    rotation: Tensor
    translation: Tensor
    patches: Patches
    cut: Body
    wire: Body

    @property
    def active(self) -> Tensor:
        """Which primitives exist: (B, 9) bool."""
        return _exist(self.count)


def _exist(count: Tensor) -> Tensor:
    return torch.arange(MAX_PRIMITIVES, device=count.device) < count[:, None]


def draw(index: Tensor, seed: int, config: ProceduralConfig) -> Shapes:
    """Draw the parameters of shapes: (B,) int64 -> B shapes."""
    count = choose(Stream(seed, index, Purpose.COUNT).uniform(), config.weights[: config.max_primitives]) + 1
    layout = Stream(seed, index, Purpose.LAYOUT).uniform(MAX_PRIMITIVES, 16)
    active = _exist(count)
    primitive = choose(layout[..., 0], config.types)
    axes = _between(layout[..., 1:4], (0.25, 2.0))
    rotation, translation = _compose(axes, layout[..., 4:], active)

    # Centre the bounding box of the smooth primitives, largest edge EDGE.
    half = extents(primitive, axes, rotation)
    low = torch.where(active[..., None], translation - half, math.inf).amin(1)
    high = torch.where(active[..., None], translation + half, -math.inf).amax(1)
    scale = EDGE / (high - low).amax(-1)
    translation = (translation - ((low + high) * 0.5)[:, None]) * scale[:, None, None]
    axes = axes * scale[:, None, None]

    row, heights = _height_fields(index, seed, config, primitive, axes, active)
    patches = lay_out(primitive, axes, rotation, translation, active, row, heights)

    places = _random_vertices(Stream(seed, index, Purpose.VERTICES), patches)
    cut = _body(Stream(seed, index, Purpose.CUT).uniform(8), places[:, 0], config.cut, config.shell, config.body)
    # The wireframe sits at a vertex that the cutter left: the first of a few that lies outside.
    gone = cut.contains(places[:, 1:].transpose(1, 2)).to(torch.int64)
    first = (gone * _VERTEX_TRIES + torch.arange(_VERTEX_TRIES, device=index.device)).argmin(1) + 1
    place = places.gather(1, first[:, None, None].expand(-1, 1, 3))[:, 0]
    wire = _body(Stream(seed, index, Purpose.WIRE).uniform(8), place, config.wire, config.strut, config.body)
    return Shapes(index, seed, config, count, primitive, axes, rotation, translation, patches, cut, wire)


def _compose(axes: Tensor, draws: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Place primitives: turn and move each, and all before it whenever one joins: -> (B, 9, 3, 3), (B, 9, 3)."""
    largest = axes.amax(-1, keepdim=True)  # half of twice the largest semi-axis
    rotation, joint = euler(draws[..., 0:3] * 0.5), euler(draws[..., 3:6] * 0.5)
    translation, shift = draws[..., 6:9] * largest, draws[..., 9:12] * largest
    identity = torch.eye(3, device=axes.device)
    joint = torch.where(active[..., None, None], joint, identity)
    shift = torch.where(active[..., None], shift, 0.0)
    rotations, translations = [rotation[:, -1]], [translation[:, -1]]
    turn, move = joint[:, -1], shift[:, -1]  # all that happens to a primitive after it joined
    for k in range(MAX_PRIMITIVES - 2, -1, -1):
        rotations.append(rotate(turn, rotation[:, k]))
        translations.append(rotate(turn, translation[:, k, :, None])[..., 0] + move)
        move = rotate(turn, shift[:, k, :, None])[..., 0] + move
        turn = rotate(turn, joint[:, k])
    return torch.stack(rotations[::-1], 1), torch.stack(translations[::-1], 1)


def _height_fields(
    index: Tensor, seed: int, config: ProceduralConfig, primitive: Tensor, axes: Tensor, active: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw height fields of the patches that have one: -> (B, 9, 6) rows of them or −1, (F, 36·36)."""
    draws = Stream(seed, index, Purpose.FIELDS).uniform(MAX_PRIMITIVES, MAX_PATCHES, 2)
    used = torch.tensor([1, 6, 3], device=index.device)[primitive]
    slots = torch.arange(MAX_PATCHES, device=index.device)
    bumpy = (draws[..., 0] >= config.smooth) & active[..., None] & (slots < used[..., None])
    which = bumpy.nonzero()
    row = torch.full(bumpy.shape, -1, device=index.device)
    row[bumpy] = torch.arange(len(which), device=index.device)
    limit = draws[..., 1] * (0.2 * 2) * axes.amin(-1, keepdim=True)
    counter = (which[:, 1] * MAX_PATCHES + which[:, 2])[:, None] * GRID**2
    counter = (counter + torch.arange(GRID**2, device=index.device)).to(torch.int32)
    unit = uniform(Stream(seed, index, Purpose.HEIGHTS).select(which[:, 0]).at(counter)) * 2 - 1
    return row, fields((unit * limit[bumpy][:, None]).view(-1, GRID, GRID))


def _random_vertices(stream: Stream, patches: Patches) -> Tensor:
    """Choose places at random vertices of the meshes: -> (B, 1 + tries, 3)."""
    draws = stream.uniform(1 + _VERTEX_TRIES, 3)
    edges = patches.vertices.cumsum(1)
    patch = torch.searchsorted(edges, draws[..., 0] * edges[:, -1:])
    patch = patch + torch.arange(len(edges), device=edges.device)[:, None] * PATCHES
    u, v = draws[..., 1].reshape(-1), draws[..., 2].reshape(-1)
    points = patches.surface(patch.view(-1), u, v, even=False).world()
    return points.view(3, len(draws), -1).permute(1, 2, 0)


def _body(
    draws: Tensor, center: Tensor, share: float, thickness: tuple[float, float], size: tuple[float, float]
) -> Body:
    """Draw a cutter or wireframe: (B, 8) draws, (B, 3) center."""
    family = choose(draws[:, 1], (1, 1, 1, 1, 1))
    return Body(
        present=draws[:, 0] < share,
        family=family,
        size=_between(draws[:, 2], size),
        rotation=euler(draws[:, 3:6]),
        center=center,
        thickness=_between(draws[:, 6], thickness),
        template=family * 4 + choose(draws[:, 7], (1, 1, 1, 1)),  # plain or smooth, level 0 or 1
    )
