"""Rooms from the command line: synthetic ones, whole ones, folds, mistakes; and what the synthetic ones are like."""

import json
from pathlib import Path

import numpy as np
import pytest

from pointmadi import cli
from pointmadi.data.sources import open_rooms
from pointmadi.data.synthetic.rooms import CLASSES, list_rooms, make_room

TINY = [
    *("--train.epochs", "1", "--train.warmup", "0", "--train.precision", "fp32", "--epoch-size", "4"),
    *("--batch-size", "2", "--num-points", "64", "--encoder.dim", "12", "--encoder.depth", "3", "--encoder.heads", "2"),
    *("--encoder.num-patches", "8", "--encoder.patch-size", "8", "--encoder.widths", "8", "8", "8"),
    *("--segmenter.widths", "16", "16", "16", "16"),
]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shared = tmp_path_factory.getbasetemp() / "rooms"  # made once
    monkeypatch.setenv("POINTMADI_CACHE", str(shared))


def scenes(*args: str) -> int:
    return cli.main(["scenes", "none", "--data", "rooms:6", *TINY, *args])


def test_rooms_depend_on_seed_and_number_alone() -> None:
    first, second, other = make_room(3, 0, 50.0), make_room(3, 0, 50.0), make_room(3, 1, 50.0)
    assert np.array_equal(first.points, second.points) and np.array_equal(first.part, second.part)
    assert first.points.shape != other.points.shape or not np.array_equal(first.points, other.points)


def test_rooms_look_like_rooms() -> None:
    seen = set()
    for index in range(12):
        room = make_room(index, 0, 60.0)
        assert room.part is not None and room.feature_names == ("r", "g", "b")
        low, high = room.points.min(axis=0), room.points.max(axis=0)
        assert abs(low[2]) < 0.1 and 2 < high[2] < 5 and (high[:2] - low[:2] > 2.5).all() and (high < 11).all()
        floor, ceiling = (room.points[room.part == CLASSES.index(name), 2] for name in ("floor", "ceiling"))
        assert np.abs(floor).max() < 0.1 and ceiling.min() > 2
        assert room.features.min() >= 0 and room.features.max() <= 1
        seen |= set(room.part.tolist())
    assert seen == set(range(len(CLASSES)))


def test_areas_split_the_rooms() -> None:
    listing = list_rooms(12)
    assert {entry.group for entry in listing.entries} == {f"Area_{area}" for area in range(1, 7)}
    assert {entry.group for entry in listing.entries if entry.split} == {"Area_5"}
    rooms = open_rooms("rooms:6", ["rgb"])
    assert len(rooms) == 6 and rooms.feature_names == ("r", "g", "b") and rooms.test().groups == ("Area_5",)


def test_whole_rooms_are_scored(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--run", "run", "--select", "last", "--features", "rgb", "--num-points", "1024")
    assert scenes(*options) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "task: scenes" in out and "IoU of each class" in out and "xyz rgb, whole rooms" in out
    (result,) = json.loads(Path("run/results.json").read_text())
    scores = result["scores"]["0"]
    ious = [value for name, value in scores.items() if name.startswith("iou_")]
    assert scores["miou"] == pytest.approx(np.mean(ious)) and 0 < scores["accuracy"] < 1
    assert Path("run/seed-0/task.safetensors").is_file()
    assert scenes(*options) == 2
    assert "already holds" in capsys.readouterr().err


def test_groups_folds_and_random_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert scenes("--run", "one", "--groups", "Area_1", "Area_2", "--exam", "blocks", "--select", "val") == 0
    assert "held-out rooms" in capsys.readouterr().out
    assert scenes("--run", "all", "--folds", "--exam", "blocks", "--select", "last", "--train.max-steps", "1") == 0
    (result,) = json.loads(Path("all/results.json").read_text())
    assert list(result["scores"]) == [f"Area_{area} 0" for area in range(1, 7)]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--groups", "Area_9"], "no room is of Area_9"),
        (["--groups", *(f"Area_{area}" for area in range(1, 7))], "none is left to train on"),
        (["--data", "objects:20"], "no folder 'objects:20'"),
        (["--data", "rooms:0"], "1 to"),
        (["--seeds", "0", "0"], "different whole numbers"),
        (["--features", "normals"], "has no nx, ny, nz"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    assert scenes("--run", "run", *args) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and message in said
