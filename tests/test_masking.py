"""Which patches are hidden: how many, which ones, and with what probability."""

import pytest
import torch

from pointmadi.models.masking import block_mask, count_hidden, hide, random_mask, visible_first
from pointmadi.ops.random import Draws

BATCH, GROUPS, COUNT = 50, 20, 12


def centers(batch=BATCH):
    return torch.randn(batch, GROUPS, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("ratio", "groups", "count"), [(0.6, 64, 38), (0.6, 32, 19), (0.9, 10, 9), (0.5, 2, 1)])
def test_the_count_is_rounded_down(ratio, groups, count):
    assert count_hidden(ratio, groups) == count


@pytest.mark.parametrize("ratio", [0.0, 0.01, 1.0, -0.5, 1.5])
def test_a_ratio_that_hides_all_or_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match=f"a mask ratio of {ratio} hides"):
        count_hidden(ratio, 64)


@pytest.mark.parametrize("kind", ["random", "block"])
@pytest.mark.parametrize("count", [1, COUNT, GROUPS - 1])
def test_every_cloud_hides_exactly_as_many(kind, count):
    hidden = hide(kind, centers(), count, Draws(0))
    assert hidden.shape == (BATCH, GROUPS)
    assert hidden.dtype == torch.bool
    assert (hidden.sum(1) == count).all()
    assert torch.equal(hidden, hide(kind, centers(), count, Draws(0)))
    assert not torch.equal(hidden, hide(kind, centers(), count, Draws(1)))


@pytest.mark.parametrize("kind", ["random", "block"])
def test_two_processes_hide_what_one_does(kind):
    whole = hide(kind, centers(), COUNT, Draws(3))
    parts = [hide(kind, centers().chunk(2)[rank], COUNT, Draws(3, rank=rank, world=2)) for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_block_is_a_patch_and_those_nearest_to_it():
    places = centers()
    distance = torch.cdist(places.double(), places.double())
    hidden = block_mask(places, COUNT, Draws(0))
    for row, around in zip(hidden, distance, strict=True):
        blocks = [set(order[:COUNT].tolist()) for order in around.argsort(dim=1)]
        assert set(row.nonzero().flatten().tolist()) in blocks
    assert len(hidden.unique(dim=0)) > BATCH // 2


def test_a_block_of_coincident_centres_holds_its_seed():
    places = torch.zeros(4000, GROUPS, 3)
    assert (block_mask(places, 5, Draws(0)).sum(1) == 5).all()
    share = block_mask(places, 1, Draws(0)).float().mean(0)
    assert (share - 1 / GROUPS).abs().max() < 0.02


def test_seeds_of_blocks_are_uniform():
    hidden = block_mask(centers(20_000), 1, Draws(0))
    assert (hidden.float().mean(0) - 1 / GROUPS).abs().max() < 5 * (0.05 * 0.95 / 20_000) ** 0.5


def test_random_masks_are_uniform():
    samples = 20_000
    hidden = random_mask(centers(samples), COUNT, Draws(0)).float()
    one, two = COUNT / GROUPS, COUNT * (COUNT - 1) / GROUPS / (GROUPS - 1)
    assert (hidden.mean(0) - one).abs().max() < 5 * (one * (1 - one) / samples) ** 0.5
    pairs = (hidden.T @ hidden / samples)[~torch.eye(GROUPS, dtype=torch.bool)]
    assert (pairs - two).abs().max() < 5 * (two * (1 - two) / samples) ** 0.5


def test_visible_patches_come_first_each_in_its_own_order():
    hidden = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert visible_first(hidden).tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    hidden = random_mask(centers(), COUNT, Draws(0))
    order = visible_first(hidden)
    assert torch.equal(order.sort(dim=1).values, torch.arange(GROUPS).expand(BATCH, -1))
    assert not hidden.gather(1, order[:, : GROUPS - COUNT]).any()
    assert (order[:, : GROUPS - COUNT].diff(dim=1) > 0).all()
    assert (order[:, GROUPS - COUNT :].diff(dim=1) > 0).all()
