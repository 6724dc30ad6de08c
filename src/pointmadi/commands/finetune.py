"""Fine-tune an encoder on a labelled set: split, model, trainer, selection, test, read from top to bottom."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from pointmadi.commands import _tuning as tuning
from pointmadi.commands._results import Result, show, write
from pointmadi.commands.convert import describe
from pointmadi.commands.probe import NONE, SEED, open_split
from pointmadi.data.augment import AugmentConfig
from pointmadi.data.batches import Batches
from pointmadi.data.clouds import Clouds
from pointmadi.models.encoder import PRESETS, EncoderConfig
from pointmadi.tasks.classification import Classifier, ClassifierConfig
from pointmadi.tasks.evaluation import Exam, Scores
from pointmadi.tasks.segmentation import SegmenterConfig
from pointmadi.tasks.voting import Voting
from pointmadi.training import checkpoint, distributed
from pointmadi.training.logging import describe_run, machine_name
from pointmadi.training.trainer import TrainerConfig

SHORT = TrainerConfig(
    epochs=30, lr=5e-4, schedule="step", warmup=3, precision="bf16", clip_grad=10.0, checkpoint_every=10, keep=1
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
        report: also name the best seed, which is selected on the test shapes (best).
        labels: share of the training shapes of each class that is used.
        num_points: points of a shape that the model sees.
        stored_points: points that are kept of a shape that is read or made, to choose from; 0 means as many.
        num_patches: patches of a cloud; 0 for as many as in pre-training.
        drop_path: rate of stochastic depth.
        batch_size: shapes of a step.
        encoder: what `none` stands for: nano, tiny, small, base, or one of them with changes.
        classifier: head and pooling of a classification.
        segmenter: head of a segmentation.
        voting: answer by several views of each test shape (classification).
        features: channels beside xyz that the encoder needs, such as normals, rgb, intensity.
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
    classifier: ClassifierConfig = ClassifierConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    voting: Voting = Voting()
    features: tuple[str, ...] = ()
    skip_bad: bool = False
    augment: AugmentConfig = AugmentConfig(rotate="none")
    train: TrainerConfig = SHORT


def run(config: Config) -> None:
    """Train every seed, print what each reached, their mean, and leave it all in a folder."""
    if not config.seeds:
        raise ValueError("no seeds; give at least one, such as --seeds 0")
    console = Console()
    named = Path(config.checkpoint.replace(SEED, "seeds")).stem if config.checkpoint != NONE else "scratch"
    folder = Path(config.run or f"runs/{config.task}-{Path(config.data.replace(':', '-')).stem}-{named}")
    tuning.claim(folder, config, free=("seeds", "report"))
    stored = max(config.stored_points, config.num_points)
    train, test, about = open_split(config.data, stored, config.features, config.skip_bad)
    if config.select == "test":
        console.print("selecting the epoch on the test shapes: the result is no estimate of anything unseen")
    device = distributed.join(config.train.device).device
    scores: dict[str, Scores] = {}
    for seed in config.seeds:
        scores[str(seed)] = _seed(config, train, test, about, seed, folder / f"seed-{seed}")
        said = "  ".join(f"{name} {value:.4g}" for name, value in scores[str(seed)].items())
        console.print(f"seed {seed}: {said}", highlight=False)
    machine = machine_name(device)
    result = Result(config.task, config.data, about, config.checkpoint, asdict(config), machine, scores)
    show([result], console, best=config.report == "best")
    console.print(f"made {write([result], folder)} {folder / 'config.yaml'}", highlight=False, soft_wrap=True)


def _seed(config: Config, train: Clouds, test: Clouds, about: str, seed: int, folder: Path) -> Scores:
    """Train and test one seed, or read what it reached if it is done."""
    done = folder / "scores.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    process = distributed.join(config.train.device)
    train, held = tuning.hold_out(train, seed, config.labels, config.select)
    torch.manual_seed(seed)
    encoder = tuning.open_encoder(
        config.checkpoint.replace(SEED, str(seed)), config.encoder, config.num_patches, config.drop_path
    )
    batches = Batches(
        [train],
        min(config.batch_size, len(train)),
        config.num_points,
        seed,
        device=process.device,
        augment=config.augment,
    )
    sets = {"val": held, "test": test}
    exams = {
        name: Exam(own, config.num_points, 2 * config.batch_size, process.device)
        for name, own in sets.items()
        if own is not None
    }
    if config.task == "classification":
        job = tuning.classification(encoder, config.classifier, train, exams, batches)
    else:
        job = tuning.part_segmentation(encoder, config.segmenter, train, exams, batches)
    describe_run(folder, seed=seed, device=process.device, data={config.data: about})
    resume = config.resume and checkpoint.newest(folder) is not None
    header = describe(job.model, classes=train.classes, part_names=train.part_names)
    scores = tuning.fit(job, replace(config.train, seed=seed), config.select, folder, resume, header)
    if config.voting.votes and isinstance(job.model, Classifier):
        repeats = tuning.vote_on(job.model, test, config.num_points, config.augment, config.voting, process.device)
        scores |= {"voted": repeats.mean, "voted_std": repeats.std}
        if config.report == "best":
            scores["voted_best_on_test"] = repeats.best
    done.write_text(json.dumps(scores) + "\n", encoding="utf-8")
    return scores
