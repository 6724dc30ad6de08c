"""`pointmadi rebuild` from outside: the files it writes, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from pointmadi import cli
from pointmadi.commands.rebuild import COLORS
from pointmadi.data.clouds import Clouds

PATCHES, SIZE, VISIBLE, HIDDEN, STEPS = 8, 6, 4, 4, 5
TRAINING = """
data: [set.npz]
num_points: 48
batch_size: 4
probe: []
encoder:
  {name: nano, dim: 24, depth: 2, heads: 2, num_patches: 8, patch_size: 6, widths: [8, 8, 16]}
train:
  {epochs: 3, max_steps: 1, precision: fp32, device: cpu}
"""
RUNS = {
    "madi": "{name: point-madi, random_ratio: 0.5, block_ratio: 0.5, decoder: {depth: 1, heads: 2}}",
    "learned": "{name: point-madi, encoder_hidden: learned, random_ratio: 0.5, block_ratio: 0.5, "
    "decoder: {depth: 1, heads: 2}}",
    "mae": "{name: point-mae, decoder: {depth: 1, heads: 2}}",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with three runs, a set of shapes, and a cloud that lies far from the origin."""
    home = tmp_path_factory.mktemp("workshop")
    random = torch.Generator().manual_seed(0)
    points = torch.randn(6, 48, 3, generator=random) * torch.tensor([3.0, 1.0, 0.5])
    Clouds.pack(points * 7 + torch.tensor([100.0, 0, -40])).write(home / "set.npz")
    np.savetxt(home / "cloud.xyz", points[0].numpy() * 30 + [1000, 50, -20])
    np.savetxt(home / "small.xyz", points[0, :20].numpy())
    rgb = torch.rand(6, 48, 3, generator=random)
    Clouds.pack(points, features=rgb, feature_names=("r", "g", "b")).write(home / "colored.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for run, objective in RUNS.items():
            (home / f"{run}.yaml").write_text(f"{TRAINING}\nobjective: {objective}\nrun: {run}\n")
            assert cli.main(["pretrain", f"{run}.yaml"]) == 0
        colored = ["--data", "colored.npz", "--features", "rgb", "--run", "colored"]
        assert cli.main(["pretrain", "madi.yaml", *colored]) == 0
    (home / "empty").mkdir()
    (home / "notes.md").write_text("no shape")
    return home


@pytest.fixture(autouse=True)
def inside(workshop, tmp_path, monkeypatch):
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("POINTMADI_CACHE", str(tmp_path))


def rebuild(cloud, to, *flags, checkpoint="madi"):
    steps = [] if "--sampling.steps" in flags else ["--sampling.steps", STEPS]
    return cli.main(["rebuild", str(cloud), "--checkpoint", checkpoint, "--to", str(to), *map(str, [*steps, *flags])])


def read(path):
    """Return the visible and the rebuilt points of a file, by their colours."""
    cloud = trimesh.load(path)
    parts = {name: cloud.vertices[(cloud.colors[:, :3] == color).all(1)] for name, color in COLORS.items()}
    assert sum(map(len, parts.values())) == len(cloud.vertices)
    return parts


def nearest(points, others):
    return np.linalg.norm(np.asarray(points)[:, None] - np.asarray(others)[None], axis=-1).min(1)


@pytest.mark.parametrize("mask", ["block", "random"])
@pytest.mark.parametrize("places", ["unknown", "visible", "given"])
def test_a_cloud_is_rebuilt_where_it_lies(tmp_path, capsys, mask, places):
    target = tmp_path / "new" / "out.ply"
    assert rebuild("cloud.xyz", target, "--mask", mask, "--sampling.places", places) == 0
    assert f"wrote {target}" in capsys.readouterr().out.replace("\n", "")
    assert [file.name for file in target.parent.iterdir()] == ["out.ply"]
    made, cloud = read(target), np.loadtxt("cloud.xyz")
    assert len(made["visible"]) == VISIBLE * SIZE
    assert len(made["rebuilt"]) == HIDDEN * SIZE
    size = np.ptp(cloud, axis=0).max()
    assert nearest(made["visible"], cloud).max() < 1e-3 * size  # shapes are stored in 16 bits
    assert np.isfinite(made["rebuilt"]).all()
    assert np.abs(made["rebuilt"] - cloud.mean(0)).max() < 5 * size


def test_errors_are_told_beside_those_of_one_step(tmp_path, capsys):
    assert rebuild("cloud.xyz", tmp_path / "out.ply") == 0
    out = capsys.readouterr().out
    for word in ("5 steps", "one step", "center_rmse", "patch_chamfer", "cloud_chamfer"):
        assert word in out


@pytest.mark.parametrize("eta", [0, 1])
def test_the_seed_decides(tmp_path, eta):
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert rebuild("cloud.xyz", tmp_path / f"{name}.ply", "--seed", seed, "--sampling.eta", eta) == 0
        texts.append((tmp_path / f"{name}.ply").read_bytes())
    assert texts[0] == texts[1] != texts[2]


def test_a_shape_of_a_set_is_named_by_its_index(tmp_path):
    shapes = Clouds.read("set.npz")
    for index in (0, 5):
        assert rebuild("set.npz", tmp_path / "out.ply", "--index", index, "--num-points", 30) == 0
        clouds = shapes.xyz()[index] * shapes.scale[index] + shapes.center[index]
        assert nearest(read(tmp_path / "out.ply")["visible"], clouds).max() < 0.01


def test_small_clouds_and_few_points_are_enough(tmp_path):
    assert rebuild("small.xyz", tmp_path / "out.ply") == 0
    assert rebuild("cloud.xyz", tmp_path / "out.ply", "--num-points", PATCHES) == 0
    assert len(read(tmp_path / "out.ply")["rebuilt"]) == HIDDEN * SIZE


def test_trajectories_hold_every_moment(tmp_path):
    path = tmp_path / "paths" / "moments.npz"
    assert rebuild("cloud.xyz", tmp_path / "out.ply", "--trajectory", path) == 0
    with np.load(path, allow_pickle=False) as moments:
        assert moments["center_step"].tolist() == moments["patch_step"].tolist()
        assert moments["center_step"][0] == 1999 and moments["center_step"][-1] == 0
        for key in ("noisy", "predicted"):
            assert moments[f"center_{key}"].shape == (STEPS, PATCHES, 3)
            assert moments[f"patch_{key}"].shape == (STEPS, HIDDEN, SIZE, 3)
        assert sorted(moments["order"].tolist()) == list(range(PATCHES))
        assert np.array_equal(moments["patch_predicted"][-1], moments["offsets"])
        assert np.array_equal(moments["center_predicted"][-1], moments["centers"])


def test_a_partial_scan_is_completed(tmp_path):
    target = tmp_path / "whole.ply"
    assert rebuild("cloud.xyz", target, "--complete", checkpoint="learned") == 0
    made, cloud = read(target), np.loadtxt("cloud.xyz")
    assert len(made["visible"]) == len(cloud)
    assert nearest(cloud, made["visible"]).max() < 1e-3 * np.ptp(cloud, axis=0).max()
    assert len(made["rebuilt"]) == HIDDEN * SIZE


def test_an_older_file_is_replaced_only_by_a_whole_one(tmp_path):
    target = tmp_path / "out.ply"
    target.write_text("older")
    assert rebuild("cloud.xyz", target, "--index", 1) == 2
    assert target.read_text() == "older"
    assert rebuild("cloud.xyz", target) == 0
    assert len(read(target)["visible"])


REFUSED = {
    "no run": (["cloud.xyz", "out.ply"], {"checkpoint": "nosuch"}, "nosuch is no folder of a pre-training run"),
    "empty folder": (["cloud.xyz", "out.ply"], {"checkpoint": "empty"}, "empty is no folder of a pre-training run"),
    "a file": (["cloud.xyz", "out.ply"], {"checkpoint": "set.npz"}, "set.npz is no folder of a pre-training run"),
    "another objective": (["cloud.xyz", "out.ply"], {"checkpoint": "mae"}, "not pre-trained by point-madi"),
    "features": (["cloud.xyz", "out.ply"], {"checkpoint": "colored"}, "needs feature channels"),
    "target": (["cloud.xyz", "out.obj"], {}, "--to writes .ply, not 'out.obj'"),
    "no cloud": (["nosuch.ply", "out.ply"], {}, "nosuch.ply"),
    "no shape": (["notes.md", "out.ply"], {}, "files of this kind are not read"),
    "endless": (["procedural", "out.ply"], {}, "stored"),
    "index": (["set.npz", "out.ply", "--index", 6], {}, "--index 6 is not a shape of set.npz"),
    "negative index": (["set.npz", "out.ply", "--index", -1], {}, "--index -1 is not a shape of set.npz"),
    "real contents": (["cloud.xyz", "out.ply", "--complete"], {}, "--objective.encoder-hidden learned"),
    "too few points": (["cloud.xyz", "out.ply", "--num-points", 5], {}, "num_patches"),
    "steps": (["cloud.xyz", "out.ply", "--sampling.steps", 2001], {}, "1 to 2000"),
    "eta": (["cloud.xyz", "out.ply", "--sampling.eta", 3], {}, "eta"),
    "places": (["cloud.xyz", "out.ply", "--sampling.places", "somewhere"], {}, "places"),
}


@pytest.mark.parametrize(("args", "options", "expected"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_one_line_and_write_nothing(capsys, args, options, expected):
    assert rebuild(*args, **options) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ") and expected in message
    assert not list(Path().glob("out.*"))


def test_the_required_options_are_named(capsys):
    assert cli.main(["rebuild", "cloud.xyz", "--checkpoint", "madi"]) == 2
    assert "--to" in capsys.readouterr().err
