"""Hand-made descriptions of a cloud: the floor that a learned encoder has to leave behind.

Each is a function of the same points in the unit sphere that the encoder sees, without anything learned. `FLOORS` gives
them the calling convention of an encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LAGS = 32  # distances taken from every point for the D2 histogram


def bounding_box(points: Tensor) -> Tensor:
    """Describe clouds by their bounding box: low corner, high corner, sorted extents; (B, N, 3) -> (B, 9)."""
    low, high = points.amin(1), points.amax(1)
    return torch.cat([low, high, (high - low).sort(1).values], 1)


def histogram(values: Tensor, bins: int, low: float, high: float) -> Tensor:
    """Return the share of values in each of `bins` equal bins, those outside in the outermost: (B, V) -> (B, bins)."""
    cells = ((values - low) * (bins / (high - low))).long().clamp(0, bins - 1)
    rows = torch.arange(len(values), device=values.device)[:, None]
    counts = torch.bincount((cells + rows * bins).flatten(), minlength=len(values) * bins)
    return counts.view(-1, bins) / values.shape[1]


def radii(points: Tensor) -> Tensor:
    """Describe clouds by the histogram of distances to the centre: (B, N, 3) -> (B, 16)."""
    return histogram(points.norm(dim=2), 16, 0.0, 1.0)


def d2(points: Tensor) -> Tensor:
    """Describe clouds by the histogram of distances between pairs of points: (B, N, 3) -> (B, 32).

    The pairs are each point with those `lag` places after it, for 32 lags of 1 … N/2: 32·N pairs that are the same in
    every call. Osada et al., "Shape distributions", 2002.
    """
    lags = torch.linspace(1, max(points.shape[1] // 2, 1), LAGS).long().tolist()
    distances = torch.cat([(points - points.roll(lag, 1)).norm(dim=2) for lag in lags], 1)
    return histogram(distances, 32, 0.0, 2.0)


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
