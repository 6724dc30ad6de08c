"""From the word a user gives to cloud sets, and from those to batches."""

import difflib
import hashlib
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pointmadi.data import synthetic
from pointmadi.data.augment import AugmentConfig
from pointmadi.data.batches import Batches
from pointmadi.data.clouds import Clouds
from pointmadi.data.collect import Labels, cache_folder, collect, collect_rooms, keep, list_folder
from pointmadi.data.formats import SUFFIXES, Reading, Up, channels, read_cloud
from pointmadi.data.layouts import LAYOUTS, detect
from pointmadi.data.listing import Listing
from pointmadi.data.packing import Progress
from pointmadi.data.rooms import Rooms
from pointmadi.data.shards import Shards, is_set
from pointmadi.data.synthetic.procedural import ProceduralBatches, corpus

KINDS = (
    "procedural, procedural:COUNT, objects, objects:COUNT, a packed .npz or folder, a mesh or cloud, a folder of them,"
    " or LAYOUT:FOLDER (`pointmadi data list`)"
)
FOLDER = "folder"  # the layout of a folder that has none
OBJECTS = 600  # shapes of `objects` without a count
ROOMS = 24  # rooms of `rooms` without a count

Split = Literal["train", "test", "all"]


@dataclass(frozen=True)
class Endless:
    """Stand for the procedural corpus without end: every step makes new shapes.

    Args:
        seed: of the shapes.
    """

    seed: int = 0


def open_source(
    spec: str | Path,
    num_points: int,
    seed: int = 0,
    split: Split = "train",
    *,
    features: Sequence[str] = (),
    labels: Labels = "none",
    up: Up = "y",
    scale: float = 1.0,
    skip_bad: bool = False,
    progress: Progress | None = None,
    cache: bool = True,
) -> Clouds | Shards | Endless:
    """Open a source of shapes.

    Args:
        spec: `procedural` (endless), `procedural:20000` (that many, made once), `objects` or `objects:600` (labelled
            everyday objects), a packed .npz or folder, a single mesh or cloud, a folder of them, or a published set:
            `modelnet40:/path` (`LAYOUTS`). A folder that looks like a published set is read as that, with a warning;
            `folder:/path` reads its files as they are.
        num_points: points per shape where shapes are made or read from files; a packed set keeps its own.
        seed: of synthetic shapes.
        split: which part of a set that has a split; a set without one is all training shapes.
        features: what to keep beside coordinates: normals, rgb, intensity, or channels of a packed set.
        labels: folders: the sub-folders of a folder are its classes.
        up: the axis that points up in files; shapes are turned so that it is y.
        scale: what coordinates in files are multiplied by.
        skip_bad: leave unreadable files of a folder out, with a warning, instead of stopping.
        progress: called with (files done, files to do) while a folder is read.
        cache: keep what was read or made in `cache_folder()`.

    Raises:
        ValueError, OSError: the source is unknown, cannot be read, or lacks what was asked for.
    """
    spec = str(spec)
    if made := re.fullmatch(r"(procedural|objects)(?::(\d+))?", spec):
        kind, count = made[1], int(made[2]) if made[2] else None
        if count == 0:
            raise ValueError(f"{spec}: give a number of shapes of at least 1")
        if kind == "procedural" and count is None:
            if features or split == "test":
                raise ValueError("procedural shapes have neither features nor a test split")
            return Endless(seed)
        clouds: Clouds | Shards = _made(kind, count or OBJECTS, num_points, seed, cache)
    else:
        clouds = _read(spec, Reading(num_points, tuple(features), up, scale), labels, skip_bad, progress, cache)
    try:
        clouds = clouds.with_features(channels(features))
        return clouds if split == "all" else clouds.train() if split == "train" else clouds.test()
    except ValueError as error:
        raise ValueError(f"{spec}: {error}") from None


def batches_from(
    sources: Sequence[Clouds | Shards | Endless],
    batch_size: int,
    num_points: int,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    *,
    augment: AugmentConfig | None = None,
    epoch_size: int = 52_470,
) -> Batches | ProceduralBatches:
    """Make the object that the trainer calls for a batch.

    Args:
        sources: what `open_source` returned: any number of cloud sets, or the endless corpus alone.
        batch_size: shapes per step in this process.
        num_points: points per shape.
        seed: of the order of the shapes.
        rank: this process, 0 … world−1.
        world: number of processes that share the batch.
        device: where batches are made.
        augment: random changes of the shapes.
        epoch_size: shapes that count as one epoch of the endless corpus; an epoch of stored sets is all their shapes.
    """
    stored = [source for source in sources if not isinstance(source, Endless)]
    endless = [source for source in sources if isinstance(source, Endless)]
    if not endless:
        return Batches(stored, batch_size, num_points, seed, rank, world, device, augment=augment)
    if len(sources) > 1:
        raise ValueError(
            "procedural has no end, so it cannot be mixed with other sources;"
            " give the number of shapes it should contribute, such as procedural:20000"
        )
    shapes = endless[0].seed
    return ProceduralBatches(
        batch_size, num_points, shapes, rank, world, device, epoch_size=epoch_size, augment=augment
    )


def _made(kind: str, count: int, num_points: int, seed: int, cache: bool) -> Clouds:
    """Make synthetic shapes, or find them where they were kept."""
    code = hashlib.blake2b(digest_size=6)  # another generator makes other shapes
    for file in sorted(Path(synthetic.__file__).parent.glob("*.py")):
        code.update(file.read_bytes())
    kept = cache_folder() / "synthetic" / f"{kind}-{count}x{num_points}-seed{seed}-{code.hexdigest()}.npz"
    if cache:
        try:
            return Clouds.read(kept)
        except (OSError, ValueError):  # there is none, or it was damaged: it is made again
            pass
    if kind == "procedural":
        clouds = corpus(count, num_points, seed)
    else:
        from pointmadi.data.synthetic.objects import objects

        clouds = objects(count, num_points, seed)
    if cache:
        keep(kept, clouds)
    return clouds


def list_source(spec: str, labels: Labels = "none") -> Listing:
    """List what lies in a folder, given as FOLDER or LAYOUT:FOLDER, as `open_source` understands it.

    Raises:
        ValueError, OSError: there is no such folder, or it is not laid out as it should be.
    """
    name, root = _named(spec)
    if root.is_file():
        raise NotADirectoryError(f"'{root}' is a file; give the folder it lies in")
    if not root.is_dir():
        raise FileNotFoundError(f"no folder '{root}'{_suggestion(root)}")
    if not name and is_set(root):
        raise ValueError(f"{root} is a packed set already; give the folder that it was made of")
    layout = LAYOUTS[name] if name in LAYOUTS else None if name == FOLDER else detect(root)
    if layout is None:
        return list_folder(root, labels)
    listing = layout.list(root)
    if not name:
        told = f"{root} is read as {layout.title}; folder:{root} reads its files as they are"
        warnings.warn(told, stacklevel=4)
    return listing


def open_rooms(
    spec: str, features: Sequence[str] = (), seed: int = 0, skip_bad: bool = False, progress: Progress | None = None
) -> Rooms:
    """Open rooms of any size, which stay on disk.

    Args:
        spec: `rooms` or `rooms:24` (synthetic), a folder that `data pack` made of rooms, or a published set of rooms.
        features: channels to keep beside coordinates, such as rgb; a packed set has to have been packed with them.
        seed: of synthetic rooms.
        skip_bad: leave unreadable rooms out instead of stopping.
        progress: called with (rooms done, rooms to do) while they are read.

    Raises:
        ValueError, OSError: there are no such rooms, or they lack what was asked for.
    """
    name, path = _named(spec)
    if made := re.fullmatch(r"rooms(?::(\d+))?", spec):
        from pointmadi.data.synthetic.rooms import list_rooms

        listing = list_rooms(int(made[1] or ROOMS), seed)
    elif not name and is_set(path):
        rooms = Rooms.open(path)
        missing = [channel for channel in channels(features) if channel not in rooms.feature_names]
        if missing:
            raise ValueError(f"{spec} was packed without {', '.join(missing)}; pack it again with --features")
        return rooms
    else:
        listing = list_source(spec)
    if not listing.rooms:
        raise ValueError(f"{spec} holds shapes, not rooms; sources of rooms are rooms:24, packed and published ones")
    return collect_rooms(listing, Reading(1, tuple(features)), skip_bad, progress)


def is_folder(spec: str | Path) -> bool:
    """Say whether a source is a folder of files to read, which takes a while."""
    name, path = _named(str(spec))
    return path.is_dir() and (bool(name) or not is_set(path))


def _named(spec: str) -> tuple[str, Path]:
    """Take LAYOUT:FOLDER apart; the name is empty where there is none."""
    name, colon, rest = spec.partition(":")
    known = colon and rest and name in (FOLDER, *LAYOUTS)
    return (name, Path(rest).expanduser()) if known else ("", Path(spec).expanduser())


def _read(
    spec: str, reading: Reading, labels: Labels, skip_bad: bool, progress: Progress | None, cache: bool
) -> Clouds | Shards:
    """Read a packed set, a folder, or a single shape."""
    if not spec:
        raise ValueError(f"an empty name of a source; sources are: {KINDS}")
    name, path = _named(spec)
    if not name and is_set(path):
        return Shards.open(path)
    if name or path.is_dir():
        scan = collect(list_source(spec, labels), reading, skip_bad, progress, cache)
        if scan.unreadable:
            count = len(scan.unreadable)
            warnings.warn(f"{count} files of {spec} are left out; {scan.listing} lists them", stacklevel=3)
        return scan.clouds
    if not path.exists():
        raise FileNotFoundError(f"no file, folder or source '{spec}'{_suggestion(path)}; sources are: {KINDS}")
    if path.suffix.lower() == ".npz" and is_packed(path):
        return Clouds.read(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{spec}: files of this kind are not read; sources are: {KINDS} ({' '.join(SUFFIXES)})")
    return read_cloud(path, reading)


def is_packed(path: str | Path) -> bool:
    """Say whether an .npz is a packed cloud set, as opposed to a single shape."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"points.npy", "scale.npy", "center.npy"} <= set(archive.namelist())
    except zipfile.BadZipFile:
        return False


def _suggestion(path: Path) -> str:
    name, colon, rest = str(path).partition(":")
    if colon and Path(rest).is_dir():
        layouts = difflib.get_close_matches(name, [FOLDER, *LAYOUTS], n=1)
        return f" (did you mean {layouts[0]}:{rest}?)" if layouts else f" ('{name}' is no layout)"
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, [*beside, "procedural", "objects"], n=1)
    return f" (did you mean {path.parent / close[0] if close[0] in beside else close[0]}?)" if close else ""
