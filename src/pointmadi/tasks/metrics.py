"""What share of the answers is right, from one confusion matrix."""

import torch
from torch import Tensor


def confusion(predicted: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count answers: two (S,) tensors of classes -> (L, L) int64, rows the truth, columns the answer."""
    if predicted.shape != label.shape:
        raise ValueError(f"{tuple(predicted.shape)} answers for {tuple(label.shape)} labels")
    cells = (label * num_classes + predicted).flatten()
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def overall_accuracy(counts: Tensor) -> float:
    """Return the share of right answers of a confusion matrix (L, L)."""
    return float(counts.diagonal().sum() / counts.sum())


def mean_class_accuracy(counts: Tensor) -> float:
    """Return the mean over classes of the share of right answers; classes without an example do not count."""
    truth = counts.sum(1)
    return float((counts.diagonal() / truth)[truth > 0].double().mean())
