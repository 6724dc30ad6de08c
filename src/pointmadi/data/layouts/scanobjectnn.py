"""ScanObjectNN in its three usual variants."""

from functools import partial
from pathlib import Path

import numpy as np

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.formats.raw import Raw
from pointmadi.data.layouts.layout import Layout, home
from pointmadi.data.layouts.reading import cloud, h5, h5_entries, h5_file, labelled, reading
from pointmadi.data.listing import Entry, Listing

CLASSES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow", "sink",
    "sofa", "toilet",
)  # fmt: skip
FILES = {"training_objectdataset": TRAIN, "test_objectdataset": TEST}
HARDEST = "_augmentedrot_scale75"
BACKGROUND = -1  # of `mask`


def _find(below: str, suffix: str, root: Path) -> Path | None:
    file = f"training_objectdataset{suffix}.h5"
    folder = home(root, (f"{below}/{file}",), ("h5_files",))
    return folder / below if folder else root if root.name == below and (root / file).exists() else None


def _scan(suffix: str, folder: Path) -> Listing:
    paths = {folder / f"{file}{suffix}.h5": split for file, split in FILES.items()}
    lacking = tuple(f"missing: {folder.name}/{path.name}" for path in paths if not path.exists())
    entries = tuple(e for path, split in paths.items() if path.exists() for e in h5_entries(path, CLASSES, split))
    parts = ("background", "object") if any("mask" in h5_file(path) for path in paths if path.exists()) else ()
    return Listing(folder, entries, read, classes=CLASSES, part_names=parts, has_split=True, problems=lacking)


def read(entry: Entry) -> Raw:
    """Read a row of `data` and, where it is there, of `mask`: part 0 background, 1 object."""
    with reading(entry.path):
        raw = cloud(h5(entry.path, "data")[entry.row])
        if "mask" not in h5_file(entry.path):
            return raw
        return labelled(raw, np.asarray(h5(entry.path, "mask")[entry.row]) != BACKGROUND)


def _variant(name: str, title: str, below: str, suffix: str, train: int, test: int) -> Layout:
    return Layout(
        f"scanobjectnn-{name}", f"ScanObjectNN, {title}: 2,048 points of scanned objects",
        "hkust-vgd.github.io/scanobjectnn (h5_files.zip)", "terms of use on that page (research)", "see the page",
        {"train": train, "test": test, "classes": len(CLASSES)}, f"{below}/training_objectdataset{suffix}.h5",
        partial(_find, below, suffix), partial(_scan, suffix),
    )  # fmt: skip


SCANOBJECTNN = (
    _variant("hardest", "PB_T50_RS", "main_split", HARDEST, 11_416, 2_882),
    _variant("bg", "OBJ_BG", "main_split", "", 2_309, 581),
    _variant("object_only", "OBJ_ONLY", "main_split_nobg", "", 2_309, 581),
)
