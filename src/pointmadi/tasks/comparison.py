"""Encoders and floors side by side: the probe of each on each set, as one table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.tasks.handmade import FLOORS
from pointmadi.tasks.probing import LINEAR_AND_NEIGHBORS, Score, Shapes, features_of, probe

if TYPE_CHECKING:
    from rich.table import Table

TITLES = {"svm": "linear SVM", "logistic": "logistic", "knn": "k-NN", "trees": "extra-trees"}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: how the table calls it.
        encoder: of a seed, a callable whose answer has `.pooled`; the same one for every seed unless weights are drawn.
        trees: whether to train extra-trees on its features too.
    """

    name: str
    encoder: Callable[[int], Any]
    trees: bool = False


@dataclass(frozen=True)
class Labelled:
    """A set to probe on.

    Attributes:
        train, test: its shapes.
        about: where it comes from and how it is split, for the caption of its table.
    """

    train: Shapes
    test: Shapes
    about: str = ""


@dataclass(frozen=True)
class Settings:
    """How rows are compared.

    Attributes:
        seeds: each chooses points, validation shapes and, for untrained encoders, the weights.
        num_points: points of each shape.
        batch_size: shapes at a time.
        trees: whether to train extra-trees for every row, not only where they are the point of it.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    num_points: int = 1024
    batch_size: int = 64
    trees: bool = False

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different whole numbers from 0, got {self.seeds}")
        if self.num_points < 1 or self.batch_size < 1:
            raise ValueError(f"num_points and batch_size start at 1, got {self.num_points} and {self.batch_size}")


@dataclass(frozen=True)
class Result:
    """The scores of one row on one set.

    Attributes:
        data: name of the set.
        row: name of the row.
        dim: length of the features.
        scores: classifier -> one score a seed.
    """

    data: str
    row: str
    dim: int
    scores: dict[str, list[Score]]

    def values(self, classifier: str, value: str = "accuracy") -> list[float]:
        """Return one number a seed; none if the classifier was not trained on this row."""
        return [getattr(score, value) for score in self.scores.get(classifier, [])]


def fixed(encoder: Any) -> Callable[[int], Any]:
    """Return an encoder whatever the seed: what a trained one is to `Row`."""
    return lambda seed: encoder


def untrained(config: EncoderConfig) -> Callable[[int], PointEncoder]:
    """Return a function of a seed that draws the weights of an encoder; the global random state stays as it is."""

    def draw(seed: int) -> PointEncoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return PointEncoder(config)

    return draw


def floors(configs: Iterable[EncoderConfig] = ()) -> list[Row]:
    """Return what an encoder has to beat: hand-made descriptions, and untrained encoders of these configs."""
    distinct = list(dict.fromkeys(configs))
    sizes = [f" {each.dim}x{each.depth}, {each.num_patches} patches, {each.positions}" for each in distinct]
    names = ["random weights" + (size if len(distinct) > 1 else "") for size in sizes]
    drawn = [Row(name, untrained(config)) for name, config in zip(names, distinct, strict=True)]
    return [*(Row(name, fixed(floor), "strong" in name) for name, floor in FLOORS.items()), *drawn]


def compare(
    rows: Sequence[Row], sets: Mapping[str, Labelled], settings: Settings, device: torch.device | str = "cpu"
) -> Iterator[Result]:
    """Probe each row on each set, and yield results as they come."""
    labels = {data: _labels(data, shapes, settings.num_points) for data, shapes in sets.items()}
    for data, shapes in sets.items():
        train_y, test_y = labels[data]
        for row in rows:
            chosen = (*LINEAR_AND_NEIGHBORS, *(["trees"] if row.trees or settings.trees else []))
            scores: dict[str, list[Score]] = {classifier: [] for classifier in chosen}
            dim = 0
            for seed in settings.seeds:
                encoder = row.encoder(seed)
                train_x, test_x = (
                    features_of(encoder, part, settings.num_points, settings.batch_size, device, seed)
                    for part in (shapes.train, shapes.test)
                )
                dim = train_x.shape[1]
                for classifier, score in probe(train_x, train_y, test_x, test_y, seed, chosen).items():
                    scores[classifier].append(score)
            yield Result(data, row.name, dim, scores)


def _labels(data: str, shapes: Labelled, num_points: int) -> tuple[Tensor, Tensor]:
    """Return the classes of the training and the test shapes, once it is clear that the set can be probed on."""
    if shapes.train.label is None or shapes.test.label is None:
        raise ValueError(f"{data} has no labels, so nothing can be probed on it")
    fewest = min(shapes.train.num_points, shapes.test.num_points)
    if num_points > fewest:
        raise ValueError(f"{data} has {fewest} points a shape, fewer than {num_points}; lower num_points")
    return shapes.train.label.cpu(), shapes.test.label.cpu()


def mean_std(values: Sequence[float]) -> str:
    """Write shares as "60.1 ± 0.4" percent, with the sample standard deviation; a dash for none."""
    if not values:
        return "–"
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


@dataclass(frozen=True)
class Report:
    """What a comparison found.

    Attributes:
        results: its results.
        sets: what they are on.
        settings: how they came about.
    """

    results: list[Result]
    sets: Mapping[str, Labelled]
    settings: Settings

    def caption(self, data: str) -> str:
        """Say in one line what the numbers of a set are."""
        shapes = self.sets[data]
        classes = len(torch.unique(shapes.train.label)) if shapes.train.label is not None else 0
        seeds = ", ".join(map(str, self.settings.seeds))
        return (
            f"Accuracy in % (mean ± std over seeds {seeds}); {len(shapes.train)} training and {len(shapes.test)} test "
            f"shapes of {classes} classes, {self.settings.num_points} points" + (shapes.about and f"; {shapes.about}")
        )

    def cells(self, data: str, value: str = "accuracy") -> list[list[str]]:
        """Return the table of a set, its head first: one line a row, of the classifiers that were trained."""
        mine = [result for result in self.results if result.data == data]
        used = [classifier for classifier in TITLES if any(classifier in result.scores for result in mine)]
        head = ["features", "length", *(TITLES[classifier] for classifier in used)]
        return [head] + [
            [result.row, str(result.dim), *(mean_std(result.values(classifier, value)) for classifier in used)]
            for result in mine
        ]

    def tables(self) -> "Iterator[Table]":
        """Yield a table for the terminal for each set."""
        from rich.table import Table

        for data in self.sets:
            head, *lines = self.cells(data)
            table = Table(title=data, caption=self.caption(data), title_justify="left", caption_justify="left")
            for column in head:
                table.add_column(
                    column, justify="left" if column == "features" else "right", no_wrap=column != "features"
                )
            for line in lines:
                table.add_row(*line)
            yield table

    def markdown(self) -> str:
        """Return all tables, overall and mean-class accuracy, as Markdown."""
        parts = []
        for data in self.sets:
            parts += [f"### {data}", f"{self.caption(data)}.", _grid(self.cells(data))]
            parts += ["Mean over classes of the accuracy in each:", _grid(self.cells(data, "mean_class"))]
        return "\n\n".join(parts) + "\n"

    def plain(self) -> dict[str, Any]:
        """Return everything, with one score a seed, as plain values for JSON."""
        about = {
            data: {"train": len(shapes.train), "test": len(shapes.test), "about": shapes.about}
            for data, shapes in self.sets.items()
        }
        return {
            "settings": asdict(self.settings),
            "sets": about,
            "results": [asdict(result) for result in self.results],
        }


def _grid(lines: list[list[str]]) -> str:
    head, *rest = lines
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rest))
