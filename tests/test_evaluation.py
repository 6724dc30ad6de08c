"""Scores of fine-tuned models against loops that anybody can read, and what the model is shown."""

import pytest
import torch

from pointmadi.data.clouds import Clouds
from pointmadi.ops.sampling import farthest_points
from pointmadi.tasks.evaluation import Exam, in_eval_mode, score_classes, score_parts

CLASSES = ("ball", "bar", "board")


def shapes(count=7, num_points=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 3
    # Each class has two parts of the six.
    part = 2 * label[:, None] + torch.randint(2, (count, num_points), generator=generator)
    return Clouds.pack(
        torch.randn(count, num_points, 3, generator=generator), label=label, classes=CLASSES, part=part,
        part_names=tuple("abcdef"), part_class=torch.tensor([0, 0, 1, 1, 2, 2]),
        features=torch.randn(count, num_points, 2, generator=generator), feature_names=("rough", "red"),
    )  # fmt: skip


def test_an_exam_shows_the_farthest_points_and_their_features():
    clouds = shapes()
    questions = list(Exam(clouds, 8, batch_size=3))
    assert [len(question.rows) for question in questions] == [3, 3, 1]
    again = next(iter(Exam(clouds, 8, batch_size=7)))
    assert torch.equal(torch.cat([question.points for question in questions]), again.points)  # however it is cut
    for question in questions:
        columns = farthest_points(clouds.xyz(question.rows), 8)
        for row, own in enumerate(question.rows.tolist()):
            chosen = clouds.xyz()[own][columns[row]]
            center = chosen.mean(0)
            radius = (chosen - center).norm(dim=1).max()
            torch.testing.assert_close(question.points[row], (chosen - center) / radius)
            torch.testing.assert_close(question.whole[row], (clouds.xyz()[own] - center) / radius)
            assert torch.equal(question.features[row], clouds.features[own][columns[row]].float())


def test_all_points_are_shown_where_all_are_asked_for():
    question = next(iter(Exam(shapes(), 20)))
    assert question.whole is question.points
    with pytest.raises(ValueError, match="cannot pick 21 of 20 points; lower num_points"):
        Exam(shapes(), 21)


def test_scores_of_classes():
    clouds = shapes(7)
    answers = torch.tensor([0, 1, 1, 0, 2, 2, 1])  # of 0 1 2 0 1 2 0: right are 0 1 3 5
    found = score_classes(lambda question: torch.eye(3)[answers[question.rows]], Exam(clouds, 8, batch_size=2), 3)
    assert found["accuracy"] == pytest.approx(4 / 7)
    assert found["mean_class"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)


@pytest.mark.parametrize("num_points", [20, 9])
def test_scores_of_parts_count_every_point(num_points):
    clouds = shapes(7)
    exam = Exam(clouds, num_points, batch_size=3)
    weights = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))

    def predict(question):
        return question.points @ weights

    found = score_parts(predict, exam, clouds.part_class, 3)

    ious, right = {0: [], 1: [], 2: []}, 0
    for question in exam:
        for row, own in enumerate(question.rows.tolist()):
            seen, logits = question.points[row], question.points[row] @ weights
            mine = [2 * int(clouds.label[own]), 2 * int(clouds.label[own]) + 1]
            answer = []
            for point in question.whole[row]:
                squared = (seen - point).square().sum(1)
                near = squared.argsort()[:3]
                share = 1 / (squared[near] + 1e-8)
                values = (share[:, None] * logits[near]).sum(0) / share.sum()
                answer.append(max(mine, key=lambda part, values=values: float(values[part])))
            truth = clouds.part[own].tolist()
            right += sum(a == b for a, b in zip(answer, truth, strict=True))
            each = []
            for part in mine:
                both = sum(a == part == b for a, b in zip(answer, truth, strict=True))
                either = sum(part in (a, b) for a, b in zip(answer, truth, strict=True))
                each.append(both / either if either else 1.0)
            ious[int(clouds.label[own])].append(sum(each) / 2)
    every = [value for own in ious.values() for value in own]
    assert found["instance_iou"] == pytest.approx(sum(every) / 7)
    assert found["class_iou"] == pytest.approx(sum(sum(own) / len(own) for own in ious.values()) / 3)
    assert found["accuracy"] == pytest.approx(right / 140)


def test_a_model_is_scored_in_eval_mode_and_given_back_as_it_was():
    model = torch.nn.Dropout()
    assert in_eval_mode(model, lambda: {"training": float(model.training)}) == {"training": 0.0}
    assert model.training
    with pytest.raises(ZeroDivisionError):
        in_eval_mode(model, lambda: {"never": 1 / 0})
    assert model.training
