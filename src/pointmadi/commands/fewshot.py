"""Few-shot classification: a few classes, a few labelled shapes of each, over folds that anybody can draw again."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from pointmadi.commands import _tuning as tuning
from pointmadi.commands._results import Result, show, write
from pointmadi.commands.convert import describe
from pointmadi.commands.probe import NONE, open_split
from pointmadi.data.augment import AugmentConfig
from pointmadi.data.batches import Batches
from pointmadi.data.clouds import Clouds
from pointmadi.models.encoder import PRESETS, EncoderConfig
from pointmadi.tasks.classification import ClassifierConfig
from pointmadi.tasks.evaluation import Exam
from pointmadi.tasks.fewshot import QUERIES, Fold, hash_folds, make_folds
from pointmadi.tasks.probing import features_of, probe
from pointmadi.training import checkpoint, distributed
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
        seed: of the folds, and of the weights and batches of each.
        run: folder of the results; by default runs/fewshot-DATA-CHECKPOINT-METHOD.
        resume: go on where an interrupted run of this folder stopped.
        num_points: points of a shape.
        drop_path: rate of stochastic depth.
        batch_size: shapes of a step; the support set is one batch if it is smaller.
        encoder: what `none` stands for: nano, tiny, small, base, or one of them with changes.
        classifier: head and pooling.
        augment: random changes of the shapes to learn from.
        train: length, optimiser, precision, device; the last epoch is what is tested.
    """

    checkpoint: str = field(default=NONE, metadata={"positional": True})
    data: str = "objects"
    method: Literal["finetune", "knn", "svm", "logistic"] = "finetune"
    ways: tuple[int, ...] = (5, 10)
    shots: tuple[int, ...] = (10, 20)
    folds: int = 10
    queries: int = QUERIES
    seed: int = 0
    run: str = ""
    resume: bool = False
    num_points: int = 1024
    drop_path: float = 0.1
    batch_size: int = 32
    encoder: EncoderConfig = field(default=PRESETS["nano"], metadata={"choices": PRESETS})
    classifier: ClassifierConfig = ClassifierConfig()
    augment: AugmentConfig = AugmentConfig(rotate="none")
    train: TrainerConfig = EPISODE


def run(config: Config) -> None:
    """Draw the folds, learn each, and print a line for each combination."""
    console = Console()
    named = Path(config.checkpoint).stem if config.checkpoint != NONE else "scratch"
    stem = Path(config.data.replace(":", "-")).stem
    folder = Path(config.run or f"runs/fewshot-{stem}-{named}-{config.method}")
    tuning.claim(folder, config, free=("ways", "shots"))
    train, test, about = open_split(config.data, config.num_points)
    device = distributed.join(config.train.device).device
    results = []
    for way in config.ways:
        for shot in config.shots:
            folds = _folds(config, train, test, way, shot)
            drawn = hash_folds(folds, (*train.names, *test.names))
            console.print(f"{way}-way {shot}-shot: {len(folds)} folds, hash {drawn}", highlight=False)
            below = folder / f"{way}w{shot}s"
            reached = {
                str(number): _learn(config, train, test, fold, number, below / f"fold-{number}", device)
                for number, fold in enumerate(folds)
            }
            settings = asdict(config) | {"labels": 1.0, "select": "last"}
            task = f"{way}-way {shot}-shot, {config.method}"
            result = Result(
                task, config.data, f"{about}; folds {drawn}", config.checkpoint, settings, machine_name(device), reached
            )
            results.append(result)
    show(results, console)
    console.print(f"made {write(results, folder)}", highlight=False, soft_wrap=True)


def _folds(config: Config, train: Clouds, test: Clouds, way: int, shot: int) -> list[Fold]:
    """Draw support shapes from the training part of the set, and queries from its test part."""
    assert train.label is not None and test.label is not None
    label = torch.cat([train.label, test.label])
    queried = torch.arange(len(label)) >= len(train)
    names = (*train.names, *test.names)
    return make_folds(names, label, way, shot, config.folds, config.seed, queried, config.queries)


def _learn(
    config: Config, train: Clouds, test: Clouds, fold: Fold, number: int, folder: Path, device: torch.device
) -> dict[str, float]:
    """Learn one fold and answer its queries, or read what was reached if it is done."""
    done = folder / "scores.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    classes = tuple(train.classes[which] for which in fold.classes.tolist())

    def episode(part: Clouds, rows: torch.Tensor, label: torch.Tensor) -> Clouds:
        return replace(part.select(rows.flatten()), label=label, classes=classes, part_class=None)

    support = episode(train, fold.support, fold.support_label)
    query = episode(test, fold.query - len(train), fold.query_label)
    seed = config.seed + number
    torch.manual_seed(seed)
    encoder = tuning.open_encoder(config.checkpoint, config.encoder, drop_path=config.drop_path)
    if config.method == "finetune":
        size = min(config.batch_size, len(support))
        batches = Batches([support], size, config.num_points, seed, device=device, augment=config.augment)
        exams = {"test": Exam(query, config.num_points, 2 * config.batch_size, device)}
        job = tuning.classification(encoder, config.classifier, support, exams, batches)
        resume = checkpoint.newest(folder) is not None
        scores = tuning.fit(job, replace(config.train, seed=seed), "last", folder, resume, describe(job.model))
    else:
        inside, asked = (features_of(encoder, s, config.num_points, 64, device, seed) for s in (support, query))
        answers = probe(inside, fold.support_label, asked, fold.query_label, seed, (config.method,))
        scores = {"accuracy": answers[config.method].accuracy, "mean_class": answers[config.method].mean_class}
        folder.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(scores) + "\n", encoding="utf-8")
    return scores
