"""The parts of networks agree with their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfumato.networks.group_norm import GroupNorm
from sfumato.networks.layers import CrossAttention, SelfAttention, TimeEmbedding, attend, sinusoids

SHAPES = [(2, 12, 7), (2, 12, 5, 6), (2, 12, 3, 4, 5)]


def test_time_embedding_is_the_published_formula():
    # DDPM's code: sin and cos of t * exp(-log(10000) k / (half - 1)), here in double precision, one entry at a time.
    time, half = [0.0, 1.0, 17.5, 999.0], 8
    rates = [math.exp(-math.log(10000) * k / (half - 1)) for k in range(half)]
    expected = [[math.sin(t * r) for r in rates] + [math.cos(t * r) for r in rates] for t in time]

    # 999 rad in float32 is known to 3e-5.
    torch.testing.assert_close(sinusoids(torch.tensor(time), 2 * half), torch.tensor(expected), atol=1e-4, rtol=0)


def test_the_vector_is_projected_and_added_to_the_time_embedding():
    embed = TimeEmbedding(16, 24, vector_dim=5)
    time, vector = torch.rand(3) * 1000, torch.randn(3, 5)

    assert embed.vector is not None
    expected = embed(time) + F.linear(vector, embed.vector.weight, embed.vector.bias)

    torch.testing.assert_close(embed(time, vector), expected)


def test_a_vector_that_no_one_expects_is_refused():
    with pytest.raises(ValueError, match="vector_dim = 0"):
        TimeEmbedding(16, 24)(torch.rand(1), torch.randn(1, 5))


@pytest.mark.parametrize("channels", [2, 7])
def test_sinusoids_that_do_not_pair_are_refused(channels):
    with pytest.raises(ValueError, match=f"channels = {channels}"):
        TimeEmbedding(channels, 24)


@pytest.mark.parametrize("length", [7, 1500])  # a short context has its own way of computing
def test_attention_is_the_softmax_formula(length):
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, length, 12), torch.randn(2, length, 12)
    heads, size = 3, 4

    expected = torch.empty_like(q)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        weights = (q[..., part] @ k[..., part].mT / math.sqrt(size)).softmax(-1)
        expected[..., part] = weights @ v[..., part]

    torch.testing.assert_close(attend(q, k, v, heads), expected, atol=1e-6, rtol=1e-5)


def test_masked_attention_is_attention_over_the_tokens_that_remain():
    q, k, v = torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    mask = torch.tensor([True, False, True, True, False, False, True])

    expected = attend(q, k[:, mask], v[:, mask], heads=2)

    torch.testing.assert_close(attend(q, k, v, 2, mask.expand(2, -1)), expected, atol=1e-6, rtol=1e-5)


def test_self_attention_is_equivariant_under_permutation():
    attention, tokens, order = SelfAttention(8, heads=2), torch.randn(2, 9, 8), torch.randperm(9)

    torch.testing.assert_close(attention(tokens[:, order]), attention(tokens)[:, order], atol=1e-6, rtol=1e-5)


def test_a_context_without_any_token_reads_as_zero_and_keeps_gradients_finite(wake):
    attention = wake(CrossAttention(8, context_dim=6, heads=2))
    tokens = torch.randn(2, 9, 8, requires_grad=True)
    mask = torch.tensor([[True] * 4, [False] * 4])

    out = attention(tokens, torch.randn(2, 4, 6), mask)
    gradients = torch.autograd.grad(out.square().sum(), [tokens, *attention.parameters()])

    assert out[0].all()
    assert not out[1].any()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="heads = 3: must divide the width 8"):
        SelfAttention(8, heads=3)


def norm_pair(silu: bool) -> tuple[GroupNorm, nn.Sequential]:
    """Ours and PyTorch's in double precision, with the same random parameters."""
    ours, theirs = GroupNorm(4, 12, silu=silu), nn.GroupNorm(4, 12, eps=1e-6).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())

    return ours, nn.Sequential(theirs, nn.SiLU() if silu else nn.Identity())


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_group_norm_and_its_gradient_are_those_of_pytorch(shape, silu):
    ours, theirs = norm_pair(silu)
    x = torch.randn(shape).mul(3).add(1).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    weights = torch.randn(shape)

    y, y64 = ours(x), theirs(x64)
    mine = torch.autograd.grad((y * weights).sum(), [x, *ours.parameters()])
    true = torch.autograd.grad((y64 * weights).sum(), [x64, *theirs.parameters()])

    for ours_one, true_one in zip((y, *mine), (y64, *true), strict=True):
        torch.testing.assert_close(ours_one.double(), true_one, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("silu", [False, True])
def test_the_gradient_of_group_norm_agrees_with_differences(silu):
    norm = norm_pair(silu)[0].double()
    x = torch.randn(2, 12, 3, 2, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x, *_: norm(x), (x, norm.weight, norm.bias))


@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_of_bfloat16_is_that_of_float32_rounded_once(silu):
    ours, theirs = norm_pair(silu)
    x = torch.randn(2, 12, 5, 6).bfloat16().requires_grad_()
    x64 = x.detach().double().requires_grad_()

    y, y64 = ours(x), theirs(x64)
    (mine,) = torch.autograd.grad((y.double() * x64.detach()).sum(), x)
    (true,) = torch.autograd.grad((y64 * x64.detach()).sum(), x64)

    assert y.dtype == mine.dtype == torch.bfloat16
    # Half a unit in the last of bfloat16's eight places is 2^-9; float32's error may tip it over to the next.
    torch.testing.assert_close(y.double(), y64, atol=1e-5, rtol=2**-8)
    torch.testing.assert_close(mine.double(), true, atol=5e-3, rtol=2**-7)


@pytest.mark.parametrize("silu", [False, True])
def test_adaptive_group_norm_and_its_gradients_are_those_of_the_formula(silu):
    norm = norm_pair(silu)[0].double()
    x, scale, shift = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 12, 3, 2), *[(2, 12)] * 2))
    plain = F.group_norm(x, 4, norm.weight, norm.bias, 1e-6)
    expected = plain * (1 + scale[..., None, None]) + shift[..., None, None]

    torch.testing.assert_close(norm(x, scale, shift), F.silu(expected) if silu else expected)
    everything = (x, scale, shift, norm.weight, norm.bias)
    assert torch.autograd.gradcheck(lambda x, scale, shift, *_: norm(x, scale, shift), everything)


def test_group_norm_keeps_channels_last_memory_forwards_and_backwards():
    ours, _ = norm_pair(silu=True)
    x = torch.randn(2, 12, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_()

    y = ours(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)

    assert y.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, ours(x.detach().contiguous()))


def test_group_norm_survives_a_mean_of_a_hundred_deviations():
    # The variance is E[x^2] - E[x]^2: of 10,001 - 10,000 float32 keeps about 1e-3.
    ours, theirs = norm_pair(silu=False)
    x = torch.randn(2, 12, 16, 16) + 100

    torch.testing.assert_close(ours(x).double(), theirs(x.double()), atol=2e-2, rtol=0)


def test_group_norm_refuses_a_second_derivative_rather_than_return_a_wrong_one():
    ours, _ = norm_pair(silu=True)
    x = torch.randn(2, 12, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)

    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
