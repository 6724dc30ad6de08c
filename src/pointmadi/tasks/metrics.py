"""What share of the answers is right, for shapes and for points, from one confusion matrix."""

import torch
from torch import Tensor


def confusion(predicted: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count answers: two tensors of classes of one shape -> (L, L) int64, rows the truth, columns the answer.

    Answers whose truth is negative (unknown) do not count. Matrices of parts of a set may be added.
    """
    if predicted.shape != label.shape:
        raise ValueError(f"{tuple(predicted.shape)} answers for {tuple(label.shape)} labels")
    known = label >= 0
    cells = label[known] * num_classes + predicted[known]
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def overall_accuracy(counts: Tensor) -> float:
    """Return the share of right answers of a confusion matrix (L, L)."""
    return float(counts.diagonal().sum() / counts.sum())


def mean_class_accuracy(counts: Tensor) -> float:
    """Return the mean over classes of the share of right answers; classes without an example do not count."""
    truth = counts.sum(1)
    return float((counts.diagonal() / truth)[truth > 0].double().mean())


def class_ious(counts: Tensor) -> Tensor:
    """Divide intersection by union for each class: (L, L) -> (L,) float64, NaN where nothing is or was taken for it."""
    hits = counts.diagonal()
    return hits.double() / (counts.sum(0) + counts.sum(1) - hits)


def mean_iou(counts: Tensor) -> float:
    """Return the mean over classes of intersection by union; classes that nothing is or was taken for do not count.

    The releases count them as zero, which is the same wherever every class occurs, as in S3DIS.
    """
    return float(class_ious(counts).nanmean())


def parts_of(part_class: Tensor, num_categories: int) -> Tensor:
    """Tell which parts shapes of each category have: category of each part (L,) -> (categories, L) bool."""
    return torch.arange(num_categories, device=part_class.device)[:, None] == part_class


def restrict(logits: Tensor, label: Tensor, parts: Tensor) -> Tensor:
    """Answer with the best part among those of the shape's category, as published.

    Args:
        logits: (B, N, L).
        label: category of each shape (B,).
        parts: which parts each category has (categories, L) bool.

    Returns:
        The part of each point (B, N).
    """
    return logits.masked_fill(~parts[label][:, None], -torch.inf).argmax(-1)


def shape_ious(predicted: Tensor, part: Tensor, label: Tensor, parts: Tensor) -> Tensor:
    """Return the mean over the parts of its category of intersection by union, for each shape, as published.

    A part that neither the truth nor the answer has counts as 1. Points whose truth is negative do not count.

    Args:
        predicted: answers (B, N).
        part: truth (B, N).
        label: category of each shape (B,).
        parts: which parts each category has (categories, L) bool.

    Returns:
        (B,) float64.
    """
    batch, width = len(part), parts.shape[1]
    known = part >= 0
    row = width * torch.arange(batch, device=part.device)[:, None]

    def count(classes: Tensor, chosen: Tensor) -> Tensor:
        return torch.bincount((row + classes)[chosen], minlength=batch * width).view(batch, width)

    hits = count(part, known & (predicted == part))
    union = count(part, known) + count(predicted, known) - hits
    iou = torch.where(union > 0, hits / union.clamp_min(1).double(), 1.0)
    mine = parts[label]
    return (iou * mine).sum(1) / mine.sum(1)


def instance_and_class_iou(ious: Tensor, label: Tensor) -> tuple[float, float]:
    """Return the mean over shapes, and the mean over categories of their means: (S,), (S,) -> two numbers."""
    means = torch.stack([ious[label == category].mean() for category in label.unique()])
    return float(ious.mean()), float(means.mean())
