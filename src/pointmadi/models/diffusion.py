"""Gaussian diffusion with prediction of the clean value (Ho et al. 2020; Song et al. 2021), apart from any network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pointmadi.ops.random import Draws


@dataclass(frozen=True)
class DiffusionConfig:
    """A noise schedule.

    Attributes:
        steps: T, the number of steps.
        schedule: 'linear' as released, or 'cosine' (Nichol & Dhariwal 2021), which keeps the signal longer.
        beta_start: variance added by the first step of the linear schedule.
        beta_end: variance added by its last step.
    """

    steps: int = 2000
    schedule: Literal["linear", "cosine"] = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02


def signal_levels(config: DiffusionConfig) -> Tensor:
    """Return ᾱ (T,) in float32: the share of variance that is still signal after each step."""
    if config.steps < 1:
        raise ValueError(f"diffusion needs at least 1 step, not {config.steps}")
    if config.schedule == "linear":
        if not 0 < config.beta_start <= config.beta_end < 1:
            raise ValueError(f"need 0 < beta_start <= beta_end < 1, not {config.beta_start} and {config.beta_end}")
        beta = torch.linspace(config.beta_start, config.beta_end, config.steps)
    else:
        level = torch.cos((torch.linspace(0, 1, config.steps + 1) + 0.008) / 1.008 * torch.pi / 2).square()
        beta = (1 - level[1:] / level[:-1]).clamp(max=0.999)
    return (1 - beta).cumprod(0)


class Moment(NamedTuple):
    """One moment of the reverse process: the step, the noisy value given, the clean value predicted from it."""

    step: int
    noisy: Tensor
    clean: Tensor


class Diffusion(nn.Module):
    """Add noise, and take it away again step by step.

    A clean value is multiplied by `scale` before noise is added, so that a signal of small spread is not buried at
    once: patches have a standard deviation of about 0.13 against noise of 1.
    """

    signal: Tensor
    noise: Tensor

    def __init__(self, config: DiffusionConfig, scale: float = 1.0) -> None:
        super().__init__()
        level = signal_levels(config)
        self.steps, self.scale = config.steps, scale
        self.register_buffer("signal", level.sqrt(), persistent=False)
        self.register_buffer("noise", (1 - level).sqrt(), persistent=False)

    def add_noise(self, clean: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """Return √ᾱ · scale · clean + √(1−ᾱ) · noise; `step` (B,) chooses ᾱ for each row of clean (B, …)."""
        shape = (-1,) + (1,) * (clean.dim() - 1)
        return (self.signal[step].view(shape) * self.scale) * clean + self.noise[step].view(shape) * noise

    def ladder(self, count: int) -> list[int]:
        """Return `count` steps from T − 1 down to 0, evenly spread."""
        if not 1 <= count <= self.steps:
            raise ValueError(
                f"cannot sample in {count} steps with a schedule of {self.steps}; choose 1 to {self.steps}"
            )
        return torch.linspace(self.steps - 1, 0, count).round().int().tolist()

    def backward_step(
        self, noisy: Tensor, clean: Tensor, step: int, to: int | None, eta: float, draws: Draws
    ) -> Tensor:
        """Go from `step` to the earlier step `to` (None: to the clean value), given the prediction `clean`.

        eta = 0 is DDIM (deterministic), eta = 1 is DDPM (the posterior's variance).
        """
        clean = clean * self.scale
        if to is None:
            return clean
        signal, noise, signal_to, noise_to = self.signal[step], self.noise[step], self.signal[to], self.noise[to]
        spread = eta * (noise_to / noise) * (1 - (signal / signal_to).square()).clamp(min=0).sqrt()
        direction = (noisy - signal * clean) / noise
        mean = signal_to * clean + (noise_to.square() - spread.square()).clamp(min=0).sqrt() * direction
        return mean + spread * draws.normal(*noisy.shape) if eta else mean

    def sample(
        self, predict: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, count: int, eta: float, draws: Draws
    ) -> Iterator[Moment]:
        """Run the reverse process from pure noise in `count` steps; yield every moment: the last `clean` counts.

        Args:
            predict: (noisy (B, …), step (B,)) -> clean (B, …).
            noisy: the start, N(0, 1).
            count: number of predictions.
            eta: 0 for DDIM, 1 for DDPM.
            draws: source of the noise that DDPM adds.

        Raises:
            ValueError: more steps than the schedule has, or eta beyond 0 … 1.
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta goes from 0 (DDIM) to 1 (DDPM), not {eta}")
        ladder: list[int] = self.ladder(count)
        for step, to in zip(ladder, [*ladder[1:], None], strict=True):
            clean = predict(noisy, torch.full((len(noisy),), step, device=noisy.device))
            yield Moment(step, noisy, clean)
            noisy = self.backward_step(noisy, clean, step, to, eta, draws)
