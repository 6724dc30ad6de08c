"""Batches of shapes, cut on the device from sets that live there, or read from sets on disk."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pointmadi.data.augment import AugmentConfig, augment_batch
from pointmadi.data.clouds import LEVELS, Clouds
from pointmadi.data.shards import Shards
from pointmadi.ops.random import Draws

TINY = 1e-8  # radius below which a subsample counts as one place and is not enlarged


class Batches:
    """Cut batches from one or several cloud sets: `batches(epoch, step, draws)` is a dict of tensors.

    An epoch is a permutation of all shapes of all sets that depends on (seed, epoch) alone; the last, incomplete batch
    is left out. Process `rank` of `world` gets rows rank·B … (rank+1)·B of the batch of all of them.

    Args:
        sets: cloud sets, of the same features; they may differ in number of points. Of those on disk (`Shards`), each
            process reads the rows of its batches only.
        batch_size: shapes per step in this process.
        num_points: points per shape, a random choice of the points of the set, the same for the shapes of one step.
        seed: of the order of the shapes.
        rank: this process, 0 … world−1.
        world: number of processes that share the batch.
        device: where sets are kept and batches are made.
        transform: a function of (points, draws) that returns the points to use; it does not see features or parts.
        augment: random changes of the shapes, done before `transform`; normals and parts follow their points.
        normalize: whether the chosen points are centred and divided by their largest radius again, as the release does.
    """

    def __init__(
        self,
        sets: Sequence[Clouds | Shards],
        batch_size: int,
        num_points: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        transform: Callable[[Tensor, Draws], Tensor] | None = None,
        *,
        augment: AugmentConfig | None = None,
        normalize: bool = True,
    ) -> None:
        if not sets:
            raise ValueError("no cloud set to make batches from")
        if batch_size < 1 or num_points < 1:
            raise ValueError(f"batch_size and num_points must be at least 1, got {batch_size} and {num_points}")
        smallest = min(clouds.num_points for clouds in sets)
        if num_points > smallest:
            raise ValueError(f"cannot pick {num_points} of {smallest} points; lower num_points or use larger clouds")
        if len({clouds.feature_names for clouds in sets}) > 1:
            found = "; ".join(", ".join(clouds.feature_names) or "none" for clouds in sets)
            raise ValueError(f"the cloud sets differ in features ({found}); pick the same ones from all of them")
        total = sum(map(len, sets))
        if total < batch_size * world:
            raise ValueError(
                f"{total} shapes are fewer than one batch of {batch_size * world};"
                f" lower the batch size to {max(total // world, 1)} or add shapes"
            )
        self.sets = tuple(clouds.to(device) if isinstance(clouds, Clouds) else clouds for clouds in sets)
        self.batch_size, self.num_points, self.seed = batch_size, num_points, seed
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.transform, self.augment, self.normalize = transform, augment, normalize
        names = sets[0].feature_names
        self.normals = names.index("nx") if names and "nx,ny,nz" in ",".join(names) else None
        # Labels of different tables mean different things, so they are given only where there is one table.
        self.labelled = _same(sets, "label", "classes")
        self.parted = _same(sets, "part", "part_names")
        # Shape i of all belongs to set `bisect(ends, i)`.
        self._ends = torch.tensor([len(clouds) for clouds in sets]).cumsum(0)
        self._order: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) // (self.batch_size * self.world)

    def __call__(self, epoch: int, step: int, draws: Draws) -> dict[str, Tensor]:
        """Return points (B, N, 3) float32 and, where known, features (B, N, F), label (B,) and part (B, N) int64."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an epoch of {len(self)} steps")
        start = (step * self.world + self.rank) * self.batch_size
        chosen = self._epoch(epoch)[start : start + self.batch_size]
        owner = torch.bucketize(chosen, self._ends, right=True)
        # Every process draws the columns of every set, whether or not its rows need them, so that all stay in step.
        columns = [draws.permutation(c.num_points)[: self.num_points].to(self.device) for c in self.sets]
        pieces: list[dict[str, Tensor]] = []
        places: list[Tensor] = []
        for which, clouds in enumerate(self.sets):
            place = (owner == which).nonzero().flatten()
            if len(place):
                rows = chosen[place] - (self._ends[which] - len(clouds))
                pieces.append(self._cut(clouds, rows, columns[which]))
                places.append(place)
        batch = pieces[0]
        if len(pieces) > 1:
            back = torch.cat(places).argsort().to(self.device)
            batch = {key: torch.cat([piece[key] for piece in pieces]).index_select(0, back) for key in batch}
        if self.normalize:
            batch["points"] = normalized(batch["points"])
        if self.augment is not None:
            batch = augment_batch(batch, self.augment, draws, normals=self.normals)
        if self.transform is not None:
            batch["points"] = self.transform(batch["points"], draws)
        return batch

    def _epoch(self, epoch: int) -> Tensor:
        """Return the order of all shapes in this epoch, on the CPU."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, Draws(self.seed, epoch).permutation(int(self._ends[-1]))
        return self._order[1]

    def _cut(self, clouds: Clouds | Shards, rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
        def pick(name: str) -> Tensor:
            return clouds.gather(name, rows).to(self.device)[:, columns]

        batch = {"points": pick("points").float() / LEVELS}
        if clouds.holds("features"):
            batch["features"] = pick("features").float()
        if self.labelled:
            batch["label"] = clouds.gather("label", rows).to(self.device)
        if self.parted:
            batch["part"] = pick("part").long()
        return batch


def normalized(points: Tensor) -> Tensor:
    """Centre every shape at its mean and divide it by its largest radius: (B, N, 3) -> (B, N, 3)."""
    points = points - points.mean(dim=1, keepdim=True)
    radius = points.square().sum(dim=2).amax(dim=1).sqrt()
    return points / radius.clamp_min(TINY)[:, None, None]


def _same(sets: Sequence[Clouds | Shards], value: str, names: str) -> bool:
    """Say whether all sets have this value, and one table of names for it."""
    return all(c.holds(value) for c in sets) and len({getattr(c, names) for c in sets}) == 1
