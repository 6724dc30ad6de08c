"""Blocks of rooms: random ones to train on, and overlapping ones that cover a whole room."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pointmadi.data.arrays import Array
from pointmadi.data.augment import AugmentConfig, augment_batch
from pointmadi.data.formats import Up
from pointmadi.data.rooms import Room, Rooms
from pointmadi.ops.random import Draws

SIZE = 1.0  # edge of a block, in metres
STRIDE = 0.5  # between blocks that cover a room
DENSE = 1024  # a random block has more points than this, as released
TRIES = 16  # random centres looked at; the densest block seen is taken where none is dense
SLACK = 1e-9  # of an edge, so that rounding loses no point at a wall
CELL = 0.25  # edge of the cells of an index, in edges of a block


@dataclass(frozen=True, eq=False)
class Ground:
    """Find the points of a room that stand on a rectangle of its floor.

    Args:
        flat: (T, 2) float32, both horizontal coordinates, cell by cell.
        order: (T,) which point of the room each of them is.
        low: (2,) the corner of the cells.
        cell: their edge.
        columns: cells in a row.
        numbers: (C,) the numbers of the cells that hold points, ascending.
        starts: (C + 1,) where the points of each of them begin.
    """

    flat: Array
    order: Array
    low: Array
    cell: float
    columns: int
    numbers: Array
    starts: Array

    @classmethod
    def of(cls, points: Array, up: Up = "z", cell: float = CELL * SIZE) -> "Ground":
        """Sort the points of a room (T, 3) into square cells."""
        flat = points[:, horizontal(up)]
        low = flat.min(axis=0).astype(np.float64)
        at = ((flat - low) // cell).astype(np.int64)
        columns = int(at[:, 0].max()) + 1
        number = at[:, 1] * columns + at[:, 0]
        order = np.argsort(number, kind="stable")
        numbers, starts = np.unique(number[order], return_index=True)
        return cls(flat[order], order, low, cell, columns, numbers, np.append(starts, len(order)))

    def within(self, corner: Array, size: float) -> Array:
        """Return which points lie in the square [corner, corner + size], its edges included: (K,), by cells."""
        first = np.floor((corner - self.low) / self.cell).astype(np.int64)
        last = np.floor((corner + size - self.low) / self.cell).astype(np.int64)
        left, right = max(int(first[0]), 0), min(int(last[0]), self.columns - 1)
        # The cells of a row lie one after the other, so a square is a few ranges of points.
        rows = np.arange(max(int(first[1]), 0), int(last[1]) + 1) * self.columns
        begin = self.starts[np.searchsorted(self.numbers, rows + left)]
        end = self.starts[np.searchsorted(self.numbers, rows + right, side="right")]
        spans = [np.arange(a, b) for a, b in zip(begin, end) if a < b]
        if not spans or left > right:
            return np.zeros(0, np.int64)
        near = np.concatenate(spans)
        flat = self.flat[near]
        return self.order[near[((flat >= corner) & (flat <= corner + size)).all(axis=1)]]


def horizontal(up: Up) -> list[int]:
    """Return the two axes that do not point up."""
    return [axis for axis in range(3) if axis != "xyz".index(up)]


class Blocks:
    """Cut random blocks of rooms: `blocks(epoch, step, draws)` is a dict of tensors, as of `Batches`.

    A block is the column of a square on the floor about a random point of a random room, rooms by their number of
    points. Centres with few points are passed over (`DENSE`, as released), but after `TRIES` of them the densest
    column seen is used, so that a sparse room does not stop the training. Points are chosen without repetition where
    there are enough, with repetition otherwise. The horizontal coordinates are relative to the centre, the height is
    that of the room. Every random number comes from `draws`, so blocks are the same for any number of processes.

    All rooms are kept in memory: about 30 bytes a point.

    Args:
        rooms: labelled rooms.
        batch_size: blocks per step in this process.
        num_points: points per block.
        rank, world: this process, and how many share the batch.
        device: where batches end.
        features: whether the channels of the rooms are given too.
        size: edge of a block, in the unit of the rooms.
        up: the axis that points up.
        epoch_size: blocks of an epoch, of all processes; 0: as many as have all points of the rooms, as released.
        augment: random changes of the blocks.
    """

    def __init__(
        self,
        rooms: Rooms,
        batch_size: int,
        num_points: int = 2048,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        *,
        features: bool = False,
        size: float = SIZE,
        up: Up = "z",
        epoch_size: int = 0,
        augment: AugmentConfig | None = None,
    ) -> None:
        if batch_size < 1 or num_points < 1 or size <= 0:
            raise ValueError(
                f"batch_size, num_points and size must be positive, got {batch_size}, {num_points} and {size:g}"
            )
        if not rooms.classes:
            raise ValueError("these rooms have no classes, so there is nothing to segment")
        if features and not rooms.feature_names:
            raise ValueError("these rooms were packed without features; pack them with some (--features rgb)")
        blocks = epoch_size or max(sum(rooms.sizes) // num_points, batch_size * world)
        if blocks < batch_size * world:
            raise ValueError(f"an epoch of {blocks} blocks is less than one batch of {batch_size * world}")
        self.batch_size, self.num_points, self.size, self.up = batch_size, num_points, size, up
        self.rank, self.world, self.device, self.features = rank, world, torch.device(device), features
        self.augment = augment
        self._steps = blocks // (batch_size * world)
        self._rooms: list[tuple[Room, Ground]] = []
        for number in range(len(rooms)):
            room = rooms[number]
            self._rooms.append((room, Ground.of(room.points.numpy(), up, CELL * size)))
        self._ends = np.cumsum(rooms.sizes)

    def __len__(self) -> int:
        return self._steps

    def __call__(self, epoch: int, step: int, draws: Draws) -> dict[str, Tensor]:
        """Return points (B, N, 3) and part (B, N), −1 unknown, and features (B, N, F) where they are asked for."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an epoch of {len(self)} steps")
        blocks = [self._block(seed) for seed in draws.integers(2**62, self.batch_size).tolist()]
        batch = {key: torch.stack([block[key] for block in blocks]).to(self.device) for key in blocks[0]}
        return batch if self.augment is None else augment_batch(batch, self.augment, draws)

    def _block(self, seed: int) -> dict[str, Tensor]:
        random = np.random.default_rng(seed)
        point = int(random.integers(self._ends[-1]))
        which = int(np.searchsorted(self._ends, point, side="right"))
        room, ground = self._rooms[which]
        best, middle = np.zeros(0, np.int64), np.zeros(2)
        for center in random.integers(len(room.points), size=TRIES):
            place = room.points[int(center)].numpy()[horizontal(self.up)].astype(np.float64)
            found = ground.within(place - self.size / 2, self.size)
            if len(found) > len(best):
                best, middle = found, place
            if len(best) > DENSE:
                break
        chosen = torch.from_numpy(random.choice(best, self.num_points, replace=len(best) < self.num_points))
        assert room.label is not None
        block = {"points": relative(room.points[chosen], middle, self.up), "part": room.label[chosen]}
        if self.features:
            block["features"] = room.features[chosen].float()
        return block


def relative(points: Tensor, center: Array, up: Up) -> Tensor:
    """Move points (…, 3) so that `center` (2,) on the floor is at 0; their height stays."""
    shift = np.zeros(3)
    shift[horizontal(up)] = center
    return (points.double() - torch.from_numpy(shift)).float()


Chunk = tuple[Tensor, Tensor, Tensor]


def cover(
    room: Room,
    batch_size: int,
    num_points: int = 2048,
    *,
    size: float = SIZE,
    stride: float = STRIDE,
    up: Up = "z",
    seed: int = 0,
) -> Iterator[Chunk]:
    """Cut a whole room into overlapping blocks, so that every point is seen at least once.

    Blocks stand on a square grid; the last one of a row ends where the room does. The points of a block are shuffled
    and dealt out in chunks of `num_points`, of which the last is filled up by points of the same block.

    Args:
        room: the room.
        batch_size: chunks that are given at a time; the last time fewer.
        num_points: points of a chunk.
        size: edge of a block.
        stride: between blocks, at most `size`.
        up: the axis that points up.
        seed: of the shuffling.

    Yields:
        points (B, N, 3) as `Blocks` makes them, features (B, N, F), and which point of the room each of them is
        (B, N) int64, −1 for those that fill up.
    """
    if not 0 < stride <= size:
        raise ValueError(f"blocks of {size:g} at a stride of {stride:g} do not cover a room; lower the stride")
    cloud = room.points.numpy()
    ground = Ground.of(cloud, up, CELL * size)
    random = np.random.default_rng(seed)
    waiting: list[Chunk] = []
    # Only squares that hold points are visited: a street is longer than it is full.
    for corner in _corners(ground, size, stride):
        found = ground.within(corner, size * (1 + SLACK))
        random.shuffle(found)
        for start in range(0, len(found), num_points):
            own = found[start : start + num_points]
            rest = num_points - len(own)
            more = random.choice(found, rest, replace=rest > len(found))
            at = torch.from_numpy(np.concatenate([own, more]))
            index = torch.from_numpy(np.concatenate([own, np.full(rest, -1)]))
            waiting.append((relative(room.points[at], corner + size / 2, up), room.features[at].float(), index))
            if len(waiting) == batch_size:
                yield _stacked(waiting)
                waiting = []
    if waiting:
        yield _stacked(waiting)


def _corners(ground: Ground, size: float, stride: float) -> Iterator[Array]:
    """List the corners of the squares of a grid that stand on points."""
    low, span = ground.low, ground.flat.max(axis=0) - ground.low
    last = np.ceil(np.maximum(span - size, 0) / stride).astype(np.int64)
    # Every point asks for the squares whose corner is up to one edge before it.
    steps = int(np.ceil(size / stride))
    home = np.floor((ground.flat - low) / stride).astype(np.int64)
    width = int(home[:, 0].max()) + 1
    number = np.unique(home[:, 1] * width + home[:, 0])
    home = np.stack([number % width, number // width], axis=1)
    shifts = np.stack(np.meshgrid(*[np.arange(-steps, 1)] * 2), axis=-1).reshape(-1, 2)
    wanted = np.unique((home[:, None] + shifts).reshape(-1, 2).clip(0, last), axis=0)
    # A last square that would end beyond the room is moved back to its edge.
    yield from low + np.minimum(wanted * stride, np.maximum(span - size, 0))


def _stacked(chunks: list[Chunk]) -> Chunk:
    points, features, index = zip(*chunks)
    return torch.stack(points), torch.stack(features), torch.stack(index)


class Votes:
    """Add up what blocks say about the points of a room.

    Args:
        count: number of points.
        num_classes: number of classes.
    """

    def __init__(self, count: int, num_classes: int) -> None:
        self.total = torch.zeros(count, num_classes)

    def add(self, index: Tensor, logits: Tensor) -> None:
        """Add logits (B, N, L) to the points they are of, (B, N); those of −1 do not count."""
        index, logits = index.flatten().cpu(), logits.flatten(0, 1).float().cpu()
        known = index >= 0
        self.total.index_add_(0, index[known], logits[known])

    def answer(self) -> Tensor:
        """Return the class of each point with the most votes: (T,)."""
        return self.total.argmax(1)
