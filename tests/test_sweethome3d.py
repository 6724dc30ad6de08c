"""Furniture libraries: models out of a zip, classes by name, credits, and damaged or hostile libraries."""

import csv
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest

from pointmadi.data.clouds import TEST
from pointmadi.data.layouts.sweethome3d import CLASSES, SWEETHOME3D, TWINS, class_of
from pointmadi.data.listing import write_credits

FILES = {"a.obj": trees.BOX}


def piece(**known: str) -> dict[str, str]:
    return {"name": "Chair", "model": "/a.obj", **known}


def test_classes_have_words_of_their_own() -> None:
    words = [word for words in CLASSES.values() for word in words.split()]
    assert len(words) == len(set(words)) and len(CLASSES) >= 15


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Oak chair", "chair"), ("Chair with cushion", "chair"), ("Armchair", "armchair"), ("Sofa 2 seats", "sofa"),
        ("Table on trestles", "table"), ("Table fan", None), ("Glass door cabinet", "cabinet"), ("Glass door", "door"),
        ("Double French window small panes", "window"), ("Window blind", None), ("Lying down female", "person"),
        ("Pine under snow", "tree"), ("Concept Sedan 02 Sport", "car"), ("Wheelchair", None), ("", None),
    ],
)  # fmt: skip
def test_the_class_is_that_of_the_last_word(name: str, expected: str | None) -> None:
    label = class_of(name)
    assert (list(CLASSES)[label] if label >= 0 else None) == expected


def test_models_are_turned_as_the_catalogue_says(tmp_path: Path) -> None:
    found = trees_listing(tmp_path)
    plain, turned = (found.read(entry).points for entry in found.entries)
    assert np.ptp(plain, axis=0).tolist() == [1, 2, 3]
    np.testing.assert_allclose(turned, plain @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]).T)


def trees_listing(root: Path):
    trees.TREES["sweethome3d"](root)
    return SWEETHOME3D.list(root)


def test_credits_name_the_creator_and_the_licence(tmp_path: Path) -> None:
    found = trees_listing(tmp_path)
    assert found.credits == ("Oak chair, by A. Maker. CC0", "Bill 10€, by an unknown creator. CC0")
    write_credits(found, tmp_path / "set.credits.csv")
    with (tmp_path / "set.credits.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["name", "credit"],
            ["Lib/oak (Oak chair)", "Oak chair, by A. Maker. CC0"],
            ["Lib/bill (Bill 10€)", "Bill 10€, by an unknown creator. CC0"],
        ]


def test_a_share_of_each_class_tests_and_does_not_depend_on_the_order(tmp_path: Path) -> None:
    pieces = [piece(id=f"x#{i}", name="Chair" if i % 3 else "Bed") for i in range(60)]
    trees.library(tmp_path / "a/Lib.sh3f", pieces, FILES)
    trees.library(tmp_path / "b/Lib.sh3f", pieces[::-1], FILES)
    one, other = SWEETHOME3D.list(tmp_path / "a"), SWEETHOME3D.list(tmp_path / "b")
    split = {entry.name: entry.split for entry in one.entries}
    assert split == {entry.name: entry.split for entry in other.entries}
    tests = [sum(e.split == TEST for e in one.entries if e.label == label) for label in (1, 6)]
    assert tests == [6, 11]  # of 20 and 40: a quarter, and one


def test_twins_lie_on_one_side(tmp_path: Path) -> None:
    assert all(TWINS[first] == first for first in TWINS.values()) and len(TWINS) > len(set(TWINS.values())) > 10
    keys = [key.split("/")[1] for key in TWINS if key.startswith("Scopia/window")]
    pieces = [piece(id=f"Scopia#{key}", name="Window") for key in keys]
    pieces += [piece(id=f"Scopia#other{i}", name="Window") for i in range(60)]
    trees.library(tmp_path / "Scopia.sh3f", pieces, FILES)
    sides: dict[str, set[int]] = {}
    for entry in SWEETHOME3D.list(tmp_path).entries:
        key = entry.name.partition(" ")[0]
        sides.setdefault(TWINS.get(key, key), set()).add(entry.split)
    assert all(len(side) == 1 for side in sides.values()) and {0} in sides.values() and {TEST} in sides.values()


@pytest.mark.parametrize(
    ("known", "files", "reason"),
    [
        (piece(model="/b.obj"), FILES, "b.obj is not in it"),
        (piece(), {"a.obj": "v 0 0 0\nf 1 2 3\n"}, "damaged"),
        (piece(), {"a.obj": "v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n"}, "at one place"),
        (piece(), {"a.obj": "nothing"}, "damaged"),
        (piece(), {"a.obj": "v 0 0 0\n" * (9 << 20)}, "bytes, more than"),
    ],
)
def test_bad_models_are_refused_in_one_line(
    tmp_path: Path, known: dict[str, str], files: dict[str, str], reason: str
) -> None:
    trees.library(tmp_path / "Lib.sh3f", [known], files)
    found = SWEETHOME3D.list(tmp_path)
    with pytest.raises(ValueError, match=reason) as error:
        found.read(found.entries[0])
    assert "Lib.sh3f" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({"name": "Chair"}, "without model"),
        ({"model": "/a.obj"}, "without name"),
        (piece(modelRotation="1 0 0 0 1 0 0 0 2"), "no rotation"),
        (piece(modelRotation="1 0"), "no rotation"),
    ],
)
def test_bad_catalogues_are_refused_in_one_line(tmp_path: Path, known: dict[str, str], reason: str) -> None:
    trees.library(tmp_path / "Lib.sh3f", [known], FILES)
    with pytest.raises(ValueError, match=f"Lib.sh3f: damaged.*{reason}"):
        SWEETHOME3D.list(tmp_path)


def test_models_of_other_kinds_are_left_out_and_named(tmp_path: Path) -> None:
    trees.library(tmp_path / "Lib.sh3f", [piece(), piece(id="x#2", model="/a.dae")], FILES)
    found = SWEETHOME3D.list(tmp_path)
    assert len(found.entries) == 1 and "Lib.sh3f: a.dae is no .obj" in found.problems
