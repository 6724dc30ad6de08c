"""Voting: the same cloud seen several times, each time moved or sampled otherwise, and the logits averaged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from pointmadi.ops.random import Draws


@dataclass(frozen=True)
class Voting:
    """Answer by several views of each test shape.

    Attributes:
        votes: views whose logits are averaged, each of other points and changed as in training; 0 for one plain view.
        repeats: how often the vote is repeated under another seed; the papers repeat it 299 times and report the best.
    """

    votes: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.votes < 0 or self.repeats < 1:
            raise ValueError(f"votes must be at least 0 and repeats at least 1, got {self.votes} and {self.repeats}")


@torch.no_grad()
def vote(
    predict: Callable[[Tensor], Tensor], view: Callable[[Tensor, Draws], Tensor], points: Tensor, votes: int, *key: int
) -> Tensor:
    """Average the logits of several views of a batch.

    Args:
        predict: scores clouds (B, N, 3) -> logits.
        view: makes a view of the clouds by the draws: chooses points, turns, scales.
        points: the clouds (B, M, 3).
        votes: number of views, 10 as published.
        key: names the random stream, such as seed, repeat, batch.

    Returns:
        The mean of the logits over views.
    """
    if votes < 1:
        raise ValueError(f"votes must be at least 1, not {votes}")
    total = predict(view(points, Draws(*key, 0, device=points.device)))
    for number in range(1, votes):
        total = total + predict(view(points, Draws(*key, number, device=points.device)))
    return total / votes


@dataclass(frozen=True)
class Repeats:
    """What the same vote reached under several seeds.

    Attributes:
        scores: one number a seed, on the test set.
    """

    scores: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean over repeats: the number to report."""
        return fmean(self.scores)

    @property
    def std(self) -> float:
        """The standard deviation over repeats, 0 of a single one."""
        return stdev(self.scores) if len(self.scores) > 1 else 0.0

    @property
    def best(self) -> float:
        """The best repeat: what the papers report, chosen on the test set."""
        return max(self.scores)

    def report(self, best: bool = False) -> str:
        """Say in one line what was reached; the best repeat is named as what it is."""
        count = len(self.scores)
        said = f"{self.mean:.2%} ± {self.std:.2%} over {count} vote{'s' * (count > 1)}"
        return f"{said}; best of {count}, selected on the test set: {self.best:.2%}" if best else said


def repeat(score: Callable[[int], float], repeats: int = 1) -> Repeats:
    """Score a vote under seeds 0 … repeats−1. The releases do so 299 times, and report the best."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    return Repeats([score(seed) for seed in range(repeats)])
