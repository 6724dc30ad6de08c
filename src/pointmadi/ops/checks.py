"""What every geometry operator asks of its arguments: one readable line instead of a wrong result."""

import torch
from torch import Tensor


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
    if finite and points.numel() and not torch.stack(points.aminmax()).isfinite().all():
        bad = int((~points.isfinite()).any(-1).sum())
        raise ValueError(f"{name} has NaN or infinite coordinates in {bad} of {points[..., 0].numel()} points; remove them")


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
    """Return the type geometry is computed in: float64 if any tensor is, else float32 (half types have 8 to 11 bits)."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
