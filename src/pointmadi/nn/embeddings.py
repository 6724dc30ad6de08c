"""Embeddings of positions and of diffusion steps."""

import math

import torch
from torch import Tensor, nn


def sincos(centers: Tensor, dim: int) -> Tensor:
    """Encode centres by sines and cosines: (…, 3) -> (…, dim), dim a multiple of 6 (PCP-MAE).

    Axis by axis: first the sines, then the cosines of the coordinate times 10000^(−i / (dim/6)).
    """
    count = dim // 6
    rates = 10000.0 ** (-torch.arange(count, dtype=centers.dtype, device=centers.device) / count)
    angles = centers[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class MLPPositions(nn.Sequential):
    """Embed centres by a small network, 3 -> 128 -> GELU -> C (Point-MAE, Point-MaDi)."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, dim))


class SinCosPositions(nn.Module):
    """Embed centres by a fixed code and a small network, 3 -> sin, cos -> C -> GELU -> C (PCP-MAE)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % 6:
            raise ValueError(f"positions='sincos' needs a dim that is a multiple of 6, not {dim}")
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.dim = dim

    def forward(self, centers: Tensor) -> Tensor:
        """Embed (…, 3) -> (…, C)."""
        return self.network(sincos(centers, self.dim))


class StepEmbedding(nn.Sequential):
    """Embed diffusion steps (B,) -> (B, C): frequencies that fall from 1 to 1e-4, then C -> 2C -> SiLU -> C.

    The released code, where this is switched off, lets them grow to 1e4, beyond what fp32 resolves.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.register_buffer("rates", torch.exp(torch.linspace(0, -math.log(1e4), dim // 2)))

    def forward(self, step: Tensor) -> Tensor:
        """Embed (B,) -> (B, C)."""
        angles = step[:, None] * self.get_buffer("rates")
        return super().forward(torch.cat([angles.sin(), angles.cos()], dim=-1))
