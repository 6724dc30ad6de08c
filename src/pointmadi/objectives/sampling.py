"""The reverse process of Point-MaDi: places from noise, then hidden patches from noise.

The release trains both diffusions and never runs them backwards; its samplers cannot run (docs/faithfulness.md, 5, 16).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pointmadi.models.diffusion import Moment
from pointmadi.models.masking import visible_first
from pointmadi.nn.patches import Patches, cut
from pointmadi.objectives.point_madi import PointMaDi
from pointmadi.ops.chamfer import chamfer
from pointmadi.ops.neighbors import gather
from pointmadi.ops.random import Draws


@dataclass(frozen=True)
class SamplingConfig:
    """How to run the reverse process.

    Attributes:
        steps: predictions for the places, and again for the patches; 1 is one-step prediction from pure noise.
        eta: 0 for DDIM (deterministic given the start), 1 for DDPM.
        places: what is known: 'unknown' denoises all centres, a jigsaw of patches whose contents are known and whose
            places are not; 'visible' knows the places of visible patches; 'given' takes all centres as they are.
    """

    steps: int = 50
    eta: float = 0.0
    places: Literal["unknown", "visible", "given"] = "unknown"


class Rebuilt(NamedTuple):
    """What the sampler made. Patches stand visible first; M of the G patches are hidden.

    Attributes:
        order: position of each of them in the patches that were given (B, G).
        centers: places at the end (B, G, 3).
        offsets: hidden patches at the end, relative to their centres (B, M, K, 3).
        center_path: moments of the places, each (B, G, 3); empty if they were given.
        patch_path: moments of the hidden patches, each (B, M, K, 3), before noise and scale are taken off.
    """

    order: Tensor
    centers: Tensor
    offsets: Tensor
    center_path: tuple[Moment, ...]
    patch_path: tuple[Moment, ...]

    @property
    def points(self) -> Tensor:
        """Points of the hidden patches in the coordinates of the cloud (B, M·K, 3)."""
        return (self.offsets + self.centers[:, -self.offsets.shape[1] :, None]).flatten(1, 2)


@torch.no_grad()
def rebuild(objective: PointMaDi, patches: Patches, hidden: Tensor, config: SamplingConfig, draws: Draws) -> Rebuilt:
    """Place all patches and rebuild the hidden ones.

    Args:
        objective: a trained model, in eval mode.
        patches: of B clouds.
        hidden: which patches are hidden (B, G); as many as the model was trained with.
        config: steps, eta, and what is known of the places.
        draws: source of all noise.

    Raises:
        ValueError: another number of hidden patches, or more steps than the schedule has.
    """
    if not bool((hidden.sum(1) == objective.num_hidden).all()):
        raise ValueError(f"the model hides {objective.num_hidden} patches of a cloud; hide as many")
    order = visible_first(hidden)
    return _sample(objective, gather(objective.encoder.tokenizer(patches), order), gather(patches.centers, order),
                   order, config, draws)  # fmt: skip


@torch.no_grad()
def complete(objective: PointMaDi, points: Tensor, config: SamplingConfig, draws: Draws) -> Rebuilt:
    """Add what a partial scan (B, N, 3) lacks: the hidden patches are invented, places and contents.

    The scan is cut into the visible patches only. The model must have been trained with `encoder_hidden='learned'`.

    Raises:
        ValueError: this model wants to know the contents or the places of hidden patches, which a partial scan lacks.
    """
    if objective.hidden_token is None:
        raise ValueError(
            "this model sees the contents of hidden patches, so it cannot complete a scan; "
            "pre-train with --objective.encoder-hidden learned"
        )
    if objective.config.noised_centers == "visible":
        raise ValueError("this model never learned where hidden patches are (noised_centers='visible')")
    patches = cut(points, objective.num_visible, objective.encoder.config.patch_size)
    tokens = objective.encoder.tokenizer(patches)
    batch, visible, _ = tokens.shape
    blanks = (objective.num_hidden, -1)
    order = torch.arange(visible + objective.num_hidden, device=points.device).expand(batch, -1)
    return _sample(
        objective,
        torch.cat([tokens, objective.hidden_token.expand(batch, *blanks)], dim=1),
        torch.cat([patches.centers, torch.zeros_like(patches.centers[:, :1]).expand(-1, *blanks)], dim=1),
        order,
        SamplingConfig(config.steps, config.eta, "visible"),
        draws,
    )


def _sample(
    objective: PointMaDi, tokens: Tensor, known: Tensor, order: Tensor, config: SamplingConfig, draws: Draws
) -> Rebuilt:
    """Denoise the centres, then the hidden patches; `tokens` and `known` centres stand visible first."""
    visible = objective.num_visible
    center_path: tuple[Moment, ...] = ()
    centers = known
    if config.places != "given":
        noise = draws.normal(*known.shape)

        def place(noisy: Tensor, step: Tensor) -> Tensor:
            if config.places == "visible":
                seen = objective.center_diffusion.add_noise(known, step, noise)
                noisy = torch.cat([seen[:, :visible], noisy[:, visible:]], dim=1)
            return objective.predict_centers(tokens, objective.keep_given(noisy, known))[1]

        center_path = tuple(objective.center_diffusion.sample(place, noise, config.steps, config.eta, draws))
        centers = objective.keep_given(center_path[-1].clean, known)
        if config.places == "visible":
            centers = torch.cat([known[:, :visible], centers[:, visible:]], dim=1)
    latent, _ = objective.predict_centers(tokens, centers)
    size = (objective.num_hidden, objective.encoder.config.patch_size, 3)
    patch_path = tuple(
        objective.patch_diffusion.sample(
            lambda noisy, step: objective.predict_patches(latent, noisy, centers, step),
            draws.normal(len(tokens), *size),
            config.steps,
            config.eta,
            draws,
        )
    )
    return Rebuilt(order, centers, patch_path[-1].clean, center_path, patch_path)


def errors(rebuilt: Rebuilt, patches: Patches) -> dict[str, float]:
    """Compare with the truth.

    Returns:
        center_rmse: root mean square distance of all centres from the true ones, in units of the cloud's radius.
        patch_chamfer: Chamfer L2 of the hidden patches, each relative to its own centre.
        cloud_chamfer: Chamfer L2 of the points of all hidden patches in their places.
    """
    hidden = rebuilt.offsets.shape[1]
    clean = gather(patches.centers, rebuilt.order)
    offsets = gather(patches.offsets, rebuilt.order)[:, -hidden:]
    points = (offsets + clean[:, -hidden:, None]).flatten(1, 2)
    return {
        "center_rmse": (rebuilt.centers - clean).square().sum(-1).mean().sqrt().item(),
        "patch_chamfer": chamfer(rebuilt.offsets.flatten(0, 1), offsets.flatten(0, 1)).item(),
        "cloud_chamfer": chamfer(rebuilt.points, points).item(),
    }
