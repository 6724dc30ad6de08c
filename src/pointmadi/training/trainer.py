"""One training loop for every objective and task.

The trainer knows three things: `batches(epoch, step, draws)` gives a batch, `model(batch, draws)` gives a dict of
losses with "total", and every random number is a function of (seed, epoch, step). So it has nothing to remember but
weights, optimiser and the number of steps done, and a resumed run equals the uninterrupted one bit for bit.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from pointmadi.ops.random import Draws, seed_of
from pointmadi.training import checkpoint, distributed
from pointmadi.training.logging import Meter, Row, RunLog
from pointmadi.training.optim import OptimConfig, adamw, learning_rate

# What may change when a run is resumed; anything else would make it another run.
FREE = {"epochs", "max_steps", "compile", "device", "checkpoint_every", "keep", "milestones", "log_every", "track"}


class Source(Protocol):
    """A function (epoch, step, draws) -> batch, whose length is the number of steps an epoch."""

    def __len__(self) -> int: ...
    def __call__(self, epoch: int, step: int, draws: Draws, /) -> dict[str, Tensor]: ...  # noqa: D102


@dataclass(frozen=True)
class TrainerConfig(OptimConfig):
    """How long, how precisely and where to train; with the fields of the optimiser.

    Attributes:
        epochs: passes over the batches.
        max_steps: stop after this many optimiser steps; 0 means no limit. The schedule stays that of all `epochs`.
        accumulate: batches whose gradients make one optimiser step.
        clip_grad: largest norm of the gradient; 0 means no clipping.
        precision: "fp32", or autocast to "bf16" or "fp16" (with loss scaling).
        compile: compile the model with torch.compile.
        device: "auto", "cpu", "cuda" or "mps".
        seed: of every random number of the run.
        checkpoint_every: epochs between checkpoints; the end of the run is always one.
        keep: number of latest checkpoints to keep; 0 keeps all.
        milestones: epochs whose checkpoints are written and kept.
        log_every: optimiser steps between rows of metrics.jsonl.
        track: show the metrics in "tensorboard" or "wandb" as well.
    """

    epochs: int = 300
    max_steps: int = 0
    accumulate: int = 1
    clip_grad: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    device: str = "auto"
    seed: int = 0
    checkpoint_every: int = 1
    keep: int = 2
    milestones: tuple[int, ...] = ()
    log_every: int = 50
    track: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_steps", "clip_grad", "keep", "weight_decay", "cosine_epochs", "factor"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be a number above 0, got {self.lr}")


class Trainer:
    """Train `model` on `batches` and keep everything in `run_dir`.

    Args:
        model: maps (batch, draws) to a dict of scalar losses; "total" is what is minimised.
        batches: gives the batch of this process; `accumulate` consecutive ones make an optimiser step.
        config: how to train.
        run_dir: folder of the run; under several processes one that all of them see.
        after_epoch: called by every process with the number of epochs done; what it returns joins the epoch's row.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Source,
        config: TrainerConfig,
        run_dir: str | Path,
        after_epoch: Callable[[int], dict[str, float]] | None = None,
    ) -> None:
        self.config, self.batches, self.run_dir, self.after_epoch = config, batches, Path(run_dir), after_epoch
        self.process = distributed.join(config.device)
        self.epoch_steps = len(batches) // config.accumulate
        if self.epoch_steps == 0:
            raise ValueError(f"an epoch has {len(batches)} batches; lower accumulate, now {config.accumulate}")
        self.step, whole = 0, config.epochs * self.epoch_steps
        self.steps = min(whole, config.max_steps or whole)
        self._rate(0)  # complains now if the schedule is impossible
        self.model = model.to(self.process.device)
        self.optimizer = adamw(self.model, config)
        kind, precision = self.process.device.type, config.precision
        self.scaler = torch.amp.GradScaler(kind, enabled=precision == "fp16")
        half = torch.float16 if precision == "fp16" else torch.bfloat16
        self.autocast = torch.autocast(kind, half, enabled=precision != "fp32")
        self.milestones = {epoch * self.epoch_steps for epoch in config.milestones}
        if config.compile:
            self.model.compile()
        self.parallel = distributed.spread(self.model, self.process)

    def fit(self, resume: bool = False) -> Row:
        """Train to the end, or from the newest checkpoint on; return the row of the last epoch, {} if none was left."""
        checkpoint.claim(self.run_dir, resume)
        if resume:
            self._restore()
        distributed.wait()  # nobody writes before everybody has looked
        row: Row = {}
        with RunLog(self.run_dir, self.steps, self.step, self.config.track, self.process.main) as log:
            self._prune()
            while self.step < self.steps:
                row = self._epoch(log)
                log.write(row)
                self._save()
        return row

    def _epoch(self, log: RunLog) -> Row:
        """Train to the end of the epoch, or of the run, and return the row of the epoch."""
        epoch = self.step // self.epoch_steps
        end = min((epoch + 1) * self.epoch_steps, self.steps)
        meter = Meter()
        self.parallel.train()
        while self.step < end:
            meter.add(*self._update(epoch, self.step % self.epoch_steps))
            self.step += 1
            log.advance(self.step)
            if self.step == end or self.step % self.config.log_every == 0:
                means = meter.flush(self.step)
                if meter.fault:
                    raise checkpoint.stop(self.run_dir, meter.fault)
                log.write(self._row("step", means))
        row = self._row("epoch", meter.whole())
        return row | (self.after_epoch(epoch + 1) if self.after_epoch else {})

    def _update(self, epoch: int, step: int) -> tuple[dict[str, Tensor], int]:
        """Make one optimiser step; return its losses, still on the device, and the number of samples."""
        config, rank, world = self.config, self.process.rank, self.process.world
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step, group["factor"])
        self.optimizer.zero_grad()
        parts: list[dict[str, Tensor]] = []
        for micro in range(config.accumulate):
            draws = Draws(config.seed, epoch, step, micro, rank=rank, world=world, device=self.process.device)
            torch.manual_seed(seed_of(config.seed, epoch, step, micro, rank + 1))  # dropout, stochastic depth
            batch = self.batches(epoch, step * config.accumulate + micro, draws)
            whole = micro == config.accumulate - 1 or world == 1
            with nullcontext() if whole else self.parallel.no_sync():  # type: ignore[operator]
                with self.autocast:
                    losses = self.parallel(batch, draws)
                self.scaler.scale(losses["total"] / config.accumulate).backward()
            parts.append({name: loss.detach().float() for name, loss in losses.items()})
        if config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        samples = len(next(iter(batch.values()))) * config.accumulate * world
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}, samples

    def _rate(self, step: int, factor: float = 1.0) -> float:
        config = replace(self.config, lr=self.config.lr * factor)  # both ends of the schedule stay where they are
        return learning_rate(config, config.epochs, step, self.epoch_steps)

    def _row(self, kind: str, numbers: dict[str, float]) -> Row:
        """Describe the last steps: epochs and steps done, the rate they were trained at, and `numbers`."""
        epoch = self.step / self.epoch_steps
        return {"kind": kind, "epoch": epoch, "step": self.step, "lr": self._rate(self.step - 1), **numbers}

    def _save(self) -> None:
        """Write a checkpoint if one is due."""
        regular = self.step % (self.config.checkpoint_every * self.epoch_steps) == 0
        if self.process.main and (regular or self.step == self.steps or self.step in self.milestones):
            state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "step": self.step}
            checkpoint.save(self.run_dir, self.step, self.model, state, self._identity())
            self._prune()

    def _prune(self) -> None:
        """Remove the checkpoints that are no longer needed, and what interrupted saves have left."""
        if self.process.main:
            checkpoint.prune(self.run_dir, self.config.keep, self.milestones)

    def _restore(self) -> None:
        """Go back to the newest checkpoint, or stay at the start if the run had none yet."""
        if newest := checkpoint.newest(self.run_dir):
            state = checkpoint.load(newest, self.model, self._identity())
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step = state["step"]

    def _identity(self) -> Row:
        """Return what has to be the same when this run is resumed."""
        return {"batches an epoch": len(self.batches)} | {k: v for k, v in vars(self.config).items() if k not in FREE}
