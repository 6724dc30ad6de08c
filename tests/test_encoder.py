"""The encoder as its users meet it: sizes, any number of points, features, taps, errors."""

from dataclasses import replace

import pytest
import torch

from pointmadi.models.encoder import PRESETS, EncoderConfig, PointEncoder
from pointmadi.nn.patches import cut
from pointmadi.objectives import OBJECTIVES, build

SMALLEST = EncoderConfig(12, 3, 2, num_patches=6, patch_size=5, widths=(8, 8, 8), drop_path=0.2)


def encoder(**changes):
    torch.manual_seed(0)
    return PointEncoder(replace(SMALLEST, **changes)).eval()


def cloud(num_points=40, channels=3, seed=0):
    return torch.randn(2, num_points, channels, generator=torch.Generator().manual_seed(seed)) / 2


@pytest.mark.parametrize("positions", ["mlp", "sincos"])
@pytest.mark.parametrize("num_points", [6, 7, 40, 200])
def test_any_number_of_points_gives_one_vector_a_patch(positions, num_points):
    found = encoder(positions=positions)(cloud(num_points))
    assert found.latent.shape == (2, 6, 12)
    assert found.centers.shape == (2, 6, 3)
    assert found.taps == ()
    assert found.latent.isfinite().all()
    pooled = torch.cat([found.latent.mean(1), found.latent.max(1).values], dim=1)
    assert torch.equal(found.pooled, pooled)


def test_encoding_is_patches_tokens_positions_transformer():
    model, points = encoder(), cloud()
    patches = cut(points, 6, 5)
    latent = model.transformer(model.tokenizer(patches), model.positions(patches.centers)).latent
    found = model(points)
    assert torch.equal(found.latent, latent)
    assert torch.equal(found.centers, patches.centers)
    assert torch.equal(model.encode(patches).latent, latent)


def test_clouds_of_a_batch_do_not_know_each_other():
    model, points = encoder(), cloud()
    together, alone = model(points), model(points[1:])
    torch.testing.assert_close(together.latent[1:], alone.latent, rtol=0, atol=1e-5)


def test_taps_come_from_the_blocks_asked_for():
    model, points = encoder(), cloud()
    found = model(points, taps=(0, 2))
    assert [tap.shape for tap in found.taps] == [(2, 6, 12)] * 2
    assert torch.equal(found.taps[1], found.latent)
    assert not torch.equal(found.taps[0], found.latent)
    with pytest.raises(ValueError, match="taps"):
        model(points, taps=(3,))


def test_features_count_and_must_be_the_right_ones():
    model, points, colors = encoder(features=3), cloud(), cloud(seed=1)
    with torch.no_grad():
        model.tokenizer.lift.weight[:, 3:] = 1
    assert not torch.allclose(model(points, colors).latent, model(points, colors + 1).latent)
    for wrong in (None, colors[..., :2]):
        with pytest.raises(ValueError, match="takes 3 feature channels"):
            model(points, wrong)
    with pytest.raises(ValueError, match="takes 0 feature channels"):
        encoder()(points, colors)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (cloud(5), "num_patches"),
        (cloud()[0], "shape"),
        (cloud(channels=6), "shape"),
        (cloud().fill_(torch.inf), "infinite"),
        (cloud().index_fill(1, torch.tensor(3), torch.nan), "NaN"),
    ],
)
def test_unusable_clouds_are_refused_in_one_line(points, message):
    with pytest.raises(ValueError, match=message) as error:
        encoder()(points)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "heads"),
        ({"heads": 0}, "heads"),
        ({"depth": 0}, "depth"),
        ({"dim": 16, "positions": "sincos"}, "multiple of 6"),
        ({"drop_path": 1.0}, "drop_path"),
    ],
)
def test_impossible_encoders_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        encoder(**changes)


def test_weights_start_as_released():
    model = PointEncoder(PRESETS["nano"])
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert (weight == (1 if name.endswith("weight") else 0)).all()
        elif weight.ndim == 1:
            assert (weight == 0).all(), name
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.25), name
            assert abs(weight.mean().item()) < 0.005
    assert PointEncoder().config == PRESETS["small"]


def test_gradients_reach_every_weight():
    model = encoder().train()
    (model(cloud()).latent * cloud(6, 12)).sum().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not without


def count(make):
    """Count the weights of a model, without making them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in make().parameters())


@pytest.mark.parametrize(("name", "millions"), [("nano", 0.5), ("tiny", 3.1), ("small", 21.83), ("base", 85.82)])
def test_presets_have_their_sizes(name, millions):
    assert count(lambda: PointEncoder(PRESETS[name])) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("name", ["nano", "tiny", "small"])
def test_presets_encode(name):
    config = replace(PRESETS[name], depth=1)
    assert PointEncoder(config).eval()(cloud(100)).latent.shape == (2, config.num_patches, config.dim)


def test_small_pretraining_has_exactly_as_many_weights_as_the_release():
    assert count(lambda: build(PRESETS["small"], OBJECTIVES["point-madi"])) == 29_092_582


@pytest.mark.parametrize(("objective", "millions"), [("point-mae", 29.0), ("pcp-mae", 29.5)])
def test_the_other_objectives_have_the_sizes_their_papers_state(objective, millions):
    assert count(lambda: build(PRESETS["small"], OBJECTIVES[objective])) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("encoder", PRESETS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_preset_fits_every_objective(encoder, objective):
    assert count(lambda: build(PRESETS[encoder], OBJECTIVES[objective])) > 5e5
