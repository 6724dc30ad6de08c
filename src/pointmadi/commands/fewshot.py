"""Few-shot classification: a few classes, a few labelled shapes of each, over folds that anybody can draw again."""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from pointmadi.commands import _tuning as tuning
from pointmadi.commands._results import Result, recipe_cells, show, write
from pointmadi.commands.convert import describe
from pointmadi.commands.probe import NONE, open_split
from pointmadi.data.augment import AugmentConfig
from pointmadi.data.clouds import Clouds
from pointmadi.data.formats import Reading, Up
from pointmadi.models.encoder import PRESETS, EncoderConfig
from pointmadi.tasks.classification import ClassifierConfig
from pointmadi.tasks.evaluation import Exam, Scores
from pointmadi.tasks.fewshot import QUERIES, Fold, hash_folds, make_folds
from pointmadi.tasks.probing import VALIDATION, features_of, probe
from pointmadi.training.logging import machine_name
from pointmadi.training.trainer import TrainerConfig

EPISODE = TrainerConfig(
    epochs=50, lr=5e-4, schedule="step", warmup=5, precision="bf16", clip_grad=10.0, checkpoint_every=1000, keep=1
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Learn K classes from N shapes of each, over and over, and say what is reached: mean ± std over folds.

    Attributes:
        checkpoint: run folder, encoder.safetensors or published checkpoint to start from; `none` for new weights.
        data: labelled set: a packed .npz, a folder whose sub-folders are classes, a published layout, or `objects`.
        method: finetune trains everything; knn, svm and logistic answer by frozen features (docs/protocol.md).
        ways: numbers of classes K.
        shots: numbers of labelled shapes N of each class; every way is combined with every shot.
        folds: episodes of each combination.
        queries: test shapes of each class.
        seed: of the folds; that of weights and batches is the sum of it and the number of the fold.
        select: finetune: test the last epoch, or the one that is best on the queries, as papers do (test).
        run: folder of the results; by default runs/fewshot-METHOD-DATA-CHECKPOINT.
        resume: go on where an interrupted run of this folder stopped.
        num_points: points of a shape.
        stored_points: points of a support shape that those are drawn from at every step, the farthest from each other
            where it has more; 0 keeps all of them.
        up: the axis that points up in files; shapes are turned so that it is y.
        scale: what coordinates in files are multiplied by.
        skip_bad: leave unreadable files out, with a list of them, instead of stopping.
        drop_path: rate of stochastic depth.
        batch_size: shapes of a step; the support set is one batch if it is smaller. New weights need 100 steps or so.
        encoder: what `none` stands for: nano, tiny, small, base, or one of them with changes.
        classifier: head and pooling.
        augment: random changes of the shapes to learn from.
        train: length, optimiser, precision, device.
    """

    checkpoint: str = field(default=NONE, metadata={"positional": True})
    data: str = "objects"
    method: Literal["finetune", "knn", "svm", "logistic"] = "finetune"
    ways: tuple[int, ...] = (5, 10)
    shots: tuple[int, ...] = (10, 20)
    folds: int = 10
    queries: int = QUERIES
    seed: int = 0
    select: Literal["last", "test"] = "last"
    run: str = ""
    resume: bool = False
    num_points: int = 1024
    stored_points: int = 0
    up: Up = "y"
    scale: float = 1.0
    skip_bad: bool = False
    drop_path: float = 0.1
    batch_size: int = 16
    encoder: EncoderConfig = field(default=PRESETS["nano"], metadata={"choices": PRESETS})
    classifier: ClassifierConfig = ClassifierConfig()
    augment: AugmentConfig = AugmentConfig(rotate="none")
    train: TrainerConfig = EPISODE


def run(config: Config) -> None:
    """Draw the folds, learn each, and print a line for each combination."""
    device = tuning.device_of(config.train.device)
    if not config.ways or not config.shots:
        raise ValueError("ways and shots must name at least one number each, such as --ways 5 --shots 10")
    if config.method != "finetune" and min(config.shots) < 2:
        raise ValueError(f"{config.method} chooses C or k on a part of the support; give --shots 2 or more")
    console = Console()
    folder = tuning.folder_of(config.run, f"fewshot-{config.method}", config.data, config.checkpoint)
    tuning.check(folder, config, free=("ways", "shots"))
    tuning.open_encoder(config.checkpoint, config.encoder)
    stored = max(config.stored_points, config.num_points)
    train, test, about = open_split(config.data, Reading(stored, up=config.up, scale=config.scale), config.skip_bad)
    if config.stored_points:
        train = tuning.thin(train, stored)
    drawn = {(k, n): _folds(config, train, test, k, n) for k in config.ways for n in config.shots}
    tuning.claim(folder, config)
    if config.method == "finetune" and config.select == "test":
        console.print("selecting the epoch on the queries: the result is no estimate of anything unseen")
    results = []
    for (way, shot), folds in drawn.items():
        named = hash_folds(folds, (*train.names, *test.names))
        console.print(f"{way}-way {shot}-shot: {len(folds)} folds, hash {named}", highlight=False)
        reached: dict[str, Scores] = {}
        for number, fold in enumerate(folds):
            below = folder / f"{way}w{shot}s" / f"fold-{number}"
            reached[str(number)] = tuning.once(below, partial(_learn, config, train, test, fold, number, below, device))
        task, about_folds = f"{way}-way {shot}-shot", f"{about}; folds {named}"
        recipe, machine = _recipe(config), machine_name(device)
        results.append(
            Result(task, config.data, about_folds, config.checkpoint, recipe, machine, asdict(config), reached)
        )
    show(results, console)
    console.print(f"made {write(results, folder)} {folder / tuning.CONFIG}", highlight=False, soft_wrap=True)


def _recipe(config: Config) -> dict[str, str]:
    """Say in the words of a table what was done, and nothing of what was not."""
    if config.method != "finetune":
        chosen = {"knn": "k", "svm": "C", "logistic": "C"}[config.method]
        selection = f"{chosen} on {VALIDATION:.0%} of the support"
        return recipe_cells(f"frozen, {config.method}, mean+max of patches", selection, config.num_points)
    selection = {"last": "last epoch", "test": "best epoch on the queries"}[config.select]
    head = {"full": "all weights", "linear": "frozen, linear", "mlp3": "frozen, 3 layers"}[config.classifier.head]
    method, augment = f"{head}, {config.classifier.pooling}", asdict(config.augment)
    return recipe_cells(method, selection, config.num_points, epochs=config.train.epochs, augment=augment)


def _folds(config: Config, train: Clouds, test: Clouds, way: int, shot: int) -> list[Fold]:
    """Draw support shapes from the training part of the set, and queries from its test part."""
    assert train.label is not None and test.label is not None
    label = torch.cat([train.label, test.label])
    queried = torch.arange(len(label)) >= len(train)
    names = (*train.names, *test.names)
    return make_folds(names, label, way, shot, config.folds, config.seed, queried, config.queries)


def _learn(
    config: Config, train: Clouds, test: Clouds, fold: Fold, number: int, folder: Path, device: torch.device
) -> Scores:
    """Learn one fold and answer its queries."""
    classes = tuple(train.classes[which] for which in fold.classes.tolist())

    def episode(part: Clouds, rows: torch.Tensor, label: torch.Tensor) -> Clouds:
        return replace(part.select(rows.flatten()), label=label, classes=classes, part_class=None)

    support = episode(train, fold.support, fold.support_label)
    query = episode(test, fold.query - len(train), fold.query_label)
    seed = config.seed + number
    torch.manual_seed(seed)
    encoder = tuning.open_encoder(config.checkpoint, config.encoder, drop_path=config.drop_path)
    if config.method != "finetune":
        inside, asked = (features_of(encoder, s, config.num_points, 64, device, seed) for s in (support, query))
        answers = probe(inside, fold.support_label, asked, fold.query_label, seed, (config.method,))
        return {"accuracy": answers[config.method].accuracy, "mean_class": answers[config.method].mean_class}
    batches = tuning.batches_of(support, config.batch_size, config.num_points, seed, device, config.augment)
    exams = {"test": Exam(query, config.num_points, 2 * config.batch_size, device)}
    job = tuning.classification(encoder, config.classifier, support, exams, batches)
    resume = config.resume and folder.is_dir()
    header = describe(job.model, classes=classes)
    return tuning.fit(job, replace(config.train, seed=seed), config.select, folder, resume, header)
