"""Pictures of clouds: the camera, the light, what is drawn where."""

import pytest
import torch

from pointmadi.visualize import figures
from pointmadi.visualize.figures import GREY, Panel, draw_clouds, shade, turn, two_tone


def test_the_camera_turns_and_does_nothing_else():
    points = torch.randn(50, 3).double()
    torch.testing.assert_close(torch.cdist(turn(points), turn(points)), torch.cdist(points, points))
    up = turn(torch.tensor([[0.0, 1.0, 0.0]]))[0]
    assert up[0].abs() < 1e-12 and up[1] > 0.9


def test_slopes_towards_the_lamp_are_brighter():
    flat = torch.rand(400, 2).double()
    lamp = torch.tensor(figures.LIGHT).double()
    facing, away = (
        torch.stack([flat[:, 0], flat[:, 1], -(flat @ slope)], dim=1)
        for slope in (lamp[:2] / lamp[2], -lamp[:2] / lamp[2])
    )
    assert shade(facing).median() > shade(away).median() + 0.2


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_clouds_are_drawn_in_their_colours(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    seen, other = torch.randn(60, 3) / 3, torch.randn(40, 3) / 3
    panels = [Panel(seen, GREY, "input"), two_tone(seen, other, "rebuilt"), Panel(other)]
    path = draw_clouds(panels, tmp_path / "deep" / f"picture{suffix}", columns=2, labels=["one", "two"])
    assert path.stat().st_size > 3000
    if suffix == ".png":
        from matplotlib.image import imread

        picture = torch.tensor(imread(path))[..., :3]
        half = picture.shape[1] // 2
        colourful = (picture.amax(-1) - picture.amin(-1) > 0.3).float()
        assert colourful[: picture.shape[0] // 2, half:].sum() > 100  # blue and vermilion
        assert colourful[: picture.shape[0] // 2, 40:half].sum() == 0  # grey


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one panel"):
        draw_clouds([], tmp_path / "x.png")
