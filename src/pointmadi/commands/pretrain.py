"""Pre-train an encoder: data, objective, trainer, probe, read from top to bottom."""

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pointmadi import config as configs
from pointmadi.commands import probe as probing
from pointmadi.commands._runtime import progress_bar
from pointmadi.data.augment import AugmentConfig
from pointmadi.data.clouds import Clouds
from pointmadi.data.formats import Reading, Up, channels
from pointmadi.data.shards import Shards
from pointmadi.data.sources import Endless, Split, batches_from, is_folder, open_source
from pointmadi.models.encoder import PRESETS, EncoderConfig, PointEncoder
from pointmadi.objectives import OBJECTIVES, Objective, ObjectiveConfig, build, suited
from pointmadi.tasks.comparison import Labelled, Row, Settings, fixed, floors
from pointmadi.training import checkpoint, distributed
from pointmadi.training.logging import describe_run
from pointmadi.training.trainer import FREE, Trainer, TrainerConfig

# What the release exempts from decay because "token" is in its name there (docs/faithfulness.md, 21).
EXEMPT = ("token", "hidden_position", "embed_noisy")
SHORT_TRAINING = TrainerConfig(
    epochs=8, lr=2e-3, schedule="step", warmup=1, precision="bf16", exempt=EXEMPT, log_every=20
)


@dataclass(frozen=True)
class Config:
    """Pre-train an encoder on shapes, and say what it is worth.

    Attributes:
        data: shapes to train on: `procedural` (endless), `procedural:20000`, `objects`, a packed .npz or folder, a mesh
            or cloud, a folder of them, or a published set (`pointmadi data list`); several may be given.
        split: which part of a packed set is used: its training part by default.
        run: folder of the run; by default runs/OBJECTIVE-ENCODER.
        resume: go on from the newest checkpoint of the run.
        encoder: what is trained: nano, tiny, small (as released), base, or one of them with changes.
        objective: how it is trained: point-madi, point-mae, pcp-mae, or one of them with changes.
        num_points: points of a shape, chosen at random at every step.
        stored_points: points that are kept of a shape that is read or made, to choose from; at least `num_points`.
        batch_size: shapes of a step, of all processes together.
        epoch_size: shapes that count as an epoch of the endless procedural corpus.
        features: further channels to read beside xyz, such as normals, rgb, intensity.
        up: the axis that points up in the files; shapes are turned so that it is y.
        scale: what coordinates in the files are multiplied by, such as 0.001 for millimetres.
        skip_bad: leave unreadable files out, with a list of them, instead of stopping.
        augment: random changes of the shapes.
        train: length, optimiser, precision, device, checkpoints, seed.
        probe: labelled sets to probe the encoder on before and after; none if empty.
        probe_points: points of a shape for the probes; 0 means `num_points`.
    """

    data: tuple[str, ...] = ("procedural:4096",)
    split: Split = "train"
    run: str = ""
    resume: bool = False
    encoder: EncoderConfig = field(default=PRESETS["nano"], metadata={"choices": PRESETS})
    objective: ObjectiveConfig = field(default=OBJECTIVES["point-madi"], metadata={"choices": OBJECTIVES})
    num_points: int = 1024
    stored_points: int = 2048
    batch_size: int = 64
    epoch_size: int = 52_470
    features: tuple[str, ...] = ()
    up: Up = "y"
    scale: float = 1.0
    skip_bad: bool = False
    augment: AugmentConfig = AugmentConfig()
    train: TrainerConfig = SHORT_TRAINING
    probe: tuple[str, ...] = ("objects",)
    probe_points: int = 0


def run(config: Config) -> None:
    """Pre-train, probe before and after, and leave a run folder."""
    from rich.console import Console

    console = Console()
    config = replace(config, encoder=suited(config.encoder, config.objective))
    process = distributed.join(config.train.device)
    name = next((name for name, kind in OBJECTIVES.items() if type(kind) is type(config.objective)), "objective")
    folder = Path(config.run or f"runs/{name}-{config.encoder.dim}x{config.encoder.depth}")
    checkpoint.claim(folder, config.resume)
    if config.resume:
        _require_same_run(config, folder)
    if config.num_points < config.encoder.num_patches:
        raise ValueError(
            f"num_points is {config.num_points}, fewer than the {config.encoder.num_patches} patches of the encoder; "
            "raise num_points or lower encoder.num_patches"
        )
    if config.batch_size % process.world:
        raise ValueError(f"batch_size {config.batch_size} does not divide among {process.world} processes")

    sources = _open(config, process)
    probes = _open_probes(config) if process.main else {}
    seed = config.train.seed
    batches = batches_from(
        sources,
        config.batch_size // process.world,
        config.num_points,
        seed,
        process.rank,
        process.world,
        process.device,
        augment=config.augment,
        epoch_size=config.epoch_size,
    )
    torch.manual_seed(seed)
    objective = build(replace(config.encoder, features=len(channels(config.features))), config.objective)
    trainer = Trainer(objective, batches, config.train, folder)

    if process.main:
        folder.mkdir(parents=True, exist_ok=True)
        complete = replace(config, run=str(folder), resume=False)  # `pretrain FOLDER/config.yaml --resume` goes on
        (folder / "config.yaml").write_text(configs.dump(complete), encoding="utf-8")
        prints = {
            spec: repr(source) if isinstance(source, Endless) else source.fingerprint()
            for spec, source in zip(config.data, sources, strict=True)
        }
        describe_run(folder, seed=seed, device=process.device, data=prints)
        parameters = sum(weight.numel() for weight in objective.encoder.parameters())
        shapes = sum(len(source) for source in sources if not isinstance(source, Endless)) or "endless"
        console.print(
            f"{name}: encoder of {parameters / 1e6:.2f} M parameters, {shapes} shapes of {config.num_points} points, "
            f"{trainer.steps} steps of {config.batch_size} on {process.device}",
            highlight=False,
            soft_wrap=True,
        )
    untrained = PointEncoder(objective.encoder.config)
    untrained.load_state_dict({key: value.cpu() for key, value in objective.encoder.state_dict().items()})
    trainer.fit(config.resume)
    if process.main:
        encoder = checkpoint.write_encoder(
            objective.encoder, folder / "encoder.safetensors", describe_encoder(objective, name)
        )
        made = [folder / "config.yaml", folder / "run.json", folder / "metrics.jsonl", encoder]
        if probes:
            made += _probe(config, probes, untrained, objective.encoder, folder, console)
        console.print("made " + " ".join(str(path) for path in made), highlight=False, soft_wrap=True)
    distributed.wait()


def _open(config: Config, process: distributed.Process) -> list[Clouds | Shards | Endless]:
    """Open all sources; the first process fills the cache, where the others find what it read or made."""
    if not process.main:
        distributed.wait()
    folders = any(is_folder(spec) for spec in config.data)
    with progress_bar("reading shapes") if folders else nullcontext() as progress:
        sources = [
            open_source(
                spec,
                max(config.stored_points, config.num_points),
                config.train.seed,
                config.split,
                features=config.features,
                up=config.up,
                scale=config.scale,
                skip_bad=config.skip_bad,
                progress=progress,
            )
            for spec in config.data
        ]
    if process.main:
        distributed.wait()
    return sources


def open_run(path: str | Path) -> tuple[Objective, Config]:
    """Open the newest checkpoint of a run: the whole objective in eval mode, and the configuration it was made with."""
    folder = Path(path)
    newest = checkpoint.newest(folder)
    if newest is None or not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} is no folder of a pre-training run: it lacks config.yaml or a checkpoint")
    config = configs.parse(Config, recipe=folder / "config.yaml")
    objective = build(replace(config.encoder, features=len(channels(config.features))), config.objective)
    checkpoint.load(newest, objective, {})
    return objective.eval(), config


def describe_encoder(objective: Objective, name: str) -> dict[str, Any]:
    """Say what an encoder file needs in its header to be rebuilt."""
    return {"encoder": asdict(objective.encoder.config), "objective": name}


def _require_same_run(config: Config, folder: Path) -> None:
    """Refuse to resume a run with another model, other data or another recipe than it was started with."""
    recipe = folder / "config.yaml"
    if not recipe.is_file():
        return
    started = configs.parse(Config, recipe=recipe)
    now, before = ({**vars(one), **{f"train.{key}": value for key, value in vars(one.train).items()}}
                   for one in (config, started))  # fmt: skip
    free = {"run", "resume", "skip_bad", "probe", "probe_points", "train", *(f"train.{name}" for name in FREE)}
    changed = [name for name in now if name not in free and now[name] != before[name]]
    if changed:
        raise ValueError(
            f"{folder} was started with another {', '.join(changed)}; "
            f"go on with `pointmadi pretrain {recipe} --resume`, or name another run with --run"
        )


def _open_probes(config: Config) -> dict[str, Labelled]:
    """Open the sets to probe on, before any training, so that a mistake shows at once."""
    points = config.probe_points or config.num_points
    reading = Reading(points, config.features, config.up, config.scale)
    sets = {Path(spec).stem: probing.labelled(spec, reading, config.skip_bad) for spec in config.probe}
    for name, shapes in sets.items():
        if shapes.train.num_points < points:
            raise ValueError(f"{name} has {shapes.train.num_points} points a shape, not {points}; lower probe_points")
    return sets


def _probe(
    config: Config,
    sets: dict[str, Labelled],
    untrained: PointEncoder,
    trained: PointEncoder,
    folder: Path,
    console: Any,
) -> list[Path]:
    """Probe the encoder before and after training beside hand-made features; print and write the table."""
    rows = [*floors(), Row("encoder before", fixed(untrained)), Row("encoder after", fixed(trained.cpu()))]
    report = probing.measure(rows, sets, Settings(num_points=config.probe_points or config.num_points))
    probing.show(report, console)
    return probing.write(report, folder)
