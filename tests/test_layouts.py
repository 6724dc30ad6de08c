"""Published layouts: recognised, listed, read, and what is wrong with them said in one line."""

import gzip
import json
import os
import pickle
import time
from pathlib import Path

import h5py
import layout_trees as trees
import numpy as np
import pytest

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.layouts import LAYOUTS, detect
from pointmadi.data.listing import Listing

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


def tree(root: Path, name: str) -> Path:
    trees.TREES[name if name in trees.TREES else "shapenet55"](root)
    return root


def listing(root: Path, name: str) -> Listing:
    return LAYOUTS[name].list(tree(root, name))


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


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"modelnet40-dat", "modelnet40-fewshot"}))
@pytest.mark.parametrize("content", [b"", b"garbage \xff\x00 garbage", None])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    found = listing(tmp_path, name)
    entry = found.entries[0]
    path = next(entry.path.iterdir()) if entry.path.is_dir() else entry.path
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    if content is None and path.suffix in (".txt", ".off", ".glb", ".h5", ".ply"):
        return  # what is left may be whole
    with pytest.raises(ValueError, match=str(path)) as error:
        found.read(entry)
    assert "\n" not in str(error.value)


def test_a_file_that_went_away_speaks_for_itself(tmp_path: Path) -> None:
    for name in ("modelnet40", "modelnet40-h5", "semantickitti"):
        found = listing(tmp_path / name, name)
        found.entries[0].path.unlink()
        with pytest.raises(FileNotFoundError):
            found.read(found.entries[0])


@pytest.mark.parametrize("name", ["modelnet40-h5", "shapenetpart-h5", "scanobjectnn-bg"])
def test_a_damaged_h5_cannot_be_listed(tmp_path: Path, name: str) -> None:
    path = listing(tmp_path, name).entries[0].path
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{path}: damaged") as error:
        LAYOUTS[name].list(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"label": np.array([0, 15])}, "classes 0 … 15 of 15"),
        ({"label": np.array([0])}, "1 labels for data"),
        ({}, "has no numbers called label"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    trees.write_h5(tmp_path / "main_split/training_objectdataset.h5", 2, **arrays)
    with pytest.raises(ValueError, match=reason):
        LAYOUTS["scanobjectnn-bg"].list(tmp_path)


def test_an_h5_that_promises_too_much_or_points_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "main_split/training_objectdataset.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (1 << 30, 2048, 3), "f4", chunks=(1, 2048, 3))  # without one byte of it
        file.create_dataset("label", (1 << 30,), "i8", chunks=(1024,))
    with pytest.raises(ValueError, match="promises 8589934592 bytes of label"):
        LAYOUTS["scanobjectnn-bg"].list(tmp_path)
    elsewhere = trees.write_h5(tmp_path / "other.h5", 1, label=np.array([0]))
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros((1, 4, 3))
        file["label"] = h5py.ExternalLink(elsewhere, "label")
    with pytest.raises(ValueError, match="has no numbers called label"):
        LAYOUTS["scanobjectnn-bg"].list(tmp_path)


@pytest.mark.parametrize("name", ["modelnet40-h5", "modelnet40-dat", "modelnet40-fewshot"])
def test_a_changed_file_is_read_anew(tmp_path: Path, name: str) -> None:
    found = listing(tmp_path / "a", name)
    entry = found.entries[0]
    before = found.read(entry).points
    tree(tmp_path / "b", name)
    other = tmp_path / "b" / entry.path.relative_to(tmp_path / "a")
    if name.endswith("h5"):
        with h5py.File(other, "a") as file:
            file["data"][0] += 1
    else:
        held = pickle.loads(other.read_bytes())
        (held["train"][0][0] if isinstance(held, dict) else held[0][0])[:] += 1
        other.write_bytes(pickle.dumps(held))
    entry.path.write_bytes(other.read_bytes())  # in place: the same file, of the same size
    os.utime(entry.path, ns=(1, 1))
    np.testing.assert_allclose(found.read(entry).points, before + 1, atol=1e-6)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["modelnet40-dat", "modelnet40-fewshot"])
def test_pickles_are_never_executed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = listing(tmp_path, name).entries[0].path
    for content in (pickle.dumps([[Trap()], [0]]), b"garbage", pickle.dumps({"train": 3}), pickle.dumps(7)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=str(path)) as error:
            LAYOUTS[name].list(tmp_path)
        assert "\n" not in str(error.value)
    assert not Path("executed").exists()


def test_files_and_lists_that_are_missing_are_counted(tmp_path: Path) -> None:
    root = tree(tmp_path, "modelnet40")
    (root / "modelnet40_train.txt").write_text("bed_0001\nbed_0003\nbed_0008\nbed_0009\ntable_0001\n")
    problems = LAYOUTS["modelnet40"].list(root).problems
    assert "3 files named in modelnet40_train.txt are not there (first: bed/bed_0008.txt)" in problems
    assert "1 names in modelnet40_test.txt are in another list as well (first: bed_0003)" in problems
    assert "train: 2 of 9843 shapes" in problems and "classes: 2 of 40" in problems
    (root / "modelnet40_test.txt").unlink()
    assert "missing: modelnet40_test.txt" in LAYOUTS["modelnet40"].list(root).problems
    (root / "modelnet40_train.txt").write_text("table_0001\n")
    with pytest.raises(
        ValueError, match=r"no shape of modelnet40 is there \(missing: modelnet40_test.txt; 1 file named"
    ):
        LAYOUTS["modelnet40"].list(root)
    (root / "modelnet40_train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="damaged, or not a list of names"):
        LAYOUTS["modelnet40"].list(root)


@pytest.mark.parametrize(
    ("name", "gone", "problem"),
    [
        ("modelnet40-off", "bed", "missing: bed"),
        ("modelnet40-h5", "ply_data_test0.h5",
         "1 file named in test_files.txt is not there (first: ply_data_test0.h5)"),
        ("modelnet40-h5", "test_files.txt", "missing: test_files.txt"),
        ("modelnet40-dat", f"modelnet40_test_{trees.N}pts_fps.dat", "missing: modelnet40_test_8192pts_fps.dat"),
        ("modelnet40-fewshot", "2way1shot/0.pkl", "2way1shot: 0 of 10 episodes"),
        ("scanobjectnn-bg", "main_split/test_objectdataset.h5", "missing: main_split/test_objectdataset.h5"),
        ("shapenetpart", "train_test_split/shuffled_val_file_list.json",
         "missing: train_test_split/shuffled_val_file_list.json"),
        ("shapenetpart", "02691156/c3.txt",
         "1 file named in train_test_split/shuffled_test_file_list.json is not there (first: 02691156/c3.txt)"),
        ("objaverse", "glbs/000-000/u1.glb", "1 file named in lvis-annotations.json.gz is not there (first: u1)"),
        ("objaverse", "lvis-annotations.json.gz", "missing: lvis-annotations.json.gz"),
        ("s3dis-raw", "Area_5/hallway_6/Annotations/ceiling_1.txt",
         "1 file is not there (first: Area_5/hallway_6/Annotations/*.txt)"),
        ("scannet", "scans/scene0000_01/scene0000_01_vh_clean_2.labels.ply",
         "1 file is not there (first: scene0000_01_vh_clean_2.labels.ply)"),
        ("scannet", "scannetv2_val.txt", "1 scans are in no list and are left out (first: scene0011_00)"),
        ("scannet-votenet", "scene0011_00_sem_label.npy",
         "1 file is not there (first: scene0011_00_sem_label.npy)"),
        ("semantickitti", "sequences/00/labels/000000.label",
         "1 scans of sequence 00 have no labels (first: 000000.bin)"),
        ("semantickitti", "sequences/08/velodyne/000000.bin", "missing: sequences/08/velodyne/*.bin"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(tmp_path: Path, name: str, gone: str, problem: str) -> None:
    path = tree(tmp_path, name) / gone
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
    else:
        path.unlink()
    found = LAYOUTS[name].list(tmp_path)
    assert problem in found.problems
    for entry in found.entries:
        found.read(entry)


def test_points_without_labels_are_unknown(tmp_path: Path) -> None:
    root = tree(tmp_path, "semantickitti")
    (root / "sequences/00/labels/000000.label").unlink()
    found = LAYOUTS["semantickitti"].list(root)
    part = found.read(found.entries[0]).part
    assert part is not None and set(part.tolist()) == {-1}


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    found = listing(tmp_path, "semantickitti")
    label = tmp_path / "sequences/00/labels/000000.label"
    label.write_bytes(label.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"000000.label: .*15 labels for 16 points"):
        found.read(found.entries[0])


def test_the_damaged_lines_of_s3dis_are_left_out(tmp_path: Path) -> None:
    found = listing(tmp_path, "s3dis-raw")
    entry = found.entries[1]
    path = entry.path / "ceiling_1.txt"
    path.write_bytes(path.read_bytes() + b"1.0 2.0 3.0 175 185\x00187\n")
    assert len(found.read(entry).points) == trees.N
    path.write_bytes(path.read_bytes() + b"-9.1\x160 2.0 3.0 175 185 187\n")
    with pytest.raises(ValueError, match=r"ceiling_1.txt: damaged"):
        found.read(entry)


def test_parts_beyond_the_official_ones_are_refused(tmp_path: Path) -> None:
    found = listing(tmp_path, "shapenetpart")
    path = found.entries[0].path
    path.write_text(path.read_text().replace(" 3.000000\n", " 50.000000\n"))
    with pytest.raises(ValueError, match="parts 50 … 50 of 50"):
        found.read(found.entries[0])


def test_an_unknown_category_of_shapenetpart_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "shapenetpart")
    trees.write(root / "synsetoffset2category.txt", "Submarine\t00000001\n")
    with pytest.raises(ValueError, match="found Submarine"):
        LAYOUTS["shapenetpart"].list(root)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"chair": 3}'])
def test_damaged_annotations_of_objaverse_are_refused(tmp_path: Path, content: bytes) -> None:
    root = tree(tmp_path, "objaverse")
    trees.write(root / "lvis-annotations.json.gz", gzip.compress(content))
    with pytest.raises(ValueError, match=r"lvis-annotations.json.gz: damaged"):
        LAYOUTS["objaverse"].list(root)
    (root / "lvis-annotations.json.gz").unlink()
    trees.write(root / "lvis-annotations.json", json.dumps({"chair": ["u2"]}))
    assert [entry.label for entry in LAYOUTS["objaverse"].list(root).entries] == [-1, 0, -1]


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
