"""The parts that all networks here share.

Time. A scalar time is embedded by sinusoids of geometrically spaced frequencies (Vaswani et al. 2017, section 3.5, in
the variant of DDPM, Ho et al. 2020, appendix B) and a two-layer perceptron; a conditioning vector is projected and
added to the result.

Attention. Queries, keys and values of `heads` heads meet in softmax(q k^T / sqrt(d)) v. Tokens are (B, N, C), and a
picture in channels-last memory *is* such a table, so the same code serves pictures and sequences without a copy.

Every branch that is added to a residual stream starts at zero (`zeroed`), in its last projection or in its gate, so a
new network is the identity on that stream. Residual sums are written into the branch's own last result: a convolution
or a matrix product does not keep its output for its gradient, so this is safe and saves memory.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        """Embed `time` (B,) and `vector` (B, vector_dim); without a vector, only the time.

        Raises:
            ValueError: if a vector is given and the network was built without one.
        """
        embedding = self.mlp(sinusoids(time, self.channels).to(next(self.mlp.parameters()).dtype))

        if vector is None:
            return embedding
        if self.vector is None:
            raise ValueError("vector was given, but the network has vector_dim = 0: build it with the vector's width")

        return embedding + self.vector(vector)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention softmax(q k^T / sqrt(C / heads)) v (Vaswani et al. 2017, equation 1).

    Args:
        q: (B, N, C). k, v: (B, L, C). Strided views are allowed.
        heads: a divisor of C.
        mask: (B, L), True where a key may be used. A row with no True gives zeros.

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
    """`module` with all parameters at zero, so that the branch that ends with it starts at zero (DDPM, code)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)

    return module


def initialise(module: nn.Module) -> None:
    """Uniform weights of variance 1 / fan_in and zero biases, for `network.apply`; `zeroed` modules stay at zero.

    For a square layer this is DDPM's 1 / fan_avg, and it does not change if projections are fused into one matrix.
    """
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if module.weight.any():
            nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
