"""Two gloo processes against one on the joint batch.

Run as a script, this file is one of the two processes.
"""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pointmadi.ops.random import Draws
from pointmadi.training import checkpoint, distributed
from pointmadi.training.distributed import JointBatchNorm
from pointmadi.training.logging import read_metrics
from pointmadi.training.trainer import Trainer, TrainerConfig

CONFIG = TrainerConfig(
    epochs=1, schedule="step", warmup=0.2, lr=1e-3, device="cpu", log_every=1, accumulate=2, clip_grad=1.0, max_steps=5
)
WORLD, BATCH = 2, 8


class Toy(nn.Module):
    """Denoise points through BatchNorm over rows and over channels, with draws of the batch and of the columns."""

    def __init__(self, broken=False):
        super().__init__()
        torch.manual_seed(0)
        # No bias before a BatchNorm: its gradient is zero but for rounding, which Adam would turn into whole steps.
        self.lift, self.norm, self.out = nn.Linear(3, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 3, bias=False)
        self.spread = nn.BatchNorm1d(3, momentum=0.3)
        self.broken = broken

    def forward(self, batch, draws):
        points = batch["points"][:, draws.permutation(6)]
        hidden = self.norm(self.lift((points + 0.1 * draws.normal(*points.shape)).flatten(0, 1)))
        rebuilt = self.spread(self.out(hidden.relu()).view_as(points).transpose(1, 2)).transpose(1, 2)
        total = (rebuilt - points).square().mean()
        if self.broken and draws.rank == 1:
            total = total * float("nan")
        return {"total": total, "absolute": (rebuilt - points).abs().mean()}


class Points:
    """Batches that differ a lot between their first and second half."""

    def __len__(self):
        return 20

    def __call__(self, epoch, step, draws):
        scale = draws.integers(100, BATCH // draws.world).view(-1, 1, 1) + 1
        return {"points": draws.uniform(BATCH // draws.world, 6, 3) * scale / 10 + scale}


def example(dtype=torch.float32):
    """The same input, output weights and module everywhere: (8, 5, 7), rows differ in mean and scale."""
    draws = Draws(4)
    x = draws.normal(BATCH, 5, 7) * torch.arange(1, BATCH + 1).view(-1, 1, 1) + 50
    norm = nn.BatchNorm1d(5, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(draws.normal(5))
        norm.bias.copy_(draws.normal(5))
    return x.to(dtype), draws.normal(BATCH, 5, 7).to(dtype), norm.to(dtype)


def normalize(module, x, factor):
    """Run one training step of the layer and return everything that it determines."""
    x = x.clone().requires_grad_()
    y = module(x)
    (y.square() * factor).sum().backward()
    return {"y": y.detach(), "x.grad": x.grad}, {name: value.grad for name, value in module.named_parameters()}


def run_process(home):
    """Be one of two processes: write what this one sees."""
    here = distributed.join("cpu")
    assert distributed.join("cpu") == here
    rows = slice(here.rank * BATCH // WORLD, (here.rank + 1) * BATCH // WORLD)
    for dtype in (torch.float32, torch.float64):
        x, factor, norm = example(dtype)
        distributed.join_batch_norms(norm)
        own, weights = normalize(norm, x[rows], factor[rows])
        found = {**own, **weights, "state": norm.state_dict(), "eval": norm.eval()(x[rows])}
        torch.save(found, home / f"norm-{dtype}-{here.rank}.pt")
    half = JointBatchNorm(5)(example(torch.bfloat16)[0][rows])
    assert half.dtype == torch.bfloat16
    assert abs(distributed.average(half.float().mean())) < 1e-3
    torch.save(distributed.average(torch.tensor([float(here.rank)])), home / f"average-{here.rank}.pt")
    trainer = Trainer(Toy(), Points(), CONFIG, home / "run", lambda epoch: {"rank": here.rank})
    trainer.fit()
    torch.save(trainer.model.state_dict(), home / f"model-{here.rank}.pt")
    distributed.wait()
    resumed = Trainer(Toy(), Points(), replace(CONFIG, max_steps=7), home / "run")
    resumed.fit(resume=True)
    torch.save(resumed.model.state_dict(), home / f"resumed-{here.rank}.pt")
    try:
        Trainer(Toy(broken=True), Points(), CONFIG, home / "broken").fit()
    except checkpoint.NonFinite as error:
        (home / f"error-{here.rank}").write_text(str(error))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder that two processes have written."""
    home = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(WORLD):
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-W", "error::FutureWarning", __file__, home]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages
    return home


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder and the trainer of one process on the joint batch."""
    home = tmp_path_factory.mktemp("one")
    trainer = Trainer(Toy(), Points(), CONFIG, home / "run")
    trainer.fit()
    return home, trainer


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_joint_batch_norm_equals_batch_norm_on_the_joint_batch(two, dtype, tolerance):
    x, factor, norm = example(dtype)
    whole, weights = normalize(norm, x, factor)
    parts = [torch.load(two / f"norm-{dtype}-{rank}.pt") for rank in range(WORLD)]
    close = {"rtol": tolerance, "atol": tolerance}
    for name, value in whole.items():
        scale = value.abs().max()
        torch.testing.assert_close(torch.cat([part[name] for part in parts]) / scale, value / scale, **close)
    for name, value in weights.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, **close)
    for part in parts:
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(part["state"][name], value, **close)
    torch.testing.assert_close(torch.cat([part["eval"] for part in parts]), norm.eval()(x), **close)


def test_two_processes_train_as_one_does_on_the_joint_batch(two, one):
    home, trainer = one
    ours, theirs = ([row for row in read_metrics(path / "run") if row["step"] <= 5] for path in (home, two))
    assert len(theirs) == 6
    for expected, row in zip(ours, theirs, strict=True):
        assert row["total"] == pytest.approx(expected["total"], rel=1e-5)
        assert row["absolute"] == pytest.approx(expected["absolute"], rel=1e-5)
        assert row["lr"] == expected["lr"]
    models = [torch.load(two / f"model-{rank}.pt") for rank in range(WORLD)]
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(models[0][name], models[1][name]), name
        torch.testing.assert_close(models[0][name], value, rtol=1e-5, atol=1e-6)


def test_only_the_first_process_writes(two):
    assert [row["rank"] for row in read_metrics(two / "run") if "rank" in row] == [0]
    assert {path.name for path in (two / "run").iterdir()} == {"checkpoints", "metrics.jsonl"}


def test_two_processes_resume_together(two, one):
    home, _ = one
    trainer = Trainer(Toy(), Points(), replace(CONFIG, max_steps=7), home / "run")
    trainer.fit(resume=True)
    models = [torch.load(two / f"resumed-{rank}.pt") for rank in range(WORLD)]
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(models[0][name], models[1][name]), name
        torch.testing.assert_close(models[0][name], value, rtol=1e-5, atol=1e-6)


def test_a_loss_that_breaks_in_one_process_stops_all(two):
    for rank in range(WORLD):
        assert "loss 'total' became nan at step 1" in (two / f"error-{rank}").read_text()


def test_average(two):
    assert [torch.load(two / f"average-{rank}.pt").item() for rank in range(WORLD)] == [0.5, 0.5]


def test_alone_a_joint_batch_norm_is_a_batch_norm():
    x, factor, norm = example()
    joint = example()[2]
    distributed.join_batch_norms(joint)
    assert type(joint) is JointBatchNorm
    first, second = normalize(norm, x, factor), normalize(joint, x, factor)
    assert torch.equal(first[0]["y"], second[0]["y"])
    assert joint.state_dict().keys() == norm.state_dict().keys()
    with pytest.raises(ValueError, match="expected"):
        joint(torch.zeros(3))


def test_alone_nothing_is_joined():
    model = Toy()
    here = distributed.join("cpu")
    assert (here.rank, here.world, here.main) == (0, 1, True)
    assert distributed.spread(model, here) is model
    assert type(model.norm) is nn.BatchNorm1d
    assert distributed.pick_device().type in ("cpu", "cuda", "mps")


if __name__ == "__main__":
    run_process(Path(sys.argv[1]))
