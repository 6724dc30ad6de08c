"""Features of patches back to points."""

import torch.nn.functional as F
from torch import Tensor, nn

from pointmadi.ops.neighbors import interpolate

NEIGHBORS = 3


class Propagation(nn.Module):
    """Give every point the features of the patches around it (feature propagation of PointNet++, Qi et al. 2017).

    Published: the features of the three nearest centres, weighted by 1/d², stand behind the point's own channels; two
    layers with BatchNorm and ReLU follow. The first layer is linear, and so is interpolation: here it is applied to
    the features at the centres before they are carried to the points, which are many more.

    Args:
        own: channels of a point (coordinates and further ones).
        carried: channels of a patch.
        hidden: width of the first layer.
        out: width of the second layer.
    """

    def __init__(self, own: int, carried: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(own + carried, hidden)
        self.norm1 = nn.BatchNorm1d(hidden)
        self.second = nn.Linear(hidden, out)
        self.norm2 = nn.BatchNorm1d(out)

    def forward(self, points: Tensor, channels: Tensor, centers: Tensor, values: Tensor) -> Tensor:
        """Carry values (B, G, V) at centers (B, G, 3) to points (B, N, 3) with channels (B, N, C) -> (B, N, out)."""
        own, carried = self.first.weight.split([channels.shape[-1], values.shape[-1]], dim=1)
        projected = F.linear(values, carried)
        near = interpolate(points, centers, projected, min(NEIGHBORS, centers.shape[1]), check=False)
        x = F.linear(channels, own, self.first.bias) + near
        x = F.relu(self.norm1(x.flatten(0, 1)), inplace=True)
        x = F.relu(self.norm2(self.second(x)), inplace=True)
        return x.unflatten(0, points.shape[:2])
