"""Pictures of clouds by matplotlib alone: one camera, one palette, no display needed (extra `viz`).

Clouds are expected in or near the unit sphere, with y up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pointmadi.ops.neighbors import gather, nearest

# Of Okabe and Ito's palette, distinct to colour-blind eyes.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#7A8490"
PAPER, INK = "#FFFFFF", "#2B2F36"

AZIMUTH, ELEVATION, DISTANCE = 32.0, 18.0, 5.0  # of the camera: degrees, degrees, radii of a cloud
REACH = 1.04  # half the edge of a panel, in the same unit
FOG = 0.45  # how much of its colour the farthest point loses to the paper
DOT = 0.021  # radius of a point at the middle of a panel, of a cloud of 1,024
LIGHT = (-0.45, 0.75, 0.5)  # towards the lamp: right, up, near
AROUND = 12  # points that tell the slope of the surface
WIDTH, DPI = 12.0, 110  # inches of a picture, pixels of an inch
HEAD, MARGIN = 0.28, 0.32  # inches for a caption above a panel, for a label beside a row


@dataclass(frozen=True)
class Panel:
    """One cloud of a picture.

    Attributes:
        points: (N, 3).
        color: of all points, or of each.
        caption: what to write over it.
    """

    points: Tensor
    color: str | Sequence[str] = BLUE
    caption: str = ""


def two_tone(seen: Tensor, other: Tensor, caption: str = "", color: str = VERMILION) -> Panel:
    """Show visible points in blue and others in another colour."""
    return Panel(torch.cat([seen, other]), [BLUE] * len(seen) + [color] * len(other), caption)


def draw_clouds(panels: Sequence[Panel], path: str | Path, columns: int = 0, labels: Sequence[str] = ()) -> Path:
    """Draw clouds in a grid, and write the picture.

    Args:
        panels: row by row.
        path: the file to write; its suffix names the format (.png, .pdf, .svg).
        columns: panels of a row; all in one row if 0.
        labels: a word for each row, written at its left.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("there is nothing to draw: give at least one panel")
    columns = columns or len(panels)
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    left = MARGIN if labels else 0.0
    edge = (WIDTH - left) / columns
    heads = [HEAD if any(panel.caption for panel in row) else 0.0 for row in rows]
    top = height = sum(heads) + edge * len(rows)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    words: dict[str, Any] = {"size": 11, "color": INK, "ha": "center", "va": "center"}
    for number, (row, head) in enumerate(zip(rows, heads, strict=True)):
        top -= head + edge
        if labels:
            figure.text(left / 2 / WIDTH, (top + edge / 2) / height, labels[number], rotation=90, **words)
        for column, panel in enumerate(row):
            x = left + column * edge
            _draw(figure.add_axes((x / WIDTH, top / height, edge / WIDTH, edge / height)), panel, edge)
            figure.text((x + edge / 2) / WIDTH, (top + edge + head / 2) / height, panel.caption, **words)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw(axes: Any, panel: Panel, edge: float) -> None:
    """Draw one cloud, far points first, paler and smaller."""
    from matplotlib.colors import to_rgb

    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
    axes.axis("off")
    seen = turn(panel.points)
    order = seen[:, 2].argsort()
    seen = seen[order]
    closer = DISTANCE / (DISTANCE - seen[:, 2].clamp(max=DISTANCE / 2))
    names = [panel.color] * len(seen) if isinstance(panel.color, str) else panel.color
    fill = torch.tensor([to_rgb(name) for name in names], dtype=torch.float64)[order]
    fill = (fill * shade(seen)[:, None]).clamp(0, 1)
    pale = (FOG * (1 - seen[:, 2].clamp(-1, 1)) / 2)[:, None]
    fill = fill * (1 - pale) + pale * torch.tensor(to_rgb(PAPER), dtype=torch.float64)
    width = 72 * edge / REACH * DOT * (1024 / len(seen)) ** 0.28 * closer
    places = (seen[:, :2] * closer[:, None]).T.numpy()
    axes.scatter(*places, s=width.square().numpy(), c=fill.numpy(), edgecolors=(0.8 * fill).numpy(), linewidths=0.2)


def turn(points: Tensor) -> Tensor:
    """Turn points to the camera: (N, 3) -> right, up, near (N, 3)."""
    turn, rise = math.radians(AZIMUTH), math.radians(ELEVATION)
    x, y, z = points.detach().cpu().double().unbind(-1)
    right = math.cos(turn) * x - math.sin(turn) * z
    ahead = math.sin(turn) * x + math.cos(turn) * z
    up = math.cos(rise) * y - math.sin(rise) * ahead
    near = math.sin(rise) * y + math.cos(rise) * ahead
    return torch.stack([right, up, near], dim=-1)


def shade(points: Tensor) -> Tensor:
    """Light points as if they lay on a surface that is seen along its last axis: (N, 3) -> brightness (N,), about 1."""
    index, _ = nearest(points[None], points[None], min(AROUND, len(points)))
    around = gather(points[None], index)[0]
    around = around - around.mean(1, keepdim=True)
    spread, axes = torch.linalg.eigh(around.transpose(1, 2) @ around)
    normal = axes[..., 0] * axes[..., 2, :1].sign()  # the side that the camera sees
    lamp = torch.tensor(LIGHT, dtype=points.dtype)
    flat = 1 - 3 * spread[:, 0] / spread.sum(1).clamp(min=1e-12)  # 0 where there is no surface
    light = (normal @ (lamp / lamp.norm())).clamp(min=0)
    return 0.95 + flat * (0.62 + 0.65 * light - 0.95)
