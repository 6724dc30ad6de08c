"""Transformer of the Point-MAE family: pre-norm blocks that add the position embedding again before every block."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def two_stream_mask(visible: int, total: int, like: Tensor) -> Tensor:
    """Make the additive attention mask of two streams, (total, total): 0 where allowed, −inf where not.

    The tokens stand visible first. Visible queries see visible keys; hidden queries see every key:
    `allowed[q, k] = visible[k] or hidden[q]` (Point-MaDi and PCP-MAE, there written as two attention calls).
    """
    mask = torch.zeros(total, total, dtype=like.dtype, device=like.device)
    mask[:visible, visible:] = -math.inf
    return mask


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Compute softmax(q kᵀ / √d + mask) v: (B, H, Q, D), (B, H, T, D), (B, H, T, D) -> (B, H, Q, D)."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # On a CPU one plain softmax is as fast as the fused call in fp32 and 3 times as fast in bf16 at 32–128 tokens.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores if mask is None else scores + mask).softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head self-attention without bias on q, k, v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}; choose heads that divide it")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, first_query: int = 0) -> Tensor:
        """Attend: (B, T, C) -> (B, T − first_query, C); queries before `first_query` are not computed."""
        batch, length, dim = x.shape
        if first_query:
            q = F.linear(x[:, first_query:], self.qkv.weight[:dim]).view(batch, -1, self.heads, dim // self.heads)
            k, v = F.linear(x, self.qkv.weight[dim:]).view(batch, length, 2, self.heads, -1).unbind(2)
        else:
            q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).unbind(2)
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        return self.proj(out.transpose(1, 2).reshape(batch, length - first_query, dim))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, C) -> (…, C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Drop a residual branch for whole samples (stochastic depth), each stream of tokens by a draw of its own."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, visible: int | None) -> Tensor:
        """Scale (B, T, C) by 0 or 1/(1−rate): one draw a sample, or one for each of its two streams."""
        if not (self.training and self.rate):
            return x
        streams = [x.shape[1]] if visible is None else [visible, x.shape[1] - visible]
        keep = x.new_empty(x.shape[0], len(streams), 1).bernoulli_(1 - self.rate) / (1 - self.rate)
        return x * torch.cat([keep[:, i : i + 1].expand(-1, size, 1) for i, size in enumerate(streams)], dim=1)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, visible: int | None = None, first_query: int = 0
    ) -> Tensor:
        """Map (B, T, C) -> (B, T − first_query, C)."""
        x = x[:, first_query:] + self.drop_path(self.attn(self.norm1(x), mask, first_query), visible)
        return x + self.drop_path(self.mlp(self.norm2(x)), visible)


class Hidden(NamedTuple):
    """What a transformer returns: the normed output (B, T, C) and the normed outputs of the blocks asked for."""

    latent: Tensor
    taps: tuple[Tensor, ...]


class Transformer(nn.Module):
    """A stack of blocks and a final norm; `positions` are added to the residual stream before every block."""

    def __init__(self, dim: int, depth: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}: a transformer has blocks")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is a share of samples from 0 to below 1, not {drop_path}")
        rates = [drop_path * block / max(depth - 1, 1) for block in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        visible: int | None = None,
        taps: tuple[int, ...] = (),
        first_output: int = 0,
    ) -> Hidden:
        """Encode tokens (B, T, C) at positions (B, T, C).

        Args:
            tokens: visible tokens first, where there are two streams.
            positions: position embeddings.
            visible: number of visible tokens; None lets every token see every token.
            taps: blocks (0 … depth−1) whose outputs are wanted, each through the final norm.
            first_output: tokens before this one are not needed; the last block leaves them out.

        Raises:
            ValueError: a tap that is no block.
        """
        if not set(taps) <= set(range(len(self.blocks))):
            raise ValueError(f"taps {taps} are not all blocks; there are blocks 0 to {len(self.blocks) - 1}")
        mask = None if visible is None else two_stream_mask(visible, tokens.shape[1], tokens)
        tapped = []
        for i, block in enumerate(self.blocks):
            first = first_output if i == len(self.blocks) - 1 else 0
            tokens = block(tokens + positions, mask, visible, first)
            if i in taps:
                tapped.append(self.norm(tokens))
        return Hidden(self.norm(tokens), tuple(tapped))
