"""Draw the pictures of the README from a point-madi run: python examples/draw_readme.py RUN [--to docs/pictures]

rebuild.png: shapes whose hidden patches are rebuilt from noise, at their true places; rows are the two masks.
corpus.png: the built-in shapes, procedural ones and labelled objects.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from pointmadi.commands.pretrain import open_run
from pointmadi.data.synthetic.objects import objects
from pointmadi.data.synthetic.procedural import corpus
from pointmadi.models.masking import hide
from pointmadi.nn.patches import Patches
from pointmadi.objectives.sampling import SamplingConfig, rebuild
from pointmadi.ops.neighbors import gather
from pointmadi.ops.random import Draws
from pointmadi.visualize.figures import GREY, Panel, draw_clouds, two_tone

SHAPES = {"chair": 1, "airplane": 1, "guitar": 0}  # class, and which of its test shapes


def members(patches: Patches, index: Tensor) -> Tensor:
    """Return the points of the patches `index` (1, M) of one cloud: (M·K, 3)."""
    return (gather(patches.offsets, index) + gather(patches.centers, index)[:, :, None]).flatten(0, 2)


def story(objective, points: Tensor, mask: str, first: bool) -> list[Panel]:
    """Return the panels of one row: input, visible, noise, the way, rebuilt, truth."""
    patches = objective.encoder.cut(points)
    hidden = hide(mask, patches.centers, objective.num_hidden, Draws(2))
    made = rebuild(objective, patches, hidden, SamplingConfig(50, 0.0, "given"), Draws(3))
    visible = objective.num_visible
    seen, truth = (members(patches, part) for part in made.order.split([visible, objective.num_hidden], dim=1))
    scale = objective.patch_diffusion.scale
    places = made.centers[:, visible:, None]

    def at(moment: int) -> Tensor:
        return (made.patch_path[moment].noisy / scale + places).flatten(0, 2).clamp(-1, 1)

    words = ["input", "visible", "noise", "step 35 of 50", "step 45 of 50", "rebuilt", "truth"] if first else [""] * 7
    return [
        Panel(points[0], GREY, words[0]),
        Panel(seen, caption=words[1]),
        two_tone(seen, at(0), words[2]),
        two_tone(seen, at(35), words[3]),
        two_tone(seen, at(45), words[4]),
        two_tone(seen, (made.offsets + places).flatten(0, 2), words[5]),
        two_tone(seen, truth, words[6], GREY),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a point-madi run")
    parser.add_argument("--to", default="docs/pictures")
    args = parser.parse_args()

    objective, config = open_run(args.run)
    shapes = objects(400, config.num_points, seed=7)
    panels: list[Panel] = []
    for kind, which in SHAPES.items():
        index = (shapes.label == shapes.classes.index(kind)).nonzero()[which]
        for mask in ("random", "block"):
            panels += story(objective, shapes.xyz(index), mask, not panels)
    labels = [f"{kind}, {mask}" for kind in SHAPES for mask in ("random", "block")]
    print(draw_clouds(panels, Path(args.to) / "rebuild.png", columns=7, labels=labels))

    made = corpus(20, 2048, seed=1)
    first = [int((shapes.label == label).nonzero()[0]) for label in range(len(shapes.classes))]
    sheet = [Panel(points, GREY) for points in made.xyz()]
    sheet += [Panel(shapes.xyz(torch.tensor([i]))[0], caption=name) for i, name in zip(first, shapes.classes)]
    print(draw_clouds(sheet, Path(args.to) / "corpus.png", columns=10))


if __name__ == "__main__":
    main()
