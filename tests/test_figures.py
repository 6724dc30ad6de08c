"""Pictures of clouds: the camera, the light, what is drawn where."""

import pytest
import torch

from pointmadi.visualize import figures
from pointmadi.visualize.figures import BLUE, GREY, VERMILION, Panel, Story, draw_clouds, draw_rebuild, look, shade


def test_the_camera_turns_and_does_nothing_else():
    points = torch.randn(50, 3).double()
    torch.testing.assert_close(torch.cdist(look(points), look(points)), torch.cdist(points, points))
    up = look(torch.tensor([[0.0, 1.0, 0.0]]))[0]
    assert up[0].abs() < 1e-12 and up[1] > 0.9


def test_slopes_towards_the_lamp_are_brighter():
    flat = torch.rand(400, 2).double()
    lamp = torch.tensor(figures.LAMP).double()
    facing, away = (
        torch.stack([flat[:, 0], flat[:, 1], -(flat @ slope)], dim=1)
        for slope in (lamp[:2] / lamp[2], -lamp[:2] / lamp[2])
    )
    assert shade(facing).median() > shade(away).median() + 0.2


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_clouds_are_drawn_in_their_colours(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    seen, other = torch.randn(60, 3) / 3, torch.randn(40, 3) / 3
    panels = [
        Panel(seen, GREY, "input"),
        Panel(torch.cat([seen, other]), [BLUE] * 60 + [VERMILION] * 40, "rebuilt"),
        Panel(other),
    ]
    path = draw_clouds(panels, tmp_path / "deep" / f"picture{suffix}", columns=2, labels=["one", "two"])
    assert path.stat().st_size > 3000
    if suffix == ".png":
        from matplotlib.image import imread

        picture = torch.tensor(imread(path))[..., :3]
        half = picture.shape[1] // 2
        colourful = (picture.amax(-1) - picture.amin(-1) > 0.3).float()
        assert colourful[: picture.shape[0] // 2, half:].sum() > 100  # blue and vermilion
        assert colourful[: picture.shape[0] // 2, 40:half].sum() == 0  # grey


def test_a_story_is_a_row_of_panels(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, "draw_clouds", lambda panels, path, **how: drawn.update(panels=panels, **how) or path)
    shape, visible, hidden = torch.zeros(9, 3), torch.ones(4, 3), torch.full((5, 3), 2.0)
    story = Story("random mask", shape, visible, hidden, {"noise": 3 * hidden, "step 9": 4 * hidden}, 5 * hidden)
    assert draw_rebuild([story, story._replace(label="block mask")], tmp_path / "x.png") == tmp_path / "x.png"
    captions = ["input", "visible patches", "noise", "step 9", "rebuilt", "truth"]
    assert [panel.caption for panel in drawn["panels"]] == captions + [""] * 6
    assert drawn["columns"] == 6 and drawn["labels"] == ["random mask", "block mask"]
    assert drawn["panels"][4].color == [BLUE] * 4 + [VERMILION] * 5
    assert drawn["panels"][4].points.equal(torch.cat([visible, 5 * hidden]))
    assert drawn["panels"][5].color == [BLUE] * 4 + [GREY] * 5


def test_noise_outside_a_panel_is_left_out(tmp_path):
    pytest.importorskip("matplotlib")
    far = torch.tensor([[0.0, 50.0, 0.0], [0.0, 0.0, 4.9], [0.0, 0.0, 60.0]])
    one = draw_clouds([Panel(torch.cat([torch.zeros(1, 3), far]))], tmp_path / "one.svg")
    none = draw_clouds([Panel(far)], tmp_path / "none.svg")
    assert one.read_text().count("<use ") == 1 and none.read_text().count("<use ") == 0


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ([], "at least one panel"),
        ([Panel(torch.zeros(5, 2))], r"\(N, 3\), not \(5, 2\)"),
        ([Panel(torch.zeros(0, 3))], r"not \(0, 3\)"),
        ([Panel(torch.zeros(5, 3), [BLUE] * 4)], "4 colours for 5 points"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(tmp_path, panels, message):
    with pytest.raises(ValueError, match=message):
        draw_clouds(panels, tmp_path / "x.png")
