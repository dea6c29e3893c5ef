"""Group normalisation, optionally with SiLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sfumato.networks import kernels
from sfumato.networks.kernels import Norm


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018, equation 1), optionally followed by SiLU: (B, C, *spatial) -> the same.

    Result and parameters equal those of `nn.GroupNorm`. This class exists because PyTorch's channels-last kernel for
    bfloat16 on the CPU is slow (measured ten times slower than the few passes used here, a fifth of a training step),
    and because here only x is kept for the gradient. Inside, everything is at least float32, whatever the type of x.

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
        norm, kernel = self.settings(scale, shift), kernels.current()
        if kernel and kernel.does_norm(x, norm):
            return kernel.norm(x, norm)

        return _GroupNorm.apply(x, norm.weight, norm.bias, norm.groups, norm.silu, norm.eps)

    def settings(self, scale: Tensor | None = None, shift: Tensor | None = None) -> Norm:
        """The settings of the normalisation, with the scales and shifts of `forward`."""
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        if scale is not None and shift is not None:
            factor = 1 + at_least_float32(scale)
            weight, bias = weight * factor, bias * factor + shift

        return Norm(self.groups, weight, bias, self.eps, self.silu)


class _GroupNorm(torch.autograd.Function):
    """y = z or silu(z), with z = scale x + shift; scale = weight / std and shift = bias - scale mean are (B, C) tables.
    Weight and bias are (C,), or (B, C) where each picture has its own.

    Let g be the gradient at z, x^ = (x - mean) / std, and < > the mean over a group. By the chain rule through the
    mean and the variance (Wu & He 2018, equations 1 and 2),

        dx = scale g + a x + b,     a = -<weight g x^> / std^2,     b = -<weight g> / std - a mean,

    so the picture is needed only for the sums of g and of g x^ over positions, which are also the gradients of bias and
    weight.
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
