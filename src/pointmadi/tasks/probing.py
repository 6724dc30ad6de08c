"""What frozen features are worth: simple classifiers on them, under one protocol (docs/protocol.md).

The test shapes are looked at once, when everything has been chosen without them.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pointmadi.ops.normalization import to_unit_sphere
from pointmadi.ops.random import Draws
from pointmadi.tasks.metrics import confusion, mean_class_accuracy, overall_accuracy

# What is tried for each classifier, the simplest model first: of equal choices the first is taken.
# Above C = 10 the SVM takes minutes on the features of untrained encoders, and gains less than a point.
CHOICES: dict[str, tuple[float, ...]] = {
    "svm": (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "logistic": (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
    "knn": (20, 10, 5, 3, 1),
    "trees": (500,),
}
LINEAR_AND_NEIGHBORS = ("svm", "logistic", "knn")
VALIDATION = 0.2  # share of the training shapes of each class that C and k are chosen on
TEST = 0.25  # share of the shapes of each class held out where a set comes without a split


class Shapes(Protocol):
    """What is asked of a set of shapes; `Clouds` is one."""

    @property
    def num_points(self) -> int:
        """Number of points of every shape."""

    @property
    def features(self) -> Tensor | None:
        """Extra channels (S, N, F)."""

    @property
    def label(self) -> Tensor | None:
        """Class of each shape (S,)."""

    def __len__(self) -> int: ...

    def xyz(self, index: Tensor | None = None) -> Tensor:
        """Return coordinates of the shapes at `index`: (B, N, 3)."""


@dataclass(frozen=True)
class Score:
    """What a classifier reached on the test shapes.

    Attributes:
        accuracy: share of right answers.
        mean_class: the mean over classes of that share.
        chosen: C of the SVM and the logistic regression, k of the neighbours, the number of trees.
    """

    accuracy: float
    mean_class: float
    chosen: float


@torch.no_grad()
def features_of(
    encoder: Callable[..., Any],
    clouds: Shapes,
    num_points: int = 1024,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Tensor:
    """Return the pooled features of every shape: (S, 2C) float32 on the CPU.

    `num_points` of the points of each shape are chosen, and put in order, by a permutation that depends on the seed
    alone; the shape is then centred and scaled to radius 1 again, as in pre-training.

    Args:
        encoder: a callable of points (B, N, 3), and of features if its config asks for them, with `.pooled` in its
            answer. A module is used in eval mode, on `device`.
        clouds: the shapes.
        num_points: points of each shape.
        batch_size: shapes at a time.
        device: where the encoder runs.
        seed: of the choice of points.
    """
    if num_points > clouds.num_points:
        raise ValueError(f"cannot pick {num_points} of {clouds.num_points} points; lower num_points")
    channels = getattr(getattr(encoder, "config", None), "features", 0)
    found = 0 if clouds.features is None else clouds.features.shape[2]
    if channels and channels != found:
        raise ValueError(f"the encoder needs {channels} features beside xyz, and the shapes have {found}; name them")
    columns = Draws(seed).permutation(clouds.num_points)[:num_points]
    pooled = []
    with _evaluated(encoder, device):
        for index in torch.arange(len(clouds)).split(batch_size):
            inputs = [to_unit_sphere(_pick(clouds.xyz(index), columns).to(device))]
            if channels and clouds.features is not None:
                rows = index.to(clouds.features.device)
                inputs.append(_pick(clouds.features[rows], columns).float().to(device))
            pooled.append(encoder(*inputs).pooled.float().cpu())
    return torch.cat(pooled)


def probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    seed: int = 0,
    classifiers: Sequence[str] = LINEAR_AND_NEIGHBORS,
) -> dict[str, Score]:
    """Train simple classifiers on features and test them: {classifier: score}.

    C or k is chosen on a validation split of the training set, stratified and fixed by the seed; the classifier is then
    trained on the whole training set. Features are standardised by the shapes the classifier is trained on.

    Args:
        train_x: features (S, F) of the training shapes.
        train_y: their classes (S,).
        test_x: features of the test shapes.
        test_y: their classes.
        seed: of the validation split and of the trees.
        classifiers: of "svm" (one against one, as scikit-learn's SVC), "logistic", "knn", "trees".
    """
    if not all(bool(features.isfinite().all()) for features in (train_x, test_x)):
        raise ValueError("some features are NaN or infinite; look at the training log of the encoder")
    if len(train_y.unique()) < 2:
        raise ValueError("a probe needs training shapes of at least 2 classes")
    held = validation_split(train_y, VALIDATION, seed)
    if not bool(held.any()):
        raise ValueError(f"{len(train_y)} training shapes, one a class, leave none to choose C and k on; give more")
    inner = _standardized(train_x[~held], train_x[held])
    outer = _standardized(train_x, test_x)
    num_classes = int(torch.cat([train_y, test_y]).max()) + 1
    scores = {}
    for classifier in classifiers:
        chosen = CHOICES[classifier][0]
        if len(CHOICES[classifier]) > 1:
            reached = {
                choice: (answer == train_y[held].numpy()).mean()
                for choice, answer in _answers(classifier, *inner, train_y[~held].numpy(), seed)
            }
            chosen = max(reached, key=lambda choice: reached[choice])
        ((_, answer),) = _answers(classifier, *outer, train_y.numpy(), seed, only=chosen)
        counts = confusion(torch.from_numpy(answer), test_y, num_classes)
        scores[classifier] = Score(overall_accuracy(counts), mean_class_accuracy(counts), chosen)
    return scores


def _answers(
    classifier: str, train_x: np.ndarray, test_x: np.ndarray, train_y: np.ndarray, seed: int, only: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Train a classifier by each of its choices, or only one, and yield (choice, its answers for test_x)."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    warm = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True)  # each C starts from the one before
    for choice in CHOICES[classifier] if only is None else (only,):
        model: Any
        match classifier:
            case "svm":  # the looser tolerance is up to 5 times faster and moves accuracies by 0.3 points at most
                model = SVC(C=choice, kernel="linear", tol=0.1, cache_size=500)
            case "logistic":
                model = warm.set_params(C=choice)
            case "knn":
                near = min(int(choice), len(train_x))
                model = KNeighborsClassifier(near, weights="distance", algorithm="brute")
            case _:
                model = ExtraTreesClassifier(int(choice), random_state=seed, n_jobs=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train_x, train_y)
        yield choice, model.predict(test_x)


def validation_split(label: Tensor, share: float, seed: int) -> Tensor:
    """Choose a share of each class by the seed, at least one shape of those with two or more: (S,) -> (S,) bool."""
    order = Draws(seed).permutation(len(label)).argsort()
    return _first_of_each(label, order.tolist(), share)


def hash_split(names: Sequence[str], label: Tensor, share: float = TEST) -> Tensor:
    """Choose a share of each class by a hash of the names, the same on every machine: (S,) bool, True = test."""
    seen: Counter[str] = Counter()
    order = []
    for name in names:
        seen[name] += 1  # tells apart shapes of one name
        order.append(hashlib.blake2b(f"{seen[name]} {name}".encode()).hexdigest())
    return _first_of_each(label, order, share)


def _first_of_each(label: Tensor, order: Sequence[Any], share: float) -> Tensor:
    chosen = torch.zeros(len(label), dtype=torch.bool)
    for which in label.unique().tolist():
        members = sorted((label == which).nonzero().flatten().tolist(), key=lambda i: order[i])
        count = max(round(share * len(members)), 1) if len(members) > 1 else 0
        chosen[members[:count]] = True
    return chosen


@contextmanager
def _evaluated(encoder: Any, device: torch.device | str) -> Iterator[None]:
    """Put a module on the device and in eval mode, and give it back in the mode it was in."""
    if not isinstance(encoder, nn.Module):
        yield
        return
    training = encoder.training
    encoder.to(device).eval()
    try:
        yield
    finally:
        encoder.train(training)


def _pick(values: Tensor, columns: Tensor) -> Tensor:
    return values.index_select(1, columns.to(values.device))


def _standardized(train: Tensor, test: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Bring features to mean 0 and standard deviation 1 over the training shapes; constant ones become 0."""
    center, scale = train.mean(0), train.std(0, correction=0)
    scale = torch.where(scale > 1e-6 * (1 + center.abs()), scale, torch.inf)
    return ((train - center) / scale).numpy(), ((test - center) / scale).numpy()
