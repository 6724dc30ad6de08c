"""The encoder: the product. A cloud in, one vector for each patch out."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pointmadi.nn.embeddings import MLPPositions, SinCosPositions
from pointmadi.nn.patches import Patches, Tokenizer, cut
from pointmadi.nn.transformer import Hidden, Transformer


@dataclass(frozen=True)
class EncoderConfig:
    """What the encoder is.

    Attributes:
        dim: width C of tokens.
        depth: number of transformer blocks.
        heads: attention heads.
        num_patches: G, patches a cloud is cut into.
        patch_size: K, points of a patch.
        widths: inner widths of the tokenizer.
        features: further input channels beside xyz (normals, colour, intensity).
        drop_path: rate of stochastic depth at the last block.
        positions: how centres are embedded: 'mlp' (Point-MAE, Point-MaDi) or 'sincos' (PCP-MAE).
        skip_origin: never choose points within 0.0316 of the origin as patch centres, as the released CUDA kernel does.
    """

    dim: int = 384
    depth: int = 12
    heads: int = 6
    num_patches: int = 64
    patch_size: int = 32
    widths: tuple[int, int, int] = (128, 256, 512)
    features: int = 0
    drop_path: float = 0.1
    positions: Literal["mlp", "sincos"] = "mlp"
    skip_origin: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that make no encoder."""
        for name in ("dim", "depth", "heads", "num_patches", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of an encoder must be at least 1, got {getattr(self, name)}")
        if min(self.widths) < 1:
            raise ValueError(f"widths of an encoder must be at least 1, got {self.widths}")


PRESETS = {
    "nano": EncoderConfig(96, 4, 4, 32, 32, (32, 64, 128), drop_path=0.0),
    "tiny": EncoderConfig(192, 6, 3, drop_path=0.05),
    "small": EncoderConfig(),
    "base": EncoderConfig(768, 12, 12),
}


class Encoding(NamedTuple):
    """What the encoder says of a batch of clouds.

    Attributes:
        latent: one vector a patch (B, G, C).
        centers: where the patches are (B, G, 3).
        taps: outputs of the blocks asked for, each (B, G, C).
    """

    latent: Tensor
    centers: Tensor
    taps: tuple[Tensor, ...] = ()

    @property
    def pooled(self) -> Tensor:
        """One vector a cloud (B, 2C): [mean; maximum] over patches."""
        return torch.cat([self.latent.mean(1), self.latent.amax(1)], dim=-1)


def init_weights(module: nn.Module) -> None:
    """Initialise linear layers N(0, 0.02) with bias 0; meant for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class PointEncoder(nn.Module):
    """Patches, tokens, positions, transformer."""

    origin = "new weights"  # `pointmadi.load` says here where they come from

    def __init__(self, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EncoderConfig()
        self.tokenizer = Tokenizer(config.dim, config.widths, config.features)
        self.positions = (MLPPositions if config.positions == "mlp" else SinCosPositions)(config.dim)
        self.transformer = Transformer(config.dim, config.depth, config.heads, config.drop_path)
        self.apply(init_weights)

    def cut(self, points: Tensor, features: Tensor | None = None, *, check: bool = True) -> Patches:
        """Cut clouds (B, N, 3), N ≥ num_patches, into this encoder's patches."""
        size = self.config
        return cut(points, size.num_patches, size.patch_size, features, skip_origin=size.skip_origin, check=check)

    def encode(self, patches: Patches, taps: tuple[int, ...] = ()) -> Encoding:
        """Encode patches that are all visible, at their true centres."""
        hidden: Hidden = self.transformer(self.tokenizer(patches), self.positions(patches.centers), taps=taps)
        return Encoding(hidden.latent, patches.centers, hidden.taps)

    def forward(self, points: Tensor, features: Tensor | None = None, taps: tuple[int, ...] = ()) -> Encoding:
        """Encode clouds of any number of points ≥ num_patches, in the unit sphere: (B, N, 3) -> Encoding.

        Args:
            points: clouds, centred and of radius 1 as in pre-training.
            features: the further channels (B, N, F) the encoder was built for.
            taps: blocks (0 … depth−1) whose outputs are wanted too.

        Raises:
            ValueError: too few points, a wrong rank, NaN or infinite coordinates, features missing or not expected.
        """
        return self.encode(self.cut(points, features), taps)
