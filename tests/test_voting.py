"""Voting: means over views, repeats, and honest words."""

import pytest
import torch
from torch import Tensor

from pointmadi.ops.random import Draws
from pointmadi.tasks.voting import Repeats, repeat, vote


def view(points: Tensor, draws: Draws) -> Tensor:
    return points * draws.uniform(len(points), 1, 3, low=0.5, high=1.5)


def test_a_vote_is_the_mean_over_views_that_differ() -> None:
    points, seen = torch.randn(4, 10, 3), []

    def predict(points: Tensor) -> Tensor:
        seen.append(points)
        return points.square().sum(1)

    mean = vote(predict, view, points, 5, 7, 2)
    torch.testing.assert_close(mean, torch.stack([x.square().sum(1) for x in seen]).mean(0))
    assert len(seen) == 5 and not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    assert torch.equal(mean, vote(predict, view, points, 5, 7, 2))
    assert not torch.equal(mean, vote(predict, view, points, 5, 8, 2))
    with pytest.raises(ValueError, match="votes must be at least 1, not 0"):
        vote(predict, view, points, 0, 1)


def test_repeats_report_mean_and_spread_and_name_the_best() -> None:
    scores = [0.90, 0.92, 0.94]
    found = repeat(lambda seed: scores[seed], 3)
    assert (found.mean, found.std, found.best) == pytest.approx((0.92, 0.02, 0.94))
    assert found.report() == "92.00% ± 2.00% over 3 votes"
    assert found.report(best=True).endswith("best of 3, selected on the test set: 94.00%")
    assert Repeats([0.5]).report() == "50.00% ± 0.00% over 1 vote"
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        repeat(lambda seed: 0.0, 0)
