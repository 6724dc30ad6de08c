"""The command `data`: what it says of files, folders and sets, what it makes, and its mistakes."""

import json
from dataclasses import replace
from pathlib import Path

import layout_trees
import numpy as np
import pytest
import torch

from pointmadi import cli
from pointmadi.data.clouds import Clouds
from pointmadi.data.shards import Shards
from pointmadi.data.sources import open_source


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POINTMADI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        file = tmp_path / "shapes" / ("chair", "lamp", "lamp")[i % 3] / f"{i}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.random.default_rng(i).normal(size=(40, 3)) * (1, 2, 4))
    return tmp_path


def call(line: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert cli.main(["data", *line.split()]) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err


def test_the_group_and_its_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(f"  {name} " in call("--help", capsys) for name in ("list", "check", "info", "pack"))
    assert call("", capsys).startswith("usage: pointmadi data COMMAND")
    assert call("pak", capsys, 2) == "error: unknown command of pointmadi data 'pak'; did you mean 'pack'?\n"
    assert call("pack shapes", capsys, 2).startswith("error: missing --to (STR)")
    assert "is a file; give the folder" in call("pack shapes/chair/0.npy --to x", capsys, 2)
    assert "workers and shard_size" in call("pack shapes --to x --workers -1", capsys, 2)
    call("pack shapes --to packed --num-points 32", capsys)
    assert "packed is a packed set already" in call("pack packed --to again", capsys, 2)
    assert call("info nowhere.ply", capsys, 2).startswith("error: no file, folder or source 'nowhere.ply'")
    assert "no published set 'x' is known; these are: " in call("list x", capsys, 2)
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "pack", "--help"])
    assert stop.value.code == 0 and "usage: pointmadi data pack" in capsys.readouterr().out


def test_what_is_known_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    everything = call("list", capsys)
    one = call("list modelnet40", capsys)
    assert one in everything and "9843 train, 2468 test, 40 classes" in one and "licence" in one
    assert ".ply" in everything and "modelnet40:/data" in everything


def test_pack_into_a_file_and_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--num-points 32 --labels folders --up z --scale 2"
    assert "made set: 6 shapes, 6 of them read now" in call(f"pack shapes --to set {options}", capsys)
    assert "made set: 6 shapes, 0 of them read now" in call(f"pack shapes --to set {options}", capsys)
    assert "made set.npz: 6 shapes" in call(f"pack shapes --to set.npz {options}", capsys)
    whole = Clouds.read(here / "set.npz")
    assert Shards.open(here / "set").load().fingerprint() == whole.fingerprint()
    assert whole.classes == ("chair", "lamp") and whole.num_points == 32
    x, y, _ = np.load(here / "shapes" / "chair" / "0.npy").T
    raised = whole.xyz()[0] * whole.scale[0] + whole.center[0]
    assert raised[:, 0].numpy().max() <= 2 * x.max() + 1e-3 and raised[:, 2].numpy().max() <= -2 * y.min() + 1e-3
    (here / "shapes" / "lamp" / "bad.ply").write_text("x")
    assert "1 of 7 files in shapes cannot be read" in call(f"pack shapes --to set {options}", capsys, 2)
    said = call(f"pack shapes --to set {options} --skip-bad", capsys)
    assert "1 are left out; set/unreadable.txt lists them" in said
    assert "--to a folder" in call(f"pack shapes --to set.npz {options} --workers 2", capsys, 2)


@pytest.mark.parametrize(("to", "credited"), [("set.npz", "set.credits.csv"), ("set", "set/credits.csv")])
def test_who_made_the_shapes_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], to: str, credited: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POINTMADI_CACHE", str(tmp_path / "cache"))
    layout_trees.sweethome3d(tmp_path / "furniture")
    said = call(f"pack sweethome3d:furniture --to {to} --num-points 64", capsys)
    lines = Path(credited).read_text().splitlines()
    assert credited in said and lines[0] == "name,credit" and len(lines) == 1 + len(open_source(to, 64, split="all"))


def test_what_there_is_is_described(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = call("info shapes/chair/0.npy", capsys)
    table = np.load(here / "shapes" / "chair" / "0.npy")
    assert file.startswith("40 points\n") and f"z: {table[:, 2].min():.6g} to {table[:, 2].max():.6g}" in file
    heights = file.split("points by height (y):\n")[1].splitlines()
    assert sum(int(line.split()[3]) for line in heights) == 40 and max(line.count("█") for line in heights) == 40
    folder = call("info shapes --labels folders", capsys)
    assert "shapes: folder, 6 shapes" in folder
    assert [line.split() for line in folder.splitlines()[2:]] == [["lamp", "4", "█" * 40], ["chair", "2", "█" * 20]]
    call("pack shapes --to set --num-points 32", capsys)
    described = call("info set", capsys)
    assert f"6 shapes of 32 points, fingerprint {Shards.open(here / 'set').load().fingerprint()}" in described
    assert "objects" not in described and "chair" in call("info objects:26", capsys)
    pytest.importorskip("matplotlib")
    for what in ("shapes", "set", "shapes/chair/0.npy"):
        assert "made picture.png" in call(f"info {what} --picture picture.png", capsys)
        assert (here / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_rooms_are_packed_and_described(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for area in (1, 5):
        points = np.c_[random.random((60, 3)) * 4, random.integers(0, 256, (60, 3)), random.integers(0, 13, 60)]
        (here / "s3dis").mkdir(exist_ok=True)
        np.save(here / "s3dis" / f"Area_{area}_office_1.npy", points)
    said = call("pack s3dis:s3dis --to rooms --features rgb", capsys)
    assert "note: train: 1 of 204 rooms" in said and "made rooms: 2 rooms" in said
    described = call("info rooms", capsys)
    assert described.startswith("2 rooms of 60 to 60 points, 120 in all") and "features: r, g, b" in described
    counts = described.split("points of each class:\n")[1].splitlines()
    assert sum(int(line.split()[1]) for line in counts if line.startswith("  ") and "more" not in line) >= 110


def test_check_tells_what_is_wrong(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing is missing or damaged" in call("check shapes", capsys)
    (here / "shapes" / "bad.ply").write_text("x")
    assert call("check shapes", capsys, 2) == "error: shapes: 1 problem found\n"
    cli.main(["data", "check", "shapes"])
    assert "problem: bad.ply: damaged" in capsys.readouterr().out
    call("pack shapes --to set --num-points 32 --skip-bad", capsys)
    assert "nothing is missing or damaged" in call("check set", capsys)


def test_degenerate_shapes_are_listed_by_every_check(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = np.linspace(0, 1, 2000)[:, None] * np.ones(3)
    np.save("shapes/line.npy", line)
    said = call("check shapes", capsys)
    assert "line.npy: all points lie on a line" in said and "different points, fewer than half of the 1024" in said
    assert said.rstrip().endswith("worth a look: 7 degenerate shapes")  # the others have few points


def test_leaks_are_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = open_source("objects:26", 256, split="all")
    assert isinstance(objects, Clouds)
    split = torch.arange(26) >= 20
    replace(objects, split=split.to(torch.uint8)).write(here / "sound.npz")
    again = objects.select([*range(25), 3])
    replace(again, split=split.to(torch.uint8)).write(here / "leaky.npz")
    before = call("check sound.npz --leaks", capsys)
    assert "nothing is missing or damaged" in before
    assert "error: leaky.npz: 1 problem found" in call("check leaky.npz --leaks", capsys, 2)
    cli.main(["data", "check", "leaky.npz", "--leaks"])
    assert "problem: 1 test shapes are training shapes as well" in capsys.readouterr().out


def test_published_layouts_are_recognised_and_can_be_overruled(
    here: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    root = here / "modelnet40_normal_resampled"
    for i, name in enumerate(("bed_0001", "bed_0002", "chair_0001")):
        folder = root / name.rsplit("_", 1)[0]
        folder.mkdir(parents=True, exist_ok=True)
        np.savetxt(folder / f"{name}.txt", np.random.default_rng(i).normal(size=(50, 6)), delimiter=",")
    (root / "modelnet40_shape_names.txt").write_text("bed\nchair\n")
    (root / "modelnet40_train.txt").write_text("bed_0001\nchair_0001\n")
    (root / "modelnet40_test.txt").write_text("bed_0002\n")
    clouds = open_source(root, 32)
    assert len(clouds) == 2 and any("is read as" in str(w.message) for w in recwarn)  # type: ignore[arg-type]
    recwarn.clear()
    named = open_source(f"modelnet40:{root}", 32, split="test")
    assert isinstance(named, Clouds) and len(named) == 1 and not len(recwarn)
    assert named.label is not None and named.classes[int(named.label[0])] == "bed"
    plain = open_source(f"folder:{root}", 32, skip_bad=True)
    assert isinstance(plain, Clouds) and plain.label is None and "bed/bed_0001.txt" in plain.names
    assert "train: 2 of 9843 shapes" in call("pack modelnet40:modelnet40_normal_resampled --to set", capsys)
    assert json.loads((here / "set" / "index.json").read_text())["layout"] == "modelnet40"
