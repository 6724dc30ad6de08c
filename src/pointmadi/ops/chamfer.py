"""Chamfer distance."""

from typing import Literal

import torch
from torch import Tensor

from pointmadi.ops.checks import computing_type, require_cloud, require_pair
from pointmadi.ops.neighbors import block_size, gather, lowest, nearest, squared_distances


def chamfer(a: Tensor, b: Tensor, norm: Literal["l2", "l1"] = "l2", *, check: bool = True) -> Tensor:
    """Compute the Chamfer distance of clouds, mean over the batch: (B, N, 3), (B, M, 3) -> scalar.

    With d the distance of a point to the nearest of the other cloud (Fan et al. 2017):
    `l2` is mean d² of a plus mean d² of b; `l1` is (mean d of a + mean d of b) / 2, as the releases define them.
    The neighbour is found without a graph, then the differences to it are differentiated: the gradient is that of
    min |a - b|², finite (zero) where points coincide. Of equally near points the one with the lowest index counts.
    Computed in float32, or float64 if an input is.

    Raises:
        ValueError: wrong shape or type, different batch sizes, an empty cloud, an unknown norm, NaN or infinity.
    """
    if norm not in ("l2", "l1"):
        raise ValueError(f"norm must be 'l2' or 'l1', not {norm!r}")
    for name, points in (("a", a), ("b", b)):
        require_cloud(name, points, finite=check)
        if not points.numel():
            raise ValueError(f"{name} is empty: {tuple(points.shape)}")
    require_pair("a", a, "b", b)
    kind = computing_type(a, b)
    a, b = a.to(kind), b.to(kind)

    nearest_b, nearest_a = _mutually_nearest(a, b)
    to_b, to_a = a - gather(b, nearest_b), b - gather(a, nearest_a)
    if norm == "l2":
        return to_b.square().sum(-1).mean() + to_a.square().sum(-1).mean()
    # The gradient of vector_norm is zero at zero, that of a square root is not a number.
    return (torch.linalg.vector_norm(to_b, dim=-1).mean() + torch.linalg.vector_norm(to_a, dim=-1).mean()) / 2


@torch.no_grad()
def _mutually_nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each point the nearest of the other cloud: (B, N, 3), (B, M, 3) -> index (B, N), index (B, M)."""
    clouds = block_size(a.device) // (a.shape[1] * b.shape[1])
    if not clouds:  # one pair fills more than a block
        return nearest(a, b, 1, check=False)[0][..., 0], nearest(b, a, 1, check=False)[0][..., 0]
    blocks = map(squared_distances, a.split(clouds), b.split(clouds))
    of_a, of_b = zip(*[(lowest(block, -1), lowest(block, -2)) for block in blocks], strict=True)
    return torch.cat(of_a), torch.cat(of_b)
