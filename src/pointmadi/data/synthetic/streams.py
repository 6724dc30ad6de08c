"""Random numbers by counting: every value is a pure function of (seed, index, stream, counter)."""

import torch
from torch import Tensor

_GOLDEN_64 = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the step of splitmix64 (Steele et al. 2014)
_SPLITMIX_64 = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_GOLDEN_32 = 0x9E3779B9
_MIX_32 = (0x7FEB352D, 0x846CA68B, 0xED5AD4BB)  # multipliers of low bias (hash-prospector, public domain)


def _signed(value: int, bits: int) -> int:
    """Return the signed number with the lowest `bits` bits of `value`, as torch's integers need it."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _shifted(x: Tensor, by: int, bits: int) -> Tensor:
    """Shift right, filling with zeros (torch's `>>` copies the sign)."""
    return (x >> by).bitwise_and_((1 << (bits - by)) - 1)


def _splitmix(x: Tensor) -> Tensor:
    """Mix int64 values to int64 values, one to one (splitmix64)."""
    x = x + _signed(_GOLDEN_64, 64)
    x = (x ^ _shifted(x, 30, 64)) * _signed(_SPLITMIX_64[0], 64)
    x = (x ^ _shifted(x, 27, 64)) * _signed(_SPLITMIX_64[1], 64)
    return x ^ _shifted(x, 31, 64)


class Stream:
    """One endless sequence of random numbers for each index of a batch.

    The sequences depend on (seed, index, stream) and on nothing else: neither on the batch nor on the device.
    A 64-bit key comes from splitmix64; each draw mixes its 32-bit counter with the two halves of that key.

    Args:
        seed: chooses the family of sequences.
        index: (B,) int64, one sequence each.
        stream: name of the purpose, so that two purposes never share numbers.
    """

    def __init__(self, seed: int, index: Tensor, stream: int) -> None:
        start = torch.full_like(index, _signed(seed, 64), dtype=torch.int64)
        key = _splitmix(_splitmix(_splitmix(start) ^ index) ^ stream)
        self.low = key.to(torch.int32)
        self.high = (key >> 32).to(torch.int32)

    def select(self, rows: Tensor) -> "Stream":
        """Return the sequences of some rows; rows may repeat."""
        chosen = object.__new__(Stream)
        chosen.low, chosen.high = self.low[rows], self.high[rows]
        return chosen

    def at(self, counter: Tensor) -> Tensor:
        """Draw 32 random bits for each counter: (B, …) int32, or (…) for all rows -> (B, …) int32."""
        shape = (-1,) + (1,) * (counter.dim() - 1)
        x = counter * _signed(_GOLDEN_32, 32) + self.low.view(shape)
        x.bitwise_xor_(_shifted(x, 16, 32)).mul_(_MIX_32[0])
        x.bitwise_xor_(_shifted(x, 15, 32)).add_(self.high.view(shape)).mul_(_signed(_MIX_32[1], 32))
        x.bitwise_xor_(_shifted(x, 16, 32)).mul_(_signed(_MIX_32[2], 32))
        return x.bitwise_xor_(_shifted(x, 15, 32))

    def bits(self, *shape: int, start: int = 0) -> Tensor:
        """Draw 32 random bits for counters start … start+prod(shape)−1: (B, *shape) int32."""
        count = torch.Size(shape).numel()
        counter = torch.arange(start, start + count, dtype=torch.int32, device=self.low.device)
        return self.at(counter.expand(1, -1)).view(-1, *shape)

    def pair(self, counter: Tensor) -> tuple[Tensor, Tensor]:
        """Draw two U[0, 1) for one counter of each sequence: (B,) int32 -> two (B,) float32."""
        return uniform(self.at(counter * 2)), uniform(self.at(counter * 2 + 1))

    def uniform(self, *shape: int, start: int = 0) -> Tensor:
        """Draw U[0, 1) in steps of 2^-24: (B, *shape) float32."""
        return uniform(self.bits(*shape, start=start))


def uniform(bits: Tensor) -> Tensor:
    """Turn 32 random bits into U[0, 1) by their upper 24: int32 -> float32."""
    return _shifted(bits, 8, 32).to(torch.float32).mul_(2.0**-24)


def choose(values: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Turn U[0, 1) into whole numbers with the given weights: (…) float32 -> (…) int64."""
    edges = torch.tensor(weights, dtype=torch.float64).cumsum(0)
    edges = (edges[:-1] / edges[-1]).to(values.dtype).to(values.device)
    return (values[..., None] >= edges).sum(-1)
