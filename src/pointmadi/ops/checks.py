"""What every geometry operator asks of its arguments: one readable line instead of a wrong result."""

import torch
from torch import Tensor

LARGEST = 1e18  # the square of a larger coordinate does not fit in float32


def require_cloud(name: str, points: Tensor, *, finite: bool = True) -> None:
    """Require a floating-point tensor (B, N, 3) without NaN or infinity.

    Args:
        name: how the message calls the tensor.
        points: what is checked.
        finite: also look at the values. On CUDA this waits for the device; the shape costs nothing.
    """
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(f"{name} must have shape (batch, points, 3), not {tuple(points.shape)}")
    if not points.is_floating_point():
        raise ValueError(f"{name} must be floating point, not {points.dtype}; convert it with .float()")
    if finite and points.numel() and not (torch.stack(points.aminmax()).abs() < LARGEST).all():
        bad = int((~(points.abs() < LARGEST)).any(-1).sum())
        raise ValueError(f"{name} has {bad} points with NaN or infinite coordinates (or beyond 1e18); remove them")


def require_pair(first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Require the same batch size and the same device of two tensors."""
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"{first} and {second} must have the same batch size, not {a.shape[0]} and {b.shape[0]}")
    if a.device != b.device:
        raise ValueError(f"{first} and {second} must be on one device, not {a.device} and {b.device}")


def require_count(what: str, count: int, available: int, advice: str) -> None:
    """Require 1 <= count <= available."""
    if count < 1:
        raise ValueError(f"{what} must be at least 1, not {count}")
    if count > available:
        raise ValueError(f"{what} is {count} but the clouds have {available} points; {advice}")


def computing_type(*tensors: Tensor) -> torch.dtype:
    """Return the type geometry is computed in: float64 if any tensor is, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
