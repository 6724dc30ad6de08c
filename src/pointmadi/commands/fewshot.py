"""Few-shot classification: a few classes, a few labelled shapes of each, over folds that anybody can draw again."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from pointmadi import config as configs
from pointmadi.commands import _tuning as tuning
from pointmadi.commands._results import Result, show
from pointmadi.commands.convert import describe
from pointmadi.commands.probe import NONE, labelled
from pointmadi.data.augment import AugmentConfig
from pointmadi.data.batches import Batches
from pointmadi.data.clouds import Clouds
from pointmadi.models.encoder import PRESETS, EncoderConfig
from pointmadi.tasks.classification import ClassifierConfig
from pointmadi.tasks.comparison import Labelled
from pointmadi.tasks.evaluation import Exam
from pointmadi.tasks.fewshot import QUERIES, Fold, hash_folds, make_folds
from pointmadi.tasks.probing import features_of, probe
from pointmadi.training import distributed
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
        method: finetune trains everything; knn, svm and logistic answer by the frozen features, as `pointmadi probe` does.
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
    if not config.resume and (folder / "config.yaml").exists():
        raise ValueError(f"{folder} already holds results; go on with --resume, or name another one with --run")
    shapes = labelled(config.data, config.num_points)
    device = distributed.join(config.train.device).device
    folder.mkdir(parents=True, exist_ok=True)
    complete = replace(config, run=str(folder), resume=False)
    (folder / "config.yaml").write_text(configs.dump(complete), encoding="utf-8")

    results = []
    for way in config.ways:
        for shot in config.shots:
            folds, both = _folds(config, shapes, way, shot)
            print_of = hash_folds(folds, both.names)
            console.print(f"{way}-way {shot}-shot: {len(folds)} folds, hash {print_of}", highlight=False)
            reached = {
                str(number): _learn(config, both, fold, number, folder / f"{way}w{shot}s" / f"fold-{number}", device)
                for number, fold in enumerate(folds)
            }
            about = f"{shapes.about}; folds {print_of}"
            task = f"{way}-way {shot}-shot, {config.method}"
            settings = asdict(complete) | {"labels": 1.0, "select": "last epoch"}
            result = Result(task, config.data, about, config.checkpoint, settings, machine_name(device), reached)
            result.write(folder / f"{way}w{shot}s")
            results.append(result)
    show(results, console)


def _folds(config: Config, shapes: Labelled, way: int, shot: int) -> tuple[list[Fold], Clouds]:
    """Draw support shapes from the training part of the set and queries from its test part."""
    both = shapes.whole
    assert both.label is not None and both.split is not None
    folds = make_folds(both.names, both.label, way, shot, config.folds, config.seed, both.split == 1, config.queries)
    return folds, both
