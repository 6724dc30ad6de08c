"""The benchmarks run, and count what they say they count."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pointmadi.models.decoder import DecoderConfig
from pointmadi.models.encoder import EncoderConfig
from pointmadi.objectives import OBJECTIVES, build
from pointmadi.ops.random import Draws

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("features", [0, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_operations_of_a_step_are_those_that_torch_counts(
    name: str, features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from pretrain_step import flops

    encoder = EncoderConfig(24, 3, 2, 10, 8, (4, 12, 20), features=features)
    model = build(encoder, replace(OBJECTIVES[name], decoder=DecoderConfig(2, 2)))
    batch = {"points": torch.randn(3, 40, 3), "features": torch.randn(3, 40, features)}
    if not features:
        del batch["features"]
    forward, backward = flops(model.encoder.config, model.config)
    with FlopCounterMode(display=False) as counter:
        loss = model(batch, Draws(0))["total"]
        assert counter.get_total_flops() == 3 * forward.total()
        loss.backward()
    assert counter.get_total_flops() == 3 * (forward.total() + backward.total())


def test_the_segmentation_head_beside_the_published_one(tmp_path: Path) -> None:
    script = str(BENCHMARKS / "segmentation_head.py")
    quick = ["--preset", "nano", "--batch", "2", "--points", "200", "--rounds", "1", "--results", str(tmp_path)]
    found = subprocess.run([sys.executable, script, *quick], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "PASS  equal to 1e-5" in found.stdout
    assert len(list(tmp_path.glob("*-segmentation-head.json"))) == 1


def test_a_step_is_taken_apart(tmp_path: Path) -> None:
    script = str(BENCHMARKS / "pretrain_step.py")
    found = subprocess.run(
        [sys.executable, script, "--quick", "--results", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("PASS") + found.stdout.count("FAIL") == 5
    assert len(list(tmp_path.glob("*-pretrain-step.json"))) == 1
