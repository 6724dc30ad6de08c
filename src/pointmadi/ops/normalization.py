"""Bring clouds to a common place and size."""

from torch import Tensor

TINY = 1e-8  # radius below which a cloud counts as one place and is not enlarged


def to_unit_sphere(points: Tensor, like: Tensor | None = None) -> Tensor:
    """Centre every cloud at its mean and divide it by its largest radius: (B, N, 3) -> (B, N, 3).

    Args:
        points: the clouds.
        like: (B, M, 3) clouds whose mean and radius are used instead, such as a choice of the points.
    """
    like = points if like is None else like
    center = like.mean(dim=1, keepdim=True)
    radius = (like - center).square().sum(dim=2).amax(dim=1).sqrt()
    return (points - center) / radius.clamp_min(TINY)[:, None, None]
