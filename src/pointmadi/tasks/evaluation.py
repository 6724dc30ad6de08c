"""Score fine-tuned models on shapes they have not seen: the same points every time, and every point counted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pointmadi.ops.neighbors import gather, interpolate
from pointmadi.ops.normalization import to_unit_sphere
from pointmadi.ops.sampling import farthest_points
from pointmadi.tasks import metrics
from pointmadi.tasks.probing import Shapes

Scores = dict[str, float]


class Parted(Shapes, Protocol):
    """Shapes whose points may have parts; `Clouds` is one."""

    @property
    def part(self) -> Tensor | None:
        """Part of each point (S, N)."""


@dataclass(frozen=True)
class Question:
    """A batch of shapes to be answered for.

    Attributes:
        rows: which shapes they are (B,).
        points: the points that the model sees (B, n, 3), in the unit sphere.
        features: their extra channels (B, n, F).
        whole: all points of the shapes (B, N, 3), moved and scaled like `points`.
        label: class of each shape (B,).
        part: part of all points (B, N).
    """

    rows: Tensor
    points: Tensor
    features: Tensor | None
    whole: Tensor
    label: Tensor | None
    part: Tensor | None


class Exam:
    """Shapes to be scored on: of each the same `num_points` points, farthest from each other, chosen once.

    Args:
        shapes: the shapes.
        num_points: points of each that the model sees, no more than it has.
        batch_size: shapes at a time.
        device: where the model is.
    """

    def __init__(
        self, shapes: Parted, num_points: int, batch_size: int = 32, device: torch.device | str = "cpu"
    ) -> None:
        if num_points > shapes.num_points:
            raise ValueError(f"cannot pick {num_points} of {shapes.num_points} points; lower num_points")
        self.shapes, self.num_points, self.batch_size, self.device = shapes, num_points, batch_size, device
        self.columns: Tensor | None = None
        if num_points < shapes.num_points:
            chosen = [farthest_points(shapes.xyz(rows).to(device), num_points).cpu() for rows in self._rows()]
            self.columns = torch.cat(chosen)

    def __iter__(self) -> Iterator[Question]:
        for rows in self._rows():
            everything = self.shapes.xyz(rows).to(self.device)
            features = self._of(self.shapes.features, rows)
            chosen = everything
            if self.columns is not None:
                columns = self.columns[rows].to(self.device)
                chosen = gather(everything, columns)
                features = None if features is None else gather(features, columns)
            whole = to_unit_sphere(everything, like=chosen)
            points = to_unit_sphere(chosen) if self.columns is not None else whole
            label, part = self._of(self.shapes.label, rows), self._of(self.shapes.part, rows)
            yield Question(rows, points, features, whole, label, None if part is None else part.long())

    def _rows(self) -> tuple[Tensor, ...]:
        return torch.arange(len(self.shapes)).split(self.batch_size)

    def _of(self, values: Tensor | None, rows: Tensor) -> Tensor | None:
        if values is None:
            return None
        rows = values[rows.to(values.device)].to(self.device)
        return rows.float() if rows.is_floating_point() else rows


@torch.no_grad()
def score_classes(predict: Callable[[Question], Tensor], exam: Exam, num_classes: int) -> Scores:
    """Score a classifier: overall accuracy, and the mean over classes.

    Args:
        predict: answers a question with logits (B, L).
        exam: labelled shapes.
        num_classes: L.
    """
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for question in exam:
        assert question.label is not None
        counts += metrics.confusion(predict(question).argmax(-1), question.label, num_classes).cpu()
    return {"accuracy": metrics.overall_accuracy(counts), "mean_class": metrics.mean_class_accuracy(counts)}


@torch.no_grad()
def score_parts(predict: Callable[[Question], Tensor], exam: Exam, part_class: Tensor, categories: int) -> Scores:
    """Score a segmenter of parts on all points of the shapes: instance and class mIoU as published, and accuracy.

    Points that the model has not seen take the logits of the three nearest ones that it has, by inverse distance.

    Args:
        predict: answers a question with logits (B, n, L) of the points seen.
        exam: shapes with labels and parts.
        part_class: category of each part (L,).
        categories: number of categories.
    """
    parts = metrics.parts_of(part_class, categories)
    ious, labels, right, total = [], [], 0, 0
    for question in exam:
        assert question.label is not None and question.part is not None
        logits = predict(question).float()
        if question.whole is not question.points:
            logits = interpolate(question.whole, question.points, logits)
        answer = metrics.restrict(logits, question.label, parts.to(logits.device))
        ious.append(metrics.shape_ious(answer, question.part, question.label, parts.to(logits.device)).cpu())
        labels.append(question.label.cpu())
        known = question.part >= 0
        right, total = right + int((answer == question.part)[known].sum()), total + int(known.sum())
    instance, category = metrics.instance_and_class_iou(torch.cat(ious), torch.cat(labels))
    return {"instance_iou": instance, "class_iou": category, "accuracy": right / total}


@torch.no_grad()
def in_eval_mode(model: nn.Module, score: Callable[[], Scores]) -> Scores:
    """Score a model in eval mode, and give it back in the mode it was in."""
    training = model.training
    model.eval()
    try:
        return score()
    finally:
        model.train(training)
