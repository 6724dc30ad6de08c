"""Self-supervised pre-training for 3D point clouds."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pointmadi.interop import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Bring torch in when it is needed, so that importing the package is cheap."""
    if name == "load":
        from pointmadi.interop import load

        return load
    raise AttributeError(f"module 'pointmadi' has no attribute '{name}'")
