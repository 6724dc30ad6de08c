import dataclasses
import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from pointmadi.data.augment import AugmentConfig
from pointmadi.data.synthetic.primitives import BOX, CYLINDER, ELLIPSOID, circle, euler, fields, inside, lay_out
from pointmadi.data.synthetic.procedural import ProceduralBatches, corpus, generate, sample
from pointmadi.data.synthetic.shapes import EDGE, MAX_PRIMITIVES, ProceduralConfig, Purpose, draw
from pointmadi.data.synthetic.streams import Stream, choose, uniform
from pointmadi.data.synthetic.wires import FAMILIES, LARGEST, wires
from pointmadi.ops.random import Draws

PLAIN = ProceduralConfig(smooth=1, cut=0, wire=0)
SINGLE = dataclasses.replace(PLAIN, max_primitives=1)


def plausible(counts, shares, least=1e-4):
    """Whether counts follow shares, by the χ² test at 0.01 %."""
    expected = np.asarray(shares) / np.sum(shares) * np.sum(counts)
    statistic = ((np.asarray(counts) - expected) ** 2 / expected).sum()
    return chi2.sf(statistic, len(expected) - 1) > least


def single(primitive, axes, count=1):
    """One smooth primitive at the origin, unscaled."""
    shapes = draw(torch.arange(count), 0, SINGLE)
    axes = torch.tensor(axes).expand(count, MAX_PRIMITIVES, 3)
    kind = torch.full((count, MAX_PRIMITIVES), primitive)
    turn = torch.eye(3).expand(count, MAX_PRIMITIVES, 3, 3)
    place = torch.zeros(count, MAX_PRIMITIVES, 3)
    smooth = torch.full((count, MAX_PRIMITIVES, 6), -1)
    patches = lay_out(kind, axes, turn, place, shapes.active, smooth, torch.empty(0))
    return dataclasses.replace(shapes, primitive=kind, axes=axes, rotation=turn, translation=place, patches=patches)


# Random numbers


def test_streams_are_uniform_and_independent():
    values = Stream(7, torch.arange(64), 0).uniform(4096).double()
    assert values.min() >= 0 and values.max() < 1
    assert plausible(torch.histc(values, 256, 0, 1).numpy(), np.ones(256))
    noise = (values - 0.5) * 12**0.5
    for other in (noise.roll(1, 0), noise.roll(1, 1), noise.roll(2, 1), noise.roll(4, 1)):
        assert abs((noise * other).mean()) < 5 / noise.numel() ** 0.5
    other = (Stream(7, torch.arange(64), 1).uniform(4096).double() - 0.5) * 12**0.5
    assert abs((noise * other).mean()) < 5 / noise.numel() ** 0.5
    assert plausible(torch.bincount(Stream(1, torch.arange(999), 3).bits(200).view(-1) & 15).numpy(), np.ones(16))


def test_streams_know_no_batch_and_accept_any_seed():
    index = torch.tensor([3, 0, 2**62, 2**40 + 1])
    for seed in (0, -1, 2**63 - 1, 2**64 - 1):
        whole = Stream(seed, index, 2).bits(50)
        assert len({tuple(row.tolist()) for row in whole}) == 4
        for i in range(4):
            assert torch.equal(Stream(seed, index[i : i + 1], 2).bits(20, start=30)[0], whole[i, 30:])
    assert uniform(torch.tensor([-1], dtype=torch.int32)).item() == 1 - 2**-24


def test_choose_follows_the_weights():
    assert plausible(torch.bincount(choose(torch.rand(30000), (1, 0, 2, 5)), minlength=4)[[0, 2, 3]].numpy(), (1, 2, 5))


# The same shape everywhere


def test_a_shape_does_not_depend_on_its_batch():
    index = torch.arange(300)
    whole = generate(index, 5, 256)
    assert whole.shape == (300, 256, 3) and whole.dtype == torch.float32
    assert torch.equal(generate(index.flip(0), 5, 256).flip(0), whole)
    assert torch.equal(torch.cat([generate(part, 5, 256) for part in index.split(37)]), whole)
    assert torch.equal(torch.cat([generate(index[i : i + 1], 5, 256) for i in range(40)]), whole[:40])
    assert not torch.equal(generate(index, 6, 256), whole)
    assert len(torch.unique(whole[:, 0], dim=0)) == 300


def test_a_shape_does_not_depend_on_threads_or_process():
    code = (
        "import torch; torch.set_num_threads(2)\n"
        "from pointmadi.data.synthetic.procedural import generate\n"
        "import hashlib; p = generate(torch.tensor([4, 1, 99, 10**12]), 5, 2000)\n"
        "print(hashlib.sha256(p.numpy().tobytes()).hexdigest())"
    )
    here = generate(torch.tensor([4, 1, 99, 10**12]), 5, 2000).numpy().tobytes()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == hashlib.sha256(here).hexdigest()


@pytest.mark.gpu
def test_a_shape_does_not_depend_on_the_device():
    index = torch.arange(200)
    there = generate(index, 5, 1024, device="cuda").cpu()
    assert (there - generate(index, 5, 1024)).abs().amax((1, 2)).lt(1e-5).float().mean() > 0.98


def test_fewer_points_are_the_first_ones():
    shapes = draw(torch.arange(64), 0, ProceduralConfig())
    assert torch.equal(sample(shapes, 2000)[..., :300], sample(shapes, 300))


def test_shapes_are_finite_centred_and_of_radius_one():
    points = generate(torch.arange(500), 1, 64)
    assert points.isfinite().all()
    assert points.mean(1).abs().max() < 1e-5
    assert (points.norm(dim=-1).amax(1) - 1).abs().max() < 1e-5
    assert generate(torch.arange(5), 1, 1).shape == (5, 1, 3)
    assert generate(torch.arange(0), 1, 8).shape == (0, 8, 3)


# The probabilities of the recipe


def test_number_of_primitives_follows_the_weights():
    weights = np.array([5, 5, 5, 4, 4, 3, 2, 1, 1]) / 30
    draws = Stream(0, torch.arange(100_000), Purpose.COUNT).uniform()
    counts = torch.bincount(choose(draws, ProceduralConfig().weights), minlength=9).numpy() / 100_000
    assert abs(counts - weights).max() < 0.01
    assert plausible(counts * 100_000, weights)
    shapes = draw(torch.arange(500), 0, ProceduralConfig())
    assert torch.equal(shapes.count - 1, choose(draws[:500], ProceduralConfig().weights))
    few = draw(torch.arange(1000), 0, ProceduralConfig(max_primitives=3, smooth=1)).count
    assert plausible(torch.bincount(few)[1:].numpy(), (5, 5, 5))


def test_shares_of_cuts_wires_types_and_fields():
    shapes = draw(torch.arange(3000), 11, ProceduralConfig())
    assert abs(shapes.cut.present.float().mean() - 0.4) < 0.03
    assert abs(shapes.wire.present.float().mean() - 0.2) < 0.025
    both = (shapes.cut.present & shapes.wire.present).float().mean()
    assert abs(both - 0.08) < 0.018
    assert plausible(torch.bincount(shapes.primitive[shapes.active]).numpy(), (1, 1, 1))
    assert plausible(torch.bincount(shapes.cut.family).numpy(), np.ones(5))
    assert plausible(torch.bincount(shapes.wire.template).numpy(), np.ones(20))
    used = shapes.patches.envelope.view(-1) > 0
    assert abs((shapes.patches.field[used] < 0).float().mean() - 0.6) < 0.01
    assert (shapes.patches.field[~used] == -1).all()
    for values, low, high in (
        (shapes.cut.size, 0.3, 0.6),
        (shapes.cut.thickness, 0.01, 0.02),
        (shapes.wire.thickness, 0.01, 0.03),
    ):
        assert plausible(torch.histc(values, 10, low, high).numpy(), np.ones(10))
    assert {1, 6, 3} == set(used.view(-1, 6).sum(1).unique().tolist()) - {0}


def test_probabilities_can_be_changed():
    shapes = draw(torch.arange(100), 0, ProceduralConfig(cut=1, wire=0, smooth=0, types=(0, 1, 0)))
    assert shapes.cut.present.all() and not shapes.wire.present.any()
    assert (shapes.primitive == BOX).all()
    assert (shapes.patches.field[shapes.patches.envelope.view(-1) > 0] >= 0).all()


def test_semi_axes_are_in_proportion():
    axes = draw(torch.arange(4096), 0, SINGLE).axes[:, 0]
    ratio = axes.amax(1) / axes.amin(1)
    assert ratio.min() >= 1 and ratio.max() < 8  # 2.0 / 0.25


def test_box_of_a_shape_has_its_edge():
    shapes = draw(torch.arange(20), 0, PLAIN)
    points = sample(shapes, 20_000)
    size = (points.amax(-1) - points.amin(-1)).amax(-1)
    assert size.max() <= EDGE + 1e-5 and size.min() > EDGE * 0.97
    assert points.amax() < 0.9 + 1e-5 and points.amin() > -0.9 - 1e-5


def test_box_of_a_bumpy_shape_has_about_its_edge():
    points = sample(draw(torch.arange(40), 0, ProceduralConfig(cut=0, wire=0)), 2000)
    size = (points.amax(-1) - points.amin(-1)).amax(-1)
    assert abs(size.mean() - EDGE) < 0.05 and size.max() < EDGE * 1.25


# Sampling by area


def test_points_are_uniform_on_a_sphere():
    x, y, z = sample(single(ELLIPSOID, [1.0, 1.0, 1.0]), 100_000)[0].numpy()
    assert np.allclose(x * x + y * y + z * z, 1, atol=1e-5)
    counts = np.histogram2d(z, np.arctan2(y, x), bins=20, range=[[-1, 1], [-np.pi, np.pi]])[0]
    assert plausible(counts.ravel(), np.ones(400))


def test_points_are_uniform_on_an_ellipsoid():
    a, b, c = 0.3, 1.7, 0.9
    x, y, z = sample(single(ELLIPSOID, [a, b, c]), 100_000)[0].numpy()
    counts = np.histogram2d(z / c, np.arctan2(y / b, x / a), bins=20, range=[[-1, 1], [-np.pi, np.pi]])[0]
    t, p = np.meshgrid((np.arange(800) + 0.5) / 400 - 1, (np.arange(800) + 0.5) / 400 * np.pi - np.pi, indexing="ij")
    r = np.sqrt(1 - t * t)
    area = np.sqrt((r * np.cos(p) / a) ** 2 + (r * np.sin(p) / b) ** 2 + (t / c) ** 2)
    assert plausible(counts.ravel(), area.reshape(20, 40, 20, 40).sum((1, 3)).ravel())


def test_points_are_uniform_on_boxes_and_cylinders():
    a, b, c = 0.4, 1.6, 0.8
    x, y, z = sample(single(BOX, [a, b, c]), 50_000)[0].numpy() / np.array([[a], [b], [c]])
    on = [np.isclose(v, s) for v in (x, y, z) for s in (1, -1)]
    assert np.all(np.sum(on, 0) >= 1)
    assert plausible(np.sum(on, 1), [b * c, b * c, a * c, a * c, a * b, a * b])
    x, y, z = sample(single(CYLINDER, [a, b, c]), 50_000)[0].numpy() / np.array([[a], [b], [c]])
    caps = np.isclose(abs(z), 1)
    assert np.allclose((x * x + y * y)[~caps], 1, atol=1e-5) and (x * x + y * y)[caps].max() < 1 + 1e-5
    turn = (np.arange(1000) + 0.5) / 500 * np.pi
    side = 2 * c * np.hypot(a * np.sin(turn), b * np.cos(turn)).mean() * 2 * np.pi
    assert plausible([caps.sum(), (~caps).sum()], [2 * np.pi * a * b, side])
    rings = np.histogram((x * x + y * y)[caps], 10, (0, 1))[0]
    assert plausible(rings, np.ones(10))


def test_primitives_share_points_by_area():
    shapes = draw(torch.arange(200), 0, dataclasses.replace(PLAIN, types=(0, 1, 0)))
    two = (shapes.count == 2).nonzero()[0]
    shapes = draw(two, 0, shapes.config)
    points = sample(shapes, 20_000)[0]
    local = shapes.rotation[0, 0].T @ (points - shapes.translation[0, 0, :, None]) / shapes.axes[0, 0, :, None]
    on_first = ((local.abs().amax(0) - 1).abs() < 1e-4).sum().item()
    areas = [(a * a.roll(1)).sum().item() for a in shapes.axes[0, :2]]
    assert abs(on_first / 20_000 - areas[0] / sum(areas)) < 0.02


# Height fields, rotations


def test_height_fields_interpolate_and_end_at_zero():
    heights = torch.randn(3, 5, 5)
    fine = fields(heights).view(3, 36, 36)
    assert fine[:, [0, -1]].abs().max() < 1e-6 and fine[..., [0, -1]].abs().max() < 1e-6
    peak = torch.zeros(1, 5, 5)
    peak[0, 1, 3] = 1.0
    i, j = divmod(int(fields(peak).argmax()), 36)
    assert abs(i / 35 - 2 / 6) < 0.02 and abs(j / 35 - 4 / 6) < 0.02 and 0.9 < fields(peak).max() < 1.1
    assert torch.allclose(fields(heights.transpose(1, 2)).view(3, 36, 36), fine.transpose(1, 2), atol=1e-6)


def test_bumps_are_at_most_as_high_as_they_may_be():
    config = ProceduralConfig(smooth=0, cut=0, wire=0, max_primitives=1)
    shapes = draw(torch.arange(100), 2, config)
    smooth = draw(torch.arange(100), 2, dataclasses.replace(config, smooth=1))
    moved = (sample(shapes, 500) - sample(smooth, 500)).norm(dim=1)  # the same draws, with and without bumps
    limit = 0.4 * shapes.axes[:, 0].amin(-1)
    assert (moved.amax(1) < 1.3 * limit).all()  # bicubic curves pass their control heights by a little
    assert (moved.mean(1) > 0.005 * limit).float().mean() > 0.9


def test_circle_and_rotations():
    turn = torch.rand(10_000)
    cosine, sine = circle(turn)
    angle = turn.double() * 2 * torch.pi
    assert (cosine - angle.cos()).abs().max() < 1e-6
    assert (sine - angle.sin()).abs().max() < 1e-3  # near ±1 the root loses digits, along the circle only
    assert (cosine * cosine + sine * sine - 1).abs().max() < 1e-6
    turns = euler(torch.rand(100, 3))
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(3).expand(100, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(100), atol=1e-5)
    quarter = euler(torch.tensor([0.25, 0, 0])) @ torch.tensor([0, 1.0, 0])
    assert torch.allclose(quarter, torch.tensor([0, 0, 1.0]), atol=1e-3)


# Cuts, shells, wires


def test_cut_shapes_have_nothing_inside_the_cutter_and_two_walls():
    shapes = draw(torch.arange(300), 3, dataclasses.replace(SINGLE, cut=1, types=(1, 0, 0)))
    points = sample(shapes, 400)
    assert not shapes.cut.contains(points).any()
    local = torch.einsum("bji,bjn->bin", shapes.rotation[:, 0], points - shapes.translation[:, 0, :, None])
    level = (local / shapes.axes[:, 0, :, None]).norm(dim=1)
    assert ((level > 1).float().mean() - 0.5).abs() < 0.01
    uncut = sample(draw(torch.arange(300), 3, dataclasses.replace(SINGLE, types=(1, 0, 0))), 400)
    removed = shapes.cut.contains(uncut).float().mean(1)
    assert 0.05 < removed.mean() < 0.5  # the centre is on the surface, so something goes, and not everything


def test_cutters_are_the_five_bodies():
    cut = draw(torch.arange(500), 4, ProceduralConfig(cut=1, smooth=1)).cut
    local = torch.rand(500, 3, 4000, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    world = torch.einsum("bij,bjn->bin", cut.rotation, local) + cut.center[..., None]
    volume = cut.contains(world).float().mean(1) * 2.4**3
    s = cut.size
    truth = torch.stack([4.18879 * s**3, 8 * s**3, 2.0944 * s**2, 6.28319 * s**2, 19.7392 * s * (0.3 * s) ** 2], 1)
    truth = truth.gather(1, cut.family[:, None])[:, 0]
    for family in range(5):
        chosen = cut.family == family
        # Cones, cylinders and tori of radius 0.6 reach no further than 1.2.
        assert abs(volume[chosen].mean() / truth[chosen].mean() - 1) < 0.03, FAMILIES[family]


def test_wires_have_the_edges_of_their_meshes():
    table = wires(torch.device("cpu"))
    counts = torch.bincount(table.keys - 1 >> 32).view(5, 2, 2)
    #        level 0: E edges; level 1: 2E + the corners of all faces, 2E
    assert counts[:, :, 0].tolist() == [[992] * 2, [12] * 2, [64] * 2, [96] * 2, [1152] * 2]
    assert counts[:, :, 1].tolist() == [[992 * 4] * 2, [768] * 2, [256] * 2, [384] * 2, [1152 * 4] * 2]
    length = table.total.view(5, 2, 2)
    side = 2 * LARGEST * np.sin(np.pi / 32)
    assert length[1, :, 0].tolist() == [24, 24]  # the cube
    assert length[1, 0, 1] == 12 * 2 + 6 * 14 * 2  # and 14 lines across each of its faces
    assert length[3, 0, 0].item() == pytest.approx(64 + 64 * side, rel=1e-5)  # the cylinder
    radius = table.ends.view(-1, 2, 3).norm(dim=-1)
    assert radius[:992].sub(1).abs().max() < 1e-6  # the sphere's vertices are on the sphere
    smooth_cube = radius[(table.keys - 1 >> 32) == 4 + 3]
    assert smooth_cube.max() / smooth_cube.min() < 1.2  # Catmull and Clark make a ball of a cube


def test_wire_points_lie_on_struts():
    config = ProceduralConfig(cut=0, wire=1, smooth=1)
    shapes = draw(torch.arange(200), 0, config)
    points = sample(shapes, 1000)
    bare = sample(draw(torch.arange(200), 0, dataclasses.replace(config, wire=0)), 1000)
    assert (points != bare).any(1).any(1).all()
    plain = (shapes.wire.template == 4).nonzero()[:, 0]  # cubes, not subdivided
    wire = shapes.wire.select(plain)
    local = (
        torch.einsum("bji,bjn->bin", wire.rotation, points[plain] - wire.center[..., None]) / wire.size[:, None, None]
    )
    across = (local.abs() - 1).abs().sort(1).values[:, :2].norm(dim=1)  # distance to the nearest line along an axis
    beyond = local.abs().amax(1) - 1
    near = (across < wire.thickness[:, None] * 0.51 / wire.size[:, None]) & (beyond < 0.06)
    length = 24 * wire.size * torch.pi * wire.thickness
    assert len(plain) and (near.float().mean(1) > 0.3 * length / (length + 12)).all()


def test_wires_start_where_the_cutter_left_something():
    shapes = draw(torch.arange(1000), 0, ProceduralConfig(smooth=1, cut=1, wire=1))
    assert shapes.cut.contains(shapes.wire.center[..., None]).float().mean() < 0.02


def test_a_cut_that_would_leave_nothing_is_not_made():
    shapes = single(ELLIPSOID, [0.1, 0.1, 0.1], count=4)
    eaten = dataclasses.replace(
        shapes.cut,
        present=torch.ones(4, dtype=torch.bool),
        family=torch.zeros(4, dtype=torch.int64),
        center=torch.zeros(4, 3),
    )
    points = sample(dataclasses.replace(shapes, cut=eaten), 100)
    assert torch.allclose(points.norm(dim=1), torch.tensor(0.1), atol=1e-5)


def test_interiors_stay_unless_they_are_removed():
    hollow = dataclasses.replace(PLAIN, remove_interior=True)

    def share_inside(config):
        shapes = draw(torch.arange(40), 0, config)
        points, found = sample(shapes, 300), 0
        for k in range(MAX_PRIMITIVES):
            parts = (shapes.primitive, shapes.axes * 0.999, shapes.rotation, shapes.translation)
            found |= inside(points, *(part[:, k] for part in parts)) & shapes.active[:, k, None]
        return found.float().mean()

    assert share_inside(PLAIN) > 0.1
    assert share_inside(hollow) == 0


# For training


def test_batches_of_two_processes_are_the_batch_of_one():
    whole = ProceduralBatches(8, 64, seed=3, epoch_size=24)
    parts = [ProceduralBatches(4, 64, seed=3, rank=rank, world=2, epoch_size=24) for rank in range(2)]
    assert len(whole) == len(parts[0]) == 3
    joint = torch.cat([part(1, 2, Draws(3, 1, 2, rank=part.rank, world=2))["points"] for part in parts])
    assert torch.equal(whole(1, 2, Draws(3, 1, 2))["points"], joint)
    assert torch.equal(joint, generate(torch.arange(40, 48), 3, 64))
    with pytest.raises(IndexError, match="step 3"):
        whole(0, 3, Draws(0))


def test_batches_augment_and_transform():
    config = AugmentConfig()
    seen = ProceduralBatches(4, 32, augment=config, transform=lambda points, draws: points + 1, epoch_size=4)
    assert seen(0, 0, Draws(0))["points"].shape == (4, 32, 3)
    assert seen(0, 0, Draws(0))["points"].mean() > 0.5


def test_corpus_is_a_cloud_set():
    clouds = corpus(10, 128, seed=4)
    assert len(clouds) == 10 and clouds.num_points == 128
    assert (clouds.xyz() - generate(torch.arange(10), 4, 128)).abs().max() < 1e-4


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="num_points"):
        generate(torch.arange(2), 0, 0)
    with pytest.raises(ValueError, match="int64"):
        generate(torch.rand(2), 0, 8)
    with pytest.raises(ValueError, match="max_primitives"):
        ProceduralConfig(max_primitives=10)
    with pytest.raises(ValueError, match="probability"):
        ProceduralConfig(cut=1.5)
    with pytest.raises(ValueError, match="weights"):
        ProceduralConfig(weights=(0, 0), max_primitives=1)
    with pytest.raises(ValueError, match="body"):
        ProceduralConfig(body=(0.1, 2.0))
    with pytest.raises(ValueError, match="epoch_size"):
        ProceduralBatches(64, 32, epoch_size=10)
    with pytest.raises(ValueError, match="at least 1"):
        corpus(0, 10)


def test_three_hundred_shapes_a_second():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generate(torch.arange(128), 0, 1024)
        start = time.process_time()
        generate(torch.arange(512), 1, 1024)
        assert 512 / (time.process_time() - start) > 300
    finally:
        torch.set_num_threads(threads)
