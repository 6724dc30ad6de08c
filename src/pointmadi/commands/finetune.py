"""Fine-tune an encoder on a labelled set: split, model, trainer, selection, test, read from top to bottom."""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from pointmadi.commands import _tuning as tuning
from pointmadi.commands._results import Result, recipe_cells, show, write
from pointmadi.commands.convert import describe
from pointmadi.commands.probe import NONE, SEED, open_split
from pointmadi.data.augment import AugmentConfig
from pointmadi.data.clouds import Clouds
from pointmadi.data.formats import Reading, Up
from pointmadi.models.encoder import PRESETS, EncoderConfig
from pointmadi.tasks.classification import Classifier, ClassifierConfig
from pointmadi.tasks.evaluation import Exam, Scores
from pointmadi.tasks.segmentation import SegmenterConfig
from pointmadi.tasks.voting import Voting
from pointmadi.training.logging import describe_run, machine_name
from pointmadi.training.trainer import TrainerConfig

# Chosen on held-out training shapes (docs/results.md); the released head drops half of its activations and is slow.
HEAD = ClassifierConfig(dropout=0.1, label_smoothing=0.1)
SHORT = TrainerConfig(
    epochs=40, lr=1e-3, schedule="step", warmup=3, precision="bf16", clip_grad=10.0, checkpoint_every=10, keep=1
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Fine-tune an encoder on a labelled set, and say what it reaches on shapes that it has not seen.

    Attributes:
        checkpoint: run folder, encoder.safetensors or published checkpoint to start from; `none` for new weights.
            `runs/x-{seed}` starts each seed from the run of that seed.
        data: labelled set: a packed .npz, a folder whose sub-folders are classes, a published layout, or `objects`.
        task: classification of shapes, or the parts of their points.
        run: folder of the results; by default runs/TASK-DATA-CHECKPOINT.
        resume: go on where an interrupted run of this folder stopped.
        seeds: each is a training of its own; the result is their mean.
        select: which epoch is scored on the test shapes: the one that is best on shapes held out from the training
            set (val), the last one, or the one that is best on the test shapes themselves, as papers do (test).
        report: also name the best seed and vote, which are selected on the test shapes (best).
        labels: share of the training shapes of each class that is used.
        num_points: points of a shape that the model sees.
        stored_points: points of a training shape that those are drawn from at every step, the farthest from each other
            where it has more; 0 keeps all of them. Files are read, and shapes made, with as many.
        num_patches: patches of a cloud; 0 for as many as in pre-training.
        drop_path: rate of stochastic depth.
        batch_size: shapes of a step.
        encoder: what `none` stands for: nano, tiny, small, base, or one of them with changes.
        classifier: head and pooling of a classification.
        segmenter: head of a segmentation.
        voting: answer by several views of each test shape (classification).
        features: channels beside xyz that the encoder needs, such as normals, rgb, intensity.
        up: the axis that points up in files; shapes are turned so that it is y.
        scale: what coordinates in files are multiplied by.
        skip_bad: leave unreadable files out, with a list of them, instead of stopping.
        augment: random changes of the training shapes.
        train: length, optimiser, precision, device, checkpoints; its seed is that of each run.
    """

    checkpoint: str = field(default=NONE, metadata={"positional": True})
    data: str = "objects"
    task: Literal["classification", "parts"] = "classification"
    run: str = ""
    resume: bool = False
    seeds: tuple[int, ...] = (0,)
    select: Literal["val", "last", "test"] = "val"
    report: Literal["mean", "best"] = "mean"
    labels: float = 1.0
    num_points: int = 1024
    stored_points: int = 0
    num_patches: int = 0
    drop_path: float = 0.1
    batch_size: int = 32
    encoder: EncoderConfig = field(default=PRESETS["nano"], metadata={"choices": PRESETS})
    classifier: ClassifierConfig = HEAD
    segmenter: SegmenterConfig = SegmenterConfig()
    voting: Voting = Voting()
    features: tuple[str, ...] = ()
    up: Up = "y"
    scale: float = 1.0
    skip_bad: bool = False
    augment: AugmentConfig = AugmentConfig(rotate="none")
    train: TrainerConfig = SHORT


def run(config: Config) -> None:
    """Train every seed, print what each reached, their mean, and leave it all in a folder."""
    device = tuning.device_of(config.train.device)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise ValueError(f"seeds must be different whole numbers from 0, got {config.seeds}")
    if config.voting.votes and (config.task != "classification" or config.features):
        raise ValueError("votes are of classifications of xyz alone; leave out --voting.votes")
    console = Console()
    folder = tuning.folder_of(config.run, config.task, config.data, config.checkpoint)
    tuning.check(folder, config, free=("seeds", "report"))
    for path in dict.fromkeys(config.checkpoint.replace(SEED, str(seed)) for seed in config.seeds):
        tuning.open_encoder(path, config.encoder)  # what is missing is missed now, not hours later
    stored = max(config.stored_points, config.num_points)
    train, test, about = open_split(
        config.data, Reading(stored, config.features, config.up, config.scale), config.skip_bad
    )
    if config.select == "test":
        console.print("selecting the epoch on the test set: the result is no estimate of anything unseen")
    if config.stored_points:
        train = tuning.thin(train, stored)
    scores: dict[str, Scores] = {}
    for seed in config.seeds:
        below = folder / f"seed-{seed}"
        scores[str(seed)] = tuning.once(below, partial(_learn, config, train, test, about, seed, folder, device))
        said = "  ".join(f"{name} {value:.4g}" for name, value in scores[str(seed)].items())
        console.print(f"seed {seed}: {said}", highlight=False)
    machine = machine_name(device)
    result = Result(
        config.task, config.data, about, config.checkpoint, _recipe(config), machine, asdict(config), scores
    )
    show([result], console, best=config.report == "best")
    console.print(f"made {write([result], folder)} {folder / tuning.CONFIG}", highlight=False, soft_wrap=True)


def _recipe(config: Config) -> dict[str, str]:
    """Say in the words of a table what was done."""
    head = config.classifier
    method = "all weights"
    if config.task == "classification":
        method = {"full": "all weights", "linear": "frozen, linear", "mlp3": "frozen, 3 layers"}[head.head]
        method += f", {head.pooling}"
    selection = {"val": "best epoch on held-out shapes", "last": "last epoch", "test": "best epoch on the test set"}
    epochs, augment = config.train.epochs, asdict(config.augment)
    return recipe_cells(method, selection[config.select], config.num_points, config.labels, epochs, augment)


def _learn(
    config: Config, train: Clouds, test: Clouds, about: str, seed: int, run: Path, device: torch.device
) -> Scores:
    """Train and test one seed."""
    folder = run / f"seed-{seed}"
    train, held = tuning.hold_out(train, seed, config.labels, config.select)
    torch.manual_seed(seed)
    checkpoint = config.checkpoint.replace(SEED, str(seed))
    encoder = tuning.open_encoder(checkpoint, config.encoder, config.num_patches, config.drop_path)
    batches = tuning.batches_of(train, config.batch_size, config.num_points, seed, device, config.augment)
    sets = {"test": test} if held is None else {"val": held, "test": test}
    exams = {name: Exam(own, config.num_points, 2 * config.batch_size, device) for name, own in sets.items()}
    if config.task == "classification":
        job = tuning.classification(encoder, config.classifier, train, exams, batches)
    else:
        job = tuning.part_segmentation(encoder, config.segmenter, train, exams, batches)
    tuning.claim(run, config)
    describe_run(folder, seed=seed, device=device, data={config.data: about})
    header = describe(job.model, classes=train.classes, part_names=train.part_names)
    scores = tuning.fit(job, replace(config.train, seed=seed), config.select, folder, config.resume, header)
    if config.voting.votes and isinstance(job.model, Classifier):
        views = tuning.thin(test, max(config.stored_points, config.num_points)) if config.stored_points else test
        repeats = tuning.vote_on(job.model, views, config.num_points, config.augment, config.voting, device)
        scores |= {"voted": repeats.mean, "voted_std": repeats.std, "voted_best": repeats.best}
    return scores
