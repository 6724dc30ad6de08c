"""Sets on disk: what is packed, read again, interrupted, changed; by this machine and by a cluster."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import layout_trees
import numpy as np
import pytest
import torch

from pointmadi.data import shards
from pointmadi.data.batches import Batches
from pointmadi.data.clouds import Clouds
from pointmadi.data.collect import collect, list_folder
from pointmadi.data.formats import Raw, Reading
from pointmadi.data.layouts import LAYOUTS
from pointmadi.data.listing import Entry, Listing
from pointmadi.data.packing import Packed, pack
from pointmadi.data.rooms import Rooms
from pointmadi.data.shards import Shards
from pointmadi.data.sources import open_source
from pointmadi.ops.random import Draws

READING = Reading(32, ("intensity",))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTMADI_CACHE", str(tmp_path / "cache"))


def read_random(entry: Entry) -> Raw:
    """Make what a file would hold from its number; the file is a token of its state."""
    if entry.path.read_text().startswith("bad"):
        raise ValueError(f"{entry.path}: spoilt")
    if entry.path.read_text().startswith("kill"):
        os._exit(1)
    random = np.random.default_rng(int(entry.path.stem) + len(entry.path.read_text()))
    size = 40 + int(entry.path.stem) % 3
    values, part = random.random((size, 1), np.float32), random.integers(0, 3, size)
    return Raw(random.normal(size=(size, 3)), values, ("intensity",), part=part)


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    """List 40 labelled shapes with parts and a split."""
    return list_them(tmp_path / "source", 40)


def list_them(root: Path, count: int) -> Listing:
    root.mkdir(exist_ok=True)
    for i in range(count):
        if not (root / f"{i:03d}.tok").exists():
            (root / f"{i:03d}.tok").write_text("x")
    entries = [Entry(path.stem, path, label=int(path.stem) % 2, split=int(int(path.stem) % 4 == 0),
                     group=f"area {int(path.stem) % 3}") for path in sorted(root.glob("*.tok"))]  # fmt: skip
    names = {"classes": ("even", "odd"), "part_names": ("p", "q", "r"), "part_class": (0, 0, 1)}
    return Listing(root, tuple(entries), read_random, "tokens", has_split=True, **names)  # type: ignore[arg-type]


def shard_names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "shards").iterdir()}


def test_shards_hold_what_clouds_hold(listing: Listing, tmp_path: Path) -> None:
    packed = pack(listing, tmp_path / "set", READING, shard_size=7)
    assert packed == Packed(tmp_path / "set", 40, (), 40) and len(shard_names(packed.folder)) == 6
    disk, memory = Shards.open(packed.folder), collect(listing, READING, cache=False).clouds
    assert isinstance(memory, Clouds) and disk.load().fingerprint() == memory.fingerprint()
    assert len(disk) == 40 and disk.num_points == 32 and disk.names == memory.names and disk.classes == memory.classes
    index = torch.tensor([39, 3, 3, 17])
    for name in ("points", "scale", "center", "features", "part", "label", "split"):
        assert disk.holds(name) and torch.equal(disk.gather(name, index), memory.gather(name, index)), name
    assert torch.equal(disk.xyz(index), memory.xyz(index))
    for some, same in ((disk.train(), memory.train()), (disk.test(), memory.test()), (disk.select([5, 2]),
                       memory.select([5, 2])), (disk.with_features([]), memory.with_features([]))):  # fmt: skip
        assert some.load().fingerprint() == same.fingerprint() and some.fingerprint() != disk.fingerprint()
    assert disk.nbytes == sum(t.nbytes for t in (memory.points, memory.features, memory.part) if t is not None)
    assert isinstance(open_source(packed.folder, 32, split="test"), Shards)
    with pytest.raises(ValueError, match=r"set: this set has no feature curvature; it has: intensity"):
        open_source(packed.folder, 32, features=["curvature"])


@pytest.mark.parametrize("world", [1, 2])
def test_batches_from_disk_and_memory_are_equal_and_ranks_read_their_own_rows(
    listing: Listing, tmp_path: Path, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Shards.open(pack(listing, tmp_path / "set", READING, shard_size=7).folder)
    read: list[int] = []
    real = Shards.gather

    def noting(self: Shards, name: str, index: torch.Tensor) -> torch.Tensor:
        read.append(len(index))
        return real(self, name, index)

    monkeypatch.setattr(Shards, "gather", noting)
    for rank in range(world):
        both = [Batches([s, s], 8 // world, 16, 3, rank, world) for s in (disk, disk.load())]
        read.clear()
        found, expected = (batches(1, 2, Draws(3, 1, 2, rank=rank, world=world)) for batches in both)
        assert set(found) == {"points", "features", "label", "part"} and sum(read) == 4 * 8 // world
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_only_shards_with_changed_new_and_removed_sources_are_made_again(listing: Listing, tmp_path: Path) -> None:
    def again(count: int = 40) -> Packed:
        return pack(list_them(tmp_path / "source", count), tmp_path / "set", READING, shard_size=10)

    again()
    first, stays = Shards.open(tmp_path / "set"), shard_names(tmp_path / "set")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*") if path.name != ".lock"}
    assert again().fresh == 0
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*") if path.name != ".lock"}

    (tmp_path / "source" / "013.tok").write_text("changed")
    (tmp_path / "source" / "025.tok").unlink()
    (tmp_path / "source" / "999.tok").write_text("new")
    kept = list_them(tmp_path / "source", 0)
    assert pack(kept, tmp_path / "set", READING, shard_size=10) == Packed(tmp_path / "set", 40, (), 2)
    now = shard_names(tmp_path / "set")
    assert len(now & stays) == 2 and len(now - stays) == 2  # those of 0 to 9 and 30 to 39 are as they were
    second = Shards.open(tmp_path / "set")
    assert second.names == tuple(entry.name for entry in kept.entries) and second.fingerprint() != first.fingerprint()
    pack(kept, tmp_path / "afresh", READING, shard_size=40)
    assert second.fingerprint() == Shards.open(tmp_path / "afresh").fingerprint()

    relabelled = replace(kept, entries=tuple(replace(entry, label=1) for entry in kept.entries))
    assert pack(relabelled, tmp_path / "set", READING).fresh == 0
    assert Shards.open(tmp_path / "set").label.unique().tolist() == [1]  # type: ignore[union-attr]
    assert pack(kept, tmp_path / "set", replace(READING, scale=2.0), shard_size=10).fresh == 40
    assert len(shard_names(tmp_path / "set")) == 4


@pytest.mark.parametrize("layout", ["scannet", "scannet-votenet", "semantickitti"])
def test_changed_labels_beside_a_room_are_noticed(tmp_path: Path, layout: str) -> None:
    found = layout_trees.listing(tmp_path / "tree", layout)

    def again() -> int:
        return pack(LAYOUTS[layout].list(tmp_path / "tree"), tmp_path / "set", Reading(32)).fresh

    first = again()
    assert first == len(found.entries) and again() == 0
    labels = found.entries[0].labels
    assert labels is not None and labels.exists()
    os.utime(labels, ns=(1, 1))
    assert again() == 1


def test_an_interrupted_run_goes_on_where_it_was(listing: Listing, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(listing, tmp_path / "set", READING, shard_size=5, workers=1, progress=interrupt)
    done = len(shard_names(tmp_path / "set"))
    assert 4 <= done < 8 and not (tmp_path / "set" / "index.json").exists()
    (tmp_path / "set" / "shards" / ".unfinished-x").mkdir()
    assert pack(listing, tmp_path / "set", READING, shard_size=5).fresh == 40 - 5 * done
    pack(listing, tmp_path / "whole", READING)
    assert Shards.open(tmp_path / "set").fingerprint() == Shards.open(tmp_path / "whole").fingerprint()
    assert not list((tmp_path / "set" / "shards").glob(".*"))


def test_a_shard_that_is_damaged_is_made_again(listing: Listing, tmp_path: Path) -> None:
    pack(listing, tmp_path / "set", READING, shard_size=10)
    print_before = Shards.open(tmp_path / "set").fingerprint()
    damaged = sorted((tmp_path / "set" / "shards").iterdir())[1]
    with (damaged / "points.npy").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(ValueError, match=r"points\.npy is damaged: 500 bytes do not hold .*; pack it again"):
        Shards.open(tmp_path / "set").load()
    assert pack(listing, tmp_path / "set", READING, shard_size=10).fresh == 10
    assert Shards.open(tmp_path / "set").load() and Shards.open(tmp_path / "set").fingerprint() == print_before


def test_unreadable_entries_and_those_that_kill_their_reader(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, what in (("007", "bad"), ("021", "kill"), ("022", "kill")):
        (tmp_path / "source" / f"{name}.tok").write_text(what)
    died = "the process that read it died"
    with pytest.raises(ValueError, match=rf"3 of 40 shapes in .*--skip-bad.*\n  007: spoilt\n  021: {died}"):
        pack(listing, tmp_path / "set", READING, workers=2, shard_size=8)
    packed = pack(listing, tmp_path / "set", READING, workers=2, shard_size=8, skip_bad=True)
    assert packed.unreadable == (("007", "spoilt"), ("021", died), ("022", died)) and packed.count == 37
    assert (tmp_path / "set" / "unreadable.txt").read_text().splitlines()[0] == "007\tspoilt"
    names = Shards.open(tmp_path / "set").names
    assert len(set(names)) == 37 and not {"007", "021", "022"} & set(names)
    for name in ("007", "021", "022"):
        (tmp_path / "source" / f"{name}.tok").write_text("x")
    assert pack(listing, tmp_path / "set", READING).fresh == 3 and not (tmp_path / "set" / "unreadable.txt").exists()


def test_shapes_with_points_of_unknown_part_are_named(listing: Listing, tmp_path: Path) -> None:
    for part_names, message in ((("p", "q"), "of no known part: 0 to 1 are known"), (("p",), "of no known part")):
        fewer = replace(listing, part_names=part_names, part_class=(0,) * len(part_names))
        with pytest.raises(ValueError, match=rf"(?s)40 of 40 shapes .*\n  000: \d+ of 32 points are {message}"):
            pack(fewer, tmp_path / "set", READING)


def test_a_folder_of_other_things_is_left_alone(listing: Listing, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source holds other things than a packed set; name a new or an empty folder"):
        pack(listing, tmp_path / "source", READING)
    (tmp_path / "rooms").mkdir()
    pack(replace(listing, rooms=True, classes=("p", "q", "r")), tmp_path / "rooms", READING)
    with pytest.raises(ValueError, match="is a set of rooms, not of shapes"):
        open_source(tmp_path / "rooms", 32)
    with pytest.raises(ValueError, match="holds rooms, not shapes; `pointmadi data pack` makes"):
        collect(replace(listing, rooms=True), READING)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version 99, this program reads 1"),
        ({"shards": ["../../etc"]}, "names files outside of its folder"),
        ({"count": 41}, "its index and its rows differ"),
        ({"rows": 3}, "is no index of a packed set"),
    ],
)
def test_damaged_indices_are_refused(listing: Listing, tmp_path: Path, change: dict[str, object], message: str) -> None:
    pack(listing, tmp_path / "set", READING)
    index = tmp_path / "set" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Shards.open(tmp_path / "set")
    with pytest.raises(ValueError, match=message):  # it is not taken for a folder of files
        open_source(tmp_path / "set", 32)
    index.write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        Shards.open(tmp_path / "set")


def test_maps_never_change_files_and_refuse_objects(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.int16).reshape(2, 3))
    array = shards.map_array(tmp_path / "x.npy")
    array[0, 0] = 9
    assert np.load(tmp_path / "x.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged"):
        shards.map_array(tmp_path / "o.npy")


def test_rooms_of_any_size(listing: Listing, tmp_path: Path) -> None:
    rooms = replace(listing, rooms=True, classes=("p", "q", "r"), part_names=(), part_class=())
    packed = pack(rooms, tmp_path / "set", replace(READING, up="z", scale=2.0), shard_size=16)
    found = Rooms.open(packed.folder)
    assert len(found) == 40 and found.feature_names == ("intensity",) and len(found.test()) == 10
    assert len(found.train()) == 30 and len(found.train().group("area 1", "area 2")) == 20
    for i in (0, 17, 39):
        room, raw = found[i], read_random(rooms.entries[i])
        x, y, z = raw.points.T
        np.testing.assert_allclose(room.points.numpy(), np.stack([x, z, -y], 1) * 2, rtol=1e-6)
        assert room.features.dtype == torch.float16 and room.label is not None and raw.part is not None
        assert room.label.tolist() == raw.part.tolist() and len(room.points) == found.sizes[i]
        assert (room.name, room.group, room.origin) == (f"{i:03d}", f"area {i % 3}", (0, 0, 0))
    assert found.counts().sum() == sum(found.sizes)
    assert found.fingerprint() != found.train().fingerprint()
    assert pack(rooms, tmp_path / "other", replace(READING, up="z", scale=2.0), shard_size=3).count == 40
    assert Rooms.open(tmp_path / "other").fingerprint() == found.fingerprint()
    with pytest.raises(ValueError, match="no room is of area 7; groups are: area 0, area 1, area 2"):
        found.group("area 7")


def far_away(entry: Entry) -> Raw:
    points = np.random.default_rng(0).random((50, 3)) + np.array([691_000.5, 5_334_000.25, 500])
    return Raw(points, np.zeros((50, 0), np.float32), part=np.full(50, -1))


def test_rooms_far_from_zero_keep_their_millimetres(listing: Listing, tmp_path: Path) -> None:
    rooms = replace(listing, rooms=True, read=far_away, entries=listing.entries[:1], has_split=False, part_names=())
    pack(rooms, tmp_path / "set", Reading(1))
    room = Rooms.open(tmp_path / "set").train()[0]
    back = room.points.double().numpy() + np.array(room.origin)
    np.testing.assert_allclose(back, far_away(rooms.entries[0]).points, atol=1e-6)
    assert room.label is not None and room.label.unique().tolist() == [-1]
    with pytest.raises(ValueError, match="no test rooms; choose some by group"):
        Rooms.open(tmp_path / "set").test()


def load_and_print(folder: Path) -> str:
    torch.set_num_threads(1)
    return Shards.open(folder).load().fingerprint()


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_several_processes_share_a_set(listing: Listing, tmp_path: Path) -> None:
    pack(listing, tmp_path / "set", READING, shard_size=9)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        prints = set(pool.map(load_and_print, [tmp_path / "set"] * 4))
    assert prints == {Shards.open(tmp_path / "set").load().fingerprint()}


def test_a_cluster_that_is_not_there(listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no Dask scheduler answers at nonsense"):
        pack(listing, tmp_path / "set", READING, cluster="nonsense")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"pip install 'pointmadi\[cluster\]'"):
        pack(listing, tmp_path / "set", READING, cluster="tcp://127.0.0.1:1")


@pytest.mark.slow
def test_a_cluster_loses_a_worker_and_nothing_else(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    for i in range(120):
        folder = tmp_path / "source" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{i}.npy", np.random.default_rng(i).normal(size=(6000, 3)))
    listing = list_folder(tmp_path / "source", "folders")
    killed: list[int] = []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path)
    ) as cluster, distributed.Client(cluster) as client:  # fmt: skip
        workers = list(client.run(os.getpid).values())

        def kill_one(done: int, total: int) -> None:
            if not killed:
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)

        address = cluster.scheduler_address
        packed = pack(listing, tmp_path / "set", Reading(512), shard_size=6, cluster=address, progress=kill_one)
        after = set(client.run(os.getpid).values())
    assert killed and killed[0] not in after
    assert (packed.count, packed.fresh, packed.unreadable) == (120, 120, ())
    rows = [
        row["stamp"]
        for about in (tmp_path / "set").rglob("about.json")
        for row in json.loads(about.read_text())["rows"]
    ]
    assert len(rows) == len(set(rows)) == 120 and len(shard_names(tmp_path / "set")) == 20
    alone = pack(listing, tmp_path / "alone", Reading(512))
    assert Shards.open(alone.folder).fingerprint() == Shards.open(tmp_path / "set").fingerprint()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is inherited")
def test_workers_end_with_a_parent_that_is_killed_and_free_its_lock(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    script = tmp_path / "killed.py"
    script.write_text(
        "import fcntl, os, signal, sys\n"
        "from pointmadi.data.workers import _pool\n"
        "lock = open(sys.argv[1], 'w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "pool = _pool(2)\n"
        "assert list(pool.map(abs, [-1, -2])) == [1, 2]\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    lock = tmp_path / "lock"
    assert subprocess.run([sys.executable, str(script), str(lock)], timeout=60).returncode == -signal.SIGKILL
    with lock.open("w") as file:
        for _ in range(100):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.1)
    pytest.fail("a worker still holds the lock of its dead parent")
