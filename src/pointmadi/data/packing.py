"""A listing -> a set on disk, by all cores or a cluster; what was done before, in part or for other files, is kept."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointmadi.data.clouds import Clouds, write_atomically
from pointmadi.data.formats import Raw, Reading, channels, orient, resample
from pointmadi.data.listing import Entry, Listing
from pointmadi.data.shards import INDEX, SHARDS, VERSION, Array, Column, map_array, read_index
from pointmadi.data.workers import cores, run_all

READERS = 2  # of how files are turned into arrays: what other versions packed is packed again
FEW = 16  # entries that are not worth starting a process
LARGEST_SHARD = 64 * 2**20  # bytes of shapes in a shard, where its size is not given
ROOMS_OF_SHARD = 16
SHOWN = 5  # unreadable entries that an error names
FAR = 1e4  # coordinates beyond it would lose millimetres in float32
ABOUT = "about.json"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Args:
        folder: the set.
        count: its shapes or rooms.
        unreadable: (name, reason) of the entries that were left out.
        fresh: how many entries were read now, and not found where they had been packed before.
    """

    folder: Path
    count: int
    unreadable: tuple[tuple[str, str], ...] = ()
    fresh: int = 0


@dataclass(frozen=True)
class _Job:
    """One shard to make, of some entries of a listing, which may lie in older shards already (folder, row)."""

    folder: Path
    settings: str
    listing: Listing  # without entries
    reading: Reading
    entries: tuple[Entry, ...]
    stamps: tuple[str, ...]
    older: tuple[tuple[Path, int] | None, ...]


def pack(
    listing: Listing,
    to: str | Path,
    reading: Reading,
    *,
    skip_bad: bool = False,
    shard_size: int = 0,
    progress: Progress | None = None,
    workers: int = 0,
    cluster: str = "",
) -> Packed:
    """Pack what a folder holds as a set on disk, which `Shards.open` or `Rooms.open` opens.

    Each shard appears at once and whole, under a name that follows from its sources, so nothing is lost or doubled by
    workers that die and runs that are interrupted. Shards whose sources have not changed (name, size, time of change)
    stay as they are; of others, what has not changed is copied.

    Args:
        listing: what to pack.
        to: folder of the set; made, or brought up to date.
        reading: how files become clouds; of rooms, `num_points` is not used, since they keep all points.
        skip_bad: leave unreadable entries out and list them in unreadable.txt, instead of stopping.
        shard_size: shapes or rooms of a shard; 0 chooses.
        progress: called with (entries done, entries to do).
        workers: processes; 0 means all cores.
        cluster: address of a Dask scheduler whose workers do it; they need the same files at the same paths.

    Raises:
        ValueError: nothing is readable, something is not and `skip_bad` is off, or the folder holds something else.
        OSError: the folder cannot be written.
    """
    if workers < 0 or shard_size < 0:
        raise ValueError(f"workers and shard_size are at least 0 (0 chooses), got {workers} and {shard_size}")
    folder = Path(to)
    if folder.exists() and not (folder / SHARDS).is_dir() and any(p.name != ".lock" for p in folder.iterdir()):
        raise ValueError(f"{folder} holds other things than a packed set; name a new or an empty folder")
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        settings = _settings(listing, reading)
        stamps = dict(zip(_stamps(listing.entries), listing.entries))
        older = _find_rows(sorted((folder / SHARDS).glob("[!.]*")), settings, stamps)
        todo = [stamp for stamp in stamps if stamp not in older or not older[stamp][2]]
        fresh = sum(stamp not in older for stamp in todo)
        workers = min(workers or cores(), max(fresh // FEW, 1))
        if not shard_size:
            low, high = (1, ROOMS_OF_SHARD) if listing.rooms else (FEW, LARGEST_SHARD // (8 * reading.num_points))
            shard_size = max(1, min(max(low, -(-len(todo) // (4 * workers))), high))
        rest = replace(listing, entries=(), problems=())
        jobs = []
        for first in range(0, len(todo), shard_size):
            some = todo[first : first + shard_size]
            places = [older[stamp][:2] if stamp in older else None for stamp in some]
            entries = tuple(stamps[stamp] for stamp in some)
            jobs.append(_Job(folder / SHARDS, settings, rest, reading, entries, tuple(some), tuple(places)))
        wanted = {shard.name for shard, _, whole in older.values() if whole}
        bad: dict[str, str] = {}
        done = 0
        # Where there are few, this process reads them; it would not survive a file that kills its reader.
        for count, made, found in run_all(_work, jobs, workers if len(listing.entries) >= FEW else 0, cluster):
            bad |= found
            wanted |= {made} - {""}
            done += count
            if progress:
                progress(done, len(todo))
        unreadable = tuple((entry.name, bad[entry.name]) for entry in listing.entries if entry.name in bad)
        if len(unreadable) == len(listing.entries) or (unreadable and not skip_bad):
            raise ValueError(_complaint(listing, unreadable))
        if jobs or not _is_current(folder, listing):
            _write_index(folder, listing, reading, settings, stamps, wanted)
        _list_unreadable(folder / "unreadable.txt", unreadable)
        return Packed(folder, len(listing.entries) - len(unreadable), unreadable, fresh - len(unreadable))


def _complaint(listing: Listing, unreadable: Sequence[tuple[str, str]]) -> str:
    first = "".join(f"\n  {name}: {reason}" for name, reason in unreadable[:SHOWN])
    more = f"\n  … and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
    kind = "rooms" if listing.rooms else "files" if listing.layout == "folder" else "shapes"
    what = f"{len(unreadable)} of {len(listing.entries)} {kind} in {listing.root} cannot be read"
    return f"{what}; repair them, or leave them out by skip_bad (--skip-bad):{first}{more}"


def _list_unreadable(path: Path, unreadable: Sequence[tuple[str, str]]) -> None:
    lines = "".join(f"{name}\t{reason}\n" for name, reason in unreadable).encode()
    if lines:
        write_atomically(path, lambda file: file.write(lines))
    elif path.exists():
        path.unlink()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Wait until no other process packs into this folder, where the system knows such locks."""
    try:
        import fcntl

        file = (folder / ".lock").open("w")
    except (ImportError, OSError):  # Windows, or a folder that may only be read, where there is nothing to do
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _settings(listing: Listing, reading: Reading) -> str:
    """Name everything but the sources that packed arrays depend on."""
    how = (channels(reading.features), reading.up, reading.scale)
    what = ("rooms", len(listing.classes)) if listing.rooms else (reading.num_points, len(listing.part_names))
    return f"{READERS} {listing.read.__module__}.{listing.read.__qualname__} {what} {how}"


def _stamps(entries: Sequence[Entry]) -> Iterator[str]:
    """Name entries and the state of their files: another size or time of change is another stamp."""
    states: dict[Path | None, str] = {None: ""}
    for entry in entries:
        for path in (entry.path, entry.labels):
            if path and path not in states:
                states[path] = _state(path)
        yield f"{states[entry.path]} {states[entry.labels]} {entry.row} {entry.name}"


def _state(path: Path) -> str:
    try:
        state = path.stat()
        if not path.is_dir():
            return f"{state.st_size} {state.st_mtime_ns}"
        below = sorted(file for file in path.rglob("*") if file.is_file())
    except OSError:  # a link to nowhere: reading it will say so
        return "- -"
    return _short(f"{file.relative_to(path)} {_state(file)}" for file in below)


def _short(texts: Sequence[str] | Iterator[str]) -> str:
    return hashlib.blake2b("\n".join(texts).encode(errors="backslashreplace"), digest_size=12).hexdigest()


def _find_rows(
    shards: Iterable[Path], settings: str, stamps: dict[str, Entry] | None = None
) -> dict[str, tuple[Path, int, bool]]:
    """Find what is packed already: stamp -> shard, row, whether everything in that shard is still wanted."""
    found: dict[str, tuple[Path, int, bool]] = {}
    for shard in shards:
        try:
            about = json.loads((shard / ABOUT).read_text(encoding="utf-8"))
            if about["settings"] != settings:
                continue
            for file in about["files"]:
                map_array(shard / file)
            names = [str(row["stamp"]) for row in about["rows"]]
        except (OSError, ValueError, KeyError, TypeError):  # damaged: it is made again
            continue
        whole = stamps is None or all(name in stamps and name not in found for name in names)
        found |= {name: (shard, row, whole) for row, name in enumerate(names) if name not in found}
    return found


def _is_current(folder: Path, listing: Listing) -> bool:
    """Say whether the index describes this listing; its shards are known to."""
    try:
        return bool(read_index(folder).get("listing") == _describe(listing))
    except (ValueError, OSError):  # there is none, or it is damaged: it is made again
        return False


def _describe(listing: Listing) -> str:
    rows = (f"{entry.name} {entry.label} {entry.split} {entry.group}" for entry in listing.entries)
    about = (listing.layout, listing.classes, listing.part_names, listing.part_class, listing.has_split)
    return _short([repr(about), *rows])


def _write_index(
    folder: Path, listing: Listing, reading: Reading, settings: str, stamps: dict[str, Entry], wanted: set[str]
) -> None:
    """Write the index of the wanted shards, and remove what it does not name."""
    places = _find_rows([folder / SHARDS / name for name in wanted], settings)
    known = {stamp: entry for stamp, entry in stamps.items() if stamp in places}
    shards = sorted({places[stamp][0].name for stamp in known})
    number = {name: at for at, name in enumerate(shards)}
    within = {name: json.loads((folder / SHARDS / name / ABOUT).read_text(encoding="utf-8"))["rows"] for name in shards}
    at = [within[places[stamp][0].name][places[stamp][1]] for stamp in known]
    rows: dict[str, Array] = {
        "names": np.array([entry.name for entry in known.values()]),
        "shard": np.array([number[places[stamp][0].name] for stamp in known], np.int32),
        "start": np.array([row["start"] for row in at], np.int64),
        "digest": np.array([row["digest"] for row in at]),
    }
    if listing.rooms:
        rows["size"] = np.array([row["size"] for row in at], np.int64)
        rows["origin"] = np.array([row["origin"] for row in at], np.float64)
        rows["group"] = np.array([entry.group for entry in known.values()])
    elif listing.classes:
        rows["label"] = np.array([entry.label for entry in known.values()], np.int64)
    if listing.has_split:
        rows["split"] = np.array([entry.split for entry in known.values()], np.uint8)
    content = _short([settings, _describe(listing), *shards, *known])
    about: dict[str, Any] = {
        "version": VERSION,
        "kind": "rooms" if listing.rooms else "shapes",
        "count": len(known),
        "num_points": 0 if listing.rooms else reading.num_points,
        "feature_names": list(channels(reading.features)),
        "classes": list(listing.classes),
        "part_names": list(listing.part_names),
        "part_class": list(listing.part_class),
        "layout": listing.layout,
        "listing": _describe(listing),
        "rows": f"rows-{content}.npz",
        "shards": shards,
    }
    write_atomically(folder / about["rows"], lambda file: np.savez(file, **rows))  # type: ignore[arg-type]
    text = json.dumps(about, indent=1, ensure_ascii=False).encode()
    write_atomically(folder / INDEX, lambda file: file.write(text))
    for path in folder.glob("rows-*.npz"):
        if path.name != about["rows"]:
            path.unlink()
    for path in (folder / SHARDS).iterdir():
        if path.name not in number:
            shutil.rmtree(path, ignore_errors=True)


def _work(job: _Job, left_out: tuple[int, ...], marker: Path | None) -> tuple[int, str, dict[str, str]]:
    """Make a shard; return the number of its entries, its name, and what is wrong with those that cannot be read."""
    name = ""
    bad: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    columns: dict[str, Column] = {}
    convert = _room if job.listing.rooms else _shape
    draft = Path(tempfile.mkdtemp(dir=job.folder, prefix=".unfinished-"))
    try:
        for item, (entry, stamp, older) in enumerate(zip(job.entries, job.stamps, job.older)):
            if item in left_out:
                bad[entry.name] = "the process that read it died"
                continue
            if marker:
                marker.write_text(str(item))
            try:
                arrays, about = (_copy(*older) if older else None) or convert(job, entry)
            except (ValueError, OSError) as error:
                bad[entry.name] = str(error).removeprefix(f"{entry.path}: ")
                continue
            except MemoryError:
                bad[entry.name] = "larger than the memory"
                continue
            about["digest"] = _digest(arrays)
            about["size"] = len(arrays["points"])
            about["start"] = columns["points"].count if columns else 0
            for field, array in arrays.items():
                if field not in columns:
                    columns[field] = Column(draft / f"{field}.npy", array)
                columns[field].append(array)
            rows.append({"stamp": stamp, **about})
        for column in columns.values():
            column.close()
        if rows:
            files = [f"{field}.npy" for field in columns]
            text = json.dumps({"settings": job.settings, "files": files, "rows": rows}, ensure_ascii=False).encode()
            write_atomically(draft / ABOUT, lambda file: file.write(text))
            name = _short([job.settings, *(row["stamp"] for row in rows)])
            _put(draft, job.folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return len(job.entries), name, bad


def _put(draft: Path, place: Path) -> None:
    """Give a finished shard its name, unless another worker has made it meanwhile; a damaged one is replaced."""
    try:
        os.rename(draft, place)
    except OSError:
        settings = json.loads((draft / ABOUT).read_text(encoding="utf-8"))["settings"]
        if _find_rows([place], settings):
            return
        shutil.rmtree(place, ignore_errors=True)
        os.rename(draft, place)


def _copy(shard: Path, row: int) -> tuple[dict[str, Array], dict[str, Any]] | None:
    """Take an entry out of an older shard; None where that is gone by now."""
    try:
        about = json.loads((shard / ABOUT).read_text(encoding="utf-8"))
        place = about["rows"][row]
        span = slice(place["start"], place["start"] + place["size"])
        return {file.removesuffix(".npy"): map_array(shard / file)[span] for file in about["files"]}, dict(place)
    except (OSError, ValueError):
        return None


def _digest(arrays: dict[str, Array]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _shape(job: _Job, entry: Entry) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read a shape as rows of the fields of `Clouds`."""
    cloud = resample(job.listing.read(entry), job.reading)
    one = Clouds.pack(torch.from_numpy(cloud.points)[None])
    arrays: dict[str, Array] = {"points": one.points.numpy(), "scale": one.scale.numpy(), "center": one.center.numpy()}
    if job.reading.features:
        arrays["features"] = cloud.features[None].astype(np.float16)
    if job.listing.part_names:
        arrays["part"] = _checked(cloud.part, "part", 0, len(job.listing.part_names))[None].astype(np.uint8)
    return arrays, {}


def _room(job: _Job, entry: Entry) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read a room as arrays of all its points; of a mesh, of its vertices."""
    raw: Raw = orient(job.listing.read(entry), job.reading)
    names = channels(job.reading.features)
    missing = [name for name in names if name not in raw.feature_names]
    if missing:
        has = ", ".join(raw.feature_names) or "coordinates only"
        raise ValueError(f"has no {', '.join(missing)}; it has: {has}")
    far = np.abs(raw.points).max() > FAR
    origin = np.floor(raw.points.min(axis=0)) if far else np.zeros(3)
    chosen = raw.features[:, [raw.feature_names.index(name) for name in names]]
    arrays: dict[str, Array] = {
        "points": (raw.points - origin).astype(np.float32),
        "features": chosen.astype(np.float16),
    }
    if job.listing.classes:
        arrays["label"] = _checked(raw.part, "class", -1, len(job.listing.classes)).astype(np.int16)
    return arrays, {"origin": origin.tolist()}


def _checked(part: Array | None, called: str, low: int, high: int) -> Array:
    if part is None:
        raise ValueError(f"it does not say which {called} its points are of")
    wrong = int(((part < low) | (part >= high)).sum())
    if wrong:
        raise ValueError(f"{wrong} of {len(part)} points are of no known {called}: {low} to {high - 1} are known")
    return part
