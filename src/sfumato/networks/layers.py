"""The parts that every network here is made of.

Time. A scalar time is embedded by sinusoids of geometrically spaced frequencies (Vaswani et al. 2017, section 3.5, in
the variant of DDPM, Ho et al. 2020, appendix B) and a two-layer perceptron; a conditioning vector is projected and
added to the result.

Attention. Queries, keys and values of `heads` heads meet in softmax(q k^T / sqrt(d)) v. Tokens are (B, N, C), and a
picture in channels-last memory *is* such a table, so the same code serves pictures and sequences without a copy.

Every branch that is added to a residual stream starts at zero (`zeroed`), in its last projection or in its gate, so
that a new network is the identity on that stream. Residual sums are written into the branch's own last result: a
convolution or a matrix product does not keep its output for its gradient, so this is safe and saves memory.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Module = TypeVar("Module", bound=nn.Module)


def sinusoids(time: Tensor, channels: int) -> Tensor:
    """The time embedding of DDPM: sin and cos of time / 10000^(k / (channels/2 - 1)) for k = 0 ... channels/2 - 1.

    Args:
        time: (B,), any real numbers; DDPM's are 0 ... 999.
        channels: the width, even and at least 4.

    Returns:
        (B, channels) in float32: the sines, then the cosines.
    """
    half = channels // 2
    rates = torch.exp(torch.arange(half, device=time.device, dtype=torch.float32) * (-math.log(10000) / (half - 1)))
    angles = time.float()[:, None] * rates

    return torch.cat((angles.sin(), angles.cos()), dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoids and a two-layer perceptron, to which a projected condition vector is added: (B,) -> (B, width).

    Args:
        channels: the number of sinusoids, even and at least 4.
        width: the width of the embedding.
        vector_dim: the width of the condition vector, 0 for none.
    """

    def __init__(self, channels: int, width: int, vector_dim: int = 0) -> None:
        super().__init__()

        if channels < 4 or channels % 2:
            raise ValueError(f"channels = {channels}: the time embedding needs an even number of at least 4")

        self.channels = channels
        self.mlp = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))
        self.vector = nn.Linear(vector_dim, width) if vector_dim else None

    def forward(self, time: Tensor, vector: Tensor | None = None) -> Tensor:
        """Embed `time` (B,) and `vector` (B, vector_dim); without a vector only the time speaks.

        Raises:
            ValueError: if a vector is given and the network was built without one.
        """
        embedding = self.mlp(sinusoids(time, self.channels).to(next(self.mlp.parameters()).dtype))

        if vector is None:
            return embedding
        if self.vector is None:
            raise ValueError("vector was given, but the network has vector_dim = 0: build it with the vector's width")

        return embedding + self.vector(vector)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018, equation 1), followed by SiLU where asked: (B, C, *spatial) -> the same.

    Result and parameters are those of `nn.GroupNorm`. It is written anew because PyTorch's channels-last kernel for
    bfloat16 on the CPU is slow (measured ten times slower than the few passes used here, a fifth of a training step),
    and because here only x is kept for the gradient. Inside, all is at least float32, whatever the type of x.

    Args:
        groups: a divisor of channels.
        channels: C.
        silu: apply SiLU to the result.
        eps: added to the variance; the default is DDPM's.
    """

    def __init__(self, groups: int, channels: int, silu: bool = False, eps: float = 1e-6) -> None:
        super().__init__()

        self.groups, self.silu, self.eps = groups, silu, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Normalise x (B, C, *spatial); the result has the type and the memory format of x.

        With `scale` and `shift` (B, C) it is (1 + scale) norm(x) + shift before the SiLU: the adaptive group
        normalisation of Dhariwal & Nichol (2021), section 3.
        """
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        if scale is not None and shift is not None:
            factor = 1 + at_least_float32(scale)
            weight, bias = weight * factor, bias * factor + shift

        return _GroupNorm.apply(x, weight, bias, self.groups, self.silu, self.eps)


class _GroupNorm(torch.autograd.Function):
    """y = z or silu(z), with z = scale x + shift; scale = weight / std and shift = bias - scale mean are (B, C) tables.
    Weight and bias are (C,), or (B, C) where each picture has its own.

    Let g be the gradient at z, x^ = (x - mean) / std, and < > the mean over a group. By the chain rule through the
    mean and the variance (Wu & He 2018, equations 1 and 2),

        dx = scale g + a x + b,     a = -<weight g x^> / std^2,     b = -<weight g> / std - a mean,

    so that the sums over positions of g and of g x^, which are also the gradients of bias and weight, are all that has
    to be known of the picture.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, silu: bool, eps: float) -> Tensor:
        x32 = at_least_float32(x)
        mean, square = (group_mean(positions_sum(v), groups, x) for v in (x32, x32 * x32))
        rstd = torch.rsqrt((square - mean * mean).clamp_min(0) + eps)

        mean, rstd = (v.repeat_interleave(x.shape[1] // groups, dim=1) for v in (mean, rstd))
        scale = weight * rstd
        shift = bias - scale * mean

        ctx.save_for_backward(x, weight, mean, rstd, scale, shift)
        ctx.groups, ctx.silu = groups, silu

        z = torch.addcmul(over_positions(shift, x), x32, over_positions(scale, x))

        return (F.silu(z, inplace=True) if silu else z).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd, scale, shift = ctx.saved_tensors
        x32, g, scale_x = at_least_float32(x), at_least_float32(grad), over_positions(scale, x)

        if ctx.silu:
            z = torch.addcmul(over_positions(shift, x), x32, scale_x)
            g = torch.ops.aten.silu_backward(g, z)

        dbias = positions_sum(g)
        dweight = (positions_sum(g * x32) - mean * dbias) * rstd

        means = (group_mean(weight * v, ctx.groups, x) for v in (dweight, dbias))
        projection, average = (v.repeat_interleave(x.shape[1] // ctx.groups, dim=1) for v in means)
        a = -rstd * rstd * projection
        b = -rstd * average - a * mean
        dx = torch.addcmul(over_positions(b, x), x32, over_positions(a, x)).addcmul_(g, scale_x)

        if weight.dim() == 1:
            dweight, dbias = dweight.sum(0), dbias.sum(0)

        return dx.to(x.dtype), dweight, dbias, None, None, None


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def positions_sum(x: Tensor) -> Tensor:
    """Sum over positions: (B, C, *spatial) -> (B, C)."""
    return x.sum(dim=tuple(range(2, x.dim())))


def over_positions(table: Tensor, x: Tensor) -> Tensor:
    """A table (B, C) in the shape (B, C, 1, ...) that broadcasts over the positions of x (B, C, *spatial)."""
    return table.reshape(table.shape + (1,) * (x.dim() - 2))


def group_mean(sums: Tensor, groups: int, x: Tensor) -> Tensor:
    """Sums over the positions of x, (B, C), to means over groups of channels and positions, (B, groups)."""
    return sums.unflatten(1, (groups, -1)).sum(2) * (groups / x[0].numel())


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention softmax(q k^T / sqrt(C / heads)) v (Vaswani et al. 2017, equation 1).

    Args:
        q: (B, N, C). k, v: (B, L, C). Strided views are welcome.
        heads: a divisor of C.
        mask: (B, L), True where a key may be used. A row of False only yields zeros.

    Returns:
        (B, N, C).
    """
    q, k, v = (tokens.unflatten(2, (heads, -1)).transpose(1, 2) for tokens in (q, k, v))

    # PyTorch's fused kernel for the CPU was measured to take 2.5 times as long as the formula in bfloat16 (as long in
    # float32), 12 % of a training step. The formula's table of N x L weights is affordable while the tokens are few.
    if q.is_cpu and mask is None and k.shape[2] <= 1024:
        out = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask.bool()[:, None, None, :])

    return out.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Tokens attend to one another: (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

        self.heads = check_heads(width, heads)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix `tokens` (B, N, C)."""
        q, k, v = self.qkv(tokens).chunk(3, dim=2)

        return self.out(attend(q, k, v, self.heads))


class CrossAttention(nn.Module):
    """Tokens (B, N, C) attend to a context (B, L, context_dim) -> (B, N, C). The output projection starts at zero."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()

        self.heads = check_heads(width, heads)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_dim, 2 * width)
        self.out = zeroed(nn.Linear(width, width, bias=False))

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let `tokens` read `context` where `mask` (B, L) is True; a row without any True reads exactly zero."""
        k, v = self.kv(context).chunk(2, dim=2)

        return self.out(attend(self.q(tokens), k, v, self.heads, mask))


def check_context(context: Tensor | None, context_dim: int) -> None:
    """Refuse a context that a network has no cross-attention for.

    Raises:
        ValueError: if there is a context and context_dim is 0.
    """
    if context is not None and not context_dim:
        raise ValueError("context was given, but the network has context_dim = 0: build it with the context's width")


def check_heads(width: int, heads: int) -> int:
    """`heads`, if they divide `width`.

    Raises:
        ValueError: if they do not.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"heads = {heads}: must divide the width {width} of the attention; choose a divisor")

    return heads


def zeroed(module: Module) -> Module:
    """`module` with all parameters at zero, so that the branch that it closes starts as nothing (DDPM, code)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)

    return module


def initialise(module: nn.Module) -> None:
    """Uniform weights of variance 1 / fan_in and zero biases, for `network.apply`; what is `zeroed` stays so.

    This is DDPM's 1 / fan_avg where a layer is square, and does not change when projections are fused into one matrix.
    """
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if module.weight.any():
            nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
