"""Training over several processes: torchrun's environment in, joint batches out.

Start a run on W devices with `torchrun --nproc-per-node W -m -- pointmadi …` (without the two dashes torchrun takes
`--run` for an option of its own). Without torchrun everything here is a no-op.
"""

import atexit
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Process:
    """Where this process stands among those that share the batch.

    Attributes:
        rank: number of this process, 0 … world−1; only rank 0 writes files.
        world: number of processes.
        device: where its tensors live.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


def pick_device(name: str = "auto") -> torch.device:
    """Return the named device, or the best there is for "auto"; raise a ValueError if this machine lacks it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or mps") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        raise ValueError(f"device {name!r} is not available on this machine; use auto or cpu")
    return device


def join(device: str = "auto") -> Process:
    """Join the other processes that torchrun started (nccl on CUDA, else gloo); alone, return rank 0 of 1.

    May be called again: the second call returns the same answer.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = pick_device(device)
    if world == 1:
        return Process(0, 1, chosen)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        atexit.register(leave)
    return Process(dist.get_rank(), dist.get_world_size(), chosen)


def leave() -> None:
    """Leave the other processes; does nothing alone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Wait until every process is here; does nothing alone."""
    if dist.is_initialized():
        dist.barrier()


def average(values: Tensor) -> Tensor:
    """Average a tensor over the processes, without gradient; alone, return it."""
    if not dist.is_initialized():
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / dist.get_world_size()


class _Total(torch.autograd.Function):
    """Sum a tensor over the processes, with gradient: every summand receives the gradient of all."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class JointBatchNorm(_BatchNorm):
    """Normalise with the statistics of the joint batch of all processes: (B, C) or (B, C, …), the same out.

    Equals BatchNorm on the concatenated batch, gradients included, on any backend; torch's own SyncBatchNorm is for
    CUDA only. Statistics are in fp32 at least, whatever the input.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (B, C) or (B, C, …), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input`; the running statistics move as those of BatchNorm do."""
        self._check_input_dim(input)
        if not (self.training or self.running_mean is None) or not dist.is_initialized():
            return super().forward(input)
        values = input if input.dtype == torch.float64 else input.float()
        axes = [axis for axis in range(values.ndim) if axis != 1]
        shape = (1, -1) + (1,) * (values.ndim - 2)
        count = values.new_tensor([values.numel() / values.shape[1]])
        total = _Total.apply(torch.cat([values.sum(axes), count]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean.view(shape)
        var = _Total.apply(centred.square().sum(axes)) / count
        if self.running_mean is not None:
            self._remember(mean.detach(), var.detach() * (count / (count - 1)))
        scale = torch.rsqrt(var + self.eps) * (1 if self.weight is None else self.weight)
        normal = centred * scale.view(shape) + (0 if self.bias is None else self.bias.view(shape))
        return normal.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of this batch."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(var.to(self.running_var), momentum)


def join_batch_norms(model: nn.Module) -> None:
    """Replace every BatchNorm inside `model` by its joint twin, in place; names, weights and buffers stay."""
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = JointBatchNorm


def spread(model: nn.Module, process: Process) -> nn.Module:
    """Return `model` ready for joint batches: joint BatchNorm and averaged gradients; alone, the model itself."""
    if process.world == 1:
        return model
    join_batch_norms(model)
    return DistributedDataParallel(model)
