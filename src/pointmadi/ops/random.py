"""Randomness as a function of a key, not as a state."""

import hashlib

import torch
from torch import Tensor


def seed_of(*key: int) -> int:
    """Return a 63-bit seed that depends on every part of `key`, the same on every machine."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Draws:
    """Draw random tensors that are a pure function of a key such as (seed, epoch, step).

    Under several processes every tensor is drawn for the batch of all of them and sliced to the rows of this one, so
    that W processes with B samples each see exactly the numbers of one process with W·B samples.

    Args:
        key: whole numbers that name the stream, such as seed, epoch, step.
        rank: this process, 0 … world−1.
        world: number of processes that share the batch.
        device: where the tensors are made.
    """

    def __init__(self, *key: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed_of(*key))

    def _whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * self.world, *shape[1:])

    def _mine(self, whole: Tensor, rows: int) -> Tensor:
        return whole[self.rank * rows : (self.rank + 1) * rows]

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw U(low, high) of the given shape; the first dimension is the batch of this process."""
        whole = torch.rand(self._whole(shape), generator=self.generator, device=self.device)
        return self._mine(whole, shape[0]) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Draw N(0, 1) of the given shape; the first dimension is the batch of this process."""
        return self._mine(torch.randn(self._whole(shape), generator=self.generator, device=self.device), shape[0])

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw whole numbers of 0 … high−1; the first dimension is the batch of this process."""
        whole = torch.randint(high, self._whole(shape), generator=self.generator, device=self.device)
        return self._mine(whole, shape[0])

    def permutation(self, count: int) -> Tensor:
        """Draw a random order of 0 … count−1, the same in every process."""
        return torch.randperm(count, generator=self.generator, device=self.device)
