"""Time the geometry operators against what a user would otherwise pick, and check that the results are the same.

    OMP_NUM_THREADS=1 python benchmarks/ops.py [--device cuda] [--rounds 11]

All methods of a case take turns (A B C A B C …) in one process. A row gives the median time of a call, the median over
rounds of its time divided by ours of the same round (above 1: ours is faster), and how much of the result agrees with
ours: the share of equal indices, or the relative difference of values and gradients. Libraries that are not installed
(pip install torch-quickfps "fpsample<1") are skipped by name. CPU times are processor time of one thread.
"""

import argparse
import json
import platform
import re
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from pointmadi.ops.chamfer import chamfer
from pointmadi.ops.neighbors import gather, interpolate, nearest
from pointmadi.ops.sampling import farthest_points

Methods = dict[str, Callable[[], object]]


def naive_fps(points: Tensor, count: int) -> Tensor:
    """Write the loop as most PyTorch ports of PointNet++ do."""
    batch, num_points, _ = points.shape
    rows = torch.arange(batch, device=points.device)
    picks = torch.zeros(batch, count, dtype=torch.int64, device=points.device)
    closest = torch.full((batch, num_points), 1e10, device=points.device)
    last = picks[:, 0]
    for step in range(count):
        picks[:, step] = last
        distance = ((points - points[rows, last, None]) ** 2).sum(-1)
        nearer = distance < closest
        closest[nearer] = distance[nearer]
        last = closest.max(-1)[1]
    return picks


def fps_methods(points: Tensor, count: int) -> Methods:
    methods: Methods = {
        "pointmadi": lambda: farthest_points(points, count),
        "naive PyTorch": lambda: naive_fps(points, count),
    }
    if find_spec("torch_quickfps") and not points.is_cuda:
        import torch_quickfps

        methods["torch-quickfps"] = lambda: torch_quickfps.sample_idx(points, count, start_idx=0)
    if find_spec("fpsample") and not points.is_cuda:
        import fpsample

        clouds = points.numpy()
        methods["fpsample (vanilla)"] = lambda: np.stack([fpsample.fps_sampling(c, count, start_idx=0) for c in clouds])
    return methods


def expanded(queries: Tensor, points: Tensor) -> Tensor:
    """Compute squared distances as |q|² - 2qp + |p|²."""
    return torch.baddbmm(
        queries.square().sum(-1)[:, :, None] + points.square().sum(-1)[:, None], queries, points.mT, alpha=-2
    )


def knn_methods(queries: Tensor, points: Tensor, k: int) -> Methods:
    methods: Methods = {
        "pointmadi": lambda: nearest(queries, points, k)[0],
        "cdist + topk": lambda: torch.cdist(queries, points).topk(k, largest=False).indices,
        "expanded + topk": lambda: expanded(queries, points).topk(k, largest=False).indices,
    }
    if find_spec("scipy") and not points.is_cuda:
        from scipy.spatial import cKDTree

        pairs = list(zip(queries.numpy(), points.numpy(), strict=True))
        methods["scipy cKDTree"] = lambda: np.stack([cKDTree(p).query(q, k)[1] for q, p in pairs])
    return methods


def chamfer_methods(a: Tensor, b: Tensor) -> Methods:
    def trained(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        """Return the value followed by the gradient, the way a training step needs both."""

        def call() -> Tensor:
            leaf = a.detach().requires_grad_()
            value = distance(leaf, b)
            return torch.cat([value.detach().reshape(1), torch.autograd.grad(value, leaf)[0].flatten()])

        return call

    def both(distances: Tensor) -> Tensor:
        return distances.amin(2).mean() + distances.amin(1).mean()

    return {
        "pointmadi": trained(chamfer),
        "broadcast": trained(lambda a, b: both((a[:, :, None] - b[:, None]).square().sum(-1))),
        "cdist²": trained(lambda a, b: both(torch.cdist(a, b).square())),
        "expanded": trained(lambda a, b: both(expanded(a, b))),
    }


def interpolation_methods(queries: Tensor, points: Tensor, values: Tensor) -> Methods:
    def naive(values: Tensor) -> Tensor:
        squared, index = expanded(queries, points).clamp(min=0).topk(3, largest=False)
        weights = 1 / (squared + 1e-8)
        return (gather(values, index) * (weights / weights.sum(-1, keepdim=True))[..., None]).sum(-2)

    def trained(carry: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def call() -> Tensor:
            leaf = values.detach().requires_grad_()
            return torch.autograd.grad(carry(leaf).square().mean(), leaf)[0]

        return call

    return {
        "pointmadi": trained(lambda values: interpolate(queries, points, values)),
        "expanded + gather": trained(naive),
    }


def cases(device: torch.device) -> dict[str, Methods]:
    generator = torch.Generator().manual_seed(0)

    def clouds(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    small, large = clouds(32, 1024, 3), clouds(4, 8192, 3)
    return {
        "FPS 32x1024 to 64": fps_methods(small, 64),
        "FPS 1x1024 to 64": fps_methods(small[:1], 64),
        "FPS 32x2048 to 128": fps_methods(clouds(32, 2048, 3), 128),
        "FPS 4x8192 to 1200": fps_methods(large, 1200),
        "KNN 32: 32x64 of 1024": knn_methods(small[:, :64].clone(), small, 32),
        "KNN 32: same, 100 from the origin": knn_methods(small[:, :64] + 100, small + 100, 32),
        "KNN 32: 4x512 of 8192": knn_methods(large[:, :512].clone(), large, 32),
        "Chamfer 4864x32 to 32, with gradient": chamfer_methods(clouds(4864, 32, 3), clouds(4864, 32, 3)),
        "Chamfer 4x2048 to 2048, with gradient": chamfer_methods(clouds(4, 2048, 3), clouds(4, 2048, 3)),
        "Interpolate 2x2048 from 128, 1536 channels": interpolation_methods(
            clouds(2, 2048, 3), clouds(2, 128, 3), clouds(2, 128, 1536)
        ),
    }


def agreement(ours: object, theirs: object) -> str:
    """Say how equal two results are."""
    a, b = torch.as_tensor(ours).cpu(), torch.as_tensor(theirs).cpu()
    if a.is_floating_point():
        return f"differ by {((a - b).norm() / a.norm()).item():.0e}"
    return f"{(a == b.to(a.dtype)).float().mean().item():.2%} equal"


def measure(methods: Methods, rounds: int, device: torch.device) -> list[dict[str, object]]:
    """Time every method once a round, in turn, after one warm-up call each, which gives the result to compare."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    results = {name: call() for name, call in methods.items()}
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, call in methods.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    ours = next(iter(methods))
    rows: list[dict[str, object]] = []
    for name, seconds in times.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds, times[ours], strict=True)]
        rows.append(
            {
                "method": name,
                "ms": round(1e3 * median(seconds), 3),
                "ratio": round(median(ratios), 2),
                "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
                "result": agreement(results[ours], results[name]),
            }
        )
    return rows


def machine_name(device: torch.device) -> str:
    """Name the processor that does the work, fit for a file name."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if device.type == "cpu" and information.exists():
        name = next((line.split(":")[1] for line in information.open() if line.startswith("model name")), name)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where the JSON goes")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    missing = [name for name in ("torch_quickfps", "fpsample", "scipy") if not find_spec(name)]
    if missing:
        print("not installed, skipped: " + ", ".join(missing))

    table = {}
    print(f"{'':44}{'ms':>10}{'x ours':>9}  {'min..max':<14}result")
    for case, methods in cases(device).items():
        table[case] = measure(methods, options.rounds, device)
        print(case)
        for row in table[case]:
            low, high = row["ratio_range"]
            print(f"  {row['method']:<42}{row['ms']:>10}{row['ratio']:>9}  {f'{low}..{high}':<14}{row['result']}")

    machine = machine_name(device)
    record = {
        "machine": machine,
        "threads": 1,
        "torch": torch.__version__,
        "rounds": options.rounds,
        "skipped": missing,
        "cases": table,
    }
    path = options.results / f"{machine}-ops.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
