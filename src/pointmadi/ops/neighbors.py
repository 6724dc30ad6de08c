"""Neighbours: nearest, within a radius, gather by index, interpolate."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as functional
from torch import Tensor

from pointmadi.ops.checks import computing_type, require_cloud, require_count, require_pair


@torch.no_grad()
def nearest(queries: Tensor, points: Tensor, k: int, *, check: bool = True) -> tuple[Tensor, Tensor]:
    """Find the k nearest points of each query: (B, Q, 3), (B, N, 3) -> index (B, Q, k) int64, squared (B, Q, k).

    Exact and in ascending order of (squared distance, index): among equally distant points the lower index comes first
    and is the one that is kept, also at the k-th place. Distances are sums of three squared differences, so that clouds
    may lie far from the origin (|q|² - 2qp + |p|² gets most neighbours wrong there); "equal" means equal in the type
    they are computed in, float32, or float64 if an input is. No gradient flows through the result.

    Args:
        queries: (B, Q, 3) of any float type.
        points: (B, N, 3).
        k: number of neighbours, 1 … N.
        check: look for NaN and infinity (waits for the device on CUDA).

    Raises:
        ValueError: wrong shape or type, different batch sizes, `k` not in 1 … N, NaN or infinite coordinates.
    """
    _require(queries, points, k, check)
    index = torch.empty(*queries.shape[:2], k, dtype=torch.int64, device=points.device)
    squared = torch.empty(index.shape, dtype=computing_type(queries, points), device=points.device)
    for part, distances in _distances(queries, points):
        squared[part], index[part] = smallest(distances, k)
    return index, squared


@torch.no_grad()
def within(queries: Tensor, points: Tensor, radius: float, k: int, *, check: bool = True) -> Tensor:
    """Find points closer than `radius`: (B, Q, 3), (B, N, 3) -> index (B, Q, k) int64.

    The ball query of PointNet++ (Qi et al. 2017): the first k hits in the order of their indices, strictly closer than
    the radius; a row with fewer is filled up with its first hit, one without any with index 0.

    Raises:
        ValueError: as `nearest`, or a radius that is not positive.
    """
    _require(queries, points, k, check)
    if not radius > 0:
        raise ValueError(f"radius must be positive, not {radius}")
    count = points.shape[1]
    order = torch.arange(count, device=points.device)
    index = torch.empty(*queries.shape[:2], k, dtype=torch.int64, device=points.device)
    for part, distances in _distances(queries, points):
        hits = torch.where(distances < radius**2, order, count).topk(k, largest=False).values
        first = hits[..., :1] % count  # no hit at all: `count` becomes 0
        index[part] = torch.where(hits == count, first, hits)
    return index


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Take rows by index, cloud by cloud: (B, N, *), (B, ...) -> (B, ..., *). Differentiable, and deterministically so.

    Raises:
        ValueError: wrong rank, or different batch sizes.
    """
    if values.ndim < 3 or index.ndim < 1:
        raise ValueError(
            f"gather takes values (batch, points, channels) and an index (batch, ...), "
            f"not {tuple(values.shape)} and {tuple(index.shape)}"
        )
    require_pair("values", values, "index", index)
    batch, table = len(values), values.flatten(2)
    flat = index.reshape(batch, math.prod(index.shape[1:]))
    if values.is_cuda:  # the gradient of indexing is a sorted sum, that of torch.gather an atomic one
        rows = table[torch.arange(batch, device=values.device)[:, None], flat]
    else:
        rows = table.gather(1, flat[..., None].expand(-1, -1, table.shape[-1]))
    return rows.reshape(*index.shape, *values.shape[2:])


def interpolate(queries: Tensor, points: Tensor, values: Tensor, k: int = 3, *, check: bool = True) -> Tensor:
    """Carry values from points to queries: (B, Q, 3), (B, G, 3), (B, G, C) -> (B, Q, C), in the type of `values`.

    The weighted mean of the values of the k nearest points with weights 1 / (d² + 1e-8), d² the squared distance
    (PointNet++ propagation, as the releases compute it, but from direct distances that are never negative).
    Gradients flow to `values` only.

    Raises:
        ValueError: as `nearest`, or `values` that do not belong to `points`.
    """
    if values.ndim != 3 or values.shape[:2] != points.shape[:2]:
        raise ValueError(
            f"values must have shape (batch, points, channels) for points {tuple(points.shape)}, "
            f"not {tuple(values.shape)}"
        )
    index, squared = nearest(queries, points, k, check=check)
    weights = 1.0 / (squared + 1e-8)
    weights = weights / weights.sum(-1, keepdim=True)

    # One weighted sum of k rows per query, without the (B, Q, k, C) tensor that gathering first would make.
    kind = computing_type(squared, values)
    rows = index + points.shape[1] * torch.arange(len(points), device=index.device)[:, None, None]
    table, flat_weights = values.to(kind).flatten(0, 1), weights.to(kind).flatten(0, 1)
    mixed = functional.embedding_bag(rows.flatten(0, 1), table, per_sample_weights=flat_weights, mode="sum")
    return mixed.unflatten(0, queries.shape[:2]).to(values.dtype)


def squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """Compute |q - p|² as a sum of three squares: (B, Q, 3), (B, N, 3) -> (B, Q, N), float32 or float64."""
    kind = computing_type(queries, points)
    q = queries.to(kind).movedim(-1, 0)[..., None]  # (3, B, Q, 1)
    p = points.to(kind).movedim(-1, 0).contiguous()[:, :, None]  # (3, B, 1, N)
    total = (q[0] - p[0]).square_()
    for axis in (1, 2):
        difference = q[axis] - p[axis]
        total.addcmul_(difference, difference)
    return total


def block_size(device: torch.device) -> int:
    """Return how many distances to hold at once: what the cache of one core likes, or a small part of a device."""
    return 2**17 if device.type == "cpu" else 2**26


def smallest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Select the k smallest of each row in ascending order of (value, index): (..., N) -> values, index (..., k)."""
    if k == 1:
        index = lowest(distances, -1).unsqueeze(-1)
    elif _can_pack(distances):
        keys = _packed(distances, -1)
        if keys.device.type == "cpu" and keys.shape[-1] % GROUP == 0 and keys.shape[-1] >= 2 * GROUP * k:
            keys = _members_of_best_groups(keys, k)
        index = _unpacked(keys.topk(k, dim=-1, largest=False).values, distances.shape[-1])
    else:
        index = distances.sort(dim=-1, stable=True).indices[..., :k]
    return distances.gather(-1, index), index


def lowest(distances: Tensor, dim: int) -> Tensor:
    """Find the index of the smallest along `dim`, the lowest index where several are equal."""
    if not (_can_pack(distances) and distances.device.type == "cpu"):
        return distances.min(dim).indices
    smallest = _packed(distances, dim).view(torch.float64).amin(dim)  # vectorised, min with its index is not
    return _unpacked(smallest.view(torch.int64), distances.shape[dim])


# A float32 written as float64 has 29 zero bits at its end. With the index there, (value, index) is one number without
# ties, which sorts the same read as float64 or as int64. One exponent step up keeps zero away from the denormals.
INDEX_BITS = 29
GROUP = 8  # selecting among the minima of groups first is 1.2 to 1.5 times faster on a CPU


def _can_pack(distances: Tensor) -> bool:
    return distances.dtype == torch.float32 and distances.device.type in ("cpu", "cuda")  # MPS has no float64


def _packed(distances: Tensor, dim: int) -> Tensor:
    count = distances.shape[dim]
    index = torch.arange(1 << 52, (1 << 52) + count, device=distances.device)
    return distances.double().view(torch.int64).add_(index if dim == -1 else index[:, None])


def _unpacked(keys: Tensor, count: int) -> Tensor:
    return keys.bitwise_and_((1 << INDEX_BITS) - 1).clamp_(max=count - 1)  # NaN, if it was not looked for, has no index


def _members_of_best_groups(keys: Tensor, k: int) -> Tensor:
    """Narrow down to the k groups with the smallest minima, which hold the k smallest: (..., N) -> (..., GROUP k)."""
    groups = keys.unflatten(-1, (GROUP, -1))
    minima = groups.view(torch.float64).amin(-2).view(torch.int64)
    best = minima.topk(k, dim=-1, largest=False, sorted=False).indices.unsqueeze(-2)
    return groups.gather(-1, best.expand(*groups.shape[:-1], k)).flatten(-2)


def _require(queries: Tensor, points: Tensor, k: int, check: bool) -> None:
    require_cloud("queries", queries, finite=check)
    require_cloud("points", points, finite=check)
    require_pair("queries", queries, "points", points)
    require_count("k", k, points.shape[1], "lower k (patch_size) or use larger clouds")


def _distances(queries: Tensor, points: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """Yield squared distances of blocks of (clouds, queries) of bounded size, with the place of each block."""
    batch, count = queries.shape[:2]
    rows = max(1, block_size(points.device) // points.shape[1])
    clouds = max(1, rows // max(1, count))
    for i in range(0, batch, clouds):
        for j in range(0, count, rows):
            part = slice(i, i + clouds), slice(j, j + rows)
            yield part, squared_distances(queries[part], points[part[0]])
