"""Draw the README's pictures: python examples/draw_readme.py RUN [--to FOLDER]

rebuild.png: hidden patches of built-in objects, rebuilt from noise, under the random and the block mask.
corpus.png: shapes of the procedural corpus, and one built-in object of each class.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from pointmadi.commands.pretrain import open_run
from pointmadi.data.clouds import Clouds
from pointmadi.data.synthetic.objects import CLASSES, make
from pointmadi.data.synthetic.procedural import generate
from pointmadi.models.masking import hide
from pointmadi.objectives import PointMaDi
from pointmadi.objectives.sampling import SamplingConfig, rebuild
from pointmadi.ops.neighbors import gather
from pointmadi.ops.random import Draws
from pointmadi.visualize.figures import PALETTE, Panel, Story, draw_clouds, draw_rebuild

POINTS = 4096  # of an object
# Which object of each class turns its good side to the camera, in the order of CLASSES.
CHOSEN = (5, 3, 4, 4, 6, 3, 6, 3, 3, 5, 1, 7, 6, 2, 1, 2, 6, 7, 7, 2)
PROCEDURAL = (0, 1, 2, 3, 31, 5, 6, 7, 37, 9, 12, 17, 14, 13, 18, 15, 46, 56, 25, 54)  # indices of shapes
SHOWN = ("chair", "airplane")  # rebuilt
STEPS = 200  # of the sampler
FAINT = 0.03  # noise that no longer shows, in radii of a cloud


def built_in(name: str) -> tuple[Tensor, list[int]]:
    """Return an object of a class: points (1, N, 3) and the part of each."""
    kind = CLASSES.index(name)
    points, _, part = make(CHOSEN[kind] * len(CLASSES) + kind, POINTS, seed=0)
    return Clouds.pack(torch.from_numpy(points)[None]).xyz(), part.tolist()


def tell(objective: PointMaDi, points: Tensor, mask: str, places: str, seed: int) -> Story:
    """Hide patches of a cloud (1, N, 3), rebuild them from noise, and keep three moments of the way."""
    draws = Draws(seed)
    patches = objective.encoder.cut(points)
    hidden = hide(mask, patches.centers, objective.num_hidden, draws)
    made = rebuild(objective, patches, hidden, SamplingConfig(STEPS, places=places), draws)
    members = gather(patches.offsets + patches.centers[:, :, None], made.order)[0]
    centers = made.centers[0, -objective.num_hidden :, None]

    # Moments at which the noise shows ever less, by equal factors.
    diffusion, moments = objective.patch_diffusion, {}
    noise = [diffusion.noise[moment.step].item() / diffusion.scale for moment in made.patch_path]
    for third in range(3):
        wanted = noise[0] * (FAINT / noise[0]) ** (third / 3)
        moment = made.patch_path[min(range(STEPS), key=lambda i: abs(noise[i] - wanted))]
        caption = f"step {moment.step + 1:,}" if third else f"noise: step {moment.step + 1:,}"
        moments[caption] = (centers + moment.noisy[0] / diffusion.scale).flatten(0, 1)

    visible = objective.num_visible
    return Story(
        f"{mask} mask",
        points[0],
        members[:visible].flatten(0, 1),
        members[visible:].flatten(0, 1),
        moments,
        made.points[0],
    )


def shrink(path: Path) -> None:
    """Reduce a picture to 256 colours: a quarter of its size, no difference to the eye."""
    from PIL import Image

    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a point-madi run")
    parser.add_argument("--to", type=Path, default=Path("docs/pictures"), help="folder of the pictures")
    parser.add_argument(
        "--places", default="given", choices=["given", "visible", "unknown"], help="what the sampler knows of places"
    )
    parser.add_argument("--seed", type=int, default=0, help="of masks and noise")
    args = parser.parse_args()

    objective, config = open_run(args.run)
    if not isinstance(objective, PointMaDi):
        parser.error(f"{args.run} was not pre-trained by point-madi, so it has no reverse process")
    stories = []
    for name in SHOWN:
        points = built_in(name)[0][:, :: max(1, POINTS // config.num_points)]
        stories += [tell(objective, points, mask, args.places, args.seed) for mask in ("random", "block")]
    shrink(draw_rebuild(stories, args.to / "rebuild.png"))

    panels = [Panel(points, PALETTE[i % 6]) for i, points in enumerate(generate(torch.tensor(PROCEDURAL), 0, POINTS))]
    for name in CLASSES:
        points, part = built_in(name)
        panels.append(Panel(points[0], [PALETTE[i % len(PALETTE)] for i in part], name))
    headings = {
        0: "Procedural corpus: endless, shape i made from (seed, i)",
        2: "Everyday objects: 20 classes with parts",
    }
    shrink(draw_clouds(panels, args.to / "corpus.png", columns=10, headings=headings))


if __name__ == "__main__":
    main()
