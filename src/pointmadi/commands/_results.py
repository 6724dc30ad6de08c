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
COUNTS = ("epoch",)  # scores that are no shares
COLUMNS = ("task", "data", "checkpoint", "labels", "recipe", "selection", "runs")


@dataclass(frozen=True)
class Result:
    """What one recipe reached on one set.

    Attributes:
        task: what was to be done.
        data: the set.
        about: its split and fingerprint.
        checkpoint: what was started from; `none` for new weights.
        config: everything it was done with.
        machine: what it was done on.
        scores: shares from 0 to 1 of each seed or fold, and the epoch that was chosen.
    """

    task: str
    data: str
    about: str
    checkpoint: str
    config: Mapping[str, Any]
    machine: str
    scores: Mapping[str, Mapping[str, float]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(dict.fromkeys(name for own in self.scores.values() for name in own if name not in COUNTS))

    def of(self, metric: str) -> list[float]:
        """Return one score of all seeds or folds."""
        return [own[metric] for own in self.scores.values() if metric in own]

    def said(self, metric: str, best: bool = False) -> str:
        """Say what was reached in per cent: mean ± sample standard deviation; the best one is named as what it is."""
        values = [100 * value for value in self.of(metric)]
        text = f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f} (1)"
        return f"{text}; best on test {max(values):.1f}" if best else text

    @property
    def cells(self) -> dict[str, str]:
        """What a row of a table says beside the scores."""
        config = self.config
        augment = " ".join(f"{name} {value}" for name, value in _short(config["augment"]).items()) or "no augmentation"
        head = config["classifier"]
        recipe = f"{config['train']['epochs']} epochs, {config['num_points']} points, {augment}"
        if self.task != "parts":
            recipe += f", {head['pooling']}, head {head['head']}"
        return {
            "task": self.task,
            "data": Path(self.data).stem,
            "checkpoint": self.checkpoint,
            "labels": f"{100 * config['labels']:g} %",
            "recipe": recipe,
            "selection": f"epoch by {config['select']}",
            "runs": str(len(self.scores)),
        }


def write(results: Sequence[Result], folder: Path) -> Path:
    """Write results.json, with every seed of every result, and return its path."""
    text = json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / RESULTS, lambda file: file.write(text.encode()))
    return folder / RESULTS


def read(folder: Path) -> list[Result]:
    """Read what `write` wrote."""
    path = folder / RESULTS
    try:
        return [Result(**values) for values in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no results of ours: {error}") from None


def table(results: Sequence[Result], best: bool = False) -> tuple[list[str], list[list[str]]]:
    """Arrange results as a header and rows."""
    metrics = tuple(dict.fromkeys(name for result in results for name in result.metrics))
    rows = [
        [*result.cells.values(), *(result.said(m, best) if result.of(m) else "–" for m in metrics)]
        for result in results
    ]
    return [*COLUMNS, *metrics], rows


def show(results: Sequence[Result], console: Console, best: bool = False) -> None:
    """Print results in per cent, mean ± sample standard deviation; what all have in common stands below the table."""
    header, rows = table(results, best)
    common = [name for name, cells in zip(COLUMNS, zip(*rows, strict=True)) if len(set(cells)) == 1]
    lines = [f"{name}: {rows[0][header.index(name)]}" for name in common]
    about = dict.fromkeys(f"{result.data}: {result.about}" for result in results)
    shown = Table(title="%, mean ± sample standard deviation", title_justify="left")
    kept = [at for at, name in enumerate(header) if name not in common]
    for at in kept:
        shown.add_column(header[at].replace("_", " "), overflow="fold")
    for row in rows:
        shown.add_row(*(row[at] for at in kept))
    console.print(shown, *lines, *about, sep="\n", highlight=False, soft_wrap=True)


def markdown(results: Sequence[Result], best: bool = False) -> str:
    """Write results as a Markdown table."""
    header, rows = table(results, best)
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(results: Sequence[Result]) -> str:
    """Write one line for each seed or fold of each result."""
    metrics = tuple(dict.fromkeys(name for result in results for name in (*result.metrics, *COUNTS)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS[:-1], "seed", *metrics, "about", "machine"])
    for result in results:
        for seed, own in result.scores.items():
            known = list(result.cells.values())[:-1]
            writer.writerow([*known, seed, *(own.get(m, "") for m in metrics), result.about, result.machine])
    return text.getvalue()


def _short(augment: Mapping[str, Any]) -> dict[str, str]:
    """Spell out what an augmentation does, and leave out what it does not do."""
    nothing = (None, 0, 0.0, "", "none", (0.0, 0.0), (1.0, 1.0))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in augment.items()}
    return {
        name: "…".join(f"{end:.3g}" for end in value) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
        if value not in nothing and name in ("scale", "translate", "flip", "rotate", "jitter", "drop")
    }
