"""Rooms and streets whose points have classes: S3DIS, ScanNet, SemanticKITTI."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.formats import Array, read_file
from pointmadi.data.formats.raw import INTENSITY, RGB, Raw, check
from pointmadi.data.layouts.layout import Layout, alike, home, listed, matching, missing, names, read_lists
from pointmadi.data.layouts.reading import array, cloud, labelled, lookup, reading, rows, within
from pointmadi.data.listing import Entry, Listing

# S3DIS: six areas of an office building; Area 5 is for testing.

S3DIS_CLASSES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase", "board",
    "clutter",
)  # fmt: skip
AREA = r"Area_[1-6]"
TEST_AREA = "Area_5"
ALIGNED = ("Stanford3dDataset_v1.2_Aligned_Version", "Stanford3dDataset_v1.2")
DAMAGED_LINES = 1e-3  # share of the lines of an annotation that may be left out


def _find_s3dis(root: Path) -> Path | None:
    return matching(root, rf"{AREA}_.+\.npy", ("stanford_indoor3d",))


def _s3dis(folder: Path) -> Listing:
    rooms = alike(folder, rf"{AREA}_.+\.npy")
    entries = [_room(name[:6], name.removesuffix(".npy"), folder / name) for name in rooms]
    return Listing(folder, tuple(entries), read_s3dis, classes=S3DIS_CLASSES, has_split=True, rooms=True)


def _room(area: str, name: str, path: Path) -> Entry:
    return Entry(name, path, split=TEST if area == TEST_AREA else TRAIN, group=area)


def read_s3dis(entry: Entry) -> Raw:
    """Read rows `x y z r g b class`."""
    with reading(entry.path):
        table = array(entry.path, 7)
        return labelled(cloud(table[:, :6], RGB), within(table[:, 6], S3DIS_CLASSES, "classes"))


def _find_annotations(root: Path) -> Path | None:
    for folder in (root, *(root / name for name in ALIGNED)):
        for area in alike(folder, AREA):
            if any((folder / area / room / "Annotations").is_dir() for room in names(folder / area)):
                return folder
    return None


def _annotations(folder: Path) -> Listing:
    areas = alike(folder, AREA)
    rooms = [(area, room) for area in areas for room in names(folder / area) if (folder / area / room).is_dir()]
    bare = [pair for pair in rooms if not names(folder / pair[0] / pair[1] / "Annotations", ".txt")]
    entries = tuple(
        _room(area, f"{area}_{room}", folder / area / room / "Annotations")
        for area, room in rooms
        if (area, room) not in bare
    )
    problems = missing(f"{area}/{room}/Annotations/*.txt" for area, room in bare)
    return Listing(
        folder, entries, read_annotations, classes=S3DIS_CLASSES, has_split=True, rooms=True, problems=problems
    )  # fmt: skip


def read_annotations(entry: Entry) -> Raw:
    """Read a room from one text file an object, `x y z r g b`; its name up to the underscore is its class."""
    tables, labels = [], []
    for file in names(entry.path, ".txt"):
        with reading(entry.path / file):
            tables.append(_rows(entry.path / file))
        kind = file.partition("_")[0]
        label = S3DIS_CLASSES.index(kind if kind in S3DIS_CLASSES else "clutter")  # stairs are clutter, as everywhere
        labels.append(np.full(len(tables[-1]), label))
    with reading(entry.path):
        return labelled(cloud(np.concatenate(tables), RGB), np.concatenate(labels))


def _rows(path: Path) -> Array:
    """Read rows of six numbers, without the few lines of the published files that hold control characters."""
    try:
        return rows(path, 6)
    except ValueError:
        text = path.read_bytes().splitlines()
        whole = [line for line in text if _is_row(line)]
        if len(text) - len(whole) > max(1, DAMAGED_LINES * len(text)):
            raise
        return rows(whole, 6)


def _is_row(line: bytes) -> bool:
    try:
        return len([float(word) for word in line.split()]) == 6
    except ValueError:
        return False


# ScanNet: scans of rooms; the validation scans test, since those for testing have no labels.

NYU40 = {
    1: "wall", 2: "floor", 3: "cabinet", 4: "bed", 5: "chair", 6: "sofa", 7: "table", 8: "door", 9: "window",
    10: "bookshelf", 11: "picture", 12: "counter", 14: "desk", 16: "curtain", 24: "refrigerator", 28: "shower curtain",
    33: "toilet", 34: "sink", 36: "bathtub", 39: "otherfurniture",
}  # fmt: skip
SCANNET_CLASSES = tuple(NYU40.values())
OF_NYU40 = np.array([list(NYU40).index(label) if label in NYU40 else -1 for label in range(41)])
SCAN = r"scene\d{4}_\d{2}"
LISTS = {"scannetv2_train.txt": TRAIN, "scannetv2_val.txt": TEST}
MESH, LABELS = "_vh_clean_2.ply", "_vh_clean_2.labels.ply"
VERTICES, CLASSES = "_vert.npy", "_sem_label.npy"  # of VoteNet's export
EXPORT = "scannet_train_detection_data"


def _find_scannet(root: Path) -> Path | None:
    for folder in (root / "scans", root):
        if any((folder / name / f"{name}{MESH}").exists() for name in alike(folder, SCAN)):
            return folder
    return None


def _scannet(folder: Path) -> Listing:
    files = {name: folder / name / f"{name}{MESH}" for name in alike(folder, SCAN)}
    wanted = [folder / name / f"{name}{end}" for name in files for end in (MESH, LABELS)]
    lacking = missing(path.name for path in wanted if not path.exists())
    there = {name: path for name, path in files.items() if path.exists()}
    return _scans(folder, there, LABELS, read_scannet, lacking)


def _find_export(root: Path) -> Path | None:
    return matching(root, rf"{SCAN}_vert\.npy", (EXPORT,))


def _export(folder: Path) -> Listing:
    present = set(names(folder, ".npy"))
    scans = [name.removesuffix("_vert.npy") for name in alike(folder, rf"{SCAN}_vert\.npy")]
    lacking = missing(f"{name}_sem_label.npy" for name in scans if f"{name}_sem_label.npy" not in present)
    return _scans(folder, {name: folder / f"{name}{VERTICES}" for name in scans}, CLASSES, read_export, lacking)


def _scans(
    folder: Path, files: dict[str, Path], end: str, read: Callable[[Entry], Raw], lacking: tuple[str, ...]
) -> Listing:
    """Split scans by the official lists, where they lie beside them; `end` is that of the files of their labels."""
    around = (folder, folder.parent, folder / "meta_data", folder.parent / "meta_data")
    beside = next((place for place in around if any((place / title).exists() for title in LISTS)), folder)
    lists, unlisted = read_lists(beside, tuple(LISTS.items()))
    if lists:
        found, problems = listed(lists, files, lambda name: name)
        split = {name: part for name, _, part, _ in found}
        extra = sorted(files.keys() - split.keys())
        if extra:
            problems += (f"{len(extra)} scans are in no list and are left out (first: {extra[0]})",)
    else:
        split, problems = dict.fromkeys(files, TRAIN), ()
    entries = tuple(
        Entry(name, files[name], split=split[name], group=name[:9], labels=files[name].with_name(f"{name}{end}"))
        for name in sorted(split)
    )
    problems = lacking + unlisted + problems
    return Listing(
        folder, entries, read, classes=SCANNET_CLASSES, has_split=bool(lists), rooms=True, problems=problems
    )  # fmt: skip


def _labels(entry: Entry) -> Path | None:
    return entry.labels if entry.labels and entry.labels.exists() else None


def read_scannet(entry: Entry) -> Raw:
    """Read the vertices of a mesh, their colours, and their labels from the mesh beside it; −1 where there is none."""
    raw = replace(read_file(entry.path), faces=None)
    with reading(entry.path):
        check(raw)  # the vertices that no face uses, too
    labels = _labels(entry)
    with reading(labels or entry.path):
        nyu40 = _label(read_file(labels)) if labels else np.zeros(len(raw.points))
        return labelled(raw, lookup(nyu40, OF_NYU40))


def _label(raw: Raw) -> Array:
    if "label" not in raw.feature_names:
        raise ValueError("its vertices have no label")
    return raw.features[:, raw.feature_names.index("label")]


def read_export(entry: Entry) -> Raw:
    """Read `_vert.npy` (x y z r g b) and `_sem_label.npy`; −1 where there is none."""
    labels = _labels(entry)
    with reading(entry.path):
        raw = cloud(array(entry.path, 6), RGB)
    with reading(labels or entry.path):
        nyu40 = array(labels, 0) if labels else np.zeros(len(raw.points))
        return labelled(raw, lookup(nyu40, OF_NYU40))


# SemanticKITTI: sequences of scans of streets; 08 is for validation, 11 … 21 have no labels.

KITTI_CLASSES = {
    "car": (10, 252), "bicycle": (11,), "motorcycle": (15,), "truck": (18, 258),
    "other-vehicle": (13, 16, 20, 256, 257, 259), "person": (30, 254), "bicyclist": (31, 253),
    "motorcyclist": (32, 255), "road": (40, 60), "parking": (44,), "sidewalk": (48,), "other-ground": (49,),
    "building": (50,), "fence": (51,), "vegetation": (70,), "trunk": (71,), "terrain": (72,), "pole": (80,),
    "traffic-sign": (81,),
}  # fmt: skip
OF_KITTI = np.full(260, -1)
for _place, _ids in enumerate(KITTI_CLASSES.values()):
    OF_KITTI[list(_ids)] = _place
SEQUENCES = {f"{number:02d}": TEST if number == 8 else TRAIN for number in range(11)}


def _find_kitti(root: Path) -> Path | None:
    folder = home(root, ("sequences",), ("dataset",))
    return folder if folder and any((folder / "sequences" / n / "velodyne").is_dir() for n in SEQUENCES) else None


def _kitti(folder: Path) -> Listing:
    entries, problems = [], []
    for sequence, split in SEQUENCES.items():
        place = folder / "sequences" / sequence
        scans, labels = names(place / "velodyne", ".bin"), set(names(place / "labels", ".label"))
        if not scans:
            problems.append(f"missing: sequences/{sequence}/velodyne/*.bin")
        bare = [scan for scan in scans if scan.replace(".bin", ".label") not in labels]
        if bare:
            problems.append(f"{len(bare)} scans of sequence {sequence} have no labels (first: {bare[0]})")
        entries += [
            Entry(
                f"{sequence}/{scan}",
                place / "velodyne" / f"{scan}.bin",
                -1,
                -1,
                split,
                sequence,
                labels=place / f"labels/{scan}.label",
            )
            for scan in (scan.removesuffix(".bin") for scan in scans)
        ]
    return Listing(
        folder, tuple(entries), read_kitti, classes=tuple(KITTI_CLASSES), has_split=True, rooms=True,
        problems=tuple(problems),
    )  # fmt: skip


def read_kitti(entry: Entry) -> Raw:
    """Read float32 `x y z remission` and the lower 16 bits of the labels; −1 where there are none."""
    labels = _labels(entry)
    with reading(entry.path):
        raw = cloud(np.frombuffer(entry.path.read_bytes(), "<f4").reshape(-1, 4), INTENSITY)
    with reading(labels or entry.path):
        ids = np.frombuffer(labels.read_bytes(), "<u4") & 0xFFFF if labels else np.zeros(len(raw.points))
        return labelled(raw, lookup(ids, OF_KITTI))


STANFORD = "the form at cvg-data.inf.ethz.ch/s3dis or sdss.redivis.com"
S3DIS_TERMS = "terms of the form (research, not commercial)"
S3DIS_COUNTS = {"train": 204, "test": 68, "classes": 13}
SCANNET = "the form at github.com/ScanNet/ScanNet"
SCANNET_TERMS = "ScanNet terms of use (by a form; research, not commercial)"
SCANNET_COUNTS = {"train": 1_201, "test": 312, "classes": 20}

ROOMS = (
    Layout(
        "s3dis", "S3DIS: rooms with colours and 13 classes, as PointNet exports them", STANFORD, S3DIS_TERMS,
        "see the form", S3DIS_COUNTS, "Area_1_conferenceRoom_1.npy", _find_s3dis, _s3dis,
    ),
    Layout(
        "s3dis-raw", "S3DIS: rooms with colours and 13 classes, as published", STANFORD, S3DIS_TERMS, "see the form",
        S3DIS_COUNTS, "Area_1/conferenceRoom_1/Annotations/*.txt", _find_annotations, _annotations,
    ),
    Layout(
        "scannet", "ScanNet v2: scanned rooms with colours and 20 classes", SCANNET, SCANNET_TERMS,
        "1.3 TB in all; only two small meshes a scan are needed", SCANNET_COUNTS,
        "scene0000_00/scene0000_00_vh_clean_2.ply", _find_scannet, _scannet,
    ),
    Layout(
        "scannet-votenet", "ScanNet v2, as VoteNet exports it",
        f"{SCANNET}, then scannet/batch_load_scannet_data.py of github.com/facebookresearch/votenet", SCANNET_TERMS,
        "see scannet", SCANNET_COUNTS, "scene0000_00_vert.npy", _find_export, _export,
    ),
    Layout(
        "semantickitti", "SemanticKITTI: laser scans of streets with 19 classes",
        "semantic-kitti.org (labels) and the odometry benchmark of KITTI (scans; registration)", "CC BY-NC-SA",
        "80 GB", {"train": 19_130, "test": 4_071, "classes": 19},
        "sequences/00/velodyne/000000.bin", _find_kitti, _kitti,
    ),
)  # fmt: skip
