"""What a run leaves to read: run.json, metrics.jsonl, a progress bar, and trackers when asked."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pointmadi.training.distributed import average

Row = dict[str, Any]


class Tracker(Protocol):
    """What shows the rows of a run somewhere else."""

    def write(self, row: Row) -> None:
        """Take one row of metrics."""

    def close(self) -> None:
        """Finish; no row follows."""


class Meter:
    """Average the losses of many steps and of all processes, waiting for the device only when asked."""

    def __init__(self) -> None:
        self.pending: list[dict[str, Tensor]] = []
        self.samples, self.all_samples = 0, 0
        self.sums: dict[str, float] = {}
        self.steps, self.fault = 0, ""
        self.began = self.since = time.perf_counter()

    def add(self, losses: dict[str, Tensor], samples: int) -> None:
        """Take the losses (scalars on the device) of one step on `samples` samples."""
        self.pending.append(losses)
        self.samples += samples

    def flush(self, step: int) -> dict[str, float]:
        """Return the means over all processes and the speed since the last flush, `step` being the last step done.

        If a loss was not finite, `fault` says which, and at which step.
        """
        names = list(self.pending[0])
        table = average(torch.stack([torch.stack(list(losses.values())) for losses in self.pending])).cpu()
        now = time.perf_counter()
        for row, column in (~table.isfinite()).nonzero()[:1].tolist():
            self.fault = (
                f"loss {names[column]!r} became {float(table[row, column])} at step {step - len(table) + 1 + row}"
            )
        means = dict(zip(names, table.double().mean(0).tolist()))
        for name, value in means.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * len(table)
        self.steps += len(table)
        self.all_samples += self.samples
        means["samples_per_second"] = self.samples / (now - self.since)
        self.pending, self.samples, self.since = [], 0, now
        return means

    def whole(self) -> dict[str, float]:
        """Return the means, the speed and the time since the beginning; flush before."""
        seconds = self.since - self.began
        means = {name: value / self.steps for name, value in self.sums.items()}
        return {**means, "samples_per_second": self.all_samples / seconds, "seconds": seconds}


class RunLog:
    """Write rows to metrics.jsonl, to the trackers asked for, and to the terminal.

    A row has "kind" ("step" or "epoch"), "epoch", "step" (optimiser steps done), "lr", the losses, and what else is
    known; an epoch's row holds the means over that epoch.

    Args:
        run_dir: folder of the run.
        steps: length of the whole run, for the progress bar.
        start: optimiser steps already done; rows beyond it, left by an interrupted run, are dropped.
        track: names of the trackers, "tensorboard" or "wandb".
        active: False in processes that do not write.
    """

    def __init__(
        self, run_dir: str | Path, steps: int, start: int = 0, track: tuple[str, ...] = (), active: bool = True
    ) -> None:
        self.active = active
        if not active:
            return
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.trackers: list[Tracker] = [_tracker(name, run_dir, start) for name in track]
        path = run_dir / "metrics.jsonl"
        _keep_until(path, start)
        self.file = path.open("a", encoding="utf-8")
        self.screen = _Bar(steps, start) if sys.stderr.isatty() else _Lines()

    def advance(self, step: int) -> None:
        """Show that `step` optimiser steps are done."""
        if self.active:
            self.screen.advance(step)

    def write(self, row: Row) -> None:
        """Log one row."""
        if not self.active:
            return
        self.file.write(json.dumps(row, default=float) + "\n")
        self.file.flush()
        for tracker in self.trackers:
            tracker.write(row)
        self.screen.write(row)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: object) -> None:
        if self.active:
            self.screen.close()
            self.file.close()
            for tracker in self.trackers:
                tracker.close()


def read_metrics(run_dir: str | Path) -> list[Row]:
    """Read the rows of a run; a last line cut by a kill is left out."""
    path = Path(run_dir) / "metrics.jsonl"
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    del rest  # "" after a whole last line, else the part of a line that was cut
    return [json.loads(line) for line in lines]


def describe_run(
    run_dir: str | Path, *, seed: int, device: str | torch.device, data: Mapping[str, Any] | None = None
) -> Row:
    """Write run.json: versions, git revision, machine, seed, command line and data; a resumed run adds to "resumed".

    Args:
        run_dir: folder of the run; made if missing.
        seed: seed of the run.
        device: what it runs on.
        data: what identifies the data, such as {"modelnet10": fingerprint}.
    """
    device = torch.device(device)
    row: Row = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": sys.argv,
        "seed": seed,
        "data": dict(data or {}),
        "versions": {"python": platform.python_version(), **_versions("pointmadi", "torch", "numpy", "safetensors")},
        "git": _git_revision(Path(__file__).parent),
        "device": device.type,
        "machine": machine_name(device),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }
    path = Path(run_dir) / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        first = json.loads(path.read_text(encoding="utf-8"))
        row = {**first, "resumed": [*first.get("resumed", []), row]}
    _replace(path, json.dumps(row, indent=2) + "\n")
    return row


def machine_name(device: str | torch.device) -> str:
    """Name the chip that computes, such as "NVIDIA H200" or "AMD EPYC 9R14, 2 cores"."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git_revision(folder: Path) -> str | None:
    """Return the revision of the source tree, "-dirty" if it was changed; None outside a repository."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", ".")  # an installed copy may lie inside somebody else's repository
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _replace(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, never a part."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def _keep_until(path: Path, step: int) -> None:
    """Drop the rows of metrics.jsonl beyond `step`."""
    if path.exists():
        rows = [row for row in read_metrics(path.parent) if row["step"] <= step]
        _replace(path, "".join(json.dumps(row) + "\n" for row in rows))


def _numbers(row: Row) -> dict[str, float]:
    """Return what can be plotted of a row, an epoch's means under their own names."""
    prefix = "epoch/" if row["kind"] == "epoch" else "step/"
    plain = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "step"}
    return {prefix + name: value for name, value in plain.items()}


class _TensorBoard:
    def __init__(self, run_dir: Path, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("track: tensorboard needs a package; run: pip install tensorboard") from None
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, row: Row) -> None:
        for name, value in _numbers(row).items():
            self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, run_dir: Path, start: int) -> None:
        try:
            import wandb
        except ImportError:
            raise ValueError("track: wandb needs a package; run: pip install wandb") from None
        named = run_dir / "wandb-id"
        if not (start and named.exists()):
            named.write_text(wandb.util.generate_id(), encoding="utf-8")
        identity = named.read_text(encoding="utf-8")
        self.run = wandb.init(project="pointmadi", name=run_dir.name, dir=str(run_dir), id=identity, resume="allow")

    def write(self, row: Row) -> None:
        self.run.log(_numbers(row), step=row["step"])

    def close(self) -> None:
        self.run.finish()


def _tracker(name: str, run_dir: Path, start: int) -> Tracker:
    match name:
        case "tensorboard":
            return _TensorBoard(run_dir, start)
        case "wandb":
            return _Wandb(run_dir, start)
    raise ValueError(f"unknown tracker {name!r}; track takes tensorboard and wandb")


class _Lines:
    """One plain line an epoch."""

    def advance(self, step: int) -> None:
        """Show nothing between the epochs."""

    def write(self, row: Row) -> None:
        if row["kind"] == "epoch":
            numbers = [f"{name} {value:.6g}" for name, value in row.items() if isinstance(value, (int, float))]
            print("  ".join(numbers), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave nothing open."""


class _Bar:
    """A progress bar with loss, learning rate, speed and the time left."""

    def __init__(self, steps: int, start: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        text = TextColumn("{task.description}")
        columns = (text, BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.bar.start()
        self.task = self.bar.add_task("starting", total=steps, completed=start)

    def advance(self, step: int) -> None:
        self.bar.update(self.task, completed=step)

    def write(self, row: Row) -> None:
        speed = f"{row['samples_per_second']:.0f} samples/s"
        text = f"epoch {row['epoch']:.2f}  loss {row['total']:.4f}  lr {row['lr']:.1e}  {speed}"
        self.bar.update(self.task, description=text)

    def close(self) -> None:
        self.bar.stop()
