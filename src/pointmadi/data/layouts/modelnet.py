"""ModelNet10 and ModelNet40 in the five ways that they are published in."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.formats.raw import NORMALS, Raw
from pointmadi.data.layouts.layout import Layout, alike, home, lines, listed, matching, missing, names, read_lists
from pointmadi.data.layouts.reading import cloud, h5, h5_entries, h5_file, pickled, reading, rows
from pointmadi.data.listing import Entry, Listing

TEN = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")
FORTY = (
    "airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone", "cup", "curtain",
    "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard", "lamp", "laptop", "mantel", "monitor",
    "night_stand", "person", "piano", "plant", "radio", "range_hood", "sink", "sofa", "stairs", "stool", "table",
    "tent", "toilet", "tv_stand", "vase", "wardrobe", "xbox",
)  # fmt: skip
SPLITS = {"train": TRAIN, "test": TEST}
RESAMPLED = "modelnet40_normal_resampled"
CACHE = r"modelnet40_{}_\d+pts(_fps)?\.dat"
EPISODES = r"\d+way_?\d+shot"


# Text: class/class_0001.txt, with lists of the two splits.


def _find_text(count: int, root: Path) -> Path | None:
    folder = home(root, (f"modelnet{count}_shape_names.txt",), (RESAMPLED,))
    return folder if folder and any((folder / kind).is_dir() for kind in TEN) else None


def _text(count: int, folder: Path) -> Listing:
    classes = tuple(lines(folder / f"modelnet{count}_shape_names.txt"))
    lists, lacking = read_lists(folder, [(f"modelnet{count}_{name}.txt", split) for name, split in SPLITS.items()])
    present = {f"{kind}/{file}" for kind in classes for file in names(folder / kind, ".txt")}
    found, problems = listed(lists, present, lambda name: f"{name.rpartition('_')[0]}/{name}.txt")
    entries = tuple(
        Entry(name, folder / file, label=classes.index(file.partition("/")[0]), split=split)
        for name, file, split, _ in found
    )
    return Listing(folder, entries, read_text, classes=classes, has_split=True, problems=lacking + problems)


def read_text(entry: Entry) -> Raw:
    """Read rows `x,y,z,nx,ny,nz`."""
    with reading(entry.path):
        return cloud(rows(entry.path, 6, ","), NORMALS)


# Meshes: class/train/class_0001.off.


def _find_meshes(count: int, root: Path) -> Path | None:
    wanted = TEN if count == 10 else [kind for kind in FORTY if kind not in TEN]
    for folder in (root, root / f"ModelNet{count}"):
        if any(matching(folder / kind / "train", rf"{kind}_\d+\.off") for kind in wanted):
            return folder
    return None


def _meshes(count: int, folder: Path) -> Listing:
    classes = TEN if count == 10 else FORTY
    entries = tuple(
        Entry(file.removesuffix(".off"), folder / kind / part / file, label=label, split=split)
        for part, split in SPLITS.items()
        for label, kind in enumerate(classes)
        for file in names(folder / kind / part, ".off")
    )
    there = {entry.label for entry in entries}
    lacking = tuple(f"missing: {kind}" for label, kind in enumerate(classes) if label not in there)
    return Listing(folder, entries, classes=classes, has_split=True, problems=lacking)


# HDF5: ply_data_train0.h5 …, named in train_files.txt.


def _find_h5(root: Path) -> Path | None:
    return home(root, ("shape_names.txt", "train_files.txt"), ("modelnet40_ply_hdf5_2048",))


def _h5(folder: Path) -> Listing:
    classes = tuple(lines(folder / "shape_names.txt"))
    lists, problems = read_lists(folder, [(f"{name}_files.txt", split) for name, split in SPLITS.items()])
    entries: list[Entry] = []
    for title, wanted, split in lists:
        files = [line.rpartition("/")[2] for line in wanted]  # they are named from another folder
        problems += missing((file for file in files if not (folder / file).exists()), title)
        entries += (e for file in files if (folder / file).exists() for e in h5_entries(folder / file, classes, split))
    return Listing(folder, tuple(entries), read_h5, classes=classes, has_split=True, problems=problems)


def read_h5(entry: Entry) -> Raw:
    """Read a row of `data` and, where it is there, of `normal`."""
    with reading(entry.path):
        known = [name for name in ("data", "normal") if name == "data" or name in h5_file(entry.path)]
        table = np.concatenate([h5(entry.path, name)[entry.row] for name in known], axis=1)
        return cloud(table, NORMALS if len(known) == 2 else ())


# The cache of the published training code: two pickles of lists.


def _find_cache(root: Path) -> Path | None:
    return matching(root, CACHE.format("(train|test)"), (RESAMPLED,))


def _cache(folder: Path) -> Listing:
    entries: list[Entry] = []
    lacking: tuple[str, ...] = ()
    for part, split in SPLITS.items():
        files = alike(folder, CACHE.format(part))
        if not files:
            lacking += (f"missing: modelnet40_{part}_8192pts_fps.dat",)
            continue
        path = folder / max(files, key=lambda name: int(re.findall(r"\d+", name)[1]))
        with reading(path):
            points, labels = pickled(path)[:2]
            kinds = _classes_of(labels, len(points), len(FORTY))
        entries += (Entry(f"{part}/{row}", path, row, kind, split) for row, kind in enumerate(kinds))
    return Listing(folder, tuple(entries), read_cache, classes=FORTY, has_split=True, problems=lacking)


def _classes_of(labels: Sequence[Any], count: int, classes: int) -> list[int]:
    """Read labels that may be numbers or arrays of one number."""
    kinds = [int(np.asarray(label).item()) for label in labels]
    if len(kinds) != count or not all(0 <= kind < classes for kind in kinds):
        raise ValueError(f"{len(kinds)} labels below {max(kinds, default=0) + 1} for {count} shapes of {classes}")
    return kinds


def read_cache(entry: Entry) -> Raw:
    """Read the points of one shape: (N, 3) or (N, 6) with normals."""
    with reading(entry.path):
        points = np.asarray(pickled(entry.path)[0][entry.row])
        return cloud(points, NORMALS if points.shape[1:] == (6,) else ())


# Few-shot episodes: 5way10shot/0.pkl holds lists of (points, label within the episode, class) for train and test.


def _find_episodes(root: Path) -> Path | None:
    for folder in (root, root / "ModelNetFewshot"):
        if any(matching(folder / name, r"\d+\.pkl") for name in alike(folder, EPISODES)):
            return folder
    return None


def _episodes(folder: Path) -> Listing:
    """List all episodes; each is a task of its own, with classes of its own: its group."""
    entries: list[Entry] = []
    problems: list[str] = []
    ways = 0
    for setting in alike(folder, EPISODES):
        way, shot = map(int, re.findall(r"\d+", setting))
        ways = max(ways, way)
        files = names(folder / setting, ".pkl")
        if len(files) != 10:
            problems.append(f"{setting}: {len(files)} of 10 episodes")
        for file in files:
            path, group = folder / setting / file, f"{setting}/{file.removesuffix('.pkl')}"
            with reading(path):
                episode = pickled(path)
                for part, split in SPLITS.items():
                    kinds = _classes_of([sample[1] for sample in episode[part]], len(episode[part]), way)
                    if part == "train" and len(kinds) != way * shot:
                        problems.append(f"{group}: train: {len(kinds)} of {way * shot} shapes")
                    entries += (
                        Entry(f"{group}/{part}/{row}", path, row, kind, split, group) for row, kind in enumerate(kinds)
                    )
    classes = tuple(f"class {label}" for label in range(ways))
    found = tuple(entries)
    return Listing(folder, found, read_episode, classes=classes, has_split=True, problems=tuple(problems))


def read_episode(entry: Entry) -> Raw:
    """Read the points of one shape of an episode: (N, 3) or (N, 6) with normals."""
    with reading(entry.path):
        points = np.asarray(pickled(entry.path)["test" if entry.split == TEST else "train"][entry.row][0])
        return cloud(points, NORMALS if points.shape[1:] == (6,) else ())


TERMS = "for academic research; the models belong to their authors"
PRINCETON, STANFORD = "modelnet.cs.princeton.edu", "shapenet.cs.stanford.edu/media/{} (often down), and mirrors of it"
POINT_BERT = "DATASET.md of github.com/Julie-tang00/Point-BERT"
COUNTS = {
    10: {"train": 3_991, "test": 908, "classes": 10},
    40: {"train": 9_843, "test": 2_468, "classes": 40},
}


def _texts(count: int) -> Layout:
    return Layout(
        f"modelnet{count}", f"ModelNet{count}: 10,000 points of each model, with normals",
        STANFORD.format(f"{RESAMPLED}.zip"), TERMS, "1.6 GB packed", COUNTS[count],
        f"modelnet{count}_shape_names.txt, modelnet{count}_train.txt, bed/bed_0001.txt",
        partial(_find_text, count), partial(_text, count),
    )  # fmt: skip


def _offs(count: int, size: str) -> Layout:
    return Layout(
        f"modelnet{count}-off", f"ModelNet{count}: the meshes", PRINCETON, TERMS, size, COUNTS[count],
        "bed/train/bed_0001.off", partial(_find_meshes, count), partial(_meshes, count),
    )  # fmt: skip


MODELNET = (
    _texts(40),
    _texts(10),
    _offs(40, "2.0 GB packed"),
    _offs(10, "0.5 GB packed"),
    Layout(
        "modelnet40-h5", "ModelNet40: 2,048 points of each model", STANFORD.format("modelnet40_ply_hdf5_2048.zip"),
        TERMS, "0.4 GB packed", {**COUNTS[40], "train": 9_840}, "ply_data_train0.h5, train_files.txt, shape_names.txt",
        _find_h5, _h5,
    ),
    Layout(
        "modelnet40-dat", "ModelNet40: 8,192 points of each model, with normals, in two pickles", POINT_BERT, TERMS,
        "2.4 GB", COUNTS[40], "modelnet40_train_8192pts_fps.dat, modelnet40_test_8192pts_fps.dat",
        _find_cache, _cache,
    ),
    Layout(
        "modelnet40-fewshot", "ModelNet40: few-shot episodes in pickles", POINT_BERT, TERMS, "2.1 GB",
        {"shapes": 10_500}, "5way10shot/0.pkl or 5way_10shot/0.pkl", _find_episodes, _episodes,
    ),
)  # fmt: skip
