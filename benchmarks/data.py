"""How fast shapes are read at random from memory, shards, one HDF5 file, and one .npy each.

python benchmarks/data.py [--quick] [--results FOLDER]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import torch
from ops import machine_name

from pointmadi.data.collect import list_folder
from pointmadi.data.formats import Reading
from pointmadi.data.packing import pack
from pointmadi.data.shards import Shards

BATCH, POINTS, BAR = 64, 1024, 50_000
Read = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few shapes, one round: only to see that it works")
    parser.add_argument("--results", default=str(Path(__file__).parent / "results"))
    args = parser.parse_args()
    count, rounds = (500, 3) if args.quick else (8_000, 7)
    torch.set_num_threads(1)
    machine = machine_name(torch.device("cpu"))
    with TemporaryDirectory() as place:
        rates = measure(Path(place), count, rounds)
    print(f"{count} shapes of {POINTS} points, batches of {BATCH}, {rounds} rounds, processor time\n")
    print("| stored as | shapes/s | of shards |\n|---|---:|---:|")
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in median.items():
        print(f"| {name} | {rate:,.0f} | {rate / median['Shards']:.2f} |")
    print(f"\n{'PASS' if median['Shards'] >= BAR else 'FAIL'}: Shards give at least {BAR:,} shapes/s")
    result = {"machine": machine, "shapes": count, "points": POINTS, "batch": BATCH, "rounds": rounds, "rates": rates}
    folder = Path(args.results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{machine}-data.json").write_text(json.dumps(result, indent=1) + "\n")


def measure(place: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Return shapes per second of each way, round by round; ways take turns."""
    raw = place / "raw"
    raw.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        np.save(raw / f"{i:06d}.npy", random.normal(size=(POINTS, 3)).astype(np.float32))
    pack(list_folder(raw), place / "set", Reading(POINTS))
    shards = Shards.open(place / "set")
    clouds = shards.load()
    with h5py.File(place / "set.h5", "w") as file:
        file.create_dataset("points", data=clouds.points.numpy(), chunks=(1, POINTS, 3))
    (place / "each").mkdir()
    for name, points in zip(clouds.names, clouds.points):
        np.save(place / "each" / name, points.numpy())
    file = h5py.File(place / "set.h5")

    def from_h5(rows: torch.Tensor) -> torch.Tensor:
        order = rows.argsort()
        return torch.from_numpy(file["points"][rows[order].tolist()])[order.argsort()]

    def from_each(rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.load(place / "each" / clouds.names[row]) for row in rows.tolist()]))

    ways: dict[str, Read] = {
        "Clouds (in memory)": lambda rows: clouds.gather("points", rows),
        "Shards": lambda rows: shards.gather("points", rows),
        "one HDF5 file, a chunk each": from_h5,
        "one .npy each": from_each,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    batches = torch.randperm(count, generator=torch.Generator().manual_seed(0)).split(BATCH)[:100]
    expected = [clouds.points[rows] for rows in batches[:2]]
    for name, read in ways.items():  # the same shapes by every way; this also warms up
        assert all(torch.equal(read(rows), same) for rows, same in zip(batches, expected)), name
        for rows in batches:
            read(rows)
    for _ in range(rounds):
        for name, read in ways.items():
            start = time.process_time()
            for rows in batches:
                read(rows)
            rates[name].append(round(sum(map(len, batches)) / (time.process_time() - start)))
    return rates


if __name__ == "__main__":
    main()
