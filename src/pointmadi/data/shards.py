"""Sets beyond memory: a folder of memory-mapped arrays with an index, which has the face of `Clouds`."""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pointmadi.data.clouds import LEVELS, TEST, TRAIN, Clouds

VERSION = 1
INDEX = "index.json"
SHARDS = "shards"

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Store:
    """The opened folder of a set: its index, what is known of each row, and maps of its arrays, made when needed.

    Args:
        folder: the folder.
        about: what its index says.
        rows: arrays with one value for each shape or room: names, shard, start, size, digest and, where known, label,
            split, group.
    """

    folder: Path
    about: dict[str, Any]
    rows: dict[str, Array]
    _maps: dict[tuple[int, str], Array] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path, kind: str) -> "Store":
        """Open a folder that `pack` made.

        Raises:
            ValueError, OSError: it is none, of another kind, or damaged; one line.
        """
        folder = Path(folder)
        about = read_index(folder)
        if about["kind"] != kind:
            raise ValueError(f"{folder} is a set of {about['kind']}, not of {kind}")
        try:
            with np.load(folder / about["rows"], allow_pickle=False) as archive:
                rows = {name: archive[name] for name in archive.files}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{folder} is damaged ({error}); pack it again") from None
        if len(rows["names"]) != about["count"] or rows["shard"].max(initial=0) >= len(about["shards"]):
            raise ValueError(f"{folder} is damaged: its index and its rows differ; pack it again")
        return cls(folder, about, rows)

    def map(self, shard: int, name: str) -> Array:
        """Return an array of a shard, mapped into memory."""
        found = self._maps.get((shard, name))
        if found is None:
            path = self.folder / SHARDS / self.about["shards"][shard] / f"{name}.npy"
            found = self._maps[shard, name] = map_array(path)
        return found


def is_set(folder: str | Path) -> bool:
    """Say whether a folder is a packed set, be it damaged or of another version."""
    return (Path(folder) / INDEX).is_file() and (Path(folder) / SHARDS).is_dir()


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a set and check its form.

    Raises:
        ValueError, OSError: there is none, or it is damaged or of another version.
    """
    path = folder / INDEX
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is damaged: it is no JSON; pack it again") from None
    forms = {"kind": str, "rows": str, "count": int, "shards": list, "feature_names": list, "classes": list}
    if not isinstance(about, dict) or any(not isinstance(about.get(key), form) for key, form in forms.items()):
        raise ValueError(f"{path} is no index of a packed set")
    if about.get("version") != VERSION:
        raise ValueError(f"{path} is of version {about.get('version')}, this program reads {VERSION}; pack it again")
    names = (about["rows"], *about["shards"])
    if not all(isinstance(name, str) and re.fullmatch(r"[\w-]+(\.npz)?", name) for name in names):
        raise ValueError(f"{path} is damaged: it names files outside of its folder")
    return about


def map_array(path: Path) -> Array:
    """Map a .npy file into memory; changes of the array never reach the file.

    Torch maps it, because numpy's maps keep a file descriptor each, and there may be thousands of shards.
    """
    with path.open("rb") as file:
        try:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError:
            raise ValueError(f"{path} is damaged: it is no .npy file") from None
        offset = file.tell()
    length = path.stat().st_size
    if dtype.hasobject or length != offset + dtype.itemsize * int(np.prod(shape)):
        raise ValueError(f"{path} is damaged: {length} bytes do not hold {shape} numbers; pack it again")
    return torch.from_file(str(path), size=length, dtype=torch.uint8).numpy()[offset:].view(dtype).reshape(shape)


@dataclass(frozen=True, eq=False)
class Shards:
    """Hold S shapes of N points each on disk, as `Clouds` holds them in memory.

    Args:
        store: the opened folder.
        rows: (S,) int64, which rows of the store.
        feature_names: channels that are used.
    """

    store: Store
    rows: Tensor
    feature_names: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: str | Path) -> "Shards":
        """Open a folder that `pack` made of shapes."""
        store = Store.open(folder, "shapes")
        return cls(store, torch.arange(store.about["count"]), tuple(store.about["feature_names"]))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_points(self) -> int:
        """Number of points of every shape."""
        return int(self.store.about["num_points"])

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each shape."""
        return tuple(self.store.rows["names"][self.rows.numpy()].tolist())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.store.about["classes"])

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(self.store.about["part_names"])

    @property
    def part_class(self) -> Tensor | None:
        """(P,) int64, the class that each part belongs to."""
        return torch.tensor(self.store.about["part_class"]) if self.store.about["part_class"] else None

    @property
    def label(self) -> Tensor | None:
        """(S,) int64, class of each shape, −1 where unknown."""
        return self._known("label", torch.int64)

    @property
    def split(self) -> Tensor | None:
        """(S,) uint8, 0 train, 1 test."""
        return self._known("split", torch.uint8)

    def _known(self, name: str, dtype: torch.dtype) -> Tensor | None:
        values = self.store.rows.get(name)
        return None if values is None else torch.from_numpy(values)[self.rows].to(dtype)

    def holds(self, name: str) -> bool:
        """Say whether this field of `Clouds` is known."""
        if name in ("features", "part"):
            return bool(self.feature_names if name == "features" else self.part_names)
        return name not in ("label", "split") or name in self.store.rows

    def gather(self, name: str, index: Tensor) -> Tensor:
        """Read a field of `Clouds` of the shapes at `index`, (B,) int64, and of no others."""
        rows = self.rows[index.cpu()].numpy()
        if name in ("label", "split"):
            return torch.from_numpy(self.store.rows[name][rows])
        shards, starts = self.store.rows["shard"][rows].tolist(), self.store.rows["start"][rows].tolist()
        like = self.store.map(shards[0] if shards else 0, name)
        values = np.empty((len(rows), *like.shape[1:]), like.dtype)
        for place, (shard, start) in enumerate(zip(shards, starts)):
            values[place] = self.store.map(shard, name)[start]
        has = tuple(self.store.about["feature_names"])
        if name == "features" and self.feature_names != has:
            values = values[..., [has.index(channel) for channel in self.feature_names]]
        return torch.from_numpy(values)

    def xyz(self, index: Tensor | None = None) -> Tensor:
        """Return coordinates in the unit sphere, of the shapes at `index` (all if None): (B, N, 3) float32."""
        return self.gather("points", torch.arange(len(self)) if index is None else index).float() / LEVELS

    def select(self, index: Tensor | Sequence[int] | slice) -> "Shards":
        """Return the shapes at `index`: whole numbers, booleans, or a slice."""
        return replace(self, rows=self.rows[index.cpu() if isinstance(index, Tensor) else index])

    def train(self) -> "Shards":
        """Return the shapes for training: all of them where the set has no split."""
        return self if self.split is None else self._part_of_split(TRAIN, "train")

    def test(self) -> "Shards":
        """Return the shapes held out for testing."""
        return self._part_of_split(TEST, "test")

    def _part_of_split(self, which: int, called: str) -> "Shards":
        if self.split is None:
            raise ValueError("this set has no split, so it has no test shapes")
        chosen = self.split == which
        if not bool(chosen.any()):
            raise ValueError(f"none of the {len(self)} shapes of this set is marked {called}")
        return self.select(chosen)

    def with_features(self, names: Sequence[str]) -> "Shards":
        """Return the set with these channels only, in this order; none for an empty list."""
        missing = [name for name in names if name not in self.feature_names]
        if missing:
            has = ", ".join(self.feature_names) or "none"
            raise ValueError(f"this set has no feature {', '.join(missing)}; it has: {has}")
        return replace(self, feature_names=tuple(names))

    def fingerprint(self) -> str:
        """Return 16 hex digits that depend on everything in the set, but not on how it lies in shards."""
        rows = self.rows.numpy()
        digest = hashlib.blake2b(digest_size=8)
        about = (self.num_points, self.feature_names, self.classes, self.part_names, self.store.about["part_class"])
        digest.update(repr(about).encode())
        for name in ("names", "digest", "label", "split"):
            if name in self.store.rows:
                digest.update(f"{name} {self.store.rows[name][rows].tolist()}".encode())
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """How much memory the shapes would take."""
        a_point = 6 + 2 * len(self.feature_names) + bool(self.part_names)
        return len(self) * self.num_points * a_point

    def load(self) -> Clouds:
        """Read the whole set into memory."""
        everything = torch.arange(len(self))
        values: dict[str, Any] = {
            name: self.gather(name, everything)
            for name in ("points", "scale", "center", "features", "part")
            if self.holds(name)
        }
        return Clouds(
            **values,
            names=self.names,
            label=self.label,
            classes=self.classes,
            split=self.split,
            part_names=self.part_names,
            part_class=self.part_class,
            feature_names=self.feature_names,
        )


class Column:
    """A .npy file that grows: its header is written again when the length is known."""

    def __init__(self, path: Path, like: Array) -> None:
        self.count, self.like = 0, like
        self.file: BinaryIO = path.open("wb")
        self._write_header()

    def append(self, array: Array) -> None:
        """Add rows at the end."""
        self.file.write(np.ascontiguousarray(array).data)
        self.count += len(array)

    def close(self) -> None:
        """State the length, and return when all of it is on the disk."""
        self.file.seek(0)
        self._write_header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _write_header(self) -> None:
        # numpy leaves room in it for any length of the first axis.
        shape = (self.count, *self.like.shape[1:])
        about = {"descr": np.lib.format.dtype_to_descr(self.like.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, about)
