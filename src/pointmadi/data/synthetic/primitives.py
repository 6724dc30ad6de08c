"""Ellipsoids, boxes and elliptic cylinders with height fields, laid out as tables of patches.

A patch is the image of a unit square: the whole ellipsoid, the side of a cylinder, one of its caps, or one face of a
box. A shape is a table of `PATCHES` patches, so that sampling a batch of shapes means choosing rows of one table.
Everything here uses +, −, ×, ÷ and √ only, whose results do not depend on the batch.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

ELLIPSOID, BOX, CYLINDER = range(3)
SPHERE, SIDE, CAP, FACE = range(4)  # kinds of patch
MAX_PRIMITIVES, MAX_PATCHES = 9, 6
PATCHES = MAX_PRIMITIVES * MAX_PATCHES
GRID = 5  # control heights of a field along each edge
_FINE = 36  # heights of the field itself
_SINE = (3.14159257, -5.16770639, 2.55002317, -0.59799563, 0.07712199)  # odd polynomial for sin(πt), |t| ≤ ½; 4e-9

# Patches of each type in their slots: kind, axis of the normal, side, and the share of the type's mesh vertices.
_SLOTS = {
    ELLIPSOID: [(SPHERE, 2, 1, 1.0)],
    BOX: [(FACE, axis, side, 1 / 6) for axis in range(3) for side in (1, -1)],
    CYLINDER: [(SIDE, 2, 1, 0.5), (CAP, 2, 1, 0.25), (CAP, 2, -1, 0.25)],
}
_VERTICES = {ELLIPSOID: 5000.0, BOX: 15000.0, CYLINDER: 15000.0}


@cache
def _slots(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tabulate the slots of each type: kind (3, 6), columns (3, 6, 3), side (3, 6), vertices (3, 6); empty: −1, 0."""
    kind = torch.full((3, MAX_PATCHES), -1)
    columns = torch.arange(3).expand(3, MAX_PATCHES, 3).clone()
    side, vertices = torch.ones(3, MAX_PATCHES), torch.zeros(3, MAX_PATCHES)
    for primitive, slots in _SLOTS.items():
        for slot, (its_kind, axis, its_side, share) in enumerate(slots):
            kind[primitive, slot] = its_kind
            columns[primitive, slot] = torch.tensor([(axis + 1) % 3, (axis + 2) % 3, axis])
            side[primitive, slot] = its_side
            vertices[primitive, slot] = share * _VERTICES[primitive]
    return kind.to(device), columns.to(device), side.to(device), vertices.to(device)


def circle(turn: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2π·turn for turn in [0, 1), the same bits in every batch and on every device."""
    t = (turn * 2 - 1).abs_().sub_(0.5)
    square = t * t
    cosine = square * _SINE[4]
    for coefficient in _SINE[3:0:-1]:
        cosine.add_(coefficient).mul_(square)
    cosine.add_(_SINE[0]).mul_(t).clamp_(-1, 1)
    sine = (1 - cosine * cosine).sqrt_()
    return cosine, sine.copysign_(0.5 - turn)


def euler(turn: Tensor) -> Tensor:
    """Rotate about x, then y, then z by 2π·turn: (…, 3) -> (…, 3, 3)."""
    cosine, sine = circle(turn)
    cx, cy, cz = cosine.unbind(-1)
    sx, sy, sz = sine.unbind(-1)
    rows = [
        torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], -1),
        torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], -1),
        torch.stack([-sy, cy * sx, cy * cx], -1),
    ]
    return torch.stack(rows, -2)


def rotate(rotation: Tensor, vectors: Tensor) -> Tensor:
    """Multiply by matrices, always adding in the same order: (…, 3, 3), (…, 3, K) -> (…, 3, K)."""
    terms = [rotation[..., :, j, None] * vectors[..., None, j, :] for j in range(3)]
    return terms[0] + terms[1] + terms[2]


@cache
def _upsampling(device: torch.device) -> Tensor:
    """Map control heights to fine heights along one axis: (36, 5).

    Zeros around (7), bicubic to 30, zero at the rim, bilinear to 36. Along the other axis it is the same map.
    """
    padded = torch.eye(GRID + 2)[1:-1, None, :, None].expand(-1, 1, -1, 2)
    middle = torch.nn.functional.interpolate(padded, size=(30, 2), mode="bicubic", align_corners=True).clone()
    middle[:, :, [0, -1]] = 0
    fine = torch.nn.functional.interpolate(middle, size=(_FINE, 2), mode="bilinear", align_corners=True)
    return fine[:, 0, :, 0].T.contiguous().to(device)


def fields(heights: Tensor) -> Tensor:
    """Smooth control heights into height fields: (F, 5, 5) -> (F, 36·36)."""
    weights = _upsampling(heights.device)

    def along(values: Tensor) -> Tensor:  # (5, M) -> (36, M)
        total = weights[:, 0, None] * values[0]
        for i in range(1, GRID):
            total.add_(weights[:, i, None] * values[i])
        return total

    half = along(heights.permute(2, 1, 0).reshape(GRID, -1)).view(_FINE, GRID, -1)
    whole = along(half.transpose(0, 1).reshape(GRID, -1))
    return whole.view(_FINE * _FINE, -1).T.contiguous()


@dataclass(frozen=True, eq=False)
class Patches:
    """The surfaces of a batch of shapes.

    Attributes:
        table: (19, B·54) rotation with the normal's axis last (9), translation (3), semi-axes (3), the factor that
            makes the largest stretch of a patch 1, and whether it is flat, an ellipsoid, a cap (0 or 1 each).
        field: (B·54,) row of `heights`, −1 where the patch is smooth.
        heights: (F·36·36,) height fields.
        envelope: (B, 54) area that a patch would have if it were stretched everywhere as where it is most.
        vertices: (B, 54) number of mesh vertices.
    """

    table: Tensor
    field: Tensor
    heights: Tensor
    envelope: Tensor
    vertices: Tensor

    def surface(self, patch: Tensor, u: Tensor, v: Tensor, even: bool = True) -> "Surface":
        """Map the unit square onto patches: (L,) patches and coordinates -> L points.

        Args:
            patch: columns of the table.
            u: first coordinate in the unit square.
            v: second coordinate.
            even: u, v are for sampling by area; otherwise they follow the lines of the mesh.
        """
        # Products with 0 and 1 instead of `where`, which takes ten times as long on CPUs.
        frame = self.table.index_select(1, patch)
        flat, ball, cap = frame[16:]
        curved = 1 - flat
        cosine, sine = circle(u)
        first, second = u * 2 - 1, v * 2 - 1
        z = second
        if even:
            radius = (1 - z * z).clamp_(min=0).sqrt_()
        else:  # circles of latitude, and rings of the caps
            latitude, radius = circle(v * 0.5)
            z = ball * latitude + (1 - ball) * z
            first = cap * cosine * v + (1 - cap) * first
            second = cap * sine * v + (1 - cap) * second
        radius = (radius * ball).add_(curved - ball)  # 1 on the sides of cylinders, 0 on what is flat
        x = (cosine * radius).add_(first * flat)
        y = (sine * radius).add_(second * flat)
        z = (z * curved).add_(flat)

        normal = (x * curved / frame[12], y * curved / frame[13], z * (flat + ball) / frame[14])
        length = (normal[0] * normal[0]).add_(normal[1] * normal[1]).add_(normal[2] * normal[2]).sqrt_()
        stretch = length * frame[15] * (1 - cap * (x * x + y * y > 1))
        height = self._height(patch, u, x, y, z, flat, ball, cap) / length
        return Surface(frame, (x * frame[12], y * frame[13], z * frame[14]), normal, length, height, stretch)

    def _height(self, patch: Tensor, *wanted: Tensor) -> Tensor:
        """Look up heights: (L,) patches, u, coordinates on the unit primitive, flat, ball, cap -> (L,)."""
        height = torch.zeros_like(wanted[0])
        field = self.field.index_select(0, patch)
        bumpy = (field >= 0).nonzero()[:, 0]
        field = field.index_select(0, bumpy)
        u, x, y, z, flat, ball, cap = (values.index_select(0, bumpy) for values in wanted)
        curved = 1 - flat
        # Flat patches: the unit square. Sides: angle and height. Ellipsoids: twice around, and latitude.
        across = (u * (1 + ball)).frac_() * curved + (x + 1) * 0.5 * flat
        up = (_polar(z * ball) * ball).add_((z + 1) * 0.5 * (curved - ball)).add_((y + 1) * 0.5 * flat)
        across, up = across.mul_(_FINE - 1), up.mul_(_FINE - 1)
        # Candidates beyond the rim of a cap are thrown away, but have to lie in the table.
        i = across.to(torch.int64).clamp_(0, _FINE - 2)
        j = up.to(torch.int64).clamp_(0, _FINE - 2)
        a, b = across - i, up - j
        at = (field * _FINE + i) * _FINE + j
        corner = [self.heights.index_select(0, at + step) for step in (0, 1, _FINE, _FINE + 1)]
        low = corner[0] * (1 - b) + corner[1] * b
        high = corner[2] * (1 - b) + corner[3] * b
        # Caps fade to nothing over the outer three quarters of their radius.
        fade = ((1 - (x * x + y * y).sqrt_()) / 0.75 - 1).clamp_(-1, 0).mul_(cap)
        return height.index_copy_(0, bumpy, (low * (1 - a) + high * a) * (1 - fade * fade))


def _polar(z: Tensor) -> Tensor:
    """Return acos(z)/π within 7e-5 (Abramowitz and Stegun 4.4.45)."""
    a = z.abs()
    angle = (((a * -0.0187293).add_(0.0742610).mul_(a)).sub_(0.2121144).mul_(a)).add_(1.5707288)
    angle = angle * (1 - a).clamp_(min=0).sqrt_() / math.pi
    return (0.5 - angle).copysign_(-z).add_(0.5)  # 1 − angle where z < 0


@dataclass(frozen=True, eq=False)
class Surface:
    """Points on patches, in the frames of their primitives.

    Attributes:
        frame: (19, L) columns of the table.
        point: three (L,) coordinates without height.
        normal: three (L,) outward, of length `length`.
        length: (L,).
        height: (L,) height of the field, in units of `normal`.
        stretch: (L,) area element, 1 where the patch is stretched most.
    """

    frame: Tensor
    point: tuple[Tensor, Tensor, Tensor]
    normal: tuple[Tensor, Tensor, Tensor]
    length: Tensor
    height: Tensor
    stretch: Tensor

    def world(self, lift: Tensor | float = 0.0) -> Tensor:
        """Move the points to their places, lifted along the normal by `lift` (L,): -> (3, L)."""
        height = self.height + lift / self.length
        x, y, z = (p + n * height for p, n in zip(self.point, self.normal, strict=True))
        f = self.frame
        return torch.stack([(f[i] * x).add_(f[i + 1] * y).add_(f[i + 2] * z).add_(f[9 + i // 3]) for i in (0, 3, 6)])


def lay_out(
    primitive: Tensor,
    axes: Tensor,
    rotation: Tensor,
    translation: Tensor,
    active: Tensor,
    field: Tensor,
    heights: Tensor,
) -> Patches:
    """Lay out the patches of primitives.

    Args:
        primitive: (B, 9) type.
        axes: (B, 9, 3) semi-axes.
        rotation: (B, 9, 3, 3).
        translation: (B, 9, 3).
        active: (B, 9) bool, primitives that exist.
        field: (B, 9, 6) row of `heights`, −1 for smooth.
        heights: (F, 36·36).
    """
    kinds, columns, sides, vertices = _slots(axes.device)
    kind = torch.where(active[..., None], kinds[primitive], -1)  # (B, 9, 6)
    order = columns[primitive]  # (B, 9, 6, 3)
    own = axes[:, :, None].expand(-1, -1, MAX_PATCHES, -1).gather(-1, order)
    turned = rotation[:, :, None].expand(-1, -1, MAX_PATCHES, -1, -1)
    turned = turned.gather(-1, order[..., None, :].expand(-1, -1, -1, 3, -1))
    turned = torch.cat([turned[..., :2], turned[..., 2:] * sides[primitive][..., None, None]], -1)
    smallest = torch.where(kind == SPHERE, own.amin(-1), own[..., :2].amin(-1))
    flat = kind >= CAP
    margin = torch.where(flat, own[..., 2], smallest)
    product = own[..., 0] * own[..., 1]
    envelope = torch.where(flat, 4 * product, 4 * math.pi * product * own[..., 2] / smallest)
    place = translation[:, :, None].expand(-1, -1, MAX_PATCHES, -1)
    flags = torch.stack([margin, flat, kind == SPHERE, kind == CAP], -1)
    return Patches(
        table=torch.cat([turned.flatten(-2), place, own, flags], -1).view(-1, 19).T.contiguous(),
        field=field.reshape(-1),
        heights=heights.reshape(-1),
        envelope=torch.where(kind >= 0, envelope, 0.0).flatten(1),
        vertices=torch.where(kind >= 0, vertices[primitive], 0.0).flatten(1),
    )


def extents(primitive: Tensor, axes: Tensor, rotation: Tensor) -> Tensor:
    """Return half the bounding box of smooth primitives about their centres: (…), (…, 3), (…, 3, 3) -> (…, 3)."""
    spread = (rotation * axes[..., None, :]).abs()
    x, y, z = spread.unbind(-1)
    kind = primitive[..., None]
    disc = (x * x + y * y).sqrt()
    ball = (x * x + y * y + z * z).sqrt()
    return torch.where(kind == ELLIPSOID, ball, torch.where(kind == BOX, x + y + z, disc + z))


def inside(points: Tensor, primitive: Tensor, axes: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Tell which points lie inside smooth primitives: (B, 3, M) and (B), (B, 3), (B, 3, 3), (B, 3) -> (B, M)."""
    local = rotate(rotation.transpose(1, 2), points - translation[..., None]) / axes[..., None]
    x, y, z = local.unbind(1)
    kind = primitive[:, None]
    disc = x * x + y * y
    box = torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs()) < 1
    return torch.where(kind == ELLIPSOID, disc + z * z < 1, torch.where(kind == BOX, box, (disc < 1) & (z.abs() < 1)))
