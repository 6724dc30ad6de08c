"""Checkpoints of the published code of Point-MaDi, Point-MAE and PCP-MAE in our terms and back, and `load`.

The tables pair the beginning of each published name with ours. Convolutions of width 1 there are linear layers here,
parameters of shape (1, 1, C) there are vectors here, and q, k and v, which Point-MaDi's decoder keeps apart there, are
one matrix here. No tensor is passed over in silence: it is taken, or named as left out, or it is an error.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pointmadi.models.encoder import EncoderConfig, PointEncoder

State = Mapping[str, Tensor]
Side = Literal["theirs", "ours"]


class Pair(NamedTuple):
    """The beginning of a published name, ours, and how the tensors differ."""

    theirs: str
    ours: str
    layout: Literal["same", "convolution", "vector", "logarithm"] = "same"


ENCODER = (
    Pair("encoder.first_conv.0.", "tokenizer.lift.", "convolution"),
    Pair("encoder.first_conv.1.", "tokenizer.norm1."),
    Pair("encoder.first_conv.3.", "tokenizer.local.", "convolution"),
    Pair("encoder.second_conv.0.", "tokenizer.mix.", "convolution"),
    Pair("encoder.second_conv.1.", "tokenizer.norm2."),
    Pair("encoder.second_conv.3.", "tokenizer.out.", "convolution"),
    Pair("blocks.blocks.", "transformer.blocks."),
    Pair("norm.", "transformer.norm."),
)
POSITIONS = {"mlp": Pair("pos_embed.", "positions."), "sincos": Pair("pos_embed.", "positions.network.")}
DECODER = (
    Pair("MAE_decoder.blocks.", "decoder.transformer.blocks."),
    Pair("MAE_decoder.norm.", "decoder.transformer.norm."),
    Pair("increase_dim.0.", "decoder.rebuild.", "convolution"),
)


@dataclass(frozen=True)
class Format:
    """One kind of published checkpoint.

    Attributes:
        title: what to call it.
        mark: a name that only this kind has.
        prefix: what stands before the names of the encoder.
        beside: the names beside those of the encoder.
        dropped: beginnings of names that have no counterpart here.
    """

    title: str
    mark: str
    prefix: str = "MAE_encoder."
    beside: tuple[Pair, ...] = ()
    dropped: tuple[str, ...] = ()

    def pairs(self, positions: str, ours: str = "") -> list[Pair]:
        """Pair all names; those of the encoder begin with `ours` here."""
        encoder = (*ENCODER, POSITIONS[positions])
        return [*(Pair(self.prefix + pair.theirs, ours + pair.ours, pair.layout) for pair in encoder), *self.beside]


MADI = (
    *DECODER,
    Pair("mask_token.", "embed_noisy.", "convolution"),
    Pair("pred_pos_vis.", "visible_center."),
    Pair("pred_pos_msk.", "hidden_center."),
    Pair("time_emb.freq", "embed_step.rates", "logarithm"),  # before the line below, which would fit too
    Pair("time_emb.mlp.", "embed_step."),
)
MAE = (*DECODER, Pair("mask_token", "hidden_token", "vector"), Pair("decoder_pos_embed.", "decoder_positions."))
PCP = (
    *DECODER,
    Pair("mask_token", "hidden_token", "vector"),
    Pair("MAE_encoder.mask_pos_token", "hidden_position", "vector"),
    Pair("pred_pos_proj.", "predict."),
)
FORMATS = {
    "point-madi": Format("Point-MaDi pre-training", "pred_pos_vis.0.weight", beside=MADI),
    "point-mae": Format("Point-MAE pre-training", "decoder_pos_embed.0.weight", beside=MAE),
    "pcp-mae": Format("PCP-MAE pre-training", "MAE_encoder.mask_pos_token", beside=PCP),
    "encoder": Format("pre-trained encoder", "MAE_encoder.norm.weight"),
    "classifier": Format("classifier", "cls_token", "", dropped=("cls_token", "cls_pos", "cls_head_finetune.")),
    "segmenter": Format(
        "segmentation", "convs3_cls.weight", "", dropped=("label_conv_cls.", "propagation_0_cls.", "convs", "bns")
    ),
}
HEADS = {192: 3, 384: 6, 768: 12}  # as published: shapes do not tell


@dataclass(frozen=True, eq=False, repr=False)
class Published:
    """What a published checkpoint holds. Its names are checked when it is put into a model.

    Attributes:
        kind: key of FORMATS; that of a pre-training is also the name of our objective.
        encoder: the sizes of its encoder.
        decoder_depth: blocks of its decoder; 0 if it has none.
        state: the tensors under their published names.
        left_out: names of further tensors, which have no counterpart here.
    """

    kind: str
    encoder: EncoderConfig
    decoder_depth: int
    state: State
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        size = self.encoder
        return (
            f"published {FORMATS[self.kind].title}: dim {size.dim}, depth {size.depth}, {size.heads} heads, "
            f"{size.num_patches} patches of {size.patch_size} points"
        )

    def build_encoder(self) -> PointEncoder:
        """Build its encoder, for use.

        Raises:
            ValueError: tensors are missing, left over or of another shape.
        """
        form = FORMATS[self.kind]
        rest = [name for name in self.state if _find(form.beside, name, "theirs")]
        own = {name: value for name, value in self.state.items() if name not in rest}
        encoder = PointEncoder(self.encoder)
        _fill(encoder, own, form.pairs(self.encoder.positions), str(self))
        encoder.origin = f"{self}; left out: {summarize([*rest, *self.left_out])}"
        return encoder.eval()

    def fill(self, objective: nn.Module) -> None:
        """Put all of a pre-training into our objective of that kind, which was built for its sizes.

        Raises:
            ValueError: tensors are missing, left over or of another shape.
        """
        _fill(objective, self.state, FORMATS[self.kind].pairs(self.encoder.positions, "encoder."), str(self))


def detect(names: Collection[str]) -> str:
    """Tell which kind of published checkpoint has these names: a key of FORMATS.

    Raises:
        ValueError: none of them.
    """
    for kind, form in FORMATS.items():
        if form.mark in names:
            return kind
    marks = ", ".join(form.mark for form in FORMATS.values())
    raise ValueError(f"no checkpoint of Point-MaDi, Point-MAE or PCP-MAE: none of {marks} among {summarize(names)}")


def from_published(
    state: State, heads: int | None = None, num_patches: int = 64, patch_size: int | None = None
) -> Published:
    """Tell what a published state dict holds, with all sizes that shapes tell.

    The published code never chooses patch centres within 0.0316 of the origin, so its encoders get `skip_origin`.

    Args:
        state: tensors under their published names, which may begin with `module.`.
        heads: attention heads; by default those published for this dim, else one for 64 channels.
        num_patches: patches of a cloud.
        patch_size: points of a patch; by default what a decoder tells, else 32.

    Raises:
        ValueError: it is of no known kind, or lacks what its sizes are read from.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    kind = detect(state)
    left_out = tuple(name for name in state if name.startswith(FORMATS[kind].dropped))
    taken = {name: value for name, value in state.items() if name not in left_out}
    encoder = _infer(state, FORMATS[kind].prefix, heads, num_patches, patch_size)
    return Published(kind, encoder, _count_blocks(state, "MAE_decoder.blocks."), taken, left_out)


def to_published(weights: State) -> dict[str, Tensor]:
    """Give the state dict of one of our objectives, or of an encoder, its published names and shapes.

    An encoder gets the names it has in a pre-training checkpoint, which is where published fine-tuning looks for it.

    Raises:
        ValueError: a tensor has no counterpart in the published code.
    """
    marks = {"embed_noisy.bias": "point-madi", "decoder_positions.0.bias": "point-mae", "hidden_position": "pcp-mae"}
    kind = next((kind for mark, kind in marks.items() if mark in weights), "encoder")
    positions = "sincos" if any("positions.network." in name for name in weights) else "mlp"
    return _to_theirs(weights, FORMATS[kind].pairs(positions, "" if kind == "encoder" else "encoder."))


def summarize(names: Iterable[str]) -> str:
    """Shorten names that share their first word: `cls_pos, cls_head_finetune.* (16)`."""
    groups = [(word, list(own)) for word, own in groupby(sorted(names), lambda name: name.partition(".")[0])]
    return ", ".join(own[0] if len(own) == 1 else f"{word}.* ({len(own)})" for word, own in groups) or "nothing"


def load(
    path: str | Path, heads: int | None = None, num_patches: int = 64, patch_size: int | None = None
) -> PointEncoder:
    """Give a ready encoder, in eval mode on the CPU; its `origin` says what it was, and what was left out.

    Args:
        path: a run folder, its encoder.safetensors, one of its checkpoint folders, or a published checkpoint.
        heads: of a published checkpoint: attention heads, where its dim does not tell (192: 3, 384: 6, 768: 12).
        num_patches: of a published checkpoint: patches of a cloud.
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
    return _build(about.get("encoder"), weights, f"encoder file {path}, pre-trained by {about.get('objective')}")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read the tensors of a file of weights, and what its header says if it is an encoder file of ours.

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
    own = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    rest = [name for name in weights if not name.startswith("encoder.")]
    return _build(
        (yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}).get("encoder"),
        own,
        f"checkpoint {checkpoint} of a run; left out: {summarize(rest)}",
        # These two are not as configured, but as the objective and the data demanded.
        positions="sincos" if "positions.network.0.weight" in own else "mlp",
        features=_shape(own, "tokenizer.lift.weight")[1] - 3,
    )


def _build(values: Any, weights: State, origin: str, **known: Any) -> PointEncoder:
    """Build an encoder of ours from its config, as a file has it, and its weights."""
    try:
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        encoder = PointEncoder(EncoderConfig(**{name: values[name] for name in values if name != "name"} | known))
    except (AttributeError, TypeError) as error:
        raise ValueError(f"what the encoder is cannot be read from the {origin}: {error}") from None
    _require(weights, encoder.state_dict(), origin)
    encoder.load_state_dict(weights)
    encoder.origin = origin
    return encoder.eval()


def _infer(state: State, prefix: str, heads: int | None, num_patches: int, patch_size: int | None) -> EncoderConfig:
    """Read the sizes of an encoder from shapes."""
    layers = ("first_conv.0", "first_conv.3", "second_conv.0", "second_conv.3")
    shapes = [_shape(state, f"{prefix}encoder.{layer}.weight") for layer in layers]
    *widths, dim = (shape[0] for shape in shapes)
    if heads is None and dim not in HEADS and dim % 64:
        raise ValueError(f"nothing tells how many heads an encoder of dim {dim} has; give heads")
    exit_layer = "increase_dim.0.weight"
    told = _shape(state, exit_layer)[0] // 3 if exit_layer in state else EncoderConfig.patch_size
    return EncoderConfig(
        dim=dim,
        depth=_count_blocks(state, f"{prefix}blocks.blocks."),
        heads=heads or HEADS.get(dim, dim // 64),
        num_patches=num_patches,
        patch_size=patch_size or told,
        widths=(widths[0], widths[1], widths[2]),
        features=shapes[0][1] - 3,
        positions="mlp" if _shape(state, f"{prefix}pos_embed.0.weight")[1] == 3 else "sincos",
        skip_origin=True,
    )


def _shape(state: State, name: str) -> tuple[int, ...]:
    if name not in state or state[name].dim() < 2:
        raise ValueError(f"the checkpoint is not complete: it has no matrix {name}")
    return tuple(state[name].shape)


def _count_blocks(state: State, prefix: str) -> int:
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def _find(pairs: Sequence[Pair], name: str, side: Side) -> Pair | None:
    """Find the pair that a name belongs to."""
    return next((pair for pair in pairs if name.startswith(getattr(pair, side))), None)


def _translate(state: State, pairs: Sequence[Pair], side: Side) -> dict[str, Tensor]:
    """Turn names and shapes of one side into those of the other."""
    other: Side = "ours" if side == "theirs" else "theirs"
    result = {}
    for name, value in state.items():
        pair = _find(pairs, name, side)
        if pair is None:
            raise ValueError(f"the published code has no counterpart of {name}, so it cannot hold this model")
        match pair.layout, other:
            case "convolution", "ours":
                value = value.squeeze(-1)
            case "convolution", "theirs" if value.dim() == 2:
                value = value[..., None]
            case "vector", _:
                value = value.flatten() if other == "ours" else value[None, None]
            case "logarithm", _:
                value = value.exp() if other == "ours" else value.log()
        result[getattr(pair, other) + name[len(getattr(pair, side)) :]] = value
    return result


def _to_ours(state: State, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    weights = _translate(state, pairs, "theirs")
    for name in [name for name in weights if ".q_linear." in name]:
        parts = [weights.pop(name.replace(".q_", f".{letter}_")) for letter in "qkv"]
        weights[name.replace(".q_linear.", ".qkv.")] = torch.cat(parts)
    return weights


def _to_theirs(weights: State, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    state = _translate(weights, pairs, "ours")
    joint = r"MAE_decoder\..*\.qkv\." if FORMATS["point-madi"].mark in state else "$"
    for name in [name for name in state if re.match(joint, name)]:
        parts = zip("qkv", state.pop(name).chunk(3))
        state |= {name.replace(".qkv.", f".{letter}_linear."): part for letter, part in parts}
    return state


def _fill(module: nn.Module, state: State, pairs: Sequence[Pair], what: str) -> None:
    """Put published tensors into a module of ours, if they are exactly those it has."""
    _require(state, _to_theirs(module.state_dict(), pairs), what)
    module.load_state_dict(_to_ours(state, pairs))


def _require(found: State, expected: State, what: str) -> None:
    """Compare names and shapes, and say all that differs."""
    shapes = {name: (tuple(found[name].shape), tuple(expected[name].shape)) for name in expected if name in found}
    faults = {
        "missing": [name for name in expected if name not in found],
        "left over": [name for name in found if name not in expected],
        "of another shape": [f"{name} {own}, not {other}" for name, (own, other) in shapes.items() if own != other],
    }
    if any(faults.values()):
        said = (f"{fault} ({len(names)}): {', '.join(names)}" for fault, names in faults.items() if names)
        raise ValueError(f"the tensors do not fit ({what}); {'; '.join(said)}")
