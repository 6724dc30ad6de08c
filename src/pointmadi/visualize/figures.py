"""Pictures of clouds by matplotlib alone: one camera, one lamp, one palette, no display (extra `viz`).

Clouds are expected in the unit sphere, y up; what lies outside it, such as noise, is drawn as far as a panel reaches.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pointmadi.ops.neighbors import gather, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, distinct to colour-blind eyes; grey in place of its black.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, YELLOW, GREY = "#56B4E9", "#D55E00", "#F0E442", "#7F8893"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, GREY)
INK, PAPER = "#2B2F36", "#FFFFFF"

AZIMUTH, ELEVATION, DISTANCE = 32.0, 18.0, 5.0  # of the camera: degrees, degrees, radii of a cloud
REACH = 1.06  # half the edge of a panel, in radii of a cloud
LAMP = (-0.43, 0.72, 0.54)  # where light comes from: right, up, towards the camera
DIM, SHINE, PLAIN = (
    0.62,
    0.65,
    0.95,
)  # light on a slope turned away, what the lamp adds, light where there is no surface
AROUND = 12  # nearest points that tell the slope of a surface
FOG = 0.55  # share of its colour that the farthest point loses to the paper
DOT = 0.021  # radius of a point of a cloud of 1,024
WIDTH, DPI = 12.0, 133  # inches of a picture, pixels of an inch
LETTERS = 12.0  # size of letters, points


@dataclass(frozen=True)
class Panel:
    """One cloud of a picture.

    Attributes:
        points: (N, 3).
        color: of all points, or of each.
        caption: what to write above it.
    """

    points: Tensor
    color: str | Sequence[str] = BLUE
    caption: str = ""


class Story(NamedTuple):
    """How the hidden patches of a shape were rebuilt; tensors are points (N, 3).

    Attributes:
        label: what to write beside it.
        shape: the input.
        visible: members of the visible patches.
        hidden: members of the hidden patches.
        moments: points of the hidden patches on the way from noise, with their captions.
        rebuilt: and at its end.
    """

    label: str
    shape: Tensor
    visible: Tensor
    hidden: Tensor
    moments: Mapping[str, Tensor]
    rebuilt: Tensor


def draw_clouds(
    panels: Sequence[Panel],
    path: str | Path,
    *,
    columns: int = 0,
    labels: Sequence[str] = (),
    headings: Mapping[int, str] | None = None,
) -> Path:
    """Draw clouds in a grid, write the picture and return its path.

    Args:
        panels: row by row.
        path: the file to write; its suffix names the format (.png, .pdf, .svg).
        columns: panels of a row; all in one row if 0.
        labels: what to write at the left of each row.
        headings: what to write above single rows.

    Raises:
        ValueError: there are no panels, or one is not (N, 3) points with one colour or N.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for panel in panels:
        _check(panel)
    if not panels:
        raise ValueError("there is nothing to draw; give at least one panel")
    columns, headings = columns or len(panels), headings or {}
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    left = 0.34 if labels else 0.0
    edge = (WIDTH - left) / columns
    over = [0.28 * any(panel.caption for panel in row) for row in rows]
    above = [0.44 * (number in headings) + each for number, each in enumerate(over)]
    height = sum(above) + edge * len(rows) + 0.05

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / WIDTH, y / height, text, **{"size": LETTERS, "color": INK, "va": "center", **style})

    bottom = height
    for number, row in enumerate(rows):
        bottom -= above[number] + edge
        middle = bottom + edge / 2
        if number in headings:
            write(0.12, bottom + edge + over[number] + 0.2, headings[number], weight="bold")
        if labels:
            write(0.2, middle, labels[number], rotation=90, ha="center")
        for column, panel in enumerate(row):
            x = left + column * edge
            write(x + edge / 2, bottom + edge + 0.1, panel.caption, ha="center")
            axes = figure.add_axes((x / WIDTH, bottom / height, edge / WIDTH, edge / height))
            _draw(axes, panel, edge)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def draw_rebuild(stories: Sequence[Story], path: str | Path) -> Path:
    """Draw how shapes were rebuilt, each in a row: input, visible patches, noise to rebuilt patches, truth."""
    panels: list[Panel] = []
    for number, story in enumerate(stories):
        row = [
            Panel(story.shape, GREY, "input"),
            Panel(story.visible, BLUE, "visible patches"),
            *(_joined(story.visible, points, VERMILION, caption) for caption, points in story.moments.items()),
            _joined(story.visible, story.rebuilt, VERMILION, "rebuilt"),
            _joined(story.visible, story.hidden, GREY, "truth"),
        ]
        panels += row if number == 0 else [replace(panel, caption="") for panel in row]
    return draw_clouds(panels, path, columns=len(row), labels=[story.label for story in stories])


def look(points: Tensor) -> Tensor:
    """Turn points to the camera: (N, 3) -> (N, 3) right, up, near."""
    azimuth, elevation = math.radians(AZIMUTH), math.radians(ELEVATION)
    x, y, z = points.detach().cpu().double().unbind(-1)
    right = math.cos(azimuth) * x - math.sin(azimuth) * z
    front = math.sin(azimuth) * x + math.cos(azimuth) * z
    up = math.cos(elevation) * y - math.sin(elevation) * front
    near = math.sin(elevation) * y + math.cos(elevation) * front
    return torch.stack([right, up, near], dim=-1)


def shade(points: Tensor) -> Tensor:
    """Light points, seen along their last axis, as the surface that they lie on: (N, 3) -> brightness (N,), about 1."""
    points = points.float()  # in float64 the neighbours take twenty times as long
    index, _ = nearest(points[None], points[None], min(AROUND, len(points)))
    patch = gather(points[None], index)[0]
    patch = patch - patch.mean(1, keepdim=True)
    spread, axes = torch.linalg.eigh(patch.transpose(1, 2) @ patch)
    normal = axes[:, :, 0] * torch.where(axes[:, 2:, 0] < 0, -1, 1)  # towards the camera
    light = DIM + SHINE * (normal @ normal.new_tensor(LAMP)).clamp(min=0)
    flatness = 1 - 3 * spread[:, 0] / spread.sum(1).clamp(min=1e-12)  # 0 where there is no surface
    return PLAIN + flatness * (light - PLAIN)


def _check(panel: Panel) -> None:
    if panel.points.dim() != 2 or panel.points.shape[1] != 3 or not len(panel.points):
        raise ValueError(f"a panel shows points of shape (N, 3), not {tuple(panel.points.shape)}")
    if not isinstance(panel.color, str) and len(panel.color) != len(panel.points):
        raise ValueError(f"{len(panel.color)} colours for {len(panel.points)} points; give one, or one for each")


def _joined(first: Tensor, second: Tensor, color: str, caption: str) -> Panel:
    return Panel(torch.cat([first, second]), [BLUE] * len(first) + [color] * len(second), caption)


def _draw(axes: "Axes", panel: Panel, edge: float) -> None:
    """Draw one cloud on a panel of so many inches: far points first, paler and smaller."""
    from matplotlib.colors import to_rgb

    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
    axes.axis("off")
    seen = look(panel.points)
    names = [panel.color] * len(seen) if isinstance(panel.color, str) else panel.color
    colors = seen.new_tensor([to_rgb(name) for name in names])
    light = shade(seen)[:, None]
    fill = colors * light.clamp(max=1) + (1 - colors) * (light - 1).clamp(min=0)
    haze = (FOG / 2 * (1 - seen[:, 2:])).clamp(0, FOG)
    fill = (fill + haze * (seen.new_tensor(to_rgb(PAPER)) - fill)).clamp(0, 1)
    order = seen[:, 2].argsort()
    order = order[seen[order].norm(dim=1) < REACH]
    seen, fill = seen[order], fill[order]
    closer = DISTANCE / (DISTANCE - seen[:, 2:])
    width = 72 * edge / REACH * DOT * (1024 / len(names)) ** 0.2 * closer[:, 0]
    x, y = (seen[:, :2] * closer).T.numpy()
    size, rim = width.square().numpy(), (0.8 * fill).tolist()
    axes.scatter(x, y, size, fill.numpy(), edgecolors=rim, linewidths=0.2, clip_on=False)
