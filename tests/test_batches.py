"""Batches: what an epoch holds, how processes share it, and what travels along."""

import pytest
import torch
from torch import Tensor

from pointmadi.data.augment import AugmentConfig
from pointmadi.data.batches import Batches, normalized
from pointmadi.data.clouds import Clouds
from pointmadi.ops.random import Draws


def make(shapes: int, num_points: int, seed: int = 0, **known: object) -> Clouds:
    points = torch.randn(shapes, num_points, 3, generator=torch.Generator().manual_seed(seed))
    return Clouds.pack(points, **known)  # type: ignore[arg-type]


def numbered(shapes: int, num_points: int, first: int = 0) -> Clouds:
    """Make a set whose parts number the points and whose labels number the shapes."""
    return make(
        shapes, num_points, first,
        label=torch.arange(first, first + shapes), classes=tuple(map(str, range(200))),
        part=torch.arange(num_points).expand(shapes, -1), part_names=tuple(map(str, range(256))),
        features=torch.arange(num_points).view(1, -1, 1).expand(shapes, -1, 1), feature_names=("which",),
    )  # fmt: skip


def draws(epoch: int, step: int, rank: int = 0, world: int = 1) -> Draws:
    return Draws(7, epoch, step, rank=rank, world=world)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batch_of_one(world: int) -> None:
    sets = [numbered(40, 64), numbered(9, 100, first=40), numbered(33, 80, first=49)]
    changes = AugmentConfig(flip="x", rotate="so3", jitter=0.01, drop=0.5, drop_fill="kept")
    options = {"augment": changes, "transform": lambda points, draws: points * draws.uniform(len(points), 1, 1)}
    whole = Batches(sets, 4 * world, 32, seed=3, **options)  # type: ignore[arg-type]
    parts = [Batches(sets, 4, 32, seed=3, rank=r, world=world, **options) for r in range(world)]  # type: ignore[arg-type]
    assert {len(part) for part in parts} == {len(whole)}
    for step in range(len(whole)):
        expected = whole(2, step, draws(2, step))
        found = [part(2, step, draws(2, step, r, world)) for r, part in enumerate(parts)]
        assert set(expected) == {"points", "features", "label", "part"}
        for key, value in expected.items():
            assert torch.equal(value, torch.cat([batch[key] for batch in found])), key


def test_an_epoch_holds_every_shape_once_and_epochs_differ() -> None:
    batches = Batches([numbered(25, 16), numbered(27, 24, first=25)], 4, 16)
    assert len(batches) == 13
    orders = [torch.cat([batches(e, s, draws(e, s))["label"] for s in range(13)]) for e in (0, 1, 0)]
    assert sorted(orders[0].tolist()) == sorted(orders[1].tolist()) == list(range(52))
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])


def test_a_step_is_a_function_of_its_number() -> None:
    sets, batches = [numbered(20, 64)], Batches([numbered(20, 64)], 5, 32)
    late = batches(3, 2, draws(3, 2))
    again = Batches(sets, 5, 32)
    again(0, 1, draws(0, 1))
    for key, value in again(3, 2, draws(3, 2)).items():
        assert torch.equal(value, late[key])


def test_everything_known_of_a_point_travels_with_it() -> None:
    clouds = numbered(30, 50)
    other = numbered(30, 70, first=30)
    batch = Batches([clouds, other], 20, 40, normalize=False)(0, 0, draws(0, 0))
    assert batch["points"].dtype == batch["features"].dtype == torch.float32
    assert batch["label"].dtype == batch["part"].dtype == torch.int64
    for points, label, part, which in zip(*(batch[k] for k in ("points", "label", "part", "features")), strict=True):
        source = (clouds if label < 30 else other).xyz()[label % 30]
        assert torch.equal(points, source[part])
        assert torch.equal(part, which[:, 0].long()) and len(part.unique()) == 40
    same_set = batch["part"][batch["label"] < 30]
    assert (same_set == same_set[0]).all()  # one choice of points per set and step


def test_the_chosen_points_are_centred_and_scaled_again() -> None:
    sets = [make(8, 200)]
    chosen = Batches(sets, 8, 20)(0, 0, draws(0, 0))["points"]
    plain = Batches(sets, 8, 20, normalize=False)(0, 0, draws(0, 0))["points"]
    center = plain.mean(1, keepdim=True)
    expected = (plain - center) / (plain - center).norm(dim=2).amax(1)[:, None, None]
    assert torch.allclose(chosen, expected, atol=1e-6)
    assert torch.isfinite(normalized(torch.ones(1, 4, 3))).all()


def test_labels_of_different_tables_are_not_mixed() -> None:
    a = make(8, 16, label=[0] * 8, classes=("cup",))
    b = make(8, 16, label=[0] * 8, classes=("dog",))
    assert set(Batches([a, a], 4, 16)(0, 0, draws(0, 0))) == {"points", "label"}
    assert set(Batches([a, b], 4, 16)(0, 0, draws(0, 0))) == {"points"}
    assert set(Batches([a, make(8, 16)], 4, 16)(0, 0, draws(0, 0))) == {"points"}


def test_normals_turn_with_their_surface() -> None:
    sphere = torch.nn.functional.normalize(torch.randn(6, 400, 3), dim=2)
    sphere -= sphere.mean(1, keepdim=True)  # as packing does
    clouds = Clouds.pack(
        sphere, features=torch.cat([sphere[..., :1], sphere], 2), feature_names=("a", "nx", "ny", "nz")
    )
    turn_only = AugmentConfig(scale=(1, 1), translate=(0, 0), rotate="so3")
    batch = Batches([clouds], 6, 300, normalize=False, augment=turn_only)(0, 0, draws(0, 0))
    towards = torch.nn.functional.normalize(batch["points"], dim=2)
    assert ((towards * batch["features"][..., 1:]).sum(2) > 0.999).all()


def test_the_callers_tensors_stay_as_they_are() -> None:
    clouds = numbered(10, 32)
    before = clouds.fingerprint()

    def spoil(points: Tensor, draws: Draws) -> Tensor:
        return points.zero_()

    Batches([clouds], 10, 32, transform=spoil, augment=AugmentConfig())(0, 0, draws(0, 0))
    assert clouds.fingerprint() == before


def test_errors_say_what_to_do() -> None:
    small = make(5, 16)
    with pytest.raises(ValueError, match="5 shapes are fewer than one batch of 8; lower the batch size to 2 or add"):
        Batches([small], 4, 16, world=2)
    with pytest.raises(ValueError, match="cannot pick 32 of 16 points; lower num_points"):
        Batches([small, make(5, 64)], 4, 32)
    with pytest.raises(ValueError, match="differ in features"):
        Batches([small, numbered(5, 16)], 4, 16)
    with pytest.raises(ValueError, match="no cloud set"):
        Batches([], 4, 16)
    with pytest.raises(IndexError, match="step 1 of an epoch of 1"):
        Batches([small], 4, 16)(0, 1, draws(0, 1))


@pytest.mark.gpu
def test_batches_are_made_on_the_device() -> None:
    sets = [numbered(40, 64), numbered(9, 100, first=40)]
    batches = Batches(sets, 8, 32, device="cuda", augment=AugmentConfig(jitter=0.01, drop=0.5))
    batch = batches(0, 0, Draws(7, 0, 0, device="cuda"))
    assert all(value.is_cuda for value in batch.values())
