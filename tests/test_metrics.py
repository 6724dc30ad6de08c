"""Metrics against loops over the definition."""

import math

import pytest
import torch

from pointmadi.tasks import metrics


def test_accuracies_and_confusion() -> None:
    truth = torch.randint(-1, 4, (300,), generator=torch.Generator().manual_seed(0))
    answer = torch.randint(5, (300,), generator=torch.Generator().manual_seed(1))
    pairs = [(t, a) for t, a in zip(truth.tolist(), answer.tolist()) if t >= 0]
    counts = metrics.confusion(answer, truth, 5)
    assert counts.tolist() == [[pairs.count((row, column)) for column in range(5)] for row in range(5)]
    assert math.isclose(metrics.overall_accuracy(counts), sum(t == a for t, a in pairs) / len(pairs), rel_tol=1e-6)
    shares = [sum(t == a for t, a in pairs if t == c) / sum(t == c for t, _ in pairs) for c in range(4)]
    assert math.isclose(metrics.mean_class_accuracy(counts), sum(shares) / 4, rel_tol=1e-6)
    halves = [metrics.confusion(answer[i], truth[i], 5) for i in (slice(100), slice(100, 300))]
    assert torch.equal(halves[0] + halves[1], counts)
    with pytest.raises(ValueError, match=r"\(299,\) answers for \(300,\) labels"):
        metrics.confusion(answer[1:], truth, 5)


def test_iou_of_classes() -> None:
    truth = torch.randint(3, (2, 60), generator=torch.Generator().manual_seed(0))
    answer = torch.tensor([0, 1, 2, 4])[torch.randint(4, (2, 60), generator=torch.Generator().manual_seed(1))]
    counts = metrics.confusion(answer, truth, 6)  # class 3 and 5 never occur, 4 is answered only
    expected = []
    for c in range(6):
        a = {i for i, value in enumerate(answer.flatten().tolist()) if value == c}
        t = {i for i, value in enumerate(truth.flatten().tolist()) if value == c}
        expected.append(len(a & t) / len(a | t) if a | t else math.nan)
    torch.testing.assert_close(metrics.class_ious(counts), torch.tensor(expected).double(), equal_nan=True)
    known = [value for value in expected if not math.isnan(value)]
    assert len(known) == 4 and math.isclose(metrics.mean_iou(counts), sum(known) / 4)


def test_iou_of_shapes_as_published() -> None:
    parts_of = {0: [0, 1, 2], 1: [3, 4], 2: [5, 6, 7]}
    part_class = torch.tensor([c for c, own in parts_of.items() for _ in own])
    parts = metrics.parts_of(part_class, 3)
    generator = torch.Generator().manual_seed(0)
    label = torch.tensor([0, 1, 0, 2, 1, 1, 0])
    logits = torch.randn(7, 25, 8, generator=generator)
    first = torch.tensor([0, 3, 5])[label][:, None]
    part = first + torch.randint(2, (7, 25), generator=generator)  # the third part of categories 0 and 2 is absent
    logits[0, :, 2] = -9.0  # and not answered in the first shape: counts as 1
    answer = metrics.restrict(logits, label, parts)

    expected = []
    for s in range(7):
        own, ious = parts_of[int(label[s])], []
        chosen = [max(own, key=lambda c: float(logits[s, n, c])) for n in range(25)]
        assert answer[s].tolist() == chosen
        for c in own:
            both = sum(x == c and y == c for x, y in zip(chosen, part[s].tolist()))
            some = sum(x == c or y == c for x, y in zip(chosen, part[s].tolist()))
            ious.append(both / some if some else 1.0)
        expected.append(sum(ious) / len(ious))
    found = metrics.shape_ious(answer, part, label, parts)
    torch.testing.assert_close(found, torch.tensor(expected).double())
    assert expected[0] > 1 / 3
    by_category = [[e for e, c in zip(expected, label.tolist()) if c == category] for category in range(3)]
    instance, mean = metrics.instance_and_class_iou(found, label)
    assert math.isclose(instance, sum(expected) / 7, rel_tol=1e-6)
    assert math.isclose(mean, sum(sum(own) / len(own) for own in by_category) / 3, rel_tol=1e-6)


def test_points_of_unknown_part_do_not_count() -> None:
    parts = metrics.parts_of(torch.zeros(2, dtype=torch.int64), 1)
    part, answer = torch.tensor([[0, 1, -1, -1]]), torch.tensor([[0, 1, 0, 1]])
    assert metrics.shape_ious(answer, part, torch.tensor([0]), parts).tolist() == [1.0]
