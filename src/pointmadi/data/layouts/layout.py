"""What a published layout is, and what helps to list one."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.listing import Listing

VAL = "val"  # group of validation shapes, which train the final model of the field

Find = Callable[[Path], Path | None]
Splits = Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Layout:
    """A folder as others publish it: what it is, where to get it, how to recognise and to list it.

    Args:
        name: what users call it.
        title: what it holds, in a few words.
        source: where to get it.
        licence: under which terms.
        size: how much there is on disk.
        counts: the official numbers of train, val, test, shapes, rooms, classes or parts.
        tree: the files that it is recognised by.
        find: returns the folder that holds it, at or just below a folder, or None; it reads names only.
        scan: lists what that folder holds; its problems are completed by `list`.
    """

    name: str
    title: str
    source: str
    licence: str
    size: str
    counts: Mapping[str, int]
    tree: str
    find: Find
    scan: Callable[[Path], Listing]

    def detect(self, root: Path) -> bool:
        """Say whether the files that tell this layout from others are there."""
        return self.find(root) is not None

    def list(self, root: Path) -> Listing:
        """List the shapes or rooms of a folder, and how they differ from the official counts.

        Raises:
            ValueError, OSError: the layout is not there, or holds nothing that can be read.
        """
        folder = self.find(root)
        if folder is None:
            raise FileNotFoundError(f"{root}: {self.name} is not there; it is recognised by {self.tree}")
        listing = self.scan(folder)
        if not listing.entries:
            reasons = "; ".join(listing.problems) or self.tree
            raise ValueError(f"{folder}: no {'room' if listing.rooms else 'shape'} of {self.name} is there ({reasons})")
        problems = (*listing.problems, *_differences(listing, self.counts))
        return replace(listing, layout=self.name, problems=problems)


def _differences(listing: Listing, official: Mapping[str, int]) -> Iterator[str]:
    """Compare a listing with the official counts: `train: 9840 of 9843 shapes`."""
    train = sum(entry.split == TRAIN and entry.group != VAL for entry in listing.entries)
    found = {
        "train": train,
        "val": sum(entry.group == VAL for entry in listing.entries),
        "test": sum(entry.split == TEST for entry in listing.entries),
        "classes": len(listing.classes),
        "parts": len(listing.part_names),
    }
    unit = " rooms" if listing.rooms else " shapes"
    for what, count in official.items():
        have = found.get(what, len(listing.entries))
        if have != count:
            yield f"{what}: {have} of {count}{unit if what in ('train', 'val', 'test') else ''}"


def home(root: Path, markers: Sequence[str], inside: Sequence[str] = ()) -> Path | None:
    """Return the first of a folder and some folders inside it that holds all markers."""
    folders = (root, *(root / name for name in inside))
    return next((folder for folder in folders if all((folder / marker).exists() for marker in markers)), None)


def matching(root: Path, pattern: str, inside: Sequence[str] = ()) -> Path | None:
    """Return the first of a folder and some folders inside it that holds a name of this pattern."""
    return next((folder for folder in (root, *(root / name for name in inside)) if alike(folder, pattern)), None)


def names(folder: Path, suffix: str = "") -> list[str]:
    """List the visible names in a folder that end in a suffix, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if name.endswith(suffix) and not name.startswith("."))


def alike(folder: Path, pattern: str) -> list[str]:
    """List the names in a folder that fit a pattern, sorted; none if there is no such folder."""
    return sorted(filter(re.compile(pattern).fullmatch, os.listdir(folder))) if folder.is_dir() else []


def lines(path: Path) -> list[str]:
    """Read a list of names, one a line."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: damaged, or not a list of names") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def missing(wanted: Iterable[str], where: str = "") -> tuple[str, ...]:
    """Say that files, perhaps named somewhere, are not there: one line, or none."""
    gone = list(wanted)
    named = f" named in {where}" if where else ""
    are = f"files{named} are" if len(gone) > 1 else f"file{named} is"
    return (f"{len(gone)} {are} not there (first: {gone[0]})",) if gone else ()


def listed(
    lists: Iterable[tuple[str, Sequence[str], int]], present: Collection[str], place: Callable[[str], str]
) -> tuple[list[tuple[str, str, int, str]], tuple[str, ...]]:
    """Follow lists of names: -> (name, file, split, list) of the files that are there, and what is wrong.

    Args:
        lists: what each list is called, its names, and the split that they belong to.
        present: the files that are there.
        place: the file of a name.
    """
    found: dict[str, tuple[str, str, int, str]] = {}
    problems: list[str] = []
    for title, wanted, split in lists:
        gone, again = [], []
        for name in wanted:
            file = place(name)
            if file not in present:
                gone.append(file)
            elif found.setdefault(name, (name, file, split, title))[3] != title:
                again.append(name)
        problems += missing(gone, title)
        if again:
            problems.append(f"{len(again)} names in {title} are in another list as well (first: {again[0]})")
    return list(found.values()), tuple(problems)


def read_lists(folder: Path, splits: Splits) -> tuple[list[tuple[str, list[str], int]], tuple[str, ...]]:
    """Read the lists of a folder: -> (title, names, split) for `listed`, and which lists are missing."""
    there = [(title, lines(folder / title), split) for title, split in splits if (folder / title).exists()]
    return there, tuple(f"missing: {title}" for title, _ in splits if not (folder / title).exists())
