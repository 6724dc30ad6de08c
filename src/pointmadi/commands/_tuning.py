"""What fine-tuning commands share: a job is one model, one seed, one training set, and its exams."""

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pointmadi import config as configs
from pointmadi.commands._results import short, write_text
from pointmadi.commands.probe import NONE, SEED
from pointmadi.data.augment import AugmentConfig, augment_batch
from pointmadi.data.batches import Batches
from pointmadi.data.clouds import Clouds
from pointmadi.models.encoder import EncoderConfig, PointEncoder
from pointmadi.ops.normalization import to_unit_sphere
from pointmadi.ops.random import Draws
from pointmadi.ops.sampling import farthest_points
from pointmadi.tasks.classification import Classifier, ClassifierConfig
from pointmadi.tasks.evaluation import Exam, Question, Scores, in_eval_mode, score_classes, score_parts
from pointmadi.tasks.probing import VALIDATION, hash_split, validation_split
from pointmadi.tasks.segmentation import Segmenter, SegmenterConfig
from pointmadi.tasks.voting import Repeats, Voting, repeat, vote
from pointmadi.training import distributed
from pointmadi.training.checkpoint import read_encoder, write_encoder
from pointmadi.training.logging import read_metrics
from pointmadi.training.trainer import Source, Trainer, TrainerConfig

TUNED = "task.safetensors"  # the weights of the chosen epoch
CONFIG = "config.yaml"
SCORES = "scores.json"  # of one seed or fold; there once it is done


def device_of(name: str) -> torch.device:
    """Return the device to train on; seeds share nothing, so several processes are no help here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("fine-tuning runs in one process; start it without torchrun, and jobs side by side with bench")
    return distributed.pick_device(name)


def folder_of(run: str, kind: str, data: str, checkpoint: str) -> Path:
    """Return where results go: `run`, or by default runs/KIND-DATA-CHECKPOINT."""
    named = "scratch" if checkpoint == NONE else Path(checkpoint.replace(SEED, "seeds")).stem
    return Path(run or f"runs/{kind}-{short(data).replace(':', '-')}-{named}")


def check(folder: Path, config: Any, free: Collection[str]) -> None:
    """Refuse a folder that holds the results of another configuration, or of this one without `resume`.

    Args:
        folder: where results go; its config.yaml says what they were made with.
        config: with the fields `resume` and `run`.
        free: fields that may change when it is resumed.
    """
    kept = folder / CONFIG
    if not kept.exists():
        return
    if not config.resume:
        raise ValueError(f"{folder} already holds results; go on with --resume, or name another one with --run")
    before = configs.parse(type(config), recipe=kept)
    free = {"run", "resume", *free}
    changed = [name for name, value in vars(config).items() if name not in free and value != vars(before)[name]]
    if changed:
        raise ValueError(f"{folder} was made with another {', '.join(changed)}; name another folder with --run")


def claim(folder: Path, config: Any) -> None:
    """Write down what the results of a folder are made with."""
    write_text(folder / CONFIG, configs.dump(replace(config, run=str(folder), resume=False)))


def once(folder: Path, learn: Callable[[], Scores]) -> Scores:
    """Learn something, and write down what it reached; or read that, if it was written."""
    done = folder / SCORES
    if not done.exists():
        write_text(done, json.dumps(learn()) + "\n")
    scores: Scores = json.loads(done.read_text(encoding="utf-8"))
    return scores


@dataclass(frozen=True, eq=False)
class Job:
    """One model to be trained, and what it is scored on.

    Attributes:
        model: an encoder under a head.
        batches: what it is trained on.
        exams: scores the model in eval mode; "test", and "val" where shapes are held out to choose the epoch.
        metric: the score that the epoch is chosen by.
    """

    model: Classifier | Segmenter
    batches: Source
    exams: Mapping[str, Callable[[], Scores]]
    metric: str


def open_encoder(
    checkpoint: str, fresh: EncoderConfig, num_patches: int = 0, drop_path: float | None = None
) -> PointEncoder:
    """Load a pre-trained encoder, or make a new one for the checkpoint `none`.

    Args:
        checkpoint: run folder, encoder file, published checkpoint, or `none`.
        fresh: what a new encoder is like.
        num_patches: patches of a cloud, where that should be another number than in pre-training.
        drop_path: rate of stochastic depth; that of the encoder by default.
    """
    from pointmadi.interop import load

    given = None if checkpoint == NONE else load(checkpoint)
    config = fresh if given is None else given.config
    config = replace(config, num_patches=num_patches or config.num_patches)
    config = config if drop_path is None else replace(config, drop_path=drop_path)
    encoder = PointEncoder(config)
    if given is not None:
        encoder.load_state_dict(given.state_dict())
    return encoder


def hold_out(train: Clouds, seed: int, labels: float, select: str) -> tuple[Clouds, Clouds | None]:
    """Take a share of the training shapes, and hold a fifth of those out where the epoch is chosen on them.

    Args:
        train: labelled shapes.
        seed: of the choice where not all labels are used.
        labels: share of each class that is used, at least one shape.
        select: "val" holds shapes out, by a hash of their names: the same ones for every seed and checkpoint.
    """
    assert train.label is not None
    if not 0 < labels <= 1:
        raise ValueError(f"labels is the share of the training shapes that are used, above 0 to 1, got {labels}")
    if labels < 1:
        single = torch.bincount(train.label)[train.label] == 1  # a class of a single shape keeps it
        train = train.select(validation_split(train.label, labels, seed) | single)
    if select != "val":
        return train, None
    assert train.label is not None
    held = hash_split(train.names, train.label, VALIDATION)
    if not bool(held.any()):
        raise ValueError(f"{len(train)} training shapes are too few to hold some out; use --select last")
    return train.select(~held), train.select(held)


def thin(clouds: Clouds, count: int) -> Clouds:
    """Keep the `count` points of each shape that are farthest from each other; all where it has no more."""
    if count >= clouds.num_points:
        return clouds
    rows = torch.arange(len(clouds)).split(64)
    columns = torch.cat([farthest_points(clouds.xyz(index), count) for index in rows])

    def pick(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[torch.arange(len(values))[:, None], columns]

    return replace(
        clouds, points=clouds.points[torch.arange(len(clouds))[:, None], columns],
        part=pick(clouds.part), features=pick(clouds.features),
    )  # fmt: skip


def batches_of(train: Clouds, size: int, num_points: int, seed: int, device: Any, augment: AugmentConfig) -> Batches:
    """Make batches of at most `size` labelled shapes."""
    assert train.label is not None
    size = min(size, len(train))
    if size < 2:
        raise ValueError(
            f"a batch of {size} shape cannot be learned from; give more shapes, and --batch-size 2 or more"
        )
    return Batches([train], size, num_points, seed, device=device, augment=augment)


def classification(
    encoder: PointEncoder,
    config: ClassifierConfig,
    train: Clouds,
    exams: Mapping[str, Exam],
    batches: Source,
) -> Job:
    """Make the job of classifying shapes."""
    assert train.label is not None
    if len(train.label.unique()) < 2:
        raise ValueError("all training shapes are of one class; a classification needs at least 2")
    known, needed = len(train.feature_names), encoder.config.features
    if known != needed:
        raise ValueError(f"the encoder takes {needed} channels beside xyz, and --features names {known}; give as many")
    model = Classifier(encoder, len(train.classes), config)

    def predict(question: Question) -> Tensor:
        return model.predict(question.points, question.features)

    def score(exam: Exam) -> Callable[[], Scores]:
        return lambda: in_eval_mode(model, lambda: score_classes(predict, exam, model.num_classes))

    return Job(model, batches, {name: score(exam) for name, exam in exams.items()}, "accuracy")


def part_segmentation(
    encoder: PointEncoder, config: SegmenterConfig, train: Clouds, exams: Mapping[str, Exam], batches: Source
) -> Job:
    """Make the job of telling the parts of shapes whose class is known."""
    if train.part is None or train.part_class is None:
        raise ValueError(
            "this set has no parts of known classes, so there is nothing to segment; use --task classification"
        )
    categories, parts, channels = len(train.classes), train.part_class, len(train.feature_names)
    model = Segmenter(encoder, len(train.part_names), replace(config, categories=categories, features=channels))

    def predict(question: Question) -> Tensor:
        return model.predict(question.points, question.label, question.features)

    def score(exam: Exam) -> Callable[[], Scores]:
        return lambda: in_eval_mode(model, lambda: score_parts(predict, exam, parts, categories))

    return Job(model, batches, {name: score(exam) for name, exam in exams.items()}, "instance_iou")


def fit(
    job: Job, config: TrainerConfig, select: str, folder: Path, resume: bool, about: Mapping[str, object]
) -> Scores:
    """Train a job, choose its epoch, and score it on the test set.

    Args:
        job: what to train.
        config: how.
        select: "last" takes the last epoch; "val" or "test" the one that is best there.
        folder: of this run; the chosen weights are its `task.safetensors`.
        resume: go on from the newest checkpoint.
        about: goes into the header of the weights.
    """
    key, best = f"{select}_{job.metric}", float("-inf")
    if resume:
        best = max((row[key] for row in read_metrics(folder) if key in row), default=best)

    def after_epoch(epoch: int) -> dict[str, float]:
        nonlocal best
        if select == "last":
            return {}
        scores = job.exams[select]()
        if scores[job.metric] >= best:  # the last of equals: on few shapes the first epochs tie at chance
            best = scores[job.metric]
            write_encoder(job.model, folder / TUNED, {**about, "epoch": epoch})
        return {f"{select}_{name}": value for name, value in scores.items()}

    Trainer(job.model, job.batches, config, folder, after_epoch).fit(resume)
    if select == "last":
        write_encoder(job.model, folder / TUNED, {**about, "epoch": config.epochs})
    weights, header = read_encoder(folder / TUNED)
    job.model.load_state_dict(weights)
    return {**job.exams["test"](), "epoch": float(header["epoch"])}


def vote_on(
    model: Classifier, test: Clouds, num_points: int, augment: AugmentConfig, voting: Voting, device: torch.device | str
) -> Repeats:
    """Classify the test shapes by votes, once or several times; a view is of other points, changed as in training."""

    def view(points: Tensor, draws: Draws) -> Tensor:
        columns = draws.permutation(points.shape[1])[:num_points].to(points.device)
        return augment_batch({"points": to_unit_sphere(points[:, columns])}, augment, draws)["points"]

    def score(seed: int) -> float:
        right = 0
        for number, rows in enumerate(torch.arange(len(test)).split(64)):
            logits = vote(model.predict, view, test.xyz(rows).to(device), voting.votes, seed, number)
            assert test.label is not None
            right += int((logits.argmax(-1).cpu() == test.label[rows].cpu()).sum())
        return right / len(test)

    model.eval()
    return repeat(score, voting.repeats)
