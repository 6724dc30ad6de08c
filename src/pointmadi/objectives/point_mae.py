"""Point-MAE (Pang et al. 2022): hide patches, encode the visible ones, rebuild the hidden ones."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pointmadi.models.decoder import DecoderConfig, PatchDecoder, PatchLoss, patch_loss
from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.models.masking import count_hidden, hide, visible_first
from pointmadi.nn.embeddings import MLPPositions
from pointmadi.nn.patches import Patches
from pointmadi.ops.neighbors import gather
from pointmadi.ops.random import Draws


@dataclass(frozen=True)
class PointMAEConfig:
    """Point-MAE's objective.

    Attributes:
        mask_ratio: share of patches that are hidden.
        mask: hide patches at random, or as a block.
        decoder: the network that rebuilds them.
        loss: Chamfer distance, 'l2' (squared) or 'l1', or 'mse' point by point.
    """

    mask_ratio: float = 0.6
    mask: Literal["random", "block"] = "random"
    decoder: DecoderConfig = DecoderConfig()
    loss: PatchLoss = "l2"


class PointMAE(nn.Module):
    """Encode visible patches only; decode one learned token at the true centre of every hidden one."""

    def __init__(self, encoder: EncoderConfig, config: PointMAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PointMAEConfig()
        self.num_hidden = count_hidden(config.mask_ratio, encoder.num_patches)
        self.encoder = PointEncoder(encoder)
        self.hidden_token = nn.Parameter(torch.zeros(encoder.dim))
        self.decoder_positions = MLPPositions(encoder.dim)
        self.decoder = PatchDecoder(encoder, config.decoder)
        nn.init.trunc_normal_(self.hidden_token, std=0.02)

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Compute the loss of a batch: {"points": (B, N, 3)} -> {"total"}."""
        patches = self.encoder.cut(batch["points"], batch.get("features"), check=False)
        return self.losses(patches, hide(self.config.mask, patches.centers, self.num_hidden, draws))

    def losses(self, patches: Patches, hidden: Tensor) -> dict[str, Tensor]:
        """Compute the loss, given which patches are hidden (B, G)."""
        visible = hidden.shape[1] - self.num_hidden
        order = visible_first(hidden)
        centers = gather(patches.centers, order)
        tokens = gather(self.encoder.tokenizer(patches), order[:, :visible])
        latent = self.encoder.transformer(tokens, self.encoder.positions(centers[:, :visible])).latent
        blanks = self.hidden_token.to(latent.dtype).expand(len(latent), self.num_hidden, -1)
        rebuilt = self.decoder(torch.cat([latent, blanks], dim=1), self.decoder_positions(centers), visible)
        return {"total": patch_loss(rebuilt, gather(patches.offsets, order[:, visible:]), self.config.loss)}
