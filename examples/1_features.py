"""Use an encoder: python examples/1_features.py RUN

RUN is a run folder, an encoder.safetensors, or a published checkpoint of Point-MaDi, Point-MAE or PCP-MAE.
"""

import argparse

import torch

import pointmadi
from pointmadi.data.synthetic.objects import objects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--shapes", type=int, default=120)
    args = parser.parse_args()

    encoder = pointmadi.load(args.run)
    print(encoder.origin)

    shapes = objects(args.shapes, num_points=1024, seed=1)
    points = shapes.xyz()  # (S, N, 3), centred, radius 1
    with torch.no_grad():
        encoding = encoder(points, taps=(0, encoder.config.depth - 1))
    print("patches", tuple(encoding.latent.shape), "at", tuple(encoding.centers.shape))
    print("clouds ", tuple(encoding.pooled.shape))
    print("blocks ", [tuple(tap.shape) for tap in encoding.taps])

    # The nearest other shape by cosine of the pooled features, each feature standardised.
    features = torch.nn.functional.normalize((encoding.pooled - encoding.pooled.mean(0)) / encoding.pooled.std(0))
    nearest = (features @ features.T).fill_diagonal_(-1).argmax(1)
    kinds = [shapes.classes[label] for label in shapes.label.tolist()]
    for i in range(5):
        print(f"{shapes.names[i]} ({kinds[i]}) looks like {shapes.names[nearest[i]]} ({kinds[nearest[i]]})")
    print(f"of the same class: {(shapes.label == shapes.label[nearest]).float().mean():.0%}")


if __name__ == "__main__":
    main()
