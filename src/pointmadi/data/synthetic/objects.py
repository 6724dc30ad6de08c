"""A labelled set of everyday objects with parts, drawn from parametric models: for demos, probes and tests."""

from collections.abc import Callable

import numpy as np
import torch

from pointmadi.data.clouds import Clouds
from pointmadi.data.synthetic import furniture, things
from pointmadi.data.synthetic.solids import Draw, Parts, rotation, sample

MAKERS: dict[str, Callable[[Draw], Parts]] = {
    "airplane": things.airplane,
    "bed": furniture.bed,
    "bench": furniture.bench,
    "bottle": things.bottle,
    "bowl": things.bowl,
    "cabinet": furniture.cabinet,
    "car": things.car,
    "chair": furniture.chair,
    "desk": furniture.desk,
    "guitar": things.guitar,
    "lamp": furniture.lamp,
    "laptop": things.laptop,
    "monitor": things.monitor,
    "mug": things.mug,
    "shelf": furniture.shelf,
    "sofa": furniture.sofa,
    "stool": furniture.stool,
    "table": furniture.table,
    "teapot": things.teapot,
    "vase": things.vase,
}
CLASSES = tuple(MAKERS)
_STRETCH = (0.75, 1.3)  # of each axis
_TILT = 6.0  # degrees about x and z, standard deviation
_TESTED = 4  # one of so many shapes of each class is for testing


def make(index: int, num_points: int, seed: int, noise: float = 0.0) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Make object `index`, of class index mod 20: -> (N, 3) points, names of its parts, (N,) part of each point."""
    draw = Draw(seed, index)
    parts = MAKERS[CLASSES[index % len(CLASSES)]](draw)
    points, names, part = sample(parts, num_points, draw)
    points = points * [draw.between(*_STRETCH) for _ in range(3)]
    tilt = draw.generator.normal(0, _TILT, 2)
    turn = rotation("x", tilt[0]) @ rotation("z", tilt[1]) @ rotation("y", draw.between(0, 360))
    points = points @ turn.T
    if noise:
        size = np.linalg.norm(points - points.mean(0), axis=1).max()
        points = points + draw.generator.normal(0, noise * size, points.shape)
    return points, names, part


def objects(count: int, num_points: int, seed: int = 0, noise: float = 0.0) -> Clouds:
    """Make a set of everyday objects: 20 classes in turn, with parts, and a split of 3 : 1 within each class.

    Object i is a pure function of (seed, i, num_points, noise). The axes are stretched by up to 30 %, the objects
    turned about y and tilted by a few degrees.

    Args:
        count: number of objects.
        num_points: points per object, uniform by area.
        seed: of the set.
        noise: standard deviation of the noise on every coordinate, of the object's radius.
    """
    if count < 1 or num_points < 1:
        raise ValueError(f"count and num_points must be at least 1, got {count} and {num_points}")
    if seed < 0 or noise < 0:
        raise ValueError(f"seed and noise must not be negative, got {seed} and {noise}")
    label = np.arange(count) % len(CLASSES)
    made = [make(index, num_points, seed, noise) for index in range(count)]
    known = [f"{CLASSES[i]}/{name}" for i, (_, names, _) in zip(label, made) for name in names]
    names = sorted(set(known), key=lambda name: (CLASSES.index(name.split("/")[0]), name))
    number = {name: i for i, name in enumerate(names)}
    part = [np.array([number[f"{CLASSES[i]}/{name}"] for name in own])[part] for i, (_, own, part) in zip(label, made)]
    return Clouds.pack(
        torch.from_numpy(np.stack([points for points, _, _ in made])),
        names=[f"{CLASSES[i]}_{index // len(CLASSES):04d}" for index, i in enumerate(label)],
        label=label,
        classes=CLASSES,
        split=(np.arange(count) // len(CLASSES) + label) % _TESTED == _TESTED - 1,
        part=np.stack(part),
        part_names=tuple(names),
        part_class=np.array([CLASSES.index(name.split("/")[0]) for name in names]),
    )
