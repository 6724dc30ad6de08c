"""Segmentation: the part of every point of a shape, or the class of every point of a scene."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointmadi.models.encoder import PointEncoder, init_weights
from pointmadi.nn.patches import Patches
from pointmadi.nn.propagation import Propagation
from pointmadi.ops.checks import computing_type
from pointmadi.ops.random import Draws

UNKNOWN = -1  # a point without a class carries no loss


@dataclass(frozen=True)
class SegmenterConfig:
    """How points are segmented.

    Attributes:
        categories: number of classes of shapes, if the head is told the class of each shape (for parts; 16 in
            ShapeNetPart); 0 if it is not (for scenes).
        features: further channels of every point that the head is given beside xyz, such as colours; the published
            heads have none. The encoder is given them too if it was built for them.
        widths: widths of the four layers; 0 for the first means four times that of the encoder.
        category_width: width that the class of a shape is embedded to.
        dropout: share of the activations of the third layer that are dropped.
        label_smoothing: share of the truth that is spread over all classes; the releases use none.
    """

    categories: int = 0
    features: int = 0
    widths: tuple[int, int, int, int] = (0, 1024, 512, 256)
    category_width: int = 64
    dropout: float = 0.5
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} of a segmenter is a share from 0 to below 1, not {getattr(self, name)}")


class Segmenter(nn.Module):
    """An encoder tapped at three depths, propagation to points, and four layers (Point-BERT and those after it)."""

    def __init__(
        self,
        encoder: PointEncoder,
        num_classes: int,
        config: SegmenterConfig | None = None,
        class_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a segmenter needs at least 2 classes, not {num_classes}")
        self.config = config = config or SegmenterConfig()
        if encoder.config.features not in (0, config.features):
            raise ValueError(
                f"the encoder takes {encoder.config.features} feature channels and the segmenter {config.features}; "
                "give both the same, or an encoder of xyz alone"
            )
        self.num_classes, self.encoder = num_classes, encoder
        self.taps = thirds(encoder.config.depth)
        carried = len(self.taps) * encoder.config.dim
        first, second, third, fourth = config.widths
        self.propagation = Propagation(3 + config.features, carried, first or 4 * encoder.config.dim, second)
        self.category = None
        if config.categories:
            width = config.category_width
            embed = nn.Linear(config.categories, width, bias=False)
            self.category = nn.Sequential(embed, nn.BatchNorm1d(width), nn.LeakyReLU(0.2))
        self.mix = nn.Linear(second + 2 * carried + bool(config.categories) * config.category_width, third)
        self.norm1 = nn.BatchNorm1d(third)
        self.dropout = nn.Dropout(config.dropout)
        self.narrow = nn.Linear(third, fourth)
        self.norm2 = nn.BatchNorm1d(fourth)
        self.out = nn.Linear(fourth, num_classes)
        for name, child in self.named_children():
            if name != "encoder":
                child.apply(init_weights)
        # Comes from the data, not from training: the weights stay exchangeable.
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Compute the loss of a batch: {"points": (B, N, 3), "part": (B, N), perhaps "label", "features"} -> {"total"}.

        `part` is the class of a point, −1 where it is not known; `label` the class of the shape.
        """
        logits = self._predict(batch["points"], batch.get("label"), batch.get("features"), check=False)
        return {"total": self.loss(logits, batch["part"])}

    def loss(self, logits: Tensor, part: Tensor) -> Tensor:
        """Compare logits (B, N, L) with the truth (B, N): cross-entropy, weighted by class where weights were given."""
        kind, smoothing = computing_type(logits), self.config.label_smoothing
        weight = None if self.class_weight is None else self.get_buffer("class_weight").to(kind)
        scores, truth = logits.flatten(0, 1).to(kind), part.flatten()
        return F.cross_entropy(scores, truth, weight, ignore_index=UNKNOWN, label_smoothing=smoothing)

    def predict(self, points: Tensor, label: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Score the classes of all points: (B, N, 3), (B,) -> logits (B, N, L), N ≥ num_patches.

        Args:
            points: the clouds.
            label: the class of each shape, which a segmenter of parts is told.
            features: the further channels (B, N, F) the segmenter was built for.

        Raises:
            ValueError: too few points, NaN or infinite coordinates; label or features missing or not fitting.
        """
        return self._predict(points, label, features, check=True)

    def segment(
        self, points: Tensor, patches: Patches, label: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """Score the classes of all points of clouds that are cut into patches -> logits (B, N, L)."""
        values = torch.cat(self.encoder.encode(patches, self.taps).taps, dim=-1)
        whole = [values.amax(1), values.mean(1)]
        if self.category is not None:
            if label is None:
                raise ValueError("this segmenter is told the class of each shape; give label")
            whole.append(self.category(F.one_hot(label, self.config.categories).to(points.dtype)))
        given = 0 if features is None else features.shape[-1]
        if given != self.config.features:
            raise ValueError(f"the segmenter takes {self.config.features} feature channels, {given} were given")
        channels = points if features is None else torch.cat([points, features.to(points.dtype)], dim=-1)
        x = self.propagation(points, channels, patches.centers, values)
        # The layer after the concatenation [point; cloud] is linear: its half of the cloud is computed once a cloud.
        each, once = self.mix.weight.split([x.shape[-1], self.mix.in_features - x.shape[-1]], dim=1)
        x = F.linear(x, each) + F.linear(torch.cat(whole, dim=-1), once, self.mix.bias)[:, None]
        x = self.dropout(F.relu(self.norm1(x.flatten(0, 1)), inplace=True))
        x = F.relu(self.norm2(self.narrow(x)), inplace=True)
        return self.out(x).unflatten(0, points.shape[:2])

    def _predict(self, points: Tensor, label: Tensor | None, features: Tensor | None, check: bool) -> Tensor:
        seen = features if self.encoder.config.features else None
        return self.segment(points, self.encoder.cut(points, seen, check=check), label, features)


def thirds(depth: int) -> tuple[int, ...]:
    """Return the blocks after each third of the encoder: 12 -> (3, 7, 11), as released."""
    return tuple(sorted({max(depth * third // 3, 1) - 1 for third in (1, 2, 3)}))


def class_weights(counts: Tensor) -> Tensor:
    """Weigh classes by how rare they are: number of points (L,) -> (most / number)^(1/3) (L,), as released for S3DIS.

    A class without points gets the weight of one with a single point.
    """
    return (counts.max() / counts.clamp_min(1)).float() ** (1 / 3)
