"""The examples run, and the pictures they make are pictures."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from pointmadi import cli

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow


def call(name: str, *args: object) -> None:
    sys.argv = [name, *map(str, args)]
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POINTMADI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", sys.argv)
    return tmp_path


def test_pretrain_then_use_the_features(home, capsys):
    call("0_pretrain_your_shapes.py", "--epochs", 1)
    assert (home / "runs/example/encoder.safetensors").is_file()
    call("1_features.py", "runs/example", "--shapes", 24)
    out = capsys.readouterr().out
    assert "clouds  (24, 192)" in out and "of the same class" in out


@pytest.mark.slow
def test_the_pictures_of_the_readme(home):
    matplotlib = pytest.importorskip("matplotlib.image")
    options = ["--data", "procedural:64", "--run", "run", "--train.max-steps", "1", "--probe"]
    assert cli.main(["pretrain", *options]) == 0
    call("draw_readme.py", "run", "--to", home)
    for name in ("rebuild.png", "corpus.png"):
        assert torch.tensor(matplotlib.imread(home / name)).std() > 0.05
