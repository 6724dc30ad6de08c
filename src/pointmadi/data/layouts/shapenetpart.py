"""ShapeNetPart: shapes of 16 classes with 50 parts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.formats.raw import NORMALS, Raw
from pointmadi.data.layouts.layout import VAL, Layout, home, lines, listed, missing, names, read_lists
from pointmadi.data.layouts.reading import cloud, h5, h5_entries, labelled, reading, rows, within
from pointmadi.data.listing import Entry, Listing

# Classes in the order of their labels, and how many parts each has; parts are numbered through.
CLASSES = {
    "Airplane": 4, "Bag": 2, "Cap": 2, "Car": 4, "Chair": 4, "Earphone": 3, "Guitar": 3, "Knife": 2, "Lamp": 4,
    "Laptop": 2, "Motorbike": 6, "Mug": 2, "Pistol": 3, "Rocket": 3, "Skateboard": 3, "Table": 3,
}  # fmt: skip
PARTS = tuple(f"{kind} {part}" for kind, count in CLASSES.items() for part in range(count))
PART_CLASS = tuple(label for label, count in enumerate(CLASSES.values()) for _ in range(count))
SPLITS = {"train": TRAIN, VAL: TRAIN, "test": TEST}
NORMAL = "shapenetcore_partanno_segmentation_benchmark_v0_normal"


def _find_text(root: Path) -> Path | None:
    return home(root, ("synsetoffset2category.txt", "train_test_split"), (NORMAL,))


def _text(folder: Path) -> Listing:
    table = folder / "synsetoffset2category.txt"
    synsets = {words[1]: words[0] for line in lines(table) if len(words := line.split()) == 2}
    unknown = set(synsets.values()) - CLASSES.keys()
    if unknown or not synsets:
        raise ValueError(f"{table}: expected lines 'Airplane 02691156', found {', '.join(sorted(unknown)) or 'none'}")
    lacking: tuple[str, ...] = ()
    lists = []
    for part, split in SPLITS.items():
        title = f"train_test_split/shuffled_{part}_file_list.json"
        if (folder / title).exists():
            lists.append((title, _shapes(folder / title), split))
        else:
            lacking += (f"missing: {title}",)
    present = {f"{synset}/{file}" for synset in synsets for file in names(folder / synset, ".txt")}
    found, problems = listed(lists, present, lambda name: f"{name}.txt")
    label = {synset: list(CLASSES).index(kind) for synset, kind in synsets.items()}
    entries = tuple(
        Entry(name, folder / file, -1, label[name.partition("/")[0]], split, VAL if f"_{VAL}_" in title else "")
        for name, file, split, title in found
    )
    return _listing(folder, entries, read_text, lacking + problems)


def _shapes(path: Path) -> list[str]:
    """Read a list of shapes: ["shape_data/02691156/1a04…", …] -> 02691156/1a04…."""
    with reading(path):
        named = json.loads(path.read_bytes())
        if not isinstance(named, list):
            raise ValueError("expected a list")
        return ["/".join(str(name).split("/")[-2:]) for name in named]


def read_text(entry: Entry) -> Raw:
    """Read rows `x y z nx ny nz part`."""
    with reading(entry.path):
        table = rows(entry.path, 7)
        return labelled(cloud(table[:, :-1], NORMALS), within(table[:, -1], PARTS, "parts"))


def _find_h5(root: Path) -> Path | None:
    return home(root, ("train_hdf5_file_list.txt",), ("hdf5_data",))


def _h5(folder: Path) -> Listing:
    lists, problems = read_lists(folder, [(f"{part}_hdf5_file_list.txt", split) for part, split in SPLITS.items()])
    entries: list[Entry] = []
    for title, wanted, split in lists:
        files = [line.rpartition("/")[2] for line in wanted]
        there = [folder / file for file in files if (folder / file).exists()]
        problems += missing((file for file in files if folder / file not in there), title)
        group = VAL if title.startswith(VAL) else ""
        entries += (entry for path in there for entry in h5_entries(path, tuple(CLASSES), split, group))
    return _listing(folder, tuple(entries), read_h5, problems)


def read_h5(entry: Entry) -> Raw:
    """Read a row of `data` and of `pid`."""
    with reading(entry.path):
        part = np.asarray(h5(entry.path, "pid")[entry.row])
        return labelled(cloud(h5(entry.path, "data")[entry.row]), within(part, PARTS, "parts"))


def _listing(
    folder: Path, entries: tuple[Entry, ...], read: Callable[[Entry], Raw], problems: tuple[str, ...]
) -> Listing:
    return Listing(
        folder, entries, read, classes=tuple(CLASSES), part_names=PARTS, part_class=PART_CLASS, has_split=True,
        problems=problems,
    )  # fmt: skip


TERMS = "ShapeNet terms of use (research and education, not commercial)"
COUNTS = {"train": 12_137, VAL: 1_870, "test": 2_874, "classes": 16, "parts": 50}

SHAPENETPART = (
    Layout(
        "shapenetpart", "ShapeNetPart: about 2,600 points a shape, with normals and parts",
        f"shapenet.cs.stanford.edu/media/{NORMAL}.zip (often down), and mirrors of it", TERMS, "0.7 GB packed", COUNTS,
        "synsetoffset2category.txt, train_test_split/shuffled_train_file_list.json, 02691156/*.txt", _find_text, _text,
    ),
    Layout(
        "shapenetpart-h5", "ShapeNetPart: 2,048 points a shape, with parts",
        "shapenet.cs.stanford.edu/media/shapenet_part_seg_hdf5_data.zip (often down), and mirrors of it", TERMS,
        "0.3 GB packed", COUNTS, "train_hdf5_file_list.txt, ply_data_train0.h5", _find_h5, _h5,
    ),
)  # fmt: skip
