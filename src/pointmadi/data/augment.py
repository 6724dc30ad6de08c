"""Random changes of a batch of shapes, all of them on the device and batched."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pointmadi.ops.random import Draws

AXES = "xyz"


@dataclass(frozen=True)
class AugmentConfig:
    """How shapes are changed at random, in this order; the defaults are the released pre-training recipe.

    Args:
        scale: range of the factor of each axis.
        translate: range of the shift along each axis.
        flip: axes that are mirrored in half of the shapes, such as "x" or "xz".
        rotate: about which axis the shapes are turned by any angle; so3 for any rotation.
        jitter: standard deviation of the noise on each coordinate.
        jitter_clip: largest absolute value of that noise.
        drop: largest share of the points that are dropped; the share of a shape is uniform below it.
        drop_fill: what takes the place of a dropped point: the first point of the shape, or one of the kept points.
    """

    scale: tuple[float, float] = (2 / 3, 3 / 2)
    translate: tuple[float, float] = (-0.2, 0.2)
    flip: str = ""
    rotate: Literal["none", "x", "y", "z", "so3"] = "y"
    jitter: float = 0.0
    jitter_clip: float = 0.05
    drop: float = 0.0
    drop_fill: Literal["first", "kept"] = "first"

    def __post_init__(self) -> None:
        for name in ("scale", "translate"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"augmentation: {name} goes from {low} to {high}; give the smaller one first")
        if self.scale[0] <= 0:
            raise ValueError(f"augmentation: scale must be above 0, got {self.scale[0]} (mirror with flip)")
        if set(self.flip) - set(AXES):
            raise ValueError(f"augmentation: flip names axes such as 'x' or 'xz', got '{self.flip}'")
        if self.jitter < 0 or self.jitter_clip < 0:
            raise ValueError(f"augmentation: jitter and jitter_clip must be ≥ 0, got {self.jitter}, {self.jitter_clip}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"augmentation: drop is a share from 0 to below 1, got {self.drop}")


NO_AUGMENT = AugmentConfig(scale=(1.0, 1.0), translate=(0.0, 0.0), rotate="none")


def augment(points: Tensor, config: AugmentConfig, draws: Draws) -> Tensor:
    """Change shapes at random: (B, N, 3) -> (B, N, 3), a new tensor unless nothing is to be changed."""
    return augment_batch({"points": points}, config, draws)["points"]


def augment_batch(
    batch: dict[str, Tensor], config: AugmentConfig, draws: Draws, normals: int | None = None
) -> dict[str, Tensor]:
    """Change the shapes of a batch at random, and what is known of their points along with them.

    Args:
        batch: points (B, N, 3), and perhaps features (B, N, F) and part (B, N); its tensors are not changed.
        config: what is changed.
        draws: the source of randomness.
        normals: channel of the features where a normal (three channels) begins: it turns with its surface.
    """
    points = batch["points"]
    rows = len(points)
    linear = torch.eye(3, dtype=points.dtype, device=points.device).expand(rows, 3, 3)
    if config.scale != (1.0, 1.0) or config.translate != (0.0, 0.0):
        scale = draws.uniform(rows, 3, low=config.scale[0], high=config.scale[1]).to(points)
        shift = draws.uniform(rows, 3, low=config.translate[0], high=config.translate[1]).to(points)
        points, linear = scale_translate(points, scale, shift), linear * scale[:, None]
    if config.flip:
        mirrored = torch.tensor([axis in config.flip for axis in AXES], device=points.device)
        signs = torch.where((draws.uniform(rows, 3).to(points) < 0.5) & mirrored, -1.0, 1.0).to(points)
        points, linear = points * signs[:, None], linear * signs[:, None]
    if config.rotate != "none":
        if config.rotate == "so3":
            turn = quaternion_rotations(draws.normal(rows, 4).to(points))
        else:
            turn = axis_rotations(draws.uniform(rows, high=2 * torch.pi).to(points), config.rotate)
        points, linear = points @ turn, linear @ turn
    if config.jitter > 0:
        points = jitter(points, draws.normal(*points.shape).to(points), config.jitter, config.jitter_clip)

    batch = {**batch, "points": points}
    if normals is not None and "features" in batch:
        batch["features"] = turn_normals(batch["features"], linear, normals)
    if config.drop > 0:
        share = draws.uniform(rows, 1, high=config.drop).to(points)
        source = replacements(
            draws.uniform(rows, points.shape[1]).to(points) < share,
            draws.uniform(rows, points.shape[1]).to(points) if config.drop_fill == "kept" else None,
        )
        for name in {"points", "features", "part"} & set(batch):
            batch[name] = batch[name][torch.arange(rows, device=source.device)[:, None], source]
    return batch


def scale_translate(points: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale, then shift every axis: (B, N, 3), (B, 3), (B, 3) -> (B, N, 3)."""
    return points * scale[:, None] + shift[:, None]


def axis_rotations(angles: Tensor, axis: str) -> Tensor:
    """Return the rotations R about an axis, for row vectors `points @ R`: (B,) radians -> (B, 3, 3)."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    one, zero = torch.ones_like(cos), torch.zeros_like(cos)
    rows = {
        "x": (one, zero, zero, zero, cos, -sin, zero, sin, cos),
        "y": (cos, zero, sin, zero, one, zero, -sin, zero, cos),
        "z": (cos, -sin, zero, sin, cos, zero, zero, zero, one),
    }
    return torch.stack(rows[axis], dim=-1).unflatten(-1, (3, 3))


def quaternion_rotations(quaternions: Tensor) -> Tensor:
    """Return rotations from quaternions of any length, uniform on SO(3) for normal ones: (B, 4) -> (B, 3, 3)."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def jitter(points: Tensor, noise: Tensor, sigma: float, clip: float) -> Tensor:
    """Add noise of standard deviation `sigma`, clipped: (B, N, 3), (B, N, 3) of N(0, 1) -> (B, N, 3)."""
    return points + (noise * sigma).clamp(-clip, clip)


def turn_normals(features: Tensor, linear: Tensor, at: int) -> Tensor:
    """Turn the normals in channels `at` … `at`+2 as surfaces turn under `points @ linear`: (B, N, F), (B, 3, 3)."""
    turned = features[..., at : at + 3] @ torch.linalg.inv(linear).transpose(1, 2).to(features)
    turned = torch.nn.functional.normalize(turned, dim=-1)
    return torch.cat([features[..., :at], turned, features[..., at + 3 :]], dim=-1)


def replacements(dropped: Tensor, order: Tensor | None = None) -> Tensor:
    """Return for every point the point that stands at its place once some are dropped: (B, N) bool -> (B, N) int64.

    Args:
        dropped: which points are dropped; the first point of a shape always stays.
        order: (B, N) random numbers that pick a kept point for every dropped one; the first point if None.
    """
    own = torch.arange(dropped.shape[1], device=dropped.device).expand_as(dropped)
    dropped = dropped & (own > 0)
    if order is None:
        return torch.where(dropped, 0, own)
    kept_first = torch.argsort(dropped.to(torch.uint8), dim=1, stable=True)
    kept = (~dropped).sum(1, keepdim=True)
    pick = (order * kept).long().clamp_max(kept - 1)
    return torch.where(dropped, kept_first.gather(1, pick), own)
