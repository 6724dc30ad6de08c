"""Segmentation: the head beside the published arrangement of its layers, losses, and what it refuses."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.ops.random import Draws
from pointmadi.tasks import Segmenter, SegmenterConfig
from pointmadi.tasks.segmentation import class_weights, thirds

SMALL = EncoderConfig(24, 6, 2, 16, 8, (8, 12, 16), drop_path=0.0)
WIDTHS = (0, 20, 14, 10)
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def segmenter(config: SegmenterConfig, encoder: EncoderConfig = SMALL, classes: int = 5) -> Segmenter:
    torch.manual_seed(0)
    made = Segmenter(PointEncoder(encoder), classes, config)
    for name, value in made.state_dict().items():
        if value.is_floating_point() and not name.startswith("encoder."):
            value.copy_(torch.rand_like(value) + 0.1 * ("var" in name))  # biases and statistics that matter
    return made.eval()


def clouds(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("categories", [0, 3])
def test_equals_the_published_arrangement(categories: int, train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from segmentation_head import plain

    head = segmenter(SegmenterConfig(categories, widths=WIDTHS, dropout=0.0)).train(train)
    points, label = clouds(3, 40), torch.tensor([0, 2, 2]) if categories else None
    patches = head.encoder.cut(points)
    values = torch.cat(head.encoder.encode(patches, head.taps).taps, -1)
    ours = head.segment(points, patches, label)
    theirs = plain(head, points, patches.centers, values, label)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    weights = [weight for name, weight in head.named_parameters() if not name.endswith("bias")]
    gradients = [torch.autograd.grad(logits.square().sum(), weights, retain_graph=True) for logits in (ours, theirs)]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.norm()))


def test_predict_is_segment_and_counts_points_freely() -> None:
    head = segmenter(SegmenterConfig(3, widths=WIDTHS))
    label = torch.tensor([1, 2])
    for count in (16, 17, 300):
        points = clouds(2, count)
        before = points.clone()
        logits = head.predict(points, label)
        assert logits.shape == (2, count, 5) and torch.equal(points, before)
        torch.testing.assert_close(logits, head.segment(points, head.encoder.cut(points), label))
    assert not torch.allclose(head.predict(points, label), head.predict(points, label.flip(0)))
    with pytest.raises(ValueError, match=r"16 .*15 points"):
        head.predict(clouds(2, 15), label)


def test_two_patches_are_enough() -> None:
    head = segmenter(SegmenterConfig(widths=WIDTHS), EncoderConfig(12, 1, 2, 2, 4, (4, 4, 4)))
    assert head.predict(clouds(2, 9)).shape == (2, 9, 5)


def test_order_of_points_is_order_of_answers() -> None:
    head = segmenter(SegmenterConfig(widths=WIDTHS)).double()
    points = clouds(2, 60).double()
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(59, generator=torch.Generator().manual_seed(3))])
    torch.testing.assert_close(head.predict(points[:, order]), head.predict(points)[:, order])


@pytest.mark.parametrize("given", [0, 3])
def test_features_reach_the_head_and_perhaps_the_encoder(given: int) -> None:
    encoder = EncoderConfig(24, 3, 2, 16, 8, (8, 12, 16), features=given)
    head = segmenter(SegmenterConfig(features=3, widths=WIDTHS), encoder)
    points, colors = clouds(2, 40), torch.rand(2, 40, 3)
    assert not torch.allclose(head.predict(points, features=colors), head.predict(points, features=1 - colors))
    with pytest.raises(ValueError, match="3 feature channels, 0 were given" if not given else "3 feature channels"):
        head.predict(points)
    with pytest.raises(ValueError, match="4 were given"):
        head.predict(points, features=torch.rand(2, 40, 4))


def test_loss_ignores_unknown_points_and_weighs_classes() -> None:
    head = segmenter(SegmenterConfig(widths=WIDTHS))
    logits, part = torch.randn(2, 7, 5), torch.randint(5, (2, 7))
    part[0, :3] = -1
    known = part >= 0
    torch.testing.assert_close(head.loss(logits, part), F.cross_entropy(logits[known], part[known]))
    weight = class_weights(torch.tensor([8, 1, 0, 4, 8]))
    torch.testing.assert_close(weight, torch.tensor([1.0, 2.0, 2.0, 2 ** (1 / 3), 1.0]))
    weighted = Segmenter(PointEncoder(SMALL), 5, head.config, weight)
    scores = logits[known].log_softmax(-1)[torch.arange(11), part[known]]
    share = weight[part[known]]
    torch.testing.assert_close(weighted.loss(logits, part), -(scores * share).sum() / share.sum())
    assert weighted.state_dict().keys() == head.state_dict().keys()


def test_a_batch_trains_all_of_it() -> None:
    head = segmenter(SegmenterConfig(3, 2, WIDTHS, dropout=0.0), EncoderConfig(24, 3, 2, 16, 8, (8, 12, 16))).train()
    batch = {"points": clouds(4, 30), "features": torch.rand(4, 30, 2), "label": torch.arange(4) % 3}
    batch["part"] = (batch["points"][..., 0] > 0).long()
    losses = head(batch, Draws(0))
    assert list(losses) == ["total"]
    losses["total"].backward()
    assert not [name for name, weight in head.named_parameters() if weight.grad is None]
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        last = head(batch, Draws(0))["total"]
        last.backward()
        optimizer.step()
    assert last < 0.6 * losses["total"]


def test_thirds_of_an_encoder() -> None:
    assert [thirds(depth) for depth in (1, 2, 3, 4, 12)] == [(0,), (0, 1), (0, 1, 2), (0, 1, 3), (3, 7, 11)]


def test_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="give label"):
        segmenter(SegmenterConfig(3, widths=WIDTHS)).predict(clouds(2, 20))
    with pytest.raises(ValueError, match="at least 2 classes, not 1"):
        Segmenter(PointEncoder(SMALL), 1)
    with pytest.raises(ValueError, match="takes 2 feature channels and the segmenter 3"):
        Segmenter(PointEncoder(EncoderConfig(24, 2, 2, features=2)), 5, SegmenterConfig(features=3))
    with pytest.raises(ValueError, match=r"dropout of a segmenter .* not 1.5"):
        SegmenterConfig(dropout=1.5)
