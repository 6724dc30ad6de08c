"""Embeddings of positions and steps against their formulas."""

import math

import pytest
import torch
from torch import nn

from pointmadi.nn.embeddings import MLPPositions, SinCosPositions, StepEmbedding, sincos


def test_the_code_of_a_centre_is_sines_then_cosines_axis_by_axis():
    dim, center = 12, [0.3, -0.7, 0.1]
    expected = []
    for coordinate in center:
        angles = [coordinate * 10000 ** (-i / 2) for i in range(dim // 6)]
        expected += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    found = sincos(torch.tensor([[center]], dtype=torch.float64), dim)
    assert found.shape == (1, 1, dim)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-15)


def test_positions_have_the_released_layers():
    mlp, code = MLPPositions(24), SinCosPositions(24)
    assert [tuple(weight.shape) for weight in mlp.parameters()] == [(128, 3), (128,), (24, 128), (24,)]
    assert [tuple(weight.shape) for weight in code.parameters()] == [(24, 24), (24,), (24, 24), (24,)]
    centers = torch.randn(2, 5, 3)
    assert mlp(centers).shape == code(centers).shape == (2, 5, 24)
    by_hand = nn.functional.gelu(centers @ mlp[0].weight.T + mlp[0].bias) @ mlp[2].weight.T + mlp[2].bias
    torch.testing.assert_close(mlp(centers), by_hand)
    torch.testing.assert_close(code(centers), code.network(sincos(centers, 24)))


def test_the_code_needs_a_multiple_of_six():
    with pytest.raises(ValueError, match="multiple of 6, not 20"):
        SinCosPositions(20)


def test_steps_are_told_apart_and_resolved_in_fp32():
    embed = StepEmbedding(32)
    steps = torch.arange(2000)
    rates = embed.get_buffer("rates")
    assert rates.max() == 1 and rates.min() == pytest.approx(1e-4)
    angles = steps[:, None] * rates
    code = torch.cat([angles.sin(), angles.cos()], dim=-1)
    exact = steps[:, None] * rates.double()
    assert (code - torch.cat([exact.sin(), exact.cos()], dim=-1)).abs().max() < 1e-3
    apart = torch.cdist(code, code).fill_diagonal_(math.inf)
    assert apart.min() > 1e-2
    assert embed(steps[:4]).shape == (4, 32)
    assert not rates.requires_grad
