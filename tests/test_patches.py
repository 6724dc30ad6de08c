"""Cutting clouds into patches, and tokens that depend on sets of points, not on their order."""

import pytest
import torch
from torch import nn

from pointmadi.nn.patches import Patches, Tokenizer, _peak, cut
from pointmadi.ops.sampling import farthest_points

WIDTHS = (8, 16, 24)


def cloud(batch=3, num_points=100, dtype=torch.float32, seed=0):
    return torch.randn(batch, num_points, 3, generator=torch.Generator().manual_seed(seed)).to(dtype) / 2


def tokenizer(features=0):
    """Make a tokenizer in eval mode whose norms do something."""
    torch.manual_seed(0)
    made = Tokenizer(12, WIDTHS, features)
    for norm in (made.norm1, made.norm2):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, -1, 1)
        nn.init.uniform_(norm.bias, -1, 1)
    return made.eval()


def test_members_are_the_nearest_points_relative_to_the_farthest_ones():
    points, features = cloud(), cloud(seed=1)[..., :2]
    patches = cut(points, 7, 9, features)
    assert torch.equal(patches.centers, points.gather(1, farthest_points(points, 7)[..., None].expand(-1, -1, 3)))
    distance = (patches.centers[:, :, None] - points[:, None]).square().sum(-1)
    index = distance.argsort(dim=-1, stable=True)[..., :9]
    rows = torch.arange(3)[:, None, None]
    assert torch.equal(patches.offsets, points[rows, index] - patches.centers[:, :, None])
    assert torch.equal(patches.features, features[rows, index])
    assert (patches.offsets[:, :, 0] == 0).all()  # nearest first: the centre itself
    lengths = patches.offsets.square().sum(-1)
    assert (lengths.diff(dim=-1) >= -1e-7).all()


def test_patches_do_not_rescale_and_undo():
    points = cloud()
    patches = cut(points, 7, 9)
    members = patches.offsets + patches.centers[:, :, None]
    torch.testing.assert_close(members.flatten(1, 2).amax(1) <= points.amax(1) + 1e-6, torch.ones(3, 3).bool())
    torch.testing.assert_close(cut(2 * points, 7, 9).offsets, 2 * patches.offsets)


def test_the_cloud_that_was_given_stays_as_it_is():
    points = cloud()
    before = points.clone()
    patches = cut(points, 7, 9)
    patches.offsets.add_(1), patches.centers.add_(1)
    assert torch.equal(points, before)


def test_skip_origin_leaves_the_middle_alone():
    points = torch.cat([torch.eye(3)[None] * 0.5, torch.full((1, 5, 3), 0.001), -torch.eye(3)[None] * 0.5], dim=1)
    assert (cut(points, 6, 2, skip_origin=True).centers.norm(dim=-1) > 0.1).all()
    assert (cut(points, 8, 2).centers.norm(dim=-1) < 0.1).any()


@pytest.mark.parametrize("num_points", [4, 5, 9])
def test_small_clouds_fill_their_patches_without_changing_tokens(num_points):
    points, features = cloud(num_points=num_points), cloud(num_points=num_points, seed=1)
    embed = tokenizer(features=3)
    filled, plain = cut(points, 4, 16, features), cut(points, 4, num_points, features)
    assert filled.offsets.shape == (3, 4, 16, 3)
    assert filled.features.shape == (3, 4, 16, 3)
    assert (filled.offsets[:, :, num_points:] == 0).all()
    torch.testing.assert_close(embed(filled), embed(plain), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("points", "count", "message"),
    [
        (torch.zeros(2, 5, 3), 6, "num_patches"),
        (torch.zeros(5, 3), 2, "shape"),
        (torch.zeros(2, 5, 4), 2, "shape"),
        (torch.full((2, 5, 3), torch.nan), 2, "NaN"),
        (torch.zeros(2, 5, 3).long(), 2, "float"),
        (torch.zeros(2, 5, 3), 0, "at least 1"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(points, count, message):
    with pytest.raises(ValueError, match=message) as error:
        cut(points, count, 3)
    assert "\n" not in str(error.value)


def test_a_patch_has_points():
    with pytest.raises(ValueError, match="at least 1"):
        cut(cloud(), 4, 0)


def published(embed, x):
    """Run the mini-PointNet as published, the maximum set before every point: (P, K, 3) -> (P, C)."""
    norm1, norm2 = (lambda x, norm=norm: norm(x.transpose(1, 2)).transpose(1, 2) for norm in (embed.norm1, embed.norm2))
    each = embed.local(norm1(embed.lift(x)).relu())
    whole = each.amax(1, keepdim=True).expand_as(each)
    return embed.out(norm2(embed.mix(torch.cat([whole, each], dim=-1))).relu()).amax(1)


@pytest.mark.parametrize("training", [False, True])
def test_the_split_layer_equals_the_concatenation(training):
    embed = tokenizer().double().train(training)
    patches = cut(cloud(dtype=torch.float64), 7, 9)
    x = patches.offsets.flatten(0, 1)
    factor = torch.randn(21, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for out in (embed(patches).flatten(0, 1), published(embed, x)):
        results.append([out, *torch.autograd.grad((out * factor).sum(), list(embed.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_batch_norm_counts_every_point_of_every_patch():
    embed = tokenizer().train()
    patches = cut(cloud(), 7, 9)
    before = embed.norm1.running_mean.clone()
    embed(patches)
    mean = embed.lift(patches.offsets).flatten(0, 2).mean(0)
    torch.testing.assert_close(embed.norm1.running_mean, 0.9 * before + 0.1 * mean)
    assert (embed.norm1.momentum, embed.norm1.eps) == (0.1, 1e-5)


def test_tokens_do_not_depend_on_the_order_of_points():
    embed, patches = tokenizer(features=3), cut(cloud(), 7, 9, cloud(seed=1))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = Patches(patches.centers, patches.offsets[:, :, order], patches.features[:, :, order])
    torch.testing.assert_close(embed(shuffled), embed(patches), rtol=0, atol=1e-6)
    mixed = Patches(patches.centers, patches.offsets[:, :, order], patches.features)
    assert (embed(mixed) - embed(patches)).abs().max() > 1e-3  # features belong to their points


def test_tokens_do_not_depend_on_other_patches_or_on_places():
    embed, patches = tokenizer(), cut(cloud(), 7, 9)
    alone = Patches(patches.centers[:1, 2:3] + 5, patches.offsets[:1, 2:3])
    torch.testing.assert_close(embed(alone), embed(patches)[:1, 2:3], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("wanted", "given"), [(0, 3), (3, 0), (3, 1)])
def test_features_that_do_not_fit_are_refused(wanted, given):
    patches = cut(cloud(), 7, 9, cloud(seed=1)[..., :given] if given else None)
    with pytest.raises(ValueError, match=f"takes {wanted} feature channels beside xyz, {given} were given"):
        tokenizer(features=wanted)(patches)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_fast_maximum_has_the_value_and_gradient_of_the_plain_one(dtype):
    torch.manual_seed(0)
    x = torch.randn(5, 8, 6).to(dtype)
    x[1, 3] = x[1, 5] = 9  # two equals
    x[2] = -4  # all equal
    factor = torch.randn(5, 6).to(dtype)
    found, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert torch.equal(_peak(found), plain.amax(1))
    (_peak(found) * factor).sum().backward()
    (plain.amax(1) * factor).sum().backward()
    torch.testing.assert_close(found.grad, plain.grad, rtol=0, atol=0)
    torch.testing.assert_close(found.grad.sum(1), factor)
