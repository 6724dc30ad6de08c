"""The cloud set: packing, the packed file, and what is refused."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pointmadi.data.clouds import LEVELS, Clouds, write_atomically


def make(shapes: int = 6, num_points: int = 32) -> Clouds:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(shapes, num_points, 3, generator=generator) * 5 + 100
    return Clouds.pack(
        points,
        [f"shape {i}" for i in range(shapes)],
        label=torch.arange(shapes) % 2,
        classes=("cup", "Größe"),
        split=torch.arange(shapes) % 3 == 2,
        part=torch.arange(num_points).expand(shapes, -1) % 3,
        part_names=("cup/body", "cup/handle", "Größe/all"),
        part_class=(0, 0, 1),
        features=torch.rand(shapes, num_points, 2, generator=generator),
        feature_names=("r", "g"),
    )


def test_pack_normalises_and_can_be_undone() -> None:
    points = torch.randn(3, 50, 3) * torch.tensor([1e-6, 1.0, 1e6]).view(3, 1, 1) + 3
    clouds = Clouds.pack(points.double())
    unit = clouds.xyz()
    assert torch.allclose(unit.norm(dim=2).amax(1), torch.ones(3), atol=1e-4)
    assert unit.mean(1).abs().max() < 1e-4
    again = unit * clouds.scale[:, None, None] + clouds.center[:, None]
    spread = (points - points.mean(1, keepdim=True)).norm(dim=2).amax(1)
    assert ((again - points).abs().amax((1, 2)) <= spread / LEVELS + 1e-6).all()


def test_packing_twice_changes_nothing_but_rounding() -> None:
    clouds = make()
    assert (Clouds.pack(clouds.xyz()).points - clouds.points).abs().max() <= 1


def test_file_keeps_everything(tmp_path: Path) -> None:
    clouds = make()
    clouds.write(tmp_path / "new folder" / "set.npz")
    again = Clouds.read(tmp_path / "new folder" / "set.npz")
    assert again.fingerprint() == clouds.fingerprint()
    assert again.classes == ("cup", "Größe") and again.names == clouds.names
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["set.npz"]


def test_fingerprint_notices_every_field() -> None:
    clouds, prints = make(), set()
    prints.add(clouds.fingerprint())
    prints.add(clouds.select(slice(0, 5)).fingerprint())
    prints.add(clouds.select([1, 0, 2, 3, 4, 5]).fingerprint())
    prints.add(clouds.with_features(["g"]).fingerprint())
    prints.add(Clouds.pack(clouds.xyz()).fingerprint())
    assert len(prints) == 5
    assert make().fingerprint() == clouds.fingerprint()


def test_format_of_the_readme_is_read(tmp_path: Path) -> None:
    """Types as other programs write them: int16 labels, uint8 parts, an empty table of classes without a type."""
    points = np.zeros((2, 4, 3), np.int16)
    common = {"points": points, "scale": np.ones(2, np.float32), "center": np.zeros((2, 3), np.float32)}
    np.savez(tmp_path / "a.npz", **common, label=np.int16([-1, -1]), classes=np.zeros(0), split=np.uint8([0, 0]))
    clouds = Clouds.read(tmp_path / "a.npz")
    assert clouds.label is None and clouds.classes == () and len(clouds.train()) == 2
    np.savez_compressed(tmp_path / "b.npz", **common, label=np.int16([1, -1]), classes=["a", "b"], unknown=np.ones(3))
    clouds = Clouds.read(tmp_path / "b.npz")
    assert clouds.label is not None and clouds.label.tolist() == [1, -1] and clouds.label.dtype == torch.int64


def test_splits() -> None:
    clouds = make()
    assert clouds.train().names == ("shape 0", "shape 1", "shape 3", "shape 4")
    assert clouds.test().names == ("shape 2", "shape 5")
    bare = Clouds.pack(clouds.xyz())
    assert bare.train() is bare
    with pytest.raises(ValueError, match="no split"):
        bare.test()
    with pytest.raises(ValueError, match="marked test"):
        clouds.train().test()


def test_select_takes_everything_along() -> None:
    clouds = make()
    chosen = clouds.select(torch.tensor([4, 1]))
    assert chosen.names == ("shape 4", "shape 1")
    for name in ("points", "scale", "center", "label", "split", "part", "features"):
        assert torch.equal(getattr(chosen, name), getattr(clouds, name)[[4, 1]])
    assert clouds.select(torch.arange(6) == 3).names == ("shape 3",)
    assert torch.equal(clouds.xyz(torch.tensor([3])), clouds.xyz()[3:4])


def test_features_are_chosen_by_name() -> None:
    clouds = make()
    assert clouds.features is not None
    assert torch.equal(clouds.with_features(["g"]).features, clouds.features[..., 1:])  # type: ignore[arg-type]
    assert clouds.with_features([]).features is None
    with pytest.raises(ValueError, match="no feature nx; it has: r, g"):
        clouds.with_features(["nx"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_pack_refuses_what_is_no_shape(bad: float) -> None:
    points = torch.randn(4, 8, 3, dtype=torch.float64)
    points[2, 3, 1] = bad
    points[3] = 7
    with pytest.raises(ValueError, match=r"2 of 4 shapes .*'c', 'd'"):
        Clouds.pack(points, ["a", "b", "c", "d"])


def test_wrong_sizes_and_ranges_are_refused() -> None:
    points = torch.randn(4, 8, 3)
    for known, message in (
        ({"label": [0, 1, 2, 1], "classes": ("a", "b")}, "label goes from 0 to 2"),
        ({"label": [0, 1], "classes": ("a", "b")}, "label of this cloud set"),
        ({"part": torch.full((4, 8), 300), "part_names": ("a",)}, "0 to 255"),
        ({"features": torch.zeros(4, 8, 2), "feature_names": ("r",)}, "features of this cloud set"),
        ({"names": ("a",)}, "1 names for 4 shapes"),
        ({"colour": torch.zeros(4)}, "no field 'colour'"),
    ):
        with pytest.raises(ValueError, match=message):
            Clouds.pack(points, **known)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(S, N, 3\)"):
        Clouds.pack(torch.zeros(4, 8))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with pytest.raises(FileNotFoundError, match="no such file"):
        Clouds.read(path)

    make().write(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[600] ^= 255
    arrays = {
        "points": np.zeros((2, 4, 3), np.int16),
        "scale": np.ones(2, np.float32),
        "center": np.zeros((2, 3), "f4"),
    }

    def archive(**values: object) -> bytes:
        file = io.BytesIO()
        np.savez(file, allow_pickle=True, **values)  # type: ignore[arg-type]
        return file.getvalue()

    pickled = np.array([{"a": 1}], dtype=object)
    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as file:
        file.writestr("points.npy", b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<i2', 'fortran_order': False, 'shape': (10"
                      b"00000000000, 1000000, 3), }".ljust(65) + b"\n")  # fmt: skip
    for content in (
        b"", b"garbage" * 50, whole[: len(whole) // 2], bytes(flipped), huge.getvalue(),
        archive(x=np.zeros(3)),
        archive(**arrays, name=pickled),
        archive(**{**arrays, "points": np.zeros((2, 4, 3), np.float32)}),
        archive(**{**arrays, "points": np.zeros((2, 4, 2), np.int16)}),
        archive(**{**arrays, "scale": np.ones(3, np.float32)}),
        archive(**{**arrays, "label": np.int16([0, 5]), "classes": np.array(["a"])}),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"set\.npz") as caught:
            Clouds.read(path)
        assert "\n" not in str(caught.value)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
