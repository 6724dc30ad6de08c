"""Rooms, scans and other scenes of any size, on disk."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.shards import Store


@dataclass(frozen=True, eq=False)
class Room:
    """One room of T points.

    Args:
        points: (T, 3) float32, in the unit of the files times the scale given: metres, as a rule.
        features: (T, F) float16, the channels of the set.
        label: (T,) int64, class of each point, −1 unknown; None where the set has no classes.
        name: what it is called.
        group: the area, scan or sequence it belongs to.
        origin: (3,) float64, what was subtracted from coordinates far from zero; zero for others.
    """

    points: Tensor
    features: Tensor
    label: Tensor | None
    name: str
    group: str
    origin: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Rooms:
    """Hold rooms on disk: `rooms[i]` reads one of them.

    Args:
        store: the opened folder.
        rows: which of its rooms.
    """

    store: Store
    rows: tuple[int, ...]

    @classmethod
    def open(cls, folder: str | Path) -> "Rooms":
        """Open a folder that `pack` made of rooms."""
        store = Store.open(folder, "rooms")
        return cls(store, tuple(range(store.about["count"])))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Room:
        row = self.rows[index]
        of = self.store.rows
        shard, start = int(of["shard"][row]), int(of["start"][row])
        arrays = {
            name: torch.from_numpy(self.store.map(shard, name)[start : start + int(of["size"][row])].copy())
            for name in ("points", "features", "label")
            if name != "label" or self.classes
        }
        label = arrays["label"].long() if self.classes else None
        x, y, z = of["origin"][row].tolist()
        return Room(arrays["points"], arrays["features"], label, self.names[index], self.groups[index], (x, y, z))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of points of each room."""
        return self._of("size")

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each room."""
        return self._of("names")

    @property
    def groups(self) -> tuple[str, ...]:
        """What each room lies in with others."""
        return self._of("group")

    def _of(self, name: str) -> tuple[Any, ...]:
        return tuple(self.store.rows[name][list(self.rows)].tolist())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of points."""
        return tuple(self.store.about["classes"])

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each channel."""
        return tuple(self.store.about["feature_names"])

    def select(self, index: Sequence[int]) -> "Rooms":
        """Return the rooms at `index`."""
        return replace(self, rows=tuple(self.rows[i] for i in index))

    def group(self, *names: str) -> "Rooms":
        """Return the rooms of these groups, such as Area_5."""
        missing = sorted(set(names) - set(self.groups))
        if missing:
            raise ValueError(f"no room is of {', '.join(missing)}; groups are: {', '.join(sorted(set(self.groups)))}")
        return self.select([i for i, group in enumerate(self.groups) if group in names])

    def train(self) -> "Rooms":
        """Return the rooms for training: all of them where the set has no split."""
        return self._part_of_split(TRAIN, "train") if "split" in self.store.rows else self

    def test(self) -> "Rooms":
        """Return the rooms held out for testing."""
        if "split" not in self.store.rows:
            raise ValueError("this set has no split, so it has no test rooms; choose some by group")
        return self._part_of_split(TEST, "test")

    def _part_of_split(self, which: int, called: str) -> "Rooms":
        chosen = [i for i, part in enumerate(self._of("split")) if part == which]
        if not chosen:
            raise ValueError(f"none of the {len(self)} rooms of this set is marked {called}")
        return self.select(chosen)

    def fingerprint(self) -> str:
        """Return 16 hex digits that depend on everything in the rooms, but not on how they lie on disk."""
        digest = hashlib.blake2b(repr((self.feature_names, self.classes)).encode(), digest_size=8)
        for name in ("names", "digest", "group", "split"):
            if name in self.store.rows:
                digest.update(f"{name} {self._of(name)}".encode())
        return digest.hexdigest()

    def counts(self) -> Tensor:
        """Count the points of each class: (C,) int64."""
        total = np.zeros(len(self.classes), np.int64)
        for row in self.rows:
            shard, start = int(self.store.rows["shard"][row]), int(self.store.rows["start"][row])
            label = self.store.map(shard, "label")[start : start + int(self.store.rows["size"][row])]
            total += np.bincount(label[label >= 0], minlength=len(total))
        return torch.from_numpy(total)
