"""Hand-made descriptions: shapes, invariances, and values that can be known without the code."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pointmadi.tasks import handmade

LENGTHS = {"bounding box": 9, "radii + D2": 48, "strong": 96, "strong + box": 105}


@pytest.fixture
def clouds() -> Tensor:
    points = torch.randn(3, 200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.5, 0.5])
    points = points**2 * points.sign() + 0.3 * points**2  # skewed, so that the axes have a direction
    points = points - points.mean(1, keepdim=True)
    return points / points.norm(dim=2).amax(1)[:, None, None]


def turned(points: Tensor) -> Tensor:
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    return points @ rotation


def close(a: Tensor, b: Tensor) -> bool:
    """Compare histograms whose bins a point at an edge may change."""
    return bool((a - b).abs().max() < 0.02)


@pytest.mark.parametrize("name", handmade.FLOORS)
def test_a_floor_answers_as_an_encoder_does(name: str, clouds: Tensor) -> None:
    before = clouds.clone()
    pooled = handmade.FLOORS[name](clouds).pooled
    assert pooled.shape == (3, LENGTHS[name]) and pooled.dtype == torch.float32
    assert torch.isfinite(pooled).all() and torch.equal(clouds, before)
    assert torch.equal(pooled[1:2], handmade.FLOORS[name](clouds[1:2]).pooled)


def test_bounding_box_of_a_box() -> None:
    corners = torch.tensor([[-0.1, -0.5, 0.0], [0.3, 0.2, 0.05]])[None]
    found = handmade.bounding_box(corners)[0]
    torch.testing.assert_close(found, torch.tensor([-0.1, -0.5, 0.0, 0.3, 0.2, 0.05, 0.05, 0.4, 0.7]))


def test_histogram_counts_as_numpy_does() -> None:
    values = torch.rand(4, 1000, generator=torch.Generator().manual_seed(2))
    found = handmade.histogram(values, 10, 0.0, 1.0)
    expected = np.stack([np.histogram(row, 10, (0.0, 1.0))[0] / 1000 for row in values.numpy()])
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)  # a value at an edge may fall on either side


def test_values_outside_count_in_the_outermost_bins() -> None:
    assert handmade.histogram(torch.tensor([[-5.0, 0.5, 2.0, 9.0]]), 2, 0.0, 1.0).tolist() == [[0.25, 0.75]]


def test_d2_of_a_sphere_is_known() -> None:
    points = torch.nn.functional.normalize(torch.randn(1, 2048, 3, generator=torch.Generator().manual_seed(3)), dim=2)
    # Chords of the unit sphere have the density d/2 on 0 … 2.
    edges = torch.linspace(0, 2, 33)
    assert close(handmade.d2(points)[0], (edges[1:] ** 2 - edges[:-1] ** 2) / 4)


@pytest.mark.parametrize("describe", [handmade.radii, handmade.d2, handmade.marginals])
def test_histograms_do_not_change_when_a_shape_is_turned(describe, clouds: Tensor) -> None:  # type: ignore[no-untyped-def]
    assert close(describe(clouds), describe(turned(clouds)))
    torch.testing.assert_close(describe(clouds).sum(1), torch.full((3,), float(describe(clouds)[0].sum().round())))


def test_marginals_go_from_the_longest_axis_to_the_shortest(clouds: Tensor) -> None:
    spread = [(row > 0).sum() for row in handmade.marginals(clouds)[0].split(16)]
    assert spread == sorted(spread, reverse=True)


def test_flat_and_tiny_clouds_are_described() -> None:
    flat = torch.rand(2, 3, 3) * torch.tensor([1.0, 1.0, 0.0])
    assert torch.isfinite(handmade.everything(flat)).all()
