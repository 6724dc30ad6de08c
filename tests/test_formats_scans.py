"""Scans, arrays and scenes: what each format keeps, and what it refuses."""

import base64
import json
import struct
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh

from pointmadi.data.formats import Raw, Reading, read_cloud, read_file
from pointmadi.data.formats.scans import unpack_lzf

FIELDS = ("x", "y", "z", "rgb", "normal_x", "normal_y", "normal_z", "label")
PCD = np.dtype([*((name, "<f4") for name in FIELDS[:-1]), ("label", "<u4")])

FAR = np.array([500_000.0, 5_000_000, 0])


def cloud(rows: int = 100, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def pcd_table(rows: int = 100) -> np.ndarray:
    table = np.zeros(rows, PCD)
    for axis, values in zip("xyz", cloud(rows).T, strict=True):
        table[axis] = values
    table["rgb"] = np.full(rows, 0x00FF3300, "<u4").view("<f4")
    table["normal_y"], table["label"] = 1, np.arange(rows) % 5
    return table


def pack_lzf(content: bytes) -> bytes:
    """Compress by runs only: literals, and one byte that repeats."""
    packed, at = bytearray(), 0
    while at < len(content):
        run = next((n for n in range(1, 264) if content[at + n : at + n + 1] != content[at : at + 1]), 264)
        if run > 8:
            packed += bytes([0, content[at], 7 << 5, run - 1 - 9, 0])
            at += run
        else:
            packed += bytes([min(8, len(content) - at) - 1]) + content[at : at + 8]
            at += min(8, len(content) - at)
    return bytes(packed)


def write_pcd(path: Path, table: np.ndarray, kind: str, width: int = 0) -> Path:
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS {}\nSIZE {}\nTYPE {}\nCOUNT {}\nWIDTH {}\nHEIGHT {}\n"
    head += "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {}\nDATA {}\n"
    kinds = [table.dtype[name] for name in table.dtype.names]
    header = head.format(
        " ".join(table.dtype.names), " ".join(str(k.itemsize) for k in kinds),
        " ".join({"f": "F", "u": "U", "i": "I"}[k.kind] for k in kinds), " ".join("1" for _ in kinds),
        width or len(table), len(table) // (width or len(table)), len(table), kind,
    )  # fmt: skip
    match kind:
        case "ascii":
            body = "".join(" ".join(repr(v) for v in row) + "\n" for row in table.tolist()).encode()
        case "binary":
            body = table.tobytes()
        case _:
            columns = b"".join(table[name].tobytes() for name in table.dtype.names)
            packed = pack_lzf(columns)
            body = struct.pack("<II", len(packed), len(columns)) + packed
    path.write_bytes(header.encode() + body)
    return path


def write_las(path: Path, rows: int = 100) -> Path:
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=2, version="1.2")
    header.scales, header.offsets = np.full(3, 1e-4), FAR
    las = laspy.LasData(header)
    las.xyz = cloud(rows) + FAR
    las.intensity, las.classification = np.full(rows, 13107), np.arange(rows) % 7
    las.red, las.green, las.blue = np.full((3, rows), [[65535], [13107], [0]])
    las.write(str(path))
    return path


def channel(raw: Raw, *names: str) -> list[float]:
    return [pytest.approx(float(raw.features[5, raw.feature_names.index(name)]), abs=1e-6) for name in names]


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_pcd_keeps_colours_normals_and_labels(tmp_path: Path, kind: str) -> None:
    raw = read_file(write_pcd(tmp_path / "cloud.pcd", pcd_table(), kind))
    assert np.allclose(raw.points, cloud()) and raw.faces is None
    assert raw.feature_names == ("r", "g", "b", "nx", "ny", "nz", "label")
    assert channel(raw, "r", "g", "b", "nx", "ny", "nz") == [1, 0.2, 0, 0, 1, 0]
    assert raw.part is not None and np.array_equal(raw.part, np.arange(100) % 5)


def test_pcd_leaves_out_what_an_organised_cloud_did_not_see(tmp_path: Path) -> None:
    table = pcd_table()
    table["x"][::4] = np.nan
    raw = read_file(write_pcd(tmp_path / "depth.pcd", table, "binary", width=20))
    assert np.array_equal(raw.part, (np.arange(100) % 5)[np.arange(100) % 4 > 0]) and len(raw.points) == 75
    table["y"][3] = np.inf  # which no sensor writes
    with pytest.raises(ValueError, match="1 of 75 points have NaN or infinite"):
        read_file(write_pcd(tmp_path / "broken.pcd", table, "binary"))


def test_pcd_with_fields_of_many_numbers_and_padding(tmp_path: Path) -> None:
    path = tmp_path / "features.pcd"
    head = "FIELDS x y z _ fpfh\nSIZE 4 4 4 1 4\nTYPE F F F U F\nCOUNT 1 1 1 4 2\nWIDTH 3\nHEIGHT 1\nDATA binary\n"
    rows = np.arange(3, dtype="<f4")
    path.write_bytes(head.encode() + b"".join(struct.pack("<3f4x2f", i, 2 * i, 1, i, -i) for i in rows))
    raw = read_file(path)
    assert raw.feature_names == ("fpfh0", "fpfh1") and np.array_equal(raw.features[:, 1], -rows)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"POINTS 100", b"POINTS 999999999", "promises 31999999968 bytes"),
        (b"SIZE 4", b"SIZE 3", "damaged"),
        (b"FIELDS x", b"FIELDS w", "damaged"),
        (b"COUNT 1", b"COUNT 99999", "damaged"),
        (b"COUNT 1", b"COUNT -1", "damaged"),
        (b"DATA binary", b"DATA zip", "written as 'zip'"),
        (b"DATA binary", b"DATUM", "no header"),
    ],
)
def test_pcd_with_a_wrong_header_is_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = write_pcd(tmp_path / "cloud.pcd", pcd_table(), "binary")
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_file(path)


def test_lzf_repeats_what_overlaps_and_stops_at_its_size() -> None:
    assert unpack_lzf(b"\x01ab" + bytes([(3 << 5), 1]), 7) == b"abababa"
    assert unpack_lzf(b"\x02abc" + bytes([(1 << 5), 2]), 6) == b"abcabc"
    for packed, size in (
        (b"\x01ab", 3),
        (b"\x01ab" + bytes([32, 5]), 5),
        (b"\x05ab", 6),
        (b"\x00a" + b"\xe0\xff\x00" * 99, 9),
    ):
        with pytest.raises(ValueError, match="damaged: its packed points"):
            unpack_lzf(packed, size)


@pytest.mark.parametrize("kind", ["las", "laz"])
def test_las_keeps_intensity_colour_and_classification(tmp_path: Path, kind: str) -> None:
    raw = read_file(write_las(tmp_path / f"scan.{kind}"))
    assert np.allclose(raw.points - FAR, cloud(), atol=1e-4)
    assert channel(raw, "intensity", "r", "g", "b", "classification") == [0.2, 1, 0.2, 0, 5]
    assert raw.part is not None and np.array_equal(raw.part, np.arange(100) % 7)
    assert read_cloud(tmp_path / f"scan.{kind}", Reading(50, ("rgb", "intensity"))).features is not None


@pytest.mark.parametrize(("kind", "package", "extra"), [("laz", "laspy", "io"), ("e57", "pye57", "e57")])
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str, extra: str
) -> None:
    (tmp_path / f"scan.{kind}").write_bytes(b"something")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"scan\.{kind}: .* need {package}; pip install 'pointmadi\[{extra}\]'"):
        read_file(tmp_path / f"scan.{kind}")


def test_e57_puts_scans_at_their_places(tmp_path: Path) -> None:
    pye57 = pytest.importorskip("pye57")
    path = tmp_path / "scan.e57"
    with pye57.E57(str(path), mode="w") as file:
        for shift in (0, 10):
            data = {
                f"cartesian{axis}": column.astype(np.float64) for axis, column in zip("XYZ", cloud().T, strict=True)
            }
            data |= {f"color{name}": np.full(100, 51, np.uint8) for name in ("Red", "Green", "Blue")}
            file.write_scan_raw({**data, "intensity": np.full(100, 0.5)}, translation=np.array([shift, 0.0, 0]))
    raw = read_file(path)
    assert np.allclose(raw.points[:100], cloud(), atol=1e-4) and np.allclose(
        raw.points[100:] - raw.points[:100], [10, 0, 0]
    )
    assert channel(raw, "r", "b", "intensity") == [0.2, 0.2, 0.5]
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"scan\.e57: damaged"):
        read_file(path)


def test_kitti_scans_are_four_floats_a_point(tmp_path: Path) -> None:
    table = np.concatenate([cloud(), np.full((100, 1), 0.25, np.float32)], axis=1)
    (tmp_path / "000000.bin").write_bytes(table.tobytes())
    raw = read_file(tmp_path / "000000.bin")
    assert (
        raw.feature_names == ("intensity",)
        and np.array_equal(raw.points, cloud())
        and channel(raw, "intensity") == [0.25]
    )
    (tmp_path / "odd.bin").write_bytes(table.tobytes()[:-4])
    with pytest.raises(ValueError, match="1596 bytes are no rows of four float32"):
        read_file(tmp_path / "odd.bin")


@pytest.mark.parametrize("points", ["data", "points"])
def test_h5_holds_one_shape(tmp_path: Path, points: str) -> None:
    path = tmp_path / "shape.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(points, data=cloud(), compression="gzip")
        file["normal"] = np.tile(np.float32([0, 1, 0]), (100, 1))
        file["pid"], file["label"], file["name"] = np.arange(100) % 3, [7], "chair"
    raw = read_file(path)
    assert np.array_equal(raw.points, cloud()) and np.array_equal(raw.part, np.arange(100) % 3)
    assert channel(raw, "nx", "ny", "nz") == [0, 1, 0]


def test_h5_of_many_shapes_of_links_and_of_bombs_are_refused(tmp_path: Path) -> None:
    np.arange(300, dtype="<f4").tofile(tmp_path / "secret")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["points"] = cloud()

    def many(file: h5py.File) -> None:
        file["data"] = np.zeros((4, 9, 3))

    def linked(file: h5py.File) -> None:
        file["points"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "points")

    def outside(file: h5py.File) -> None:
        file.create_dataset("points", (100, 3), "<f4", external=[(str(tmp_path / "secret"), 0, 1200)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((100, 3), "<f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "points", (100, 3))
        file.create_virtual_dataset("points", layout)

    def bomb(file: h5py.File) -> None:
        file.create_dataset("points", (10**9, 3), "<f4", chunks=(10**6, 3), compression="gzip")

    def hollow(file: h5py.File) -> None:
        file.create_dataset("points", (10**9, 3), "<f4")

    def text(file: h5py.File) -> None:
        file["points"] = ["a", "b"]

    for write, message in (
        (many, r"a set of many shapes \(4, 9, 3\)"), (linked, "no array called points"), (outside, "another file"),
        (virtual, "another file"), (bomb, "promises 12000000000"),
        (hollow, "promises"), (text, "does not hold numbers"),
    ):  # fmt: skip
        path = tmp_path / "bad.h5"
        with h5py.File(path, "w") as file:
            write(file)
        with pytest.raises(ValueError, match=message) as caught:
            read_file(path)
        assert "\n" not in str(caught.value)


def test_tables_with_a_header_are_read_by_it(tmp_path: Path) -> None:
    path = tmp_path / "cloud.csv"
    rows = "\n".join(f"{i},{i % 4},{x},{y},{z},51" for i, (x, y, z) in enumerate(cloud().tolist()))
    path.write_text(f'"id",Classification,X,Y,Z,Red\n{rows}\n')
    raw = read_file(path)
    assert np.allclose(raw.points, cloud()) and raw.feature_names == ("id", "classification", "r")
    assert np.array_equal(raw.part, np.arange(100) % 4) and channel(raw, *raw.feature_names) == [5, 1, 0.2]
    path.write_text(f"x,x,x,y,y,z,z\n{rows}\n")  # names that cannot be right
    assert read_file(path).points[5, 0] == 5


def test_arrays_promise_no_more_than_there_is(tmp_path: Path) -> None:
    np.save(tmp_path / "cloud.npy", cloud(1000))
    content = (tmp_path / "cloud.npy").read_bytes()
    assert b"(1000, 3), }      " in content
    for shape in (b"(9999999999, 3), }", b"(-1000, 3), }     ", b"(1001, 3), }      "):
        (tmp_path / "bomb.npy").write_bytes(content.replace(b"(1000, 3), }      ", shape))
        with pytest.raises(ValueError, match=r"bomb\.npy: damaged.*(promises|of shape)"):
            read_file(tmp_path / "bomb.npy")
    (tmp_path / "long.npy").write_bytes(content[:6] + b"\x02\x00" + b"\xff" * 4 + content[10:])
    with pytest.raises(ValueError, match=r"long\.npy: damaged.*promises 4294967295 bytes"):
        read_file(tmp_path / "long.npy")
    np.savez_compressed(tmp_path / "bomb.npz", points=np.zeros((3 * 10**6, 3)))
    with pytest.raises(ValueError, match=r"bomb\.npz: damaged.*promises 72000128"):
        read_file(tmp_path / "bomb.npz")


def gltf(uri: str, nodes: list[dict[str, object]], **changes: object) -> str:
    accessor = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0] * 3, "max": [1] * 3}
    scene = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": nodes,
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}], "accessors": [accessor],
        "buffers": [{"uri": uri, "byteLength": 36}], "bufferViews": [{"buffer": 0, "byteLength": 36}],
    }  # fmt: skip
    return json.dumps(scene | changes)


TRIANGLE = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]]).tobytes()
NODES: list[dict[str, object]] = [
    {"children": [1, 2], "translation": [10, 0, 0]}, {"mesh": 0}, {"mesh": 0, "scale": [2, 2, 2]},
]  # fmt: skip


def test_gltf_takes_the_files_beside_it_and_moves_its_nodes(tmp_path: Path) -> None:
    (tmp_path / "a b.bin").write_bytes(TRIANGLE)
    inside = "data:application/octet-stream;base64," + base64.b64encode(TRIANGLE).decode()
    for uri in ("a%20b.bin", inside):
        (tmp_path / "scene.gltf").write_text(gltf(uri, NODES))
        raw = read_file(tmp_path / "scene.gltf")
        assert raw.faces is not None and len(raw.faces) == 2
        assert raw.points.min(axis=0).tolist() == [10, 0, 0] and raw.points.max(axis=0).tolist() == [12, 2, 0]


def test_gltf_takes_nothing_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    (tmp_path / "secret.bin").write_bytes(TRIANGLE)
    path = tmp_path / "scenes" / "scene.gltf"
    for uri in (
        "../secret.bin",
        str(tmp_path / "secret.bin"),
        "..%2Fsecret.bin",
        "file:///etc/passwd",
        "http://localhost/a",
    ):
        path.write_text(gltf(uri, NODES))
        with pytest.raises(ValueError, match="not a file in its own folder"):
            read_file(path)
    path.write_text(gltf("none.bin", NODES))
    with pytest.raises(ValueError, match=r"wants 'none\.bin', which is not there"):
        read_file(path)


def test_gltf_promises_no_more_than_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(TRIANGLE)
    huge = {"componentType": 5126, "count": 10**9, "type": "VEC3"}
    circle: list[dict[str, object]] = [{"mesh": 0}, {"children": [2]}, {"children": [1]}]
    shared: list[dict[str, object]] = [{"children": [1, 1]}, {"mesh": 0}]
    for text, message in (
        (gltf("a.bin", NODES, accessors=[huge]), "promises"),
        (gltf("a.bin", NODES, accessors=[{**huge, "count": -1}]), "count"),
        (gltf("a.bin", circle), "no tree"),
        (gltf("a.bin", shared), "no tree"),
        (gltf("a.bin", NODES)[:-9], "damaged"),
        ("[" * 100_000, "damaged"),
    ):
        (tmp_path / "scene.gltf").write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            read_file(tmp_path / "scene.gltf")
        assert "\n" not in str(caught.value)


def test_obj_in_all_its_dialects(tmp_path: Path) -> None:
    square = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    (tmp_path / "broken.mtl").write_bytes(b"newmtl \xff\nmap_Kd ../../gone.png\nKd a b c\n")
    for text, faces in (
        (f"mtllib broken.mtl\n{square}usemtl nobody\nf -4 -3 -2 -1\n", 2),
        (f"mtllib gone.mtl\n{square}usemtl a\nf 1 2 3\nusemtl b\nf 1//1 3//1 4//1\n", 2),
        (f"{square}v .5 1.5 0\nf 1 2 3 5 4\n", 3),
        (f"o first\n{square}f 1 2 3\no second\nv 5 5 5\nf 1 2 5\nl 1 2\n", 2),
    ):
        (tmp_path / "shape.obj").write_text(text)
        raw = read_file(tmp_path / "shape.obj")
        assert raw.faces is not None and len(raw.faces) == faces


def test_meshes_without_faces_are_clouds_with_what_they_know(tmp_path: Path) -> None:
    rows = [f"v {x} {y} {z} 1 0.2 0\nvn 0 1 0" for x, y, z in cloud().tolist()]
    (tmp_path / "cloud.obj").write_text("\n".join(rows))
    raw = read_file(tmp_path / "cloud.obj")
    assert raw.faces is None and np.allclose(raw.points, cloud())
    assert channel(raw, "r", "b", "nx", "ny", "nz") == [1, 0, 0, 1, 0] and raw.features[0, 1] == pytest.approx(
        0.2, abs=0.01
    )
    (tmp_path / "cloud.off").write_text("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")
    assert read_file(tmp_path / "cloud.off").faces is None
    scene = trimesh.Scene()
    for shift in (0, 10):
        matrix = trimesh.transformations.translation_matrix([shift, 0, 0])
        scene.add_geometry(trimesh.PointCloud(cloud(), np.full((100, 4), 51, np.uint8)), transform=matrix)
    scene.export(tmp_path / "clouds.glb")
    raw = read_file(tmp_path / "clouds.glb")
    assert raw.faces is None and len(raw.points) == 200 and np.ptp(raw.points[:, 0]) > 10
    assert channel(raw, "r", "b") == [0.2, 0.2]


@pytest.mark.parametrize("cut", [4, 400])
def test_meshes_that_end_early_are_damaged(tmp_path: Path, cut: int) -> None:
    mesh = trimesh.creation.icosphere(1)
    for kind in ("off", "ply"):
        mesh.export(tmp_path / f"cut.{kind}")
        content = (tmp_path / f"cut.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(content[: content.rindex(b"\n", 0, -cut) if kind == "off" else -cut])
        with pytest.raises(ValueError, match=r"damaged"):
            read_file(tmp_path / f"cut.{kind}")
