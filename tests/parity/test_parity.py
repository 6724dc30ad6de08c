"""Numbers recorded from the published code, file by file: everything in $POINTMADI_PARITY has to be understood.

A file's name says where it comes from and what was run: `madi_pretrain_eval.npz`, `pcpmae_cls.npz`. Sizes come from the
file. Weights come from their names, by the recipe in `weights`.
"""

import copy
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pointmadi import interop
from pointmadi.commands.convert import task_of
from pointmadi.data.augment import axis_rotations, scale_translate
from pointmadi.models.decoder import DecoderConfig
from pointmadi.models.diffusion import DiffusionConfig, signal_levels
from pointmadi.models.encoder import EncoderConfig
from pointmadi.nn.patches import Patches, cut
from pointmadi.objectives.pcp_mae import PCPMAE, PCPMAEConfig
from pointmadi.objectives.point_madi import Plan, PointMaDi, PointMaDiConfig
from pointmadi.objectives.point_mae import PointMAE, PointMAEConfig
from pointmadi.ops.chamfer import chamfer
from pointmadi.ops.neighbors import gather, nearest
from pointmadi.ops.sampling import farthest_points
from pointmadi.tasks import Classifier, Segmenter, Task
from pointmadi.tasks.classification import Pooling
from pointmadi.training.optim import OptimConfig, learning_rate

FOLDER = Path(os.environ.get("POINTMADI_PARITY") or Path(__file__).parents[3] / "shared" / "parity")
FILES = sorted(FOLDER.glob("*.npz"))
# BatchNorm takes these biases out again: their gradient is zero but for rounding.
NO_GRADIENT = re.compile(r".*(first_conv\.[03]|second_conv\.0)\.bias")
NO_GRADIENT_TUNED = re.compile(
    r"norm\.bias|cls_head_finetune\.[04]\.bias|propagation_0\w*\.mlp_convs\.[01]\.bias|convs[12]\w*\.bias"
)
TOLERANCE = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-7, 1e-6)}  # of losses and logits, of gradients
BITS = {torch.float32: "f32", torch.float64: "f64"}
LOSSES = {"cdl1": "l1", "cdl2": "l2"}

File = Mapping[str, np.ndarray]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["f32", "f64"])
@pytest.mark.parametrize("path", FILES or [None], ids=lambda path: path.stem if path else "none")
def test_numbers_of_the_published_code(path: Path | None, dtype: torch.dtype) -> None:
    if path is None:
        pytest.skip(f"no parity fixtures in {FOLDER}; set POINTMADI_PARITY")
    with np.load(path, allow_pickle=False) as archive:
        file = dict(archive)
    check_of(path.stem)(file, path.stem, dtype)


def check_of(stem: str) -> Callable[[File, str, torch.dtype], None]:
    """Find what checks a file."""
    for pattern, check in CHECKS.items():
        if re.fullmatch(rf"({pattern})(_\w+)?", stem):
            return check
    raise AssertionError(f"{stem}.npz is of an unknown kind; known are {', '.join(CHECKS)}")


@pytest.mark.parametrize("stem", ["", "madi", "madi_pretraining", "pointm2ae_pretrain", "chamfers"])
def test_an_unknown_kind_fails(stem: str) -> None:
    with pytest.raises(AssertionError, match="unknown kind"):
        check_of(stem)


# The model, as recorded


def weights(name: str, shape: list[int]) -> Tensor:
    """Make the weight of that name."""
    stream = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_mean"):
        value = 0.1 * stream.randn(*shape)
    elif name.endswith("running_var"):
        value = 0.5 + stream.rand(*shape)
    elif len(shape) == 1:
        value = name.endswith("weight") + 0.1 * stream.randn(*shape)
    elif name.rpartition(".")[2] in ("cls_token", "cls_pos", "mask_token", "mask_pos_token"):
        value = 0.2 * stream.randn(*shape)
    else:
        value = stream.randn(*shape) * 0.7 / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


def state_of(file: File) -> dict[str, Tensor]:
    """Make the state dict under its published names."""
    names, shapes = file["sd_names"].tolist(), map(json.loads, file["sd_shapes"].tolist())
    state = {name: weights(name, shape) for name, shape in zip(names, shapes)}
    sums = np.array([value.double().sum() for value in state.values()])
    np.testing.assert_allclose(sums, file["sd_checksum"], rtol=1e-9, atol=1e-9)
    return state


def tensor(file: File, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    value = torch.from_numpy(file[name])
    return value.to(dtype) if value.is_floating_point() else value


def points_of(file: File, dtype: torch.dtype) -> Tensor:
    return tensor(file, "in/points" if "in/points" in file else "in/points_BN3", dtype)


def patches_of(file: File, dtype: torch.dtype) -> Patches:
    """Take the recorded patches, after a check that ours are the same but for the order of their points."""
    points = points_of(file, torch.float32)
    groups, size = file["grp/neighborhood"].shape[1:3]
    ours = cut(points, groups, size, skip_origin=True)
    assert torch.equal(ours.centers, tensor(file, "grp/center"))
    radii = (tensor(file, "grp/neighborhood").norm(dim=-1).sort(-1).values, ours.offsets.norm(dim=-1))
    torch.testing.assert_close(*radii, rtol=0, atol=1e-6)
    return Patches(tensor(file, "grp/center", dtype), tensor(file, "grp/neighborhood", dtype))


# Pre-training


def objective_of(file: File, source: str) -> PointMaDi | PointMAE | PCPMAE:
    """Build the objective from the recorded config and the weights of the recipe."""
    config = json.loads(str(file["meta/config"]))
    sizes = config["encoder_config"] if source == "madi" else config["transformer_config"]
    found = interop.from_published(state_of(file), sizes["num_heads"], config["num_group"])
    expected = replace(
        EncoderConfig(
            sizes["trans_dim"], sizes["depth"], sizes["num_heads"], config["num_group"], config["group_size"]
        ),
        positions="sincos" if source == "pcpmae" else "mlp",
        skip_origin=True,
    )
    assert found.encoder == expected
    encoder, loss = replace(found.encoder, drop_path=sizes["drop_path_rate"]), LOSSES[config["loss"]]
    objective: PointMaDi | PointMAE | PCPMAE
    if source == "madi":
        own, diffusion = config["decoder_config"], config["diffusion_config"]
        decoder = DecoderConfig(own["depth"], own["num_heads"], own["drop_path_rate"])
        betas = {"beta_start": diffusion["beta_start"], "beta_end": diffusion["beta_end"]}
        objective = PointMaDi(
            encoder,
            PointMaDiConfig(
                random_ratio=sizes["mask_ratio_rand"],
                block_ratio=sizes["mask_ratio_block"],
                center_diffusion=DiffusionConfig(diffusion["num_steps2"], **betas),
                patch_diffusion=DiffusionConfig(diffusion["num_steps"], **betas),
                loss=loss,
                center_weight=config["gamma"],
                decoder=decoder,
            ),
        )
    else:
        decoder = DecoderConfig(sizes["decoder_depth"], sizes["decoder_num_heads"], sizes["drop_path_rate"])
        if source == "pointmae":
            objective = PointMAE(encoder, PointMAEConfig(sizes["mask_ratio"], decoder=decoder, loss=loss))
        else:
            settings = PCPMAEConfig(sizes["mask_ratio"], decoder=decoder, loss=loss, center_weight=config["ita"])
            objective = PCPMAE(encoder, settings)
    assert found.decoder_depth == decoder.depth
    found.fill(objective)
    return objective


def plan_of(file: File, dtype: torch.dtype) -> Plan:
    """Put the recorded draws, which are split by view and into visible and hidden, into the order of the patches."""
    draws = [tensor(file, name, dtype) for name in sorted(file) if name.startswith("draw/")]
    patch_step, center_step, *noise, patch_random, patch_block = draws
    hidden = torch.cat([tensor(file, "mask/rand"), tensor(file, "mask/block")])
    center_noise = torch.empty(*hidden.shape, 3, dtype=dtype)
    center_noise[~hidden] = torch.cat(noise[0::2]).flatten(0, 1)
    center_noise[hidden] = torch.cat(noise[1::2]).flatten(0, 1)
    patch_noise = torch.cat([patch_random, patch_block]).unflatten(-1, (-1, 3))
    return Plan(hidden, center_step.repeat(2), patch_step.repeat(2), center_noise, patch_noise)


def check_pretrain(file: File, stem: str, dtype: torch.dtype) -> None:
    source, _, *marks = stem.split("_")
    for mark in ("time", "droppath"):
        if mark in marks:
            pytest.skip(f"{stem}: files of kind '{mark}' are not compared")
    objective = objective_of(file, source).to(dtype).train("eval" not in marks)
    patches = patches_of(file, dtype)
    seen = watch(
        objective, ["encoder.tokenizer", "encoder.transformer.norm", "decoder.transformer.norm", "decoder.rebuild"]
    )
    seen |= watch(
        objective, [name for name in ("visible_center", "hidden_center", "predict") if hasattr(objective, name)]
    )
    if isinstance(objective, PointMaDi):
        losses = objective.losses(patches, plan_of(file, dtype))
        names = ("center_loss_times_gamma", "patch_loss")
        recorded = [float(file[f"out/{BITS[dtype]}/{name}"]) for name in names]
        ours = [objective.config.center_weight * losses["center"].item(), losses["patch"].item()]
    else:
        losses = objective.losses(patches, tensor(file, "mask"))
        recorded = file[f"out/{BITS[dtype]}"].tolist()
        ours = [losses["total"].item()]
        if isinstance(objective, PCPMAE):
            ours = [losses["patch"].item(), objective.config.center_weight * losses["center"].item()]
    np.testing.assert_allclose(ours, recorded, rtol=TOLERANCE[dtype][0])
    assert math.isclose(losses["total"].item(), sum(recorded), rel_tol=TOLERANCE[dtype][0])
    for name, (act, found) in activations(file, source, seen).items():
        torch.testing.assert_close(
            found.float(), act, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    if "grad_names" in file:
        losses["total"].backward()
        check_gradients(file, objective, dtype)


def check_gradients(file: File, model: nn.Module, dtype: torch.dtype, kind: str | None = None) -> None:
    """Compare the norm of every gradient and its projection on a fixed random vector."""
    own = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    found = {name: grad.double().numpy() for name, grad in interop.to_published(own, kind).items()}
    assert set(found) == set(file["grad_names"].tolist())
    recorded = zip(file["grad_names"].tolist(), file["grad_l2norm"], file["grad_projection"])
    largest = max(file["grad_l2norm"])
    zero = {name for name in found if NO_GRADIENT.fullmatch(name) or (kind and NO_GRADIENT_TUNED.fullmatch(name))}
    assert all(np.linalg.norm(found[name]) < 1e-6 * largest for name in zero)
    kept = [(name, norm, projection) for name, norm, projection in recorded if name not in zero]
    loose = TOLERANCE[torch.float32][1]  # these were recorded in float32
    for name, norm, projection in kept:
        vector = np.random.RandomState(zlib.crc32(f"{name}#grad".encode())).randn(*found[name].shape)
        assert math.isclose(np.linalg.norm(found[name]), norm, rel_tol=loose), name
        assert abs((found[name] * vector).sum() - projection) <= loose * norm, name
    if f"gradnorm/{BITS[dtype]}/names" not in file:
        return
    for name, norm in zip(file[f"gradnorm/{BITS[dtype]}/names"].tolist(), file[f"gradnorm/{BITS[dtype]}/values"]):
        if name not in zero:
            assert math.isclose(np.linalg.norm(found[name]), norm, rel_tol=TOLERANCE[dtype][1]), name


def watch(model: nn.Module, names: list[str]) -> dict[str, list[Tensor]]:
    """Collect what these modules return."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    for name, calls in seen.items():
        keep = lambda module, inputs, output, calls=calls: calls.append(output.detach())  # noqa: E731
        model.get_submodule(name).register_forward_hook(keep)
    return seen


def activations(file: File, source: str, seen: dict[str, list[Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Pair recorded activations with ours, which have views stacked along the batch, streams along the patches."""
    views = range(2) if source == "madi" else range(1)
    streams = range(1) if source == "pointmae" else range(2)

    def act(module: str, call: int) -> Tensor:
        return tensor(file, f"act/{module}/{call}")

    def stacked(module: str) -> Tensor:
        return torch.cat([act(module, view) for view in views])

    pairs = {
        "tokens": (act("MAE_encoder.encoder", 0), seen["encoder.tokenizer"][0]),
        "latent": (
            torch.cat([torch.cat([act("MAE_encoder.norm", 2 * i + j) for j in streams], 1) for i in views]),
            seen["encoder.transformer.norm"][0],
        ),
        "decoded": (stacked("MAE_decoder"), seen["decoder.transformer.norm"][0]),
        "rebuilt": (stacked("increase_dim").transpose(1, 2), seen["decoder.rebuild"][0]),
    }
    if source == "madi":
        pairs["visible centers"] = stacked("pred_pos_vis"), seen["visible_center"][0]
        pairs["hidden centers"] = stacked("pred_pos_msk"), seen["hidden_center"][0]
    if source == "pcpmae":
        pairs["codes of hidden centers"] = stacked("pred_pos_proj"), seen["predict"][0]
    return pairs


# Fine-tuned models


def task_of_file(file: File, pooling: Pooling | None, dtype: torch.dtype) -> tuple[Task, str]:
    """Build the task from the recorded sizes and the weights of the recipe, without dropout; name its kind."""
    about = str(file["meta/config"] if "meta/config" in file else file["meta/note"])
    heads = re.search(r"heads\W+(\d+)", about)
    assert heads, about
    state, (groups, size) = state_of(file), file["grp/neighborhood"].shape[1:3]
    found = interop.from_published(state, int(heads[1]), groups, size)
    found = replace(found, encoder=replace(found.encoder, drop_path=0.0))
    task = task_of(found, pooling)
    back = interop.to_published(task.state_dict(), found.kind)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    for module in task.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return task.to(dtype), found.kind


def recorded(file: File, stem: str, dtype: torch.dtype) -> Tensor:
    name = f"out/{stem}_eval" + "_f64" * (dtype == torch.float64)
    return tensor(file, name, dtype)


@contextmanager
def signs_of_exact_relus(task: Task, call: Callable[[Task], object]) -> Iterator[None]:
    """Let every ReLU pass what it passes in float64.

    Of half a million activations some lie within rounding of zero: their gradient is a matter of luck in float32.
    """
    signs: list[Tensor] = []

    def note(x: Tensor, inplace: bool = False) -> Tensor:
        signs.append(x > 0)
        return x * signs[-1]

    with patch.object(nn.functional, "relu", note):
        call(copy.deepcopy(task).double())
    with patch.object(nn.functional, "relu", lambda x, inplace=False: x * signs.pop(0)):
        yield
    assert not signs


def check_classifier(file: File, stem: str, dtype: torch.dtype) -> None:
    task, kind = task_of_file(file, "mean+max" if stem.startswith("madi") else "cls+max", dtype)
    assert isinstance(task, Classifier)
    patches, close = patches_of(file, dtype), TOLERANCE[dtype][0]
    torch.testing.assert_close(task.classify(patches), recorded(file, "logits", dtype), rtol=close, atol=close)
    if "out/logits_train_nodropout" in file:
        logits = task.train().classify(patches)
        torch.testing.assert_close(logits.float(), tensor(file, "out/logits_train_nodropout"), rtol=1e-5, atol=1e-5)
        label = tensor(file, "in/label")
        loss = nn.functional.cross_entropy(logits, label)
        assert math.isclose(loss.item(), file["out/ce_train"], rel_tol=1e-5)
        exact = patches_of(file, torch.float64)
        with signs_of_exact_relus(task, lambda twin: twin.classify(exact)):
            nn.functional.cross_entropy(task.classify(patches), label).backward()
        check_gradients(file, task, dtype, kind)


def check_segmenter(file: File, stem: str, dtype: torch.dtype) -> None:
    task, kind = task_of_file(file, None, dtype)
    assert isinstance(task, Segmenter) and bool(task.config.categories) == ("partseg" in stem)
    points, patches, close = points_of(file, dtype), patches_of(file, dtype), TOLERANCE[dtype][0]
    label = tensor(file, "in/cls") if task.config.categories else None
    for i, tap in enumerate(task.encoder.encode(patches, task.taps).taps):
        if f"act/norm/{i}" in file:
            torch.testing.assert_close(tap.float(), tensor(file, f"act/norm/{i}"), rtol=1e-5, atol=1e-5)
    logits = task.segment(points, patches, label)
    torch.testing.assert_close(logits.log_softmax(-1), recorded(file, "logprob", dtype), rtol=close, atol=close)
    if "out/logprob_train_nodropout" in file:
        logits = task.train().segment(points, patches, label)
        train = tensor(file, "out/logprob_train_nodropout")
        torch.testing.assert_close(logits.log_softmax(-1).float(), train, rtol=1e-5, atol=1e-5)
        if "semseg" in stem:
            task.class_weight = tensor(file, "in/class_weight", dtype)
        target = tensor(file, "in/target")
        assert math.isclose(task.loss(logits, target).item(), file["out/nll_train"], rel_tol=1e-5)
        exact = points.double(), patches_of(file, torch.float64), label
        with signs_of_exact_relus(task, lambda twin: twin.segment(*exact)):
            task.loss(task.segment(points, patches, label), target).backward()
        check_gradients(file, task, dtype, kind)


# Operations


def cases(file: File) -> Iterator[str]:
    yield from sorted({name.partition("/")[0] for name in file})


def check_grouping(file: File, stem: str, dtype: torch.dtype) -> None:
    """Compare indices, which were recorded in float32."""
    for case in cases(file):
        points, picks = tensor(file, f"{case}/points"), tensor(file, f"{case}/fps_idx").long()
        ours = farthest_points(points, picks.shape[1], skip_origin=True)
        assert torch.equal(ours, picks), case
        if f"{case}/knn32_idx_sorted" in file and not case.endswith("dups"):  # equal distances have no order
            members = nearest(gather(points, picks), points, 32)[0].sort(-1).values
            assert torch.equal(members, tensor(file, f"{case}/knn32_idx_sorted")), case


def check_chamfer(file: File, stem: str, dtype: torch.dtype) -> None:
    a, b = tensor(file, "a", dtype).requires_grad_(), tensor(file, "b", dtype)
    close = {torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    for norm in ("l2", "l1"):
        value = chamfer(a, b, norm)
        torch.testing.assert_close(value, tensor(file, f"{BITS[dtype]}/{norm}", dtype), rtol=close, atol=0)
        recorded = tensor(file, f"{BITS[dtype]}/grad_{norm}", dtype)
        torch.testing.assert_close(torch.autograd.grad(value, a)[0], recorded, rtol=close, atol=close / 100)


def check_augment(file: File, stem: str, dtype: torch.dtype) -> None:
    points = tensor(file, "in/points", dtype)
    draws = torch.from_numpy(file["scale_translate/draws"]).to(dtype).view(-1, 6)
    # After as many draws for scales and shifts, one stream gives the angles.
    angles = {"rotate": file["rotate/draws"], "both": np.random.RandomState(7).rand(7 * len(points))[6 * len(points) :]}
    moved = scale_translate(points, draws[:, :3], draws[:, 3:])
    turns = {name: axis_rotations(torch.from_numpy(2 * np.pi * angle).to(dtype), "y") for name, angle in angles.items()}
    found = {"scale_translate": moved, "rotate": points @ turns["rotate"], "both": moved @ turns["both"]}
    for name, ours in found.items():
        torch.testing.assert_close(ours.float(), tensor(file, f"{name}/out"), rtol=0, atol=5e-7)


def check_schedules(file: File, stem: str, dtype: torch.dtype) -> None:
    """Compare noise levels to the bit, and learning rates, which are of one type."""
    for name in file:
        if found := re.fullmatch(r"(betas|alphas_cumprod)_(\d+)", name):
            config = DiffusionConfig(int(found[2]))
            betas = torch.linspace(config.beta_start, config.beta_end, config.steps)
            ours = betas if found[1] == "betas" else signal_levels(config)
            assert torch.equal(ours, tensor(file, name)), name
        else:
            found = re.fullmatch(r"lr_per_epoch/\w+_(\d+e-\d)_(\d+)", name)
            assert found, f"{name} is no known table"
            config, table = OptimConfig(lr=float(found[1]), cosine_epochs=int(found[2])), file[name]
            ours = [learning_rate(config, len(table), 7 * epoch, 7) for epoch in range(len(table))]
            np.testing.assert_allclose(ours, table, rtol=1e-12)


CHECKS = {
    "(madi|pointmae|pcpmae)_pretrain": check_pretrain,
    "(madi|pointmae|pcpmae)_cls": check_classifier,
    "(madi|pointmae|pcpmae)_(partseg|semseg)": check_segmenter,
    "fps_knn": check_grouping,
    "chamfer": check_chamfer,
    "augment": check_augment,
    "schedules": check_schedules,
}
