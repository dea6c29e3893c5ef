"""What a kernel may do in place of PyTorch, and which one does.

A kernel is an object with the methods of `Kernel`. It says whether it does a certain case; where it does not, or where
none is in use, PyTorch does. So a network is written once, and a kernel can be taken away by deleting its file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode


@dataclass(frozen=True)
class Norm:
    """A group normalisation. Weight and bias are (C,), or (B, C) where each picture has its own; SiLU may follow."""

    groups: int
    weight: Tensor
    bias: Tensor
    eps: float
    silu: bool


class Kernel(Protocol):
    """Group normalisation and 3x3 convolution, both differentiable once."""

    name: str

    def does_norm(self, x: Tensor, norm: Norm) -> bool: ...

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        """silu(norm(x)) or norm(x) of x (B, C, H, W)."""
        ...

    def does_convolution(self, x: Tensor, conv: nn.Module, norm: Norm | None) -> bool: ...

    def convolution(
        self,
        x: Tensor,
        conv: nn.Module,
        norm: Norm | None,
        shift: Tensor | None,
        residual: Tensor | None,
        doubled: bool,
    ) -> Tensor:
        """conv(doubled(norm(x))) + shift + residual, with a shift (B, K) and a residual (B, K, H, W)."""
        ...


_used: Kernel | None = None


def use(kernel: Kernel | None) -> None:
    """From now on, `kernel` does what it can; None leaves all to PyTorch."""
    global _used
    _used = kernel


def current() -> Kernel | None:
    """The kernel in use; none while PyTorch traces, compiles or counts what it does itself."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return None if traced or _get_current_dispatch_mode() is not None else _used
