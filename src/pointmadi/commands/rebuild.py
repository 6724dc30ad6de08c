"""Rebuild clouds by the reverse process, or complete partial ones, and say how well that went."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pointmadi.commands.pretrain import open_run
from pointmadi.data.clouds import Clouds
from pointmadi.data.sources import open_source
from pointmadi.models.masking import hide
from pointmadi.objectives import PointMaDi
from pointmadi.objectives.sampling import Rebuilt, SamplingConfig, complete, errors, rebuild
from pointmadi.ops.random import Draws

COLORS = {"visible": (0, 114, 178), "rebuilt": (213, 94, 0)}  # blue and vermilion: distinct to colour-blind eyes


@dataclass(frozen=True)
class Config:
    """Hide patches of a cloud, rebuild them from noise, and write the result as a coloured .ply.

    Attributes:
        cloud: a mesh or cloud, or a packed set and --index.
        checkpoint: run folder of a point-madi pre-training.
        to: the .ply to write: visible points blue, rebuilt points vermilion; coordinates as in the input.
        index: which shape of a set.
        num_points: points the cloud is brought to; 0 means as many as in pre-training.
        mask: hide patches at random or as a block.
        complete: take the whole input as the visible part of a scan and invent the rest (needs a model trained with
            --objective.encoder-hidden learned).
        sampling: steps, eta (0 DDIM, 1 DDPM), and what is known of the places.
        trajectory: also write all moments of both processes as .npz.
        seed: of the mask and of all noise.
    """

    cloud: str = field(metadata={"positional": True})
    checkpoint: str
    to: str
    index: int = 0
    num_points: int = 0
    mask: Literal["random", "block"] = "block"
    complete: bool = False
    sampling: SamplingConfig = SamplingConfig()
    trajectory: str = ""
    seed: int = 0


def run(config: Config) -> None:
    """Rebuild one cloud and print errors of the sampler beside those of one-step prediction."""
    target = Path(config.to)
    if target.suffix.lower() != ".ply":
        raise ValueError(f"--to writes .ply, not '{config.to}'; name a file that ends in .ply")
    objective, settings = open_run(config.checkpoint)
    if not isinstance(objective, PointMaDi):
        raise ValueError(f"{config.checkpoint} was not pre-trained by point-madi, so it has no reverse process")
    if objective.encoder.config.features:
        raise ValueError(f"{config.checkpoint} needs feature channels; rebuild works on xyz alone")
    count = config.num_points or settings.num_points
    clouds = open_source(config.cloud, count, config.seed, "all")
    if not isinstance(clouds, Clouds) or not 0 <= config.index < len(clouds):
        raise ValueError(
            f"--index {config.index} is not a shape of {config.cloud}; it must be one that is stored there"
        )
    index = torch.tensor([config.index])
    points = clouds.xyz(index)[:, :count]
    undo = clouds.scale[index].view(-1, 1, 1), clouds.center[index].view(-1, 1, 3)

    draws = Draws(config.seed)
    if config.complete:
        made = complete(objective, points, config.sampling, draws)
        seen = points
    else:
        patches = objective.encoder.cut(points)
        hidden = hide(config.mask, patches.centers, objective.num_hidden, draws)
        made = rebuild(objective, patches, hidden, config.sampling, draws)
        members = patches.offsets + patches.centers[:, :, None]
        seen = members[~hidden].flatten(0, 1)[None]
        single = rebuild(
            objective, patches, hidden, SamplingConfig(1, 0.0, config.sampling.places), Draws(config.seed, 1)
        )
        _report(config.sampling.steps, errors(made, patches), errors(single, patches))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_ply(target, {"visible": seen * undo[0] + undo[1], "rebuilt": made.points * undo[0] + undo[1]})
    print(f"wrote {target}")
    if config.trajectory:
        _write_trajectory(Path(config.trajectory), made)
        print(f"wrote {config.trajectory}")


def write_ply(path: Path, parts: dict[str, Tensor]) -> None:
    """Write named parts (1, N, 3) as one coloured point cloud."""
    import trimesh

    points = torch.cat([part[0] for part in parts.values()]).numpy()
    colors = np.repeat([(*COLORS[name], 255) for name in parts], [part.shape[1] for part in parts.values()], axis=0)
    draft = path.with_name(f".{path.name}.unfinished")
    trimesh.PointCloud(points, colors.astype(np.uint8)).export(draft, file_type="ply")
    draft.replace(path)


def _report(steps: int, sampled: dict[str, float], single: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("error", f"{steps} steps", "one step", title="lower is better; unit: radius of the cloud")
    for name in sampled:
        table.add_row(name, f"{sampled[name]:.5f}", f"{single[name]:.5f}")
    Console().print(table)


def _write_trajectory(path: Path, made: Rebuilt) -> None:
    """Write what happened at each step: (T, G, 3) places, (T, M, K, 3) patches; noisy and predicted."""
    arrays = {"order": made.order[0].numpy(), "centers": made.centers[0].numpy(), "offsets": made.offsets[0].numpy()}
    for name, moments in (("center", made.center_path), ("patch", made.patch_path)):
        if moments:
            arrays[f"{name}_step"] = np.array([moment.step for moment in moments])
            arrays[f"{name}_noisy"] = torch.cat([moment.noisy for moment in moments]).numpy()
            arrays[f"{name}_predicted"] = torch.cat([moment.clean for moment in moments]).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
