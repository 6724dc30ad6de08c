"""Tiny fabricated folders, one for each published layout."""

import gzip
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import trimesh

from pointmadi.data.layouts import LAYOUTS
from pointmadi.data.listing import Listing

N = 16  # points of each fabricated shape


def table(seed: int, columns: int = 3, count: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, columns)).astype(np.float32)


def write(path: Path, content: str | bytes | np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(values: np.ndarray, delimiter: str = " ") -> str:
    return "".join(delimiter.join(f"{value:.6f}" for value in row) + "\n" for row in values)


def write_h5(path: Path, count: int, seed: int = 0, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"] = np.stack([table(seed + row) for row in range(count)])
        for name, values in arrays.items():
            file[name] = values
    return path


def shapenet55(root: Path) -> None:
    files = ["02691156-a1.npy", "03001627-b2.npy", "04554684-c3.npy"]
    for seed, file in enumerate(files):
        write(root / "shapenet_pc" / file, table(seed))
    write(root / "ShapeNet-55/train.txt", "\n".join(files[:2]) + "\n")
    write(root / "ShapeNet-55/test.txt", files[2] + "\n")


def objaverse(root: Path) -> None:
    for place in ("000-000/u1", "000-000/u2", "000-159/u3"):
        write(root / f"glbs/{place}.glb", trimesh.creation.box().export(file_type="glb"))
    kinds = json.dumps({"mug": ["u3"], "chair": ["u1"]}).encode()
    write(root / "lvis-annotations.json.gz", gzip.compress(kinds))


def modelnet_text(root: Path, count: int) -> None:
    write(root / f"modelnet{count}_shape_names.txt", "bed\nnight_stand\n")
    write(root / f"modelnet{count}_train.txt", "bed_0001\nnight_stand_0002\n")
    write(root / f"modelnet{count}_test.txt", "bed_0003\n")
    for seed, name in enumerate(("bed/bed_0001", "night_stand/night_stand_0002", "bed/bed_0003")):
        write(root / f"{name}.txt", rows(table(seed, 6), ","))


def modelnet_meshes(root: Path, *files: str) -> None:
    for file in files:
        write(root / file, trimesh.creation.box().export(file_type="off"))


def modelnet40_h5(root: Path) -> None:
    write(root / "shape_names.txt", "airplane\nbathtub\n")
    write(root / "train_files.txt", "data/modelnet40_ply_hdf5_2048/ply_data_train0.h5\n")
    write(root / "test_files.txt", "data/modelnet40_ply_hdf5_2048/ply_data_test0.h5\n")
    normals = np.stack([table(50 + row) for row in range(2)])
    write_h5(root / "ply_data_train0.h5", 2, label=np.array([[1], [0]], np.uint8), normal=normals)
    write_h5(root / "ply_data_test0.h5", 1, seed=7, label=np.array([[1]], np.uint8))


def modelnet40_dat(root: Path) -> None:
    for part, labels in {"train": [3, 0], "test": [39]}.items():
        points = [table(row, 6) for row in range(len(labels))]
        content = pickle.dumps([points, [np.array([label], np.int32) for label in labels]])
        write(root / f"modelnet40_{part}_{N}pts_fps.dat", content)


def modelnet40_fewshot(root: Path) -> None:
    for setting, fold in (("2way1shot", 0), ("3way_2shot", 9)):
        way, shot = int(setting[0]), int(setting.split("way")[1].strip("_")[0])
        episode = {
            "train": [(table(label, 6), label, 30 + label) for label in range(way) for _ in range(shot)],
            "test": [(table(9, 6), way - 1, 30)],
        }
        write(root / setting / f"{fold}.pkl", pickle.dumps(episode))


def scanobjectnn(root: Path, below: str, suffix: str) -> None:
    mask = np.where(np.arange(N) < 5, -1, 3)[None]
    write_h5(root / below / f"training_objectdataset{suffix}.h5", 2, label=np.array([14, 0]), mask=mask.repeat(2, 0))
    write_h5(root / below / f"test_objectdataset{suffix}.h5", 1, label=np.array([2]), mask=mask)


def scanobjectnn_all(root: Path) -> None:
    scanobjectnn(root, "main_split", "_augmentedrot_scale75")
    scanobjectnn(root, "main_split", "")
    scanobjectnn(root, "main_split_nobg", "")


def shapenetpart(root: Path) -> None:
    write(root / "synsetoffset2category.txt", "Airplane\t02691156\nChair\t03001627\n")
    for part, names in {"train": ["02691156/a1"], "val": ["03001627/b2"], "test": ["02691156/c3"]}.items():
        listing = json.dumps([f"shape_data/{name}" for name in names])
        write(root / f"train_test_split/shuffled_{part}_file_list.json", listing)
    for seed, (name, part) in enumerate({"02691156/a1": 3, "03001627/b2": 12, "02691156/c3": 0}.items()):
        write(root / f"{name}.txt", rows(np.column_stack([table(seed, 6), np.full(N, part)])))


def shapenetpart_h5(root: Path) -> None:
    for part, file, labels in (("train", "train0", [0, 4]), ("val", "val0", [15]), ("test", "test0", [1])):
        write(root / f"{part}_hdf5_file_list.txt", f"ply_data_{file}.h5\n")
        pid = np.full((len(labels), N), 49, np.uint8)
        write_h5(root / f"ply_data_{file}.h5", len(labels), label=np.array(labels, np.uint8)[:, None], pid=pid)


def s3dis(root: Path) -> None:
    for seed, name in enumerate(("Area_1_office_1", "Area_5_hallway_6")):
        colors = np.full((N, 3), 255.0)
        write(root / f"{name}.npy", np.column_stack([table(seed), colors, np.arange(N) % 13]))


def s3dis_raw(root: Path) -> None:
    for area, room, kinds in (("Area_1", "office_1", ("chair_1", "stairs_1")), ("Area_5", "hallway_6", ("ceiling_1",))):
        for seed, kind in enumerate(kinds):
            content = rows(np.column_stack([table(seed), np.full((N, 3), 51)]))
            write(root / area / room / "Annotations" / f"{kind}.txt", content)
        write(root / area / room / f"{room}.txt", "not read\n")
        write(root / area / ".DS_Store", "not read\n")


def ply(points: np.ndarray, colors: np.ndarray, label: np.ndarray | None = None) -> str:
    extra = "" if label is None else "property ushort label\n"
    head = (
        f"ply\nformat ascii 1.0\nelement vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
        f"{extra}element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    body = ""
    for at, (place, color) in enumerate(zip(points, colors)):
        body += " ".join([*(f"{x:.5f}" for x in place), *map(str, color), "255"])
        body += "\n" if label is None else f" {label[at]}\n"
    return f"{head}{body}3 0 1 2\n"


def scannet(root: Path) -> None:
    colors, nyu40 = np.full((N, 3), 102), np.array([0, 1, 39, 13] * (N // 4))
    for seed, scan in enumerate(("scene0000_00", "scene0000_01", "scene0011_00")):
        stem = root / "scans" / scan / f"{scan}_vh_clean_2"
        write(stem.with_suffix(".ply"), ply(table(seed), colors))
        write(stem.with_suffix(".labels.ply"), ply(table(seed), colors, nyu40))
    write(root / "scannetv2_train.txt", "scene0000_00\nscene0000_01\n")
    write(root / "scannetv2_val.txt", "scene0011_00\n")


def scannet_votenet(root: Path) -> None:
    for seed, scan in enumerate(("scene0000_00", "scene0011_00")):
        write(root / f"{scan}_vert.npy", np.column_stack([table(seed), np.full((N, 3), 255)]))
        write(root / f"{scan}_sem_label.npy", np.array([0, 1, 39, 40] * (N // 4), np.uint32))
        write(root / f"{scan}_ins_label.npy", np.zeros(N, np.uint32))
        write(root / f"{scan}_bbox.npy", np.zeros((1, 7)))


def semantickitti(root: Path) -> None:
    for sequence in ("00", "08", "11"):
        place = root / "sequences" / sequence
        write(place / "velodyne/000000.bin", table(int(sequence), 4).tobytes())
        if sequence != "11":
            ids = np.array([0, 10, 252, 81 | 7 << 16] * (N // 4), np.uint32)
            write(place / "labels/000000.label", ids.tobytes())


def library(path: Path, pieces: Sequence[dict[str, str]], files: Mapping[str, str], licence: str = "CC0") -> Path:
    """Write a furniture library: a catalogue of these pieces, and their models."""
    text = f"# a library\nid=Test\nlicense={licence}\n"
    for number, piece in enumerate(pieces, start=1):
        text += "".join(f"{key}#{number}={value}\n" for key, value in piece.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("PluginFurnitureCatalog.properties", text.encode("latin-1"))
        for name, content in files.items():
            archive.writestr(name, content)
    return path


BOX = "".join(f"v {x} {y} {z}\n" for x in (0, 1) for y in (0, 2) for z in (0, 3)) + (
    "f 1 2 4\nf 1 4 3\nf 5 7 8\nf 5 8 6\nf 1 5 6\nf 1 6 2\nf 3 4 8\nf 3 8 7\nf 1 3 7\nf 1 7 5\nf 2 6 8\nf 2 8 4\n"
)


def sweethome3d(root: Path) -> None:
    pieces = [
        {"id": "Lib#oak", "name": "Oak chair", "model": "/lib/oak/oak.obj", "creator": "A. Maker"},
        {"name": "Bill 10\\u20ac", "model": "/lib/bill.obj", "modelRotation": "1 0 0 0 0 1 0 -1 0"},
    ]
    library(root / "furniture/Lib.sh3f", pieces, {"lib/oak/oak.obj": BOX, "lib/bill.obj": BOX})


TREES: dict[str, Callable[[Path], None]] = {
    "shapenet55": shapenet55,
    "objaverse": objaverse,
    "modelnet40": lambda root: modelnet_text(root, 40),
    "modelnet10": lambda root: modelnet_text(root, 10),
    "modelnet40-off": lambda root: modelnet_meshes(root, "airplane/train/airplane_0001.off", "bed/test/bed_0002.off"),
    "modelnet10-off": lambda root: modelnet_meshes(root, "bed/train/bed_0001.off", "table/test/table_0002.off"),
    "modelnet40-h5": modelnet40_h5,
    "modelnet40-dat": modelnet40_dat,
    "modelnet40-fewshot": modelnet40_fewshot,
    "scanobjectnn-hardest": scanobjectnn_all,
    "scanobjectnn-bg": lambda root: scanobjectnn(root, "main_split", ""),
    "scanobjectnn-object_only": lambda root: scanobjectnn(root, "main_split_nobg", ""),
    "shapenetpart": shapenetpart,
    "shapenetpart-h5": shapenetpart_h5,
    "s3dis": s3dis,
    "s3dis-raw": s3dis_raw,
    "scannet": scannet,
    "scannet-votenet": scannet_votenet,
    "semantickitti": semantickitti,
    "sweethome3d": sweethome3d,
}


def tree(root: Path, name: str) -> Path:
    TREES[name if name in TREES else "shapenet55"](root)
    return root


def listing(root: Path, name: str) -> Listing:
    return LAYOUTS[name].list(tree(root, name))
