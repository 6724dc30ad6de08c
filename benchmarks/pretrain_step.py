"""Say where the time of a pre-training step goes, and how much of what this machine can do is used.

    OMP_NUM_THREADS=1 python benchmarks/pretrain_step.py [--preset small] [--objective point-madi] [--batch 32]

A real step is taken apart: the same steps that train give the time of each part, forward and backward together, in
processor time of one thread. Each round measures, in turn, a product of two 4096x4096 matrices (the peak) and a step,
in float32 and under bfloat16 autocast, so that the ratios survive a machine that is shared with others. Printed are
medians over rounds; ratios are medians of the ratios of each round.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from ops import machine_name
from torch import Tensor

from pointmadi.commands._runtime import keep_memory
from pointmadi.data.augment import AugmentConfig
from pointmadi.data.sources import batches_from, open_source
from pointmadi.models import decoder
from pointmadi.models.encoder import PRESETS, EncoderConfig
from pointmadi.models.masking import count_hidden
from pointmadi.nn import patches
from pointmadi.objectives import (
    OBJECTIVES,
    Objective,
    ObjectiveConfig,
    PCPMAEConfig,
    PointMaDiConfig,
    build,
    pcp_mae,
    point_mae,
)
from pointmadi.ops.random import Draws
from pointmadi.training.optim import OptimConfig, adamw

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
NUM_POINTS = 1024
# Parts of a step, in its order. What has no matrix product is the feeding, the rest of the step is the network.
FEEDING = ("data, augmentation", "FPS", "kNN", "masks, draws")
PARTS = (*FEEDING, "tokenizer", "encoder", "decoder", "Chamfer", "rest", "optimiser")


def flops(encoder: EncoderConfig, objective: ObjectiveConfig) -> tuple[Counter[str], Counter[str]]:
    """Count the operations of all matrix products for one sample, by part: forward, backward.

    A product of (R, I) and (I, O) is 2·R·I·O forward and, where its input has a gradient, twice that backward, else as
    much again. It is the work of the identities that the code uses, not that of the published layers.
    """
    forward: Counter[str] = Counter()
    backward: Counter[str] = Counter()
    dim, groups, size = encoder.dim, encoder.num_patches, encoder.patch_size

    def linear(part: str, rows: int, inputs: int, outputs: int, *, from_data: bool = False) -> None:
        work = 2 * rows * inputs * outputs
        forward[part] += work
        backward[part] += work if from_data else 2 * work

    def transformer(part: str, depth: int, views: int, tokens: int, first_output: int = 0) -> None:
        for block in range(depth):
            rows = tokens - first_output if block == depth - 1 else tokens
            linear(part, views * tokens, dim, 2 * dim)  # keys and values
            for inputs, outputs in ((dim, dim), (dim, tokens), (tokens, dim), (dim, dim)):
                linear(part, views * rows, inputs, outputs)  # queries, scores, weighted values, proj
            linear(part, views * rows, dim, 4 * dim)
            linear(part, views * rows, 4 * dim, dim)

    def positions(rows: int, kind: str = encoder.positions) -> None:
        inputs, inner = (3, 128) if kind == "mlp" else (dim, dim)
        linear("rest", rows, inputs, inner, from_data=True)
        linear("rest", rows, inner, dim)

    first, second, third = encoder.widths
    points = groups * size
    linear("tokenizer", points, 3 + encoder.features, first, from_data=True)
    linear("tokenizer", points, first, second)
    linear("tokenizer", points, second, third)
    linear("tokenizer", groups, second, third)
    linear("tokenizer", points, third, dim)

    ratio = objective.random_ratio if isinstance(objective, PointMaDiConfig) else objective.mask_ratio
    hidden = count_hidden(ratio, groups)
    visible, views = groups - hidden, 1
    if isinstance(objective, PointMaDiConfig):
        views = 2
        for _ in range(2):  # at noised centres, then at predicted ones
            positions(views * groups)
        transformer("encoder", encoder.depth, views, groups)
        linear("rest", views * groups, dim, 128)
        linear("rest", views * groups, 128, 3)
        linear("rest", views * hidden, 3 * size, dim, from_data=True)
    elif isinstance(objective, PCPMAEConfig):
        positions(visible, "sincos")
        positions(hidden, "sincos")
        transformer("encoder", encoder.depth, views, groups)
        linear("rest", hidden, dim, dim)
        linear("rest", hidden, dim, dim)
    else:
        positions(visible)
        positions(groups)
        transformer("encoder", encoder.depth, views, visible)
    transformer("decoder", objective.decoder.depth_beside(encoder), views, groups, first_output=visible)
    linear("decoder", views * hidden, dim, 3 * size)
    return forward, backward


class Clock:
    """Add up processor time by part; one part runs at a time."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self.part, self.since = "rest", time.process_time()

    def turn(self, part: str) -> None:
        """Let `part` run from now on."""
        now = time.process_time()
        self.spent[self.part] += now - self.since
        self.part, self.since = part, now

    def watch(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with its time, and that of its gradient, given to `part`."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            args = tuple(self.mark(value, "rest") for value in args)
            self.turn(part)
            result = call(*args, **kwargs)
            self.turn("rest")
            return self.mark(result, part)

        return watched

    def mark(self, value: Any, part: str) -> Any:
        """Return `value`; when its gradient arrives, `part` runs."""
        if isinstance(value, tuple) and hasattr(value, "_make"):
            return value._make(self.mark(item, part) for item in value)
        return Mark.apply(value, self, part) if isinstance(value, Tensor) and value.requires_grad else value


class Mark(torch.autograd.Function):
    """Do nothing but turn the clock when the gradient comes by."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, clock: Clock, part: str) -> Tensor:
        ctx.turn = lambda: clock.turn(part)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.turn()
        return gradient, None, None


@contextmanager
def taken_apart(model: Objective, clock: Clock) -> Iterator[None]:
    """Let `clock` watch the parts of `model`."""
    parts: list[tuple[str, Any, str]] = [
        ("FPS", patches, "farthest_points"),
        ("kNN", patches, "nearest"),
        ("tokenizer", model.encoder.tokenizer, "forward"),
        ("encoder", model.encoder.transformer, "forward"),
        ("decoder", model.decoder, "forward"),
        ("Chamfer", decoder, "chamfer"),
        ("masks, draws", point_mae, "hide"),
        ("masks, draws", pcp_mae, "hide"),
    ]
    if hasattr(model, "plan"):
        parts.append(("masks, draws", model, "plan"))
    with ExitStack() as stack:
        for part, owner, name in parts:
            stack.enter_context(patch.object(owner, name, clock.watch(part, getattr(owner, name))))
        yield


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one configuration."""
    torch.manual_seed(0)
    model = build(PRESETS[options.preset], OBJECTIVES[options.objective])
    encoder, config = model.encoder.config, model.config
    optimizer = adamw(model, OptimConfig())
    source = open_source(options.data, 2 * NUM_POINTS, cache=False)
    batches = batches_from([source], options.batch, NUM_POINTS, augment=AugmentConfig())

    def step(number: int, dtype: torch.dtype, clock: Clock) -> None:
        clock.turn("data, augmentation")
        draws = Draws(0, 0, number)
        batch = batches(number // len(batches), number % len(batches), draws)
        clock.turn("rest")
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(batch, draws)["total"]
        loss.backward()
        clock.turn("optimiser")
        optimizer.step()
        optimizer.zero_grad()
        clock.turn("rest")

    side = options.side
    matrices = {name: torch.randn(2, side, side).to(dtype) for name, dtype in PRECISIONS.items()}
    spent: dict[str, list[Counter[str]]] = {name: [] for name in PRECISIONS}
    peaks: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for number in range(1 + options.rounds):
        for name, dtype in PRECISIONS.items():
            a, b = matrices[name]
            peaks[name].append(2 * side**3 / seconds(lambda a=a, b=b: a @ b))  # type: ignore[misc]
            clock = Clock()
            with taken_apart(model, clock):
                step(number, dtype, clock)
            spent[name].append(clock.spent)
    for measured in (*spent.values(), *peaks.values()):
        del measured[0]  # the first round warms up

    forward, backward = flops(encoder, config)
    work = forward.total() + backward.total()
    steps = {name: [counter.total() / options.batch for counter in counters] for name, counters in spent.items()}
    ms = {
        name: {part: round(1e3 * median(c[part] for c in counters) / options.batch, 3) for part in PARTS}
        | {"step": round(1e3 * median(steps[name]), 3)}
        for name, counters in spent.items()
    }
    used = {
        name: median(work / time / peak for time, peak in zip(steps[name], peaks[name], strict=True))
        for name in PRECISIONS
    }
    fed = {name: median(sum(c[p] for p in FEEDING) / c.total() for c in counters) for name, counters in spent.items()}
    return {
        "threads": 1,
        "torch": torch.__version__,
        "data": options.data,
        "rounds": options.rounds,
        "gflop_per_sample": {
            part: [round(kind[part] / 1e9, 4) for kind in (forward, backward)] for part in PARTS if forward[part]
        }
        | {"step": round(work / 1e9, 4)},
        "peak_gflops": {name: round(median(peaks[name]) / 1e9, 1) for name in PRECISIONS},
        "ms_per_sample": ms,
        "share_of_peak": {name: round(value, 3) for name, value in used.items()},
        "bf16_over_fp32": round(median(b / a for a, b in zip(steps["fp32"], steps["bf16"], strict=True)), 3),
        "feeding_share": {name: round(value, 4) for name, value in fed.items()},
    }


def report(case: str, found: dict[str, Any]) -> None:
    """Print the table and whether the bars are met."""
    ms, work, peak = found["ms_per_sample"], found["gflop_per_sample"], found["peak_gflops"]
    print(f"{case}: {work['step']:.2f} GFLOP a sample; peak {peak['fp32']} GFLOP/s fp32, {peak['bf16']} bf16")
    print(f"{'ms per sample':20}{'fp32':>10}{'bf16':>10}{'bf16/fp32':>11}{'GFLOP':>9}{'% of peak fp32, bf16':>23}")
    for part in (*PARTS, "step"):
        both = [ms[name][part] for name in PRECISIONS]
        count = work["step"] if part == "step" else sum(work.get(part, [0]))
        shares = [f"{100 * count / t * 1e3 / peak[name]:.0f}" for t, name in zip(both, PRECISIONS, strict=True) if t]
        ratio = both[1] / both[0] if both[0] else 0
        print(
            f"{part:20}{both[0]:>10.2f}{both[1]:>10.2f}{ratio:>11.2f}"
            + (f"{count:>9.2f}{', '.join(shares):>23}" if count else "")
        )
    bars = {
        "fp32 at 70 % of the fp32 peak or more": (found["share_of_peak"]["fp32"], 0.70, 1),
        "bf16 at 55 % of the bf16 peak or more": (found["share_of_peak"]["bf16"], 0.55, 1),
        "bf16 step at most 0.5 of the fp32 step": (found["bf16_over_fp32"], 0.50, -1),
        "data, augmentation, FPS, kNN, masks at most 5 % of the fp32 step": (found["feeding_share"]["fp32"], 0.05, -1),
        "… and of the bf16 step": (found["feeding_share"]["bf16"], 0.05, -1),
    }
    print("bars, meant for small point-madi, batch 32:")
    for bar, (value, limit, sign) in bars.items():
        print(f"{'PASS' if sign * (value - limit) >= 0 else 'FAIL'}  {value:.3f}  {bar}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--objective", choices=OBJECTIVES, default="point-madi")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--data", default="procedural:256", help="what `pointmadi pretrain --data` takes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=4096, help="of the square matrices whose product is the peak")
    parser.add_argument("--quick", action="store_true", help="see that it works, in seconds: nano, a batch of 4")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where the JSON goes")
    options = parser.parse_args()
    if options.quick:
        options.preset, options.batch, options.rounds, options.side, options.data = "nano", 4, 1, 256, "procedural:8"
    keep_memory()
    torch.set_num_threads(1)

    case = f"{options.preset} {options.objective}, batch {options.batch}"
    found = measure(options)
    report(case, found)
    machine = machine_name(torch.device("cpu"))
    path = options.results / f"{machine}-pretrain-step.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = json.loads(path.read_text()) if path.exists() else {"machine": machine, "cases": {}}
    record["cases"][case] = found
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
