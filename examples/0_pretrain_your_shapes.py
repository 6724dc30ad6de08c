"""Pre-train an encoder on a folder of shapes: python examples/0_pretrain_your_shapes.py [FOLDER]

Without a folder a few meshes are made first. The same from the shell: pointmadi pretrain --data FOLDER --run RUN
"""

import argparse
from dataclasses import replace
from pathlib import Path

import trimesh

from pointmadi.commands import pretrain


def make_meshes(folder: Path, count: int = 16) -> None:
    """Write a few boxes, cylinders and spheres."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        size = 0.5 + i / count
        trimesh.creation.box((1, size, 2)).export(folder / f"box{i:02}.ply")
        trimesh.creation.cylinder(radius=size, height=2).export(folder / f"cylinder{i:02}.obj")
        trimesh.creation.icosphere(subdivisions=2, radius=size).export(folder / f"sphere{i:02}.stl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default="", help="meshes and clouds; sub-folders are read too")
    parser.add_argument("--run", default="runs/example", help="where everything goes")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    folder = Path(args.folder or "runs/example-meshes")
    if not args.folder:
        make_meshes(folder)

    config = pretrain.Config(
        data=(str(folder),),
        run=args.run,
        batch_size=16,
        train=replace(pretrain.SHORT_TRAINING, epochs=args.epochs, warmup=min(1, args.epochs / 10)),
        probe=(),  # labelled sets, such as ("objects",), to say what the encoder is worth
    )
    pretrain.run(config)


if __name__ == "__main__":
    main()
