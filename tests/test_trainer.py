"""The training loop on toy models: what it calls, what it logs, when it stops, how it resumes."""

import ast
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import pointmadi.training
from pointmadi.ops.random import Draws
from pointmadi.training import logging
from pointmadi.training.checkpoint import NonFinite, complete, newest
from pointmadi.training.logging import describe_run, read_metrics
from pointmadi.training.trainer import Trainer, TrainerConfig

CONFIG = TrainerConfig(epochs=3, schedule="step", warmup=1, lr=1e-2, device="cpu", log_every=4, keep=0)


class Toy(nn.Module):
    """Denoise points; BatchNorm, dropout and draws make every source of randomness and state count."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 3))

    def forward(self, batch, draws):
        points = batch["points"].flatten(0, 1)
        error = self.encoder(points + 0.1 * draws.normal(*batch["points"].shape).flatten(0, 1)) - points
        return {"total": error.square().mean(), "absolute": error.abs().mean()}


class Line(nn.Module):
    """One weight whose loss is replaced at some steps: `faults` maps steps, from 1, to functions of the weight."""

    def __init__(self, faults=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.faults, self.step = faults or {}, 0

    def forward(self, batch, draws):
        self.step += 1
        good = (self.weight * batch["points"].mean() - 1).square().sum()
        return {"good": good, "total": self.faults.get(self.step, lambda weight: good)(self.weight)}


class Points:
    """Batches of random points, a function of the draws."""

    def __init__(self, steps=10, size=8):
        self.steps, self.size, self.calls = steps, size, []

    def __len__(self):
        return self.steps

    def __call__(self, epoch, step, draws):
        self.calls.append((epoch, step))
        return {"points": draws.uniform(self.size, 4, 3)}


class Fixed(Points):
    """Batches of random points, a function of (epoch, step) alone."""

    def __call__(self, epoch, step, draws):
        self.calls.append((epoch, step))
        return {"points": Draws(epoch, step).uniform(self.size, 4, 3)}


def fit(run_dir, config=CONFIG, model=None, batches=None, after_epoch=None, resume=False):
    model = model or Toy()
    row = Trainer(model, batches or Points(), config, run_dir, after_epoch).fit(resume)
    return model, row


def assert_equal(first, second):
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_run_learns_and_logs(tmp_path):
    batches, epochs = Points(), []

    def after_epoch(epoch):
        epochs.append(epoch)
        return {"probe": torch.tensor(epoch / 2)}

    model, row = fit(tmp_path, batches=batches, after_epoch=after_epoch)
    rows = read_metrics(tmp_path)
    steps, ends = ([row for row in rows if row["kind"] == kind] for kind in ("step", "epoch"))
    assert epochs == [1, 2, 3]
    assert batches.calls == [(epoch, step) for epoch in range(3) for step in range(10)]
    assert [row["step"] for row in steps] == [4, 8, 10, 12, 16, 20, 24, 28, 30]
    assert [row["epoch"] for row in ends] == [1, 2, 3]
    assert [row["probe"] for row in ends] == [0.5, 1.0, 1.5]
    assert row["step"] == 30
    assert ends[-1]["total"] < 0.7 * ends[0]["total"]
    assert steps[2]["lr"] == pytest.approx(1e-2)  # the rate the weights were trained at
    assert ends[0]["total"] == pytest.approx(
        (4 * steps[0]["total"] + 4 * steps[1]["total"] + 2 * steps[2]["total"]) / 10
    )
    assert {"total", "absolute", "samples_per_second", "seconds"} <= ends[0].keys()
    assert model.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    first, _ = fit(tmp_path / "a")
    torch.manual_seed(5)  # the state of the global generator does not matter
    second, _ = fit(tmp_path / "b")
    other, _ = fit(tmp_path / "c", replace(CONFIG, seed=1))
    assert_equal(first, second)
    assert not torch.equal(first.encoder[0].weight, other.encoder[0].weight)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("steps", [20, 13])  # at the end of an epoch, and inside one
def test_a_resumed_run_is_bit_identical(tmp_path, precision, steps):
    config = replace(CONFIG, precision=precision, accumulate=2, clip_grad=1.0, epochs=6)
    whole, _ = fit(tmp_path / "whole", config)
    fit(tmp_path / "parts", replace(config, max_steps=steps))
    resumed, row = fit(tmp_path / "parts", config, resume=True)
    assert row["step"] == 30
    assert_equal(whole, resumed)
    ends = [
        [row["epoch"] for row in read_metrics(tmp_path / name) if row["kind"] == "epoch"] for name in ("whole", "parts")
    ]
    assert ends[0] == [1, 2, 3, 4, 5, 6]
    assert sorted(set(ends[1]) - {13 / 5}) == ends[0]
    assert len(ends[1]) == len(set(ends[1]))


def test_rows_beyond_the_checkpoint_are_dropped(tmp_path):
    config = replace(CONFIG, checkpoint_every=2, epochs=4)

    def interrupt(epoch):
        if epoch == 4:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, config, after_epoch=interrupt)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "ste')  # a line cut by a kill
    assert max(row["step"] for row in read_metrics(tmp_path)) == 40
    assert newest(tmp_path).name == "step-00000020"
    fit(tmp_path, config, resume=True)
    ends = [row["step"] for row in read_metrics(tmp_path) if row["kind"] == "epoch"]
    assert ends == [10, 20, 30, 40]


def test_resuming_a_finished_run_does_nothing(tmp_path):
    fit(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    _, row = fit(tmp_path, resume=True)
    assert row == {}
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_used_folder_is_refused(tmp_path):
    fit(tmp_path)
    with pytest.raises(ValueError, match="already holds a run; continue it with --resume"):
        fit(tmp_path)


def test_resuming_what_does_not_exist_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in"):
        fit(tmp_path / "none", resume=True)


def test_resuming_before_the_first_checkpoint_starts_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 4}\n')
    model, _ = fit(tmp_path, resume=True)
    fresh, _ = fit(tmp_path / "fresh")
    assert_equal(model, fresh)


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 1.0}, {"precision": "bf16"}])
def test_resuming_as_another_run_is_refused(tmp_path, change):
    fit(tmp_path, replace(CONFIG, max_steps=10))
    with pytest.raises(ValueError, match=f"made with {next(iter(change))}"):
        fit(tmp_path, replace(CONFIG, **change), resume=True)


def test_resuming_with_other_data_or_another_model_is_refused(tmp_path):
    fit(tmp_path, replace(CONFIG, max_steps=10))
    with pytest.raises(ValueError, match="made with batches an epoch 10, not 11"):
        fit(tmp_path, batches=Points(steps=11), resume=True)
    with pytest.raises(ValueError, match="holds another model"):
        fit(tmp_path, model=Line(), resume=True)


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    config = replace(CONFIG, epochs=2)

    class Joined(Fixed):
        def __call__(self, epoch, step, draws):
            return {
                "points": torch.cat(
                    [super(Joined, self).__call__(epoch, 2 * step + i, draws)["points"] for i in (0, 1)]
                )
            }

    class Linear(nn.Linear):
        def forward(self, batch, draws):
            return {"total": (super().forward(batch["points"]) - 1).square().mean()}

    models = []
    for name, accumulate, batches in (("parts", 2, Fixed(steps=10)), ("joined", 1, Joined(steps=5))):
        torch.manual_seed(0)
        models.append(fit(tmp_path / name, replace(config, accumulate=accumulate), Linear(3, 3), batches)[0])
    torch.testing.assert_close(models[0].weight, models[1].weight)
    rows = [read_metrics(tmp_path / name)[-1] for name in ("parts", "joined")]
    assert rows[0]["total"] == pytest.approx(rows[1]["total"])
    assert rows[0]["step"] == rows[1]["step"] == 10


def test_the_gradient_is_clipped(tmp_path):
    model, _ = fit(tmp_path, replace(CONFIG, max_steps=1, clip_grad=1e-3))
    norm = torch.stack([weight.grad.norm() for weight in model.parameters()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    model = Line({17: lambda weight: weight.sum() * float("nan")})
    with pytest.raises(
        NonFinite, match=r"loss 'total' became nan at step 17; the last good checkpoint is .*step-00000010; "
    ):
        fit(tmp_path, model=model)
    assert [path.name for path in complete(tmp_path)] == ["step-00000010"]
    assert all(row["step"] <= 16 for row in read_metrics(tmp_path))
    resumed, row = fit(tmp_path, model=Line(), resume=True)
    assert row["step"] == 30
    assert resumed.weight.isfinite()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    # The loss of the last step before the checkpoint is 0, its gradient NaN.
    model = Line({10: lambda weight: (weight * 0).sqrt().sum()})
    with pytest.raises(NonFinite, match="the weights became infinite or NaN by step 10; there is no checkpoint yet"):
        fit(tmp_path, model=model)
    assert complete(tmp_path) == []


def test_fp16_skips_a_step_whose_gradient_overflows(tmp_path):
    model = Line({3: lambda weight: (weight * 1e38).sum() * 0 + (weight * 1e35).sum()})
    trainer = Trainer(model, Points(), replace(CONFIG, precision="fp16", epochs=2), tmp_path)
    scale = trainer.scaler.get_scale()
    trainer.fit()
    assert model.weight.isfinite()
    assert trainer.scaler.get_scale() < scale


def test_checkpoints_are_kept_as_asked(tmp_path):
    fit(tmp_path, replace(CONFIG, epochs=7, checkpoint_every=2, keep=2, milestones=(3,)))
    assert [path.name for path in complete(tmp_path)] == ["step-00000030", "step-00000060", "step-00000070"]


def test_impossible_settings_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="log_every must be at least 1, got 0"):
        replace(CONFIG, log_every=0)
    for name in ("max_steps", "clip_grad", "keep", "weight_decay"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
            replace(CONFIG, **{name: -1})
    for lr in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="lr must be a number above 0"):
            replace(CONFIG, lr=lr)
    with pytest.raises(ValueError, match="an epoch has 10 batches; lower accumulate, now 11"):
        Trainer(Toy(), Points(), replace(CONFIG, accumulate=11), tmp_path)
    with pytest.raises(ValueError, match="warm-up"):
        Trainer(Toy(), Points(), replace(CONFIG, warmup=3), tmp_path)
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        Trainer(Toy(), Points(), replace(CONFIG, device="gpu"), tmp_path)
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'"):
        fit(tmp_path, replace(CONFIG, track=("tensorbord",)))


def test_a_compiled_model_learns_the_same(tmp_path, monkeypatch):
    compiled = []
    compile_in_place = nn.Module.compile

    def compile_quickly(module):  # tracing is tested; generating code takes half a minute
        compiled.append(module)
        compile_in_place(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    config = replace(CONFIG, max_steps=5)
    plain, _ = fit(tmp_path / "plain", config)
    traced, _ = fit(tmp_path / "compiled", replace(config, compile=True))
    assert compiled == [traced]
    assert_equal(plain, traced)


def test_tensorboard_shows_the_rows(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, replace(CONFIG, track=("tensorboard",)))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("epoch/total")] == [10, 20, 30]
    assert len(events.Scalars("step/lr")) == 9


def test_a_tracker_that_is_not_installed_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="run: pip install wandb"):
        fit(tmp_path, replace(CONFIG, track=("wandb",)))


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, row, step):
            calls.append((step, sorted(row)))

        def finish(self):
            calls.append("finish")

    class Wandb:
        class util:
            generate_id = staticmethod(lambda: "abc")

        @staticmethod
        def init(**kwargs):
            calls.append((kwargs["id"], kwargs["resume"]))
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    fit(tmp_path, replace(CONFIG, track=("wandb",), max_steps=10))
    Wandb.util.generate_id = staticmethod(lambda: "xyz")
    fit(tmp_path, replace(CONFIG, track=("wandb",)), resume=True)
    assert [call for call in calls if call[0] == "abc"] == [("abc", "allow")] * 2
    assert calls.count("finish") == 2
    assert (
        20,
        ["epoch/absolute", "epoch/epoch", "epoch/lr", "epoch/samples_per_second", "epoch/seconds", "epoch/total"],
    ) in calls


def test_one_plain_line_an_epoch_where_there_is_no_terminal(tmp_path, capfd):
    fit(tmp_path)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1  step 10  lr 0.01  total ")


def test_a_progress_bar_on_a_terminal(tmp_path, monkeypatch):
    pytest.importorskip("rich")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with logging.RunLog(tmp_path, steps=10) as log:
            log.advance(5)
            log.write(
                {"kind": "step", "epoch": 0.5, "step": 5, "lr": 1e-3, "total": 0.25, "samples_per_second": 1234.0}
            )
    parts = []
    with suppress(OSError):  # Linux says so at the end of a terminal
        while part := os.read(reader, 100_000):
            parts.append(part)
    os.close(reader)
    shown = b"".join(parts).decode()
    assert "loss 0.2500" in shown
    assert "1234 samples/s" in shown
    assert "lr 1.0e-03" in shown


def test_describe_run(tmp_path):
    describe_run(tmp_path, seed=3, device="cpu", data={"shapes": "1f2e"})
    describe_run(tmp_path, seed=3, device="cpu")
    row = json.loads((tmp_path / "run.json").read_text())
    assert row["seed"] == 3
    assert row["data"] == {"shapes": "1f2e"}
    assert row["versions"]["torch"] == torch.__version__
    assert row["device"] == "cpu"
    assert row["command"] == sys.argv
    assert len(row["resumed"]) == 1


def test_git_revision_is_that_of_the_package_only(tmp_path):
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "installed").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "code.py").write_text("1")
    subprocess.run([*git, "add", "source"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    assert len(logging._git_revision(tmp_path / "source")) == 40
    assert logging._git_revision(tmp_path / "installed") is None
    (tmp_path / "source" / "code.py").write_text("2")
    assert logging._git_revision(tmp_path / "source").endswith("-dirty")


def test_the_room_imports_torch_and_numpy_only():
    allowed = {*sys.stdlib_module_names, "torch", "numpy", "pointmadi"}
    for path in Path(pointmadi.training.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path
