"""Turn checkpoints of the published code into ours, and ours into theirs."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pointmadi import config as configs
from pointmadi import interop
from pointmadi.commands import pretrain
from pointmadi.models.decoder import DecoderConfig
from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.objectives import OBJECTIVES, Objective, build
from pointmadi.objectives.point_madi import PointMaDiConfig
from pointmadi.tasks import Classifier, ClassifierConfig, SegmenterConfig, Task, TaskConfig, build_task
from pointmadi.tasks.classification import Pooling
from pointmadi.training import checkpoint

TASKS: dict[str, Callable[..., TaskConfig]] = {"classifier": ClassifierConfig, "segmenter": SegmenterConfig}


@dataclass(frozen=True)
class Config:
    """Turn checkpoints of Point-MaDi, Point-MAE and PCP-MAE into ours, and ours into theirs.

    Attributes:
        file: a published checkpoint, or a run folder, a checkpoint in it, or a NAME.safetensors of ours.
        to: what to make: NAME.safetensors (the encoder of a published pre-training, or the whole of a published
            classifier or segmenter), a folder (a run that `rebuild` and `probe` take, of a published pre-training), or
            NAME.pth (the published format, of ours).
        heads: attention heads of a published checkpoint, which its shapes do not tell; 0 takes those published for its
            width (192: 3, 384: 6, 768: 12).
        num_patches: patches of a cloud, for a published checkpoint; 0 takes 128 for a segmenter, 64 for the others.
        patch_size: points of a patch, for a published checkpoint; 0 takes what its decoder tells, else 32.
        pooling: of a published classifier, which its tensors do not tell: mean+max of Point-MaDi, cls+max of Point-MAE;
            that of PCP-MAE is known.
        names: how layers of a part segmenter of ours are called in the published format: as by Point-MaDi or Point-MAE.
    """

    file: str = field(metadata={"positional": True})
    to: str
    heads: int = 0
    num_patches: int = 0
    patch_size: int = 0
    pooling: Literal["", "mean+max", "cls+max"] = ""
    names: Literal["point-madi", "point-mae"] = "point-madi"


def run(config: Config) -> None:
    """Convert, and say in one line what it was and what was left out."""
    source, target = Path(config.file), Path(config.to)
    if not source.exists():
        raise FileNotFoundError(f"there is no {source} to convert")
    if target.suffix in (".pth", ".pt"):
        said = _write_published(source, target, config.names)
    elif target.suffix in ("", ".safetensors"):
        weights, about = (None, {}) if source.is_dir() else interop.read(source)
        if weights is None or about is not None:
            raise ValueError(f"{source} is ours already; --to writes it for the published code if it ends in .pth")
        sizes = (config.heads or None, config.num_patches or None, config.patch_size or None)
        found = interop.from_published(weights, *sizes)
        if target.suffix == "":
            said = _write_run(found, target)
        elif found.tuned:
            said = _write_task(found, config.pooling or None, target)
        else:
            said = _write_encoder(found, target)
    else:
        raise ValueError(f"--to {target} is of no kind to convert to; end it in .safetensors or .pth, or name a folder")
    print(f"{source} was a {said}; wrote {target}")


def objective_of(found: interop.Published) -> Objective:
    """Build our objective of a published pre-training and fill it with its weights; all options are the released ones.

    Raises:
        ValueError: it is no pre-training, or its tensors are not those it should have.
    """
    if found.kind not in OBJECTIVES or not found.decoder_depth:
        raise ValueError(f"a {found} is no whole pre-training; convert it --to NAME.safetensors")
    config = replace(OBJECTIVES[found.kind], decoder=DecoderConfig(found.decoder_depth, found.encoder.heads))
    if isinstance(config, PointMaDiConfig):
        config = replace(config, step_embedding="time_emb.freq" in found.state)
    objective = build(found.encoder, config)
    found.fill(objective)
    return objective


def task_of(found: interop.Published, pooling: Pooling | None = None) -> Task:
    """Build our task of a published classifier or segmenter and fill it with its weights, in eval mode.

    Args:
        found: what was read.
        pooling: of a classifier; None takes that of PCP-MAE, whose positions tell that it is one.

    Raises:
        ValueError: it is neither, its pooling is not known, or its tensors are not those it should have.
    """
    config: TaskConfig
    match found.kind.partition("-mae")[0]:
        case "classifier":
            deep = found.has("head.8.weight")
            pooling = pooling or ("cls+max" if found.encoder.positions == "sincos" else None)
            if pooling is None:
                raise ValueError(
                    f"nothing tells how a {found} pools its tokens; give pooling, mean+max if it is of Point-MaDi, "
                    "cls+max if of Point-MAE"
                )
            config, last = ClassifierConfig(pooling, "full" if deep else "linear"), "head.8" if deep else "head.0"
            if deep:
                config = replace(config, widths=(found.rows("head.0"), found.rows("head.4")))
        case "part-segmenter" | "scene-segmenter":
            layers = ("propagation.first", "propagation.second", "mix", "narrow")
            first, second, third, fourth = map(found.rows, layers)
            config, last = SegmenterConfig(widths=(first, second, third, fourth)), "out"
            if found.kind.startswith("part"):
                width, categories = found.shape("category.0.weight")
                config = replace(config, categories=categories, category_width=width)
        case _:
            raise ValueError(f"a {found} is no classifier and no segmenter; fine-tune it first")
    task = build_task(PointEncoder(found.encoder), found.rows(last), config)
    found.fill(task)
    task.encoder.origin = str(found)
    return task.eval()


def open_task(path: Path) -> Task:
    """Read a classifier or segmenter of ours, as `convert` writes them, in eval mode.

    Raises:
        ValueError: the file is none, or is damaged.
    """
    weights, about = interop.read(path)
    kind = (about or {}).get("task")
    if about is None or kind not in TASKS:
        raise ValueError(f"{path} holds no classifier or segmenter of ours")
    encoder = interop.load(path)
    try:
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in about["config"].items()}
        task = build_task(encoder, about["num_classes"], TASKS[kind](**settings))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"what the {kind} in {path} is cannot be read: {error}") from None
    interop.require(weights, task.state_dict(), str(path))
    task.load_state_dict(weights)
    return task.eval()


def describe(task: Task, **more: Any) -> dict[str, Any]:
    """Say what is needed to build a task again: the header of its file, to which `more` is added."""
    kind = "classifier" if isinstance(task, Classifier) else "segmenter"
    encoder, settings = asdict(task.encoder.config), asdict(task.config)
    return {"task": kind, "encoder": encoder, "config": settings, "num_classes": task.num_classes, **more}


def _write_task(found: interop.Published, pooling: Pooling | None, target: Path) -> str:
    task = task_of(found, pooling)
    checkpoint.write_encoder(task, target, describe(task, origin=str(found)))
    return f"{found}; left out: nothing"


def _write_encoder(found: interop.Published, target: Path) -> str:
    encoder = found.build_encoder()
    about = {"encoder": asdict(encoder.config), "objective": found.kind, "origin": encoder.origin}
    checkpoint.write_encoder(encoder, target, about)
    return encoder.origin


def _write_run(found: interop.Published, target: Path) -> str:
    """Make a run folder of no training: config, checkpoint, encoder."""
    checkpoint.claim(target)
    objective = objective_of(found)
    checkpoint.save(target, 0, objective, {}, {})
    recipe = pretrain.Config(encoder=objective.encoder.config, objective=objective.config)
    (target / "config.yaml").write_text(configs.dump(recipe), encoding="utf-8")
    _write_encoder(found, target / "encoder.safetensors")
    return f"{found}; left out: nothing"


def _write_published(source: Path, target: Path, names: str) -> str:
    """Write a checkpoint as the published code reads it."""
    newest = checkpoint.newest(source) if source.is_dir() else None
    inside = (newest or source) / "model.safetensors"
    file = source if source.is_file() else inside if inside.is_file() else source / "encoder.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"{source} is not the folder of a run: it holds no checkpoint and no encoder.safetensors"
        )
    weights, about = interop.read(file)
    if about is None and file.name != inside.name:
        raise ValueError(f"{source} is not ours; convert it to NAME.safetensors or into a folder")
    kind = "part-segmenter-mae" if names == "point-mae" and "category.0.weight" in weights else None
    state = interop.to_published(weights, kind)
    found = interop.from_published(state, heads=1)
    entry, prefix = interop.FORMATS[found.kind].entry
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.unfinished")
    torch.save({entry: {prefix + name: value for name, value in state.items()}}, draft)
    draft.replace(target)
    size = found.encoder
    fits = size.widths == EncoderConfig.widths and not size.features
    note = "" if fits else f" (the published code builds only tokenizers of widths {EncoderConfig.widths} on xyz)"
    return f"{interop.FORMATS[found.kind].title} of ours, {file}; left out: nothing{note}"
