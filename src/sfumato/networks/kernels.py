"""What a kernel may compute instead of PyTorch, and which kernel is in use.

A kernel is an object with the methods of `Kernel`. It says whether it computes a given case; otherwise, or if no kernel
is in use, PyTorch does. So a network is written once, and deleting the file of a kernel removes it.

The choice holds for the process, like the number of threads: `use` makes it for everybody, `using` for a block. Moving
a model to a CPU switches the compiled kernel on (`native.enable`) if nobody has chosen before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode


@dataclass(frozen=True)
class Norm:
    """A group normalisation. Weight and bias are (C,), or (B, C) if each picture has its own; SiLU may follow."""

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


@dataclass(frozen=True)
class Choice:
    """A kernel, or None for PyTorch."""

    kernel: Kernel | None


_process: Choice | None = None  # the choice for everybody; None: nobody has chosen yet
_block: ContextVar[Choice | None] = ContextVar("kernel", default=None)


def use(kernel: Kernel | None) -> None:
    """From now on, `kernel` computes what it can, in the whole process; None leaves everything to PyTorch."""
    global _process
    _process = Choice(kernel)


@contextmanager
def using(kernel: Kernel | None) -> Iterator[None]:
    """Within the block, and only in this thread, `kernel` computes what it can; None leaves everything to PyTorch."""
    before = _block.set(Choice(kernel))
    try:
        yield
    finally:
        _block.reset(before)


def chosen() -> bool:
    """Whether `use` has been called in this process."""
    return _process is not None


def current() -> Kernel | None:
    """The kernel in use; none while PyTorch traces, compiles or counts its own operations."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if traced or _get_current_dispatch_mode() is not None:
        return None
    choice = _block.get() or _process
    return choice.kernel if choice else None
