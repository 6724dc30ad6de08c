"""Time the segmentation head beside the published arrangement of the same layers, and check that they agree.

    OMP_NUM_THREADS=1 python benchmarks/segmentation_head.py [--preset small] [--batch 2] [--points 2048]

`plain` interpolates all features to all points, and repeats the features of the cloud for every point, before the
layers see them, as convolutions of width 1; it has the same weights. Both take turns in one process; ratios are medians
of the ratios of each round. CPU times are processor time of one thread.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from ops import machine_name, measure
from torch import Tensor, nn

from pointmadi.models.encoder import PRESETS, Encoding, PointEncoder
from pointmadi.nn.patches import Patches
from pointmadi.ops.neighbors import gather, nearest
from pointmadi.tasks import Segmenter, SegmenterConfig


def plain(head: Segmenter, points: Tensor, centers: Tensor, values: Tensor, label: Tensor | None) -> Tensor:
    """Score the classes of all points with the layers as published, channels before points -> logits (B, N, L)."""

    def layer(linear: nn.Linear, norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
        return F.relu(norm(F.conv1d(x, linear.weight[..., None], linear.bias)))

    index, squared = nearest(points, centers, 3)
    weights = 1 / (squared + 1e-8)
    near = (gather(values, index) * (weights / weights.sum(-1, keepdim=True))[..., None]).sum(2)
    carry = head.propagation
    x = layer(carry.first, carry.norm1, torch.cat([points, near], -1).mT)
    x = layer(carry.second, carry.norm2, x)
    whole = torch.cat([values.amax(1), values.mean(1)], -1)
    if head.category is not None and label is not None:
        whole = torch.cat([whole, head.category(F.one_hot(label, head.config.categories).to(points.dtype))], -1)
    x = torch.cat([x, whole[..., None].expand(-1, -1, points.shape[1])], 1)
    x = head.dropout(layer(head.mix, head.norm1, x))
    x = layer(head.narrow, head.norm2, x)
    return F.conv1d(x, head.out.weight[..., None], head.out.bias).mT


def trained(head: nn.Module, logits: Tensor, values: Tensor) -> Tensor:
    """Go backward, and return the logits followed by the gradient of the features."""
    loss = logits.square().mean()
    weights = [weight for name, weight in head.named_parameters() if not name.startswith("encoder")]
    gradient, *_ = torch.autograd.grad(loss, [values, *weights], allow_unused=True)
    return torch.cat([logits.detach().flatten(), gradient.flatten()])


class Given(PointEncoder):
    """An encoder whose answer is known, so that the head alone is timed."""

    known: tuple[Tensor, ...] = ()

    def encode(self, patches: Patches, taps: tuple[int, ...] = ()) -> Encoding:
        return Encoding(self.known[-1], patches.centers, self.known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where the JSON goes")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    encoder = Given(PRESETS[options.preset])
    head = Segmenter(encoder, 50, SegmenterConfig(categories=16, dropout=0.0)).to(device)
    points = F.normalize(torch.randn(options.batch, options.points, 3), dim=-1).to(device)
    centers = points[:, : min(128, options.points)].contiguous()
    label = torch.arange(options.batch, device=device) % 16
    width = encoder.config.dim * len(head.taps)
    values = torch.randn(options.batch, centers.shape[1], width, device=device).requires_grad_()
    encoder.known = values.split(encoder.config.dim, dim=-1)
    patches = Patches(centers, points.new_zeros(*centers.shape[:2], 1, 3))

    rows = {}
    for part, mode in (("eval, forward", False), ("train, forward and backward", True)):
        head.train(mode)

        def ours() -> Tensor:
            return head.segment(points, patches, label)

        def published() -> Tensor:
            return plain(head, points, centers, values, label)

        if mode:
            calls = {
                "pointmadi": lambda: trained(head, ours(), values),
                "plain": lambda: trained(head, published(), values),
            }
        else:
            calls = {"pointmadi": torch.no_grad()(ours), "plain": torch.no_grad()(published)}
        rows[part] = measure(calls, options.rounds, device)
        for row in rows[part]:
            low, high = row["ratio_range"]  # type: ignore[misc]
            print(
                f"{part:30}{row['method']:<12}{row['ms']:>10} ms{row['ratio']:>8} x  {f'{low}..{high}':<14}"
                f"{row['result']}"
            )
    head.eval()
    with torch.no_grad():
        distance = (
            (head.segment(points, patches, label) - plain(head, points, centers, values, label)).abs().max().item()
        )
    slowest = min(float(found[1]["ratio"]) for found in rows.values())  # type: ignore[arg-type]
    print(f"largest difference of logits {distance:.1e}")
    for bar, met in {"1.4 x faster or more": slowest >= 1.4, "equal to 1e-5": distance <= 1e-5}.items():
        print(f"{'PASS' if met else 'FAIL'}  {bar}")

    machine = machine_name(device)
    case = f"{options.preset}, batch {options.batch}, {options.points} points"
    path = options.results / f"{machine}-segmentation-head.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = json.loads(path.read_text()) if path.exists() else {"machine": machine, "cases": {}}
    about = {"threads": 1, "torch": torch.__version__, "rounds": options.rounds, "largest_difference": distance}
    record["cases"][case] = about | {"parts": rows}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
