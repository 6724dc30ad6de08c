import time

import numpy as np
import pytest
import torch

from pointmadi.data.synthetic.objects import CLASSES, MAKERS, make, objects
from pointmadi.data.synthetic.solids import (
    Draw,
    box,
    disc,
    ellipsoid,
    extrude,
    revolve,
    rod,
    rotation,
    sample,
    scaled,
    tube,
)


def area(mesh):
    vertices, faces = mesh
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def test_solids_have_the_area_they_should():
    assert area(box(1, 2, 3)) == pytest.approx(22)
    assert area(disc(1, 2)) == pytest.approx(6 * np.pi, rel=0.02)
    assert area(ellipsoid(1, 1, 1)) == pytest.approx(4 * np.pi, rel=0.03)
    assert area(rod((0, 0, 0), (0, 3, 4), 0.1)) == pytest.approx(np.pi + 2 * np.pi * 0.01, rel=0.05)
    assert area(extrude(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]), 0.5)) == pytest.approx(12)
    turn = 2 * np.pi * np.arange(40) / 40
    ring = np.stack([np.cos(turn), 0 * turn, np.sin(turn)], 1)
    assert area(tube(ring, 0.2, closed=True)) == pytest.approx(4 * np.pi**2 * 0.2, rel=0.04)
    assert area(revolve([(1, 0), (1, 1)])) == pytest.approx(2 * np.pi, rel=0.02)
    assert area(scaled(box(1, 1, 1), (-2, 1, 1))) == pytest.approx(10)


def test_rotation_is_right_handed():
    assert np.allclose(rotation("x", 90) @ [0, 1, 0], [0, 0, 1])
    assert np.allclose(rotation("y", 90) @ [0, 0, 1], [1, 0, 0])
    assert np.allclose(rotation("z", 90) @ [1, 0, 0], [0, 1, 0])


def test_points_are_uniform_by_area_and_know_their_part():
    parts = [("big", box(2, 2, 2)), ("small", box(1, 1, 1, (9, 0, 0))), ("big", box(1, 1, 1, (-9, 0, 0)))]
    points, names, part = sample(parts, 20_000, Draw(0))
    assert names == ["big", "small"] and points.shape == (20_000, 3)
    assert ((points[:, 0] > 5) == (part == 1)).all()
    assert (part == 1).mean() == pytest.approx(6 / 36, abs=0.015)
    assert np.histogram(points[part == 1, 1], 5, (0.001, 0.999))[0].std() < 40


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_varies_and_stands_upright(name):
    seen, sizes = set(), []
    for i in range(30):
        parts = MAKERS[name](Draw(5, i))
        points, names, _ = sample(parts, 256, Draw(i))
        seen.add(len(parts))
        sizes.append(np.ptp(points, axis=0))
        assert np.isfinite(points).all()
        assert len(names) <= 6
        assert all(mesh[1].max() < len(mesh[0]) for _, mesh in parts)
    sizes = np.array(sizes)
    proportions = sizes / sizes.max(1, keepdims=True)
    assert len(seen) > 1 or proportions.std(0).max() > 0.05
    names = {part for i in range(30) for part, _ in MAKERS[name](Draw(5, i))}
    assert 2 <= len(names) <= 6


def test_objects_are_a_labelled_set_with_parts_and_a_split():
    clouds = objects(160, 256, seed=3)
    assert len(clouds) == 160 and clouds.num_points == 256 and len(clouds.classes) >= 14
    assert torch.bincount(clouds.label).tolist() == [8] * 20
    for name in range(20):
        assert clouds.split[clouds.label == name].sum() == 2
    owner = clouds.part_class[clouds.part.long()]
    assert (owner == clouds.label[:, None]).all()
    assert all(part.split("/")[0] == clouds.classes[c] for part, c in zip(clouds.part_names, clouds.part_class))
    assert len(set(clouds.names)) == 160
    assert len(clouds.train()) == 120 and len(clouds.test()) == 40
    used = [len(clouds.part[clouds.label == name].unique()) for name in range(20)]
    assert min(used) >= 2 and max(used) <= 6


def test_an_object_is_a_function_of_seed_and_index():
    few, many = objects(40, 128, seed=1), objects(60, 128, seed=1)
    assert torch.equal(few.points, many.points[:40])
    assert not torch.equal(few.points, objects(40, 128, seed=2).points)
    assert np.array_equal(make(7, 128, 1)[0], make(7, 128, 1)[0])
    assert len({tuple(row) for row in few.points[:, 0].tolist()}) == 40


def test_noise_moves_points_by_its_size():
    clean, noisy = make(3, 2000, 0)[0], make(3, 2000, 0, noise=0.01)[0]
    radius = np.linalg.norm(clean - clean.mean(0), axis=1).max()
    assert (noisy - clean).std() == pytest.approx(0.01 * radius, rel=0.05)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="count"):
        objects(0, 10)
    with pytest.raises(ValueError, match="noise"):
        objects(10, 10, noise=-1)


def test_two_hundred_objects_a_second():
    objects(20, 1024)
    start = time.process_time()
    objects(200, 1024)
    assert 200 / (time.process_time() - start) > 200
