"""`pointmadi pretrain` from outside: what it leaves behind, how it goes on, what it refuses, and two processes as one.

Run as a script, this file is one of the two processes.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pointmadi import cli
from pointmadi.commands.pretrain import open_run
from pointmadi.data.clouds import Clouds
from pointmadi.models.encoder import PointEncoder
from pointmadi.objectives import OBJECTIVES
from pointmadi.training.checkpoint import complete, read_encoder
from pointmadi.training.logging import read_metrics

RECIPE = """
data: [shapes.npz]
num_points: 48
batch_size: 8
probe: []
encoder:
  {name: nano, dim: 24, depth: 2, heads: 2, num_patches: 8, patch_size: 6, widths: [8, 8, 16]}
train:
  {epochs: 2, max_steps: 3, lr: 1.0e-3, precision: fp32, device: cpu, log_every: 1}
"""
TINY = {
    "point-madi": "objective: {name: point-madi, decoder: {depth: 1, heads: 2, drop_path: 0.0}}",
    "point-mae": "objective: {name: point-mae, decoder: {depth: 1, heads: 2, drop_path: 0.0}}",
    "pcp-mae": "objective: {name: pcp-mae, decoder: {depth: 1, heads: 2, drop_path: 0.0}}",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Work in a folder with a recipe for each objective and a set of 20 shapes of 64 points."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POINTMADI_CACHE", str(tmp_path / "cache"))
    return tmp_path


def furnish(home):
    points = torch.randn(20, 64, 3, generator=torch.Generator().manual_seed(0))
    points = points * torch.tensor([[1.0, 1, 1], [3, 1, 1], [1, 3, 0.1], [0.1, 0.1, 1]]).repeat(5, 1)[:, None]
    names = [f"{kind}-{i}" for i in range(5) for kind in ("ball", "bar", "board", "stick")]
    labels = {"label": torch.arange(20) % 4, "classes": ("ball", "bar", "board", "stick")}
    Clouds.pack(points, names, **labels).write(home / "shapes.npz")
    Clouds.pack(points).write(home / "plain.npz")
    for name, text in TINY.items():
        (home / f"{name}.yaml").write_text(f"{RECIPE}\n{text}\nrun: {name}\n")


def pretrain(*args):
    return cli.main(["pretrain", *map(str, args)])


def fails(capsys, *args):
    """Return the single line that a refused command prints."""
    capsys.readouterr()
    assert pretrain(*args) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return message


def weights(run):
    return read_encoder(Path(run) / "encoder.safetensors")[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_leaves_everything_behind(home, capsys, name):
    assert pretrain(f"{name}.yaml") == 0
    out = " ".join(capsys.readouterr().out.split())
    run = home / name
    for file in ("config.yaml", "run.json", "metrics.jsonl", "encoder.safetensors"):
        assert (run / file).is_file() and f"{name}/{file}" in out
    assert f"{name}: encoder of 0.0" in out and "20 shapes of 48 points, 3 steps of 8 on cpu" in out

    rows = read_metrics(run)
    assert [row["step"] for row in rows if row["kind"] == "step"] == [1, 2, 3]
    assert {"total", "lr", "samples_per_second"} <= rows[0].keys()
    about = json.loads((run / "run.json").read_text())
    assert about["seed"] == 0
    assert about["data"] == {"shapes.npz": Clouds.read("shapes.npz").fingerprint()}
    state, metadata = read_encoder(run / "encoder.safetensors")
    assert metadata["objective"] == name

    objective, config = open_run(run)
    assert not objective.training
    assert type(config.objective) is type(OBJECTIVES[name])
    assert config.encoder == objective.encoder.config
    assert metadata["encoder"]["positions"] == objective.encoder.config.positions
    assert config.encoder.dim == 24
    encoder = PointEncoder(objective.encoder.config)
    encoder.load_state_dict(state)
    for key, value in objective.encoder.state_dict().items():
        assert torch.equal(value, state[key])
    assert complete(run)[-1].name == "step-00000003"


def test_the_same_command_gives_the_same_weights_and_another_seed_others(home):
    for run, *more in (["a"], ["b"], ["c", "--train.seed", "1"]):
        assert pretrain("point-madi.yaml", "--run", run, *more) == 0
    first, again, other = weights("a"), weights("b"), weights("c")
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["tokenizer.lift.weight"], other["tokenizer.lift.weight"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_resumed_run_equals_the_uninterrupted_one(home, name):
    drop = ["--encoder.drop-path", "0.3", "--train.epochs", "3"]  # 2 steps an epoch
    assert pretrain(f"{name}.yaml", "--run", "whole", "--train.max-steps", "5", *drop) == 0
    assert pretrain(f"{name}.yaml", "--run", "parts", "--train.max-steps", "3", *drop) == 0
    assert pretrain("parts/config.yaml", "--resume", "--train.max-steps", "5") == 0
    whole, parts = weights("whole"), weights("parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert [row["total"] for row in read_metrics(home / "whole") if row["kind"] == "step"] == [
        row["total"] for row in read_metrics(home / "parts") if row["kind"] == "step"
    ]


def test_a_finished_run_resumes_to_itself(home):
    assert pretrain("point-mae.yaml") == 0
    before = weights("point-mae")
    assert pretrain("point-mae.yaml", "--resume") == 0
    assert all(torch.equal(before[key], value) for key, value in weights("point-mae").items())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (["--encoder.dim", "12"], "encoder"),
        (["--objective.loss", "l1"], "objective"),
        (["--objective", "point-mae"], "objective"),
        (["--augment.rotate", "none"], "augment"),
        (["--data", "shapes.npz", "shapes.npz"], "data"),
        (["--batch-size", "4"], "batch_size"),
        (["--train.lr", "0.5"], "train.lr"),
    ],
)
def test_another_run_is_not_resumed_and_the_old_one_stays(home, capsys, changes, what):
    assert pretrain("point-madi.yaml") == 0
    before = (home / "point-madi" / "config.yaml").read_text()
    message = fails(capsys, "point-madi.yaml", "--resume", *changes)
    assert what in message and "config.yaml --resume" in message
    assert (home / "point-madi" / "config.yaml").read_text() == before
    open_run(home / "point-madi")


def test_the_config_in_the_run_is_the_complete_one(home):
    assert pretrain("point-madi.yaml", "--objective.encoder-hidden", "learned") == 0
    written = yaml.safe_load((home / "point-madi" / "config.yaml").read_text())
    assert written["objective"]["encoder_hidden"] == "learned"
    assert written["objective"]["center_diffusion"]["steps"] == 2000
    assert written["encoder"]["widths"] == [8, 8, 16]
    assert written["train"]["max_steps"] == 3


def test_switches_reach_the_training(home):
    switches = {
        "train.precision": "bf16",
        "objective.noised-centers": "hidden",
        "objective.patch-scale": 7.7,
        "objective.random-ratio": 0.5,
        "objective.block-ratio": 0.5,
        "objective.patch-diffusion.steps": 50,
    }
    flags = [text for name, value in switches.items() for text in (f"--{name}", value)]
    assert pretrain("point-madi.yaml", "--objective.step-embedding", *flags) == 0
    objective, _ = open_run(home / "point-madi")
    assert objective.config.noised_centers == "hidden"
    assert objective.num_hidden == 4
    assert objective.patch_diffusion.steps == 50 and objective.patch_diffusion.scale == 7.7
    assert objective.embed_step is not None


def test_folders_of_files_are_shapes_too(home):
    folder = home / "scans"
    folder.mkdir()
    for i, points in enumerate(Clouds.read("shapes.npz").xyz()[:9]):
        (folder / f"{i}.xyz").write_text("\n".join(" ".join(map(str, row)) for row in points.tolist()))
    size = ["--stored-points", "50", "--batch-size", "4"]
    assert pretrain("point-mae.yaml", "--data", folder, *size) == 0
    (folder / "9.xyz").write_text("not a cloud")
    assert pretrain("point-mae.yaml", "--run", "again", "--data", folder, "--skip-bad", *size) == 0


def test_a_folder_with_a_bad_file_stops_before_anything_is_written(home, capsys):
    folder = home / "scans"
    folder.mkdir()
    (folder / "bad.xyz").write_text("not a cloud")
    (folder / "good.xyz").write_text("0 0 0\n1 0 0\n0 1 0\n")
    assert "bad.xyz" in fails(capsys, "point-mae.yaml", "--data", folder)
    assert not (home / "point-mae").exists()


@pytest.mark.parametrize("source", ["procedural", "procedural:16"])
def test_synthetic_shapes_need_no_files(home, source):
    size = ["--stored-points", "48", "--epoch-size", "16"]
    assert pretrain("point-mae.yaml", "--data", source, *size) == 0
    assert json.loads((home / "point-mae" / "run.json").read_text())["data"].keys() == {source}


def test_features_are_inputs_of_the_encoder(home):
    shapes = Clouds.read("shapes.npz")
    rgb = torch.rand(20, 64, 3)
    Clouds.pack(shapes.xyz(), features=rgb, feature_names=("r", "g", "b")).write(home / "colored.npz")
    assert pretrain("pcp-mae.yaml", "--data", "colored.npz", "--features", "rgb") == 0
    objective, _ = open_run(home / "pcp-mae")
    assert objective.encoder.config.features == 3


@pytest.mark.slow
def test_the_probe_compares_before_and_after(home, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # a terminal in which no row is broken
    assert pretrain("point-madi.yaml", "--probe", "shapes.npz") == 0
    assert "probe.md" in capsys.readouterr().out
    table = (home / "point-madi" / "probe.md").read_text()
    assert "encoder before" in table and "encoder after" in table
    json.loads((home / "point-madi" / "probe.json").read_text())


REFUSED = {
    "no such file": (["--data", "nosuch.npz"], "nosuch.npz"),
    "no shape": (["--data", "point-madi.yaml"], "files of this kind are not read"),
    "unknown option": (["--encoder.dept", "2"], "--encoder.depth"),
    "unknown objective": (["--objective", "point-mad"], "point-madi"),
    "unknown preset": (["--encoder", "smal"], "small"),
    "another objective's option": (["--objective", "point-mae", "--objective.patch-scale", "2"], "patch-scale"),
    "heads": (["--encoder.heads", "5"], "dim 24 is not a multiple of heads 5"),
    "no heads": (["--encoder.heads", "0"], "heads of an encoder must be at least 1"),
    "decoder heads": (["--objective.decoder.heads", "7"], "heads 7"),
    "no depth": (["--encoder.depth", "0"], "depth of an encoder must be at least 1"),
    "drop path": (["--encoder.drop-path", "1.5"], "drop_path"),
    "mask ratios": (["--objective.random-ratio", "0.2"], "hide different numbers"),
    "mask ratio": (["--objective.random-ratio", "0", "--objective.block-ratio", "0"], "hides 0 of 8"),
    "steps of noise": (["--objective.center-diffusion.steps", "0"], "at least 1 step"),
    "too few points": (["--num-points", "5"], "num_patches"),
    "too many points": (["--num-points", "100"], "lower num_points"),
    "no patch size": (["--encoder.patch-size", "0"], "patch_size of an encoder must be at least 1"),
    "large batch": (["--batch-size", "50"], "lower the batch size"),
    "no feature": (["--features", "rgb"], "shapes.npz"),
    "no split": (["--split", "test"], "shapes.npz"),
    "augmentation": (["--augment.scale", "2", "1"], "scale"),
    "nothing to resume": (["--resume", "--run", "nosuch"], "no run in nosuch"),
    "no device": (["--train.device", "tpu"], "tpu"),
    "no epochs": (["--train.epochs", "0"], "epochs"),
    "no probe": (["--probe", "nosuch.npz"], "nosuch.npz"),
    "no labels": (["--probe", "plain.npz"], "no labels"),
    "probe points": (["--probe", "shapes.npz", "--probe-points", "100"], "lower probe_points"),
}


@pytest.mark.parametrize(("args", "expected"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_one_line_and_leave_nothing(home, capsys, args, expected):
    assert expected in fails(capsys, "point-madi.yaml", *args)
    assert not (home / "point-madi").exists()


def test_a_run_is_not_overwritten(home, capsys):
    assert pretrain("point-mae.yaml") == 0
    before = weights("point-mae")
    assert "already holds a run; continue it with --resume" in fails(capsys, "point-mae.yaml")
    assert all(torch.equal(before[key], value) for key, value in weights("point-mae").items())


@pytest.mark.parametrize("path", ["nosuch", "empty", "shapes.npz"])
def test_what_is_no_run_cannot_be_opened(home, path):
    (home / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"{path} is no folder of a pre-training run"):
        open_run(path)


# Two processes

WORLD = 2


def run_process(home):
    """Be one of two processes: pre-train by every objective."""
    os.chdir(home)
    for name in TINY:
        assert pretrain(f"{name}.yaml", "--run", f"two-{name}") == 0


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder in which two processes, and one, have made the same runs."""
    home = tmp_path_factory.mktemp("both")
    furnish(home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, home],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            for name in TINY:
                assert pretrain(f"{name}.yaml", "--run", f"one-{name}") == 0
        for process in processes:
            messages, _ = process.communicate(timeout=600)
            assert process.returncode == 0, messages
    finally:
        for process in processes:
            process.kill()
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_equal_one(both, name):
    one, two = (
        [row for row in read_metrics(both / f"{who}-{name}") if row["kind"] == "step"] for who in ("one", "two")
    )
    assert len(one) == len(two) == 3
    for alone, together in zip(one, two, strict=True):
        for key in {"total", "center", "patch"} & alone.keys():
            assert together[key] == pytest.approx(alone[key], rel=1e-4), (alone["step"], key)
    alone, together = weights(both / f"one-{name}"), weights(both / f"two-{name}")
    for key, value in alone.items():
        noise = key.startswith("tokenizer") and ("bias" in key or "running_mean" in key)  # Adam follows rounding noise
        if key.endswith("num_batches_tracked"):
            assert torch.equal(value, together[key])
        else:
            torch.testing.assert_close(together[key], value, rtol=1e-3, atol=4e-3 if noise else 2e-4)


if __name__ == "__main__":
    run_process(sys.argv[1])
