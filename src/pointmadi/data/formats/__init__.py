"""One file in, one cloud or mesh out; and from there a cloud of exactly N points."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pointmadi.data.arrays import Array
from pointmadi.data.clouds import Clouds
from pointmadi.data.formats.meshes import read_geometry
from pointmadi.data.formats.raw import Raw, Reading, Up, channels, check, orient
from pointmadi.data.formats.sampling import POOL, resample
from pointmadi.data.formats.scans import read_e57, read_las, read_pcd
from pointmadi.data.formats.tables import read_bin, read_h5, read_npy, read_npz, read_text

__all__ = [
    "POOL", "SUFFIXES", "Array", "Raw", "Reading", "Up", "channels", "orient", "read_cloud", "read_file", "resample",
]  # fmt: skip

READERS: dict[str, Callable[[Path], Raw]] = {
    **dict.fromkeys((".ply", ".obj", ".off", ".stl", ".glb", ".gltf"), read_geometry),
    **dict.fromkeys((".xyz", ".txt", ".csv"), read_text),
    ".npy": read_npy,
    ".npz": read_npz,
    **dict.fromkeys((".h5", ".hdf5"), read_h5),
    ".bin": read_bin,
    ".pcd": read_pcd,
    **dict.fromkeys((".las", ".laz"), read_las),
    ".e57": read_e57,
}
SUFFIXES = tuple(READERS)


def read_cloud(path: str | Path, reading: Reading) -> Clouds:
    """Read one file as a set of one cloud.

    Raises:
        ValueError: the file cannot be read, holds no usable shape, or lacks a feature; one line that names it.
        OSError: the file is not there or may not be read.
    """
    raw = read_file(path)
    try:
        cloud = resample(raw, reading)
        known = {"features": cloud.features[None], "feature_names": cloud.feature_names} if reading.features else {}
        return Clouds.pack(torch.from_numpy(cloud.points)[None], [Path(path).name], **known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_file(path: str | Path) -> Raw:
    """Read a mesh or cloud and check that it is a shape.

    Raises:
        ValueError: not a shape, with one line that names the file and says why.
        OSError: the file is not there or may not be read.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: files of this kind are not read; these are: {' '.join(SUFFIXES)}")
    with path.open("rb") as file:  # a missing or forbidden file speaks for itself
        if not file.read(1):
            raise ValueError(f"{path}: the file is empty")
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused
            raw = reader(path)
            check(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return raw
