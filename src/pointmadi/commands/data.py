"""Say what data are known, what a folder holds and whether it is sound, and pack it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pointmadi.commands._runtime import progress_bar
from pointmadi.data.clouds import TEST, Clouds
from pointmadi.data.collect import Labels, collect
from pointmadi.data.formats import SUFFIXES, Raw, Reading, Up, read_file
from pointmadi.data.layouts import LAYOUTS
from pointmadi.data.listing import Listing, write_credits
from pointmadi.data.packing import Progress, pack
from pointmadi.data.rooms import Rooms
from pointmadi.data.shards import Shards, is_set, read_index
from pointmadi.data.sources import is_folder, is_packed, list_source, open_source

WIDTH = 40  # letters of the longest bar
SHOWN = 12  # bars, problems: the rest is counted
PICTURED = 8  # shapes of a picture


@dataclass(frozen=True)
class List:
    """Say which published sets and which kinds of files are known.

    Attributes:
        name: one of them, such as modelnet40; all if empty.
    """

    name: str = field(default="", metadata={"positional": True})


@dataclass(frozen=True)
class Check:
    """Say what a folder holds, and what is missing, damaged or doubled in it.

    Attributes:
        root: a folder, LAYOUT:FOLDER for a published set, or a packed set.
        labels: folders: the sub-folders of a plain folder are its classes.
        num_points: points of each shape that are compared.
        up: the axis that points up in files.
        leaks: also look for shapes that are there twice, and for test shapes in the training part; takes long.
    """

    root: str = field(metadata={"positional": True})
    labels: Labels = "none"
    num_points: int = 1024
    up: Up = "y"
    leaks: bool = False


@dataclass(frozen=True)
class Info:
    """Describe a file, a folder or a packed set: counts, extents, histograms.

    Attributes:
        what: a mesh, a cloud, a folder, LAYOUT:FOLDER, or a packed set.
        labels: folders: the sub-folders of a plain folder are its classes.
        picture: an image to draw its first shapes into (.png, .pdf, .svg); none if empty.
    """

    what: str = field(metadata={"positional": True})
    labels: Labels = "none"
    picture: str = ""


@dataclass(frozen=True)
class Pack:
    """Turn a folder into a packed set, which opens at once; going on where an earlier attempt stopped.

    Attributes:
        root: a folder of shapes or rooms, or LAYOUT:FOLDER for a published set.
        to: NAME.npz for one file that is kept in memory, any other name for a folder that may be beyond memory.
        num_points: points of each shape; rooms keep all of theirs.
        features: what to keep beside coordinates: normals, rgb, intensity, or the files' own names.
        up: the axis that points up in the files; everything is turned so that it is y.
        scale: what coordinates are multiplied by, such as 0.001 for millimetres.
        labels: folders: the sub-folders of a plain folder are its classes.
        skip_bad: leave unreadable files out, with a list of them, instead of stopping.
        shard_size: shapes of a shard; 0 chooses.
        workers: processes; 0 means all cores.
        cluster: address of a Dask scheduler whose workers do it, such as tcp://head:8786.
    """

    root: str = field(metadata={"positional": True})
    to: str
    num_points: int = 2048
    features: tuple[str, ...] = ()
    up: Up = "y"
    scale: float = 1.0
    labels: Labels = "none"
    skip_bad: bool = False
    shard_size: int = 0
    workers: int = 0
    cluster: str = ""


def run_list(config: List) -> None:
    """Print the published sets and the kinds of files."""
    if config.name and config.name not in LAYOUTS:
        raise ValueError(f"no published set '{config.name}' is known; these are: {', '.join(LAYOUTS)}")
    for name, layout in LAYOUTS.items():
        if config.name in ("", name):
            counts = ", ".join(f"{count} {what}" for what, count in layout.counts.items())
            print(f"{name}: {layout.title}\n  from     {layout.source}\n  licence  {layout.licence}")
            print(f"  size     {layout.size}\n  counts   {counts}\n  files    {layout.tree}")
    if not config.name:
        print(f"files of single shapes: {' '.join(SUFFIXES)}")
        print("a published set is given as NAME:FOLDER, such as modelnet40:/data/modelnet")


def run_check(config: Check) -> None:
    """Print what is there, then every problem; problems are an error in the end."""
    reading = Reading(config.num_points, up=config.up)
    problems: list[str] = []
    if is_folder(config.root):
        listing = list_source(config.root, config.labels)
        print("\n".join(_of_listing(listing)))
        problems += listing.problems
        with progress_bar("reading") as progress:
            clouds = _read(listing, reading, problems, progress)
    else:
        packed = Path(config.root)
        clouds = None if _is_rooms(packed) else _stored(config.root, config.num_points)
        print("\n".join(_of_set(clouds) if clouds else _of_rooms(Rooms.open(packed))))
    notes: list[str] = []
    if clouds is not None:
        from pointmadi.data.quality import Quality, degenerate, report

        found = report(clouds) if config.leaks else None
        defects = found.defects if found else degenerate(clouds.xyz(), clouds.names)
        print("\n".join(found.lines() if found else Quality.tell(defects)))
        if defects:
            notes.append(f"{len(defects)} degenerate shapes")
        if found and found.pairs:
            notes.append(f"{len(found.pairs)} pairs of shapes that are the same, or nearly so")
        if found and found.leaks:
            problems.append(f"{len({pair.b for pair in found.leaks})} test shapes are training shapes as well")
    for problem in problems[:SHOWN]:
        print(f"problem: {problem}")
    if problems:
        raise ValueError(f"{config.root}: {len(problems)} problem{'s' if len(problems) > 1 else ''} found")
    print("nothing is missing or damaged" + (f"; worth a look: {', '.join(notes)}" if notes else ""))


def _read(listing: Listing, reading: Reading, problems: list[str], progress: Progress) -> Clouds | None:
    """Read everything and note what cannot be read; rooms are not kept."""
    if listing.rooms:
        for done, entry in enumerate(listing.entries, start=1):
            try:
                listing.read(entry)
            except (ValueError, OSError) as error:
                problems.append(str(error))
            progress(done, len(listing.entries))
        return None
    scan = collect(listing, reading, skip_bad=True, progress=progress)
    problems += [f"{name}: {reason}" for name, reason in scan.unreadable]
    return scan.clouds.load() if isinstance(scan.clouds, Shards) else scan.clouds


def run_info(config: Info) -> None:
    """Describe, and draw if asked."""
    path = Path(config.what)
    clouds: list[Tensor] = []
    names: Sequence[str] = ()
    if _is_rooms(path):
        rooms = Rooms.open(path)
        said = _of_rooms(rooms)
        clouds, names = [rooms[i].points for i in range(min(PICTURED, len(rooms)))], rooms.names
    elif is_folder(config.what):
        listing = list_source(config.what, config.labels)
        said = _of_listing(listing)
        if config.picture:
            some = listing.entries[:PICTURED]
            clouds, names = [torch.from_numpy(listing.read(entry).points) for entry in some], [e.name for e in some]
    elif path.is_file() and not (path.suffix.lower() == ".npz" and is_packed(path)):
        raw = read_file(path)
        said, clouds, names = _of_file(raw), [torch.from_numpy(raw.points)], [path.name]
    else:
        shapes = _stored(config.what)
        said, clouds, names = _of_set(shapes), list(shapes.xyz(torch.arange(min(PICTURED, len(shapes))))), shapes.names
    print("\n".join(said))
    if config.picture:
        from pointmadi.visualize.figures import Panel, draw_clouds

        panels = [Panel(_thinned(points).float(), caption=Path(name).stem[:16]) for points, name in zip(clouds, names)]
        print(f"made {draw_clouds(panels, config.picture)}")


def run_pack(config: Pack) -> None:
    """List, pack, and say what was made."""
    reading = Reading(config.num_points, config.features, config.up, config.scale)
    listing = list_source(config.root, config.labels)
    for problem in listing.problems[:SHOWN]:
        print(f"note: {problem}")
    if config.to.endswith(".npz"):
        if config.cluster or config.shard_size or config.workers:
            raise ValueError(f"{config.to} has no shards; --cluster, --workers and --shard-size want --to a folder")
        with progress_bar("reading") as progress:
            scan = collect(listing, reading, config.skip_bad, progress)
        clouds = scan.clouds.load() if isinstance(scan.clouds, Shards) else scan.clouds
        clouds.write(config.to)
        count, fresh, left_out, listed = len(clouds), "", scan.unreadable, scan.listing
    else:
        with progress_bar("packing") as progress:
            packed = pack(
                listing,
                config.to,
                reading,
                skip_bad=config.skip_bad,
                shard_size=config.shard_size,
                progress=progress,
                workers=config.workers,
                cluster=config.cluster,
            )
        count, left_out, listed = packed.count, packed.unreadable, packed.folder / "unreadable.txt"
        fresh = f", {packed.fresh} of them read now"
    if listing.credits:
        target = Path(config.to)
        credited = target.with_suffix(".credits.csv") if target.suffix == ".npz" else target / "credits.csv"
        write_credits(listing, credited)
        print(f"made {credited}: who made each shape and under which licence; pass it on with the set")
    if left_out:
        print(f"{len(left_out)} are left out; {listed} lists them")
    print(f"made {config.to}: {count} {'rooms' if listing.rooms else 'shapes'}{fresh}")


COMMANDS = {"list": (List, run_list), "check": (Check, run_check), "info": (Info, run_info), "pack": (Pack, run_pack)}


def _is_rooms(path: Path) -> bool:
    return is_set(path) and read_index(path)["kind"] == "rooms"


def _stored(spec: str, num_points: int = 2048) -> Clouds:
    source = open_source(spec, num_points, split="all")
    if isinstance(source, Shards):
        source = source.load()
    if not isinstance(source, Clouds):
        raise ValueError(f"{spec} has no end; give a number of shapes, such as procedural:100")
    return source


def _of_listing(listing: Listing) -> Iterator[str]:
    kind = "rooms" if listing.rooms else "shapes"
    yield f"{listing.root}: {listing.layout}, {len(listing.entries)} {kind}"
    if listing.has_split:
        test = sum(entry.split == TEST for entry in listing.entries)
        yield f"split: {len(listing.entries) - test} train, {test} test"
    if listing.part_names:
        yield f"parts: {len(listing.part_names)}"
    if listing.rooms:
        yield from bars("rooms of each group", _count([entry.group for entry in listing.entries]))
    elif listing.classes:
        label = [listing.classes[entry.label] for entry in listing.entries if entry.label >= 0]
        yield from bars(f"shapes of each of {len(listing.classes)} classes", _count(label))
    else:
        yield from bars("files of each kind", _count([entry.path.suffix.lower() for entry in listing.entries]))


def _of_set(clouds: Clouds) -> Iterator[str]:
    yield f"{len(clouds)} shapes of {clouds.num_points} points, fingerprint {clouds.fingerprint()}"
    yield f"features: {', '.join(clouds.feature_names) or 'none'}"
    radius = clouds.scale
    yield f"radius of the shapes: {radius.min():.4g} to {radius.max():.4g}, median {radius.median():.4g}"
    if clouds.split is not None:
        test = int((clouds.split == TEST).sum())
        yield f"split: {len(clouds) - test} train, {test} test"
    if clouds.label is not None:
        label = [clouds.classes[i] for i in clouds.label.tolist() if i >= 0]
        yield from bars(f"shapes of each of {len(clouds.classes)} classes", _count(label))
    if clouds.part is not None:
        count = torch.bincount(clouds.part.flatten().long(), minlength=len(clouds.part_names)).tolist()
        yield from bars("points of each part", dict(zip(clouds.part_names, count)))


def _of_rooms(rooms: Rooms) -> Iterator[str]:
    sizes = sorted(rooms.sizes)
    yield f"{len(rooms)} rooms of {sizes[0]} to {sizes[-1]} points, {sum(sizes)} in all"
    yield f"fingerprint {rooms.fingerprint()}"
    yield f"features: {', '.join(rooms.feature_names) or 'none'}"
    yield from bars("rooms of each group", _count(rooms.groups))
    if rooms.classes:
        yield from bars("points of each class", dict(zip(rooms.classes, rooms.counts().tolist())))


def _of_file(raw: Raw) -> Iterator[str]:
    faces = "" if raw.faces is None else f", {len(raw.faces)} faces"
    low, high = raw.points.min(axis=0), raw.points.max(axis=0)
    yield f"{len(raw.points)} {'points' if raw.faces is None else 'vertices'}{faces}"
    for axis, a, b in zip("xyz", low, high):
        yield f"  {axis}: {a:.6g} to {b:.6g}, extent {b - a:.6g}"
    for name, values in zip(raw.feature_names, raw.features.T):
        yield f"  {name}: {values.min():.6g} to {values.max():.6g}"
    if raw.part is not None:
        yield from bars("points of each class", _count([str(part) for part in raw.part.tolist()]))
    count, edges = np.histogram(raw.points[:, 1], bins=8)
    spans = [f"{a:.4g} … {b:.4g}" for a, b in pairwise(edges)]
    yield from bars("points by height (y)", dict(zip(spans, count.tolist())), largest_first=False)


def _count(values: Sequence[str]) -> dict[str, int]:
    names, count = np.unique(np.array(values, dtype=str), return_counts=True)
    return dict(zip(names.tolist(), count.tolist()))


def bars(title: str, counts: Mapping[str, int], largest_first: bool = True) -> Iterator[str]:
    """Draw counts as bars of text under a title, one a line."""
    yield f"{title}:"
    order = sorted(counts, key=lambda name: -counts[name]) if largest_first else list(counts)
    wide, most = max((len(name) for name in order[:SHOWN]), default=0), max([1, *counts.values()])
    for name in order[:SHOWN]:
        yield f"  {name or '(none)':<{wide}} {counts[name]:>9} {'█' * round(WIDTH * counts[name] / most)}".rstrip()
    if len(order) > SHOWN:
        yield f"  … and {len(order) - SHOWN} more, {sum(counts[name] for name in order[SHOWN:])} in all"


def _thinned(points: Tensor) -> Tensor:
    """Return at most 4096 points, evenly along their order, about their mean and within the unit ball."""
    points = points[:: max(1, len(points) // 4096)].double()
    points = points - points.mean(0)
    return points / points.norm(dim=1).max().clamp_min(1e-12)
