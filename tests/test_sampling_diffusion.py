"""The reverse process: what it makes, what it may know, and that it finds what was learned."""

from dataclasses import replace

import pytest
import torch

from pointmadi.models.decoder import DecoderConfig
from pointmadi.models.diffusion import DiffusionConfig
from pointmadi.models.encoder import EncoderConfig
from pointmadi.models.masking import hide
from pointmadi.objectives import PointMaDi, PointMaDiConfig
from pointmadi.objectives.sampling import Rebuilt, SamplingConfig, complete, errors, rebuild
from pointmadi.ops.chamfer import chamfer
from pointmadi.ops.neighbors import gather
from pointmadi.ops.random import Draws

BATCH, PATCHES, SIZE, VISIBLE, HIDDEN, STEPS = 3, 10, 6, 4, 6, 7
ENCODER = EncoderConfig(24, 2, 2, PATCHES, SIZE, (16, 16, 32), drop_path=0.0)
NOISE = DiffusionConfig(100, beta_start=1e-3, beta_end=0.2)
CONFIG = PointMaDiConfig(center_diffusion=NOISE, patch_diffusion=NOISE, decoder=DecoderConfig(2, 2, 0.0))


def make(**changes):
    torch.manual_seed(0)
    objective = PointMaDi(ENCODER, replace(CONFIG, **changes)).eval()
    with torch.no_grad():  # larger weights, so that everything shows
        for weight in objective.parameters():
            weight.mul_(3)
    return objective


def task(objective, seed=0):
    """Return the patches of some clouds and which of them are hidden."""
    points = torch.randn(BATCH, 60, 3, generator=torch.Generator().manual_seed(seed)) / 2
    patches = objective.encoder.cut(points)
    return patches, hide("random", patches.centers, HIDDEN, Draws(seed))


def watch(module):
    """Return a list that the input of every call of `module` will be appended to."""
    seen = []
    module.register_forward_hook(lambda module, given, found: seen.append(given[0]))
    return seen


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("places", ["unknown", "visible", "given"])
def test_everything_has_its_shape(places, eta):
    objective = make()
    patches, hidden = task(objective)
    made = rebuild(objective, patches, hidden, SamplingConfig(STEPS, eta, places), Draws(0))
    clean = gather(patches.centers, made.order)
    assert not hidden.gather(1, made.order[:, :VISIBLE]).any()
    assert made.centers.shape == (BATCH, PATCHES, 3)
    assert made.offsets.shape == (BATCH, HIDDEN, SIZE, 3)
    members = made.offsets + made.centers[:, VISIBLE:, None]
    assert torch.equal(made.points, members.reshape(BATCH, HIDDEN * SIZE, 3))
    assert len(made.center_path) == (0 if places == "given" else STEPS)
    assert len(made.patch_path) == STEPS
    for moments, shape in ((made.center_path, made.centers.shape), (made.patch_path, made.offsets.shape)):
        assert [moment.step for moment in moments] == objective.patch_diffusion.ladder(STEPS)[: len(moments)]
        assert all(moment.noisy.shape == moment.clean.shape == shape for moment in moments)
    assert torch.equal(made.patch_path[-1].clean, made.offsets)
    assert not any(value.requires_grad for value in (made.centers, made.offsets))
    known = {"unknown": 0, "visible": VISIBLE, "given": PATCHES}[places]
    assert torch.equal(made.centers[:, :known], clean[:, :known])
    assert not torch.isclose(made.centers[:, known:], clean[:, known:]).all(-1).any()


def test_one_step_is_one_prediction_from_noise():
    objective = make()
    patches, hidden = task(objective)
    made = rebuild(objective, patches, hidden, SamplingConfig(1), Draws(0))
    (moment,) = made.center_path
    assert moment.step == NOISE.steps - 1
    tokens = gather(objective.encoder.tokenizer(patches), made.order)
    assert torch.equal(made.centers, objective.predict_centers(tokens, moment.noisy)[1])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_same_draws_give_the_same_and_others_others(eta):
    objective = make()
    patches, hidden = task(objective)
    first, again, other = (
        rebuild(objective, patches, hidden, SamplingConfig(STEPS, eta), Draws(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.points, other.points)
    cousin = rebuild(objective, patches, hidden, SamplingConfig(STEPS, 0.5), Draws(0))
    assert torch.equal(cousin.center_path[0].noisy, first.center_path[0].noisy)  # the same start
    assert not torch.equal(cousin.centers, first.centers)


def test_places_are_encoded_again_at_every_step():
    objective = make()
    patches, hidden = task(objective)
    entries, tokenized = watch(objective.encoder.transformer), watch(objective.encoder.tokenizer)
    rebuild(objective, patches, hidden, SamplingConfig(STEPS), Draws(0))
    assert len(entries) == STEPS + 1  # and once more at the places that were found
    assert len(tokenized) == 1


def test_unknown_places_stay_unknown():
    objective = make()
    patches, hidden = task(objective)
    moved = patches._replace(centers=patches.centers.flip(1) + 1)
    before, after = (rebuild(objective, given, hidden, SamplingConfig(STEPS), Draws(0)) for given in (patches, moved))
    assert torch.equal(before.points, after.points)


def test_visible_places_say_nothing_of_hidden_ones():
    objective = make()
    patches, hidden = task(objective)
    moved = patches._replace(centers=torch.where(hidden[..., None], patches.centers + 1, patches.centers))
    config = SamplingConfig(STEPS, 1.0, "visible")
    before, after = (rebuild(objective, given, hidden, config, Draws(0)) for given in (patches, moved))
    assert torch.equal(before.points, after.points)


@pytest.mark.parametrize(("kind", "places"), [("real", "given"), ("learned", "unknown"), ("learned", "visible")])
def test_hidden_contents_are_made_not_copied(kind, places):
    objective = make(encoder_hidden=kind)
    patches, hidden = task(objective)
    changed = patches._replace(offsets=torch.where(hidden[..., None, None], -2 * patches.offsets, patches.offsets))
    config = SamplingConfig(STEPS, 0.0, places)
    before, after = (rebuild(objective, given, hidden, config, Draws(0)) for given in (patches, changed))
    torch.testing.assert_close(before.points, after.points)


@pytest.mark.parametrize("places", ["unknown", "visible"])
@pytest.mark.parametrize("noised", ["both", "visible", "hidden"])
def test_the_encoder_sees_what_it_was_trained_on(noised, places):
    objective = make(noised_centers=noised)
    patches, hidden = task(objective)
    entries = watch(objective.encoder.positions)
    made = rebuild(objective, patches, hidden, SamplingConfig(STEPS, 0.0, places), Draws(0))
    clean = gather(patches.centers, made.order)
    start = made.center_path[0].noisy
    for moment, entry in zip(made.center_path, entries, strict=False):
        step = torch.full((BATCH,), moment.step)
        seen = objective.center_diffusion.add_noise(clean, step, start) if places == "visible" else moment.noisy
        visible = clean if noised == "hidden" else seen
        torch.testing.assert_close(entry[:, :VISIBLE], visible[:, :VISIBLE])
        torch.testing.assert_close(entry[:, VISIBLE:], (clean if noised == "visible" else moment.noisy)[:, VISIBLE:])
    for end in (made.centers, entries[STEPS]):
        assert torch.equal(end[:, :VISIBLE], clean[:, :VISIBLE]) == (noised == "hidden" or places == "visible")
        assert torch.equal(end[:, VISIBLE:], clean[:, VISIBLE:]) == (noised == "visible")


def test_another_number_of_hidden_patches_is_refused():
    objective = make()
    patches, hidden = task(objective)
    more = hidden.clone()
    more[1] = True
    for wrong in (~hidden, more):
        with pytest.raises(ValueError, match="hides 6 patches of a cloud"):
            rebuild(objective, patches, wrong, SamplingConfig(STEPS), Draws(0))


@pytest.mark.parametrize(
    ("config", "message"),
    [(SamplingConfig(101), "1 to 100"), (SamplingConfig(0), "1 to 100"), (SamplingConfig(5, 2.0), "eta")],
)
def test_impossible_samplers_are_refused(config, message):
    objective = make(encoder_hidden="learned")
    with pytest.raises(ValueError, match=message):
        rebuild(objective, *task(objective), config, Draws(0))
    with pytest.raises(ValueError, match=message):
        complete(objective, torch.randn(1, 30, 3), config, Draws(0))


# Completion


@pytest.mark.parametrize("noised", ["both", "hidden"])
@pytest.mark.parametrize("num_points", [VISIBLE, 5, 50])
def test_partial_scans_are_completed(num_points, noised):
    objective = make(encoder_hidden="learned", noised_centers=noised)
    scan = torch.randn(2, num_points, 3, generator=torch.Generator().manual_seed(0)) / 2
    made = complete(objective, scan, SamplingConfig(STEPS, 1.0), Draws(0))
    assert made.points.shape == (2, HIDDEN * SIZE, 3) and made.points.isfinite().all()
    assert made.order.tolist() == [list(range(PATCHES))] * 2
    visible = made.centers[:, :VISIBLE]
    assert (visible[:, :, None] == scan[:, None]).all(-1).any(-1).all()  # points of the scan
    assert len(made.center_path) == len(made.patch_path) == STEPS
    assert not (made.centers[:, VISIBLE:] == 0).any()
    again = complete(objective, scan, SamplingConfig(STEPS, 1.0, "given"), Draws(0))
    assert torch.equal(again.points, made.points)  # what is not there cannot be given


def test_scans_are_completed_as_hidden_patches_are_rebuilt():
    objective = make(encoder_hidden="learned")
    scan = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)) / 2
    config = SamplingConfig(STEPS, 0.5, "visible")
    made = complete(objective, scan, config, Draws(0))
    visible = objective.encoder.cut(scan)  # any patches: the hidden ones are not looked at
    seen = PointMaDi(replace(ENCODER, num_patches=VISIBLE), replace(CONFIG, random_ratio=0.5, block_ratio=0.5))
    cut = seen.encoder.cut(scan)
    patches = visible._replace(
        centers=torch.cat([cut.centers, visible.centers[:, :HIDDEN]], dim=1),
        offsets=torch.cat([cut.offsets, visible.offsets[:, :HIDDEN]], dim=1),
    )
    hidden = (torch.arange(PATCHES) >= VISIBLE).expand(2, -1)
    torch.testing.assert_close(rebuild(objective, patches, hidden, config, Draws(0)).points, made.points)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "sees the contents of hidden patches.*--objective.encoder-hidden learned"),
        ({"encoder_hidden": "learned", "noised_centers": "visible"}, "never learned where hidden patches are"),
    ],
)
def test_models_that_must_know_more_do_not_complete(changes, message):
    with pytest.raises(ValueError, match=message):
        complete(make(**changes), torch.randn(1, 50, 3), SamplingConfig(STEPS), Draws(0))


def test_a_scan_has_points_enough():
    with pytest.raises(ValueError, match="num_patches"):
        complete(make(encoder_hidden="learned"), torch.randn(1, 3, 3), SamplingConfig(STEPS), Draws(0))


# Errors


def test_errors_are_distances_from_the_truth():
    objective = make()
    patches, hidden = task(objective)
    order = (hidden.int()).argsort(dim=1, stable=True)
    centers, offsets = gather(patches.centers, order), gather(patches.offsets, order)[:, VISIBLE:]
    perfect = errors(Rebuilt(order, centers, offsets, (), ()), patches)
    assert perfect == {"center_rmse": 0, "patch_chamfer": 0, "cloud_chamfer": 0}
    moved = errors(Rebuilt(order, centers + torch.tensor([0.3, 0, 0.4]), offsets, (), ()), patches)
    assert moved["center_rmse"] == pytest.approx(0.5)
    assert moved["patch_chamfer"] == 0
    whole = (offsets + centers[:, VISIBLE:, None]).flatten(1, 2)
    assert moved["cloud_chamfer"] == pytest.approx(chamfer(whole + torch.tensor([0.3, 0, 0.4]), whole).item())
    flat = errors(Rebuilt(order, centers, torch.zeros_like(offsets), (), ()), patches)
    assert flat["center_rmse"] == 0
    nearest, farthest = offsets.square().sum(-1).amin(-1).mean(), offsets.square().sum(-1).mean()
    assert flat["patch_chamfer"] == pytest.approx((nearest + farthest).item())


# A model that has learned one shape finds it again


def shape():
    """Make a lopsided thing whose parts all differ: a spiral that widens, and thins out."""
    along = torch.linspace(0, 1, 60)
    turn = 7 * along
    points = torch.stack([along * turn.cos(), along * turn.sin(), 1.4 * along**2 - 0.7], dim=-1)
    points = points + 0.15 * along[:, None] * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    points = points - points.mean(0)
    return (points / points.norm(dim=-1).max())[None]


@pytest.fixture(scope="module")
def learned():
    """Overfit a tiny model on one shape."""
    torch.manual_seed(0)
    objective = PointMaDi(ENCODER, replace(CONFIG, patch_scale=5.0, center_weight=1.0))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=4e-3)
    steps = 250
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        optimizer.zero_grad()
        objective({"points": shape().expand(6, -1, -1)}, Draws(0, step))["total"].backward()
        optimizer.step()
    return objective.eval()


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampling_beats_random_placement(learned, eta):
    samples = 8
    patches = learned.encoder.cut(shape().expand(samples, -1, -1))
    hidden = hide("random", patches.centers, HIDDEN, Draws(5))
    found = errors(rebuild(learned, patches, hidden, SamplingConfig(20, eta), Draws(6)), patches)
    order = hidden.int().argsort(dim=1, stable=True)
    clean, contents = gather(patches.centers, order), gather(patches.offsets, order)[:, VISIBLE:]
    random = Draws(7).normal(*clean.shape) * clean.std((0, 1)) + clean.mean((0, 1))
    floors = {
        "random places, contents of others": Rebuilt(order, random, contents.roll(1, dims=1), (), ()),
        "one place, no contents": Rebuilt(order, 0 * clean + clean.mean(1, keepdim=True), 0 * contents, (), ()),
    }
    for name, floor in floors.items():
        bound = errors(floor, patches)
        assert all(found[key] < 0.75 * bound[key] for key in found), (name, found, bound)
    untrained = make().eval()
    start = errors(rebuild(untrained, patches, hidden, SamplingConfig(20, eta), Draws(6)), patches)
    assert all(found[name] < 0.75 * start[name] for name in found), (found, start)


@pytest.mark.slow
def test_knowing_more_places_helps(learned):
    patches = learned.encoder.cut(shape().expand(8, -1, -1))
    hidden = hide("random", patches.centers, HIDDEN, Draws(5))
    found = {
        places: errors(rebuild(learned, patches, hidden, SamplingConfig(20, 0.0, places), Draws(6)), patches)
        for places in ("unknown", "visible", "given")
    }
    assert found["given"]["center_rmse"] == 0
    assert found["given"]["center_rmse"] < found["visible"]["center_rmse"] < found["unknown"]["center_rmse"]
