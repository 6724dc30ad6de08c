"""Farthest points against a direct float64 implementation, the released kernel's rules, and its recorded indices."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pointmadi.ops.sampling import farthest_points

PARITY = Path(os.environ.get("POINTMADI_PARITY", Path(__file__).parents[2] / "shared" / "parity"))


def oracle(points: np.ndarray, count: int) -> list[int]:
    """Pick from one cloud (N, 3), never the same index twice."""
    picks = [0]
    while len(picks) < count:
        squared = ((points[:, None] - points[picks]) ** 2).sum(-1).min(1)
        squared[picks] = -1
        picks.append(int(squared.argmax()))
    return picks


def kernel(points: np.ndarray, count: int) -> list[int]:
    """Pick from one cloud (N, 3) as the released CUDA kernel does, thread by thread, in the type of the points."""
    threads = min(512, 2 ** int(np.log2(len(points))))
    closest = np.full(len(points), 1e10, points.dtype)
    picks = [0]
    while len(picks) < count:
        best = [(-1.0, 0)] * threads
        for k, point in enumerate(points):
            if (point**2).sum() <= 1e-3:
                continue
            closest[k] = min(closest[k], ((point - points[picks[-1]]) ** 2).sum())
            if closest[k] > best[k % threads][0]:
                best[k % threads] = (closest[k], k)
        picks.append(max(best, key=lambda pair: pair[0])[1])
    return picks


@given(st.integers(0, 10**6), st.integers(1, 60), st.data())
def test_farthest_points_are_those_of_the_direct_implementation(
    seed: int, num_points: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, num_points))
    points = np.random.default_rng(seed).normal(size=(2, num_points, 3))
    picks = farthest_points(torch.from_numpy(points), count)
    assert picks.dtype == torch.int64 and picks.shape == (2, count)
    assert picks.tolist() == [oracle(cloud, count) for cloud in points]


@given(st.integers(0, 10**6), st.integers(1, 40), st.data())
def test_on_a_coarse_grid_ties_go_to_the_lowest_index(seed: int, num_points: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, num_points))
    points = np.random.default_rng(seed).integers(-2, 3, size=(1, num_points, 3)).astype(np.float32)
    assert farthest_points(torch.from_numpy(points), count)[0].tolist() == oracle(points[0], count)


@pytest.mark.parametrize("radius", [1.0, 0.04])
def test_skip_origin_follows_the_kernel(radius: float) -> None:
    points = np.random.default_rng(3).normal(size=(2, 48, 3)) * radius
    for count in (5, 48):
        picks = farthest_points(torch.from_numpy(points), count, skip_origin=True)
        assert picks.tolist() == [kernel(cloud, count) for cloud in points]


def test_skip_origin_repeats_when_all_others_are_picked() -> None:
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0.01, 0, 0], [0, 2, 0]]])
    assert farthest_points(points, 4, skip_origin=True).tolist() == [[0, 3, 1, 1]]
    assert farthest_points(points * 0, 4, skip_origin=True).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_picking_all_is_a_permutation(scale: float) -> None:
    points = torch.randn(3, 50, 3) * scale  # with scale 0 all points are the same
    assert farthest_points(points, 50).sort(-1).values.tolist() == [list(range(50))] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    points = torch.randn(2, 300, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    wide = points.double() if dtype == torch.float64 else points.float()
    assert torch.equal(farthest_points(points, 64), farthest_points(wide, 64))


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_far_from_the_origin_the_picks_are_as_good(offset: float) -> None:
    points = torch.rand(2, 500, 3, generator=torch.Generator().manual_seed(2)) + offset
    assert farthest_points(points, 40).tolist() == [oracle(cloud, 40) for cloud in points.double().numpy()]


def test_large_clouds_in_small_units() -> None:
    points = torch.tensor([[[0.0, 0, 0], [3e5, 0, 0], [9e5, 0, 0]]])
    assert farthest_points(points, 2).tolist() == [[0, 2]]


def test_repeatable_and_the_argument_is_left_alone() -> None:
    points = torch.randn(2, 100, 3).transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    before = points.detach().clone()
    assert torch.equal(farthest_points(points, 30), farthest_points(points.contiguous(), 30))
    assert torch.equal(points, before)


def test_compiled_path_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randint(-3, 4, (2, 200, 3)).float()
    eager = farthest_points(points, 50)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(farthest_points(points, 50), eager)


@pytest.mark.parametrize(
    ("points", "count", "message"),
    [
        (torch.zeros(2, 10, 3), 11, "count is 11 but the clouds have 10 points"),
        (torch.zeros(2, 10, 3), 0, "at least 1"),
        (torch.zeros(10, 3), 2, r"shape \(batch, points, 3\), not \(10, 3\)"),
        (torch.zeros(2, 10, 4), 2, "shape"),
        (torch.zeros(2, 10, 3, dtype=torch.int64), 2, "floating point"),
        (torch.full((2, 10, 3), torch.nan), 2, "20 points with NaN"),
        (torch.tensor([[[0.0, 0, 0], [torch.inf, 0, 0]]]), 1, "1 points with NaN"),
        (torch.tensor([[[0.0, 0, 0], [-2e18, 0, 0]]]), 1, "1e18"),
    ],
)
def test_errors_say_what_is_wrong(points: torch.Tensor, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        farthest_points(points, count)


def test_values_are_not_looked_at_when_told_so() -> None:
    assert farthest_points(torch.full((1, 4, 3), torch.nan), 2, check=False).shape == (1, 2)


def test_indices_are_those_of_the_release() -> None:
    if not (PARITY / "fps_knn.npz").exists():
        pytest.skip(f"no parity fixtures: {PARITY / 'fps_knn.npz'} does not exist; set POINTMADI_PARITY")
    with np.load(PARITY / "fps_knn.npz") as file:
        for case in sorted({key.split("/")[0] for key in file.files}):
            expected = file[f"{case}/fps_idx"]
            picks = farthest_points(torch.from_numpy(file[f"{case}/points"]), expected.shape[1], skip_origin=True)
            assert np.array_equal(picks.numpy(), expected), case


@pytest.mark.gpu
def test_cuda_picks_the_same() -> None:
    points = torch.randint(-9, 10, (4, 700, 3)).float()
    for skip_origin in (False, True):
        expected = farthest_points(points, 300, skip_origin=skip_origin)
        assert torch.equal(farthest_points(points.cuda(), 300, skip_origin=skip_origin).cpu(), expected)
