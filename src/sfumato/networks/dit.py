"""The diffusion transformer, DiT, with adaLN-zero (Peebles & Xie 2023, arXiv 2212.09748, section 3.2).

A picture, a signal or a volume is cut into patches. Each patch is a token, and fixed sinusoids of its place along each
side give its position. The embedding c of time and condition modulates every block: normalised tokens are scaled and
shifted, and each branch is gated before it joins the residual stream,

    h <- h + gate_1 * attention(norm(h) * (1 + scale_1) + shift_1)
    h <- h + cross-attention(norm(h), context)                          (where there is a context)
    h <- h + gate_2 * mlp(norm(h) * (1 + scale_2) + shift_2),

with (shift, scale, gate)_{1,2} linear in silu(c). That map starts at zero, so every new block is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.networks.layers import (
    CrossAttention,
    SelfAttention,
    TimeEmbedding,
    check_context,
    initialise,
    sinusoids,
    zeroed,
)
from sfumato.networks.recompute import run
from sfumato.networks.shapes import cut, filled, folded, unfolded

FREQUENCIES = 256  # of the time embedding, as in the paper's code


class Block(nn.Module):
    """One transformer block with adaLN-zero."""

    def __init__(self, width: int, heads: int, context_dim: int) -> None:
        super().__init__()

        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, context_dim, heads) if context_dim else None
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, c: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """Map tokens h (B, N, width), activated embedding c (B, width), context and mask to tokens (B, N, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None, :].chunk(6, dim=2)

        h = torch.addcmul(h, gate1, self.attention(modulate(h, shift1, scale1)))
        if self.cross is not None and context is not None:
            h = h + self.cross(F.layer_norm(h, h.shape[-1:], eps=1e-6), context, mask)

        return torch.addcmul(h, gate2, self.mlp(modulate(h, shift2, scale2)))


class DiT(nn.Module):
    """The diffusion transformer: network(x, time, vector, context, context_mask) -> (B, out_channels, *sides).

    A new network returns zeros.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result; None for as many as x has.
        size: the sides of x, or the side of square pictures; they are filled up to multiples of `patch`.
        patch: the side of a patch.
        width: width of the tokens, a multiple of 4 and of `heads`, and at least 4 for each side.
        depth: the number of blocks.
        heads: attention heads.
        vector_dim: width of a condition vector, which is added to the time embedding; 0 for none.
        context_dim: width of the context tokens that are cross-attended; 0 for none.
        learned_variance: return twice the channels, the second half being the variance's (Nichol & Dhariwal 2021).

    Raises:
        ValueError: if an argument is out of its range; the message says how to mend it.
    """

    def __init__(
        self,
        in_channels: int = 3,
        size: int | Sequence[int] = 32,
        patch: int = 4,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        vector_dim: int = 0,
        context_dim: int = 0,
        learned_variance: bool = False,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()

        sides = (size, size) if isinstance(size, int) else tuple(size)
        if patch < 1 or min(sides) < patch:
            raise ValueError(f"patch = {patch}: must be 1 to the shortest side of {sides}; choose a smaller patch")
        if width < 4 * max(2, len(sides)) or width % 4:
            raise ValueError(
                f"width = {width}: must be a multiple of 4 and at least {4 * max(2, len(sides))}, for the position's "
                "sinusoids"
            )

        self.sides = sides
        self.grid = tuple(-(-side // patch) for side in sides)
        self.patch = patch
        self.context_dim = context_dim
        self.recompute = False  # see recompute.py

        self.embed = TimeEmbedding(FREQUENCIES, width, vector_dim)
        self.stem = nn.Linear(in_channels * patch ** len(sides), width)
        self.register_buffer("positions", grid_positions(self.grid, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, context_dim) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        outputs = (out_channels or in_channels) * (2 if learned_variance else 1)
        self.head = zeroed(nn.Linear(width, outputs * patch ** len(sides)))

        self.apply(initialise)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        vector: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the network.

        Args:
            x: (B, in_channels, *sides).
            time: (B,), 0 ... 1000.
            vector: (B, vector_dim), or None for no vector.
            context: (B, L, context_dim), or None for no context.
            context_mask: (B, L), True where a token of the context may be read; None for everywhere.

        Returns:
            (B, out_channels, *sides), twice the channels with learned_variance.

        Raises:
            ValueError: if x has another size, or a condition is given that the network was not built for.
        """
        if x.shape[2:] != self.sides:
            raise ValueError(
                f"x has sides {tuple(x.shape[2:])}: this DiT was built with size = {self.sides}; resize x or rebuild it"
            )
        check_context(context, self.context_dim)

        c = F.silu(self.embed(time, vector))

        # Folding gathers a patch's values in the channels: (B, C p^d, *grid) -> (B, N, C p^d).
        h = self.stem(folded(filled(x, self.patch), self.patch).flatten(2).transpose(1, 2)) + self.positions
        for block in self.blocks:
            h = run(block, h, c, context, context_mask, recompute=self.recompute)

        shift, scale = self.modulation(c)[:, None, :].chunk(2, dim=2)
        h = self.head(modulate(h, shift, scale))

        return cut(unfolded(h.transpose(1, 2).unflatten(2, self.grid), self.patch), self.sides)


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(h) * (1 + scale) + shift: layer normalisation whose scale and shift come from the embedding."""
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=1e-6), 1 + scale)


def grid_positions(grid: Sequence[int], width: int) -> Tensor:
    """Sinusoids of each token's place along each side, (N, width); each side has an equal, even share of the width.

    Args:
        grid: number of tokens along each side; the place along the last side runs fastest.
        width: at least 4 for each side; the rest after equal shares stays zero.
    """
    share = width // len(grid) // 2 * 2
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    table = torch.cat([sinusoids(place.flatten(), share) for place in places], dim=1)

    return F.pad(table, (0, width - table.shape[1]))
