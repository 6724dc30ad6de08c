"""Histograms that describe a cloud without anything learned, the same however it is turned about its centre."""

import torch
from torch import Tensor

LAGS = 32  # distances taken from every point for the D2 histogram


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
