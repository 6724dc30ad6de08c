"""`pointmadi finetune` from outside: what it leaves, selects and says, how it goes on after a kill, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pointmadi import cli
from pointmadi.commands import _tuning as tuning
from pointmadi.data.clouds import Clouds
from pointmadi.interop import load
from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.tasks.classification import Classifier
from pointmadi.training import checkpoint
from pointmadi.training.checkpoint import read_encoder, write_encoder
from pointmadi.training.logging import read_metrics
from pointmadi.training.optim import param_groups
from pointmadi.training.trainer import TrainerConfig

ENCODER = EncoderConfig(dim=12, depth=1, heads=2, num_patches=4, patch_size=4, widths=(4, 8, 8))
RECIPE = """
data: shapes.npz
num_points: 24
batch_size: 8
encoder: {name: nano, dim: 12, depth: 1, heads: 2, num_patches: 4, patch_size: 4, widths: [4, 8, 8]}
classifier: {widths: [8, 8]}
segmenter: {widths: [8, 8, 8, 8], category_width: 4}
train: {epochs: 2, lr: 1.0e-2, warmup: 0, precision: fp32, device: cpu}
"""


def made(count=48, **more):
    """Make balls, bars and boards, with two parts each and a split of 2 : 1."""
    points = torch.randn(count, 32, 3, generator=torch.Generator().manual_seed(0))
    label = torch.arange(count) % 3
    points = points * torch.tensor([[1.0, 1, 1], [4, 1, 1], [4, 4, 0.2]])[label][:, None]
    known = {"label": label, "classes": ("ball", "bar", "board"), "split": torch.arange(count) // 3 % 3 == 2}
    part = 2 * label[:, None] + (points[..., 0] > 0)
    known |= {"part": part, "part_names": tuple("abcdef"), "part_class": torch.tensor([0, 0, 1, 1, 2, 2])}
    return Clouds.pack(points, [f"shape {i}" for i in range(count)], **(known | more))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")  # so that no cell of a table is broken
    made().write("shapes.npz")
    Path("tiny.yaml").write_text(RECIPE)
    return tmp_path


def call(*args):
    return cli.main(["finetune", "tiny.yaml", *map(str, args)])


def fails(capsys, *args):
    capsys.readouterr()
    assert call(*args) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and "Traceback" not in message
    return message


def scores(run="run"):
    return json.loads(Path(run, "results.json").read_text())[0]["scores"]


def epochs(run):
    return [row for row in read_metrics(run) if row["kind"] == "epoch"]


def test_seeds_are_trained_selected_and_told(capsys):
    assert call("--seeds", 0, 1, "--run", "run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "seed 0: accuracy" in out and "best epoch on held-out shapes" in out and "best, selected" not in out
    found = json.loads(Path("run/results.json").read_text())[0]
    assert list(found["scores"]) == ["0", "1"] and made().fingerprint() in found["about"]
    rows = epochs("run/seed-0")
    best = max(rows, key=lambda row: (row["val_accuracy"], row["epoch"]))  # the last of equal ones
    assert found["scores"]["0"]["epoch"] == best["epoch"] and "test_accuracy" not in best
    header = read_encoder("run/seed-0/task.safetensors")[1]
    assert header["task"] == "classifier" and header["classes"] == ["ball", "bar", "board"]
    assert load("run/seed-0/task.safetensors").config.dim == 12

    assert call("--seeds", 0, 1, "--run", "run", "--resume", "--report", "best") == 0
    assert "best, selected on the test set" in " ".join(capsys.readouterr().out.split())


def test_held_out_shapes_are_not_trained_on():
    train = made().train()
    for seed in (0, 1):
        rest, held = tuning.hold_out(train, seed, 1.0, "val")
        assert not set(rest.names) & set(held.names) and {*rest.names, *held.names} == set(train.names)
        assert held.names == tuning.hold_out(train, 0, 1.0, "val")[1].names
        assert torch.bincount(held.label).tolist() == [2, 2, 2]  # a fifth of the 11 or 10 of each
    few, _ = tuning.hold_out(train, 0, 0.3, "last")
    assert torch.bincount(few.label).tolist() == [3, 3, 3]
    single = replace(train.select([0, 1, 3, 4, 6]), label=torch.tensor([0, 1, 0, 0, 0]))
    assert 1 in tuning.hold_out(single, 0, 0.01, "last")[0].label


@pytest.mark.parametrize("select", ["last", "test"])
def test_selection_by_the_last_epoch_and_on_the_test_set(capsys, select):
    assert call("--select", select, "--run", "run") == 0
    out = capsys.readouterr().out
    assert ("on the test set: the result is no estimate" in " ".join(out.split())) == (select == "test")
    found, rows = scores()["0"], epochs("run/seed-0")
    if select == "test":
        assert found["accuracy"] == max(row["test_accuracy"] for row in rows)
    else:
        assert found["epoch"] == 2 and not any("test_accuracy" in row for row in rows)


def test_votes_are_repeated_and_the_best_is_named_as_what_it_is(capsys):
    votes = ("--voting.votes", 3, "--voting.repeats", 4, "--run", "run")
    assert call(*votes, "--report", "best") == 0
    found, out = scores()["0"], capsys.readouterr().out
    assert 0 <= found["voted"] <= found["voted_best"] <= 1
    spread, best = 100 * found["voted_std"], 100 * found["voted_best"]
    assert f"(1), votes ± {spread:.1f}; best, selected on the test set: {best:.1f}" in out
    assert call(*votes, "--resume") == 0
    assert f"votes ± {spread:.1f} " in (out := capsys.readouterr().out) and "best, selected" not in out


@pytest.mark.parametrize("head", ["linear", "mlp3"])
def test_a_frozen_encoder_stays_as_it_is(head):
    torch.manual_seed(3)
    encoder = PointEncoder(ENCODER)
    write_encoder(encoder, "encoder.safetensors", {"encoder": vars(ENCODER), "objective": "test"})
    assert (
        call("encoder.safetensors", "--classifier.head", head, "--classifier.pooling", "cls+max", "--run", "run") == 0
    )
    weights, _ = read_encoder("run/seed-0/task.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(weights[f"encoder.{name}"], value)
    recipe = json.loads(Path("run/results.json").read_text())[0]["recipe"]
    assert recipe["method"] == {"linear": "frozen, linear", "mlp3": "frozen, 3 layers"}[head] + ", cls+max"


def test_parts_are_segmented():
    assert call("--task", "parts", "--run", "run") == 0
    assert set(scores()["0"]) == {"instance_iou", "class_iou", "accuracy", "epoch"}
    assert "val_instance_iou" in epochs("run/seed-0")[0]


class Killed(BaseException):
    """Stands for a kill at a moment of our choice."""


@pytest.mark.parametrize("moment", [6, 8, 10])  # of seed 1: before any checkpoint, behind one, behind the last
def test_a_killed_run_goes_on_where_it_was(monkeypatch, moment):
    more = ("--seeds", 0, 1, "--train.epochs", 4, "--train.checkpoint-every", 2)
    assert call(*more, "--run", "whole") == 0
    score, exams = tuning.in_eval_mode, []

    def kill(*args):
        """Die at an exam: each seed has four on held-out shapes, one on the test shapes."""
        exams.append(1)
        if len(exams) == moment:
            raise Killed
        return score(*args)

    monkeypatch.setattr(tuning, "in_eval_mode", kill)
    with pytest.raises(Killed):
        call(*more, "--run", "run")
    assert (checkpoint.newest("run/seed-1") is None) == (moment == 6)
    first = Path("run/seed-0/scores.json").stat().st_mtime_ns
    exams[:] = [1] * 10
    assert call(*more, "--run", "run", "--resume") == 0
    assert scores("run") == scores("whole")
    assert len(epochs("run/seed-1")) == 4 and len(exams) == 10 + {6: 5, 8: 3, 10: 1}[moment]
    assert Path("run/seed-0/scores.json").stat().st_mtime_ns == first
    whole, gone_on = (read_encoder(f"{run}/seed-1/task.safetensors") for run in ("whole", "run"))
    assert whole[1] == gone_on[1] and all(torch.equal(value, gone_on[0][name]) for name, value in whole[0].items())


def test_a_folder_belongs_to_one_configuration(capsys):
    assert call("--run", "run") == 0
    assert "already holds results; go on with --resume" in fails(capsys, "--run", "run")
    assert "made with another batch_size" in fails(capsys, "--run", "run", "--resume", "--batch-size", 4)
    assert call("--run", "run", "--resume", "--seeds", 0, 5) == 0
    assert list(scores()) == ["0", "5"]


def test_mistakes_are_one_line_and_leave_nothing(capsys):
    replace(made(), label=None, part=None, part_class=None, part_names=()).write("plain.npz")
    replace(made(), part=None, part_class=None, part_names=()).write("whole.npz")
    made(label=torch.zeros(48), part=None, part_names=(), part_class=None).write("balls.npz")
    made(6, split=torch.tensor([0, 0, 0, 1, 1, 1])).write("few.npz")
    wrong = {
        ("--data", "plain.npz"): "has no labels",
        ("--data", "whole.npz", "--task", "parts"): "no parts of known classes",
        ("--num-points", 40): "cannot pick 40 of 32 points",
        ("nowhere",): "there is no nowhere",
        ("runs/x-{seed}", "--seeds", 0, 1): "there is no runs/x-0",
        ("--data", "balls.npz"): "all training shapes are of one class",
        ("--data", "few.npz"): "3 training shapes are too few to hold some out; use --select last",
        ("--batch-size", 1): "a batch of 1 shape",
        ("--labels", 0): "labels is the share",
        ("--seeds",): "seeds must be different whole numbers",
        ("--task", "parts", "--voting.votes", 2): "votes are of classifications",
        ("--encoder.features", 3): "takes 3 channels beside xyz, and --features names 0",
    }
    for args, message in wrong.items():
        assert message in fails(capsys, *args, "--run", "run"), args
        assert not Path("run").exists(), args


def test_shapes_are_thinned_to_their_farthest_points():
    clouds = made(4)
    thinned = tuning.thin(clouds, 10)
    assert thinned.num_points == 10 and tuning.thin(clouds, 32) is clouds
    for row in range(4):
        chosen = [clouds.points[row].tolist().index(point) for point in thinned.points[row].tolist()]
        left, picked = clouds.xyz()[row], [0]
        while len(picked) < 10:
            picked.append(int(torch.cdist(left, left[picked]).amin(1).argmax()))
        assert chosen == picked
        assert torch.equal(thinned.part[row], clouds.part[row][chosen])


def test_the_released_recipe_trains_head_and_class_token_ten_times_as_fast():
    model = Classifier(PointEncoder(ENCODER), 3)
    config = TrainerConfig(lr=2e-5, faster=("cls_", "head"), weight_decay=0.05)
    names = {id(weight): name for name, weight in model.named_parameters()}
    found = {
        (group["factor"], group["weight_decay"]): {names[id(weight)] for weight in group["params"]}
        for group in param_groups(model, config)
    }
    fast = {name for name in names.values() if not name.startswith("encoder.")}
    assert found[10.0, 0.05] == fast and {"cls_token", "cls_position", "head.0.bias", "head.1.weight"} <= fast
    assert set(found) == {(10.0, 0.05), (1.0, 0.05), (1.0, 0.0)}
    assert all("bias" in name or model.get_parameter(name).ndim == 1 for name in found[1.0, 0.0])
