"""Hand-made descriptions of a cloud: the floor that a learned encoder has to leave behind.

Each is a function of the same points in the unit sphere that the encoder sees, without anything learned. `FLOORS` gives
them the calling convention of an encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pointmadi.ops.descriptors import d2, histogram, radii


def bounding_box(points: Tensor) -> Tensor:
    """Describe clouds by their bounding box: low corner, high corner, sorted extents; (B, N, 3) -> (B, 9)."""
    low, high = points.amin(1), points.amax(1)
    return torch.cat([low, high, (high - low).sort(1).values], 1)


def marginals(points: Tensor) -> Tensor:
    """Describe clouds by histograms of coordinates along their principal axes: (B, N, 3) -> (B, 48).

    Axes go from the longest to the shortest; each points to the side with the positive third moment.
    """
    centred = points - points.mean(1, keepdim=True)
    _, axes = torch.linalg.eigh(centred.transpose(1, 2) @ centred)
    turned = centred @ axes.flip(2)
    skew = (turned**3).mean(1, keepdim=True)
    turned = torch.where(skew < 0, -turned, turned)
    return torch.cat([histogram(turned[..., axis], 16, -1.0, 1.0) for axis in range(3)], 1)


def histograms(points: Tensor) -> Tensor:
    """Describe clouds by radii and D2: (B, N, 3) -> (B, 48)."""
    return torch.cat([radii(points), d2(points)], 1)


def strong(points: Tensor) -> Tensor:
    """Describe clouds by radii, D2 and marginals along the principal axes: (B, N, 3) -> (B, 96)."""
    return torch.cat([radii(points), d2(points), marginals(points)], 1)


def everything(points: Tensor) -> Tensor:
    """Describe clouds by all of the above: (B, N, 3) -> (B, 105)."""
    return torch.cat([strong(points), bounding_box(points)], 1)


class Description(NamedTuple):
    """What a hand-made description says of a batch, as an encoder would.

    Attributes:
        pooled: one vector a cloud (B, F).
    """

    pooled: Tensor


@dataclass(frozen=True)
class Handmade:
    """Give a function of points the calling convention of an encoder.

    Args:
        describe: (B, N, 3) -> (B, F).
    """

    describe: Callable[[Tensor], Tensor]

    def __call__(self, points: Tensor) -> Description:
        """Describe clouds: (B, N, 3) -> Description."""
        return Description(self.describe(points))


FLOORS = {
    "bounding box": Handmade(bounding_box),
    "radii + D2": Handmade(histograms),
    "strong": Handmade(strong),
    "strong + box": Handmade(everything),
}
