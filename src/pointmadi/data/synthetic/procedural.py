"""The endless procedural corpus: shape i is a pure function of (seed, i), made on the device when it is needed.

The recipe is that of Point-MAE-Zero (Chen and Cheng, arXiv 2411.17467), whose generator goes back to Zeroverse (Xie et
al. 2024) and Xu et al. (2018), rewritten to sample analytic surfaces instead of meshes. docs/synthetic.md lists what
differs.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pointmadi.data.augment import AugmentConfig, augment_batch
from pointmadi.data.clouds import Clouds
from pointmadi.data.synthetic.primitives import MAX_PATCHES, MAX_PRIMITIVES, PATCHES, circle, inside, rotate
from pointmadi.data.synthetic.shapes import ProceduralConfig, Purpose, Shapes, draw
from pointmadi.data.synthetic.streams import Stream, uniform
from pointmadi.data.synthetic.wires import LARGEST, wires
from pointmadi.ops.random import Draws

_ROUNDS = (1.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # candidates per round, of the points wanted
_MOST_ROUNDS = 40
_FIXED = 2.0**20  # means are summed in whole numbers, so that no order of adding shows
_CHUNK = {"cpu": 1 << 17}  # points made at once: what fits the caches
_CHUNK_ELSEWHERE = 1 << 22


def generate(
    index: Tensor,
    seed: int,
    num_points: int,
    device: torch.device | str = "cpu",
    config: ProceduralConfig = ProceduralConfig(),  # noqa: B008  (frozen)
) -> Tensor:
    """Make shapes of the procedural corpus: (B,) int64 -> (B, N, 3) float32, centred, of radius 1.

    The same (seed, index, config) gives the same shape, to the bit, in every batch and process; asking for fewer
    points gives the first ones of it (before it is centred).

    Args:
        index: number of each shape, 0 … 2^63−1.
        seed: of the corpus.
        num_points: points per shape, uniform by area.
        device: where the shapes are made.
        config: the recipe.
    """
    if index.dim() != 1 or index.dtype != torch.int64:
        raise ValueError(f"expected the numbers of shapes as (B,) int64, got {tuple(index.shape)} {index.dtype}")
    if num_points < 1:
        raise ValueError(f"num_points must be at least 1, got {num_points}")
    device = torch.device(device)
    chunk = max(1, _CHUNK.get(device.type, _CHUNK_ELSEWHERE) // num_points)
    if not len(index):
        return torch.empty(0, num_points, 3, device=device)
    with torch.no_grad():
        pieces = [_finish(sample(draw(part, seed, config), num_points)) for part in index.to(device).split(chunk)]
    return torch.cat(pieces)


def _finish(points: Tensor) -> Tensor:
    """Centre at the mean and divide by the largest radius: (B, 3, N) -> (B, N, 3)."""
    total = (points * _FIXED).to(torch.int32).sum(-1, keepdim=True)
    points = points - torch.div(total, points.shape[-1], rounding_mode="floor").to(points.dtype) / _FIXED
    x, y, z = points.unbind(1)
    radius = (x * x + y * y + z * z).amax(-1).sqrt_().clamp_min_(1e-6)
    return (points / radius[:, None, None]).transpose(1, 2).contiguous()


def sample(shapes: Shapes, num_points: int) -> Tensor:
    """Sample points uniform by area on what is left of shapes after their cuts: -> (B, 3, N).

    Candidates are drawn from an envelope of the area and thrown away where the surface is stretched less than the
    envelope says, or gone. The first N that remain are the sample, so it does not matter how many are drawn at once.
    A cut that leaves almost nothing is not made.
    """
    batch, device = len(shapes.index), shapes.index.device
    present = shapes.cut.present
    rows = torch.arange(batch, device=device)
    filled = torch.zeros(batch, dtype=torch.int64, device=device)
    points = torch.empty(batch, 3, num_points, device=device)
    start = 0
    for turn in range(_MOST_ROUNDS):
        if turn == len(_ROUNDS):
            present = present.clone().index_fill_(0, rows, False)
            filled[rows], start = 0, 0
        count = math.ceil(_ROUNDS[min(turn, len(_ROUNDS) - 1)] * num_points)
        found, kept = _candidates(shapes, present, rows, start, count)
        start += count
        rank = kept.cumsum(1) + (filled[rows, None] - 1)
        used = (kept & (rank < num_points)).view(-1).nonzero()[:, 0]
        target = rows.index_select(0, used // count) * (3 * num_points) + rank.view(-1).index_select(0, used)
        for axis in range(3):
            points.view(-1).index_copy_(0, target + axis * num_points, found[axis].index_select(0, used))
        filled[rows] = rank[:, -1] + 1
        rows = rows[filled[rows] < num_points]
        if not len(rows):
            return points
    raise ValueError(f"shape {int(shapes.index[rows[0]])} has almost no surface left; check {shapes.config}")


def _candidates(shapes: Shapes, present: Tensor, rows: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw candidates start … start+count−1 of some shapes: -> (3, R·count) points, (R, count) whether they count."""
    patches, cut, wire = shapes.patches, shapes.cut, shapes.wire
    present = present[rows]
    bits = Stream(shapes.seed, shapes.index[rows], Purpose.POINTS).bits(count, 4, start=4 * start)
    bits = bits.movedim(-1, 0).contiguous()
    which, u, v, accept = uniform(bits).unbind(0)

    # The shell of a cut shape has two sides; the wireframe is one patch more, the last.
    table = wires(rows.device)
    length = table.total[wire.template] * torch.where(table.tall[wire.template], 1.0, wire.size)
    struts = torch.where(wire.present, math.pi * wire.thickness * length, 0.0)[rows]
    area = torch.cat([patches.envelope[rows] * (1 + present[:, None].to(u.dtype)), struts[:, None]], 1).cumsum(1)
    column = torch.searchsorted(area, which * area[:, -1:])
    patch = column.clamp(max=PATCHES - 1) + rows[:, None] * PATCHES

    surface = patches.surface(patch.view(-1), u.view(-1), v.view(-1))
    kept = accept < surface.stretch.view_as(accept)
    # Solidify with offset ½: three quarters of the wall outside the surface, one quarter inside.
    side = (bits[3] & 1).to(u.dtype) - 0.25
    points = surface.world((side * (cut.thickness[rows] * present)[:, None]).view(-1))

    if shapes.config.remove_interior:
        kept &= ~_interior(shapes, rows, points.view(3, len(rows), count), column // MAX_PATCHES)
    holed = present.nonzero()[:, 0]
    if len(holed):
        walls = points.view(3, len(rows), count).index_select(1, holed).transpose(0, 1)
        kept[holed] &= ~cut.select(rows[holed]).contains(walls)
    strut = (column == PATCHES).view(-1).nonzero()[:, 0]
    if len(strut):
        row, at = rows[strut // count], strut % count + start
        place, whole = _struts(shapes, row, at.to(torch.int32), bits[1].view(-1)[strut], v.view(-1)[strut])
        points[:, strut] = place
        kept.view(-1)[strut] = accept.view(-1)[strut] < whole
    return points, kept


def _struts(shapes: Shapes, row: Tensor, at: Tensor, bits: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """Sample wireframes: (L,) rows, candidates, random bits and U[0, 1) -> (3, L) points, (L,) share to keep."""
    wire, table = shapes.wire.select(row), wires(row.device)
    start, end = table.ends[table.pick(wire.template, bits)].T.contiguous().view(2, 3, -1)
    tall = table.tall[wire.template]
    height = torch.where(tall, 1.0, wire.size)
    x, y, z = end - start
    flat = x * x + y * y
    shrunk = (flat * wire.size * wire.size + z * z).sqrt() / (flat * LARGEST**2 + z * z).sqrt()
    spot = start + (end - start) * along
    # A random direction, half a strut long.
    u, v = Stream(shapes.seed, shapes.index[row], Purpose.STRUTS).pair(at)
    cosine, sine = circle(u)
    up = v * 2 - 1
    radius = (1 - up * up).clamp_(min=0).sqrt_()
    jitter = torch.stack([radius * cosine, radius * sine, up]) * (wire.thickness * 0.5)
    local = spot * torch.stack([wire.size, wire.size, height]) + jitter
    place = rotate(wire.rotation, local.T[..., None])[..., 0] + wire.center
    return place.T, torch.where(tall, shrunk, 1.0)


def _interior(shapes: Shapes, rows: Tensor, points: Tensor, owner: Tensor) -> Tensor:
    """Tell which points lie inside a primitive that is not their own: (3, R, M), (R, M) -> (R, M)."""
    points = points.transpose(0, 1)
    found = torch.zeros_like(owner, dtype=torch.bool)
    parts = (shapes.primitive, shapes.axes, shapes.rotation, shapes.translation)
    for k in range(MAX_PRIMITIVES):
        within = inside(points, *(part[rows, k] for part in parts))
        found |= within & shapes.active[rows, k, None] & (owner != k)
    return found


class ProceduralBatches:
    """Endless batches of the procedural corpus, called like `Batches`: no shape comes twice.

    Args:
        batch_size: shapes per step in this process.
        num_points: points per shape.
        seed: of the corpus.
        rank, world: this process, and how many there are.
        device: where shapes are made.
        transform: a function of (points, draws) that returns the points to use.
        epoch_size: shapes that count as one epoch, of all processes; as many as ShapeNet55 has by default.
        config: the recipe.
        augment: random changes of the shapes, done before `transform`.
    """

    def __init__(
        self,
        batch_size: int,
        num_points: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        transform: Callable[[Tensor, Draws], Tensor] | None = None,
        *,
        epoch_size: int = 52_470,
        config: ProceduralConfig = ProceduralConfig(),  # noqa: B008  (frozen)
        augment: AugmentConfig | None = None,
    ) -> None:
        if batch_size < 1 or num_points < 1:
            raise ValueError(f"batch_size and num_points must be at least 1, got {batch_size} and {num_points}")
        if epoch_size < batch_size * world:
            raise ValueError(
                f"an epoch of {epoch_size} shapes is less than one batch of {batch_size * world}; raise epoch_size"
            )
        self.batch_size, self.num_points, self.seed = batch_size, num_points, seed
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.transform, self.config, self.augment = transform, config, augment
        self._steps = epoch_size // (batch_size * world)

    def __len__(self) -> int:
        return self._steps

    def __call__(self, epoch: int, step: int, draws: Draws) -> dict[str, Tensor]:
        """Return {"points": (B, N, 3)} of this process."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an epoch of {len(self)} steps")
        first = ((epoch * len(self) + step) * self.world + self.rank) * self.batch_size
        index = torch.arange(first, first + self.batch_size, device=self.device)
        batch = {"points": generate(index, self.seed, self.num_points, self.device, self.config)}
        if self.augment is not None:
            batch = augment_batch(batch, self.augment, draws)
        if self.transform is not None:
            batch["points"] = self.transform(batch["points"], draws)
        return batch


def corpus(count: int, num_points: int, seed: int = 0, config: ProceduralConfig = ProceduralConfig()) -> Clouds:  # noqa: B008
    """Make the first `count` shapes of the procedural corpus once, for reuse."""
    if count < 1:
        raise ValueError(f"a corpus needs at least 1 shape, got {count}")
    return Clouds.pack(generate(torch.arange(count), seed, num_points, config=config))
