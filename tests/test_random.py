"""Draws: a pure function of the key, the same whatever the number of processes."""

import pytest
import torch

from pointmadi.ops.random import Draws, seed_of


def sequence(draws: Draws, rows: int) -> list[torch.Tensor]:
    return [draws.uniform(rows, 3), draws.normal(rows, 2, 2), draws.integers(7, rows), draws.uniform(rows)]


def test_equal_keys_give_equal_draws_and_others_do_not() -> None:
    first, again, other = (sequence(Draws(*key), 4) for key in ((1, 2, 3), (1, 2, 3), (1, 2, 4)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])


def test_draws_do_not_touch_the_global_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sequence(Draws(0), 4)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batch_of_one(world: int) -> None:
    whole = sequence(Draws(9, 1), 2 * world)
    parts = [sequence(Draws(9, 1, rank=rank, world=world), 2) for rank in range(world)]
    for index, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[index] for part in parts]), expected)


def test_every_process_has_the_same_permutation() -> None:
    orders = [Draws(4, rank=rank, world=2).permutation(50) for rank in range(2)]
    assert torch.equal(orders[0], orders[1])
    assert orders[0].sort().values.tolist() == list(range(50)) != orders[0].tolist()


def test_ranges_shapes_and_types() -> None:
    draws = Draws(0)
    uniform, normal, integers = draws.uniform(1000, 4, low=-2.0, high=3.0), draws.normal(5000), draws.integers(5, 1000)
    assert uniform.shape == (1000, 4) and uniform.dtype == normal.dtype == torch.float32
    assert -2 <= uniform.min() < -1.9 and 2.9 < uniform.max() < 3
    assert abs(normal.mean()) < 0.06 and abs(normal.std() - 1) < 0.06
    assert integers.dtype == torch.int64 and integers.unique().tolist() == [0, 1, 2, 3, 4]


def test_seeds_are_fixed_for_ever_and_depend_on_every_part() -> None:
    assert seed_of(1, 23) == 2409335327811177931
    assert len({seed_of(1, 23), seed_of(12, 3), seed_of(1), seed_of(23, 1)}) == 4
    assert all(0 <= seed_of(key) < 2**63 for key in range(100))
