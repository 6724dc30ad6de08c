"""`pointmadi fewshot` from outside: folds, methods, what a row says, resuming, mistakes."""

import json
from pathlib import Path

import pytest
import torch

from pointmadi import cli
from pointmadi.commands import _tuning as tuning
from pointmadi.data.clouds import Clouds

RECIPE = """
data: shapes.npz
ways: [2]
shots: [3]
folds: 2
queries: 2
num_points: 24
encoder: {name: nano, dim: 12, depth: 1, heads: 2, num_patches: 4, patch_size: 4, widths: [4, 8, 8]}
classifier: {widths: [8, 8]}
train: {epochs: 2, lr: 1.0e-2, warmup: 0, precision: fp32, device: cpu}
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    label = torch.arange(36) % 3
    points = torch.randn(36, 32, 3, generator=torch.Generator().manual_seed(0))
    points = points * torch.tensor([[1.0, 1, 1], [4, 1, 1], [4, 4, 0.2]])[label][:, None]
    known = {"label": label, "classes": ("ball", "bar", "board"), "split": torch.arange(36) // 3 % 2}
    Clouds.pack(points, [f"shape {i}" for i in range(36)], **known).write("shapes.npz")
    Path("tiny.yaml").write_text(RECIPE)


def call(*args):
    return cli.main(["fewshot", "tiny.yaml", *map(str, args)])


def results(run="run"):
    return json.loads(Path(run, "results.json").read_text())


def test_every_way_is_combined_with_every_shot(capsys):
    assert call("--ways", 2, 3, "--shots", 2, 3, "--method", "knn", "--run", "run") == 0
    out = capsys.readouterr().out
    found = results()
    assert [row["task"] for row in found] == ["2-way 2-shot", "2-way 3-shot", "3-way 2-shot", "3-way 3-shot"]
    assert all(list(row["scores"]) == ["0", "1"] for row in found)
    for row in found:
        named = row["about"].rpartition("folds ")[2]
        assert len(named) == 16 and f"{row['task']}: 2 folds, hash {named}" in out


@pytest.mark.parametrize(
    ("method", "epochs", "augmentation", "selection"),
    [("knn", "–", "–", "k on 20% of the support"), ("svm", "–", "–", "C on 20% of the support"),
     ("finetune", "2", "scale 0.667…1.5 translate -0.2…0.2", "last epoch")],
)  # fmt: skip
def test_a_row_tells_what_was_done_and_nothing_else(capsys, method, epochs, augmentation, selection):
    assert call("--method", method, "--run", "run") == 0
    recipe = results()[0]["recipe"]
    assert (recipe["epochs"], recipe["augmentation"], recipe["selection"]) == (epochs, augmentation, selection)
    out = capsys.readouterr().out
    assert f"epochs: {epochs}" in out and f"augmentation: {augmentation}" in out


def test_all_methods_answer_the_same_folds(capsys):
    assert call("--method", "knn", "--run", "knn") == call("--method", "finetune", "--run", "tuned") == 0
    assert results("knn")[0]["about"] == results("tuned")[0]["about"]
    assert call("--method", "knn", "--run", "other", "--seed", 1) == 0
    assert results("knn")[0]["about"] != results("other")[0]["about"]


def test_selection_on_the_queries_is_told(capsys):
    assert call("--select", "test", "--run", "run") == 0
    assert "selecting the epoch on the queries" in capsys.readouterr().out
    assert results()[0]["recipe"]["selection"] == "best epoch on the queries"


class Killed(BaseException):
    """Stands for a kill at a moment of our choice."""


def test_a_killed_run_goes_on(monkeypatch):
    assert call("--run", "whole") == 0
    save = tuning.write_encoder

    def kill(model, path, about):
        if "fold-1" in str(path):
            raise Killed
        return save(model, path, about)

    monkeypatch.setattr(tuning, "write_encoder", kill)
    with pytest.raises(Killed):
        call("--run", "run")
    monkeypatch.setattr(tuning, "write_encoder", save)
    first = Path("run/2w3s/fold-0/scores.json").stat().st_mtime_ns
    assert call("--run", "run", "--resume") == 0
    assert results()[0]["scores"] == results("whole")[0]["scores"]
    assert Path("run/2w3s/fold-0/scores.json").stat().st_mtime_ns == first


def test_mistakes_are_one_line_and_leave_nothing(capsys):
    wrong = {
        ("--ways", 4): "4-way 3-shot needs 4 classes",
        ("--shots", 7): "needs 2 classes with 7 shapes to learn from",
        ("--queries", 0): "queries of few-shot episodes is too small",
        ("--method", "knn", "--shots", 1): "give --shots 2 or more",
        ("--ways",): "ways and shots must name at least one number",
        ("nowhere",): "there is no nowhere",
    }
    for args, message in wrong.items():
        capsys.readouterr()
        assert call(*args, "--run", "run") == 2
        assert message in capsys.readouterr().err.splitlines()[-1], args
        assert not Path("run").exists(), args
