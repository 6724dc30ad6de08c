"""Farthest point sampling."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from pointmadi.ops.checks import computing_type, require_cloud, require_count

# The released CUDA kernel: where its running minimum starts, and the squared radius in which it never picks.
FAR, ORIGIN = 1e10, 1e-3


@torch.no_grad()
def farthest_points(points: Tensor, count: int, *, skip_origin: bool = False, check: bool = True) -> Tensor:
    """Pick points that are far from each other: (B, N, 3) -> (B, count) int64.

    The first pick is index 0; each next one is the point with the largest squared distance to all picked so far
    (Eldar et al. 1997; PointNet++, Qi et al. 2017), the lowest index where several are equally far. Distances are
    sums of three squared differences in float32, or float64 if the points are. The same call gives the same indices.

    Without `skip_origin` no index is picked twice, whatever the cloud: `count == N` gives a permutation.
    With it the rules are those of the CUDA kernel behind the releases (`docs/faithfulness.md`, 25): a point with
    |p|² <= 1e-3 is never picked after the first, and once all others are picked the lowest of their indices is
    repeated. Of equally far points that kernel takes the lowest (index mod T), then the lowest index, for T =
    min(512, 2^⌊log2 N⌋) threads; we take the lowest index, which differs only in clouds with exactly equal distances.

    Args:
        points: clouds (B, N, 3) of any float type.
        count: how many to pick, 1 … N.
        skip_origin: apply the release's rule about points near the origin.
        check: look for NaN and infinity (waits for the device on CUDA).

    Raises:
        ValueError: wrong shape or type, `count` not in 1 … N, NaN or infinite coordinates.
    """
    require_cloud("points", points, finite=check)
    require_count("count", count, points.shape[1], "lower count (num_patches) or use larger clouds")
    axes = points.detach().to(computing_type(points)).movedim(-1, 0).contiguous()  # (3, B, N)

    nearest = torch.full_like(axes[0], math.inf)  # squared distance to the picked points; -1: not a candidate
    if skip_origin:
        nearest.fill_(FAR).masked_fill_(axes.square().sum(0) <= ORIGIN, -1.0)
    difference = torch.empty_like(axes)
    x, y, z = difference
    picks = torch.zeros(count, len(points), 1, dtype=torch.int64, device=points.device)
    for last, pick in pairwise(picks):
        torch.sub(axes, axes.gather(-1, last.expand(3, -1, -1)), out=difference)
        torch.minimum(nearest, x.square_().addcmul_(y, y).addcmul_(z, z), out=nearest)
        if not skip_origin:
            nearest.scatter_(-1, last, -1.0)
        _argmax(nearest, out=pick)
    return picks[:, :, 0].t().contiguous()


def _argmax(values: Tensor, out: Tensor) -> None:
    """Write the lowest index of the largest value of each row: (B, N) -> (B, 1)."""
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        values.numpy().argmax(axis=-1, keepdims=True, out=out.numpy())  # vectorised, 10 to 20 times faster than torch's
    else:
        torch.argmax(values, dim=-1, keepdim=True, out=out)
