"""Point-MaDi (NeurIPS 2025): masked autoencoding with two diffusions, of patch centres and of hidden patches."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pointmadi.models.decoder import DecoderConfig, PatchDecoder, PatchLoss, patch_loss
from pointmadi.models.diffusion import Diffusion, DiffusionConfig
from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.models.masking import block_mask, count_hidden, random_mask, visible_first
from pointmadi.nn.embeddings import StepEmbedding
from pointmadi.nn.patches import Patches
from pointmadi.ops.neighbors import gather
from pointmadi.ops.random import Draws


@dataclass(frozen=True)
class PointMaDiConfig:
    """Point-MaDi's objective; the defaults are the release's.

    Attributes:
        random_ratio: share of patches that the random mask hides.
        block_ratio: share of patches that the block mask hides; the same count for both.
        center_diffusion: noise schedule of the centres.
        patch_diffusion: noise schedule of the hidden patches.
        noised_centers: which centres are noised and predicted; the others are given as they are.
        patch_scale: factor on patches before they are noised; 1 as released, 1/0.13 gives them unit variance.
        step_embedding: tell the decoder the diffusion step; off as released.
        encoder_hidden: what the encoder's hidden stream sees: 'real' patch contents as released, or one 'learned'
            token, which lets the model complete scans that lack the hidden part.
        loss: distance between rebuilt and true patches: Chamfer 'l2' or 'l1', or 'mse' point by point.
        center_weight: weight γ of the loss on predicted centres.
        decoder: the network that rebuilds hidden patches.
    """

    random_ratio: float = 0.6
    block_ratio: float = 0.6
    center_diffusion: DiffusionConfig = DiffusionConfig()
    patch_diffusion: DiffusionConfig = DiffusionConfig()
    noised_centers: Literal["both", "visible", "hidden"] = "both"
    patch_scale: float = 1.0
    step_embedding: bool = False
    encoder_hidden: Literal["real", "learned"] = "real"
    loss: PatchLoss = "l2"
    center_weight: float = 0.1
    decoder: DecoderConfig = DecoderConfig()

    def __post_init__(self) -> None:
        """Refuse a scale that leaves nothing of the patches, or turns them over."""
        if not 0 < self.patch_scale < float("inf"):
            raise ValueError(f"patch_scale must be a number above 0, got {self.patch_scale}")


class Plan(NamedTuple):
    """All that is random in one step. Views are stacked along the batch: first the random masks, then the blocks.

    Attributes:
        hidden: which patches are hidden (2B, G).
        center_step: diffusion step of the centres (2B,), the same in both views.
        patch_step: diffusion step of the patches (2B,), the same in both views.
        center_noise: (2B, G, 3), in the order of the patches.
        patch_noise: (2B, M, K, 3), hidden patches in their order.
    """

    hidden: Tensor
    center_step: Tensor
    patch_step: Tensor
    center_noise: Tensor
    patch_noise: Tensor


class PointMaDi(nn.Module):
    """Predict clean centres from noised ones, then clean patches from noised ones at the predicted centres."""

    def __init__(self, encoder: EncoderConfig, config: PointMaDiConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PointMaDiConfig()
        self.num_hidden = count_hidden(config.random_ratio, encoder.num_patches)
        if self.num_hidden != count_hidden(config.block_ratio, encoder.num_patches):
            raise ValueError(
                f"random_ratio {config.random_ratio} and block_ratio {config.block_ratio} hide different numbers of "
                f"the {encoder.num_patches} patches; choose ratios that hide the same number"
            )
        dim, patch_size = encoder.dim, encoder.patch_size
        self.encoder = PointEncoder(encoder)
        self.center_diffusion = Diffusion(config.center_diffusion)
        self.patch_diffusion = Diffusion(config.patch_diffusion, config.patch_scale)
        self.visible_center = nn.Sequential(nn.Linear(dim, 128), nn.GELU(), nn.Linear(128, 3))
        self.hidden_center = nn.Sequential(nn.Linear(dim, 128), nn.GELU(), nn.Linear(128, 3))
        self.embed_noisy = nn.Linear(3 * patch_size, dim)
        self.embed_step = StepEmbedding(dim) if config.step_embedding else None
        self.hidden_token = nn.Parameter(0.02 * torch.randn(dim)) if config.encoder_hidden == "learned" else None
        self.decoder = PatchDecoder(encoder, config.decoder)

    @property
    def num_visible(self) -> int:
        """Number of visible patches of a view."""
        return self.encoder.config.num_patches - self.num_hidden

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Compute the losses of a batch: {"points": (B, N, 3)} -> {"total", "center", "patch"}."""
        patches = self.encoder.cut(batch["points"], batch.get("features"), check=False)
        return self.losses(patches, self.plan(patches, draws))

    def plan(self, patches: Patches, draws: Draws) -> Plan:
        """Draw masks, steps and noise for both views of a batch."""
        batch, groups, size, _ = patches.offsets.shape
        hidden = [make(patches.centers, self.num_hidden, draws) for make in (random_mask, block_mask)]
        steps = (draws.integers(kind.steps, batch).repeat(2) for kind in (self.center_diffusion, self.patch_diffusion))
        noise = (
            draws.normal(batch, 2, *shape).transpose(0, 1).flatten(0, 1)
            for shape in ((groups, 3), (self.num_hidden, size, 3))
        )
        return Plan(torch.cat(hidden), *steps, *noise)

    def losses(self, patches: Patches, plan: Plan) -> dict[str, Tensor]:
        """Compute the losses, given all that is random."""
        order = visible_first(plan.hidden)
        tokens = gather(self.encoder.tokenizer(patches).repeat(2, 1, 1), order)
        clean = gather(patches.centers.repeat(2, 1, 1), order)
        noisy = self.center_diffusion.add_noise(clean, plan.center_step, gather(plan.center_noise, order))
        latent, predicted = self.predict_centers(tokens, self.keep_given(noisy, clean))
        hidden = gather(patches.offsets.repeat(2, 1, 1, 1), order[:, self.num_visible :])
        noisy_patches = self.patch_diffusion.add_noise(hidden, plan.patch_step, plan.patch_noise)
        places = self.keep_given(predicted, clean).detach()
        rebuilt = self.predict_patches(latent, noisy_patches, places, plan.patch_step)
        center = self.center_loss(predicted.to(clean.dtype), clean)
        patch = patch_loss(rebuilt, hidden, self.config.loss)
        return {"total": self.config.center_weight * center + patch, "center": center, "patch": patch}

    def keep_given(self, centers: Tensor, clean: Tensor) -> Tensor:
        """Put the true centres (B, G, 3), visible first, where this configuration does not noise them."""
        visible = self.num_visible
        match self.config.noised_centers:
            case "both":
                return centers
            case "visible":
                return torch.cat([centers[:, :visible], clean[:, visible:].to(centers.dtype)], dim=1)
            case "hidden":
                return torch.cat([clean[:, :visible].to(centers.dtype), centers[:, visible:]], dim=1)

    def center_loss(self, predicted: Tensor, clean: Tensor) -> Tensor:
        """Average the squared error of visible and of hidden centres; only of those that are noised."""
        error = (predicted - clean).square()
        streams = {"visible": error[:, : self.num_visible], "hidden": error[:, self.num_visible :]}
        noised = streams if self.config.noised_centers == "both" else [self.config.noised_centers]
        return torch.stack([streams[name].mean() for name in noised]).mean()

    def predict_centers(self, tokens: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        """Encode patches at noised places and say where they belong.

        Args:
            tokens: patch tokens, visible first (B, G, C).
            centers: their noised centres (B, G, 3).

        Returns:
            latent (B, G, C) and predicted clean centres (B, G, 3).
        """
        visible = self.num_visible
        if self.hidden_token is not None:
            blanks = self.hidden_token.to(tokens.dtype).expand(len(tokens), self.num_hidden, -1)
            tokens = torch.cat([tokens[:, :visible], blanks], dim=1)
        latent = self.encoder.transformer(tokens, self.encoder.positions(centers), visible).latent
        centers = torch.cat([self.visible_center(latent[:, :visible]), self.hidden_center(latent[:, visible:])], dim=1)
        return latent, centers

    def predict_patches(self, latent: Tensor, noisy: Tensor, centers: Tensor, step: Tensor) -> Tensor:
        """Rebuild hidden patches from their noised selves, the visible latents and all places.

        Args:
            latent: encoder output, visible first (B, ≥V, C); only the V visible ones are used.
            noisy: noised hidden patches (B, M, K, 3).
            centers: predicted centres, visible first (B, G, 3).
            step: diffusion steps of the patches (B,).

        Returns:
            clean hidden patches (B, M, K, 3), relative to their centres.
        """
        tokens = torch.cat([latent[:, : self.num_visible], self.embed_noisy(noisy.flatten(2)).to(latent.dtype)], dim=1)
        if self.embed_step is not None:
            tokens = tokens + self.embed_step(step)[:, None]
        return self.decoder(tokens, self.encoder.positions(centers), self.num_visible)
