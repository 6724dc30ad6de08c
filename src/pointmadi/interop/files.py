"""Files of weights, ours and published, and `load`."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointmadi.interop.names import State, matrix_shape, require, summarize
from pointmadi.interop.published import from_published
from pointmadi.models.encoder import EncoderConfig, PointEncoder


def load(
    path: str | Path, heads: int | None = None, num_patches: int | None = None, patch_size: int | None = None
) -> PointEncoder:
    """Give a ready encoder, in eval mode on the CPU; its `origin` says what it was, and what was left out.

    Args:
        path: a run folder, its encoder.safetensors, one of its checkpoint folders, or a published checkpoint.
        heads: of a published checkpoint: attention heads, where its dim does not tell (192: 3, 384: 6, 768: 12).
        num_patches: of a published checkpoint: patches of a cloud; by default 128 of a segmenter, 64 of the others.
        patch_size: of a published checkpoint: points of a patch, where it does not tell; 32 by default.

    Raises:
        FileNotFoundError: there is nothing of that name, or nothing to load in that folder.
        ValueError: the file cannot be read, is of no known kind, or has missing, left-over or mis-shaped tensors.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; give a run folder, encoder.safetensors or a published checkpoint")
    if path.is_dir():
        return _load_folder(path)
    weights, about = read(path)
    if about is None:
        return from_published(weights, heads, num_patches, patch_size).build_encoder()
    if "task" not in about:
        return _build(about.get("encoder"), weights, f"encoder file {path}, pre-trained by {about.get('objective')}")
    own, rest = _split(weights)
    return _build(about.get("encoder"), own, f"{about['task']} {path}; left out: {summarize(rest)}")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read the tensors of a file of weights, and what its header says if it is an encoder or a task of ours.

    Raises:
        ValueError: it is no such file.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = (file.metadata() or {}).get("pointmadi")
                return {name: file.get_tensor(name) for name in file.keys()}, about and json.loads(about)  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file ({error})") from None
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the readers meet in a file that is something else
        reason = re.sub("^Weights only .*", "it holds more than tensors, or none", f"{error}\n".splitlines()[0])
        raise ValueError(f"{path} cannot be read as a checkpoint: {reason}") from None
    state = content if isinstance(content, dict) else {}
    state = next((state[part] for part in ("base_model", "model_state_dict") if part in state), state)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict, neither by itself nor as base_model or model_state_dict")
    return dict(state), None


def _numpy_scalars() -> list[Any]:
    """List what torch.load has to allow, because some published checkpoints hold accuracies as numpy numbers."""
    make = np.float64(0).__reduce__()[0]
    kinds = (type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64))
    return [*((make, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")), np.dtype, *kinds]


def _load_folder(folder: Path) -> PointEncoder:
    """Load the encoder of a run, or of one of its checkpoints."""
    if (folder / "encoder.safetensors").is_file():
        return load(folder / "encoder.safetensors")
    whole = [folder] if (folder / "model.safetensors").is_file() else sorted((folder / "checkpoints").glob("step-*"))
    if not whole:
        raise FileNotFoundError(f"{folder} is not the folder of a run: it holds no encoder.safetensors or checkpoints")
    checkpoint = whole[-1]
    recipe = checkpoint.absolute().parents[1] / "config.yaml"
    if not recipe.is_file():
        raise FileNotFoundError(f"nothing says what the encoder in {checkpoint} is: there is no {recipe}")
    import yaml

    weights, _ = read(checkpoint / "model.safetensors")
    own, rest = _split(weights)
    return _build(
        (yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}).get("encoder"),
        own,
        f"checkpoint {checkpoint} of a run; left out: {summarize(rest)}",
        # These two are not as configured, but as the objective and the data demanded.
        positions="sincos" if "positions.network.0.weight" in own else "mlp",
        features=matrix_shape(own, "tokenizer.lift.weight")[1] - 3,
    )


def _split(weights: State) -> tuple[dict[str, Tensor], list[str]]:
    """Take the encoder out of an objective or a task, and name the rest."""
    own = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    return own, [name for name in weights if not name.startswith("encoder.")]


def _build(values: Any, weights: State, origin: str, **known: Any) -> PointEncoder:
    """Build an encoder of ours from its config, as a file has it, and its weights."""
    try:
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        encoder = PointEncoder(EncoderConfig(**{name: values[name] for name in values if name != "name"} | known))
    except (AttributeError, TypeError) as error:
        raise ValueError(f"what the encoder is cannot be read from the {origin}: {error}") from None
    require(weights, encoder.state_dict(), origin)
    encoder.load_state_dict(weights)
    encoder.origin = origin
    return encoder.eval()
