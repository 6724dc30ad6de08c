"""Published layouts: recognised, listed and read."""

import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import listing, tree

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.layouts import LAYOUTS, detect

DOCS = Path(__file__).parents[1] / "docs" / "layouts.md"
ALSO = {"shapenet55": {"shapenet55-merged"}, "scanobjectnn-hardest": {"scanobjectnn-bg", "scanobjectnn-object_only"}}

# name of the layout -> (entry, label, split, group) of all that its tree holds
HELD = {
    "shapenet55": [("02691156-a1", 0, TRAIN, ""), ("03001627-b2", 18, TRAIN, ""), ("04554684-c3", 54, TEST, "")],
    "shapenet55-merged": [
        ("02691156-a1", 0, TRAIN, ""), ("03001627-b2", 18, TRAIN, ""), ("04554684-c3", 54, TRAIN, "")
    ],
    "objaverse": [("u1", 0, TRAIN, "000-000"), ("u2", -1, TRAIN, "000-000"), ("u3", 1, TRAIN, "000-159")],
    "modelnet40": [("bed_0001", 0, TRAIN, ""), ("night_stand_0002", 1, TRAIN, ""), ("bed_0003", 0, TEST, "")],
    "modelnet10": [("bed_0001", 0, TRAIN, ""), ("night_stand_0002", 1, TRAIN, ""), ("bed_0003", 0, TEST, "")],
    "modelnet40-off": [("airplane_0001", 0, TRAIN, ""), ("bed_0002", 2, TEST, "")],
    "modelnet10-off": [("bed_0001", 1, TRAIN, ""), ("table_0002", 8, TEST, "")],
    "modelnet40-h5": [
        ("ply_data_train0/0", 1, TRAIN, ""), ("ply_data_train0/1", 0, TRAIN, ""), ("ply_data_test0/0", 1, TEST, "")
    ],
    "modelnet40-dat": [("train/0", 3, TRAIN, ""), ("train/1", 0, TRAIN, ""), ("test/0", 39, TEST, "")],
    "modelnet40-fewshot": [
        *((f"2way1shot/0/train/{i}", i, TRAIN, "2way1shot/0") for i in range(2)),
        ("2way1shot/0/test/0", 1, TEST, "2way1shot/0"),
        *((f"3way_2shot/9/train/{i}", i // 2, TRAIN, "3way_2shot/9") for i in range(6)),
        ("3way_2shot/9/test/0", 2, TEST, "3way_2shot/9"),
    ],
    "scanobjectnn-hardest": [
        ("training_objectdataset_augmentedrot_scale75/0", 14, TRAIN, ""),
        ("training_objectdataset_augmentedrot_scale75/1", 0, TRAIN, ""),
        ("test_objectdataset_augmentedrot_scale75/0", 2, TEST, ""),
    ],
    "scanobjectnn-bg": [
        ("training_objectdataset/0", 14, TRAIN, ""), ("training_objectdataset/1", 0, TRAIN, ""),
        ("test_objectdataset/0", 2, TEST, ""),
    ],
    "scanobjectnn-object_only": [
        ("training_objectdataset/0", 14, TRAIN, ""), ("training_objectdataset/1", 0, TRAIN, ""),
        ("test_objectdataset/0", 2, TEST, ""),
    ],
    "shapenetpart": [("02691156/a1", 0, TRAIN, ""), ("03001627/b2", 4, TRAIN, "val"), ("02691156/c3", 0, TEST, "")],
    "shapenetpart-h5": [
        ("ply_data_train0/0", 0, TRAIN, ""), ("ply_data_train0/1", 4, TRAIN, ""),
        ("ply_data_val0/0", 15, TRAIN, "val"), ("ply_data_test0/0", 1, TEST, ""),
    ],
    "s3dis": [("Area_1_office_1", -1, TRAIN, "Area_1"), ("Area_5_hallway_6", -1, TEST, "Area_5")],
    "s3dis-raw": [("Area_1_office_1", -1, TRAIN, "Area_1"), ("Area_5_hallway_6", -1, TEST, "Area_5")],
    "scannet": [
        ("scene0000_00", -1, TRAIN, "scene0000"), ("scene0000_01", -1, TRAIN, "scene0000"),
        ("scene0011_00", -1, TEST, "scene0011"),
    ],
    "scannet-votenet": [("scene0000_00", -1, TRAIN, "scene0000"), ("scene0011_00", -1, TRAIN, "scene0011")],
    "semantickitti": [("00/000000", -1, TRAIN, "00"), ("08/000000", -1, TEST, "08")],
    "sweethome3d": [("Lib/oak (Oak chair)", 6, TRAIN, ""), ("Lib/bill (Bill 10€)", -1, TRAIN, "")],
}  # fmt: skip

# name of the layout -> (channels, classes of the points) of its first entry
READ = {
    "shapenet55": ((), None),
    "shapenet55-merged": ((), None),
    "modelnet40": (("nx", "ny", "nz"), None),
    "modelnet10": (("nx", "ny", "nz"), None),
    "modelnet40-h5": (("nx", "ny", "nz"), None),
    "modelnet40-dat": (("nx", "ny", "nz"), None),
    "modelnet40-fewshot": (("nx", "ny", "nz"), None),
    "scanobjectnn-hardest": ((), [0] * 5 + [1] * 11),
    "scanobjectnn-bg": ((), [0] * 5 + [1] * 11),
    "scanobjectnn-object_only": ((), [0] * 5 + [1] * 11),
    "shapenetpart": (("nx", "ny", "nz"), [3] * 16),
    "shapenetpart-h5": ((), [49] * 16),
    "s3dis": (("r", "g", "b"), [i % 13 for i in range(16)]),
    "s3dis-raw": (("r", "g", "b"), [8] * 16 + [12] * 16),
    "scannet": (("r", "g", "b"), [-1, 0, 19, -1] * 4),
    "scannet-votenet": (("r", "g", "b"), [-1, 0, 19, -1] * 4),
    "semantickitti": (("intensity",), [-1, 0, 0, 18] * 4),
}


def test_every_layout_has_a_tree() -> None:
    assert LAYOUTS.keys() - trees.TREES.keys() == {"shapenet55-merged"}
    assert HELD.keys() == LAYOUTS.keys() and all(name == layout.name for name, layout in LAYOUTS.items())
    assert LAYOUTS.keys() - READ.keys() == {"objaverse", "modelnet40-off", "modelnet10-off", "sweethome3d"}  # meshes


@pytest.mark.parametrize("name", trees.TREES)
def test_a_tree_is_recognised_as_its_own_layout_and_as_no_other(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path, name)
    found = detect(root)
    assert found is not None and found.name == name
    assert {other for other, layout in LAYOUTS.items() if layout.detect(root)} == {name} | ALSO.get(name, set())


@pytest.mark.parametrize("name", trees.TREES)
def test_a_layout_is_not_there_without_its_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name} is not there; it is recognised by .*") as error:
        LAYOUTS[name].list(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "files",
    [
        ("chair.off", "table.ply", "scan.npy", "rooms.h5", "list.txt"),
        ("chair/1.off", "chair/2.off", "table/3.ply"),
        ("chair/train/mine.off", "chair/test/yours.off"),  # as ModelNet has it, but for the names of the files
        ("train/chair/1.obj", "test/chair/2.obj", "train.txt", "test.txt"),
        ("glbs/chair.glb", "glbs/mine/table.glb"),
        ("sequences/walk/1.ply", "scans/kitchen/kitchen.ply", "Area_51/a.npy", "shapenet_pc/a.npy"),
        (),
    ],
)
def test_other_folders_are_recognised_as_none(tmp_path: Path, files: tuple[str, ...]) -> None:
    for file in files:
        trees.write(tmp_path / file, "")
    assert detect(tmp_path) is None


def test_a_missing_folder_is_recognised_as_none(tmp_path: Path) -> None:
    assert detect(tmp_path / "nowhere") is None and detect(trees.write(tmp_path / "file.off", "")) is None


@pytest.mark.parametrize("name", LAYOUTS)
def test_listing(tmp_path: Path, name: str) -> None:
    found = listing(tmp_path, name)
    assert [(e.name, e.label, e.split, e.group) for e in found.entries] == HELD[name]
    assert found.layout == name and all(entry.path.exists() for entry in found.entries)
    assert len({entry.name for entry in found.entries}) == len(found.entries)
    assert found.has_split == (name not in ("objaverse", "shapenet55-merged", "scannet-votenet"))
    assert found.rooms == name.startswith(("s3dis", "scannet", "semantickitti"))
    assert len(found.part_class) in (0, len(found.part_names))
    official = LAYOUTS[name].counts
    expected = "shapes" if "train" not in official else "train"
    have = sum(entry.split == TRAIN and entry.group != "val" for entry in found.entries)
    have = len(found.entries) if expected == "shapes" else have
    assert any(line.startswith(f"{expected}: {have} of {official[expected]}") for line in found.problems)
    again = pickle.loads(pickle.dumps(found))  # readings happen in other processes
    assert again.entries == found.entries and again.read is found.read


@pytest.mark.parametrize("name", LAYOUTS)
def test_reading(tmp_path: Path, name: str) -> None:
    found = listing(tmp_path, name)
    for entry in found.entries:
        assert found.read(entry).points.shape[1] == 3
    raw = found.read(found.entries[0])
    if name not in READ:
        assert raw.faces is not None and len(raw.faces) == 12
        return
    features, part = READ[name]
    assert (
        raw.faces is None and raw.feature_names == features and raw.features.shape == (len(raw.points), len(features))
    )
    assert raw.points.dtype == np.float64 and raw.features.dtype == np.float32
    assert (None if raw.part is None else raw.part.tolist()) == part
    np.testing.assert_allclose(raw.points[: trees.N], trees.table(0, _columns(name))[:, :3], atol=1e-5)


def _columns(name: str) -> int:
    """Columns of the random table that the tree of a layout was made of."""
    return {"modelnet40-h5": 3, "shapenetpart": 6, "semantickitti": 4}.get(
        name, 6 if name.startswith("modelnet") else 3
    )


def test_colours_lie_between_0_and_1(tmp_path: Path) -> None:
    for name, level in (("s3dis", 1.0), ("s3dis-raw", 0.2), ("scannet", 0.4), ("scannet-votenet", 1.0)):
        found = listing(tmp_path / name, name)
        np.testing.assert_allclose(found.read(found.entries[0]).features, level, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("modelnet40", "modelnet40_normal_resampled"), ("modelnet40-off", "ModelNet40"),
        ("modelnet40-h5", "modelnet40_ply_hdf5_2048"), ("modelnet40-fewshot", "ModelNetFewshot"),
        ("scanobjectnn-hardest", "h5_files"), ("shapenetpart-h5", "hdf5_data"), ("s3dis", "stanford_indoor3d"),
        ("s3dis-raw", "Stanford3dDataset_v1.2_Aligned_Version"), ("semantickitti", "dataset"),
        ("shapenet55", "ShapeNet55-34"), ("scannet-votenet", "scannet_train_detection_data"),
    ],
)  # fmt: skip
def test_the_folder_of_the_archive_may_lie_between(tmp_path: Path, name: str, folder: str) -> None:
    tree(tmp_path / folder, name)
    found = detect(tmp_path)
    assert found is not None and found.name == name
    assert [(e.name, e.label, e.split, e.group) for e in found.list(tmp_path).entries] == HELD[name]


def test_a_folder_of_one_scanobjectnn_split_will_do(tmp_path: Path) -> None:
    trees.scanobjectnn(tmp_path, "main_split_nobg", "")
    found = detect(tmp_path / "main_split_nobg")
    assert found is not None and found.name == "scanobjectnn-object_only"


def test_the_split_of_scannet_may_lie_beside_an_export(tmp_path: Path) -> None:
    root = tree(tmp_path, "scannet-votenet")
    trees.write(root / "meta_data/scannetv2_train.txt", "scene0000_00\n")
    trees.write(root / "meta_data/scannetv2_val.txt", "scene0011_00\n")
    found = LAYOUTS["scannet-votenet"].list(root)
    assert found.has_split and [entry.split for entry in found.entries] == [TRAIN, TEST]


def test_the_documents_name_every_layout_and_its_counts() -> None:
    lines = {line.split("`")[1]: line for line in DOCS.read_text().splitlines() if line.startswith("| `")}
    assert lines.keys() == LAYOUTS.keys()
    for name, layout in LAYOUTS.items():
        assert all(f"{count:,} {what}" in lines[name] for what, count in layout.counts.items())


@pytest.mark.slow
def test_52470_files_are_listed_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "shapenet_pc").mkdir()
    files = [f"02691156-{i:08x}.npy" for i in range(52_470)]
    for file in files:
        (tmp_path / "shapenet_pc" / file).touch()
    trees.write(tmp_path / "ShapeNet-55/train.txt", "\n".join(files[:41_952]))
    trees.write(tmp_path / "ShapeNet-55/test.txt", "\n".join(files[41_952:]))
    start = time.perf_counter()
    found = LAYOUTS["shapenet55"].list(tmp_path)
    seconds = time.perf_counter() - start
    assert len(found.entries) == 52_470 and not found.problems
    print(f"{seconds:.2f} s")
    assert seconds < 8  # about one on a quiet machine


@pytest.mark.parametrize("name", ["modelnet40-h5", "modelnet40-dat"])
def test_other_processes_read_what_this_one_has_open(tmp_path: Path, name: str) -> None:
    found = listing(tmp_path, name)
    here = [found.read(entry).points for entry in found.entries]
    with ProcessPoolExecutor(2) as pool:
        there = [raw.points for raw in pool.map(found.read, found.entries * 10)]
    np.testing.assert_array_equal(there, here * 10)
