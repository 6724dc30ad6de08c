"""Few-shot episodes: who plays which role, and that nothing but names and seed decides."""

import pytest
import torch

from pointmadi.tasks.fewshot import hash_folds, make_folds

LABEL = torch.arange(7).repeat_interleave(40)
LABEL[LABEL == 6] = -1
NAMES = [f"{label}/shape{i}" for i, label in enumerate(LABEL.tolist())]
TEST = torch.arange(280) % 2 == 0


@pytest.mark.parametrize("test", [None, TEST], ids=["one set", "with a split"])
@pytest.mark.parametrize(("way", "shot"), [(5, 10), (6, 20)])
def test_roles(way: int, shot: int, test: torch.Tensor | None) -> None:
    folds = make_folds(NAMES, LABEL, way, shot, num_folds=4, test=test)
    assert len(folds) == 4
    for fold in folds:
        assert fold.support.shape == (way, shot) and fold.query.shape == (way, 20)
        assert len(set(fold.classes.tolist())) == way and -1 not in fold.classes
        for part in (fold.support, fold.query):
            assert torch.equal(LABEL[part], fold.classes[:, None].expand_as(part))
        chosen = torch.cat([fold.support.flatten(), fold.query.flatten()])
        assert len(chosen.unique()) == len(chosen)
        if test is not None:
            assert test[fold.query].all() and not test[fold.support].any()
        assert torch.equal(fold.classes[fold.support_label], LABEL[fold.support.flatten()])
        assert torch.equal(fold.classes[fold.query_label], LABEL[fold.query.flatten()])
    assert not torch.equal(folds[0].query, folds[1].query)


def test_seed_and_names_decide_and_the_order_of_shapes_does_not() -> None:
    def hashed(order: torch.Tensor, **settings: int) -> str:
        names = [NAMES[i] for i in order.tolist()]
        return hash_folds(make_folds(names, LABEL[order], 5, 10, test=TEST[order], **settings), names)

    stored = torch.arange(280)
    mixed = torch.randperm(280, generator=torch.Generator().manual_seed(0))
    assert hashed(stored) == hashed(mixed) != hashed(stored, seed=1)
    assert len({hashed(stored), hashed(stored, num_folds=9), hashed(stored, queries=19)}) == 3
    assert len(hashed(stored)) == 16


def test_too_little_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"7-way 10-shot needs 7 classes .* and 6 have them"):
        make_folds(NAMES, LABEL, 7, 10)
    with pytest.raises(ValueError, match="21 shapes to learn from and 20 queries, and 0 have them"):
        make_folds(NAMES, LABEL, 2, 21)
    with pytest.raises(ValueError, match="shot of few-shot episodes is too small"):
        make_folds(NAMES, LABEL, 2, 0)
