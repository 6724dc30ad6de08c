"""The probe: what is chosen on what, small classes, splits, the table, the command."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import Tensor, nn

from pointmadi import cli
from pointmadi.commands import probe as command
from pointmadi.data.clouds import Clouds
from pointmadi.models.encoder import EncoderConfig
from pointmadi.tasks import comparison, metrics, probing
from pointmadi.tasks.comparison import Labelled, Report, Row, Settings, compare, fixed, floors
from pointmadi.training.checkpoint import write_encoder

TINY = EncoderConfig(dim=12, depth=1, heads=2, num_patches=8, patch_size=8, widths=(4, 8, 8))


class Answer(NamedTuple):
    pooled: Tensor


class First(nn.Module):
    """Answer with the first point, and remember how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.eval_seen = False

    def forward(self, points: Tensor) -> Answer:
        self.eval_seen = not self.training
        return Answer(points[:, 0])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(counts: tuple[int, ...], spread: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw features around one corner a class."""
    label = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    corners = 3 * torch.randn(len(counts), 8, generator=generator(99))
    return corners[label] + spread * torch.randn(len(label), 8, generator=generator(seed)), label


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the forests small: what is tested here does not need 500."""
    monkeypatch.setitem(probing.CHOICES, "trees", (30,))


@pytest.fixture
def clouds() -> Clouds:
    """Boxes that are long, flat or cubic, 12 of each, without a split."""
    sizes = torch.tensor([[1.0, 0.1, 0.1], [1.0, 1.0, 0.1], [1.0, 1.0, 1.0]]).repeat_interleave(12, 0)
    points = (torch.rand(36, 128, 3, generator=generator(5)) - 0.5) * sizes[:, None]
    label = torch.arange(3).repeat_interleave(12)
    return Clouds.pack(points, label=label, classes=("long", "flat", "cubic"))


def test_accuracies_are_those_of_scikit_learn() -> None:
    label = torch.randint(0, 5, (200,), generator=generator(0))
    label[label == 3] = 0  # a class without an example
    answer = torch.where(torch.rand(200, generator=generator(1)) < 0.6, label, torch.randint(0, 5, (200,)))
    answer[answer == 3] = 1
    counts = metrics.confusion(answer, label, 5)
    assert int(counts.sum()) == 200 and int(counts[0, 1]) == int(((label == 0) & (answer == 1)).sum())
    assert metrics.overall_accuracy(counts) == pytest.approx(accuracy_score(label, answer))
    assert metrics.mean_class_accuracy(counts) == pytest.approx(balanced_accuracy_score(label, answer))


def test_features_are_taken_in_eval_mode_and_the_mode_is_given_back(clouds: Clouds) -> None:
    encoder = First().train()
    found = probing.features_of(encoder, clouds, num_points=32, batch_size=7)
    assert encoder.eval_seen and encoder.training
    assert found.shape == (36, 3) and found.dtype == torch.float32 and not found.requires_grad


def test_the_mode_is_given_back_after_an_error(clouds: Clouds) -> None:
    class Broken(nn.Module):
        def forward(self, points: Tensor) -> Answer:
            raise ValueError("broken")

    encoder = Broken().train()
    with pytest.raises(ValueError, match="broken"):
        probing.features_of(encoder, clouds, num_points=32)
    assert encoder.training


def test_features_depend_on_seed_and_shape_alone(clouds: Clouds) -> None:
    def of(clouds: Clouds, seed: int, batch_size: int = 16) -> Tensor:
        return probing.features_of(lambda points: Answer(points.flatten(1)), clouds, 50, batch_size, seed=seed)

    first = of(clouds, 1)
    assert torch.equal(first, of(clouds, 1, 36)) and not torch.equal(first, of(clouds, 2))
    assert torch.equal(first[30:], of(clouds.select(slice(30, None)), 1))
    radius = first.view(36, 50, 3).norm(dim=2).amax(1)
    torch.testing.assert_close(radius, torch.ones(36))  # centred and scaled again, as in pre-training


def test_too_many_points_and_missing_channels_are_one_line(clouds: Clouds) -> None:
    with pytest.raises(ValueError, match="cannot pick 129 of 128 points"):
        probing.features_of(First(), clouds, num_points=129)
    encoder = comparison.untrained(replace(TINY, features=3))(0)
    with pytest.raises(ValueError, match="needs 3 features beside xyz, and the shapes have 0"):
        probing.features_of(encoder, clouds, num_points=64)


def test_channels_follow_their_points(clouds: Clouds) -> None:
    with_channels = replace(clouds, features=clouds.xyz().half(), feature_names=("x", "y", "z"))

    class Difference:
        config = replace(TINY, features=3)

        def __call__(self, points: Tensor, features: Tensor) -> Answer:
            inner = (points - points.mean(1, keepdim=True), features - features.mean(1, keepdim=True))
            return Answer(nn.functional.cosine_similarity(inner[0].flatten(1), inner[1].flatten(1))[:, None])

    found = probing.features_of(Difference(), with_channels, num_points=64)
    torch.testing.assert_close(found, torch.ones(36, 1), atol=1e-3, rtol=0)


def test_separable_classes_are_separated_also_small_and_uneven_ones() -> None:
    counts = (60, 30, 11, 5, 2, 1)
    scores = probing.probe(*blobs(counts), *blobs(counts, seed=1), 0, ("svm", "logistic", "knn", "trees"))
    assert list(scores) == ["svm", "logistic", "knn", "trees"]
    for name, score in scores.items():
        assert score.accuracy > 0.95 and score.chosen in probing.CHOICES[name], name
    assert scores["svm"].accuracy == scores["svm"].mean_class == 1.0


def test_noise_stays_at_chance() -> None:
    draw = generator(3)
    x, y = torch.randn(300, 6, generator=draw), torch.randint(0, 3, (300,), generator=draw)
    for score in probing.probe(x[:200], y[:200], x[200:], y[200:]).values():
        assert 0.15 < score.accuracy < 0.52


def test_the_test_shapes_choose_nothing() -> None:
    train, (x, y) = blobs((40, 40, 40), spread=3.0), blobs((20, 20, 20), spread=3.0, seed=1)
    usual, reversed_ = probing.probe(*train, x, y), probing.probe(*train, x, 2 - y)
    assert {k: v.chosen for k, v in usual.items()} == {k: v.chosen for k, v in reversed_.items()}
    assert usual == probing.probe(*train, x, y)


def test_scales_shifts_and_constant_features_do_not_matter() -> None:
    (x, y), (test_x, test_y) = blobs((30, 30, 30), spread=2.0), blobs((30, 30, 30), spread=2.0, seed=1)

    def changed(features: Tensor) -> Tensor:
        constant = torch.full((len(features), 2), 1e4 / 3)
        return torch.cat([features * torch.logspace(-3, 3, 8) + 5.0, constant], 1)

    plain, other = probing.probe(x, y, test_x, test_y), probing.probe(changed(x), y, changed(test_x), test_y)
    for name in plain:
        assert plain[name].accuracy == pytest.approx(other[name].accuracy, abs=0.03)


def test_what_cannot_be_probed_is_one_line() -> None:
    x, y = blobs((5, 5))
    with pytest.raises(ValueError, match="NaN or infinite"):
        probing.probe(x, y, x / 0, y)
    with pytest.raises(ValueError, match="at least 2 classes"):
        probing.probe(x[:5], y[:5], x, y)
    with pytest.raises(ValueError, match="2 training shapes, one a class"):
        probing.probe(x[[0, 5]], y[[0, 5]], x, y)


def test_the_validation_split_is_stratified_and_fixed_by_its_seed() -> None:
    label = blobs((100, 11, 4, 2, 1))[1][torch.randperm(118, generator=generator(0))]
    held = probing.validation_split(label, 0.2, 7)
    assert torch.bincount(label[held], minlength=5).tolist() == [20, 2, 1, 1, 0]
    assert torch.equal(held, probing.validation_split(label, 0.2, 7))
    assert not torch.equal(held, probing.validation_split(label, 0.2, 8))


def test_the_hash_split_goes_by_name_not_by_place() -> None:
    label = torch.arange(3).repeat_interleave(20)
    names = [f"shape {i}" for i in range(60)]
    test = probing.hash_split(names, label)
    assert torch.bincount(label[test]).tolist() == [5, 5, 5]
    order = torch.randperm(60, generator=generator(1))
    assert torch.equal(test[order], probing.hash_split([names[i] for i in order.tolist()], label[order]))
    assert 10 <= int(probing.hash_split(["same"] * 60, label).sum()) <= 20


def test_numbers_are_means_over_seeds() -> None:
    assert comparison.mean_std([0.5, 0.6, 0.7]) == "60.0 ± 10.0"
    assert comparison.mean_std([0.601]) == "60.1" and comparison.mean_std([]) == "–"
    for seeds in ((), (1, 1), (-1,)):
        with pytest.raises(ValueError, match="seeds must be"):
            Settings(seeds=seeds)


def test_untrained_encoders_differ_by_seed_and_leave_the_random_state() -> None:
    before = torch.get_rng_state()
    draw = comparison.untrained(TINY)
    first, same, other = (next(draw(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_floors_are_hand_made_and_one_untrained_encoder_an_architecture() -> None:
    assert [row.name for row in floors()] == ["bounding box", "radii + D2", "strong", "strong + box"]
    assert [row.name for row in floors([TINY, TINY])][4:] == ["random weights"]
    names = [row.name for row in floors([TINY, replace(TINY, depth=2)])][4:]
    assert names == ["random weights 12x1, 8 patches, mlp", "random weights 12x2, 8 patches, mlp"]


def test_the_table_holds_every_row_and_seed(clouds: Clouds) -> None:
    split = replace(clouds, split=probing.hash_split(clouds.names, clouds.label).to(torch.uint8))  # type: ignore[arg-type]
    sets = {"boxes": Labelled(split.train(), split.test(), "made here")}
    settings = Settings(seeds=(0, 3), num_points=64)
    rows = [*floors([TINY]), Row("after", fixed(First()))]
    report = Report(list(compare(rows, sets, settings)), sets, settings)
    head, *lines = report.cells("boxes")
    assert head == ["features", "length", "linear SVM", "logistic", "k-NN", "extra-trees"]
    assert [line[0] for line in lines] == [row.name for row in rows]
    assert [line[5] == "–" for line in lines] == [True, True, False, False, True, True]
    assert lines[3][2].startswith("100.0 ± 0.0") and lines[4][1] == "24"
    plain = json.loads(json.dumps(report.plain()))
    assert plain["settings"]["seeds"] == [0, 3] and len(plain["results"][0]["scores"]["svm"]) == 2
    text = report.markdown()
    assert text.count("| bounding box |") == 2 and "seeds 0, 3); 27 training and 9 test shapes of 3 classes" in text
    assert len(list(report.tables())) == 1


@pytest.fixture
def probed(clouds: Clouds, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    clouds.write(tmp_path / "boxes.npz")

    def run(*args: str, data: str = "boxes.npz") -> tuple[int, str]:
        code = cli.main(["probe", "--num-points", "64", *args, "--data", str(tmp_path / data), "--device", "cpu"])
        return code, "".join(capsys.readouterr())

    return run


def test_the_command_prints_the_floors_alone(probed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, text = probed("none", "--seeds", "0", "--to", str(tmp_path / "out"))
    assert code == 0, text
    assert "strong + box" in text and "by a hash" in " ".join(text.split()) and "random weights" not in text
    assert "| strong + box | 105 | 100.0 |" in (tmp_path / "out" / "probe.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out" / "probe.json").read_text())["sets"]["boxes"]["test"] == 9


def test_the_command_probes_runs(probed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    for name, config in (("first", TINY), ("second", replace(TINY, depth=2))):
        about = {"encoder": asdict(config), "objective": "point-mae"}
        file = tmp_path / name / "encoder.safetensors"
        file.parent.mkdir()
        write_encoder(comparison.untrained(config)(5), file, about)
    code, text = probed(str(tmp_path / "first"), "--seeds", "0")
    assert code == 0, text
    assert "random weights" in text and "first" in text and "probe.md" in text
    code, text = probed(str(tmp_path / "first"), str(tmp_path / "second" / "encoder.safetensors"), "--seeds", "0")
    assert code == 0 and "random weights 12x2" in text and "second" in text and "made" not in text, text
    rows = json.loads((tmp_path / "first" / "probe.json").read_text(encoding="utf-8"))["results"]
    assert [row["row"] for row in rows] == [row.name for row in floors([TINY])] + ["first"]


def test_the_command_says_what_is_wrong(probed: Callable[..., tuple[int, str]], clouds: Clouds, tmp_path: Path) -> None:
    replace(clouds, label=None, classes=()).write(tmp_path / "bare.npz")
    for args, data, message in (
        (("none",), "bare.npz", "has no labels"),
        (("none", "--no-floors"), "boxes.npz", "nothing to probe"),
        (("none",), "absent.npz", "absent.npz"),
        (("none", "--num-points", "129"), "boxes.npz", "boxes has 128 points a shape"),
        (("none", "--seeds", "1", "1"), "boxes.npz", "seeds must be"),
    ):
        code, text = probed(*args, data=data)
        last = text.splitlines()[-1]
        assert code == 2 and last.startswith("error: ") and message in last, text


def test_results_go_into_the_run_folder_of_a_single_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    weights = tmp_path / "run" / "encoder.safetensors"
    for runs, to, folder in (
        ((str(tmp_path / "run"),), "", tmp_path / "run"),
        ((str(weights),), "", tmp_path / "run"),
        ((str(weights),), "here", Path("here")),
        (("none",), "", None),
        (("a", "b"), "", None),
    ):
        assert command.folder_of(command.Config(runs, to=to)) == folder


def test_a_run_of_several_seeds_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def load(path: str) -> SimpleNamespace:
        opened.append(path)
        return SimpleNamespace(config=TINY, path=path)

    monkeypatch.setattr(command, "_load", load)
    one, several = command.rows_of(["runs/a", "runs/b-{seed}"], with_floors=False, seeds=(3, 5))
    assert opened == ["runs/a", "runs/b-3", "runs/b-5"]
    assert [one.encoder(seed).path for seed in (3, 5)] == ["runs/a", "runs/a"]
    assert [several.encoder(seed).path for seed in (3, 5)] == ["runs/b-3", "runs/b-5"]
