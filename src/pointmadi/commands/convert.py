"""Turn checkpoints of the published code into ours, and ours into theirs."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from pointmadi import config as configs
from pointmadi import interop
from pointmadi.commands import pretrain
from pointmadi.models.decoder import DecoderConfig
from pointmadi.models.encoder import EncoderConfig
from pointmadi.objectives import OBJECTIVES, Objective, build
from pointmadi.objectives.point_madi import PointMaDiConfig
from pointmadi.training import checkpoint


@dataclass(frozen=True)
class Config:
    """Turn checkpoints of Point-MaDi, Point-MAE and PCP-MAE into ours, and ours into theirs.

    Attributes:
        file: a published checkpoint, or a run folder, a checkpoint in it, or an encoder.safetensors of ours.
        to: what to make: NAME.safetensors (the encoder, of a published checkpoint), a folder (a run that `rebuild` and
            `probe` take, of a published pre-training), or NAME.pth (the published format, of ours).
        heads: attention heads of a published checkpoint, which its shapes do not tell; 0 takes those published for its
            width (192: 3, 384: 6, 768: 12).
        num_patches: patches of a cloud, for a published checkpoint.
        patch_size: points of a patch, for a published checkpoint; 0 takes what its decoder tells, else 32.
    """

    file: str = field(metadata={"positional": True})
    to: str
    heads: int = 0
    num_patches: int = 64
    patch_size: int = 0


def run(config: Config) -> None:
    """Convert, and say in one line what it was and what was left out."""
    source, target = Path(config.file), Path(config.to)
    if not source.exists():
        raise FileNotFoundError(f"there is no {source} to convert")
    if target.suffix in (".pth", ".pt"):
        said = _write_published(source, target)
    elif target.suffix in ("", ".safetensors"):
        weights, about = (None, {}) if source.is_dir() else interop.read(source)
        if weights is None or about is not None:
            raise ValueError(f"{source} is ours already; --to writes it for the published code if it ends in .pth")
        found = interop.from_published(weights, config.heads or None, config.num_patches, config.patch_size or None)
        said = _write_run(found, target) if target.suffix == "" else _write_encoder(found, target)
    else:
        raise ValueError(f"--to {target} is of no kind to convert to; end it in .safetensors or .pth, or name a folder")
    print(f"{source} was a {said}; wrote {target}")


def objective_of(found: interop.Published) -> Objective:
    """Build our objective of a published pre-training and fill it with its weights; all options are the released ones.

    Raises:
        ValueError: it is no pre-training, or its tensors are not those it should have.
    """
    if found.kind not in OBJECTIVES or not found.decoder_depth:
        raise ValueError(f"a {found} is no whole pre-training; convert it to an encoder, --to NAME.safetensors")
    config = replace(OBJECTIVES[found.kind], decoder=DecoderConfig(found.decoder_depth, found.encoder.heads))
    if isinstance(config, PointMaDiConfig):
        config = replace(config, step_embedding="time_emb.freq" in found.state)
    objective = build(found.encoder, config)
    found.fill(objective)
    return objective


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


def _write_published(source: Path, target: Path) -> str:
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
    state = interop.to_published(weights)
    found = interop.from_published(state, heads=1)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.unfinished")
    torch.save({"base_model": {f"module.{name}": value for name, value in state.items()}}, draft)
    draft.replace(target)
    size = found.encoder
    fits = size.widths == EncoderConfig.widths and not size.features
    note = "" if fits else f" (the published code builds only tokenizers of widths {EncoderConfig.widths} on xyz)"
    return f"{interop.FORMATS[found.kind].title} of ours, {file}; left out: nothing{note}"
