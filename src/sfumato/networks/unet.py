"""The U-Net of denoising diffusion probabilistic models (Ho, Jain & Abbeel 2020, appendix B), for 1, 2 or 3 dimensions.

    stem --> encoder stages --> bottleneck --> decoder stages --> head

Stage i works at 1/2^i of the input's resolution with channels * multipliers[i] channels. An encoder stage is `blocks`
residual blocks and, except in the last stage, a convolution of stride 2. The bottleneck is a residual block, attention
and a residual block. A decoder stage is `blocks` + 1 residual blocks and, except at full resolution, nearest-neighbour
doubling and a 3x3 convolution. The results of the stem, of each encoder block and of each strided convolution are kept
and concatenated to the input of one decoder block (the skip connections). Self-attention follows the residual blocks of
one chosen level, and the first block of the bottleneck; with a context, cross-attention follows each self-attention.

A residual block is norm, SiLU, 3x3, + time, norm, SiLU, dropout, 3x3, + input. The time shifts of all blocks are one
matrix product per call, because they all read the same embedding. With `scale_shift` the time scales and shifts the
result of the second norm instead (adaptive group normalisation, Dhariwal & Nichol 2021, section 3).

A condition vector is part of that embedding, the same at every position. With `vector_map` it is also painted: one
matrix product makes a small map of it, which is enlarged and added to the stem's result. A sentence then has a short
path to *where* things are, which it otherwise has to say through shifts of whole channels.

With `patch` = 2 or 4 the network sees pixel-unshuffled pictures (`shapes.folded`): 1/patch of each side, patch^d times
the channels, and about 1/patch^d of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.networks.fused import Doubling, convolve
from sfumato.networks.group_norm import GroupNorm
from sfumato.networks.layers import (
    CrossAttention,
    SelfAttention,
    TimeEmbedding,
    check_context,
    initialise,
    zeroed,
)
from sfumato.networks.recompute import run
from sfumato.networks.shapes import cut, filled, folded, unfolded

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + shift))), with a 1x1 convolution of x if the channels change.

    With `scale_shift` it is x + conv(silu((1 + scale) norm(conv(silu(norm(x)))) + shift)). The second convolution
    starts at zero, so a new block is the identity (or the 1x1 convolution).
    """

    def __init__(
        self, inputs: int, outputs: int, dims: int, dropout: float, groups: int, scale_shift: bool = False
    ) -> None:
        super().__init__()

        self.scale_shift = scale_shift
        self.table_width = 2 * outputs if scale_shift else outputs

        conv = CONVOLUTIONS[dims]
        self.norm1 = GroupNorm(groups, inputs, silu=True)
        self.conv1 = conv(inputs, outputs, 3, padding=1)
        self.norm2 = GroupNorm(groups, outputs, silu=True)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(conv(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Map x (B, inputs, *spatial) and the time's table, shift or scale and shift, to (B, outputs, *spatial)."""
        tables, shift = (table.chunk(2, dim=1), None) if self.scale_shift else ((), table)
        h = convolve(x, self.conv1, self.norm1, shift=shift)

        return convolve(h, self.conv2, self.norm2, tables, self.dropout, residual=self.skip(x))


class Attention(nn.Module):
    """Residual self-attention over the positions, followed by cross-attention if there is a context."""

    def __init__(self, channels: int, heads: int, context_dim: int, groups: int) -> None:
        super().__init__()

        self.norm = GroupNorm(groups, channels)
        self.attention = SelfAttention(channels, heads)
        zeroed(self.attention.out)
        self.cross_norm = GroupNorm(groups, channels) if context_dim else nn.Identity()
        self.cross = CrossAttention(channels, context_dim, heads) if context_dim else None

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """Map x (B, C, *spatial), context (B, L, context_dim) or None and its mask (B, L) or None to x's shape."""
        h = self.attention(tokens(self.norm(x)))
        h += tokens(x)

        if self.cross is not None and context is not None:
            x = untokens(h, x.shape)
            h = self.cross(tokens(self.cross_norm(x)), context, mask)
            h += tokens(x)

        return untokens(h, x.shape)


@dataclass(frozen=True, eq=False)
class Condition:
    """What one call passes to all blocks: the time's table of each, a context (B, L, context_dim) and its mask (B, L),
    and whether they compute their inside again for the gradient."""

    tables: Mapping[nn.Module, Tensor]
    context: Tensor | None
    mask: Tensor | None
    recompute: bool

    def block(self, block: nn.Module, h: Tensor) -> Tensor:
        """A residual block."""
        return run(block, h, self.tables[block], recompute=self.recompute)

    def attention(self, attention: nn.Module | None, h: Tensor) -> Tensor:
        """An attention, or h itself if there is none."""
        return run(attention, h, self.context, self.mask, recompute=self.recompute) if attention else h


Inside = Callable[[Tensor, list[Tensor], Condition], Tensor]  # see UNet.inside


class Stage(nn.Module):
    """The residual blocks of one resolution, with attention after each or none, and the step to the next resolution."""

    def __init__(self, blocks: Sequence[ResBlock], attentions: Sequence[Attention], resample: nn.Module | None) -> None:
        super().__init__()

        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample

    def down(self, h: Tensor, skips: list[Tensor], condition: Condition) -> Tensor:
        """An encoder stage; it adds the results of its layers to `skips`."""
        for block, attention in self.layers():
            h = condition.attention(attention, condition.block(block, h))
            skips.append(h)
        if self.resample:
            h = self.resample(h)
            skips.append(h)

        return h

    def up(self, h: Tensor, skips: list[Tensor], condition: Condition) -> Tensor:
        """A decoder stage; its layers take their inputs from `skips`."""
        for block, attention in self.layers():
            h = condition.attention(attention, condition.block(block, torch.cat((h, skips.pop()), dim=1)))

        return self.resample(h) if self.resample else h

    def layers(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        """The blocks in order, each with the attention that follows it."""
        yield from zip(self.blocks, self.attentions or (None,) * len(self.blocks), strict=True)


class UNet(nn.Module):
    """The DDPM U-Net: network(x, time, vector, context, context_mask) -> (B, out_channels, *spatial).

    The defaults are DDPM's for CIFAR-10: 35,746,307 parameters. A new network returns zeros.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result; None for as many as x has.
        channels: width of the first stage; a multiple of `groups`.
        multipliers: width of each stage as a multiple of `channels`; their number is the number of stages.
        blocks: residual blocks of an encoder stage; a decoder stage has one more.
        attention_level: the stage that has self-attention, from 0; None for attention only in the bottleneck.
        heads: attention heads, a divisor of the width of the stage.
        vector_dim: width of a condition vector, which is added to the time embedding; 0 for none.
        context_dim: width of the context tokens that are cross-attended; 0 for none.
        dims: 1, 2 or 3 spatial dimensions.
        patch: 1, or 2 or 4 for a pixel-unshuffle stem and a pixel-shuffle head (2-D only).
        dropout: probability of dropping an activation inside a residual block.
        groups: groups of the group normalisation.
        learned_variance: return twice the channels, the second half being the variance's (Nichol & Dhariwal 2021).
        scale_shift: the time scales and shifts the second norm of a residual block; otherwise it is added before it.
        vector_map: side of the map that the condition vector paints on the stem's result; 0 for none.

    Raises:
        ValueError: if an argument is out of its range; the message says how to mend it.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int | None = None,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention_level: int | None = 1,
        heads: int = 1,
        vector_dim: int = 0,
        context_dim: int = 0,
        dims: int = 2,
        patch: int = 1,
        dropout: float = 0.0,
        groups: int = 32,
        learned_variance: bool = False,
        scale_shift: bool = False,
        vector_map: int = 0,
    ) -> None:
        super().__init__()

        check(channels, multipliers, blocks, attention_level, dims, patch, groups)

        conv = CONVOLUTIONS[dims]
        widths = [channels * multiplier for multiplier in multipliers]
        last = len(widths) - 1
        out_channels = (out_channels or in_channels) * (2 if learned_variance else 1)

        self.dims = dims
        self.patch = patch
        self.context_dim = context_dim
        self.divisor = patch * 2**last
        self.recompute = False  # see recompute.py

        def block(inputs: int, outputs: int) -> ResBlock:
            return ResBlock(inputs, outputs, dims, dropout, groups, scale_shift)

        def attention(width: int) -> Attention:
            return Attention(width, heads, context_dim, groups)

        def stage(level: int, inputs: Sequence[int], resample: nn.Module | None) -> Stage:
            width = widths[level]
            blocks = [block(i, width) for i in inputs]
            return Stage(blocks, [attention(width) for _ in blocks if level == attention_level], resample)

        self.embed = TimeEmbedding(channels, 4 * channels, vector_dim)
        self.stem = conv(in_channels * patch**dims, channels, 3, padding=1)
        self.map_shape = (channels, *[vector_map] * dims)
        self.map = nn.Linear(vector_dim, math.prod(self.map_shape)) if vector_dim and vector_map else None

        encoder: list[Stage] = []
        width, kept = channels, [channels]
        for level, outputs in enumerate(widths):
            down = conv(outputs, outputs, 3, stride=2, padding=1) if level < last else None
            encoder.append(stage(level, [width] + [outputs] * (blocks - 1), down))
            width, kept = outputs, kept + [outputs] * (blocks + (level < last))

        self.encoder = stages(encoder)
        self.bottleneck = Stage([block(width, width), block(width, width)], [], None)
        self.bottleneck_attention = attention(width)

        decoder: list[Stage] = []
        for level, outputs in reversed(list(enumerate(widths))):
            inputs = [(width if i == 0 else outputs) + kept.pop() for i in range(blocks + 1)]
            up = Doubling(nn.Upsample(scale_factor=2), conv(outputs, outputs, 3, padding=1)) if level else None
            decoder.append(stage(level, inputs, up))
            width = outputs

        self.decoder = stages(decoder)
        self.norm = GroupNorm(groups, width, silu=True)
        self.head = zeroed(conv(width, out_channels * patch**dims, 3, padding=1))

        self.table_widths = [block.table_width for block in self.residual_blocks()]
        self.tables = nn.Linear(4 * channels, sum(self.table_widths))

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
            x: (B, in_channels, *spatial); sides that are not a multiple of patch * 2^(stages - 1) are filled up by
                repeating the last values, and the result is cut back.
            time: (B,), 0 ... 1000.
            vector: (B, vector_dim), or None for no vector.
            context: (B, L, context_dim), or None for no context.
            context_mask: (B, L), True where a token of the context may be read; None for everywhere.

        Returns:
            (B, out_channels, *spatial), twice the channels with learned_variance.

        Raises:
            ValueError: if x has other dimensions, or a condition is given that the network was not built for.
        """
        return self.around(self.inside, x, time, vector, context, context_mask)

    def around(
        self,
        inside: Inside,
        x: Tensor,
        time: Tensor,
        vector: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """`forward` with `inside` for everything below full resolution: `self.inside`, or a function like it."""
        self._check(x, context)

        rows = self.tables(F.silu(self.embed(time, vector))).split(self.table_widths, dim=1)
        tables: dict[nn.Module, Tensor] = dict(zip(self.residual_blocks(), rows, strict=True))
        condition = Condition(tables, context, context_mask, self.recompute)

        sides = x.shape[2:]
        h = self.stem(folded(filled(x, self.divisor), self.patch))
        if self.map is not None and vector is not None:
            h += self._painted(vector, h)

        skips = [h]
        h = self.encoder[0].down(h, skips, condition)
        h = inside(h, skips, condition)
        h = self.decoder[-1].up(h, skips, condition)
        h = convolve(h, self.head, self.norm)

        return cut(unfolded(h, self.patch), sides)

    def inside(self, h: Tensor, skips: list[Tensor], condition: Condition) -> Tensor:
        """Everything below full resolution, from the output of the first encoder stage to the input of the last decoder
        stage.

        Args:
            h: (B, C, *spatial).
            skips: the results that the first stage kept; if there are more stages, the last one, h, is removed.
            condition: the condition of this call.
        """
        for stage in self.encoder[1:]:
            h = stage.down(h, skips, condition)

        before, after = self.bottleneck.blocks
        h = condition.attention(self.bottleneck_attention, condition.block(before, h))
        h = condition.block(after, h)

        for stage in self.decoder[:-1]:
            h = stage.up(h, skips, condition)

        return h

    def residual_blocks(self) -> list[ResBlock]:
        """The residual blocks in the order of evaluation."""
        return [block for block in self.modules() if isinstance(block, ResBlock)]

    def _painted(self, vector: Tensor, h: Tensor) -> Tensor:
        """The map of `vector` (B, vector_dim), in the shape and the memory format of h (B, channels, *spatial)."""
        assert self.map is not None
        small = self.map(F.silu(vector)).unflatten(1, self.map_shape)
        enlarged = F.interpolate(small, h.shape[2:], mode=INTERPOLATIONS[self.dims])

        return torch.empty_like(h).copy_(enlarged)

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        if x.dim() != self.dims + 2:
            raise ValueError(f"x has shape {tuple(x.shape)}: a {self.dims}-D U-Net takes (batch, channels, *sides)")
        check_context(context, self.context_dim)


def stages(modules: list[Stage]) -> list[Stage]:
    """`modules` as a ModuleList; type checkers see the list that it behaves as."""
    return cast("list[Stage]", nn.ModuleList(modules))


def tokens(x: Tensor) -> Tensor:
    """(B, C, *spatial) -> (B, N, C), a view; a contiguous table if x is channels-last."""
    return x.flatten(2).transpose(1, 2)


def untokens(h: Tensor, shape: torch.Size) -> Tensor:
    """(B, N, C) -> (B, C, *spatial), a view in channels-last memory."""
    return h.transpose(1, 2).unflatten(2, shape[2:])


def check(
    channels: int,
    multipliers: Sequence[int],
    blocks: int,
    attention_level: int | None,
    dims: int,
    patch: int,
    groups: int,
) -> None:
    """Refuse settings that do not make a network.

    Raises:
        ValueError: naming the field, its value, the limit and the fix.
    """
    if dims not in CONVOLUTIONS:
        raise ValueError(f"dims = {dims}: must be 1 (signals), 2 (pictures) or 3 (volumes)")
    if patch not in (1, 2, 4):
        raise ValueError(f"patch = {patch}: must be 1 (no patches), 2 or 4")
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers = {tuple(multipliers)}: give one positive integer per stage, as in (1, 2, 2)")
    if blocks < 1:
        raise ValueError(f"blocks = {blocks}: an encoder stage needs at least 1 residual block")
    if attention_level is not None and not 0 <= attention_level < len(multipliers):
        raise ValueError(
            f"attention_level = {attention_level}: must be a stage, 0 ... {len(multipliers) - 1}, "
            "or None for attention in the bottleneck only"
        )
    if groups < 1 or channels < 1 or channels % groups:
        raise ValueError(f"channels = {channels}: must be a multiple of groups = {groups}; change one of them")
