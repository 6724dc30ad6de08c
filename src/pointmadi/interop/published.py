"""What a published checkpoint holds, and what the published code would call ours."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn

from pointmadi.interop.names import FORMATS, State, fill, find, matrix_shape, summarize, to_theirs
from pointmadi.models.encoder import EncoderConfig, PointEncoder

HEADS = {192: 3, 384: 6, 768: 12}  # as published: shapes do not tell


@dataclass(frozen=True, eq=False, repr=False)
class Published:
    """What a published checkpoint holds. Its names are checked when it is put into a model.

    Attributes:
        kind: key of FORMATS; that of a pre-training is also the name of our objective.
        encoder: the sizes of its encoder.
        decoder_depth: blocks of its decoder; 0 if it has none.
        state: the tensors under their published names.
    """

    kind: str
    encoder: EncoderConfig
    decoder_depth: int
    state: State

    def __str__(self) -> str:
        size = self.encoder
        return (
            f"published {FORMATS[self.kind].title}: dim {size.dim}, depth {size.depth}, {size.heads} heads, "
            f"{size.num_patches} patches of {size.patch_size} points"
        )

    @property
    def tuned(self) -> bool:
        """Whether it is a classifier or a segmenter."""
        return not FORMATS[self.kind].prefix

    def build_encoder(self) -> PointEncoder:
        """Build its encoder, for use.

        Raises:
            ValueError: tensors are missing, left over or of another shape.
        """
        form = FORMATS[self.kind]
        rest = [name for name in self.state if find(form.beside, name, "theirs")]
        own = {name: value for name, value in self.state.items() if name not in rest}
        encoder = PointEncoder(self.encoder)
        fill(encoder, own, form.pairs(self.encoder.positions), str(self))
        encoder.origin = f"{self}; left out: {summarize(rest)}"
        return encoder.eval()

    def fill(self, model: nn.Module) -> None:
        """Put all of it into our objective or task of that kind, which was built for its sizes.

        Raises:
            ValueError: tensors are missing, left over or of another shape.
        """
        fill(model, self.state, FORMATS[self.kind].pairs(self.encoder.positions, "encoder."), str(self))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape (rows, columns) of the matrix of the head that has this name here.

        Raises:
            ValueError: it is missing.
        """
        return matrix_shape(self.state, self._theirs(name))[:2]

    def rows(self, layer: str) -> int:
        """Return how many channels a layer of the head gives that has this name here."""
        return self.shape(f"{layer}.weight")[0]

    def has(self, name: str) -> bool:
        """Tell whether there is a tensor of the head that has this name here."""
        return self._theirs(name) in self.state

    def _theirs(self, name: str) -> str:
        (pair,) = (pair for pair in FORMATS[self.kind].beside if name.startswith(pair.ours))
        return pair.theirs + name[len(pair.ours) :]


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
    state: State, heads: int | None = None, num_patches: int | None = None, patch_size: int | None = None
) -> Published:
    """Tell what a published state dict holds, with all sizes that shapes tell.

    The published code never chooses patch centres within 0.0316 of the origin, so its encoders get `skip_origin`.

    Args:
        state: tensors under their published names, which may begin with `module.`.
        heads: attention heads; by default those published for this dim, else one for 64 channels.
        num_patches: patches of a cloud; by default 128 of a segmenter, 64 of the others.
        patch_size: points of a patch; by default what a decoder tells, else 32.

    Raises:
        ValueError: it is of no known kind, or lacks what its sizes are read from.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    kind = detect(state)
    patches = num_patches or (128 if "segmenter" in kind else EncoderConfig.num_patches)
    encoder = _infer(state, FORMATS[kind].prefix, heads, patches, patch_size)
    return Published(kind, encoder, _count_blocks(state, "MAE_decoder.blocks."), state)


def to_published(weights: State, kind: str | None = None) -> dict[str, Tensor]:
    """Give the state dict of an objective, a task or an encoder of ours its published names and shapes.

    An encoder gets the names it has in a pre-training checkpoint, which is where published fine-tuning looks for it.

    Args:
        weights: the state dict.
        kind: key of FORMATS; by default what the names tell. Those of a part segmenter with Point-MaDi's positions may
            also be called as by Point-MAE, "part-segmenter-mae".

    Raises:
        ValueError: a tensor has no counterpart in the published code.
    """
    positions = "sincos" if any("positions.network." in name for name in weights) else "mlp"
    marks = {
        "embed_noisy.bias": "point-madi",
        "decoder_positions.0.bias": "point-mae",
        "hidden_position": "pcp-mae",
        "cls_token": "classifier",
        "category.0.weight": "part-segmenter" if positions == "mlp" else "part-segmenter-mae",
        "propagation.first.weight": "scene-segmenter",
    }
    kind = kind or next((kind for mark, kind in marks.items() if mark in weights), "encoder")
    return to_theirs(weights, FORMATS[kind].pairs(positions, "" if kind == "encoder" else "encoder."))


def _infer(state: State, prefix: str, heads: int | None, num_patches: int, patch_size: int | None) -> EncoderConfig:
    """Read the sizes of an encoder from shapes."""
    layers = ("first_conv.0", "first_conv.3", "second_conv.0", "second_conv.3")
    shapes = [matrix_shape(state, f"{prefix}encoder.{layer}.weight") for layer in layers]
    *widths, dim = (shape[0] for shape in shapes)
    if heads is None and dim not in HEADS and dim % 64:
        raise ValueError(f"nothing tells how many heads an encoder of dim {dim} has; give heads")
    exit_layer = "increase_dim.0.weight"
    told = matrix_shape(state, exit_layer)[0] // 3 if exit_layer in state else EncoderConfig.patch_size
    return EncoderConfig(
        dim=dim,
        depth=_count_blocks(state, f"{prefix}blocks.blocks."),
        heads=heads or HEADS.get(dim, dim // 64),
        num_patches=num_patches,
        patch_size=patch_size or told,
        widths=(widths[0], widths[1], widths[2]),
        features=shapes[0][1] - 3,
        positions="mlp" if matrix_shape(state, f"{prefix}pos_embed.0.weight")[1] == 3 else "sincos",
        skip_origin=True,
    )


def _count_blocks(state: State, prefix: str) -> int:
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})
