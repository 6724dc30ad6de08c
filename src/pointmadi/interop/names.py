"""The published names and shapes, and ours: tables that pair them, and translation from one to the other."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

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
        entry: where the published code looks for it in a file, and under which prefix of names.
    """

    title: str
    mark: str
    prefix: str = "MAE_encoder."
    beside: tuple[Pair, ...] = ()
    entry: tuple[str, str] = ("base_model", "module.")

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
CLASSIFIER = (
    Pair("cls_token", "cls_token", "vector"),
    Pair("cls_pos", "cls_position", "vector"),
    Pair("cls_head_finetune.", "head."),
)
SEGMENTER = ("model_state_dict", "")


def _segmenter(suffix: str) -> tuple[Pair, ...]:
    """Pair the names of a segmentation head, that end in `_cls` there, or not."""
    layers = {
        "label_conv{}.0.": "category.0.",
        "label_conv{}.1.": "category.1.",
        "propagation_0{}.mlp_convs.0.": "propagation.first.",
        "propagation_0{}.mlp_convs.1.": "propagation.second.",
        "propagation_0{}.mlp_bns.0.": "propagation.norm1.",
        "propagation_0{}.mlp_bns.1.": "propagation.norm2.",
        "convs1{}.": "mix.",
        "bns1{}.": "norm1.",
        "convs2{}.": "narrow.",
        "bns2{}.": "norm2.",
        "convs3{}.": "out.",
    }
    return tuple(Pair(theirs.format(suffix), ours, "convolution") for theirs, ours in layers.items())


FORMATS = {
    "point-madi": Format("Point-MaDi pre-training", "pred_pos_vis.0.weight", beside=MADI),
    "point-mae": Format("Point-MAE pre-training", "decoder_pos_embed.0.weight", beside=MAE),
    "pcp-mae": Format("PCP-MAE pre-training", "MAE_encoder.mask_pos_token", beside=PCP),
    "encoder": Format("pre-trained encoder", "MAE_encoder.norm.weight"),
    "classifier": Format("classifier", "cls_token", "", beside=CLASSIFIER),
    "part-segmenter": Format("part segmenter", "label_conv_cls.0.weight", "", _segmenter("_cls"), SEGMENTER),
    "part-segmenter-mae": Format("part segmenter", "label_conv.0.weight", "", _segmenter(""), SEGMENTER),
    "scene-segmenter": Format("scene segmenter", "convs3_cls.weight", "", _segmenter("_cls"), SEGMENTER),
    "scene-segmenter-mae": Format("scene segmenter", "convs3.weight", "", _segmenter(""), SEGMENTER),
}


def summarize(names: Iterable[str]) -> str:
    """Shorten names that share their first word: `cls_pos, cls_head_finetune.* (16)`."""
    groups = [(word, list(own)) for word, own in groupby(sorted(names), lambda name: name.partition(".")[0])]
    return ", ".join(own[0] if len(own) == 1 else f"{word}.* ({len(own)})" for word, own in groups) or "nothing"


def matrix_shape(state: State, name: str) -> tuple[int, ...]:
    """Return the shape of a matrix that must be there."""
    if name not in state or state[name].dim() < 2:
        raise ValueError(f"the checkpoint is not complete: it has no matrix {name}")
    return tuple(state[name].shape)


def find(pairs: Sequence[Pair], name: str, side: Side) -> Pair | None:
    """Find the pair that a name belongs to."""
    return next((pair for pair in pairs if name.startswith(getattr(pair, side))), None)


def translate(state: State, pairs: Sequence[Pair], side: Side) -> dict[str, Tensor]:
    """Turn names and shapes of one side into those of the other."""
    other: Side = "ours" if side == "theirs" else "theirs"
    result = {}
    for name, value in state.items():
        pair = find(pairs, name, side)
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


def to_ours(state: State, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Give tensors our names and shapes."""
    weights = translate(state, pairs, "theirs")
    for name in [name for name in weights if ".q_linear." in name]:
        parts = [weights.pop(name.replace(".q_", f".{letter}_")) for letter in "qkv"]
        weights[name.replace(".q_linear.", ".qkv.")] = torch.cat(parts)
    return weights


def to_theirs(weights: State, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Give tensors the published names and shapes."""
    state = translate(weights, pairs, "ours")
    joint = r"MAE_decoder\..*\.qkv\." if FORMATS["point-madi"].mark in state else "$"
    for name in [name for name in state if re.match(joint, name)]:
        parts = zip("qkv", state.pop(name).chunk(3))
        state |= {name.replace(".qkv.", f".{letter}_linear."): part for letter, part in parts}
    return state


def fill(module: nn.Module, state: State, pairs: Sequence[Pair], what: str) -> None:
    """Put published tensors into a module of ours, if they are exactly those it has."""
    require(state, to_theirs(module.state_dict(), pairs), what)
    module.load_state_dict(to_ours(state, pairs))


def require(found: State, expected: State, what: str) -> None:
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
