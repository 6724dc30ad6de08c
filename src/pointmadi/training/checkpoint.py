"""Checkpoints that survive a kill at any moment, and the encoder file that is shared.

A checkpoint is a folder `checkpoints/step-00001636` with `model.safetensors` (weights) and `state.pt` (optimiser,
counters; read with weights_only). It is written under another name, flushed to the disk and renamed when complete, so
whatever bears its final name is whole.
"""

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_UNFINISHED = ".unfinished-"


class NonFinite(ValueError):
    """A loss or a weight is no longer a number; training cannot go on."""


def stop(run_dir: str | Path, fault: str) -> NonFinite:
    """Return the error that ends a run: what happened, where the last good checkpoint is, what to do."""
    last = newest(run_dir)
    where = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return NonFinite(f"{fault}; {where}; lower lr, set clip_grad, or use precision fp32 or bf16")


def claim(run_dir: str | Path, resume: bool = False) -> None:
    """Refuse to start over a run that exists, or to resume one that does not.

    Call it before anything is written into the folder; it changes nothing.
    """
    run_dir = Path(run_dir)
    used = (run_dir / "metrics.jsonl").exists() or newest(run_dir) is not None
    if used and not resume:
        raise ValueError(f"{run_dir} already holds a run; continue it with --resume, or name another one with --run")
    if resume and not run_dir.is_dir():
        raise FileNotFoundError(f"there is no run in {run_dir} to resume; check the name, or start it without --resume")


def save(
    run_dir: str | Path, step: int, model: nn.Module, state: Mapping[str, Any], identity: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of `step` (optimiser steps done) atomically and return its folder.

    Args:
        run_dir: folder of the run.
        step: optimiser steps done.
        model: what is trained.
        state: what else is needed to go on: numbers, tensors, dicts and lists of them.
        identity: what has to be the same in a run that goes on from here.

    Raises:
        NonFinite: some weight is infinite or NaN; nothing is written.
    """
    from safetensors.torch import save as to_bytes

    weights = model.state_dict()
    if not torch.stack([weight.isfinite().all() for weight in weights.values()]).all():
        raise stop(run_dir, f"the weights became infinite or NaN by step {step}")
    home = Path(run_dir) / "checkpoints"
    final, draft = home / _name(step), home / (_UNFINISHED + _name(step))
    home.mkdir(parents=True, exist_ok=True)
    sweep(run_dir)
    draft.mkdir()
    _write(draft / "model.safetensors", to_bytes(_portable(weights)))
    buffer = io.BytesIO()
    torch.save({"state": dict(state), "identity": dict(identity)}, buffer)
    _write(draft / "state.pt", buffer.getbuffer())
    _flush_folder(draft)
    os.replace(draft, final)
    _flush_folder(home)
    return final


def load(checkpoint: Path, model: nn.Module, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint folder: put its weights into `model` and return its state.

    Raises:
        ValueError: it is of another model, or of a run with another identity.
    """
    from safetensors.torch import load_file

    saved = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
    for name, ours in identity.items():
        theirs = saved["identity"].get(name)
        if theirs != ours:
            raise ValueError(f"{checkpoint} was made with {name} {theirs}, not {ours}; resume with the same settings")
    try:
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise ValueError(f"{checkpoint} holds another model: {first[0].strip()}") from None
    state: dict[str, Any] = saved["state"]
    return state


def complete(run_dir: str | Path) -> list[Path]:
    """Return the folders of all complete checkpoints of a run, oldest first."""
    return sorted((Path(run_dir) / "checkpoints").glob("step-*"))


def newest(run_dir: str | Path) -> Path | None:
    """Return the folder of the latest complete checkpoint of a run, or None."""
    return next(reversed(complete(run_dir)), None)


def prune(run_dir: str | Path, keep: int, milestones: set[int]) -> None:
    """Remove all checkpoints but the last `keep` and those whose step is in `milestones`, and interrupted work."""
    sweep(run_dir)
    kept = {_name(step) for step in milestones}
    for old in complete(run_dir)[:-keep]:
        if old.name not in kept:
            _remove(old)


def sweep(run_dir: str | Path) -> None:
    """Remove what interrupted saves and removals have left behind."""
    for rest in (Path(run_dir) / "checkpoints").glob(_UNFINISHED + "*"):
        shutil.rmtree(rest)


def write_encoder(encoder: nn.Module, path: str | Path, metadata: Mapping[str, Any]) -> Path:
    """Write the weights of an encoder as one safetensors file, atomically.

    Args:
        encoder: what was trained.
        path: the file; folders are made.
        metadata: what is needed to rebuild it; goes into the header as JSON under the key "pointmadi".
    """
    from safetensors.torch import save as to_bytes

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(_UNFINISHED + path.name)
    _write(draft, to_bytes(_portable(encoder.state_dict()), {"pointmadi": json.dumps(metadata)}))
    os.replace(draft, path)
    _flush_folder(path.parent)
    return path


def read_encoder(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_encoder` wrote: the weights on the CPU, and the metadata."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no encoder file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("pointmadi")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from None
    if metadata is None:
        raise ValueError(f"{path} does not say how its encoder is built; it was not written by pointmadi")
    return weights, json.loads(metadata)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _portable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, one memory each, as safetensors demands."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in weights.items()}


def _write(path: Path, content: bytes | memoryview) -> None:
    """Write a file and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that it is never found half removed."""
    grave = checkpoint.with_name(_UNFINISHED + "removed-" + checkpoint.name)
    os.replace(checkpoint, grave)
    shutil.rmtree(grave)
