"""A set of shapes as tensors: the one value that every reader ends in."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pointmadi.data.arrays import Archive

LEVELS = 32767  # a coordinate of 1.0, in the int16 of storage
CHUNK = 2048  # shapes quantised at a time, to keep the float64 copies small
TRAIN, TEST = 0, 1

# key of the file -> field, where they differ; the kinds of numpy dtype that each key may have
FIELDS = {"name": "names"}
KINDS = {
    "points": "i", "scale": "f", "center": "f", "name": "U", "label": "iu", "classes": "U", "split": "iu",
    "part": "iu", "part_names": "U", "part_class": "iu", "features": "f", "feature_names": "U",
}  # fmt: skip
FILE_DTYPES = {"label": np.int16, "part_class": np.int16}
DTYPES = {"scale": torch.float32, "center": torch.float32, "label": torch.int64, "split": torch.uint8,
          "part": torch.uint8, "part_class": torch.int64, "features": torch.float16}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Clouds:
    """Hold S shapes of N points each, normalised and quantised, with what is known of them.

    Args:
        points: (S, N, 3) int16, `round(p * 32767)`, every shape centred at its mean and divided by its largest radius.
        scale: (S,) float32, that radius; `points / 32767 * scale + center` undoes the normalisation.
        center: (S, 3) float32, that mean.
        names: a name for each shape.
        label: (S,) int64, class of each shape, −1 where unknown.
        classes: names of the classes.
        split: (S,) uint8, 0 train, 1 test.
        part: (S, N) uint8, part of each point.
        part_names: names of the parts.
        part_class: (P,) int64, the class that each part belongs to.
        features: (S, N, F) float16, extra channels such as normals, colour, intensity.
        feature_names: a name for each channel; normals are called nx, ny, nz.
    """

    points: Tensor
    scale: Tensor
    center: Tensor
    names: tuple[str, ...]
    label: Tensor | None = None
    classes: tuple[str, ...] = ()
    split: Tensor | None = None
    part: Tensor | None = None
    part_names: tuple[str, ...] = ()
    part_class: Tensor | None = None
    features: Tensor | None = None
    feature_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.points.ndim != 3 or self.points.shape[2] != 3 or self.points.dtype != torch.int16:
            raise ValueError(
                f"points of a cloud set are (S, N, 3) int16, not {tuple(self.points.shape)} {self.points.dtype};"
                " pack coordinates with Clouds.pack"
            )
        count, num_points = self.points.shape[:2]
        if not count or not num_points:
            raise ValueError(f"a cloud set needs shapes and points, and this one is {tuple(self.points.shape)}")
        shapes = {
            "scale": (count,), "center": (count, 3), "label": (count,), "split": (count,), "part": (count, num_points),
            "part_class": (len(self.part_names),), "features": (count, num_points, len(self.feature_names)),
        }  # fmt: skip
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and (tuple(value.shape) != shape or value.dtype != DTYPES[name]):
                found = f"{tuple(value.shape)} {value.dtype}"
                raise ValueError(f"{name} of this cloud set is {found}, expected {shape} {DTYPES[name]}")
        if len(self.names) != count:
            raise ValueError(f"{len(self.names)} names for {count} shapes")
        _check_range("label", self.label, -1, len(self.classes))
        _check_range("split", self.split, TRAIN, TEST + 1)
        _check_range("part", self.part, 0, len(self.part_names))
        _check_range("part_class", self.part_class, 0, len(self.classes))

    def __len__(self) -> int:
        return len(self.points)

    @property
    def num_points(self) -> int:
        """Number of points of every shape."""
        return self.points.shape[1]

    def xyz(self, index: Tensor | None = None) -> Tensor:
        """Return coordinates in the unit sphere, of the shapes at `index` (all if None): (B, N, 3) float32."""
        points = self.points if index is None else self.points.index_select(0, index.to(self.points.device))
        return points.float() / LEVELS

    def holds(self, name: str) -> bool:
        """Say whether this field is known."""
        return getattr(self, name) is not None

    def gather(self, name: str, index: Tensor) -> Tensor:
        """Return the values of a field of the shapes at `index`, (B,) int64."""
        values: Tensor = getattr(self, name)
        return values.index_select(0, index.to(values.device))

    def select(self, index: Tensor | Sequence[int] | slice) -> "Clouds":
        """Return the shapes at `index`: whole numbers, booleans, or a slice."""
        rows = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        there = rows.to(self.points.device)
        chosen: dict[str, Any] = {"names": tuple(self.names[row] for row in rows.tolist())}
        for name in ("points", "scale", "center", "label", "split", "part", "features"):
            value = getattr(self, name)
            chosen[name] = None if value is None else value.index_select(0, there)
        return replace(self, **chosen)

    def train(self) -> "Clouds":
        """Return the shapes for training: all of them where the set has no split."""
        return self if self.split is None else self._part_of_split(TRAIN, "train")

    def test(self) -> "Clouds":
        """Return the shapes held out for testing."""
        if self.split is None:
            raise ValueError("this cloud set has no split, so it has no test shapes")
        return self._part_of_split(TEST, "test")

    def _part_of_split(self, which: int, called: str) -> "Clouds":
        assert self.split is not None
        chosen = self.split == which
        if not bool(chosen.any()):
            raise ValueError(f"none of the {len(self)} shapes of this cloud set is marked {called}")
        return self if bool(chosen.all()) else self.select(chosen)

    def with_features(self, names: Sequence[str]) -> "Clouds":
        """Return the set with these channels only, in this order; none for an empty list."""
        if tuple(names) == self.feature_names:
            return self
        missing = [name for name in names if name not in self.feature_names]
        if missing:
            has = ", ".join(self.feature_names) or "none"
            raise ValueError(f"this cloud set has no feature {', '.join(missing)}; it has: {has}")
        if self.features is None or not names:
            return replace(self, features=None, feature_names=())
        columns = [self.feature_names.index(name) for name in names]
        return replace(self, features=self.features[..., columns], feature_names=tuple(names))

    def to(self, device: torch.device | str) -> "Clouds":
        """Return the set with its tensors on `device`."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                moved[f.name] = value.to(device)
        return replace(self, **moved)

    def fingerprint(self) -> str:
        """Return 16 hex digits that depend on everything in the set, and on nothing else."""
        digest = hashlib.blake2b(digest_size=8)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                array = value.detach().cpu().contiguous().numpy()
                digest.update(f"{f.name} {array.dtype} {array.shape}".encode())
                digest.update(array.reshape(-1).view(np.uint8).data)
            else:
                digest.update(f"{f.name} {value!r}".encode())
        return digest.hexdigest()

    @classmethod
    def pack(cls, points: Tensor, names: Sequence[str] | None = None, **known: Any) -> "Clouds":
        """Normalise and quantise shapes: (S, N, 3) coordinates of any float type -> a cloud set.

        Args:
            points: (S, N, 3) coordinates, finite, not all equal within a shape.
            names: a name for each shape; numbers if None.
            known: the other fields of `Clouds`, tensors or arrays of any integer or float type.
        """
        points = torch.as_tensor(points).detach()
        if points.ndim != 3 or points.shape[2] != 3 or not points.numel():
            raise ValueError(f"expected coordinates of shape (S, N, 3), got {tuple(points.shape)}")
        packed, scale, center = zip(*map(_quantize, points.split(CHUNK)), strict=True)
        fields_known: dict[str, Any] = {}
        for name, value in known.items():
            if name in ("classes", "part_names", "feature_names"):
                fields_known[name] = tuple(value)
            elif value is not None:
                fields_known[name] = _convert(name, torch.as_tensor(value).detach().cpu())
        bad = (~(torch.isfinite(torch.cat(scale)) & (torch.cat(scale) > 0))).nonzero().flatten().tolist()
        if bad:
            called = ", ".join(repr(names[i]) if names else str(i) for i in bad[:5])
            raise ValueError(f"{len(bad)} of {len(points)} shapes hold NaN, inf or a single place (shape {called})")
        names = [f"{i:06d}" for i in range(len(points))] if names is None else names
        return cls(torch.cat(packed), torch.cat(scale), torch.cat(center), tuple(names), **fields_known)

    @classmethod
    def read(cls, path: str | Path) -> "Clouds":
        """Read a packed cloud set (.npz; docs/datasets.md); nothing in it is ever executed."""
        path = Path(path)
        if path.is_file() and not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is not a packed cloud set (.npz), or it is incomplete")
        try:
            with Archive(path) as archive:
                arrays = {key: archive.read(key) for key in archive.members if key in KINDS}
        except FileNotFoundError:
            raise FileNotFoundError(f"no such file: {path}") from None
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} cannot be read as a packed cloud set: {error}") from None
        for key in ("points", "scale", "center"):
            if key not in arrays:
                raise ValueError(f"{path} is not a packed cloud set: it has no '{key}' (docs/datasets.md)")
        for key, array in arrays.items():
            if array.size and array.dtype.kind not in KINDS[key]:
                raise ValueError(f"{path} is not a packed cloud set: '{key}' is {array.dtype} (docs/datasets.md)")
        try:
            return cls._of_arrays(arrays)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    @classmethod
    def _of_arrays(cls, arrays: dict[str, np.ndarray]) -> "Clouds":
        values: dict[str, Any] = {}
        for key, array in arrays.items():
            name = FIELDS.get(key, key)
            if KINDS[key] == "U":
                values[name] = tuple(array.astype(str).tolist())
            else:
                values[name] = torch.from_numpy(array) if key == "points" else _convert(name, array)
        values.setdefault("names", tuple(f"{i:06d}" for i in range(len(arrays["points"]))))
        label = values.get("label")
        if label is not None and not values.get("classes") and bool((label == -1).all()):
            values["label"] = None
        return cls(**values)

    def write(self, path: str | Path) -> None:
        """Write the set as a packed .npz; a reader sees the old file or the whole new one, never a part."""
        arrays: dict[str, np.ndarray] = {}
        for key, kind in KINDS.items():
            value = getattr(self, FIELDS.get(key, key))
            if kind == "U":
                arrays[key] = np.array(value, dtype=str)
            elif value is not None:
                array = value.cpu().numpy()
                arrays[key] = array.astype(FILE_DTYPES.get(key, array.dtype), copy=False)
        write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with an open binary file, and put it at `path` once it is complete and on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _quantize(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise and quantise: (S, N, 3) -> int16 (S, N, 3), float32 scale (S,) and center (S, 3)."""
    points = points.cpu().double()
    center = points.mean(1, keepdim=True)
    radius = (points - center).norm(dim=2).amax(1)
    unit = (points - center) / radius[:, None, None]
    packed = torch.round(torch.nan_to_num(unit) * LEVELS).clamp(-LEVELS, LEVELS).to(torch.int16)
    return packed, radius.float(), center[:, 0].float()


def _convert(name: str, value: np.ndarray | Tensor) -> Tensor:
    """Convert a field to its dtype; whole numbers that would not fit are an error."""
    tensor = torch.as_tensor(value)
    if name not in DTYPES:
        raise ValueError(f"a cloud set has no field '{name}'")
    if DTYPES[name] == torch.uint8 and tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) <= 255:
        raise ValueError(f"{name} goes from {int(tensor.min())} to {int(tensor.max())}; 0 to 255 can be stored")
    return tensor.to(DTYPES[name])


def _check_range(name: str, value: Tensor | None, low: int, high: int) -> None:
    if value is not None and value.numel() and not low <= int(value.min()) <= int(value.max()) < high:
        raise ValueError(f"{name} goes from {int(value.min())} to {int(value.max())}, expected {low} to {high - 1}")
