"""One file: every format, bringing it to N points, and what is no shape."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from pointmadi.data.formats import SUFFIXES, Raw, Reading, Up, orient, read_cloud, read_file, resample, sampling

MESHES, TABLES = ("ply", "obj", "off", "stl", "glb"), ("npy", "npz", "xyz", "txt")


def write_mesh(path: Path) -> Path:
    trimesh.creation.box(extents=(1, 2, 4)).export(path)
    return path


def write_table(path: Path, table: np.ndarray, header: str = "") -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, table)
        case ".npz":
            np.savez(path, points=table)
        case ".ply":
            properties = "".join(f"property float {name}\n" for name in header.split())
            head = f"ply\nformat ascii 1.0\nelement vertex {len(table)}\n{properties}end_header"
            np.savetxt(path, table, header=head, comments="")
        case _:
            np.savetxt(path, table, header=header)
    return path


def cloud(rows: int = 100, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def test_every_suffix_is_tested_here_or_among_the_scans() -> None:
    here = {f".{kind}" for kind in MESHES + TABLES}
    assert set(SUFFIXES) - here == {".csv", ".h5", ".hdf5", ".bin", ".pcd", ".las", ".laz", ".e57", ".gltf"}


@pytest.mark.parametrize("kind", MESHES)
def test_meshes_are_sampled_on_their_surface_by_area(tmp_path: Path, kind: str) -> None:
    raw = read_file(write_mesh(tmp_path / f"mesh.{kind}"))
    assert raw.faces is not None and raw.faces.shape == (12, 3)
    sampled = resample(raw, Reading(20000, ("normals",)))
    points, normals = sampled.points, sampled.features
    half = np.array([0.5, 1.0, 2.0])
    inside = (np.abs(points) <= half + 1e-6).all()
    side = np.isclose(np.abs(points), half, rtol=0, atol=1e-9)
    assert inside and side.any(axis=1).all()
    assert np.allclose(side.mean(axis=0), np.array([8, 4, 2]) / 14, atol=0.02)
    on_one = side.sum(axis=1) == 1
    assert np.allclose((np.sign(points) * side)[on_one], normals[on_one], atol=1e-6)


@pytest.mark.parametrize("kind", [*TABLES, "ply"])
def test_clouds_are_read(tmp_path: Path, kind: str) -> None:
    table = cloud()
    raw = read_file(write_table(tmp_path / f"cloud.{kind}", table, "x y z"))
    assert raw.faces is None and np.allclose(raw.points, table)


def test_upper_case_suffixes_are_read(tmp_path: Path) -> None:
    write_mesh(tmp_path / "mesh.stl").rename(tmp_path / "MESH.STL")
    assert read_file(tmp_path / "MESH.STL").faces is not None


def test_glb_scenes_are_put_together(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    for shift in (0, 10):
        scene.add_geometry(trimesh.creation.box(), transform=trimesh.transformations.translation_matrix([shift, 0, 0]))
    scene.export(tmp_path / "scene.glb")
    raw = read_file(tmp_path / "scene.glb")
    assert raw.points[:, 0].max() == pytest.approx(10.5) and raw.points[:, 0].min() == pytest.approx(-0.5)
    assert raw.faces is not None and len(raw.faces) == 24


def test_peculiar_files_are_read(tmp_path: Path) -> None:
    one_line = tmp_path / "modelnet.off"  # some files of ModelNet lack the line break after OFF
    one_line.write_text("OFF4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 2 3\n")
    quads = tmp_path / "quads.obj"  # with a comment that is not UTF-8 and materials that are not there
    quads.write_bytes(b"# gr\xfc\xdfe\nmtllib none.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nusemtl x\nf 1 2 3 4\n")
    commas = tmp_path / "modelnet.txt"
    commas.write_text("\n".join("0.5,0.25,-1,0,0,1" for _ in range(3)) + "\n1,1,1,0,1,0\n")
    counted = tmp_path / "counted.xyz"
    counted.write_text("3\n0 0 0\n1 0 0\n0 1 0\n")
    assert [len(read_file(path).points) for path in (one_line, quads, commas, counted)] == [4, 4, 4, 3]
    assert read_file(commas).feature_names == ("nx", "ny", "nz")


@pytest.mark.parametrize("kind", ["txt", "xyz", "npy"])
def test_unnamed_columns_are_guessed(tmp_path: Path, kind: str) -> None:
    normals = np.tile(np.float32([0, 0.6, 0.8]), (100, 1))
    colors = np.tile(np.float32([0, 51, 255]), (100, 1))
    one = np.full((100, 1), 0.5, np.float32)
    for extra, names in (
        ([one], "intensity"), ([normals], "nx ny nz"), ([colors], "r g b"), ([colors, one], "r g b intensity"),
        ([normals, colors], "nx ny nz r g b"), ([colors, normals], "r g b nx ny nz"), ([one, one], "column4 column5"),
    ):  # fmt: skip
        raw = read_file(write_table(tmp_path / f"cloud.{kind}", np.concatenate([cloud(), *extra], axis=1)))
        assert raw.feature_names == tuple(names.split())
        values = dict(zip(raw.feature_names, raw.features[0].tolist(), strict=True))
        assert values.get("b", 1) == 1 and values.get("g", 0.2) == pytest.approx(0.2)
        assert values.get("nz", 0.8) == pytest.approx(0.8)


def test_named_columns_are_kept_under_their_names(tmp_path: Path) -> None:
    table = np.concatenate([cloud(), np.tile(np.float32([0, 0, 1, 7, 0.25]), (100, 1))], axis=1)
    for kind in ("txt", "ply"):
        path = write_table(tmp_path / f"cloud.{kind}", table, "x y z nx ny nz curvature scalar_Intensity")
        clouds = read_cloud(path, Reading(64, ("intensity", "normals", "curvature")))
        assert clouds.feature_names == ("intensity", "nx", "ny", "nz", "curvature")
        assert clouds.features is not None and clouds.features[0, 5].tolist() == [0.25, 0, 0, 1, 7]
    path = tmp_path / "cloud.npz"
    np.savez(path, points=cloud(), normals=table[:, 3:6], rgb=np.full((100, 3), 255, np.uint8))
    clouds = read_cloud(path, Reading(64, ("normals", "rgb")))
    assert clouds.features is not None and clouds.features[0, 5].tolist() == [0, 0, 1, 1, 1, 1]


def test_colours_of_vertices_are_blended_on_meshes(tmp_path: Path) -> None:
    mesh = trimesh.creation.box()
    mesh.visual.vertex_colors = np.where(mesh.vertices[:, :1] > 0, 255, 0).astype(np.uint8).repeat(3, axis=1)
    mesh.export(tmp_path / "mesh.ply")
    raw = read_file(tmp_path / "mesh.ply")
    sampled = resample(raw, Reading(500, ("rgb",)))
    assert np.allclose(sampled.features[:, 0], sampled.points[:, 0] + 0.5, atol=0.01)


def test_larger_clouds_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).random((3000, 3)) ** 3  # crowded in a corner
    raw = Raw(points, points.astype(np.float32), ("a", "b", "c"))
    chosen = resample(raw, Reading(100, ("a", "b", "c")))
    even = chosen.points
    assert len(np.unique(even, axis=0)) == 100 and np.allclose(even, chosen.features)
    assert even.mean() > points.mean() + 0.1
    monkeypatch.setattr(sampling, "POOL", 500)
    pooled = resample(raw, Reading(100)).points
    assert len(np.unique(pooled, axis=0)) == 100 and not np.array_equal(pooled, even)
    everything = resample(raw, Reading(3000)).points
    assert np.array_equal(everything, points)


def test_smaller_clouds_repeat_their_points(tmp_path: Path) -> None:
    points = resample(read_file(write_table(tmp_path / "cloud.npy", cloud(40))), Reading(100)).points
    _, counts = np.unique(points, axis=0, return_counts=True)
    assert sorted(counts.tolist()) == [2] * 20 + [3] * 20


def test_sampling_depends_on_the_content_alone(tmp_path: Path) -> None:
    first = read_cloud(write_mesh(tmp_path / "a.ply"), Reading(256))
    np.random.default_rng().random(10)
    torch.rand(3)
    second = read_cloud(write_mesh(tmp_path / "b.ply"), Reading(256))
    assert torch.equal(first.points, second.points)
    trimesh.creation.box(extents=(1, 2, 4.001)).export(tmp_path / "c.ply")
    assert not torch.equal(first.points, read_cloud(tmp_path / "c.ply", Reading(256)).points)


def test_clouds_far_from_the_origin_keep_their_shape(tmp_path: Path) -> None:
    table = cloud().astype(np.float64)
    near = read_cloud(write_table(tmp_path / "a.npy", table), Reading(64))
    far = read_cloud(write_table(tmp_path / "b.npy", table + 5e5), Reading(64))
    assert (near.points - far.points).abs().max() <= 1


@pytest.mark.parametrize("kind", MESHES + TABLES)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"shape.{kind}"
    if kind in MESHES:
        trimesh.creation.icosphere(2).export(path)
    else:
        write_table(path, cloud())
    whole, garbage = path.read_bytes(), np.random.default_rng(1).bytes(3000)
    # a table of text that ends early is a shorter table, unless it ends inside a row
    cut = whole[: whole.rindex(b" ")] if kind in ("xyz", "txt") else whole[: len(whole) // 2]
    for content in (b"", b" ", garbage, cut, whole[:20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"shape\.{kind}: .") as caught:
            read_cloud(path, Reading(64))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("cut", [20, 200])  # among the faces, among the vertices
def test_a_text_ply_that_ends_early_is_damaged(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.ply"
    trimesh.creation.icosphere(1).export(path, encoding="ascii")
    lines = path.read_bytes().splitlines(keepends=True)
    assert read_cloud(path, Reading(64)).num_points == 64
    path.write_bytes(b"".join(lines[: max(len(lines) - cut, 20)]))
    with pytest.raises(ValueError, match=r"cut\.ply: damaged: it ends after \d+ of the 122 lines"):
        read_cloud(path, Reading(64))


def test_a_text_without_numbers_is_no_cloud(tmp_path: Path) -> None:
    path = tmp_path / "readme.txt"
    path.write_text("this is a readme\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"readme\.txt: holds no rows of numbers"):
        read_cloud(path, Reading(64))


@pytest.mark.parametrize("kind", TABLES)
def test_clouds_that_are_no_shape_are_refused(tmp_path: Path, kind: str) -> None:
    nan, inf, huge = cloud(), cloud(), cloud().astype(np.float64)
    nan[3, 1], inf[5, 2], huge[0, 0] = np.nan, -np.inf, 1e300
    for table, message in (
        (cloud(1), "holds 1 point,"),
        (np.ones((9, 3)), "all 9 points are at one place"),
        (np.ones((9, 3)) * 1e6 + cloud(9) * 1e-4, "at one place"),
        (nan, "1 of 100 points have NaN or infinite"),
        (inf, "1 of 100 points have NaN or infinite"),
        (huge, "as large as 1e"),
        (cloud(9, 2), r"x y z"),
    ):
        with pytest.raises(ValueError, match=message):
            read_cloud(write_table(tmp_path / f"cloud.{kind}", table), Reading(64))


def test_meshes_that_are_no_surface_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mesh.obj"
    for text, message in (
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", r"mesh\.obj: damaged"),
        ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no area"),
        ("v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "NaN"),
        ("v 3 3 3\nv 3 3 3\nv 3 3 3\nf 1 2 3\n", "one place"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_cloud(path, Reading(64))
    np.savez(tmp_path / "mesh.npz", vertices=cloud(4), faces=[[0, 1, 7]])
    with pytest.raises(ValueError, match="names vertex 7 of 4"):
        read_cloud(tmp_path / "mesh.npz", Reading(64))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    trap = np.array([Trap()], dtype=object)
    np.save(tmp_path / "trap.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "trap.npz", points=trap, allow_pickle=True)
    for kind in ("npy", "npz"):
        with pytest.raises(ValueError, match="damaged"):
            read_file(tmp_path / f"trap.{kind}")
    assert not (tmp_path / "sprung").exists()


def test_other_failures_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"files of this kind are not read; these are: \.ply"):
        read_file(tmp_path / "shape.blend")
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "nothing.ply")
    with pytest.raises(ValueError, match=r"cloud\.npy: has no r, g, b; it has: coordinates only"):
        read_cloud(write_table(tmp_path / "cloud.npy", cloud()), Reading(64, ("rgb",)))
    np.savez(tmp_path / "packed.npz", points=np.zeros((2, 9, 3)))
    with pytest.raises(ValueError, match="a set of many shapes"):
        read_file(tmp_path / "packed.npz")
    np.savez(tmp_path / "other.npz", weights=np.zeros((2, 9)))
    with pytest.raises(ValueError, match=r"no array called points or xyz.* it has: weights"):
        read_file(tmp_path / "other.npz")
    far = np.concatenate([cloud(), np.full((100, 1), 1e6, np.float32)], axis=1)
    with pytest.raises(ValueError, match="16 bits"):
        read_cloud(write_table(tmp_path / "far.npy", far), Reading(64, ("intensity",)))


@pytest.mark.parametrize(("up", "top"), [("x", [0, 1, 0]), ("y", [1, 0, 0]), ("z", [1, 0, 0])])
def test_what_points_up_becomes_y_and_handedness_stays(up: Up, top: list[int]) -> None:
    axes = np.eye(3)
    raw = orient(Raw(axes, axes.astype(np.float32), ("nx", "ny", "nz")), Reading(3, up=up, scale=2.0))
    assert np.array_equal(raw.points["xyz".index(up)], [0, 2, 0]) and np.isclose(np.linalg.det(raw.points), 8)
    assert np.array_equal(raw.points[0] / 2, top) and np.array_equal(raw.features * 2, raw.points)


@pytest.mark.parametrize(
    "wrong", [{"num_points": 0}, {"num_points": 8, "scale": 0}, {"num_points": 8, "scale": np.nan}]
)
def test_readings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be .*, got"):
        Reading(**wrong)  # type: ignore[arg-type]


def test_parts_stay_with_their_points() -> None:
    points = cloud(300)
    part = np.arange(300)
    thinned = resample(Raw(points, np.zeros((300, 0), np.float32), part=part), Reading(50))
    assert thinned.part is not None and np.array_equal(points[thinned.part], thinned.points)
