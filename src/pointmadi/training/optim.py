"""The optimiser and its learning rate: which weights decay, and how fast they learn when."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW

Schedule = Literal["released", "step"]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and a cosine.

    Attributes:
        lr: highest learning rate.
        weight_decay: decoupled weight decay of the matrices (see `decays`).
        betas: decay rates of the two moments of AdamW.
        schedule: "released" changes the rate once an epoch, as the published code does (epochs 0 and 1 both train at
            `warmup_lr`); "step" warms up linearly and follows the cosine at every step, which short runs need.
        warmup: length of the warm-up in epochs; fractions are allowed under "step".
        warmup_lr: learning rate at the start of the warm-up.
        min_lr: learning rate at the end of the cosine.
        cosine_epochs: length of the cosine in epochs, warm-up included; 0 means all epochs of the run.
        exempt: weights that do not decay whatever their shape: a part of their name ends in one of these.
        faster: weights that learn `factor` times as fast: their name begins with one of these. All of them decay,
            biases and norms too, as in the published fine-tuning (docs/faithfulness.md, 21).
        factor: how much faster those learn.
    """

    lr: float = 5e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = "released"
    warmup: float = 10
    warmup_lr: float = 1e-6
    min_lr: float = 1e-6
    cosine_epochs: int = 0
    exempt: tuple[str, ...] = ("token",)
    faster: tuple[str, ...] = ()
    factor: float = 10.0


def decays(name: str, weight: torch.Tensor, exempt: tuple[str, ...] = ("token",)) -> bool:
    """Tell whether a weight decays: matrices do; vectors, biases and `exempt` names do not.

    The published code exempts every name that contains "token": the mask and class tokens, but also the projection
    `mask_token.weight`, a matrix. Here a dotted part of the name has to end in it, so that `mask_token.weight` stays
    exempt and `tokenizer.first.weight` is not (docs/faithfulness.md, 21).
    """
    parts = name.split(".")
    return weight.ndim > 1 and parts[-1] != "bias" and not any(part.endswith(end) for part in parts for end in exempt)


def param_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Split the trainable weights of `model` by their decay and the factor of their learning rate.

    Returns:
        One group for each pair that occurs: {"params", "weight_decay", "factor"}.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            fast = name.startswith(config.faster)
            decay = config.weight_decay if fast or decays(name, weight, config.exempt) else 0.0
            groups.setdefault((decay, config.factor if fast else 1.0), []).append(weight)
    ordered = sorted(groups.items(), key=lambda group: (group[0][1], -group[0][0]))
    return [{"params": own, "weight_decay": decay, "factor": factor} for (decay, factor), own in ordered]


def adamw(model: nn.Module, config: OptimConfig) -> AdamW:
    """Return AdamW over the groups of `model`, fused where the device has it."""
    groups = param_groups(model, config)
    if not groups:
        raise ValueError("the model has no trainable weights; set requires_grad on those to be trained")
    fused = all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for g in groups for p in g["params"])
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)


def learning_rate(config: OptimConfig, epochs: int, step: int, epoch_steps: int) -> float:
    """Return the learning rate of optimiser step `step` (from 0) in a run of `epochs` × `epoch_steps` steps.

    "released" equals timm 0.4.5 as the published code drives it: the scheduler moves at the end of epoch e with index
    e, so epoch e trains at the rate of e−1; the cosine counts from epoch 0 although the warm-up covers its beginning.
    """
    length = config.cosine_epochs or epochs
    if config.warmup >= length:
        raise ValueError(f"a warm-up of {config.warmup:g} epochs does not fit {length}; lower warmup or train longer")
    if config.schedule == "released":
        time = float(max(step // epoch_steps - 1, 0))
        if time < config.warmup:
            return config.warmup_lr + time * (config.lr - config.warmup_lr) / config.warmup
        return _cosine(config, time / length)
    time = (step + 1) / epoch_steps
    if time < config.warmup:
        return config.warmup_lr + time * (config.lr - config.warmup_lr) / config.warmup
    return _cosine(config, (time - config.warmup) / (length - config.warmup))


def _cosine(config: OptimConfig, progress: float) -> float:
    """Fall from lr to min_lr while `progress` goes from 0 to 1, and stay there."""
    return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1 + math.cos(math.pi * min(progress, 1.0)))
