"""How well the reverse process of a Point-MaDi run works, by number of steps: errors over many shapes of a set.

python benchmarks/sampling.py RUN --data SET [--count 64] [--mask block]
"""

import argparse

import torch

from pointmadi.commands.pretrain import open_run
from pointmadi.data.sources import open_source
from pointmadi.models.masking import hide
from pointmadi.objectives.sampling import SamplingConfig, errors, rebuild
from pointmadi.ops.random import Draws

SAMPLERS = ((1, 0.0), (10, 0.0), (50, 0.0), (50, 1.0))  # steps, eta
SETTINGS = [SamplingConfig(*sampler, places) for places in ("unknown", "visible", "given") for sampler in SAMPLERS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a point-madi run")
    parser.add_argument("--data", default="objects", help="what to rebuild; its test part")
    parser.add_argument("--count", type=int, default=64, help="number of shapes")
    parser.add_argument("--mask", choices=["random", "block"], default="block")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    objective, config = open_run(args.run)
    clouds = open_source(args.data, config.num_points, 0, "test")
    points = clouds.xyz(torch.arange(min(args.count, len(clouds))))[:, : config.num_points]
    patches = objective.encoder.cut(points)
    hidden = hide(args.mask, patches.centers, objective.num_hidden, Draws(args.seed))
    spread = (patches.centers - patches.centers.mean(1, keepdim=True)).square().sum(-1).mean().sqrt().item()
    print(f"{len(points)} test shapes of {args.data}, {args.mask} mask, seed {args.seed}; ", end="")
    print(f"all centres at their mean would be off by {spread:.3f} (units: radius of the cloud)\n")
    print("| places | sampler | centre RMSE | patch Chamfer | cloud Chamfer |\n| --- | --- | ---: | ---: | ---: |")
    for setting in SETTINGS:
        found = errors(rebuild(objective, patches, hidden, setting, Draws(args.seed, 1)), patches)
        sampler = "one step" if setting.steps == 1 else f"{'DDPM' if setting.eta else 'DDIM'}, {setting.steps} steps"
        print(
            f"| {setting.places} | {sampler} | " + " | ".join(f"{value:.5f}" for value in found.values()) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
