"""Which patches are hidden."""

from typing import Literal

import torch
from torch import Tensor

from pointmadi.ops.random import Draws


def count_hidden(ratio: float, num_patches: int) -> int:
    """Return the number of hidden patches, ⌊ratio · G⌋, at least 1 and at most G − 1.

    Raises:
        ValueError: the ratio hides no patch, or leaves none.
    """
    count = int(ratio * num_patches)
    if not 0 < count < num_patches:
        raise ValueError(f"a mask ratio of {ratio} hides {count} of {num_patches} patches; hide at least 1, leave 1")
    return count


def hide(kind: Literal["random", "block"], centers: Tensor, count: int, draws: Draws) -> Tensor:
    """Choose the hidden patches in one of the two ways: centres (B, G, 3) -> hidden (B, G)."""
    return (random_mask if kind == "random" else block_mask)(centers, count, draws)


def _mark(index: Tensor, num_patches: int) -> Tensor:
    hidden = torch.zeros(len(index), num_patches, dtype=torch.bool, device=index.device)
    return hidden.scatter_(1, index, True)


def random_mask(centers: Tensor, count: int, draws: Draws) -> Tensor:
    """Hide `count` patches of each cloud at random: centres (B, G, 3) -> hidden (B, G)."""
    batch, groups, _ = centers.shape
    return _mark(draws.uniform(batch, groups).topk(count, dim=1).indices, groups)


def block_mask(centers: Tensor, count: int, draws: Draws) -> Tensor:
    """Hide a random patch of each cloud and the `count` − 1 nearest to it: centres (B, G, 3) -> hidden (B, G)."""
    batch, groups, _ = centers.shape
    seed = draws.integers(groups, batch, 1)
    distance = (centers - centers.gather(1, seed[..., None].expand(-1, -1, 3))).square().sum(-1)
    distance.scatter_(1, seed, -1.0)  # the seed itself, also where another centre coincides with it
    return _mark(distance.topk(count, dim=1, largest=False).indices, groups)


def visible_first(hidden: Tensor) -> Tensor:
    """Return the order (B, G) that puts visible patches first and hidden ones last, each in their own order."""
    return hidden.to(torch.uint8).sort(dim=1, stable=True).indices
