"""Measure what encoders are worth: their frozen features beside the floors, in one table."""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console

from pointmadi.commands._runtime import progress_bar
from pointmadi.data.clouds import Clouds, write_atomically
from pointmadi.data.formats import Reading, Up
from pointmadi.data.shards import Shards
from pointmadi.data.sources import is_folder, open_source
from pointmadi.models.encoder import PointEncoder
from pointmadi.tasks.comparison import Labelled, Report, Row, Settings, compare, fixed, floors
from pointmadi.tasks.probing import TEST, hash_split
from pointmadi.training.logging import machine_name

NONE = "none"  # in the place of a run: the hand-made floors alone
SEED = "{seed}"  # in the name of a run: the run of each seed


@dataclass(frozen=True)
class Config:
    """Say what encoders are worth: linear SVM, logistic regression and k-NN on frozen features, beside the floors.

    Attributes:
        runs: run folders, encoder.safetensors or checkpoints; 'none' for the hand-made floors alone. `runs/x-{seed}`
            is one row over several training runs: runs/x-0 is probed with seed 0, runs/x-1 with seed 1 …
        data: labelled sets: packed ones, folders whose sub-folders are classes, published sets, or `objects`.
        seeds: each chooses points, validation shapes and untrained weights; results are means over them.
        num_points: points of each shape.
        batch_size: shapes at a time.
        trees: train extra-trees on the features of every row, not only on the strongest hand-made ones.
        floors: also probe hand-made features and untrained encoders of the same architecture.
        features: channels of the sets that the encoders need beside xyz, such as normals, rgb, intensity.
        up: the axis that points up in files; shapes are turned so that it is y.
        scale: what coordinates in files are multiplied by.
        skip_bad: leave unreadable files of folders out, with a list of them, instead of stopping.
        device: auto, cpu, cuda or mps.
        to: folder for probe.json and probe.md; by default the run folder, if there is one run.
    """

    runs: tuple[str, ...] = field(default=(NONE,), metadata={"positional": True})
    data: tuple[str, ...] = ("objects",)
    seeds: tuple[int, ...] = (0, 1, 2)
    num_points: int = 1024
    batch_size: int = 64
    trees: bool = False
    floors: bool = True
    features: tuple[str, ...] = ()
    up: Up = "y"
    scale: float = 1.0
    skip_bad: bool = False
    device: str = "auto"
    to: str = ""


def run(config: Config) -> None:
    """Load, probe, print the tables, and write them down."""
    from pointmadi.training.distributed import pick_device

    device = pick_device(config.device)
    settings = Settings(config.seeds, config.num_points, config.batch_size, config.trees)
    rows = rows_of(config.runs, config.floors, config.seeds)
    folder = folder_of(config)
    names = [Path(spec).stem for spec in config.data]
    named = names if len(set(names)) == len(names) else list(config.data)
    reading = Reading(config.num_points, config.features, config.up, config.scale)
    sets = {name: labelled(spec, reading, config.skip_bad) for name, spec in zip(named, config.data, strict=True)}
    console = Console()
    report = measure(rows, sets, settings, device)
    show(report, console)
    if folder is not None:
        console.print(
            "made " + " ".join(map(str, write(report, folder, machine_name(device)))), highlight=False, soft_wrap=True
        )


def rows_of(runs: Sequence[str], with_floors: bool = True, seeds: Sequence[int] = (0,)) -> list[Row]:
    """Return the rows of the table: floors first, then the encoder of each run, or of each seed of a run."""
    paths = [run for run in runs if run != NONE]
    encoders = [{seed: _load(path.replace(SEED, str(seed))) for seed in _seeds_of(path, seeds)} for path in paths]
    short = [path.parent.name if path.is_file() and path.parent.name else path.name for path in map(Path, paths)]
    names = short if len(set(short)) == len(short) else paths
    trained = [
        Row(name, own.__getitem__ if SEED in path else fixed(own[seeds[0]]))
        for name, path, own in zip(names, paths, encoders, strict=True)
    ]
    configs = [encoder.config for own in encoders for encoder in own.values()]
    rows = [*(floors(configs) if with_floors else []), *trained]
    if not rows:
        raise ValueError("nothing to probe: give a run, or leave the floors in")
    return rows


def _seeds_of(path: str, seeds: Sequence[int]) -> Sequence[int]:
    return seeds if SEED in path else seeds[:1]


def _load(path: str) -> PointEncoder:
    from pointmadi.interop import load

    return load(path)


def folder_of(config: Config) -> Path | None:
    """Return where the results go; None for nowhere."""
    runs = [Path(run) for run in config.runs if run != NONE]
    if config.to or len(runs) != 1:
        return Path(config.to) if config.to else None
    return runs[0] if runs[0].is_dir() else runs[0].parent


def labelled(spec: str, reading: Reading, skip_bad: bool = False) -> Labelled:
    """Read a set to probe on."""
    return Labelled(*open_split(spec, reading, skip_bad))


def open_split(spec: str, reading: Reading, skip_bad: bool = False) -> tuple[Clouds, Clouds, str]:
    """Read a labelled set: its training shapes, its test shapes, and how it is split (by a hash of names if at all)."""
    with progress_bar(f"reading {spec}") if is_folder(spec) else nullcontext() as progress:
        clouds = open_source(
            spec,
            reading.num_points,
            0,
            "all",
            features=reading.features,
            labels="folders",
            up=reading.up,
            scale=reading.scale,
            skip_bad=skip_bad,
            progress=progress,
        )
    clouds = clouds.load() if isinstance(clouds, Shards) else clouds
    if not isinstance(clouds, Clouds) or clouds.label is None or not bool((clouds.label >= 0).any()):
        raise ValueError(f"{spec} has no labels, so nothing can be learned from it; use `objects` or a labelled set")
    if bool((clouds.label < 0).any()):
        clouds = clouds.select(clouds.label >= 0)
    assert clouds.label is not None
    about = "its own split"
    if clouds.split is None:
        clouds = replace(clouds, split=hash_split(clouds.names, clouds.label).to(torch.uint8))
        about = f"no split of its own: {100 * TEST:.0f} % of each class held out by a hash of the names"
    return clouds.train(), clouds.test(), f"{about}; fingerprint {clouds.fingerprint()}"


def measure(
    rows: Sequence[Row], sets: dict[str, Labelled], settings: Settings, device: torch.device | str = "cpu"
) -> Report:
    """Probe each row on each set behind a progress bar."""
    results = []
    with progress_bar("probing") as progress:
        progress(0, len(rows) * len(sets))
        for result in compare(rows, sets, settings, device):
            results.append(result)
            progress(len(results), len(rows) * len(sets))
    return Report(results, sets, settings)


def show(report: Report, console: Console) -> None:
    """Print the tables."""
    for table in report.tables():
        console.print(table)


def write(report: Report, folder: Path, machine: str = "") -> list[Path]:
    """Write probe.json, with one score a seed, and probe.md, the tables; return their paths."""
    values = {"command": sys.argv, "machine": machine, **report.plain()}
    texts = {
        folder / "probe.json": json.dumps(values, indent=2, ensure_ascii=False) + "\n",
        folder / "probe.md": report.markdown(),
    }
    for path, text in texts.items():
        write_atomically(path, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    return list(texts)
