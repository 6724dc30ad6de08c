"""Fine-tune an encoder to tell the class of every point of rooms: blocks to train on, whole rooms to be scored on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor

from pointmadi.commands import _tuning as tuning
from pointmadi.commands._results import EACH, Result, recipe_cells, show, write
from pointmadi.commands._runtime import progress_bar
from pointmadi.commands.convert import describe
from pointmadi.commands.probe import NONE, SEED
from pointmadi.data.augment import AugmentConfig
from pointmadi.data.blocks import Blocks, Votes, cover
from pointmadi.data.formats import Up, channels
from pointmadi.data.rooms import Rooms
from pointmadi.data.sources import open_rooms
from pointmadi.models.encoder import PRESETS, EncoderConfig
from pointmadi.ops.random import Draws
from pointmadi.tasks import metrics
from pointmadi.tasks.evaluation import Scores, in_eval_mode
from pointmadi.tasks.probing import VALIDATION, hash_split
from pointmadi.tasks.segmentation import Segmenter, SegmenterConfig, class_weights
from pointmadi.training.logging import describe_run, machine_name
from pointmadi.training.trainer import TrainerConfig

SHORT = TrainerConfig(
    epochs=10, lr=5e-4, schedule="step", warmup=1, precision="bf16", clip_grad=10.0, checkpoint_every=5, keep=1
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Fine-tune an encoder on labelled rooms, and say what it reaches on whole rooms that it has not seen.

    Attributes:
        checkpoint: run folder, encoder.safetensors or published checkpoint to start from; `none` for new weights.
            `runs/x-{seed}` starts each seed from the run of that seed.
        data: labelled rooms: `rooms:24` (synthetic), a folder that `data pack` made of rooms, or a published layout.
        run: folder of the results; by default runs/scenes-DATA-CHECKPOINT.
        resume: go on where an interrupted run of this folder stopped.
        seeds: each is a training of its own; the result is their mean.
        groups: groups (areas) of rooms that are tested on, all others being trained on; by default the set's own split.
        folds: test on each group in turn, trained on all others, as in 6-fold S3DIS.
        select: which epoch is scored on the test rooms: the one that is best on a fifth of the training rooms, held
            out (val), the last one, or the one that is best on the test rooms themselves, as papers do (test).
        report: also name the best seed, which is selected on the test rooms (best).
        exam: score whole rooms by overlapping blocks that vote (rooms), or random blocks as released (blocks).
        num_points: points of a block.
        epoch_size: blocks of an epoch; 0 for as many as have all points of the rooms, as released.
        num_patches: patches of a block; 0 for as many as in pre-training.
        drop_path: rate of stochastic depth.
        batch_size: blocks of a step.
        encoder: what `none` stands for: nano, tiny, small, base, or one of them with changes.
        segmenter: the head.
        features: channels that the head is given beside xyz, such as rgb.
        up: the axis that points up in the rooms.
        augment: random changes of the training blocks.
        train: length, optimiser, precision, device, checkpoints; its seed is that of each run.
    """

    checkpoint: str = field(default=NONE, metadata={"positional": True})
    data: str = "rooms:24"
    run: str = ""
    resume: bool = False
    seeds: tuple[int, ...] = (0,)
    groups: tuple[str, ...] = ()
    folds: bool = False
    select: Literal["val", "last", "test"] = "val"
    report: Literal["mean", "best"] = "mean"
    exam: Literal["rooms", "blocks"] = "rooms"
    num_points: int = 2048
    epoch_size: int = 0
    num_patches: int = 0
    drop_path: float = 0.1
    batch_size: int = 16
    encoder: EncoderConfig = field(default=PRESETS["nano"], metadata={"choices": PRESETS})
    segmenter: SegmenterConfig = SegmenterConfig()
    features: tuple[str, ...] = ()
    up: Up = "z"
    augment: AugmentConfig = AugmentConfig(scale=(0.8, 1.25), translate=(-0.1, 0.1), rotate="none")
    train: TrainerConfig = SHORT


def run(config: Config) -> None:
    """Train every seed on every split, print what each reached, their mean, and leave it all in a folder."""
    device = tuning.device_of(config.train.device)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise ValueError(f"seeds must be different whole numbers from 0, got {config.seeds}")
    console = Console()
    folder = tuning.folder_of(config.run, "scenes", config.data, config.checkpoint)
    tuning.check(folder, config, free=("seeds", "report"))
    for path in dict.fromkeys(config.checkpoint.replace(SEED, str(seed)) for seed in config.seeds):
        tuning.open_encoder(path, config.encoder)  # what is missing is missed now, not hours later
    with progress_bar("reading rooms") as progress:
        rooms = open_rooms(config.data, config.features, progress=progress)
    if not rooms.classes:
        raise ValueError(f"the rooms of {config.data} have no classes, so nothing can be learned from them")
    if config.select == "test":
        console.print("selecting the epoch on the test set: the result is no estimate of anything unseen")
    scores: dict[str, Scores] = {}
    for name, (train, test) in _splits(config, rooms).items():
        for seed in config.seeds:
            key = f"{name} {seed}".strip()
            below = folder / f"seed-{seed}" / name
            scores[key] = tuning.once(below, partial(_learn, config, train, test, seed, folder, below, device))
            said = "  ".join(f"{metric} {value:.4g}" for metric, value in scores[key].items())
            console.print(f"seed {key}: {said}", highlight=False)
    about = f"{len(rooms)} rooms; fingerprint {rooms.fingerprint()}"
    selection = {"val": "best epoch on held-out rooms", "last": "last epoch", "test": "best epoch on the test set"}
    given = f"all weights, xyz{''.join(f' {name}' for name in config.features)}, whole {config.exam}"
    recipe = recipe_cells(
        given, selection[config.select], config.num_points, 1.0, config.train.epochs, asdict(config.augment)
    )
    result = Result(
        "scenes", config.data, about, config.checkpoint, recipe, machine_name(device), asdict(config), scores
    )
    show([result], console, best=config.report == "best")
    said = "  ".join(f"{name} {result.said(EACH + name)}" for name in rooms.classes if result.of(EACH + name))
    console.print(f"IoU of each class: {said}", highlight=False, soft_wrap=True)
    console.print(f"made {write([result], folder)} {folder / tuning.CONFIG}", highlight=False, soft_wrap=True)


def _splits(config: Config, rooms: Rooms) -> dict[str, tuple[Rooms, Rooms]]:
    """Return training and test rooms of each fold by its name; the name is empty where there is one."""
    everything = set(rooms.groups)

    def without(groups: tuple[str, ...]) -> tuple[Rooms, Rooms]:
        test = rooms.group(*groups)
        rest = sorted(everything - set(groups))
        if not rest:
            raise ValueError(f"all rooms are of {', '.join(groups)}, so none is left to train on")
        return rooms.group(*rest), test

    if config.folds:
        return {group: without((group,)) for group in sorted(everything)}
    return {"": without(config.groups) if config.groups else (rooms.train(), rooms.test())}


def _learn(
    config: Config, train: Rooms, test: Rooms, seed: int, run: Path, folder: Path, device: torch.device
) -> Scores:
    """Train and test one seed on one split."""
    exams = {"test": test}
    if config.select == "val":
        held = hash_split(train.names, torch.zeros(len(train), dtype=torch.int64), VALIDATION).tolist()
        if not any(held):
            raise ValueError(f"{len(train)} training rooms are too few to hold some out; use --select last")
        exams["val"] = train.select([i for i, out in enumerate(held) if out])
        train = train.select([i for i, out in enumerate(held) if not out])
    torch.manual_seed(seed)
    checkpoint = config.checkpoint.replace(SEED, str(seed))
    encoder = tuning.open_encoder(checkpoint, config.encoder, config.num_patches, config.drop_path)
    features = len(channels(config.features))
    head = replace(config.segmenter, features=features)
    model = Segmenter(encoder, len(train.classes), head, class_weights(train.counts()))
    batches = Blocks(
        train, config.batch_size, config.num_points, device=device, features=bool(features), up=config.up,
        epoch_size=config.epoch_size, augment=config.augment,
    )  # fmt: skip
    score = _score_rooms if config.exam == "rooms" else _score_blocks

    def exam(rooms: Rooms) -> Callable[[], Scores]:
        return lambda: in_eval_mode(model, lambda: score(model, rooms, config, device))

    job = tuning.Job(model, batches, {name: exam(rooms) for name, rooms in exams.items()}, "miou")
    tuning.claim(run, config)
    describe_run(folder, seed=seed, device=device, data={config.data: train.fingerprint()})
    header = describe(model, classes=train.classes)
    return tuning.fit(job, replace(config.train, seed=seed), config.select, folder, config.resume, header)


def _score_rooms(model: Segmenter, rooms: Rooms, config: Config, device: torch.device) -> Scores:
    """Score whole rooms: every point is answered for by the votes of the blocks that hold it."""
    counts = torch.zeros(model.num_classes, model.num_classes, dtype=torch.int64)
    for number in range(len(rooms)):
        room = rooms[number]
        votes = Votes(len(room.points), model.num_classes)
        for points, features, index in cover(room, 2 * config.batch_size, config.num_points, up=config.up):
            votes.add(index, _predict(model, points, features, device))
        assert room.label is not None
        counts += metrics.confusion(votes.answer(), room.label, model.num_classes)
    return _scores(counts, rooms.classes)


def _score_blocks(model: Segmenter, rooms: Rooms, config: Config, device: torch.device) -> Scores:
    """Score random blocks, as released: an epoch of them, the same ones every time."""
    blocks = Blocks(
        rooms, config.batch_size, config.num_points, features=bool(config.features), up=config.up,
        epoch_size=config.epoch_size,
    )  # fmt: skip
    counts = torch.zeros(model.num_classes, model.num_classes, dtype=torch.int64)
    for step in range(len(blocks)):
        batch = blocks(0, step, Draws(0, step))
        logits = _predict(model, batch["points"], batch.get("features"), device)
        counts += metrics.confusion(logits.argmax(-1).cpu(), batch["part"], model.num_classes)
    return _scores(counts, rooms.classes)


def _predict(model: Segmenter, points: Tensor, features: Tensor | None, device: torch.device) -> Tensor:
    given = features.to(device) if features is not None and model.config.features else None
    return model.predict(points.to(device), features=given)


def _scores(counts: Tensor, classes: Sequence[str]) -> Scores:
    ious = metrics.class_ious(counts).tolist()
    whole = {
        "miou": metrics.mean_iou(counts),
        "mean_class": metrics.mean_class_accuracy(counts),
        "accuracy": metrics.overall_accuracy(counts),
    }
    return whole | {f"{EACH}{name}": iou for name, iou in zip(classes, ious) if not math.isnan(iou)}
