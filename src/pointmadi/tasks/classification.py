"""Classification of whole clouds: a class token beside the patches, pooling, a head."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointmadi.models.encoder import PointEncoder
from pointmadi.nn.patches import Patches
from pointmadi.ops.random import Draws

Pooling = Literal["mean+max", "cls+max"]


@dataclass(frozen=True)
class ClassifierConfig:
    """How clouds are classified.

    Attributes:
        pooling: one vector of all tokens: 'mean+max' over patches and class token (Point-MaDi), or 'cls+max', the class
            token and the maximum over patches (Point-MAE, PCP-MAE).
        head: 'full' trains everything, under three layers; 'linear' and 'mlp3' keep the encoder as it is, and train one
            layer or three. The class token belongs to the head.
        widths: inner widths of the three layers.
        dropout: share of their activations that are dropped.
        label_smoothing: share of the truth that is spread over all classes; the releases use none.
    """

    pooling: Pooling = "mean+max"
    head: Literal["full", "linear", "mlp3"] = "full"
    widths: tuple[int, int] = (256, 256)
    dropout: float = 0.5
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} of a classifier is a share from 0 to below 1, not {getattr(self, name)}")


class Classifier(nn.Module):
    """An encoder, a class token and a head, as Point-BERT and those after it fine-tune."""

    def __init__(self, encoder: PointEncoder, num_classes: int, config: ClassifierConfig | None = None) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, not {num_classes}")
        self.config = config = config or ClassifierConfig()
        self.num_classes, self.encoder = num_classes, encoder
        dim, (first, second) = encoder.config.dim, config.widths
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        self.cls_position = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        if config.head == "linear":
            self.head = nn.Sequential(nn.Linear(2 * dim, num_classes))
        else:
            self.head = nn.Sequential(
                *(nn.Linear(2 * dim, first), nn.BatchNorm1d(first), nn.ReLU(), nn.Dropout(config.dropout)),
                *(nn.Linear(first, second), nn.BatchNorm1d(second), nn.ReLU(), nn.Dropout(config.dropout)),
                nn.Linear(second, num_classes),
            )
        if self.frozen:
            encoder.requires_grad_(False)

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is."""
        return self.config.head != "full"

    def train(self, mode: bool = True) -> "Classifier":
        """Switch to training; a frozen encoder keeps the statistics of its BatchNorm and drops no path."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Compute the loss of a batch: {"points": (B, N, 3), "label": (B,)} -> {"total"}."""
        logits = self.classify(self.encoder.cut(batch["points"], self._features(batch.get("features")), check=False))
        return {"total": F.cross_entropy(logits, batch["label"], label_smoothing=self.config.label_smoothing)}

    def predict(self, points: Tensor, features: Tensor | None = None) -> Tensor:
        """Score the classes of clouds of any number of points ≥ num_patches: (B, N, 3) -> logits (B, L)."""
        return self.classify(self.encoder.cut(points, self._features(features)))

    def classify(self, patches: Patches) -> Tensor:
        """Score the classes of clouds that are cut into patches -> logits (B, L)."""
        tokens, positions = self.encoder.tokenizer(patches), self.encoder.positions(patches.centers)
        token, position = (
            own.to(beside.dtype).expand(len(beside), 1, -1)
            for own, beside in ((self.cls_token, tokens), (self.cls_position, positions))
        )
        latent = self.encoder.transformer(torch.cat([token, tokens], 1), torch.cat([position, positions], 1)).latent
        if self.config.pooling == "mean+max":
            return self.head(torch.cat([latent.mean(1), latent.amax(1)], dim=-1))
        return self.head(torch.cat([latent[:, 0], latent[:, 1:].amax(1)], dim=-1))

    def _features(self, features: Tensor | None) -> Tensor | None:
        """Leave out channels that the encoder was not built for."""
        return features if self.encoder.config.features else None
