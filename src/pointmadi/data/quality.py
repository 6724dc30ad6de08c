"""What may be wrong with a set: shapes that come twice, test shapes seen in training, shapes that are none.

Two clouds of one surface never hold the same points, so nearness is measured in the spacing of the points themselves:
the mean distance from a point of one cloud to the nearest of the other, divided by the mean distance to the nearest
within the other. It is 0 for the same points, about 1 for two samplings of one surface however dense they are, and
more for anything else. What is finer than the spacing cannot be told apart.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointmadi.data.clouds import LEVELS, Clouds
from pointmadi.ops.descriptors import d2, histogram, radii
from pointmadi.ops.random import Draws

SCREEN = 256  # points with which candidates are compared first
SLACK = 1.3  # by how much more than `near` so few points may be apart
BLOCK = 1024  # shapes, or pairs, that are compared at a time
STEPS = 2  # with which two shapes are brought together before they are measured
THIN = 1e-3  # a share of the size of a shape below which it counts as nothing
SHOWN = 10  # lines of a kind that are printed

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Rules:
    """When two shapes are the same.

    Args:
        near: the largest distance, in spacings of the points.
        neighbors: candidates for each shape: those with the most similar histograms.
        turns: how many turns about the up axis (y) are tried, evenly from 0°; 1 for none, 4 for quarters.
        num_points: points of each shape that are compared, fewer where it has fewer.
    """

    near: float = 1.15
    neighbors: int = 8
    turns: int = 1
    num_points: int = 1024

    def __post_init__(self) -> None:
        if min(self.near, self.neighbors, self.turns, self.num_points) <= 0:
            raise ValueError(f"near, neighbors, turns and num_points must be greater than 0, got {self}")


@dataclass(frozen=True)
class Pair:
    """Two shapes that are the same.

    Args:
        a, b: their names.
        distance: in spacings of their points; 0 where they are the same points in whatever order.
    """

    a: str
    b: str
    distance: float


@dataclass(frozen=True)
class Defect:
    """A shape that is hardly one.

    Args:
        name: its name.
        reason: what it is instead.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Quality:
    """What was found in a set.

    Args:
        num_shapes: how many shapes were compared.
        pairs: shapes that are the same, within and across the splits.
        leaks: those of them where a training shape (a) is a test shape (b); None where there is no split.
        defects: degenerate shapes.
    """

    num_shapes: int
    pairs: tuple[Pair, ...]
    leaks: tuple[Pair, ...] | None
    defects: tuple[Defect, ...]

    def lines(self) -> Iterator[str]:
        """Say it in a few lines of text."""
        exact = sum(pair.distance == 0 for pair in self.pairs)
        yield f"{self.num_shapes} shapes: {exact} pairs of the same points, {len(self.pairs) - exact} nearly the same"
        yield from _some([f"{p.a} = {p.b} (distance {p.distance:.2f})" for p in self.pairs])
        if self.leaks is None:
            yield "no split, so nothing can leak from train to test"
        else:
            tests = len({pair.b for pair in self.leaks})
            yield f"{tests} test shapes are also training shapes"
            yield from _some([f"{p.b} (test) = {p.a} (train, distance {p.distance:.2f})" for p in self.leaks])
        yield from self.tell(self.defects)

    @staticmethod
    def tell(defects: Sequence[Defect]) -> Iterator[str]:
        """Say which shapes are hardly any."""
        yield f"{len(defects)} degenerate shapes"
        yield from _some([f"{defect.name}: {defect.reason}" for defect in defects])


def report(clouds: Clouds, rules: Rules = Rules()) -> Quality:
    """Look for everything that this module knows."""
    across = None
    if clouds.split is not None and len(clouds.split.unique()) == 2:
        across = leaks(clouds, rules)
    defects = degenerate(clouds.points.float() / LEVELS, clouds.names)
    return Quality(len(clouds), duplicates(clouds, rules=rules), across, defects)


def leaks(clouds: Clouds, rules: Rules = Rules()) -> tuple[Pair, ...]:
    """Find training shapes (a) that are test shapes (b) too."""
    if clouds.split is None:
        raise ValueError("this cloud set has no split, so nothing can leak from train to test")
    return duplicates(clouds.train(), clouds.test(), rules)


def duplicates(clouds: Clouds, other: Clouds | None = None, rules: Rules = Rules()) -> tuple[Pair, ...]:
    """Find shapes that are the same, up to size and place: within a set, or those of one set in another.

    Of many that are the same, each is paired with its nearest ones, not with all.

    Args:
        clouds: the set.
        other: where the second of each pair is searched; None for the same set.
        rules: what counts as the same.

    Returns:
        Pairs, the nearest first; exact ones have a distance of 0.
    """
    count = min(rules.num_points, clouds.num_points, other.num_points if other else clouds.num_points)
    a = _Shapes(clouds, count)
    b = a if other is None else _Shapes(other, count)
    found = dict.fromkeys(_same_points(a, b), 0.0)
    for i, j in _screened(a, b, rules):
        distance = _distance(a, int(i), b, int(j), rules.turns)
        if (i, j) not in found and distance <= rules.near:
            found[int(i), int(j)] = distance
    pairs = [Pair(clouds.names[i], b.clouds.names[j], distance) for (i, j), distance in found.items()]
    return tuple(sorted(pairs, key=lambda pair: (pair.distance, pair.a, pair.b)))


def same_files(paths: Iterable[str | Path]) -> tuple[tuple[Path, ...], ...]:
    """Group files of the same content; only those of one size are read. Files without a twin are left out."""
    sizes: dict[int, list[Path]] = {}
    for path in sorted(map(Path, paths)):
        sizes.setdefault(path.stat().st_size, []).append(path)
    twins: dict[bytes, list[Path]] = {}
    for alike in sizes.values():
        for path in alike if len(alike) > 1 else ():
            digest = hashlib.blake2b(digest_size=16)
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            twins.setdefault(digest.digest(), []).append(path)
    return tuple(tuple(group) for group in twins.values() if len(group) > 1)


def degenerate(points: Tensor, names: Sequence[str]) -> tuple[Defect, ...]:
    """List shapes that hold NaN, one place, a line, a plane, or mostly repeated points: (S, N, 3) coordinates.

    A plane may be a shape, such as a sheet of paper; that it has no thickness at all is worth knowing.
    """
    return tuple(
        Defect(name, reason) for name, cloud in zip(names, points, strict=True) if (reason := _defect(cloud.cpu()))
    )


def _defect(points: Tensor) -> str:
    num_points = len(points)
    if bad := num_points - int(points.isfinite().all(1).sum()):
        return f"{bad} of {num_points} points are NaN or infinite"
    if num_points == 1:
        return "a single point"
    around = points.double() - points.double().mean(0)
    largest = float(around.norm(dim=1).max())
    if largest <= 1e-7 * float(points.abs().max()):  # what float32 rounding leaves of a single place
        return f"all {num_points} points are at one place"
    spread = torch.linalg.svdvals(around / largest) / num_points**0.5
    if spread[0] < 10 * THIN:
        return f"nearly all of the {num_points} points are at one place"
    if spread[1] < THIN:
        return "all points lie on a line"
    distinct = len(points.unique(dim=0))
    if 2 * distinct < num_points:
        return f"holds {distinct} different points, fewer than half of the {num_points} that were asked for"
    return "all points lie in a plane" if spread[2] < THIN / 10 else ""


class _Shapes:
    """A set made ready: each shape about its mean, with a mean squared radius of 1."""

    def __init__(self, clouds: Clouds, count: int) -> None:
        # Points of a file may be in any order; histograms of pairs and the first few points need a random one.
        columns = Draws(0).permutation(clouds.num_points)[:count]
        points = clouds.points.cpu()[:, columns].float()
        points = points - points.mean(1, keepdim=True)
        size = points.square().sum(2).mean(1).sqrt().clamp_min(1e-9)
        self.clouds = clouds
        self.points = points / size[:, None, None]
        self.trees: dict[int, tuple[Any, float]] = {}

    @cached_property
    def content(self) -> list[bytes]:
        """A hash of the set of quantised points of each shape."""
        x, y, z = self.clouds.points.cpu().numpy().astype(np.int64).transpose(2, 0, 1)
        keys = np.sort((x << 32) + (y << 16) + z, axis=1)
        return [hashlib.blake2b(row[np.append(True, row[1:] != row[:-1])], digest_size=16).digest() for row in keys]

    @cached_property
    def features(self) -> Tensor:
        """Cumulated histograms of radii, distances and heights, which turns about the up axis leave alone: (S, 64)."""
        found = []
        for some in (self.points / 2).split(BLOCK):
            parts = (radii(some), d2(some), histogram(some[..., 1], 16, -1.0, 1.0))
            found.append(torch.cat([part.cumsum(1) / part.shape[1] ** 0.5 for part in parts], 1))
        return torch.cat(found)

    def tree(self, row: int) -> tuple[Any, float]:
        """Return a search tree of the points of a shape, and their spacing."""
        from scipy.spatial import cKDTree

        if row not in self.trees:
            points = self.points[row].numpy()
            distinct = cKDTree(np.unique(points, axis=0))
            near = distinct.query(distinct.data, 2)[0][:, 1] if distinct.n > 1 else np.zeros(1)
            self.trees[row] = distinct, max(float(near.mean()), THIN)
        return self.trees[row]


def _same_points(a: _Shapes, b: _Shapes) -> Iterator[tuple[int, int]]:
    """Pair each shape of b with the first of a that has the same points."""
    first: dict[bytes, int] = {}
    for row, content in enumerate(a.content):
        first.setdefault(content, row)
    for row, content in enumerate(b.content):
        if content in first and not (a is b and first[content] == row):
            yield first[content], row


def _screened(a: _Shapes, b: _Shapes, rules: Rules) -> list[tuple[int, int]]:
    """Return pairs whose histograms are the most similar, and of which a few points are not too far apart."""
    pairs = _candidates(a, b, rules.neighbors)
    few = min(SCREEN, a.points.shape[1])
    wider = (a.points.shape[1] / few) ** 0.5  # fewer points of a surface are that much farther apart
    kept = []
    for some in pairs.split(BLOCK // 2):
        ours, theirs = a.points[some[:, 0], :few], b.points[some[:, 1], :few]
        spacing = torch.tensor([[a.tree(i)[1], b.tree(j)[1]] for i, j in some.tolist()]).view(-1, 2) * wider
        apart = torch.full((len(some),), torch.inf)
        for turn in _turns(rules.turns):
            between = torch.cdist(ours @ torch.from_numpy(turn).float().T, theirs)
            ways = torch.stack([between.amin(1).mean(1), between.amin(2).mean(1)], 1)
            apart = torch.minimum(apart, (ways / spacing).amax(1))
        kept += some[apart <= rules.near * SLACK].tolist()
    return [(i, j) for i, j in kept]


def _candidates(a: _Shapes, b: _Shapes, neighbors: int) -> Tensor:
    """Pair each shape of either set with those of the other whose features are nearest: (P, 2), each pair once."""
    pairs = []
    for left, right, swap in ((a, b, False), (b, a, True))[: 1 if a is b else 2]:
        for rows in torch.arange(len(left.points)).split(BLOCK):
            apart = torch.cdist(left.features[rows], right.features)
            if a is b:
                apart[torch.arange(len(rows)), rows] = torch.inf
            near = apart.topk(min(neighbors, apart.shape[1] - (a is b)), largest=False).indices
            found = torch.stack([rows[:, None].expand_as(near), near], 2).flatten(0, 1)
            pairs.append(found.flip(1) if swap else found)
    both = torch.cat(pairs)
    return (both.sort(1).values if a is b else both).unique(dim=0)


def _distance(a: _Shapes, i: int, b: _Shapes, j: int, turns: int) -> float:
    """Measure how far two shapes are apart, in spacings of their points, at the best of the turns."""
    (tree_a, spacing_a), (tree_b, spacing_b) = a.tree(i), b.tree(j)
    apart = []
    for turn in _turns(turns):
        shift = np.zeros(3)  # the means of two samplings differ by about a spacing; a few steps bring them together
        for step in range(STEPS + 1):
            ours, theirs = tree_a.data @ turn.T + shift, (tree_b.data - shift) @ turn
            to_b, near_b = tree_b.query(ours)
            to_a, near_a = tree_a.query(theirs)
            if step < STEPS:
                there = (tree_b.data[near_b] - ours).mean(0)
                back = ((theirs - tree_a.data[near_a]) @ turn.T).mean(0)
                shift = shift + there + back
        apart.append(max(to_b.mean() / spacing_b, to_a.mean() / spacing_a))
    return float(min(apart))


def _turns(count: int) -> list[Array]:
    """Return turns about y, evenly from 0: `count` of (3, 3)."""
    angles = [2 * np.pi * step / count for step in range(count)]
    return [np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]]) for t in angles]


def _some(lines: Sequence[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield f"  … and {len(lines) - SHOWN} more"
