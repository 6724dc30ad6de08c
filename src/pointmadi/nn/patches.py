"""Clouds into patches, patches into tokens."""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointmadi.ops.neighbors import gather, nearest
from pointmadi.ops.sampling import farthest_points


class Patches(NamedTuple):
    """A cloud cut into G patches of K points.

    Attributes:
        centers: patch centres (B, G, 3).
        offsets: members relative to their centre (B, G, K, 3), nearest first.
        features: further channels of the members (B, G, K, F), or None.
    """

    centers: Tensor
    offsets: Tensor
    features: Tensor | None = None


def cut(
    points: Tensor,
    num_patches: int,
    patch_size: int,
    features: Tensor | None = None,
    *,
    skip_origin: bool = False,
    check: bool = True,
) -> Patches:
    """Cut clouds (B, N, 3) into patches: farthest points as centres, their nearest neighbours as members.

    A cloud of fewer than `patch_size` points fills its patches by repeating the centre, which changes no token,
    because a token is a maximum over members.

    Args:
        points: clouds of N ≥ `num_patches` points.
        num_patches: G.
        patch_size: K.
        features: further channels (B, N, F).
        skip_origin: never choose points within 0.0316 of the origin as centres, as the released CUDA kernel does.
        check: look for NaN and infinity (waits for the device).

    Raises:
        ValueError: fewer points than patches, a wrong rank, or coordinates that are not finite.
    """
    index = farthest_points(points, num_patches, skip_origin=skip_origin, check=check)
    centers = gather(points, index)
    members, _ = nearest(centers, points, min(patch_size, points.shape[1]), check=False)
    if members.shape[-1] < patch_size:
        members = torch.cat([members, members[..., :1].expand(-1, -1, patch_size - members.shape[-1])], dim=-1)
    offsets = gather(points, members) - centers[:, :, None]
    return Patches(centers, offsets, None if features is None else gather(features, members))


def _peak(x: Tensor) -> Tensor:
    """Take the maximum over the points of each patch: (P, K, C) -> (P, C)."""
    return x.amax(1) if torch.compiler.is_compiling() else cast(Tensor, _Peak.apply(x))


class _Peak(torch.autograd.Function):
    """The maximum over dim 1. Its gradient is that of `amax`, shared evenly among equals, in a fifth of the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        peak = x.amax(1)
        ctx.save_for_backward(x, peak)
        return peak

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, peak = ctx.saved_tensors
        # 1 where x equals the maximum, 0 below it; comparisons and `where` are several times slower on a CPU.
        one = torch.ones((), dtype=x.dtype, device=x.device).expand_as(x)
        first = torch.ops.aten.threshold_backward(one, x - peak[:, None], -torch.finfo(x.dtype).tiny)
        return first.mul_((gradient / first.sum(1))[:, None])


class Tokenizer(nn.Module):
    """Mini-PointNet: embed each patch by a shared network over its points and two maxima (Point-BERT, Point-MAE).

    Per point: linear, BatchNorm, ReLU, linear; the maximum over the patch is set before every point's features; linear,
    BatchNorm, ReLU, linear; maximum over the patch.

    Args:
        dim: width C of a token.
        widths: widths of the three inner layers; (128, 256, 512) as released.
        features: further input channels beside the three coordinates.
    """

    def __init__(self, dim: int, widths: tuple[int, int, int] = (128, 256, 512), features: int = 0) -> None:
        super().__init__()
        first, second, third = widths
        self.lift = nn.Linear(3 + features, first)
        self.norm1 = nn.BatchNorm1d(first)
        self.local = nn.Linear(first, second)
        self.mix = nn.Linear(2 * second, third)
        self.norm2 = nn.BatchNorm1d(third)
        self.out = nn.Linear(third, dim)

    def forward(self, patches: Patches) -> Tensor:
        """Embed each patch: (B, G, K, 3 + F) -> (B, G, C)."""
        channels = self.lift.in_features - 3
        given = 0 if patches.features is None else patches.features.shape[-1]
        if given != channels:
            raise ValueError(f"the encoder takes {channels} feature channels beside xyz, {given} were given")
        x = patches.offsets if patches.features is None else torch.cat([patches.offsets, patches.features], dim=-1)
        batch, groups, size, _ = x.shape
        x = x.reshape(batch * groups * size, -1)
        x = F.relu(self.norm1(self.lift(x)), inplace=True)
        x = self.local(x)
        # The layer after the concatenation [maximum; point] is linear: its global half is computed once a patch.
        whole, each = self.mix.weight.split(x.shape[-1], dim=1)
        peak = _peak(x.view(batch * groups, size, -1))
        x = F.linear(x, each).view(batch * groups, size, -1) + F.linear(peak, whole, self.mix.bias)[:, None]
        x = F.relu(self.norm2(x.flatten(0, 1)), inplace=True)
        return (_peak(F.linear(x, self.out.weight).view(batch * groups, size, -1)) + self.out.bias).view(
            batch, groups, -1
        )
