"""Checkpoints of the published code and ours: every name, every error, and `load`."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pointmadi
from pointmadi import cli, interop
from pointmadi import config as configs
from pointmadi.commands import pretrain
from pointmadi.commands.convert import describe, objective_of, open_task, task_of
from pointmadi.models.decoder import DecoderConfig
from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.objectives import OBJECTIVES, Objective, build
from pointmadi.tasks import ClassifierConfig, SegmenterConfig, Task, TaskConfig, build_task
from pointmadi.training import checkpoint

SMALL = EncoderConfig(48, 2, 3, 16, 8, (8, 16, 24), drop_path=0.0, skip_origin=True)
KINDS = sorted(OBJECTIVES)


def objective(kind: str, encoder: EncoderConfig = SMALL, **changes: object) -> Objective:
    torch.manual_seed(1)
    decoder = DecoderConfig(1, encoder.heads, 0.0)
    made = build(encoder, replace(OBJECTIVES[kind], decoder=decoder, **changes))  # type: ignore[arg-type]
    for value in made.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value))  # norms and biases too, so that no two tensors are equal
    return made.eval()


def classifier(encoder: PointEncoder) -> dict[str, torch.Tensor]:
    """Make the published state dict of a classifier."""
    state = interop.to_published(encoder.state_dict())
    state = {name.removeprefix("MAE_encoder."): value for name, value in state.items()}
    head = {"cls_token": torch.rand(1, 1, 48), "cls_pos": torch.rand(1, 1, 48)}
    return state | head | {f"cls_head_finetune.{i}.weight": torch.rand(5, 5) for i in (0, 4, 8)}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[name], y[name]) for name in x)


def save(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_the_same_to_the_bit(kind: str) -> None:
    ours = objective(kind)
    state = interop.to_published(ours.state_dict())
    found = interop.from_published(state, heads=3, num_patches=16)
    assert interop.detect(state) == found.kind == kind
    assert found.encoder == replace(ours.encoder.config, drop_path=0.1)
    back = objective_of(found)
    assert same(ours, back)
    assert same(ours.encoder, found.build_encoder())
    again = interop.to_published(back.state_dict())
    assert list(again) == list(state) and all(torch.equal(again[name], state[name]) for name in state)


def test_names_and_shapes_of_the_release() -> None:
    encoder = EncoderConfig()
    state = interop.to_published(build(encoder, OBJECTIVES["point-madi"]).state_dict())
    counted = [name for name in state if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert len(state) == 222 and sum(state[name].numel() for name in counted) == 29092582
    shapes = {
        "MAE_encoder.encoder.first_conv.0.weight": (128, 3, 1),
        "MAE_encoder.encoder.second_conv.3.weight": (384, 512, 1),
        "MAE_encoder.pos_embed.2.weight": (384, 128),
        "MAE_encoder.blocks.blocks.11.attn.qkv.weight": (1152, 384),
        "MAE_decoder.blocks.3.attn.v_linear.weight": (384, 384),
        "mask_token.weight": (384, 96, 1),
        "increase_dim.0.weight": (96, 384, 1),
        "pred_pos_msk.2.weight": (3, 128),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    found = interop.from_published(state)
    assert found.encoder == replace(encoder, skip_origin=True) and found.decoder_depth == 4


def test_vectors_of_the_others() -> None:
    state = interop.to_published(objective("pcp-mae").state_dict())
    assert state["mask_token"].shape == state["MAE_encoder.mask_pos_token"].shape == (1, 1, 48)
    assert "MAE_decoder.blocks.0.attn.qkv.weight" in state and "MAE_encoder.pos_embed.0.weight" in state
    assert "decoder_pos_embed.2.bias" in interop.to_published(objective("point-mae").state_dict())


def test_a_step_embedding_goes_along() -> None:
    ours = objective("point-madi", step_embedding=True)
    assert ours.embed_step is not None  # type: ignore[union-attr]
    state = interop.to_published(ours.state_dict())
    rates = ours.embed_step.get_buffer("rates")  # type: ignore[union-attr]
    torch.testing.assert_close(state["time_emb.freq"].exp(), rates)
    back = objective_of(interop.from_published(state, heads=3, num_patches=16))
    torch.testing.assert_close(back.state_dict(), ours.state_dict())


def test_what_the_release_has_no_place_for_is_an_error() -> None:
    ours = objective("point-madi", encoder_hidden="learned")
    with pytest.raises(ValueError, match="no counterpart of hidden_token"):
        interop.to_published(ours.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_accounted_for(kind: str) -> None:
    state = interop.to_published(objective(kind).state_dict())
    del state["MAE_encoder.norm.weight"]
    state["MAE_encoder.encoder.first_conv.3.bias"] = torch.rand(3)
    state["surprise.weight"] = torch.rand(3)
    found = interop.from_published(state, heads=3, num_patches=16)
    for use in (found.build_encoder, lambda: objective_of(found)):
        with pytest.raises(ValueError) as error:
            use()
        assert "missing (1): MAE_encoder.norm.weight" in str(error.value)
        assert "left over (1): surprise.weight" in str(error.value)
        assert "of another shape (1): MAE_encoder.encoder.first_conv.3.bias (3,), not (16,)" in str(error.value)


def test_parts_of_the_decoder_are_missed_too() -> None:
    state = interop.to_published(objective("point-madi").state_dict())
    del state["MAE_decoder.blocks.0.attn.k_linear.weight"]
    found = interop.from_published(state, heads=3, num_patches=16)
    with pytest.raises(ValueError, match=r"missing \(1\): MAE_decoder.blocks.0.attn.k_linear.weight"):
        objective_of(found)
    assert "MAE_decoder.* (14)" in found.build_encoder().origin


def test_names_of_something_else() -> None:
    with pytest.raises(ValueError, match=r"no checkpoint of Point-MaDi.*conv1.weight"):
        interop.from_published({"conv1.weight": torch.rand(2, 2)})
    with pytest.raises(ValueError, match=r"no matrix MAE_encoder.encoder.first_conv.0.weight"):
        interop.from_published({"MAE_encoder.norm.weight": torch.rand(2)})


def test_heads_are_known_or_asked_for() -> None:
    def heads(dim: int, **given: int) -> int:
        encoder = PointEncoder(EncoderConfig(dim, 1, 1, widths=(4, 4, 4)))
        return interop.from_published(interop.to_published(encoder.state_dict()), **given).encoder.heads

    assert [heads(dim) for dim in (128, 192, 384, 768)] == [2, 3, 6, 12]
    assert heads(48, heads=4) == 4
    with pytest.raises(ValueError, match="heads an encoder of dim 48 has; give heads"):
        heads(48)


@pytest.mark.parametrize("kind", ["point-madi", "pcp-mae"])
def test_the_encoder_of_a_classifier(kind: str) -> None:
    encoder = objective(kind).encoder
    found = interop.from_published(classifier(encoder), heads=3, num_patches=16, patch_size=8)
    assert found.kind == "classifier" and found.tuned
    assert same(found.build_encoder(), encoder) and found.encoder == replace(encoder.config, drop_path=0.1)
    assert found.build_encoder().origin.endswith("left out: cls_head_finetune.* (3), cls_pos, cls_token")
    with pytest.raises(ValueError, match="no whole pre-training"):
        objective_of(found)


# Tasks

TUNED = {
    "classifier of Point-MaDi": ("mlp", ClassifierConfig("mean+max", widths=(7, 6)), "classifier"),
    "classifier of PCP-MAE": ("sincos", ClassifierConfig("cls+max", widths=(7, 6)), "classifier"),
    "one layer": ("mlp", ClassifierConfig("cls+max", "linear"), "classifier"),
    "parts of Point-MaDi": ("mlp", SegmenterConfig(3, 0, (9, 8, 7, 6), 5), "part-segmenter"),
    "parts of Point-MAE": ("mlp", SegmenterConfig(3, 0, (9, 8, 7, 6), 5), "part-segmenter-mae"),
    "parts of PCP-MAE": ("sincos", SegmenterConfig(3, 0, (9, 8, 7, 6), 5), "part-segmenter-mae"),
    "scenes": ("mlp", SegmenterConfig(widths=(9, 8, 7, 6)), "scene-segmenter"),
    "scenes, older names": ("mlp", SegmenterConfig(widths=(9, 8, 7, 6)), "scene-segmenter-mae"),
}


def tuned(positions: str, config: TaskConfig) -> Task:
    torch.manual_seed(2)
    made = build_task(PointEncoder(replace(SMALL, positions=positions)), 4, config)  # type: ignore[arg-type]
    for value in made.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value))
    return made.eval()


@pytest.mark.parametrize("name", TUNED)
def test_tasks_there_and_back(name: str) -> None:
    positions, config, kind = TUNED[name]
    ours = tuned(positions, config)
    state = interop.to_published(ours.state_dict(), kind)
    assert len(state) == len(ours.state_dict())
    found = interop.from_published(state, heads=3, num_patches=16, patch_size=8)
    assert found.kind == interop.detect(state) == kind and found.tuned
    pooling = config.pooling if isinstance(config, ClassifierConfig) and positions == "mlp" else None
    back = task_of(found, pooling)
    widths = {} if back.config == config else {"widths": ClassifierConfig.widths}  # one layer has none
    assert back.config == replace(config, **widths) and back.num_classes == 4  # type: ignore[arg-type]
    assert same(back, ours) and not back.training and same(found.build_encoder(), ours.encoder)
    assert f"published {interop.FORMATS[kind].title}" in back.encoder.origin
    assert interop.to_published(back.state_dict(), kind).keys() == state.keys()


def test_the_default_names_of_a_task() -> None:
    for name, kind in {"classifier of PCP-MAE": "classifier", "scenes": "scene-segmenter"}.items():
        assert interop.detect(interop.to_published(tuned(*TUNED[name][:2]).state_dict())) == kind
    kinds = {"parts of Point-MAE": "part-segmenter", "parts of PCP-MAE": "part-segmenter-mae"}
    for name, kind in kinds.items():
        assert interop.detect(interop.to_published(tuned(*TUNED[name][:2]).state_dict())) == kind


def test_names_and_shapes_of_released_tasks() -> None:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    released = {
        ClassifierConfig(): (40, 174, 22099752),
        SegmenterConfig(categories=16): (50, 192, 27063730),
        SegmenterConfig(): (13, 186, 27020301),
    }
    states = []
    for config, (classes, tensors, parameters) in released.items():
        with torch.device("meta"):  # shapes only
            state = interop.to_published(build_task(PointEncoder(), classes, config).state_dict())
        count = sum(value.numel() for name, value in state.items() if not name.endswith(buffers))
        assert (len(state), count) == (tensors, parameters)
        states.append(state)
    assert [interop.from_published(state).encoder.num_patches for state in states] == [64, 128, 128]
    assert tuple(states[1]["convs1_cls.weight"].shape) == (512, 3392, 1)
    assert tuple(states[1]["label_conv_cls.0.weight"].shape) == (64, 16, 1)


@pytest.mark.parametrize("name", ["classifier of PCP-MAE", "parts of PCP-MAE"])
def test_every_tensor_of_a_task_is_accounted_for(name: str) -> None:
    positions, config, kind = TUNED[name]
    state = interop.to_published(tuned(positions, config).state_dict(), kind)
    lost = "cls_pos" if kind == "classifier" else "propagation_0.mlp_bns.1.bias"
    del state[lost]
    state["blocks.blocks.0.surprise"] = torch.rand(3)
    with pytest.raises(ValueError) as error:
        task_of(interop.from_published(state, heads=3, num_patches=16))
    assert f"missing (1): {lost}; left over (1): blocks.blocks.0.surprise" in str(error.value)
    broken = {
        name: value for name, value in state.items() if name not in ("cls_head_finetune.4.weight", "convs2.weight")
    }
    with pytest.raises(ValueError, match=r"not complete: it has no matrix (cls_head_finetune.4|convs2).weight"):
        task_of(interop.from_published(broken, heads=3, num_patches=16))


def test_what_is_no_task() -> None:
    with pytest.raises(ValueError, match="no classifier and no segmenter"):
        task_of(interop.from_published(interop.to_published(objective("point-mae").state_dict()), heads=3))
    features = tuned("mlp", SegmenterConfig(features=3, widths=(9, 8, 7, 6)))
    assert interop.to_published(features.state_dict())["propagation_0_cls.mlp_convs.0.weight"].shape == (9, 102, 1)


# Files


def run_folder(folder: Path, kind: str) -> Objective:
    """Make what a run leaves behind, by its own functions."""
    ours = objective(kind, replace(SMALL, features=2))
    config = pretrain.Config(encoder=SMALL, objective=ours.config, features=("intensity",))
    checkpoint.save(folder, 3, objective(kind), {}, {})
    checkpoint.save(folder, 7, ours, {}, {})
    (folder / "config.yaml").write_text(configs.dump(config))
    about = {"encoder": asdict(ours.encoder.config), "objective": kind}
    checkpoint.write_encoder(ours.encoder, folder / "encoder.safetensors", about)
    return ours


def test_load_is_at_the_door() -> None:
    assert pointmadi.load is interop.load
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        pointmadi.lode  # noqa: B018


@pytest.mark.parametrize("kind", KINDS)
def test_load_what_is_ours(kind: str, tmp_path: Path) -> None:
    ours = run_folder(tmp_path, kind)
    newest = tmp_path / "checkpoints" / "step-00000007"
    places = {
        tmp_path: f"pre-trained by {kind}",
        tmp_path / "encoder.safetensors": "encoder file",
        newest: "left out: ",
    }
    for path, said in places.items():
        encoder = pointmadi.load(path)
        assert encoder.config == ours.encoder.config and same(encoder, ours.encoder)
        assert not encoder.training and said in encoder.origin
    (tmp_path / "encoder.safetensors").unlink()
    assert "step-00000007 of a run" in pointmadi.load(str(tmp_path)).origin
    points, features = torch.rand(2, 40, 3), torch.rand(2, 40, 2)
    assert torch.equal(pointmadi.load(tmp_path)(points, features).pooled, ours.encoder(points, features).pooled)


def test_load_what_is_theirs(tmp_path: Path) -> None:
    encoder = objective("point-mae").encoder
    state = interop.to_published(objective("point-mae").state_dict())
    parallel = {f"module.{name}": value for name, value in state.items()}
    # Accuracies are numpy numbers in some of these files.
    whole = {"base_model": parallel, "optimizer": {"state": {}}, "epoch": 300, "metrics": {"acc": np.float64(3)}}
    segmenter = {name.removeprefix("MAE_encoder."): value for name, value in state.items() if "MAE_encoder" in name}
    segmenter["convs3_cls.weight"] = torch.rand(5, 4, 1)
    files = {
        save(whole, tmp_path / "whole.pth"): "published Point-MAE pre-training",
        save(state, tmp_path / "plain.pt"): "published Point-MAE pre-training",
        save(classifier(encoder), tmp_path / "classifier.pth"): "left out: cls_head_finetune.* (3), cls_pos, cls_token",
        save({"model_state_dict": segmenter}, tmp_path / "parts.pth"): "left out: convs3_cls.weight",
    }
    for path, said in files.items():
        loaded = pointmadi.load(path, heads=3, num_patches=16, patch_size=8)
        assert same(loaded, encoder) and said in loaded.origin and not loaded.training
        assert loaded.config == replace(encoder.config, drop_path=0.1)


class Danger:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("boom",)


def test_load_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(path: Path, said: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=said):
            pointmadi.load(path)

    refused(tmp_path / "none", "there is no .*none", FileNotFoundError)
    refused(tmp_path, "not the folder of a run", FileNotFoundError)
    (tmp_path / "text.pth").write_text("hello")
    refused(tmp_path / "text.pth", "text.pth cannot be read as a checkpoint")
    (tmp_path / "text.safetensors").write_text("hello")
    refused(tmp_path / "text.safetensors", "is not a safetensors file")
    refused(save({"base_model": Danger()}, tmp_path / "danger.pth"), "danger.pth cannot be read as a checkpoint")
    assert "boom" not in capsys.readouterr().out
    refused(save({"epoch": 3}, tmp_path / "other.pth"), "other.pth holds no state dict")
    refused(save([1, 2], tmp_path / "list.pth"), "list.pth holds no state dict")
    run_folder(tmp_path / "run", "point-mae")
    (tmp_path / "run" / "config.yaml").unlink()
    refused(tmp_path / "run" / "checkpoints" / "step-00000003", "there is no .*config.yaml", FileNotFoundError)
    strange = {"encoder": {"width": 48}}
    checkpoint.write_encoder(PointEncoder(SMALL), tmp_path / "strange.safetensors", strange)
    refused(tmp_path / "strange.safetensors", "what the encoder is cannot be read from .*strange.safetensors")
    other = {"encoder": asdict(replace(SMALL, depth=3))}
    checkpoint.write_encoder(PointEncoder(SMALL), tmp_path / "other.safetensors", other)
    refused(tmp_path / "other.safetensors", r"missing \(11\): transformer.blocks.2.norm1.weight")


# The command


@pytest.mark.parametrize("kind", KINDS)
def test_convert_there_and_back(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def convert(file: Path, to: str, *flags: str) -> Path:
        assert cli.main(["convert", str(file), "--to", str(tmp_path / to), *flags]) == 0
        assert capsys.readouterr().out.count("\n") == 1
        return tmp_path / to

    sizes = ("--heads", "3", "--num-patches", "16")
    ours = objective(kind)
    theirs = save({"base_model": interop.to_published(ours.state_dict())}, tmp_path / "theirs.pth")
    run = convert(theirs, "run", *sizes)
    assert same(pretrain.open_run(run)[0], ours) and same(pointmadi.load(run), ours.encoder)
    back = torch.load(convert(run, "back.pth"), weights_only=True)["base_model"]
    state = interop.to_published(ours.state_dict())
    assert all(torch.equal(back[f"module.{name}"], state[name]) for name in state) and len(back) == len(state)

    encoder = convert(theirs, "encoder.safetensors", *sizes)
    assert same(pointmadi.load(encoder), ours.encoder)
    part = convert(encoder, "part.pth")
    assert same(pointmadi.load(part, heads=3), ours.encoder)
    assert same(pointmadi.load(convert(part, "again.safetensors", *sizes, "--patch-size", "8")), ours.encoder)
    header = interop.read(tmp_path / "again.safetensors")[1]
    assert header and json.dumps(header["encoder"]) == json.dumps(asdict(replace(ours.encoder.config, drop_path=0.1)))


@pytest.mark.parametrize("name", TUNED)
def test_convert_tasks_there_and_back(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    positions, config, kind = TUNED[name]
    ours = tuned(positions, config)
    entry, prefix = interop.FORMATS[kind].entry
    state = interop.to_published(ours.state_dict(), kind)
    theirs = save({entry: {prefix + name: value for name, value in state.items()}}, tmp_path / "theirs.pth")
    flags = ["--heads", "3", "--num-patches", "16", "--patch-size", "8"]
    if isinstance(config, ClassifierConfig) and positions == "mlp":
        flags += ["--pooling", config.pooling]
    file = tmp_path / "task.safetensors"
    assert cli.main(["convert", str(theirs), "--to", str(file), *flags]) == 0
    assert f"published {interop.FORMATS[kind].title}" in capsys.readouterr().out
    task = open_task(file)
    assert same(task, ours) and task.encoder.config == replace(ours.encoder.config, drop_path=0.1)
    loaded = pointmadi.load(file)
    assert same(loaded, ours.encoder) and "left out: " in loaded.origin
    points, label = torch.rand(2, 30, 3), torch.tensor([0, 2])
    given = (label,) if isinstance(config, SegmenterConfig) and config.categories else ()
    assert torch.equal(task.predict(points, *given), ours.predict(points, *given))

    names = ["--names", "point-mae"] if kind.endswith("-mae") else []
    assert cli.main(["convert", str(file), "--to", str(tmp_path / "back.pth"), *names]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)[entry]
    if kind != "scene-segmenter-mae":  # written under the newer names
        assert back.keys() == {prefix + name for name in state}
        assert all(torch.equal(back[prefix + name], state[name]) for name in state)


def test_open_task_says_what_is_wrong(tmp_path: Path) -> None:
    ours = tuned("mlp", ClassifierConfig("cls+max", widths=(7, 6)))
    about = describe(ours)
    faults = {
        "holds no classifier": {**about, "task": "surprise"},
        "cannot be read: .*'num_classes'": {key: value for key, value in about.items() if key != "num_classes"},
        "cannot be read: .*'depth'": {**about, "config": {"depth": 3}},
        r"of another shape \(2\): head.8.weight": {**about, "num_classes": 5},
    }
    for said, header in faults.items():
        path = checkpoint.write_encoder(ours, tmp_path / "task.safetensors", header)
        with pytest.raises(ValueError, match=said):
            open_task(path)


def test_convert_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(file: Path, to: str, said: str) -> None:
        assert cli.main(["convert", str(file), "--to", str(tmp_path / to), "--heads", "3"]) == 2
        assert said in capsys.readouterr().err

    run_folder(tmp_path / "run", "point-mae")
    state = interop.to_published(objective("point-mae").state_dict())
    theirs = save(state, tmp_path / "theirs.pth")
    part = save(classifier(objective("point-mae").encoder), tmp_path / "part.pth")
    refused(tmp_path / "none", "x.pth", "there is no")
    refused(tmp_path / "run", "x.safetensors", "is ours already")
    refused(theirs, "x.pth", "theirs.pth is not ours")
    refused(theirs, "x.onnx", "no kind to convert to")
    refused(theirs, "run", "already holds a run")
    refused(part, "x", "no whole pre-training")
    refused(part, "x.safetensors", "give pooling")
    refused(part.parent, "x.pth", "holds no checkpoint and no encoder.safetensors")
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.pth").exists()
