"""The three objectives: every switch, where gradients go, what may be seen, and that they can be learned."""

from dataclasses import replace

import pytest
import torch

from pointmadi.models.decoder import DecoderConfig, PatchDecoder, patch_loss
from pointmadi.models.diffusion import DiffusionConfig
from pointmadi.models.encoder import EncoderConfig
from pointmadi.nn.patches import Patches
from pointmadi.objectives import OBJECTIVES, PCPMAE, PCPMAEConfig, PointMaDi, PointMaDiConfig, PointMAE, PointMAEConfig
from pointmadi.objectives import build as build_objective
from pointmadi.ops.chamfer import chamfer
from pointmadi.ops.neighbors import gather
from pointmadi.ops.random import Draws

BATCH, PATCHES, SIZE, DIM = 4, 10, 6, 12
VISIBLE, HIDDEN = 4, 6
ENCODER = EncoderConfig(DIM, 2, 2, PATCHES, SIZE, (8, 8, 8), drop_path=0.0)
DECODER = DecoderConfig(2, 2, 0.0)
SWITCHES = {
    "point-madi": [
        {},
        {"noised_centers": "visible"},
        {"noised_centers": "hidden"},
        {"encoder_hidden": "learned"},
        {"step_embedding": True},
        {"patch_scale": 1 / 0.13},
        {"center_diffusion": DiffusionConfig(50, "cosine")},
        {"patch_diffusion": DiffusionConfig(1, beta_start=0.5, beta_end=0.5)},
        {"random_ratio": 0.3, "block_ratio": 0.3},
        {"random_ratio": 0.9, "block_ratio": 0.95},
        {"loss": "l1"},
        {"loss": "mse"},
        {"center_weight": 3.0},
    ],
    "point-mae": [{}, {"mask": "block"}, {"mask_ratio": 0.85}, {"loss": "l1"}, {"loss": "mse"}],
    "pcp-mae": [{}, {"mask": "block"}, {"mask_ratio": 0.3}, {"loss": "l1"}, {"loss": "mse"}, {"center_weight": 1.0}],
}
CASES = [(name, changes) for name, group in SWITCHES.items() for changes in group]
NAMES = [f"{name}{''.join(f'-{key}={value}' for key, value in changes.items())}"[:60] for name, changes in CASES]


def make(name="point-madi", encoder=ENCODER, **changes):
    torch.manual_seed(0)
    return build_objective(encoder, replace(OBJECTIVES[name], decoder=DECODER, **changes))


def batch(features=0, seed=0):
    random = torch.Generator().manual_seed(seed)
    known = {"features": torch.rand(BATCH, 50, features, generator=random)} if features else {}
    return {"points": torch.randn(BATCH, 50, 3, generator=random) / 2, **known}


def watch(module):
    """Return a list that the inputs of every call of `module` will be appended to."""
    seen = []
    module.register_forward_hook(lambda module, given, found: seen.append((*given, found)))
    return seen


def gradients(objective, loss, part=""):
    """Return the gradients of `loss` in the weights whose names begin with `part`; None where there is no path."""
    named = {name: weight for name, weight in objective.named_parameters() if name.startswith(part)}
    assert named, part
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return dict(zip(named, found, strict=True))


def reached(objective, loss, part):
    """Say whether `loss` has any gradient in the weights whose names begin with `part`."""
    return any(grad is not None and bool((grad != 0).any()) for grad in gradients(objective, loss, part).values())


@pytest.mark.parametrize(("name", "changes"), CASES, ids=NAMES)
def test_every_switch_gives_finite_losses_and_gradients(name, changes):
    objective = make(name, replace(ENCODER, features=2), **changes)
    losses = objective(batch(features=2), Draws(0))
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    idle = {"visible": "hidden_center", "hidden": "visible_center"}.get(changes.get("noised_centers"))
    for weight, grad in gradients(objective, losses["total"]).items():
        assert grad is not None and grad.isfinite().all(), weight  # none may be unused: several processes want that
        assert bool((grad != 0).any()) != (idle is not None and weight.startswith(idle)), weight


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_a_function_of_weights_batch_and_draws(name):
    objective = make(name)
    first, again, other = (objective(batch(), Draws(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["total"], other["total"])
    assert not torch.equal(first["total"], objective(batch(seed=1), Draws(0))["total"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_fp32_under_autocast_and_close(name):
    objective = make(name)
    exact = objective(batch(), Draws(0))
    with torch.autocast("cpu", torch.bfloat16):
        rough = objective(batch(), Draws(0))
    for key, loss in rough.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[key].item(), rel=0.03)


def shapes():
    """Make four shapes that are easy to tell apart: a sphere, a disc, a helix, a stick; the same points every time."""
    random = torch.Generator().manual_seed(0)
    turn, height = torch.rand(2, 60, generator=random) * torch.tensor([[6.2832], [1.0]])
    ring, flat = torch.stack([turn.cos(), turn.sin()], dim=-1), torch.zeros(60, 1)
    sphere = torch.nn.functional.normalize(torch.randn(60, 3, generator=random), dim=-1)
    disc = torch.cat([ring * height[:, None].sqrt(), flat], dim=-1)
    helix = torch.cat([ring * 0.5, turn[:, None] / 4 - 0.8], dim=-1)
    stick = torch.stack([flat[:, 0], 2 * height - 1, flat[:, 0]], dim=-1)
    return {"points": torch.stack([sphere, disc, helix, stick])}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_learn_four_shapes(name):
    objective = make(name, replace(ENCODER, dim=24))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-3)

    def judge():
        with torch.no_grad():
            return torch.stack([torch.stack(list(objective(shapes(), Draws(1, i)).values())) for i in range(8)]).mean(0)

    before = judge()
    for step in range(60):
        optimizer.zero_grad()
        objective(shapes(), Draws(0, step))["total"].backward()
        optimizer.step()
    assert (judge() < 0.7 * before).all(), (before, judge())  # the total, and each of its parts


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_batch_is_not_changed(name):
    given = batch()
    before = given["points"].clone()
    make(name)(given, Draws(0))
    assert torch.equal(given["points"], before)


def test_build_fits_positions_to_the_objective():
    kinds = {"point-madi": (PointMaDi, "mlp"), "point-mae": (PointMAE, "mlp"), "pcp-mae": (PCPMAE, "sincos")}
    for name, (kind, positions) in kinds.items():
        for given in ("mlp", "sincos"):
            objective = make(name, replace(ENCODER, positions=given))
            assert type(objective) is kind
            assert objective.encoder.config.positions == positions
    with pytest.raises(ValueError, match="sincos"):
        PCPMAE(ENCODER)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("point-madi", {"random_ratio": 0.5}, "different numbers of the 10 patches"),
        ("point-madi", {"random_ratio": 0.0}, "hides 0 of 10"),
        ("point-madi", {"block_ratio": 1.0}, "hides 10 of 10"),
        ("point-madi", {"patch_diffusion": DiffusionConfig(0)}, "at least 1 step"),
        ("point-mae", {"mask_ratio": 0.05}, "hides 0 of 10"),
        ("pcp-mae", {"mask_ratio": 1.2}, "hides 12 of 10"),
    ],
)
def test_impossible_settings_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        make(name, **changes)


# The decoder and its distance


@pytest.mark.parametrize("name", OBJECTIVES)
def test_decoders_start_as_released(name):
    decoder = make(name, replace(ENCODER, dim=96)).decoder
    bound = (6 / (2 * 96)) ** 0.5  # Xavier for each of q, k, v, not for the three together
    for block in decoder.transformer.blocks:
        for matrix in block.attn.qkv.weight.chunk(3):
            assert 0.98 * bound < matrix.abs().max() <= bound
        assert (block.attn.proj.bias == 0).all() and (block.mlp.fc1.bias == 0).all()
    assert decoder.rebuild.weight.abs().max().item() == pytest.approx(96**-0.5, rel=0.05)


def test_the_decoder_rebuilds_hidden_patches_only():
    decoder = PatchDecoder(EncoderConfig(dim=DIM, patch_size=SIZE), DECODER)
    assert decoder(torch.randn(2, PATCHES, DIM), torch.randn(2, PATCHES, DIM), VISIBLE).shape == (2, HIDDEN, SIZE, 3)


@pytest.mark.parametrize("kind", ["l2", "l1", "mse"])
def test_patches_are_compared_one_by_one(kind):
    rebuilt, clean = torch.randn(2, 3, HIDDEN, SIZE, 3)
    pairs = list(zip(rebuilt.flatten(0, 1), clean.flatten(0, 1), strict=True))
    each = [(a - b).square().mean() if kind == "mse" else chamfer(a[None], b[None], kind) for a, b in pairs]
    torch.testing.assert_close(patch_loss(rebuilt, clean, kind), torch.stack(each).mean())


# Point-MaDi


def test_a_plan_gives_both_views_the_same_steps_and_their_own_noise():
    objective = make(center_diffusion=DiffusionConfig(7))
    patches = objective.encoder.cut(batch()["points"])
    plan = objective.plan(patches, Draws(0))
    assert plan.hidden.shape == (2 * BATCH, PATCHES) and (plan.hidden.sum(1) == HIDDEN).all()
    assert plan.center_noise.shape == (2 * BATCH, PATCHES, 3)
    assert plan.patch_noise.shape == (2 * BATCH, HIDDEN, SIZE, 3)
    for steps, count in ((plan.center_step, 7), (plan.patch_step, 2000)):
        assert torch.equal(steps[:BATCH], steps[BATCH:])
        assert ((steps >= 0) & (steps < count)).all()
    for noise in (plan.center_noise, plan.patch_noise):
        assert not (noise[:BATCH] == noise[BATCH:]).any()
    distance = torch.cdist(patches.centers, patches.centers)
    for row, around in zip(plan.hidden[BATCH:], distance, strict=True):
        blocks = [set(order[:HIDDEN].tolist()) for order in around.argsort(dim=1)]
        assert set(row.nonzero().flatten().tolist()) in blocks


def test_steps_are_uniform_and_noise_is_normal():
    objective = make(center_diffusion=DiffusionConfig(5), patch_diffusion=DiffusionConfig(4))
    many = Patches(torch.randn(5000, PATCHES, 3), torch.zeros(5000, PATCHES, SIZE, 3))
    plan = objective.plan(many, Draws(0))
    for steps, count in ((plan.center_step, 5), (plan.patch_step, 4)):
        assert (torch.bincount(steps, minlength=count) / len(steps) - 1 / count).abs().max() < 0.03
    assert abs(torch.corrcoef(torch.stack([plan.center_step, plan.patch_step]).float())[0, 1]) < 0.05
    for noise in (plan.center_noise, plan.patch_noise):
        assert abs(noise.mean()) < 0.01 and noise.std().item() == pytest.approx(1, abs=0.01)


def test_two_processes_plan_what_one_does():
    objective = make()
    patches = objective.encoder.cut(batch()["points"])
    whole = objective.plan(patches, Draws(0))
    for rank in range(2):
        rows = slice(2 * rank, 2 * rank + 2)
        mine = objective.plan(Patches(patches.centers[rows], patches.offsets[rows]), Draws(0, rank=rank, world=2))
        for part, all_rows in zip(mine, whole, strict=True):
            assert torch.equal(part.unflatten(0, (2, -1)), all_rows.unflatten(0, (2, -1))[:, rows])


@pytest.mark.parametrize("changes", SWITCHES["point-madi"][:7], ids=NAMES[:7])
def test_the_loss_of_both_views_is_the_mean_of_their_losses(changes):
    objective = make(**changes).eval()
    patches = objective.encoder.cut(batch()["points"])
    plan = objective.plan(patches, Draws(0))
    views = [
        type(plan)(*(value.unflatten(0, (2, -1))[view].repeat(2, *[1] * (value.ndim - 1)) for value in plan))
        for view in range(2)
    ]
    both, single = objective.losses(patches, plan), [objective.losses(patches, view) for view in views]
    for key, loss in both.items():
        assert loss.item() == pytest.approx((single[0][key] + single[1][key]).item() / 2, rel=1e-5)


def test_the_total_weighs_centres_by_gamma():
    losses = make(center_weight=0.3)(batch(), Draws(0))
    torch.testing.assert_close(losses["total"], 0.3 * losses["center"] + losses["patch"])


def test_the_patch_loss_does_not_teach_the_centre_heads_but_does_teach_positions():
    objective = make()
    losses = objective(batch(), Draws(0))
    for part in ("visible_center", "hidden_center"):
        assert not reached(objective, losses["patch"], part)
        assert reached(objective, losses["center"], part)
    for part in ("encoder.positions", "encoder.transformer", "encoder.tokenizer", "decoder", "embed_noisy"):
        assert reached(objective, losses["patch"], part)
    for part in ("decoder", "embed_noisy"):
        assert not reached(objective, losses["center"], part)


def test_the_decoder_works_at_the_predicted_places():
    objective = make()
    seen = watch(objective.encoder.positions)
    heads = [watch(objective.visible_center), watch(objective.hidden_center)]
    objective(batch(), Draws(0))
    (noisy, _), (places, _) = seen
    assert torch.equal(places, torch.cat([head[0][1] for head in heads], dim=1))
    assert not places.requires_grad
    assert heads[0][0][0].shape == (2 * BATCH, VISIBLE, DIM)
    assert noisy.shape == (2 * BATCH, PATCHES, 3)


@pytest.mark.parametrize("noised", ["both", "visible", "hidden"])
def test_only_the_chosen_centres_are_noised_predicted_and_judged(noised):
    objective = make(noised_centers=noised)
    seen = watch(objective.encoder.positions)
    heads = [watch(objective.visible_center), watch(objective.hidden_center)]
    patches = objective.encoder.cut(batch()["points"])
    plan = objective.plan(patches, Draws(0))
    plan = plan._replace(center_step=torch.full_like(plan.center_step, 300))
    losses = objective.losses(patches, plan)
    order = torch.cat(
        [(~plan.hidden).nonzero()[:, 1].view(-1, VISIBLE), plan.hidden.nonzero()[:, 1].view(-1, HIDDEN)], 1
    )
    clean = gather(patches.centers.repeat(2, 1, 1), order)
    noisy = objective.center_diffusion.add_noise(clean, plan.center_step, gather(plan.center_noise, order))
    predicted = torch.cat([head[0][1] for head in heads], dim=1)
    (entry, _), (places, _) = seen
    errors = []
    for name, part in (("visible", slice(0, VISIBLE)), ("hidden", slice(VISIBLE, None))):
        chosen = noised in ("both", name)
        torch.testing.assert_close(entry[:, part], (noisy if chosen else clean)[:, part])
        torch.testing.assert_close(places[:, part], (predicted if chosen else clean)[:, part])
        if chosen:
            errors.append((predicted - clean)[:, part].square().mean())
    torch.testing.assert_close(losses["center"], torch.stack(errors).mean())


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_decoder_is_given_noised_patches(scale):
    objective = make(patch_scale=scale)
    seen = watch(objective.embed_noisy)
    patches = objective.encoder.cut(batch()["points"])
    plan = objective.plan(patches, Draws(0))
    objective.losses(patches, plan)
    clean = patches.offsets.repeat(2, 1, 1, 1)[plan.hidden].view(2 * BATCH, HIDDEN, SIZE, 3)
    noisy = objective.patch_diffusion.add_noise(clean, plan.patch_step, plan.patch_noise)
    assert torch.equal(seen[0][0], noisy.flatten(2))  # point-major: x1, y1, z1, x2, …
    level = objective.patch_diffusion.signal[plan.patch_step].square().view(-1, 1, 1, 1)
    expected = level.sqrt() * scale * clean + (1 - level).sqrt() * plan.patch_noise
    torch.testing.assert_close(noisy, expected, rtol=1e-3, atol=1e-4)


def test_centres_and_patches_have_schedules_of_their_own():
    objective = make(center_diffusion=DiffusionConfig(1), patch_diffusion=DiffusionConfig(300))
    assert (objective.center_diffusion.steps, objective.patch_diffusion.steps) == (1, 300)
    seen = watch(objective.encoder.positions)
    objective(batch(), Draws(0))
    places = set(map(tuple, objective.encoder.cut(batch()["points"]).centers.flatten(0, 1).round(decimals=1).tolist()))
    near = [tuple(place) in places for place in seen[0][0].flatten(0, 1).round(decimals=1).tolist()]
    assert sum(near) > 0.6 * len(near)  # a single step hardly moves a centre


@pytest.mark.parametrize("told", [False, True])
def test_the_decoder_knows_the_step_only_if_told(told):
    objective = make(step_embedding=told).eval()
    random = torch.Generator().manual_seed(0)
    latent, centers = torch.randn(2, PATCHES, DIM, generator=random), torch.randn(2, PATCHES, 3, generator=random)
    noisy = torch.randn(2, HIDDEN, SIZE, 3, generator=random)
    early, late = (objective.predict_patches(latent, noisy, centers, torch.tensor([step, step])) for step in (3, 1500))
    assert torch.equal(early, late) != told


@pytest.mark.parametrize(("kind", "independent"), [("real", False), ("learned", True)])
def test_the_learned_token_takes_the_place_of_hidden_contents(kind, independent):
    objective = make(encoder_hidden=kind).eval()
    patches = objective.encoder.cut(batch()["points"])
    plan = objective.plan(patches, Draws(0))
    hidden = plan.hidden[:BATCH]
    plan = plan._replace(hidden=hidden.repeat(2, 1))
    others = torch.where(hidden[..., None, None], patches.offsets.flip(1) * 2, patches.offsets)
    heads = [watch(objective.visible_center), watch(objective.hidden_center)]
    for given in (patches, patches._replace(offsets=others)):
        objective.losses(given, plan)
    for (before, _), (after, _) in heads[:1]:
        assert torch.equal(before, after)  # visible ones never see hidden ones
    (before, _), (after, _) = heads[1]
    assert torch.equal(before, after) == independent


# Point-MAE and PCP-MAE


def rebuilt_by(objective, patches, hidden):
    seen = watch(objective.decoder)
    losses = objective.losses(patches, hidden)
    return seen[-1][-1], losses


@pytest.mark.parametrize("name", ["point-mae", "pcp-mae"])
def test_hidden_contents_are_not_seen_by_the_decoder(name):
    objective = make(name).eval()
    patches = objective.encoder.cut(batch()["points"])
    hidden = torch.zeros(BATCH, PATCHES, dtype=torch.bool).index_fill(1, torch.arange(0, HIDDEN), True)
    before, losses = rebuilt_by(objective, patches, hidden)
    offsets = torch.where(hidden[..., None, None], patches.offsets.flip(1) * 2, patches.offsets)
    after, others = rebuilt_by(objective, patches._replace(offsets=offsets), hidden)
    assert torch.equal(before, after) == (name == "point-mae")  # PCP-MAE sees them when it predicts places
    assert not torch.equal(losses["total"], others["total"])


@pytest.mark.parametrize(("name", "told"), [("point-mae", True), ("pcp-mae", False)])
def test_only_point_mae_tells_the_decoder_where_hidden_patches_are(name, told):
    objective = make(name).eval()
    patches = objective.encoder.cut(batch()["points"])
    hidden = torch.zeros(BATCH, PATCHES, dtype=torch.bool).index_fill(1, torch.arange(0, HIDDEN), True)
    before, _ = rebuilt_by(objective, patches, hidden)
    centers = torch.where(hidden[..., None], patches.centers + 0.3, patches.centers)
    after, _ = rebuilt_by(objective, patches._replace(centers=centers), hidden)
    assert torch.equal(before, after) != told


def test_point_mae_encodes_visible_patches_only():
    objective = make("point-mae")
    seen = watch(objective.encoder.transformer)
    objective(batch(), Draws(0))
    assert seen[0][0].shape == (BATCH, VISIBLE, DIM)
    assert set(objective(batch(), Draws(0))) == {"total"}


def test_pcp_mae_sends_gradients_where_it_should():
    objective = make("pcp-mae")
    losses = objective(batch(), Draws(0))
    torch.testing.assert_close(losses["total"], 0.1 * losses["center"] + losses["patch"])
    for part in ("predict", "hidden_position"):
        assert reached(objective, losses["center"], part) and not reached(objective, losses["patch"], part)
    for part in ("decoder", "hidden_token"):
        assert reached(objective, losses["patch"], part) and not reached(objective, losses["center"], part)
    for part in ("encoder.positions", "encoder.transformer", "encoder.tokenizer"):
        assert reached(objective, losses["center"], part) and reached(objective, losses["patch"], part)


@pytest.mark.parametrize(("name", "kind"), [("point-mae", PointMAEConfig), ("pcp-mae", PCPMAEConfig)])
def test_masks_are_of_the_chosen_kind(name, kind):
    assert kind().mask == "random"
    objective = make(name, mask="block")
    places = objective.encoder.cut(batch()["points"]).centers
    drawn = []
    objective.losses = lambda patches, hidden: drawn.append(hidden)
    objective(batch(), Draws(0))
    for row, around in zip(drawn[0], torch.cdist(places, places), strict=True):
        blocks = [set(order[:HIDDEN].tolist()) for order in around.argsort(dim=1)]
        assert set(row.nonzero().flatten().tolist()) in blocks


def test_the_defaults_are_the_releases():
    config = PointMaDiConfig()
    assert (config.random_ratio, config.block_ratio, config.center_weight, config.loss) == (0.6, 0.6, 0.1, "l2")
    assert config.center_diffusion == config.patch_diffusion == DiffusionConfig(2000, "linear", 1e-4, 0.02)
    assert (config.noised_centers, config.encoder_hidden, config.patch_scale) == ("both", "real", 1.0)
    assert not config.step_embedding
    assert config.decoder == DecoderConfig(0, 6, 0.1)
