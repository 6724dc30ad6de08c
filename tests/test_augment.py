"""Augmentation: the release's numbers, and the laws that each change obeys."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pointmadi.data.augment import (
    NO_AUGMENT,
    AugmentConfig,
    augment,
    augment_batch,
    axis_rotations,
    jitter,
    quaternion_rotations,
    replacements,
    scale_translate,
    turn_normals,
)
from pointmadi.ops.random import Draws

PARITY = Path(os.environ.get("POINTMADI_PARITY") or Path(__file__).parents[2] / "shared" / "parity") / "augment.npz"


def off(**changes: object) -> AugmentConfig:
    return AugmentConfig(**{"scale": (1.0, 1.0), "translate": (0.0, 0.0), "rotate": "none", **changes})  # type: ignore[arg-type]


@pytest.mark.skipif(
    not PARITY.is_file(), reason=f"no {PARITY.name} in the folder of parity fixtures (POINTMADI_PARITY)"
)
def test_equal_to_the_release_given_its_draws() -> None:
    with np.load(PARITY, allow_pickle=False) as fixture:
        values = {key: fixture[key] for key in fixture.files if key != "both/note"}
    points = torch.from_numpy(values["in/points"])

    def scaled(draws: np.ndarray) -> torch.Tensor:
        table = torch.from_numpy(draws.reshape(len(points), 6)).float()
        return scale_translate(points, table[:, :3], table[:, 3:])

    def turned(points: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
        return points @ axis_rotations(torch.from_numpy(draws * 2 * math.pi).float(), "y")

    def check(found: torch.Tensor, key: str) -> None:
        torch.testing.assert_close(found, torch.from_numpy(values[key]), rtol=0, atol=5e-7)

    check(scaled(values["scale_translate/draws"]), "scale_translate/out")
    check(turned(points, values["rotate/draws"]), "rotate/out")

    # Both in a row, from numpy's stream of seed 7: three scales and three shifts a sample, then an angle a sample.
    stream = np.random.RandomState(7).rand(7 * len(points))
    table = stream[: 6 * len(points)].reshape(len(points), 2, 3)
    low, high = np.array([2 / 3, -0.2]).reshape(2, 1), np.array([3 / 2, 0.2]).reshape(2, 1)
    table = (low + table * (high - low)).reshape(-1)
    np.testing.assert_allclose(table, values["scale_translate/draws"], atol=1e-12)
    check(turned(scaled(table), stream[6 * len(points) :]), "both/out")


def test_the_default_is_the_release_recipe() -> None:
    points, config = torch.randn(64, 20, 3), AugmentConfig()
    assert (config.scale, config.translate, config.rotate) == ((2 / 3, 3 / 2), (-0.2, 0.2), "y")
    draws = Draws(1)
    scale = draws.uniform(64, 3, low=2 / 3, high=3 / 2)
    shift = draws.uniform(64, 3, low=-0.2, high=0.2)
    expected = scale_translate(points, scale, shift) @ axis_rotations(draws.uniform(64, high=2 * math.pi), "y")
    assert torch.equal(augment(points, config, Draws(1)), expected)


def test_nothing_asked_nothing_done() -> None:
    points = torch.randn(3, 10, 3)
    assert augment(points, NO_AUGMENT, Draws(0)) is points


@pytest.mark.parametrize("axis", "xyz")
def test_rotations_turn_about_their_axis(axis: str) -> None:
    turn = axis_rotations(torch.rand(50, dtype=torch.float64) * 6.3, axis)
    kept = torch.eye(3, dtype=torch.float64)["xyz".index(axis)]
    eye = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    assert torch.allclose(turn @ turn.mT, eye) and torch.allclose(torch.linalg.det(turn), eye[:, 0, 0])
    assert torch.allclose(kept @ turn, kept.expand(50, 3))


def test_so3_rotations_are_uniform() -> None:
    turn = quaternion_rotations(Draws(0).normal(20000, 4))
    assert torch.allclose(turn @ turn.mT, torch.eye(3).expand(len(turn), 3, 3), atol=1e-5)
    assert (torch.linalg.det(turn) > 0.999).all()
    assert turn.mean(0).abs().max() < 0.02  # no direction is preferred
    assert (turn.square().mean(0) - 1 / 3).abs().max() < 0.02


def test_flip_mirrors_half_of_the_shapes() -> None:
    points = torch.rand(2000, 4, 3) + 1
    found = augment(points, off(flip="xz"), Draws(0))
    assert torch.equal(found.abs(), points)
    mirrored = (found < 0).float().mean((0, 1))
    assert mirrored[1] == 0 and (mirrored[[0, 2]] - 0.5).abs().max() < 0.05


def test_jitter_is_clipped() -> None:
    points, noise = torch.zeros(4, 1000, 3), Draws(0).normal(4, 1000, 3)
    found = jitter(points, noise, 0.01, 0.02)
    assert found.abs().max() == pytest.approx(0.02) and found.std() == pytest.approx(0.0095, abs=0.0005)
    assert torch.equal(augment(points, off(jitter=0.01, jitter_clip=0.02), Draws(0)), found)


@pytest.mark.parametrize("fill", ["first", "kept"])
def test_drop_keeps_the_count_and_takes_everything_along(fill: str) -> None:
    number = torch.arange(500.0).expand(40, -1)
    batch = {
        "points": number[..., None].expand(-1, -1, 3),
        "features": number[..., None],
        "part": number.long(),
        "label": torch.arange(40),
    }
    found = augment_batch(batch, off(drop=0.8, drop_fill=fill), Draws(0))
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in batch.items()}
    assert torch.equal(found["points"][..., 0].long(), found["part"])
    assert torch.equal(found["features"][..., 0].long(), found["part"])
    assert torch.equal(found["label"], batch["label"])
    share = (found["part"] != batch["part"]).float().mean(1)
    assert share.max() < 0.9 and share.max() - share.min() > 0.4 and share.mean() == pytest.approx(0.4, abs=0.1)


def test_replacements_come_from_kept_points() -> None:
    dropped = torch.rand(20, 50) < 0.7
    dropped[0] = True  # even then the first point stays
    assert torch.equal(replacements(dropped), torch.where(dropped, 0, torch.arange(50)))
    source = replacements(dropped, torch.rand(20, 50))
    assert not dropped.index_fill(1, torch.tensor([0]), False).gather(1, source).any()
    assert torch.equal(source[~dropped], torch.arange(50).expand(20, -1)[~dropped])


def test_normals_stay_normal_to_a_stretched_surface() -> None:
    generator = torch.Generator().manual_seed(0)
    along = torch.randn(8, 30, 2, 3, generator=generator)
    normal = torch.nn.functional.normalize(torch.linalg.cross(along[..., 0, :], along[..., 1, :]), dim=-1)
    linear = torch.rand(8, 1, 3, generator=generator) + 0.5
    linear = torch.diag_embed(linear[:, 0]) @ quaternion_rotations(torch.randn(8, 4, generator=generator))
    features = torch.cat([torch.ones(8, 30, 1), normal, torch.zeros(8, 30, 2)], dim=2)
    turned = turn_normals(features, linear, 1)
    assert torch.equal(turned[..., 0], features[..., 0]) and torch.equal(turned[..., 4:], features[..., 4:])
    assert torch.allclose(turned[..., 1:4].norm(dim=2), torch.ones(8, 30))
    flat = (along @ linear[:, None]) @ turned[..., 1:4, None]
    assert flat.abs().max() < 1e-4


def test_the_callers_tensor_is_never_changed() -> None:
    points, features = torch.randn(4, 30, 3), torch.randn(4, 30, 3)
    before, before_features = points.clone(), features.clone()
    every = AugmentConfig(flip="xyz", rotate="so3", jitter=0.01, drop=0.5)
    augment_batch({"points": points, "features": features}, every, Draws(0), normals=0)
    assert torch.equal(points, before) and torch.equal(features, before_features)


def test_values_that_make_no_sense_are_refused() -> None:
    for changes, message in (
        ({"scale": (1.5, 0.5)}, "smaller one first"),
        ({"scale": (0.0, 1.0)}, "above 0"),
        ({"flip": "xw"}, "'xw'"),
        ({"drop": 1.0}, "drop"),
        ({"jitter": -1.0}, "jitter"),
    ):
        with pytest.raises(ValueError, match=message):
            AugmentConfig(**changes)  # type: ignore[arg-type]
