"""A folder of meshes and clouds -> one cloud set, kept in a cache that notices changed files."""

import hashlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pointmadi.data.clouds import Clouds, write_atomically
from pointmadi.data.formats import SUFFIXES, Reading, channels, read_cloud

VERSION = 1  # of how files are turned into clouds: old caches are left alone when it grows
FEW = 16  # files that are not worth starting a process
SHOWN = 5  # unreadable files that an error names

Progress = Callable[[int, int], None]
Labels = Literal["none", "folders"]
Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


@dataclass(frozen=True, eq=False)
class Scan:
    """What a folder held.

    Args:
        clouds: the shapes, in the order of their paths.
        unreadable: (path, reason) of the files that were left out.
        listing: a text file that lists them; None where there are none.
    """

    clouds: Clouds
    unreadable: tuple[tuple[str, str], ...] = ()
    listing: Path | None = None


def cache_folder() -> Path:
    """Return where derived data are kept: $POINTMADI_CACHE, or ~/.cache/pointmadi."""
    return Path(os.environ.get("POINTMADI_CACHE") or Path.home() / ".cache" / "pointmadi")


def keep(path: Path, clouds: Clouds) -> None:
    """Write a set to the cache; where that is impossible, say so and go on."""
    try:
        clouds.write(path)
    except OSError as error:
        warnings.warn(f"the cache cannot be written ({error}); set POINTMADI_CACHE to another folder", stacklevel=3)


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """Show a bar on the terminal inside a `with` block, which receives the callback that moves it."""
    from rich import progress

    columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
    with progress.Progress(progress.TextColumn("{task.description}"), *columns) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def read_folder(
    path: str | Path,
    num_points: int,
    labels: Labels = "none",
    features: Sequence[str] = (),
    skip_bad: bool = False,
    progress: Progress | None = None,
    cache: bool = True,
) -> Clouds:
    """Read a folder of shapes as a cloud set: `scan_folder`, without its report."""
    return scan_folder(path, num_points, labels, features, skip_bad, progress, cache).clouds


def scan_folder(
    path: str | Path,
    num_points: int,
    labels: Labels = "none",
    features: Sequence[str] = (),
    skip_bad: bool = False,
    progress: Progress | None = None,
    cache: bool = True,
    listing: str | Path | None = None,
) -> Scan:
    """Read every mesh and cloud below a folder, on all cores, reusing what was read before.

    Args:
        path: the folder; sub-folders are read too, hidden files and folders are not.
        num_points: points per shape (`read_cloud` says how they are chosen).
        labels: folders: the first folder on the way to a file is its class; none: no labels.
        features: what to keep beside coordinates: normals, rgb, intensity.
        skip_bad: leave unreadable files out and list them, instead of stopping.
        progress: called with (files done, files to do) now and then, for instance `progress_bar`'s.
        cache: keep what was read in `cache_folder()`; only new and changed files (path, size, time) are read again.
        listing: where the list of unreadable files is written; None for beside the cache.

    Raises:
        ValueError: no folder, no readable file in it, or unreadable files without `skip_bad`.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder: {root}")
    stamps = {_stamp(root, name): name for name in _find(root)}
    if not stamps:
        raise ValueError(f"{root} holds no file of these kinds: {' '.join(SUFFIXES)}")
    classes = tuple(sorted({_class_of(root, name) for name in stamps.values()})) if labels == "folders" else ()
    kept = cache_folder() / "folders" / f"{_key(root, num_points, features)}.npz"
    known = _load(kept, num_points) if cache else None

    rows = {stamp: row for row, stamp in enumerate(known.names)} if known else {}
    fresh: dict[str, Arrays] = {}
    bad: dict[str, str] = {}
    try:
        todo = {stamp: root / name for stamp, name in stamps.items() if stamp not in rows}
        for done, (stamp, result) in enumerate(_read_all(todo, num_points, tuple(features)), start=1):
            if isinstance(result, str):
                bad[stamps[stamp]] = result.removeprefix(f"{root / stamps[stamp]}: ")
            else:
                fresh[stamp] = result
            if progress:
                progress(done, len(todo))
    finally:  # what was read before an interruption need not be read again
        present = [stamp for stamp in stamps if stamp in rows or stamp in fresh]
        clouds = _join(present, known, rows, fresh, channels(features)) if present else None
        if cache and clouds is not None and (fresh or len(present) < len(rows)):
            keep(kept, clouds)

    unreadable = tuple((name, bad[name]) for name in stamps.values() if name in bad)
    if clouds is None or (unreadable and not skip_bad):
        raise ValueError(_complaint(root, unreadable, len(stamps)))
    listed = Path(listing) if listing else kept.with_suffix(".unreadable.txt")
    if unreadable:
        lines = "".join(f"{name}\t{reason}\n" for name, reason in unreadable).encode()
        write_atomically(listed, lambda file: file.write(lines))
    names = tuple(stamps[stamp] for stamp in present)
    label = torch.tensor([classes.index(_class_of(root, name)) for name in names]) if classes else None
    clouds = replace(clouds, names=names, label=label, classes=classes)
    return Scan(clouds, unreadable, listed if unreadable else None)


def _complaint(root: Path, unreadable: Sequence[tuple[str, str]], count: int) -> str:
    first = "".join(f"\n  {name}: {reason}" for name, reason in unreadable[:SHOWN])
    more = f"\n  … and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
    what = f"{len(unreadable)} of {count} files in {root} cannot be read"
    return f"{what}; repair them, or leave them out by skip_bad (--skip-bad):{first}{more}"


def _find(root: Path) -> list[str]:
    """List the files to read, relative to the folder, in an order that depends on their names only."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith((".", "__MACOSX"))]
        here = Path(folder).relative_to(root)
        found += [
            (here / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found)


def _stamp(root: Path, name: str) -> str:
    """Name a file and its state: another size or time of change is another stamp."""
    try:
        state = (root / name).stat()
    except OSError:  # a link to nowhere: reading it will say so
        return f"- - {name}"
    return f"{state.st_size} {state.st_mtime_ns} {name}"


def _key(root: Path, num_points: int, features: Sequence[str]) -> str:
    what = f"{VERSION} {root.resolve()} {num_points} {channels(features)}"
    return hashlib.blake2b(what.encode(), digest_size=12).hexdigest()


def _class_of(root: Path, name: str) -> str:
    folder, _, rest = name.partition("/")
    if not rest:
        raise ValueError(f"{root / name} lies in no sub-folder, so it has no class; move it, or ask for no labels")
    return folder


def _load(kept: Path, num_points: int) -> Clouds | None:
    try:
        clouds = Clouds.read(kept)
    except (OSError, ValueError):  # there is none, or it was damaged: it is made again
        return None
    return clouds if clouds.num_points == num_points else None


def _join(
    stamps: Sequence[str], known: Clouds | None, rows: dict[str, int], fresh: dict[str, Arrays], names: tuple[str, ...]
) -> Clouds:
    """Put cached and fresh shapes together in the order of `stamps`."""
    old = [stamp for stamp in stamps if stamp not in fresh]
    if known and old == list(stamps):
        return known if len(known) == len(old) else known.select([rows[stamp] for stamp in old])
    new = list(fresh)
    values: dict[str, Any] = {}
    for field in ("points", "scale", "center", *(("features",) if names else ())):
        pieces = [torch.from_numpy(np.concatenate([fresh[stamp][field] for stamp in new]))]
        if known and old:
            pieces.insert(0, getattr(known, field)[[rows[stamp] for stamp in old]])
        values[field] = torch.cat(pieces)
    place = {stamp: at for at, stamp in enumerate(old + new)}
    joined = Clouds(**values, names=tuple(old + new), feature_names=names)
    return joined.select([place[stamp] for stamp in stamps])


def _read_one(path: Path, num_points: int, features: tuple[str, ...]) -> Arrays | str:
    """Read a file; return its arrays, which travel between processes, or what is wrong with it."""
    try:
        clouds = read_cloud(path, Reading(num_points, features))
    except (ValueError, OSError) as error:
        return str(error)
    tensors = (clouds.points, clouds.scale, clouds.center, clouds.features)
    return {
        name: tensor.numpy()
        for name, tensor in zip(("points", "scale", "center", "features"), tensors, strict=True)
        if tensor is not None
    }


def _read_all(todo: dict[str, Path], num_points: int, features: tuple[str, ...]) -> Iterator[tuple[str, Arrays | str]]:
    """Read files, in other processes where there are many; yield (stamp, result) in any order.

    A process that dies (out of memory, a crash inside a parser) breaks its pool. The files that were being read are
    then tried again, each in a process of its own, so that only the guilty one is reported.
    """
    workers = min(cores(), len(todo) // FEW)
    if workers < 2:
        yield from ((stamp, _read_one(path, num_points, features)) for stamp, path in todo.items())
        return
    waiting = dict(todo)
    while waiting:
        running: dict[Future[Arrays | str], str] = {}
        with _pool(workers) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < 4 * workers:
                        stamp = next(iter(waiting))
                        running[pool.submit(_read_one, waiting[stamp], num_points, features)] = stamp
                        del waiting[stamp]
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
            except BrokenProcessPool:
                pass
        for stamp in running.values():
            with _pool(1) as pool:
                try:
                    result = pool.submit(_read_one, todo[stamp], num_points, features).result()
                except BrokenProcessPool:
                    result = f"{todo[stamp]}: the process that read it died"
            yield stamp, result


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _pool(workers: int) -> ProcessPoolExecutor:
    # As in PyTorch's own loaders: a fork starts at once; with one thread each, the children need none of the parent's.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))
