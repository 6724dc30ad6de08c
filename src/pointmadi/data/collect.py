"""Any folder -> what it holds, and from there one cloud set, kept in a cache that notices changed files."""

import hashlib
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Literal

from pointmadi.data.clouds import Clouds
from pointmadi.data.formats import SUFFIXES, Reading
from pointmadi.data.listing import Entry, Listing
from pointmadi.data.packing import Packed, Progress, pack
from pointmadi.data.rooms import Rooms
from pointmadi.data.shards import Shards

IN_MEMORY = 16 * 2**30  # bytes of shapes beyond which a set stays on disk

Labels = Literal["none", "folders"]


@dataclass(frozen=True, eq=False)
class Scan:
    """What a folder held.

    Args:
        clouds: the shapes, in the order of the listing; in memory unless they are very many.
        unreadable: (name, reason) of those that were left out.
        listing: a text file that lists them; None where there are none.
    """

    clouds: Clouds | Shards
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
        _warn(error)


def _warn(error: OSError) -> None:
    warnings.warn(f"the cache cannot be written ({error}); set POINTMADI_CACHE to another folder", stacklevel=4)


def list_folder(path: str | Path, labels: Labels = "none") -> Listing:
    """List every mesh and cloud below a folder, in the order of their paths; hidden files and folders are left out.

    Args:
        path: the folder.
        labels: folders: the first folder on the way to a file is its class; none: no labels.

    Raises:
        ValueError, OSError: no folder, no readable kind of file in it, or a file without a class.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder: {root}")
    names = _find(root)
    if not names:
        raise ValueError(f"{root} holds no file of these kinds: {' '.join(SUFFIXES)}")
    # Names that are no UTF-8 (old archives) could not be written down: their odd bytes are spelt out.
    paths = {os.fsencode(name).decode(errors="backslashreplace"): root / name for name in names}
    if labels == "none":
        return Listing(root, tuple(Entry(name, path) for name, path in paths.items()))
    of = {name: _class_of(root, name) for name in paths}
    classes = tuple(sorted(set(of.values())))
    number = {name: at for at, name in enumerate(classes)}
    return Listing(
        root, tuple(Entry(name, path, label=number[of[name]]) for name, path in paths.items()), classes=classes
    )


def collect(
    listing: Listing,
    reading: Reading,
    skip_bad: bool = False,
    progress: Progress | None = None,
    cache: bool = True,
) -> Scan:
    """Read all shapes of a listing, on all cores, reusing what was read before.

    Args:
        listing: what to read; no rooms.
        reading: how files become clouds.
        skip_bad: leave unreadable files out and list them, instead of stopping.
        progress: called with (files done, files to do) now and then.
        cache: keep what was read in `cache_folder()`; only new and changed files (path, size, time) are read again.

    Raises:
        ValueError: nothing can be read, something cannot and `skip_bad` is off, or these are rooms.
    """
    if listing.rooms:
        raise ValueError(f"{listing.root} holds rooms, not shapes; `pointmadi data pack` makes a set of them")
    kept = cache_folder() / "folders" / _key(listing, reading)
    if cache:
        try:
            return _open(pack(listing, kept, reading, skip_bad=skip_bad, progress=progress))
        except OSError as error:
            _warn(error)
    with TemporaryDirectory() as place:
        packed = pack(listing, place, reading, skip_bad=skip_bad, progress=progress)
        scan = _open(packed)
        listed = None
        if scan.listing:  # the cache may be what cannot be written
            listed = Path(mkdtemp(prefix="pointmadi-")) / scan.listing.name
            shutil.copy(scan.listing, listed)
        return Scan(Shards.open(place).load(), scan.unreadable, listed)


def collect_rooms(
    listing: Listing, reading: Reading, skip_bad: bool = False, progress: Progress | None = None
) -> Rooms:
    """Pack rooms into the cache, or find them there; only new and changed ones are read."""
    kept = cache_folder() / "rooms" / _key(listing, reading)
    return Rooms.open(pack(listing, kept, reading, skip_bad=skip_bad, progress=progress).folder)


def _open(packed: Packed) -> Scan:
    shards = Shards.open(packed.folder)
    clouds = shards if shards.nbytes > IN_MEMORY else shards.load()
    return Scan(clouds, packed.unreadable, packed.folder / "unreadable.txt" if packed.unreadable else None)


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


def _key(listing: Listing, reading: Reading) -> str:
    what = f"{listing.root.resolve()} {listing.layout} {reading}"
    return hashlib.blake2b(what.encode(), digest_size=12).hexdigest()


def _class_of(root: Path, name: str) -> str:
    folder, _, rest = name.partition("/")
    if not rest:
        raise ValueError(f"{root / name} lies in no sub-folder, so it has no class; move it, or ask for no labels")
    return folder
