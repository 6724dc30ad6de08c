"""Duplicates, leaks and degenerate shapes: planted ones are found, different shapes are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pointmadi.data.clouds import Clouds
from pointmadi.data.quality import Pair, Rules, degenerate, duplicates, leaks, report, same_files

N = 400


def box(seed: int, *size: float) -> Tensor:
    """Sample the surface of a box with a small one on its top corner, so that no turn brings it back: (N, 3)."""
    draws = np.random.default_rng(seed)
    sizes = np.array([size, [s / 2 for s in size]])
    which = (draws.random(N) < 0.2).astype(int)
    points = draws.random((N, 3))
    points[np.arange(N), draws.integers(0, 3, N)] = draws.integers(0, 2, N)
    return torch.from_numpy(points * sizes[which] + which[:, None] * np.array(size) * [0.0, 1.0, 0.0])


SIZES = [(1.0, 1.0, 1.0), (1.0, 2.0, 1.0), (3.0, 1.0, 1.0), (1.0, 1.0, 0.1), (4.0, 0.5, 1.0), (0.2, 3.0, 0.2)]


@pytest.fixture
def boxes() -> Tensor:
    return torch.stack([box(i, *size) for i, size in enumerate(SIZES)])


def turned(points: Tensor, quarters: int) -> Tensor:
    x, y, z = points.unbind(-1)
    return torch.stack({0: (x, y, z), 1: (z, y, -x), 2: (-x, y, -z), 3: (-z, y, x)}[quarters], -1)


def test_different_shapes_are_no_duplicates(boxes: Tensor) -> None:
    assert duplicates(Clouds.pack(boxes)) == ()


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_same_points_in_another_order_are_an_exact_duplicate(boxes: Tensor, scale: float) -> None:
    clouds = Clouds.pack(torch.cat([boxes, boxes[2:3].flip(1) * scale + 5]), names=list("abcdefg"))
    assert [(pair.a, pair.b) for pair in duplicates(clouds)] == [("c", "g")]
    permuted = clouds.select([0, 1])
    again = Clouds(permuted.points.flip(1), permuted.scale, permuted.center, ("x", "y"))
    assert duplicates(permuted, again) == (Pair("a", "x", 0.0), Pair("b", "y", 0.0))


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (lambda points: points, Rules(near=1.2)),
        (lambda points: points * 0.01 - 3, Rules(near=1.2)),
        (lambda points: points + 0.005 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0)),
         Rules(near=1.2)),
        (lambda points: turned(points, 1), Rules(near=1.2, turns=4)),
        (lambda points: turned(points, 3), Rules(near=1.2, turns=4)),
    ],
)  # fmt: skip
def test_other_samplings_of_a_surface_are_found(
    boxes: Tensor, change: Callable[[Tensor], Tensor], rules: Rules
) -> None:
    again = change(box(99, *SIZES[4]))
    (pair,) = duplicates(Clouds.pack(torch.cat([boxes, again[None]]), names=list("abcdefg")), rules=rules)
    assert (pair.a, pair.b) == ("e", "g") and 0.7 < pair.distance < 1.2


def test_turns_are_tried_only_if_asked(boxes: Tensor) -> None:
    clouds = Clouds.pack(torch.cat([boxes, turned(box(99, *SIZES[4]), 1)[None]]))
    assert duplicates(clouds) == ()


def test_the_distance_does_not_depend_on_the_order_of_the_sets(boxes: Tensor) -> None:
    a, b = Clouds.pack(boxes), Clouds.pack(turned(boxes + 0.01 * torch.randn(boxes.shape), 1))
    rules = Rules(near=2, turns=4)
    forth = {(pair.a, pair.b): pair.distance for pair in duplicates(a, b, rules)}
    back = {(pair.b, pair.a): pair.distance for pair in duplicates(b, a, rules)}
    assert len(forth) >= 6 and forth.keys() == back.keys()
    assert all(abs(forth[key] - back[key]) < 0.02 for key in forth)


def test_sets_of_different_numbers_of_points_can_be_compared(boxes: Tensor) -> None:
    found = duplicates(Clouds.pack(boxes), Clouds.pack(boxes[:, ::2]), Rules(near=1.2))
    assert {(pair.a, pair.b) for pair in found} == {(f"{i:06d}", f"{i:06d}") for i in range(6)}


def test_leaks_go_from_train_to_test(boxes: Tensor) -> None:
    points = torch.cat([boxes, boxes[1:2].flip(1), boxes[3:4]])
    names = ["a", "b", "c", "d", "e", "f", "b again", "d again"]
    clouds = Clouds.pack(points, names, split=[0, 0, 0, 1, 0, 1, 1, 1])
    assert [(pair.a, pair.b) for pair in leaks(clouds)] == [("b", "b again")]
    found = report(clouds)
    assert len(found.pairs) == 2 and found.leaks == leaks(clouds) and found.defects == ()
    text = "\n".join(found.lines())
    assert "1 test shapes are also training shapes" in text and "b again (test) = b (train" in text
    with pytest.raises(ValueError, match="no split"):
        leaks(Clouds.pack(boxes))
    assert report(Clouds.pack(boxes)).leaks is None


def test_many_lines_are_cut_short(boxes: Tensor) -> None:
    found = report(Clouds.pack(boxes[:1].expand(20, -1, -1)))
    assert {pair.b for pair in found.pairs if pair.distance == 0} == {f"{i:06d}" for i in range(1, 20)}
    assert any("… and" in line for line in found.lines())


def test_a_set_of_one_shape_and_repeated_points(boxes: Tensor) -> None:
    assert duplicates(Clouds.pack(boxes[:1])) == ()
    few = torch.cat([boxes[:, :5]] * 20, 1)
    again = Clouds.pack(torch.cat([few, few[2:3].flip(1)]), names=list("abcdefg"))
    assert [(pair.a, pair.b) for pair in duplicates(again, rules=Rules(near=0.1))] == [("c", "g")]


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (torch.full((50, 3), torch.nan), "50 of 50 points are NaN"),
        (torch.zeros(1, 3), "a single point"),
        (torch.full((50, 3), 1e6), "all 50 points are at one place"),
        (torch.cat([torch.zeros(20_000, 3), torch.ones(1, 3)]), "nearly all of the 20001 points are at one place"),
        (torch.linspace(0, 1, 50)[:, None] * torch.tensor([1.0, 2.0, 3.0]), "on a line"),
        (torch.rand(10, 3).repeat(5, 1), "holds 10 different points, fewer than half of the 50 that were asked for"),
        (torch.rand(50, 3) * torch.tensor([1.0, 1.0, 0.0]), "in a plane"),
    ],
)
def test_degenerate_shapes_are_listed(points: Tensor, reason: str) -> None:
    (defect,) = degenerate(points[None], ["x"])
    assert defect.name == "x" and reason in defect.reason


def test_thin_shapes_are_shapes(boxes: Tensor) -> None:
    assert degenerate(boxes, list("abcdef")) == ()
    assert degenerate(boxes * torch.tensor([1.0, 1.0, 0.005]) + 100, list("abcdef")) == ()


def test_files_of_the_same_content(tmp_path: Path) -> None:
    for name, content in {"a": "xy", "b": "xz", "c": "xy", "d": "xyz", "e": "", "f": ""}.items():
        (tmp_path / name).write_text(content)
    groups = same_files(sorted(tmp_path.iterdir(), reverse=True))
    assert {tuple(path.name for path in group) for group in groups} == {("e", "f"), ("a", "c")}


def test_rules_are_checked() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Rules(turns=0)
