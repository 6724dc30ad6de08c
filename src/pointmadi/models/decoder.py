"""The decoder that rebuilds hidden patches, and the distance that judges it."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pointmadi.models.encoder import EncoderConfig
from pointmadi.nn.transformer import Transformer
from pointmadi.ops.chamfer import chamfer

PatchLoss = Literal["l2", "l1", "mse"]


@dataclass(frozen=True)
class DecoderConfig:
    """What the decoder is.

    Attributes:
        depth: number of transformer blocks; 0 means a third of the encoder's, as released (4 for 12).
        heads: attention heads.
        drop_path: rate of stochastic depth at the last block.
    """

    depth: int = 0
    heads: int = 6
    drop_path: float = 0.1

    def depth_beside(self, encoder: EncoderConfig) -> int:
        """Return the number of blocks in company of this encoder."""
        return self.depth or max(1, encoder.depth // 3)


def init_xavier(module: nn.Module) -> None:
    """Initialise linear layers as the releases' decoders: Xavier, q, k and v one by one; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        whole = module.weight.detach()
        for matrix in whole.chunk(3) if module.out_features == 3 * module.in_features else [whole]:
            nn.init.xavier_uniform_(matrix)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class PatchDecoder(nn.Module):
    """A transformer over all patches and a linear layer that turns the hidden ones into points."""

    def __init__(self, encoder: EncoderConfig, config: DecoderConfig) -> None:
        super().__init__()
        self.transformer = Transformer(encoder.dim, config.depth_beside(encoder), config.heads, config.drop_path)
        self.rebuild = nn.Linear(encoder.dim, 3 * encoder.patch_size)
        self.transformer.apply(init_xavier)

    def forward(self, tokens: Tensor, positions: Tensor, visible: int) -> Tensor:
        """Rebuild the tokens from `visible` on: (B, G, C), (B, G, C) -> (B, G − visible, K, 3)."""
        latent = self.transformer(tokens, positions, first_output=visible).latent
        return self.rebuild(latent).unflatten(-1, (-1, 3))


def patch_loss(rebuilt: Tensor, clean: Tensor, kind: PatchLoss) -> Tensor:
    """Compare patches (B, M, K, 3) with the truth: Chamfer distance, or mean squared error point by point."""
    if kind == "mse":
        return F.mse_loss(rebuilt.to(clean.dtype), clean)
    return chamfer(rebuilt.flatten(0, 1), clean.flatten(0, 1), kind, check=False)
