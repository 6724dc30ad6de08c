"""Blocks of rooms: which points they hold, and that all of a room is seen."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pointmadi.data import blocks as under_test
from pointmadi.data.blocks import DENSE, Blocks, Ground, Votes, cover
from pointmadi.data.clouds import TRAIN
from pointmadi.data.formats import Raw, Reading
from pointmadi.data.listing import Entry, Listing
from pointmadi.data.packing import pack
from pointmadi.data.rooms import Room, Rooms
from pointmadi.ops.random import Draws

SIDES = {"hall": (8.0, 6.0, 30_000), "cell": (2.0, 1.5, 9_000), "sparse": (5.0, 5.0, 200)}


def read_random(entry: Entry) -> Raw:
    """Make a room whose first feature is a class, and the second the height."""
    wide, deep, count = SIDES[entry.name]
    random = np.random.default_rng(count)
    points = random.random((count, 3)) * [wide, deep, 3] + [100, -7, 0.2]
    label = random.integers(-1, 4, count)
    return Raw(points, np.stack([label, points[:, 2]], 1).astype(np.float32), ("a", "b"), part=label)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    folder = tmp_path_factory.mktemp("rooms")
    entries = tuple(Entry(name, Path(__file__), split=TRAIN, group=name) for name in SIDES)
    listing = Listing(folder, entries, read_random, classes=("p", "q", "r", "s"), rooms=True)
    pack(listing, folder / "set", Reading(1, ("a", "b")))
    return Rooms.open(folder / "set")


def draws(step: int, rank: int = 0, world: int = 1) -> Draws:
    return Draws(3, 0, step, rank=rank, world=world)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_squares_hold_what_a_search_of_all_points_finds(up: under_test.Up) -> None:
    random = np.random.default_rng(0)
    points = random.integers(-40, 90, (5000, 3)).astype(np.float32) / 8  # many lie on edges
    ground = Ground.of(points, up, 0.25)
    flat = points[:, [axis for axis in range(3) if axis != "xyz".index(up)]]
    some = 0
    for corner in random.integers(-60, 110, (200, 2)) / 8:
        for size in (1.0, 0.125):
            expected = np.nonzero(((flat >= corner) & (flat <= corner + size)).all(1))[0]
            assert set(ground.within(corner, size)) == set(expected)
            some += len(expected)
    assert some > 1000


def test_blocks_are_columns_about_a_point_and_labels_travel(rooms: Rooms) -> None:
    batch = Blocks(rooms, 24, 512, features=True)(0, 0, draws(0))
    points, part, features = batch["points"], batch["part"], batch["features"]
    assert points.shape == (24, 512, 3) and part.shape == (24, 512) and features.shape == (24, 512, 2)
    assert points.dtype == features.dtype == torch.float32 and part.dtype == torch.int64
    assert points[..., :2].abs().max() <= 0.5 + 1e-4 and points[..., :2].abs().max() > 0.45
    assert torch.equal(features[..., 0].long(), part) and part.min() == -1 and part.max() == 3
    assert (features[..., 1] - points[..., 2]).abs().max() < 2e-3  # float16; heights are those of the room
    # The centre is itself a point of the room; with all points of the column it is found at 0.
    dense = Blocks(rooms.group("cell"), 1, 9000)(0, 0, draws(0))["points"][0]
    assert dense[:, :2].norm(dim=1).min() < 1e-5


def test_blocks_without_features_and_with_another_axis_up(rooms: Rooms) -> None:
    blocks = Blocks(rooms.group("cell"), 4, 256, up="x")
    batch = blocks(0, 0, draws(0))
    assert set(batch) == {"points", "part"}
    assert batch["points"][..., 1:].abs().max() <= 0.5 + 1e-4 and batch["points"][..., 0].min() >= 100


def test_points_repeat_only_where_there_are_too_few(rooms: Rooms) -> None:
    enough = Blocks(rooms.group("cell"), 8, 1000)(0, 0, draws(0))["points"]
    assert all(len(block.unique(dim=0)) == 1000 for block in enough)
    few = Blocks(rooms.group("sparse"), 8, 1000)(0, 0, draws(0))["points"]  # ends although no column is dense
    assert all(1 < len(block.unique(dim=0)) < 40 for block in few)


def test_sparse_columns_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIDES, "mixed", (1, 1, 1))

    def sparse_and_dense(entry: Entry) -> Raw:
        random = np.random.default_rng(1)
        thin, thick = random.random((3000, 3)) * [30, 30, 2], random.random((3000, 3)) * 0.9 + [50, 50, 0]
        return Raw(np.concatenate([thin, thick]), np.zeros((6000, 0), np.float32), part=np.arange(6000) // 3000)

    listing = Listing(tmp_path, (Entry("mixed", Path(__file__)),), sparse_and_dense, classes=("a", "b"), rooms=True)
    pack(listing, tmp_path / "set", Reading(1))
    batch = Blocks(Rooms.open(tmp_path / "set"), 40, 64)(0, 0, draws(0))
    assert (batch["part"] == 1).float().mean() > 0.9  # half of the points, but all of the dense columns


def test_rooms_are_drawn_by_their_points(rooms: Rooms) -> None:
    blocks = Blocks(rooms, 400, 16)
    assert len(blocks) == sum(rooms.sizes) // 16 // 400
    height_free = Blocks(rooms.group("hall", "cell"), 400, 16, features=False)
    batch = height_free(0, 0, draws(0))
    widest = batch["points"].shape[0]
    assert widest == 400
    which = [int(np.searchsorted(height_free._ends, point)) for point in _first_points(height_free)]
    assert abs(np.mean(which) - 9 / 39) < 0.07


def _first_points(blocks: Blocks) -> list[int]:
    seeds = draws(0).integers(2**62, 400).tolist()
    return [int(np.random.default_rng(seed).integers(blocks._ends[-1])) for seed in seeds]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batch_of_one(rooms: Rooms, world: int) -> None:
    whole = Blocks(rooms, 2 * world, 128, features=True)
    expected = whole(0, 1, draws(1))
    parts = [Blocks(rooms, 2, 128, rank, world, features=True)(0, 1, draws(1, rank, world)) for rank in range(world)]
    for key, value in expected.items():
        assert torch.equal(value, torch.cat([part[key] for part in parts]))
    assert not torch.equal(whole(0, 1, draws(1))["points"], whole(0, 2, draws(2))["points"])
    assert len(whole) == len(Blocks(rooms, 2, 128, 0, world))


@pytest.mark.parametrize(("name", "stride"), [("hall", 0.5), ("cell", 1.0), ("sparse", 0.3)])
def test_a_whole_room_is_covered_and_votes_add_up(rooms: Rooms, name: str, stride: float) -> None:
    room = rooms.group(name)[0]
    count = len(room.points)
    seen, votes = np.zeros(count, int), Votes(count, 2)
    for points, features, index in cover(room, 7, 300, stride=stride):
        assert points.shape == (*index.shape, 3) and len(points) <= 7 and points.shape[1] == 300
        assert features.shape == (*index.shape, 2)
        assert points[..., :2].abs().max() <= 0.5 + 1e-4
        known = index >= 0
        assert torch.equal(points[known][:, 2], room.points[index[known]][:, 2])
        assert (features[..., 1] - points[..., 2]).abs().max() < 2e-3  # also of those that fill up
        seen += np.bincount(index[known], minlength=count)
        votes.add(index, points[..., :2] * 0 + torch.tensor([1.0, 2.0]))
    assert seen.min() >= 1
    assert torch.equal(votes.total, torch.from_numpy(seen)[:, None] * torch.tensor([1.0, 2.0]))
    assert (votes.answer() == 1).all()
    # Brute force: the grid of squares, of which the last ones end at the walls.
    flat = room.points.numpy()[:, :2].astype(float)
    low, high = flat.min(0), flat.max(0)
    expected = np.zeros(count, int)
    starts = [_starts(low[axis], high[axis], stride) for axis in (0, 1)]
    for x in starts[0]:
        for y in starts[1]:
            expected += ((flat >= [x, y]) & (flat <= [x + 1, y + 1])).all(1)
    assert (seen != expected).mean() < 1e-3  # float32 edges


def _starts(low: float, high: float, stride: float) -> list[float]:
    starts, at = [], low
    while at + 1 < high:
        starts.append(at)
        at += stride
    return [*starts, max(high - 1, low)]


def test_a_long_empty_street_costs_only_what_it_holds() -> None:
    points = torch.cat([torch.rand(500, 3), torch.rand(500, 3) + torch.tensor([1e5, 1e5, 0])])
    room = Room(points, torch.zeros(1000, 0), None, "far", "", (0.0, 0.0, 0.0))
    start = time.perf_counter()
    index = torch.cat([index.flatten() for _, _, index in cover(room, 4, 256)])
    assert time.perf_counter() - start < 5
    assert set(index[index >= 0].tolist()) == set(range(1000))


def test_errors_say_what_to_do(rooms: Rooms) -> None:
    with pytest.raises(ValueError, match="stride of 2 do not cover a room; lower the stride"):
        next(cover(rooms[0], 1, stride=2.0))
    with pytest.raises(ValueError, match="an epoch of 3 blocks is less than one batch of 4"):
        Blocks(rooms, 4, epoch_size=3)
    with pytest.raises(ValueError, match="must be positive, got 0, 2048 and 1"):
        Blocks(rooms, 0)
    with pytest.raises(IndexError, match="step 2 of an epoch of 2"):
        Blocks(rooms, 4, epoch_size=8)(0, 2, draws(2))
    assert DENSE == 1024
