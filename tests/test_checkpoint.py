"""Checkpoints under kills at every moment of a save, and the encoder file.

Run as a script, this file trains in child processes that are killed, which tests need a process without threads for.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pointmadi.training import checkpoint
from pointmadi.training.trainer import Trainer, TrainerConfig

CONFIG = TrainerConfig(epochs=3, schedule="step", warmup=1, lr=1e-2, device="cpu", milestones=(1,), keep=1)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))

    def forward(self, batch, draws):
        return {"total": (self.encoder(batch["points"]) - draws.normal(8, 3)).square().mean()}


class Points:
    def __len__(self):
        return 2

    def __call__(self, epoch, step, draws):
        return {"points": draws.uniform(8, 3)}


def train(run_dir, resume):
    Trainer(Toy(), Points(), CONFIG, run_dir).fit(resume)


def kill_at(moment):
    """Kill this process at the given moment: before and after whatever changes files, and halfway through a write."""
    passed = 0

    def tick():
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def between(function):
        def wrapped(*args, **kwargs):
            tick()
            result = function(*args, **kwargs)
            tick()
            return result

        return wrapped

    def write(path, content):
        half = len(content) // 2
        with open(path, "wb") as file:
            file.write(content[:half])
            file.flush()
            tick()
            file.write(content[half:])

    os.fsync = lambda descriptor: None  # a killed process loses nothing that it has written; a machine would
    for name in ("fsync", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, between(getattr(os, name)))
    checkpoint._write = write


def child(function, *args):
    """Run a function in a child process; return the number of the signal that killed it, 0 if it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*args)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status)


def killed_training(run_dir, moment):
    kill_at(moment)
    train(run_dir, False)


def weights(run_dir):
    model = Toy()
    state = checkpoint.load(checkpoint.newest(run_dir), model, {})
    return model.state_dict(), state


def main(home):
    """Kill a run at every moment, resume it, and print how many moments there were."""
    train(home / "whole", False)  # here, so that children find everything imported
    whole, _ = weights(home / "whole")
    moment, steps = 0, set()
    while True:
        moment += 1
        run_dir = home / "killed"
        if not child(killed_training, run_dir, moment):
            break
        if checkpoint.newest(run_dir):  # whatever is there is whole
            steps.add(weights(run_dir)[1]["step"])
        child(train, run_dir, run_dir.exists())
        resumed, state = weights(run_dir)
        assert state["step"] == 6
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items()), moment
        left = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
        assert left == ["step-00000002", "step-00000006"], left  # the milestone and the last one, no rests
        shutil.rmtree(run_dir)
    assert steps == {2, 4, 6}, steps
    print(moment - 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_a_run_killed_at_any_moment_of_a_save_resumes_bit_identically(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    model = Toy()
    state = {
        "step": 7,
        "optimizer": {"state": {0: {"exp_avg": torch.arange(3.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]},
    }
    folder = checkpoint.save(tmp_path, 7, model, state, {"lr": 0.1})
    assert folder == checkpoint.newest(tmp_path) == tmp_path / "checkpoints" / "step-00000007"
    other = Toy()
    with torch.no_grad():
        other.encoder[0].weight.zero_()
    loaded = checkpoint.load(folder, other, {"lr": 0.1})
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], torch.arange(3.0))
    assert loaded["optimizer"]["param_groups"] == [{"betas": (0.9, 0.99)}]
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_tied_weights_are_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    folder = checkpoint.save(tmp_path, 1, model, {}, {})
    checkpoint.load(folder, model, {})


def test_a_resumable_state_runs_no_code(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    folder = checkpoint.save(tmp_path, 1, Toy(), {"harm": Harm()}, {})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoint.load(folder, Toy(), {})


def test_unfinished_folders_are_never_found(tmp_path):
    checkpoint.save(tmp_path, 1, Toy(), {}, {})
    (tmp_path / "checkpoints" / ".unfinished-step-00000009").mkdir()
    assert checkpoint.newest(tmp_path).name == "step-00000001"
    checkpoint.sweep(tmp_path)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_an_encoder_file_gives_back_weights_and_metadata(tmp_path):
    encoder, metadata = Toy().encoder, {"encoder": {"dim": 96, "widths": [1, 2, 3]}, "objective": "point-madi"}
    path = checkpoint.write_encoder(encoder, tmp_path / "new" / "encoder.safetensors", metadata)
    state, found = checkpoint.read_encoder(path)
    assert found == metadata
    assert state.keys() == encoder.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert list(path.parent.iterdir()) == [path]
    header = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
    assert json.loads(json.loads(header)["__metadata__"]["pointmadi"]) == metadata


def test_a_failed_export_leaves_the_old_encoder(tmp_path, monkeypatch):
    path = checkpoint.write_encoder(Toy().encoder, tmp_path / "encoder.safetensors", {"version": 1})

    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.write_encoder(Toy().encoder, path, {"version": 2})
    assert checkpoint.read_encoder(path)[1] == {"version": 1}


def test_other_files_are_no_encoders(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="there is no encoder file"):
        checkpoint.read_encoder(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        checkpoint.read_encoder(tmp_path / "text")
    save_file({"weight": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="not written by pointmadi"):
        checkpoint.read_encoder(tmp_path / "plain.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
