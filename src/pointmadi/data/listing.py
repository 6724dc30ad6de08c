"""What a folder holds before anything of it is read: a name, a file, and what is known of each shape or room."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pointmadi.data.clouds import TRAIN, write_atomically
from pointmadi.data.formats import Raw, read_file


@dataclass(frozen=True)
class Entry:
    """One shape or room, yet to be read.

    Args:
        name: what it is called, once in a listing.
        path: its file.
        row: which one it is, in a file that holds many; −1 in a file that holds one.
        label: class, −1 unknown.
        split: 0 train, 1 test.
        group: what it lies in with others: an area, a scan, a sequence.
        labels: the file with the classes of its points, where that is another one; it need not exist.
    """

    name: str
    path: Path
    row: int = -1
    label: int = -1
    split: int = TRAIN
    group: str = ""
    labels: Path | None = None


def read_entry(entry: Entry) -> Raw:
    """Read an entry that has a file of a known format to itself."""
    return read_file(entry.path)


@dataclass(frozen=True)
class Listing:
    """The shapes or rooms of a folder, in an order that depends on their names only.

    Args:
        root: the folder.
        entries: at least one.
        read: reads an entry; a function at the top of a module, so that other processes can call it.
        layout: how the folder is laid out, for messages: `folder`, or the name of a published set.
        classes: names of the classes of shapes, or of the points of rooms.
        part_names: names of the parts of shapes.
        part_class: the class that each part belongs to.
        has_split: whether `split` is known.
        rooms: whether entries are rooms of any size, whose points have the classes (`Raw.part`, −1 unknown).
        credits: for each entry, who made it and under which licence; none where they are not known.
        problems: what is missing or does not agree with the official counts, one line each.
    """

    root: Path
    entries: tuple[Entry, ...]
    read: Callable[[Entry], Raw] = read_entry
    layout: str = "folder"
    classes: tuple[str, ...] = ()
    part_names: tuple[str, ...] = ()
    part_class: tuple[int, ...] = ()
    has_split: bool = False
    rooms: bool = False
    credits: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def write_credits(listing: Listing, path: str | Path) -> None:
    """Write who made each entry as a table of name and credit (.csv), to lie beside what was made of the listing."""
    rows = io.StringIO()
    csv.writer(rows, lineterminator="\n").writerows(
        [("name", "credit"), *zip((entry.name for entry in listing.entries), listing.credits, strict=True)]
    )
    write_atomically(path, lambda file: file.write(rows.getvalue().encode()))
