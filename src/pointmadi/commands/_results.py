"""Results of downstream tasks as files and tables: every seed, mean ± std, and the best only when asked for."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from pointmadi.data.clouds import write_atomically

RESULTS = "results.json"
BESIDE = ("epoch", "voted_std", "voted_best")  # written to files, no columns of a table
EACH = "iou_"  # what scores of single classes begin with; no columns either
RECIPE = ("labels", "method", "epochs", "points", "augmentation", "selection")
COLUMNS = ("task", "data", "checkpoint", *RECIPE, "runs")
FACTS = ("machine", "about")  # last columns of files, last lines of what is printed


@dataclass(frozen=True)
class Result:
    """What one recipe reached on one set.

    Attributes:
        task: what was to be done.
        data: the set.
        about: its split and fingerprint.
        checkpoint: what was started from; `none` for new weights.
        recipe: what a row of a table says of the recipe: the values of `RECIPE`.
        machine: what it was done on.
        config: everything it was done with.
        scores: shares from 0 to 1 of each seed or fold, and the epoch that was chosen.
    """

    task: str
    data: str
    about: str
    checkpoint: str
    recipe: Mapping[str, str]
    machine: str
    config: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the scores."""
        names = dict.fromkeys(name for own in self.scores.values() for name in own)
        return tuple(name for name in names if name not in BESIDE and not name.startswith(EACH))

    def of(self, metric: str) -> list[float]:
        """Return one score of all seeds or folds."""
        return [own[metric] for own in self.scores.values() if metric in own]

    def said(self, metric: str, best: bool = False) -> str:
        """Say what was reached in per cent: mean ± sample standard deviation; the best one is named as what it is."""
        values = [100 * value for value in self.of(metric)]
        text = f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f} (1)"
        if metric == "voted":
            values = [100 * value for value in self.of("voted_best")]
            text += f", votes ± {100 * fmean(self.of('voted_std')):.1f}"
        return f"{text}; best, selected on the test set: {max(values):.1f}" if best else text

    @property
    def cells(self) -> dict[str, str]:
        """What a row of a table says beside the scores."""
        named = {"task": self.task, "data": short(self.data), "checkpoint": self.checkpoint}
        return named | dict(self.recipe) | {"runs": str(len(self.scores))}


def short(data: str) -> str:
    """Name a set without its folders: data/shapes.npz -> shapes, modelnet40:/data/m40 -> modelnet40:m40."""
    kind, colon, path = data.rpartition(":")
    return f"{kind}{colon}{Path(path).stem}"


def recipe_cells(
    method: str,
    selection: str,
    num_points: int,
    labels: float = 1.0,
    epochs: int | None = None,
    augment: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Say what a row of a table says of a recipe; what was not used is a dash.

    Args:
        method: what was trained, on which pooling.
        selection: how the epoch, C or k was chosen.
        num_points: points of a shape.
        labels: share of the training shapes.
        epochs: of training.
        augment: the augmentation, as a mapping.
    """
    changes = "–" if augment is None else " ".join(f"{k} {v}" for k, v in _short(augment).items()) or "none"
    length = "–" if epochs is None else str(epochs)
    return dict(zip(RECIPE, (f"{100 * labels:g} %", method, length, str(num_points), changes, selection), strict=True))


def write(results: Sequence[Result], folder: Path) -> Path:
    """Write results.json, with every seed of every result, and return its path."""
    text = json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False) + "\n"
    return write_text(folder / RESULTS, text)


def read(folder: Path) -> list[Result]:
    """Read what `write` wrote."""
    path = folder / RESULTS
    try:
        return [Result(**values) for values in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no results of ours: {error}") from None


def table(results: Sequence[Result], best: bool = False) -> tuple[list[str], list[list[str]]]:
    """Arrange results as a header and rows: what was done, what was reached, on what machine and which data."""
    metrics = tuple(dict.fromkeys(name for result in results for name in result.metrics))
    rows = [
        [
            *result.cells.values(),
            *(result.said(m, best) if result.of(m) else "–" for m in metrics),
            *(getattr(result, fact) for fact in FACTS),
        ]
        for result in results
    ]
    return [*COLUMNS, *metrics, *FACTS], rows


def show(results: Sequence[Result], console: Console, best: bool = False) -> None:
    """Print results in per cent, mean ± sample standard deviation; recipes and what all share stand below the table."""
    header, rows = table(results, best)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    shared = {name: columns[name][0] for name in COLUMNS if len(set(columns[name])) == 1}
    recipes = [
        ", ".join(f"{name} {result.cells[name]}" for name in RECIPE[1:] if name not in shared) for result in results
    ]
    letters = {recipe: chr(ord("a") + at) for at, recipe in enumerate(dict.fromkeys(recipes))}
    if len(letters) > 1:
        columns = {"recipe": tuple(letters[recipe] for recipe in recipes)} | columns
    left_out = (*shared, *FACTS, *RECIPE[1:])
    kept = {name: cells for name, cells in columns.items() if name not in left_out}
    shown = Table(title="%, mean ± sample standard deviation", title_justify="left")
    for name in kept:
        shown.add_column(name.replace("_", " "), overflow="fold")
    for row in zip(*kept.values(), strict=True):
        shown.add_row(*row)
    lines = [f"{letter}: {recipe}" for recipe, letter in letters.items() if recipe]
    lines += [f"{name}: {value}" for name, value in shared.items()]
    lines += [f"{name}: {value}" for name in FACTS for value in dict.fromkeys(columns[name])]
    console.print(shown, *lines, sep="\n", highlight=False, soft_wrap=True)


def markdown(results: Sequence[Result], best: bool = False) -> str:
    """Write results as a Markdown table."""
    header, rows = table(results, best)
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def as_csv(results: Sequence[Result]) -> str:
    """Write one line for each seed or fold of each result."""
    metrics = tuple(dict.fromkeys(name for result in results for own in result.scores.values() for name in own))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS[:-1], "seed", *metrics, *FACTS])
    for result in results:
        for seed, own in result.scores.items():
            done = list(result.cells.values())[:-1]
            facts = (getattr(result, fact) for fact in FACTS)
            writer.writerow([*done, seed, *(own.get(m, "") for m in metrics), *facts])
    return text.getvalue()


def write_text(path: Path, text: str) -> Path:
    """Write a text file so that a reader sees the old or the new one, never a part; return its path."""
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def _short(augment: Mapping[str, Any]) -> dict[str, str]:
    """Spell out what an augmentation does, and leave out what it does not do."""
    nothing = (None, 0, 0.0, "", "none", (0.0, 0.0), (1.0, 1.0))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in augment.items()}
    return {
        name: "…".join(f"{end:.3g}" for end in value) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
        if value not in nothing and name in ("scale", "translate", "flip", "rotate", "jitter", "drop")
    }
