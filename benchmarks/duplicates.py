"""How well duplicates are found: some shapes come twice, as another sampling, noisy, scaled, turned; which are seen?

python benchmarks/duplicates.py [SET.npz] [--planted 100]; without a set, 600 of the synthetic objects.
"""

import argparse
import time

import torch

from pointmadi.data.clouds import Clouds
from pointmadi.data.quality import Rules, duplicates
from pointmadi.data.sources import open_source
from pointmadi.ops.random import Draws

WAYS = ("permuted", "resampled", "resampled, noise 1 %", "resampled, noise 2 %", "resampled, half the size")
LIMITS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5)


def planted(clouds: Clouds, way: str, count: int) -> Clouds:
    """Return the first half of the points of every shape, and then `count` of the shapes once more."""
    half = clouds.num_points // 2
    draws = Draws(1)
    columns = draws.permutation(clouds.num_points)
    rows = draws.permutation(len(clouds))[:count].sort().values
    points = clouds.xyz()[:, columns]
    again = points[rows, :half].flip(1) if way == "permuted" else points[rows, half : 2 * half]
    if "noise" in way:
        again = again + float(way.split()[-2]) / 100 * draws.normal(*again.shape)
    if "size" in way:
        again = 0.5 * again + torch.tensor([3.0, 0.0, -1.0])
    names = [str(i) for i in range(len(clouds))] + [f"again {i}" for i in rows.tolist()]
    return Clouds.pack(torch.cat([points[:, :half], again]), names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="objects:600")
    parser.add_argument("--planted", type=int, default=100)
    parser.add_argument("--ways", nargs="+", default=WAYS)
    args = parser.parse_args()
    clouds = open_source(args.data, 2048, split="all")
    assert isinstance(clouds, Clouds)
    print(f"{args.data}: {len(clouds)} shapes of {clouds.num_points // 2} points, {args.planted} of them twice")
    print("| copy | distance: median, 95 % | " + " | ".join(f"recall / others at {limit}" for limit in LIMITS) + " |")
    for way in args.ways:
        start = time.process_time()
        pairs = duplicates(planted(clouds, way, args.planted), rules=Rules(near=max(LIMITS)))
        took = time.process_time() - start
        true = torch.tensor([p.distance for p in pairs if {p.a, p.b} in ({n, f"again {n}"} for n in (p.a, p.b))])
        others = torch.tensor([p.distance for p in pairs if "again" not in p.a + p.b])
        cells = [f"{100 * int((true <= x).sum()) / args.planted:.0f} % / {int((others <= x).sum())}" for x in LIMITS]
        middle = f"{true.median():.2f}, {true.quantile(0.95):.2f}" if len(true) else "–"
        print(f"| {way} | {middle} | " + " | ".join(cells) + f" | {took:.0f} s")


if __name__ == "__main__":
    main()
