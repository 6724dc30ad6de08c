"""The transformer against the published two attention calls, and what it may leave out."""

import math

import pytest
import torch
import torch.nn.functional as F

from pointmadi.nn.transformer import Attention, Block, DropPath, Transformer, attend, two_stream_mask

VISIBLE, TOTAL, DIM, HEADS = 5, 12, 24, 3


def randomized(module, dtype=torch.float64):
    """Give every weight a value that matters: biases, norms and small matrices too."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(0, 0.3).add_(1.0 if weight.ndim == 1 and weight.numel() == DIM else 0.0)
    return module.to(dtype).eval()


def example(total=TOTAL, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(3, total, DIM, dtype=dtype), torch.randn(3, total, DIM, dtype=dtype)


def published_attention(attn, queries, keys):
    """Write out multi-head attention: queries (B, Q, C) look at keys (B, T, C)."""
    width, outputs = DIM // attn.heads, []
    for head in attn.qkv.weight.view(3, attn.heads, width, DIM).unbind(1):
        q, k, v = queries @ head[0].T, keys @ head[1].T, keys @ head[2].T
        outputs.append((q @ k.transpose(1, 2) / math.sqrt(width)).softmax(-1) @ v)
    return attn.proj(torch.cat(outputs, dim=-1))


def published_encoder(model, visible, hidden, visible_position, hidden_position):
    """Run the release's encoder: two streams, the visible one blind to the other, positions added at each block."""
    for block in model.blocks:
        visible, hidden = visible + visible_position, hidden + hidden_position
        v, h = block.norm1(visible), block.norm1(hidden)
        visible = visible + published_attention(block.attn, v, v)
        hidden = hidden + published_attention(block.attn, h, torch.cat([v, h], dim=1))
        visible = visible + block.mlp(block.norm2(visible))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return model.norm(visible), model.norm(hidden)


def test_one_masked_attention_equals_the_two_published_calls():
    model = randomized(Transformer(DIM, 3, HEADS))
    x, positions = example()
    found = model(x, positions, VISIBLE).latent
    visible, hidden = published_encoder(
        model, x[:, :VISIBLE], x[:, VISIBLE:], positions[:, :VISIBLE], positions[:, VISIBLE:]
    )
    torch.testing.assert_close(found[:, :VISIBLE], visible, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[:, VISIBLE:], hidden, rtol=0, atol=1e-12)
    everything = model(x, positions).latent  # one stream is another function
    assert (everything[:, :VISIBLE] - visible).abs().max() > 1e-3


def test_gradients_equal_those_of_the_two_calls():
    model = randomized(Transformer(DIM, 2, HEADS))
    x, positions = example()
    grads = []
    for two_calls in (False, True):
        start = x.clone().requires_grad_()
        if two_calls:
            streams = (start[:, :VISIBLE], start[:, VISIBLE:], positions[:, :VISIBLE], positions[:, VISIBLE:])
            out = torch.cat(published_encoder(model, *streams), dim=1)
        else:
            out = model(start, positions, VISIBLE).latent
        weights = [start, *model.parameters()]
        grads.append(torch.autograd.grad((out * positions).sum(), weights))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_visible_tokens_do_not_depend_on_hidden_ones():
    model = randomized(Transformer(DIM, 3, HEADS))
    x, positions = example()
    changed = x.clone()
    changed[:, VISIBLE:] *= -2
    before, after = model(x, positions, VISIBLE).latent, model(changed, positions, VISIBLE).latent
    torch.testing.assert_close(before[:, :VISIBLE], after[:, :VISIBLE], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, VISIBLE:], after[:, VISIBLE:])
    alone = model(x[:, :VISIBLE], positions[:, :VISIBLE]).latent
    torch.testing.assert_close(alone, before[:, :VISIBLE], rtol=0, atol=1e-12)


def test_the_mask_says_who_sees_whom():
    mask = two_stream_mask(2, 4, torch.zeros((), dtype=torch.float64))
    assert mask.dtype == torch.float64
    assert mask.tolist() == [[0, 0, -math.inf, -math.inf]] * 2 + [[0.0] * 4] * 2


@pytest.mark.parametrize("masked", [False, True])
def test_plain_attention_equals_the_fused_call(masked):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, HEADS, TOTAL, 8, dtype=torch.float64)
    mask = two_stream_mask(VISIBLE, TOTAL, q) if masked else None
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask), fused, rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_cuda_attends_as_the_cpu_does(precision):
    model = randomized(Transformer(DIM, 3, HEADS), torch.float32)
    x, positions = example(dtype=torch.float32)
    expected = model(x, positions, VISIBLE).latent
    with torch.autocast("cuda", precision, enabled=precision is not None):
        found = model.cuda()(x.cuda(), positions.cuda(), VISIBLE).latent
    tolerance = 1e-4 if precision is None else 0.1
    torch.testing.assert_close(found.cpu().float(), expected, rtol=tolerance, atol=tolerance)


def test_the_last_block_may_leave_out_visible_queries():
    model = randomized(Transformer(DIM, 3, HEADS))
    x, positions = example()
    whole, part = model(x, positions).latent, model(x, positions, first_output=VISIBLE).latent
    assert part.shape == (3, TOTAL - VISIBLE, DIM)
    torch.testing.assert_close(part, whole[:, VISIBLE:], rtol=0, atol=1e-12)


def test_attention_may_leave_out_queries():
    attn = randomized(Attention(DIM, HEADS))
    x, _ = example()
    torch.testing.assert_close(attn(x, first_query=4), published_attention(attn, x[:, 4:], x), rtol=0, atol=1e-12)


def test_taps_are_the_normed_outputs_of_blocks():
    model = randomized(Transformer(DIM, 4, HEADS))
    x, positions = example()
    found = model(x, positions, taps=(0, 2, 3))
    assert len(found.taps) == 3
    stream = x
    for i, block in enumerate(model.blocks):
        stream = block(stream + positions)
        if i in (0, 2, 3):
            torch.testing.assert_close(found.taps[(0, 2, 3).index(i)], model.norm(stream), rtol=0, atol=1e-12)
    assert torch.equal(found.taps[2], found.latent)


@pytest.mark.parametrize("taps", [(4,), (-1,), (0, 9)])
def test_a_tap_that_is_no_block_is_refused(taps):
    with pytest.raises(ValueError, match="taps"):
        Transformer(DIM, 4, HEADS)(*example(dtype=torch.float32), taps=taps)


@pytest.mark.parametrize("heads", [5, 0, -1])
def test_heads_must_divide_the_width(heads):
    with pytest.raises(ValueError, match=f"dim {DIM} is not a multiple of heads {heads}"):
        Attention(DIM, heads)


def test_a_transformer_has_blocks():
    with pytest.raises(ValueError, match="depth"):
        Transformer(DIM, 0, HEADS)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_drop_path_is_a_probability(rate):
    with pytest.raises(ValueError, match="drop_path"):
        Transformer(DIM, 2, HEADS, drop_path=rate)


def test_rates_of_drop_path_rise_linearly():
    rates = [block.drop_path.rate for block in Transformer(DIM, 5, HEADS, drop_path=0.2).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_drop_path_drops_whole_streams_of_whole_samples():
    torch.manual_seed(0)
    samples, rate = 20_000, 0.3
    drop = DropPath(rate)
    out = drop(torch.ones(samples, 5, 2), visible=2)
    streams = [out[:, :2], out[:, 2:]]
    for stream in streams:
        assert (stream == stream[:, :1, :1]).all()  # one fate for all tokens and channels of a stream
        kept = stream[:, 0, 0] > 0
        assert torch.allclose(stream[:, 0, 0][kept], torch.tensor(1 / (1 - rate)))
        assert kept.float().mean() == pytest.approx(1 - rate, abs=5 * math.sqrt(rate * (1 - rate) / samples))
        assert stream.mean() == pytest.approx(1, abs=0.03)
    both = ((streams[0][:, 0, 0] > 0) & (streams[1][:, 0, 0] > 0)).float().mean()
    assert both == pytest.approx((1 - rate) ** 2, abs=0.02)  # drawn independently
    single = drop(torch.ones(samples, 5, 2), visible=None)
    assert (single == single[:, :1, :1]).all()


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero():
    x = torch.randn(4, 5, 2)
    assert torch.equal(DropPath(0.9).eval()(x, 2), x)
    assert torch.equal(DropPath(0.0)(x, None), x)


def test_both_branches_of_a_block_are_dropped_for_themselves():
    torch.manual_seed(0)
    block = randomized(Block(DIM, HEADS, drop_path=0.5)).train()
    x = torch.randn(1, 4, DIM, dtype=torch.float64).expand(400, -1, -1)
    attention = 2 * block.attn(block.norm1(x[:1]))
    fates = []
    for y in (x[:1], x[:1] + attention):
        fates += [y, y + 2 * block.mlp(block.norm2(y))]
    out = block(x)
    distance = torch.stack([(out - fate).abs().amax((1, 2)) for fate in fates])
    assert (distance.amin(0) < 1e-10).all()  # each sample meets one of four fates
    shares = torch.bincount(distance.argmin(0), minlength=4) / len(x)
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.1)
