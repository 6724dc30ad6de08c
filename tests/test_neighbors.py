"""Neighbours against brute force in float64 and exact ties, and what the release recorded."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pointmadi.ops import neighbors
from pointmadi.ops.neighbors import gather, interpolate, nearest, within

PARITY = Path(os.environ.get("POINTMADI_PARITY", Path(__file__).parents[2] / "shared" / "parity"))


def brute(queries: torch.Tensor, points: torch.Tensor) -> np.ndarray:
    """Return squared distances (B, Q, N) in float64."""
    return ((queries.double().numpy()[:, :, None] - points.double().numpy()[:, None]) ** 2).sum(-1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 80), st.booleans(), st.data())
def test_nearest_is_exact_with_ties_by_index(
    seed: int, num_queries: int, num_points: int, double: bool, data: st.DataObject
) -> None:
    """Whole-number coordinates have exact distances and many ties, also at the k-th place."""
    k = data.draw(st.integers(1, num_points))
    draws = np.random.default_rng(seed)
    queries, points = (
        torch.from_numpy(draws.integers(-2, 3, size=(2, n, 3))).to(torch.float64 if double else torch.float32)
        for n in (num_queries, num_points)
    )
    distances = brute(queries, points)
    index, squared = nearest(queries, points, k)
    assert np.array_equal(index.numpy(), distances.argsort(-1, kind="stable")[..., :k])
    assert np.array_equal(squared.numpy(), np.sort(distances)[..., :k])
    assert index.dtype == torch.int64 and squared.dtype == queries.dtype


@pytest.mark.parametrize("k", [1, 2, 32, 500])
@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_nearest_far_from_the_origin(offset: float, k: int) -> None:
    points = random(2, 500, 3) + offset
    queries = random(2, 40, 3, seed=1) + offset
    distances = brute(queries, points)
    index, squared = nearest(queries, points, k)
    np.testing.assert_allclose(squared, np.sort(distances)[..., :k], rtol=1e-5)
    np.testing.assert_allclose(squared, np.take_along_axis(distances, index.numpy(), -1), rtol=1e-5)
    assert (squared.diff(dim=-1) >= 0).all()
    assert (index.sort(-1).values.diff(dim=-1) > 0).all()


def test_nearest_of_duplicates() -> None:
    points = random(1, 20, 3).repeat(1, 5, 1)
    index, squared = nearest(points[:, :20], points, 7)
    assert torch.equal(index[0, :, :5], torch.arange(20)[:, None] + 20 * torch.arange(5))
    assert (squared[..., :5] == 0).all() and (squared[..., 5:] > 0).all()


@pytest.mark.parametrize("block", [1, 37, 1000, 2**20])
def test_blocks_of_any_size_give_the_same(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, points = random(5, 11, 3), random(5, 30, 3, seed=1)
    expected = nearest(queries, points, 4), within(queries, points, 1.0, 4)
    monkeypatch.setattr(neighbors, "block_size", lambda device: block)
    found = nearest(queries, points, 4), within(queries, points, 1.0, 4)
    assert torch.equal(found[0][0], expected[0][0]) and torch.equal(found[0][1], expected[0][1])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("count", [33, 80, 800])
def test_packed_and_plain_selection_agree(count: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny, zero, denormal and huge distances, with ties; also where the selection looks at groups first."""
    values = torch.tensor([0.0, 1e-45, 1e-40, 1e-38, 1.0, 1.0 + 2**-23, 3e38, 0.0, 1e-45, 1.0])
    distances = values[torch.randint(len(values), (50, count), generator=torch.Generator().manual_seed(0))]
    packed = neighbors.smallest(distances, k), neighbors.lowest(distances, -2)
    monkeypatch.setattr(neighbors, "_can_pack", lambda distances: False)
    plain = neighbors.smallest(distances, k), neighbors.lowest(distances, -2)
    assert all(torch.equal(a, b) for a, b in zip(packed[0], plain[0], strict=True))
    assert torch.equal(packed[1], plain[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    queries, points = random(2, 9, 3).to(dtype), random(2, 60, 3, seed=1).to(dtype)
    index, squared = nearest(queries, points, 8)
    wide_index, wide_squared = nearest(queries.float(), points.float(), 8)
    assert squared.dtype == torch.float32 and torch.equal(index, wide_index) and torch.equal(squared, wide_squared)


def test_mixed_types_compute_in_the_wider() -> None:
    assert nearest(random(1, 2, 3).double(), random(1, 5, 3), 2)[1].dtype == torch.float64


def test_no_query_is_no_result() -> None:
    assert nearest(torch.zeros(2, 0, 3), random(2, 5, 3), 3)[0].shape == (2, 0, 3)


def test_not_a_number_gives_valid_indices_when_not_looked_for() -> None:
    for k in (1, 3):
        index, _ = nearest(torch.full((1, 4, 3), torch.nan), random(1, 8, 3), k, check=False)
        assert ((index >= 0) & (index < 8)).all()


@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(0.3, 4.0), st.data())
def test_within_is_the_ball_query(seed: int, num_points: int, radius: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, num_points))
    queries, points = random(2, 6, 3, seed=seed), random(2, num_points, 3, seed=seed + 1)
    index = within(queries.double(), points.double(), radius, k)
    for row, distances in zip(
        index.flatten(0, 1).tolist(), brute(queries, points).reshape(-1, num_points), strict=True
    ):
        hits = np.flatnonzero(distances < radius**2)[:k].tolist()
        assert row == hits + [hits[0] if hits else 0] * (k - len(hits))


def test_within_excludes_the_sphere_itself() -> None:
    points = torch.tensor([[[2.0, 0, 0], [1, 0, 0], [0, 0.5, 0]]])
    assert within(torch.zeros(1, 1, 3), points, 1.0, 2).tolist() == [[[2, 2]]]


@pytest.mark.parametrize("shape", [(), (5,), (5, 4), (2, 3, 4), (0,)])
def test_gather_takes_rows(shape: tuple[int, ...]) -> None:
    values = random(3, 7, 2)
    index = torch.randint(7, (3, *shape))
    assert torch.equal(gather(values, index), torch.stack([v[i] for v, i in zip(values, index, strict=True)]))


def test_gather_has_the_gradient_of_indexing() -> None:
    index = torch.randint(4, (2, 6, 3))
    assert torch.autograd.gradcheck(lambda values: gather(values, index), random(2, 4, 2).double().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_interpolate_is_the_weighted_mean(dtype: torch.dtype) -> None:
    queries, points, values = random(2, 50, 3), random(2, 12, 3, seed=1), random(2, 12, 5, seed=2).to(dtype)
    distances = brute(queries, points)
    index = distances.argsort(-1)[..., :3]
    weights = 1 / (np.take_along_axis(distances, index, -1) + 1e-8)
    weights /= weights.sum(-1, keepdims=True)
    taken = np.stack([v[i] for v, i in zip(values.double().numpy(), index, strict=True)])
    result = interpolate(queries, points, values)
    assert result.dtype == dtype
    rtol = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-4)
    np.testing.assert_allclose(result.double(), (weights[..., None] * taken).sum(-2), rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_interpolate_keeps_the_values_at_the_points(offset: float) -> None:
    points, values = random(1, 10, 3) + offset, random(1, 10, 4, seed=1)
    torch.testing.assert_close(interpolate(points, points, values), values, atol=1e-5, rtol=0)


def test_interpolate_between_coincident_points_takes_their_mean() -> None:
    values = torch.tensor([[[1.0], [3.0], [100.0]]])
    points = torch.tensor([[[0.0, 0, 0], [0, 0, 0], [0, 0, 5]]])
    torch.testing.assert_close(interpolate(points[:, :1], points, values, k=2), torch.tensor([[[2.0]]]))


def test_interpolate_has_the_right_gradient() -> None:
    queries, points = random(2, 5, 3).double(), random(2, 4, 3, seed=1).double()
    values = random(2, 4, 2, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: interpolate(queries, points, values), values)


@pytest.mark.parametrize(
    ("queries", "points", "k", "message"),
    [
        (torch.zeros(1, 2, 3), torch.zeros(1, 4, 3), 5, "k is 5 but the clouds have 4 points"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 4, 3), 0, "at least 1"),
        (torch.zeros(2, 2, 3), torch.zeros(1, 4, 3), 1, "same batch size, not 2 and 1"),
        (torch.zeros(2, 3), torch.zeros(1, 4, 3), 1, "queries must have shape"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 4, 2), 1, "points must have shape"),
        (torch.full((1, 2, 3), torch.nan), torch.zeros(1, 4, 3), 1, "queries has 2 points with NaN"),
        (torch.zeros(1, 2, 3), torch.full((1, 4, 3), torch.inf), 1, "points has 4 points with NaN"),
        (torch.zeros(1, 2, 3).int(), torch.zeros(1, 4, 3), 1, "floating point"),
    ],
)
def test_errors_say_what_is_wrong(queries: torch.Tensor, points: torch.Tensor, k: int, message: str) -> None:
    for call in (lambda: nearest(queries, points, k), lambda: within(queries, points, 1.0, k)):
        with pytest.raises(ValueError, match=message):
            call()


def test_errors_of_the_others() -> None:
    points = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match="radius must be positive"):
        within(points, points, 0.0, 1)
    with pytest.raises(ValueError, match="values must have shape"):
        interpolate(points, points, torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="same batch size"):
        gather(points, torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="gather takes"):
        gather(points[0], torch.zeros(2, 1, dtype=torch.int64))


def test_neighbour_sets_are_those_of_the_release() -> None:
    if not (PARITY / "fps_knn.npz").exists():
        pytest.skip(f"no parity fixtures: {PARITY / 'fps_knn.npz'} does not exist; set POINTMADI_PARITY")
    with np.load(PARITY / "fps_knn.npz") as file:
        for key in file.files:
            case, _, kind = key.partition("/")
            if kind == "knn32_idx_sorted" and not case.endswith("dups"):
                points = torch.from_numpy(file[f"{case}/points"])
                centers = gather(points, torch.from_numpy(file[f"{case}/fps_idx"]).long())
                assert np.array_equal(nearest(centers, points, 32)[0].sort(-1).values.numpy(), file[key]), case


@pytest.mark.gpu
def test_cuda_agrees_and_repeats() -> None:
    queries, points = (torch.randint(-4, 5, (3, n, 3)).float() for n in (50, 400))
    for k in (1, 32):
        assert torch.equal(nearest(queries.cuda(), points.cuda(), k)[0].cpu(), nearest(queries, points, k)[0])
    assert torch.equal(within(queries.cuda(), points.cuda(), 2.0, 8).cpu(), within(queries, points, 2.0, 8))
    index = torch.randint(400, (3, 20000), device="cuda")
    gradients = []
    for _ in range(5):
        values = random(3, 400, 8).cuda().requires_grad_()
        (
            gather(values, index).square().sum() + interpolate(queries.cuda(), points.cuda(), values).square().sum()
        ).backward()
        gradients.append(values.grad)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
