"""PCP-MAE (Zhang et al. 2024): the encoder also learns to predict where the hidden patches are."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointmadi.models.decoder import DecoderConfig, PatchDecoder, PatchLoss, patch_loss
from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.models.masking import count_hidden, hide, visible_first
from pointmadi.nn.embeddings import SinCosPositions, sincos
from pointmadi.nn.patches import Patches
from pointmadi.ops.neighbors import gather
from pointmadi.ops.random import Draws


@dataclass(frozen=True)
class PCPMAEConfig:
    """PCP-MAE's objective.

    Attributes:
        mask_ratio: share of patches that are hidden.
        mask: hide patches at random, or as a block.
        decoder: the network that rebuilds them.
        loss: Chamfer distance, 'l2' (squared) or 'l1', or 'mse' point by point.
        center_weight: weight η of the loss on predicted centres.
    """

    mask_ratio: float = 0.6
    mask: Literal["random", "block"] = "random"
    decoder: DecoderConfig = DecoderConfig()
    loss: PatchLoss = "l2"
    center_weight: float = 0.1


class PCPMAE(nn.Module):
    """Predict the sine-cosine code of hidden centres from their contents; the decoder works at the predicted places.

    The encoder's `positions` must be 'sincos'.
    """

    def __init__(self, encoder: EncoderConfig, config: PCPMAEConfig | None = None) -> None:
        super().__init__()
        if encoder.positions != "sincos":
            raise ValueError(f"pcp-mae needs an encoder with positions 'sincos', not '{encoder.positions}'")
        self.config = config = config or PCPMAEConfig()
        self.num_hidden = count_hidden(config.mask_ratio, encoder.num_patches)
        dim = encoder.dim
        self.encoder = PointEncoder(encoder)
        self.hidden_position = nn.Parameter(torch.zeros(dim))
        self.hidden_token = nn.Parameter(torch.zeros(dim))
        self.predict = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, dim))
        self.decoder = PatchDecoder(encoder, config.decoder)
        nn.init.trunc_normal_(self.hidden_position, std=0.02)
        nn.init.trunc_normal_(self.hidden_token, std=0.02)

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Compute the losses of a batch: {"points": (B, N, 3)} -> {"total", "center", "patch"}."""
        patches = self.encoder.cut(batch["points"], batch.get("features"), check=False)
        return self.losses(patches, hide(self.config.mask, patches.centers, self.num_hidden, draws))

    def losses(self, patches: Patches, hidden: Tensor) -> dict[str, Tensor]:
        """Compute the losses, given which patches are hidden (B, G)."""
        visible = hidden.shape[1] - self.num_hidden
        order = visible_first(hidden)
        positions = self.encoder.positions
        assert isinstance(positions, SinCosPositions)
        tokens = gather(self.encoder.tokenizer(patches), order)
        code = sincos(gather(patches.centers, order), positions.dim)
        places = positions.network(code[:, :visible])
        unknown, blanks = (
            vector.to(places.dtype).expand(len(tokens), self.num_hidden, -1)
            for vector in (self.hidden_position, self.hidden_token)
        )
        latent = self.encoder.transformer(tokens, torch.cat([places, unknown], dim=1), visible).latent
        predicted = self.predict(latent[:, visible:])
        rebuilt = self.decoder(
            torch.cat([latent[:, :visible], blanks.to(latent.dtype)], dim=1),
            torch.cat([places, positions.network(predicted.detach())], dim=1),
            visible,
        )
        center = F.mse_loss(predicted.to(code.dtype), code[:, visible:])
        patch = patch_loss(rebuilt, gather(patches.offsets, order[:, visible:]), self.config.loss)
        return {"total": self.config.center_weight * center + patch, "center": center, "patch": patch}
