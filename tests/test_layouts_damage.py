"""Published layouts that are not whole: what is missing, damaged or changed."""

import gzip
import json
import os
import pickle
import random
from pathlib import Path

import h5py
import layout_trees as trees
import numpy as np
import pytest
from layout_trees import listing, tree

from pointmadi.data.layouts import LAYOUTS


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


@pytest.mark.parametrize("seed", range(38))
def test_a_damaged_tree_is_read_or_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    name = list(trees.TREES)[seed % len(trees.TREES)]
    files = [path for path in tree(tmp_path, name).rglob("*") if path.is_file()]
    path = chance.choice(files)
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    match chance.randrange(4):
        case 0:
            del content[at:]
        case 1:
            content[at : at + 20] = chance.randbytes(20)
        case 2:
            content[at:at] = chance.choice(
                [b"\0", b"\xff", b" nan ", b" 1e999 ", b" 99999999999999999999 ", b"{", b"\n"]
            )
        case 3:
            content = bytearray(chance.choice(files).read_bytes())
    path.write_bytes(content)
    try:
        found = LAYOUTS[name].list(tmp_path)
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)
        return
    for entry in found.entries:
        try:
            raw = found.read(entry)
        except (ValueError, OSError) as error:
            assert "\n" not in str(error)
        else:
            assert np.isfinite(raw.points).all()
