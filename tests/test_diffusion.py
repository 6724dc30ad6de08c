"""Schedules, noise, and the reverse process against the textbook."""

import math
from itertools import pairwise

import pytest
import torch

from pointmadi.models.diffusion import Diffusion, DiffusionConfig, signal_levels
from pointmadi.ops.random import Draws

SCHEDULES = [
    DiffusionConfig(),
    DiffusionConfig(schedule="cosine"),
    DiffusionConfig(100, beta_start=0.001, beta_end=0.2),
]


class Fixed(Draws):
    """Draws that give one value for every normal number."""

    def __init__(self, value):
        super().__init__(0)
        self.value = value

    def normal(self, *shape):
        return torch.full(shape, self.value, dtype=torch.float64)


def test_the_linear_schedule_is_the_released_one():
    level = signal_levels(DiffusionConfig())
    assert level.shape == (2000,) and level.dtype == torch.float32
    for step, expected in {100: 0.94, 200: 0.80, 500: 0.27, 1000: 6e-3, 1999: 1.6e-9}.items():
        assert level[step].item() == pytest.approx(expected, rel=0.06)
    assert level[0].item() == pytest.approx(1 - 1e-4)
    assert (level < 0.01).float().mean().item() == pytest.approx(0.525, abs=0.0005)
    beta = [1e-4 + (0.02 - 1e-4) * step / 1999 for step in range(2000)]
    exact = torch.tensor([1 - b for b in beta], dtype=torch.float64).cumprod(0)
    assert (level / exact - 1).abs().max() < 1e-3


def test_the_patch_signal_is_buried_when_the_specification_says():
    patch, center = 0.13, 0.43
    ratio = signal_levels(DiffusionConfig()) / (1 - signal_levels(DiffusionConfig()))
    below = [
        (ratio * spread**2 < bound).nonzero()[0].item() for spread, bound in ((patch, 1), (patch, 0.1), (center, 1))
    ]
    assert below == [pytest.approx(47, abs=2), pytest.approx(163, abs=4), pytest.approx(173, abs=4)]


@pytest.mark.parametrize("config", SCHEDULES)
def test_the_signal_fades_and_never_returns(config):
    level = signal_levels(config)
    assert ((level > 0) & (level < 1)).all()
    assert (level.diff() < 0).all()
    assert level[0] > 0.98 and level[-1] < 0.01


def test_the_cosine_schedule_is_that_of_its_paper():
    level = signal_levels(DiffusionConfig(1000, "cosine"))
    angle = (torch.arange(1001, dtype=torch.float64) / 1000 + 0.008) / 1.008 * math.pi / 2
    expected = (angle.cos() / angle[0].cos()).square()[1:]
    assert (level[:-1] - expected[:-1]).abs().max() < 1e-5
    assert 1 - level[-1] / level[-2] == pytest.approx(0.999, abs=1e-5)
    assert (level > 0.01).float().mean() > 0.9  # it keeps the signal longer


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DiffusionConfig(0), "at least 1 step"),
        (DiffusionConfig(beta_start=0.0), "beta_start"),
        (DiffusionConfig(beta_start=0.1), "beta_start"),
        (DiffusionConfig(beta_end=1.0), "beta_start"),
    ],
)
def test_impossible_schedules_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Diffusion(config)


def test_one_step_is_a_schedule():
    assert signal_levels(DiffusionConfig(1)).tolist() == [pytest.approx(1 - 1e-4)]
    assert Diffusion(DiffusionConfig(1)).ladder(1) == [0]


@pytest.mark.parametrize("scale", [1.0, 1 / 0.13])
def test_noise_is_added_by_each_rows_own_step(scale):
    diffusion = Diffusion(DiffusionConfig(), scale)
    level = signal_levels(DiffusionConfig()).double()
    clean, noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).unbind()
    step = torch.tensor([0, 700, 1999])
    found = diffusion.add_noise(clean, step, noise)
    for row in range(3):
        ratio = level[step[row]].item()
        expected = math.sqrt(ratio) * scale * clean[row] + math.sqrt(1 - ratio) * noise[row]
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)
    assert not Diffusion(DiffusionConfig()).state_dict()  # weights only; the schedule is in the config


@pytest.mark.parametrize("steps", [1, 2, 7, 100, 2000])
def test_ladders_fall_from_the_last_step_to_the_first(steps):
    diffusion = Diffusion(DiffusionConfig(steps))
    for count in {1, 2, 3, steps // 3, steps - 1, steps} & set(range(1, steps + 1)):
        ladder = diffusion.ladder(count)
        assert len(ladder) == count
        assert ladder[0] == steps - 1 and (count == 1 or ladder[-1] == 0)
        gaps = [upper - lower for upper, lower in pairwise(ladder)]
        assert not gaps or 1 <= min(gaps) <= max(gaps) <= min(gaps) + 1


@pytest.mark.parametrize("count", [0, -3, 2001])
def test_ladders_longer_than_the_schedule_are_refused(count):
    with pytest.raises(ValueError, match=f"cannot sample in {count} steps .*choose 1 to 2000"):
        Diffusion(DiffusionConfig()).ladder(count)


@pytest.mark.parametrize("config", SCHEDULES)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_ddim_with_a_perfect_prediction_stays_on_the_line_of_its_noise(config, scale):
    diffusion = Diffusion(config, scale).double()
    clean, noise = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    first = diffusion.add_noise(clean, torch.full((3,), config.steps - 1), noise)
    moments = list(diffusion.sample(lambda noisy, step: clean, first, 20, 0.0, Draws(0)))
    assert [moment.step for moment in moments] == diffusion.ladder(20)
    for moment in moments:
        expected = diffusion.add_noise(clean, torch.full((3,), moment.step), noise)
        torch.testing.assert_close(moment.noisy, expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(moment.clean, clean)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_ddpm_steps_have_the_textbook_mean_and_variance(scale):
    config = DiffusionConfig()
    diffusion = Diffusion(config, scale).double()
    level = signal_levels(config).double()
    diffusion.signal, diffusion.noise = level.sqrt(), (1 - level).sqrt()
    x0, xt = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    for step in (1, 50, 1000, 1999):
        now, before = level[step], level[step - 1]
        alpha = now / before
        beta = 1 - alpha
        mean = (before.sqrt() * beta * scale * x0 + alpha.sqrt() * (1 - before) * xt) / (1 - now)
        spread = (beta * (1 - before) / (1 - now)).sqrt()
        for noise in (0.0, 1.0, -2.0):
            found = diffusion.backward_step(xt, x0, step, step - 1, 1.0, Fixed(noise))
            torch.testing.assert_close(found, mean + noise * spread, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("step", "to"), [(1999, 1500), (600, 300), (40, 0)])
def test_steps_of_any_size_keep_the_spread_of_the_schedule(eta, step, to):
    diffusion = Diffusion(DiffusionConfig())
    clean, draws = torch.full((100_000, 1), 0.3), Draws(0)
    noisy = diffusion.add_noise(clean, torch.full((100_000,), step), draws.normal(100_000, 1))
    found = diffusion.backward_step(noisy, clean, step, to, eta, draws)
    assert found.mean().item() == pytest.approx(diffusion.signal[to].item() * 0.3, abs=0.02)
    assert found.std().item() == pytest.approx(diffusion.noise[to].item(), rel=0.02)


def test_the_last_step_ends_at_the_scaled_prediction():
    clean = torch.randn(2, 3)
    assert torch.equal(
        Diffusion(DiffusionConfig(), 4.0).backward_step(clean + 1, clean, 0, None, 1.0, Draws(0)), 4 * clean
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("config", SCHEDULES)
@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, 0.2), (5.0, 0.06)])
def test_sampling_with_the_best_possible_prediction_gives_the_distribution_of_the_data(eta, config, scale, tolerance):
    mean, spread, samples = 0.3, 0.2, 20_000
    diffusion = Diffusion(config, scale)

    def expect(noisy, step):
        """Return E[clean | noisy] where clean values are N(mean, spread²)."""
        signal, noise = diffusion.signal[step[0]] * scale, diffusion.noise[step[0]]
        gain = signal * spread**2 / (signal.square() * spread**2 + noise.square())
        return mean + gain * (noisy - signal * mean)

    draws = Draws(0)
    made = list(diffusion.sample(expect, draws.normal(samples, 1), 100, eta, draws))[-1].clean
    assert made.mean().item() == pytest.approx(mean, abs=0.01)
    assert made.std().item() == pytest.approx(spread, rel=tolerance)  # in 100 steps
    once = list(diffusion.sample(expect, draws.normal(samples, 1), 1, eta, draws))[-1].clean
    assert once.std() < 0.5 * spread  # one-step prediction is but the mean


def test_sampling_is_a_function_of_its_draws():
    diffusion, start = Diffusion(DiffusionConfig()), torch.randn(4, 3)

    def end(eta, seed):
        return list(diffusion.sample(lambda noisy, step: 0.5 * noisy, start, 10, eta, Draws(seed)))[-1].clean

    assert torch.equal(end(1.0, 0), end(1.0, 0))
    assert not torch.equal(end(1.0, 0), end(1.0, 1))
    assert torch.equal(end(0.0, 0), end(0.0, 1))


@pytest.mark.parametrize("eta", [-0.1, 1.5, math.nan])
def test_eta_beyond_ddim_and_ddpm_is_refused(eta):
    with pytest.raises(ValueError, match="eta"):
        list(Diffusion(DiffusionConfig()).sample(lambda noisy, step: noisy, torch.zeros(1, 1), 5, eta, Draws(0)))
