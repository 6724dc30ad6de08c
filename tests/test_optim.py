"""Learning rates against the published table, and who decays."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pointmadi.training.optim import OptimConfig, adamw, decays, learning_rate, param_groups

TABLE = Path(os.environ.get("POINTMADI_PARITY", "../shared/parity")) / "schedules.npz"
RELEASED = {  # name in the table: highest rate, length of the cosine
    "pretrain_5e-4_300": (5e-4, 300),
    "ft_2e-5_300": (2e-5, 300),
    "ft_head_2e-4_300": (2e-4, 300),
    "fewshot_2e-5_150": (2e-5, 150),
    "part_1e-4_300": (1e-4, 300),
    "part_head_1e-3_300": (1e-3, 300),
    "sem_2e-4_60": (2e-4, 60),
    "pointmae_1e-3_300": (1e-3, 300),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_schedule_equals_the_published_table(name):
    if not TABLE.exists():
        pytest.skip(f"there is no {TABLE}")
    table = np.load(TABLE)[f"lr_per_epoch/{name}"]
    lr, length = RELEASED[name]
    config = OptimConfig(lr=lr, cosine_epochs=length)
    for step in (0, 6):  # the rate is the same for all seven steps of an epoch
        ours = [learning_rate(config, len(table), 7 * epoch + step, 7) for epoch in range(len(table))]
        np.testing.assert_allclose(ours, table, rtol=1e-12)


def test_released_schedule_by_hand():
    rates = [learning_rate(OptimConfig(), 300, epoch, 1) for epoch in range(300)]
    assert rates[:3] == [1e-6, 1e-6, pytest.approx(1e-6 + (5e-4 - 1e-6) / 10)]
    assert rates[11] == pytest.approx(1e-6 + 0.5 * (5e-4 - 1e-6) * (1 + np.cos(np.pi * 10 / 300)))
    assert max(rates) < 5e-4  # the cosine is already running when the warm-up ends


def test_step_schedule_warms_up_and_falls_at_every_step():
    config = OptimConfig(lr=1e-3, schedule="step", warmup=0.5, min_lr=1e-5)
    rates = np.array([learning_rate(config, 2, step, 100) for step in range(200)])
    assert rates[0] == pytest.approx(1e-6 + (1e-3 - 1e-6) / 50)
    assert rates.argmax() == 49
    assert rates.max() == pytest.approx(1e-3)
    assert (np.diff(rates[:50]) > 0).all()
    assert (np.diff(rates[49:]) < 0).all()
    assert rates[-1] == pytest.approx(1e-5)
    assert rates[124] == pytest.approx((1e-3 + 1e-5) / 2)


def test_step_schedule_without_warmup_starts_at_the_top():
    rate = learning_rate(OptimConfig(lr=1.0, schedule="step", warmup=0), 1, 0, 1000)
    assert rate == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("schedule", ["released", "step"])
def test_warmup_longer_than_the_run_is_refused(schedule):
    with pytest.raises(ValueError, match=r"warm-up of 10 epochs does not fit 5; lower warmup"):
        learning_rate(OptimConfig(schedule=schedule), 5, 0, 100)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("encoder.blocks.0.attention.query.weight", (4, 4), True),
        ("encoder.tokenizer.lift.weight", (4, 3), True),
        ("encoder.norm.weight", (4,), False),
        ("encoder.blocks.0.out.bias", (4,), False),
        ("table.bias", (4, 4), False),
        ("mask_token", (1, 1, 4), False),
        ("mask_token.weight", (4, 96), False),
        ("cls_token", (1, 1, 4), False),
    ],
)
def test_who_decays(name, shape, expected):
    assert decays(name, torch.zeros(shape)) is expected


def test_groups_hold_every_trainable_weight_once():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    decayed, plain = param_groups(model, OptimConfig(weight_decay=0.1))
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight), id(model[2].weight)]
    assert {id(p) for p in plain["params"]} == {id(model[0].bias), id(model[1].weight), id(model[1].bias)}


def test_exempt_names_are_a_choice():
    model = nn.ModuleDict({"query_token": nn.Linear(3, 4, bias=False)})
    (group,) = param_groups(model, OptimConfig())
    assert group["weight_decay"] == 0.0
    (group,) = param_groups(model, replace(OptimConfig(), exempt=()))
    assert group["weight_decay"] == 0.05


def test_some_weights_learn_faster_and_all_of_those_decay():
    model = nn.ModuleDict({"encoder": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    groups = param_groups(model, OptimConfig(weight_decay=0.1, faster=("head",), factor=5.0))
    assert [(g["factor"], g["weight_decay"], len(g["params"])) for g in groups] == [(1, 0.1, 1), (1, 0, 1), (5, 0.1, 2)]
    assert {id(p) for p in groups[2]["params"]} == {id(p) for p in model["head"].parameters()}


def test_fused_adamw_equals_the_plain_one():
    torch.manual_seed(0)
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    second.load_state_dict(first.state_dict())
    config = OptimConfig(lr=1e-2, weight_decay=0.3)
    fused, plain = adamw(first, config), torch.optim.AdamW(param_groups(second, config), lr=1e-2, fused=False)
    assert fused.defaults["fused"]
    for step in range(5):
        x = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((first, fused), (second, plain)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(first.weight, second.weight)


def test_a_model_without_trainable_weights_is_refused():
    with pytest.raises(ValueError, match="no trainable weights"):
        adamw(nn.Linear(2, 2).requires_grad_(False), OptimConfig())
