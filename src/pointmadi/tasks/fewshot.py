"""Few-shot episodes: a few classes, a few labelled shapes of each, and queries to answer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pointmadi.ops.random import Draws

QUERIES = 20  # test shapes of each class, as published


@dataclass(frozen=True, eq=False)
class Fold:
    """One K-way N-shot episode; what stands class by class is labelled 0 … K−1 anew.

    Attributes:
        classes: the K classes under their numbers in the set.
        support: the shapes to learn from (K, N).
        query: the shapes to answer for (K, Q).
    """

    classes: Tensor
    support: Tensor
    query: Tensor

    @property
    def support_label(self) -> Tensor:
        """The labels 0 … K−1 of `support.flatten()`."""
        return torch.arange(len(self.support)).repeat_interleave(self.support.shape[1])

    @property
    def query_label(self) -> Tensor:
        """The labels 0 … K−1 of `query.flatten()`."""
        return torch.arange(len(self.query)).repeat_interleave(self.query.shape[1])


def make_folds(
    names: Sequence[str],
    label: Tensor,
    way: int,
    shot: int,
    num_folds: int = 10,
    seed: int = 0,
    test: Tensor | None = None,
    queries: int = QUERIES,
) -> list[Fold]:
    """Draw episodes that depend on the seed, the names and the labels, not on the order of the shapes.

    Args:
        names: of the S shapes.
        label: class of each (S,), −1 where unknown.
        way: classes of an episode.
        shot: labelled shapes of each class.
        num_folds: number of episodes.
        seed: of all of them.
        test: (S,) bool, the shapes to take queries from, the others being to learn from, as in the published folds of
            ModelNet40; without it queries are any shapes of the class that are not learned from.
        queries: test shapes of each class.

    Raises:
        ValueError: too few classes have enough shapes.
    """
    for what, count in (("way", way - 1), ("shot", shot), ("num_folds", num_folds), ("queries", queries)):
        if count < 1:
            raise ValueError(f"{what} of few-shot episodes is too small; way is at least 2, the others at least 1")
    ordered = torch.tensor(sorted(range(len(names)), key=lambda i: names[i]))
    pools: dict[int, tuple[Tensor, Tensor]] = {}
    for which in label[label >= 0].unique().tolist():
        members = ordered[label[ordered] == which]
        train, rest = (members, members) if test is None else (members[~test[members]], members[test[members]])
        if len(train) >= shot + (queries if test is None else 0) and len(rest) >= queries:
            pools[which] = train, rest
    if len(pools) < way:
        raise ValueError(
            f"{way}-way {shot}-shot needs {way} classes with {shot} shapes to learn from and {queries} queries, and "
            f"{len(pools)} have them; lower way, shot or queries"
        )
    folds = []
    for number in range(num_folds):
        draws = Draws(seed, way, shot, number)
        chosen = draws.permutation(len(pools))[:way].tolist()
        classes = [list(pools)[i] for i in chosen]
        support, query = [], []
        for which in classes:
            train, rest = pools[which]
            train = train[draws.permutation(len(train))]
            support.append(train[:shot])
            query.append(train[shot : shot + queries] if test is None else rest[draws.permutation(len(rest))[:queries]])
        folds.append(Fold(torch.tensor(classes), torch.stack(support), torch.stack(query)))
    return folds


def hash_folds(folds: Sequence[Fold], names: Sequence[str]) -> str:
    """Return 16 letters that name these episodes: the same if, and only if, the same shapes play the same roles."""
    roles = [
        [
            [fold.classes.tolist()],
            *([[names[i] for i in row] for row in part.tolist()] for part in (fold.support, fold.query)),
        ]
        for fold in folds
    ]
    return hashlib.blake2b(repr(roles).encode(), digest_size=8).hexdigest()
