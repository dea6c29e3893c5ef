"""The most frequent operations of a U-Net as one step, which a kernel can compute at once:

conv(dropout(silu(norm(x)))) + shift + residual
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sfumato.networks import kernels
from sfumato.networks.group_norm import GroupNorm, over_positions


def convolve(
    x: Tensor,
    conv: nn.Module,
    norm: GroupNorm,
    tables: Sequence[Tensor] = (),
    dropout: nn.Dropout | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """A convolution with the operations before and after it in a residual block.

    Args:
        x: (B, C, *spatial).
        conv: convolution from C to K channels that keeps the sides.
        norm: normalisation of C channels.
        tables: scale and shift (B, C) of the norm's result, or nothing.
        dropout: after the norm, or None.
        shift: (B, K), added at every position, or None.
        residual: (B, K, *spatial), added, or None.

    Returns:
        (B, K, *spatial).
    """
    kernel = kernels.current()
    drops = dropout is not None and dropout.training and dropout.p > 0
    if kernel and not drops:
        settings = norm.settings(*tables)
        if kernel.does_convolution(x, conv, settings):
            return kernel.convolution(x, conv, settings, shift, residual, doubled=False)

    h = norm(x, *tables)
    h = conv(dropout(h) if dropout else h)
    if shift is not None:
        h += over_positions(shift, h)
    if residual is not None:
        h += residual

    return h


class Doubling(nn.Sequential):
    """Nearest-neighbour doubling and a convolution: (B, C, *spatial) -> (B, K, *(2 spatial))."""

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge x."""
        enlarge, conv = self
        kernel = kernels.current()
        if kernel and kernel.does_convolution(x, conv, None):
            return kernel.convolution(x, conv, None, None, None, doubled=True)

        return conv(enlarge(x))
