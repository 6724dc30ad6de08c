"""Damaged files of every format are read or refused in one line: at once, in little memory, and nothing is run.

`POINTMADI_FUZZ=20000 pytest tests/test_fuzz.py` goes on for longer, with other files each time.
"""

import io
import json
import multiprocessing
import os
import pickle
import re
import resource
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointmadi.data import pickles
from pointmadi.data.clouds import Clouds
from pointmadi.data.formats import SUFFIXES, read_file

FILES = int(os.environ.get("POINTMADI_FUZZ", 1200))
SECONDS, MEMORY = 5, 1 << 30  # for one file
FORBIDDEN = re.compile(r"os\.(system|exec|fork|posix_spawn|spawn|remove|rename|mkdir)|subprocess|socket|pickle|ctypes")
NUMBERS = (b"0", b"-1", b"1", b"3", b"7", b"65536", b"2147483647", b"4294967296", b"9" * 20, b"1e9", b"nan", b"")
WORDS = tuple(struct.pack("<I", n) for n in (0, 1, 2, 255, 65535, 10**8, 2**31 - 1, 2**31, 2**32 - 1))


def shapes() -> dict[str, bytes]:
    """Return a good file of every kind, small so that damage meets what matters."""
    random = np.random.default_rng(0)
    table = random.normal(size=(40, 7)).astype("<f4")
    points = table[:, :3]
    mesh = trimesh.creation.box()
    mesh.visual.vertex_colors = np.full((8, 4), 99, np.uint8)
    scene = trimesh.Scene([mesh, trimesh.PointCloud(points)])
    scene.add_geometry(mesh, transform=trimesh.transformations.rotation_matrix(1, [0, 1, 0]))
    names = "x y z nx ny nz intensity"
    rows = "\n".join(" ".join(f"{v:.4g}" for v in row) for row in table).encode()
    lists: dict[str, bytes] = {
        "text.xyz": rows, "named.txt": f"{names}\n".encode() + rows, "named.csv": rows.replace(b" ", b","),
        "scan.bin": table[:, :4].tobytes(), "mesh.off": mesh.export(file_type="off").encode(),
        "mesh.obj": mesh.export(file_type="obj").encode() + b"\nf -1 -2 -3 -4\nusemtl a\nf 1//1 2//1 3//1\n",
        "mesh.stl": mesh.export(file_type="stl"), "text.stl": mesh.export(file_type="stl_ascii").encode(),
        "mesh.ply": mesh.export(file_type="ply"), "text.ply": mesh.export(file_type="ply", encoding="ascii"),
        "cloud.ply": trimesh.PointCloud(points, np.full((40, 4), 9, np.uint8)).export(file_type="ply"),
        "scene.glb": scene.export(file_type="glb"),
    }  # fmt: skip
    folder = scene.export(file_type="gltf")
    text = folder["model.gltf"].decode()
    lists["scene.gltf"] = text.encode()
    lists |= {name: content for name, content in folder.items() if name.endswith(".bin")}
    head = (
        f"VERSION .7\nFIELDS {names}\nSIZE 4 4 4 4 4 4 4\nTYPE F F F F F F F\nCOUNT 1 1 1 1 1 1 1\nWIDTH 40\nHEIGHT 1\n"
    )
    for kind, body in (("ascii", rows), ("binary", table.tobytes())):
        lists[f"{kind}.pcd"] = f"{head}POINTS 40\nDATA {kind}\n".encode() + body
    columns = table.T.tobytes()
    packed = b"".join(b"\x1f" + columns[at : at + 32] for at in range(0, len(columns), 32))
    sizes = struct.pack("<II", len(packed), len(columns))
    lists["packed.pcd"] = f"{head}POINTS 40\nDATA binary_compressed\n".encode() + sizes + packed
    stream = io.BytesIO()
    np.save(stream, table)
    lists["array.npy"] = stream.getvalue()
    for name, save in (("plain.npz", np.savez), ("deflated.npz", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, points=points, normals=table[:, 3:6], faces=[[0, 1, 2]], name="a")
        lists[name] = stream.getvalue()
    for suffix, options in (("h5", {}), ("hdf5", {"compression": "gzip"})):
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            file.create_dataset("data", data=points, **options)
            file.create_dataset("pid", data=np.arange(40), **options)
        lists[f"arrays.{suffix}"] = stream.getvalue()
    for protocol in (0, 2, 4, 5):
        value = {"train": [(points, [3], np.int64(3)), (table.astype(">f8"), "chair", 2.5, None, b"x")], "test": [True]}
        lists[f"set{protocol}.pkl"] = pickle.dumps(value, protocol)
    return lists | instruments(points)


def instruments(points: np.ndarray) -> dict[str, bytes]:
    """Return what needs the extras."""
    laspy = pytest.importorskip("laspy")
    las = laspy.create(point_format=2)
    las.xyz, las.intensity = points, np.arange(40)
    found = {}
    for suffix in ("las", "laz"):
        stream = io.BytesIO()
        las.write(stream, do_compress=suffix == "laz")
        found[f"scan.{suffix}"] = stream.getvalue()
    return found


def read(path: Path) -> None:
    if path.suffix == ".pkl":
        pickles.load(path)
    elif path.name == "set.npz":
        Clouds.read(path)
    else:
        read_file(path)


def work(pipe: Connection) -> None:
    """Read the files whose paths come through a pipe, with little memory, and say what became of them."""
    done: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes or FORBIDDEN.match(event):
            done.append(f"{event} {arguments!r}")

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the parser of laz says there that it panics
    for path in pipe.recv():  # good files, so that what is imported late is there
        read(path)
    taken = int(re.search(r"VmSize:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    sys.addaudithook(watch)
    pipe.send(None)
    while True:
        path = pipe.recv()
        done.clear()
        try:
            read(path)
            said = ""
        except (ValueError, OSError) as error:
            said = str(error) or "nothing"
        except BaseException as error:
            said = f"fails with {type(error).__name__}\n{error}"
        pipe.send((said, list(done)))


class Reader:
    """A process that reads files, and another one once it died."""

    def __init__(self, good: list[Path]) -> None:
        self.good = good
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=work, args=(there,), daemon=True)
        self.process.start()
        there.close()
        self.pipe.send(self.good)
        self.pipe.recv()

    def read(self, path: Path) -> tuple[str, list[str]]:
        self.pipe.send(path)
        started = time.monotonic()
        try:
            if self.pipe.poll(SECONDS):
                said: tuple[str, list[str]] = self.pipe.recv()
                return said
            reason = f"takes more than {SECONDS} s\n"
        except EOFError:
            self.process.join()
            reason = f"kills its process ({self.process.exitcode}) after {time.monotonic() - started:.1f} s\n"
        self.stop()
        self.start()
        return reason, []

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    if sys.platform != "linux":
        pytest.skip("the memory of a process is limited on Linux only")
    folder = tmp_path_factory.mktemp("good")
    for name, content in SHAPES.items():
        (folder / name).write_bytes(content)
    reader = Reader([folder / name for name in SEEDS])
    yield reader
    reader.stop()


def packed_set() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.npz"
        points = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 20, 3)))
        Clouds.pack(points, label=[0, 1, 0], classes=("a", "b")).write(path)
        return path.read_bytes()


def edit(content: bytes, kind: str, where: float, size: int, value: int) -> bytes:
    """Damage a file at one place."""
    at = int(where * len(content))
    match kind:
        case "flip":
            return content[:at] + bytes(byte ^ 1 << value % 8 for byte in content[at : at + 1]) + content[at + 1 :]
        case "cut":
            return content[:at]
        case "remove":
            return content[:at] + content[at + size :]
        case "insert":
            return content[:at] + np.random.default_rng(value).bytes(size) + content[at:]
        case "double":
            return content[:at] + content[at : at + size] * (value % 4 + 2) + content[at + size :]
        case "swap":
            low, high = sorted((at, value % max(len(content), 1)))
            a, b = content[low : low + size], content[high : high + size]
            return content[:low] + b + content[low + size : high] + a + content[high + size :]
        case "word":  # numbers of binary headers
            return content[:at] + WORDS[value % len(WORDS)] + content[at + 4 :]
        case "number":  # numbers of text, and those of headers before others
            found = list(re.finditer(rb"(?<![\w.])-?\d+", content[: 1 << 14]))
            if not found:
                return content
            match_ = found[int(where**3 * len(found)) % len(found)]
            return content[: match_.start()] + NUMBERS[value % len(NUMBERS)] + content[match_.end() :]
        case _:  # inside an archive whose sums are right
            try:
                return repacked(content, where, size, value)
            except (zipfile.BadZipFile, zlib.error, ValueError, OSError, NotImplementedError):
                return content


def repacked(content: bytes, where: float, size: int, value: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stream, "w", value % 2 * 8) as changed:
        for i, name in enumerate(archive.namelist()):
            kinds = ("number", "flip", "cut", "insert", "double", "word")
            member = archive.read(name)
            if i != value % 5:
                member = edit(member, kinds[(value + i) % 6], where / 3, size, value // 6)
            changed.writestr(name, member)
    return stream.getvalue()


KINDS = ("flip", "cut", "remove", "insert", "double", "swap", "word", "number", "number", "repack")
SIZES = (1, 2, 3, 4, 8, 17, 64, 999)
EDITS = st.tuples(
    st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True), st.sampled_from(SIZES), st.integers(0, 2**16)
)  # fmt: skip
SHAPES = {**shapes(), "set.npz": packed_set()}
SEEDS = [name for name in SHAPES if not name.startswith("gltf_buffer")]


def test_all_formats_are_damaged_below() -> None:
    assert {Path(name).suffix for name in SEEDS} == {*SUFFIXES, ".pkl"} - {".e57"}


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_one_line(reader: Reader) -> None:
    folder = reader.good[0].parent
    tally = dict.fromkeys(("read", "refused"), 0)

    @settings(
        max_examples=FILES, derandomize="POINTMADI_FUZZ" not in os.environ, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(SEEDS), st.lists(EDITS, min_size=1, max_size=3))
    def damage(name: str, edits: list[tuple[str, float, int, int]]) -> None:
        content = SHAPES[name]
        for kind, where, size, value in edits:
            content = edit(content, kind, where, size, value)
        path = folder / f"damaged-{name}" if name != "set.npz" else folder / "damaged" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        said, done = reader.read(path)
        assert "\n" not in said and len(said) < 1000, said
        assert not re.search("MemoryError|allocate", said), said
        assert not done, done
        tally["refused" if said else "read"] += 1

    damage()
    print(json.dumps(tally))
    assert sum(tally.values()) >= min(FILES, 1000) and min(tally.values()) > FILES // 20
