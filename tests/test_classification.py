"""Classification: pooling, heads, frozen encoders."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.ops.random import Draws
from pointmadi.tasks import Classifier, ClassifierConfig

SMALL = EncoderConfig(24, 2, 2, 16, 8, (8, 12, 16))


def classifier(config: ClassifierConfig, **changes: int) -> Classifier:
    torch.manual_seed(0)
    return Classifier(PointEncoder(EncoderConfig(**(vars(SMALL) | changes))), 3, config)


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(9) % 3
    scale = torch.tensor([[1.0, 1, 1], [1, 0.1, 1], [0.1, 0.1, 1]])[label]
    return {"points": torch.randn(9, 40, 3, generator=generator) * scale[:, None], "label": label}


def test_pooling_of_all_tokens_or_of_class_token_and_patches() -> None:
    points = batch()["points"]
    for pooling in ("mean+max", "cls+max"):
        model = classifier(ClassifierConfig(pooling, "linear")).eval()
        encoder, patches = model.encoder, model.encoder.cut(points)
        tokens, positions = [model.cls_token.expand(9, 1, -1)], [model.cls_position.expand(9, 1, -1)]
        tokens, positions = [*tokens, encoder.tokenizer(patches)], [*positions, encoder.positions(patches.centers)]
        latent = encoder.transformer(torch.cat(tokens, 1), torch.cat(positions, 1)).latent
        first = latent.sum(1) / 17 if pooling == "mean+max" else latent[:, 0]
        most = latent.max(1).values if pooling == "mean+max" else latent[:, 1:].max(1).values
        expected = torch.cat([first, most], -1) @ model.head[0].weight.T + model.head[0].bias  # type: ignore[operator]
        torch.testing.assert_close(model.predict(points), expected)


def test_predict_takes_any_number_of_points() -> None:
    model = classifier(ClassifierConfig()).eval()
    for count in (16, 17, 200):
        assert model.predict(torch.randn(2, count, 3)).shape == (2, 3)
    with pytest.raises(ValueError, match="15 points"):
        model.predict(torch.randn(2, 15, 3))


@pytest.mark.parametrize("head", ["linear", "mlp3"])
def test_a_frozen_encoder_stays_as_it_is(head: str) -> None:
    model = classifier(ClassifierConfig(head=head))  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.train()
    assert model.training and model.head.training and not any(m.training for m in model.encoder.modules())
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    inputs = batch()
    first = model(inputs, Draws(0))["total"].item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(inputs, Draws(0))["total"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert not [name for name, weight in model.encoder.named_parameters() if weight.grad is not None]
    assert model.cls_token.grad is not None and len(model.head) == (1 if head == "linear" else 9)


def test_full_fine_tuning_trains_everything() -> None:
    model = classifier(ClassifierConfig(), drop_path=0).train()
    model(batch(), Draws(0))["total"].backward()
    assert model.encoder.training and not [name for name, weight in model.named_parameters() if weight.grad is None]
    model.eval()
    assert not model.encoder.training


def test_label_smoothing() -> None:
    inputs = batch()
    for smoothing in (0.0, 0.2):
        model = classifier(ClassifierConfig(label_smoothing=smoothing)).eval()
        scores = model.predict(inputs["points"]).log_softmax(-1)
        truth = F.one_hot(inputs["label"], 3) * (1 - smoothing) + smoothing / 3
        torch.testing.assert_close(model(inputs, Draws(0))["total"], -(scores * truth).sum(-1).mean())


def test_features_go_to_an_encoder_that_takes_them() -> None:
    points, colors = batch()["points"], torch.rand(9, 40, 2)
    model = classifier(ClassifierConfig(), features=2).eval()
    assert not torch.allclose(model.predict(points, colors), model.predict(points, 1 - colors))
    plain = classifier(ClassifierConfig()).eval()
    assert torch.equal(plain.predict(points, colors), plain.predict(points))


def test_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, not 1"):
        Classifier(PointEncoder(SMALL), 1)
    with pytest.raises(ValueError, match=r"label_smoothing of a classifier .* not -0.1"):
        ClassifierConfig(label_smoothing=-0.1)
