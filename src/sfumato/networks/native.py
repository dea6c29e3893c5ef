"""The kernel in C++ (`native.cpp`): convolutions by Winograd's algorithm, fused with the operations around them.

If there is a compiler, the kernel is compiled once, in a few seconds, and kept in the user's cache. The shape of a step
alone decides whether the kernel computes it (`CHANNELS`, `TILES`), and its results have the same bits with AVX2 and
with AVX-512. So the choice is the same on every start and on every machine; another choice would change the last bits
of a result. Every start checks the kernel against PyTorch. If anything of this fails, PyTorch does the work, and `find`
says why.

The kernel computes float32 on x86 processors with AVX2, for pictures in channels-last memory. In bfloat16 it computes
the normalisations, which in PyTorch need float32 copies. PyTorch computes the convolutions in bfloat16, but training
keeps only their inputs, as in float32.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sfumato.networks import kernels
from sfumato.networks.kernels import Norm

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILERS = ("g++", "c++")
OPTIONS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-Wno-psabi")
AVX2 = ("-mavx2", "-mfma")
INSTRUCTIONS = {"AVX2": AVX2, "AVX512": (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")}
PATIENCE = 120  # seconds for the compiler
DIGEST = "kernel.sha256"
SWITCH = "SFUMATO_KERNEL"  # environment variable: "torch" leaves everything to PyTorch

CHANNELS = 16  # floats in a register of AVX-512; the number of channels must be a multiple, also with AVX2
SIDE = 4  # side of a tile, in results
# The kernel computes convolutions of at least so many tiles. From 4 on it was faster than PyTorch with 32 to 512
# channels, with AVX-512 and with AVX2 (the table of `benchmarks/kernel_table.py` in docs/performance.md). One tile
# takes twice as long as in PyTorch, because the kernel transforms all filters first.
TILES = 4
INEXACT = 1e-4  # largest allowed difference from PyTorch, as a share of the largest number; 1e-6 is usual

Layout = torch.channels_last


# --- building and choosing -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The kernel, or None with the reason and, if there is one, the fix."""

    kernel: Native | None
    reason: str
    fix: str = ""


def enable(home: Path) -> None:
    """Use the kernel in this process from now on, if it is available and nobody has called `kernels.use` before.

    The folder `home` keeps the compiled file.
    """
    if not kernels.chosen():
        kernels.use(find(home).kernel)


def find(home: Path) -> Found:
    """The kernel, compiled if `home` does not hold it yet, or the reason why there is none."""
    if os.environ.get(SWITCH) == "torch":
        return Found(None, f"${SWITCH} leaves everything to PyTorch", f"unset {SWITCH}")
    return found(home)


@cache
def found(home: Path) -> Found:
    """`find`, once in each process and independent of the environment."""
    instructions = torch.backends.cpu.get_cpu_capability()
    if instructions not in INSTRUCTIONS:
        return Found(None, f"the processor has no AVX2, or PyTorch does not use it ({instructions})")
    library = home / identity(instructions) / "kernel.so"
    try:
        if not whole(library):
            compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
            if compiler is None:
                return Found(None, "there is no C++ compiler", "apt install g++")
            announce()
            library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            build(compiler, instructions, library)
        if not private(library.parent) or not private(library):
            return Found(None, f"others may have written {library}", f"delete {library.parent}")
        kernel = Native(ctypes.CDLL(str(library)))
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or ["?"]
        return Found(None, f"{error.cmd[0]} does not compile it: {said[0]}", "apt install --reinstall g++")
    except (OSError, AttributeError, subprocess.TimeoutExpired) as error:  # no room, no right, a damaged file, a hang
        return Found(None, f"it could not be kept in {library.parent}: {error}", f"delete {library.parent}")
    error = kernel.error()
    if not error <= INEXACT:
        return Found(None, f"its results are not PyTorch's: they differ by {error:.1e}", f"delete {library.parent}")
    return Found(kernel, f"convolutions of our own ({instructions}), compiled and checked against PyTorch's")


def announce() -> None:
    """Say why the first model takes so long."""
    if sys.stderr is not None:
        with suppress(OSError):
            print("compiling convolutions for this machine, once (some seconds)", file=sys.stderr, flush=True)


def identity(instructions: str) -> str:
    """A hash of the kernel's source and options. A new compiler does not change it."""
    parts = [SOURCE.read_text(), *OPTIONS, *INSTRUCTIONS[instructions]]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def build(compiler: str, instructions: str, library: Path) -> None:
    """Compile the kernel into a file, which appears only when it is whole: another process may do the same."""
    with tempfile.TemporaryDirectory(dir=library.parent) as aside:
        made = Path(aside) / library.name
        command = [compiler, *OPTIONS, *INSTRUCTIONS[instructions], str(SOURCE), "-o", str(made)]
        subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
        made.chmod(0o700)  # whatever the umask
        digest = Path(aside) / DIGEST
        digest.write_text(sha256(made))
        os.replace(made, library)
        os.replace(digest, library.with_name(DIGEST))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def whole(library: Path) -> bool:
    """Whether a compiled kernel is there and unchanged: loading half of one would kill the process."""
    digest = library.with_name(DIGEST)
    return library.exists() and digest.exists() and digest.read_text() == sha256(library)


def private(path: Path) -> bool:
    """Whether only this user can have written there, if the system has users."""
    status = path.stat()
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


# --- what it does ----------------------------------------------------------------------------------------------------


class Native:
    """The compiled kernel; see `kernels.Kernel`."""

    name = "winograd"

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.lanes = library.lanes()

    def does_norm(self, x: Tensor, norm: Norm) -> bool:
        return self._takes(x, (torch.float32, torch.bfloat16)) and x.shape[1] % norm.groups == 0

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        return _Norm.apply(self, x, norm.weight, norm.bias, norm.groups, norm.eps, norm.silu)

    def does_convolution(self, x: Tensor, conv: nn.Module, norm: Norm | None) -> bool:
        if not (
            isinstance(conv, nn.Conv2d)
            and conv.kernel_size == (3, 3)
            and conv.stride == conv.dilation == conv.padding == (1, 1)
            and conv.groups == 1
            and conv.padding_mode == "zeros"
        ):
            return False
        if torch.is_autocast_enabled("cpu"):
            return torch.is_grad_enabled() and self._takes(x, (torch.bfloat16,))
        return (
            conv.out_channels % CHANNELS == 0
            and conv.weight.dtype == torch.float32
            and self._takes(x, (torch.float32,))
            and len(x) * -(-x.shape[2] // SIDE) * -(-x.shape[3] // SIDE) >= TILES
        )

    def convolution(
        self,
        x: Tensor,
        conv: nn.Module,
        norm: Norm | None,
        shift: Tensor | None,
        residual: Tensor | None,
        doubled: bool,
    ) -> Tensor:
        if shift is not None and shift.stride(1) != 1:
            shift = shift.contiguous()
        if residual is not None:
            residual = residual.contiguous(memory_format=Layout)
        weights = (None, None) if norm is None else (norm.weight, norm.bias)
        settings = None if norm is None else (norm.groups, norm.eps, norm.silu)
        return _Convolution.apply(self, x, conv.weight, conv.bias, *weights, shift, residual, settings, doubled)

    def _takes(self, x: Tensor, types: tuple[torch.dtype, ...]) -> bool:
        return (
            type(x) in (Tensor, nn.Parameter)
            and x.is_cpu
            and x.dtype in types
            and x.dim() == 4
            and x.shape[1] % CHANNELS == 0
            and x.numel() > 0
            and x.is_contiguous(memory_format=Layout)
        )

    # --- calls into the library ------------------------------------------------------------------------------------

    def convolve(
        self,
        x: Tensor,
        weight: Tensor,
        outputs: int,
        tables: tuple[Tensor, Tensor] | None = None,
        silu: bool = False,
        doubled: bool = False,
        turned: bool = False,
        folded: bool = False,
        bias: Tensor | None = None,
        shift: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """y of `convolution` in the source, whose arguments these are."""
        batch, channels, *sides = x.shape
        up = 2 if doubled else 1
        height, width = (side * up for side in sides)
        shrunk = 2 if folded else 1
        y = x.new_empty(batch, height // shrunk, width // shrunk, outputs).permute(0, 3, 1, 2)
        stride = 0 if shift is None else shift.stride(0)
        self._call(
            self.library.convolution, x, batch, height, width, channels, up, *(tables or (None, None)), silu, weight,
            outputs, turned, bias, shift, stride, residual, folded, y,
        )  # fmt: skip
        return y

    def filter_gradient(
        self, x: Tensor, grad: Tensor, tables: tuple[Tensor, Tensor] | None, silu: bool, doubled: bool
    ) -> tuple[Tensor, Tensor]:
        """The gradient of the filters (K, C, 3, 3), and the sums (B, K) of `grad` over the positions."""
        (batch, outputs, height, width), channels = grad.shape, x.shape[1]
        dw = x.new_empty(outputs, 3, 3, channels).permute(0, 3, 1, 2)
        sums = x.new_empty(batch, outputs)
        self._call(
            self.library.convolution_gradient, x, batch, height, width, channels, 2 if doubled else 1,
            *(tables or (None, None)), silu, grad, outputs, dw, sums,
        )  # fmt: skip
        return dw, sums

    def norm_tables(
        self, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Mean and 1 / standard deviation (B, groups), and the tables of scale and shift (B, C)."""
        batch, channels = x.shape[:2]
        mean, rstd = weight.new_empty(2, batch, groups)
        scale, shift = weight.new_empty(2, batch, channels)
        self._call(
            self._norm("tables", x), x, batch, x[0, 0].numel(), channels, groups, eps, weight.contiguous(),
            bias.contiguous(), channels * (weight.dim() == 2), mean, rstd, scale, shift,
        )  # fmt: skip
        return (mean, rstd), (scale, shift)

    def norm_apply(self, x: Tensor, tables: tuple[Tensor, Tensor], silu: bool) -> Tensor:
        y = torch.empty_like(x)
        self._call(self._norm("apply", x), x, len(x), x[0, 0].numel(), x.shape[1], *tables, silu, y)
        return y

    def norm_gradient(
        self,
        x: Tensor,
        weight: Tensor,
        moments: tuple[Tensor, Tensor],
        tables: tuple[Tensor, Tensor],
        silu: bool,
        grad: Tensor,
        dx: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Write the gradient at x, from `grad` at the result, to dx, which may be `grad`; return the gradients of
        weight and bias, shaped like weight.
        """
        batch, channels = x.shape[:2]
        dweight, dbias = weight.new_empty(2, batch, channels)
        self._call(
            self._norm("gradient", x), x, batch, x[0, 0].numel(), channels, moments[0].shape[1], weight.contiguous(),
            channels * (weight.dim() == 2), *moments, *tables, silu, grad, dx, dweight, dbias,
        )  # fmt: skip
        return (dweight, dbias) if weight.dim() == 2 else (dweight.sum(0), dbias.sum(0))

    def _norm(self, name: str, x: Tensor) -> Any:
        """A function of normalisation for the type of x."""
        return getattr(self.library, f"norm_{name}_{str(x.dtype).removeprefix('torch.')}")

    def _call(self, function: Any, *arguments: Tensor | float | None) -> None:
        """Call a function of the library: tensors by their memory, which the caller keeps alive; threads come last."""
        function(*map(as_c, arguments), ctypes.c_int64(torch.get_num_threads()))

    def error(self) -> float:
        """The largest difference of a full step and its gradients from PyTorch's in double precision, as a share of the
        largest number; takes some milliseconds.
        """
        found = []
        for shape in ((1, 6, 5), (1, 36, 32)):  # the two ways through the work: many filters, many tiles
            with torch.inference_mode(False), torch.enable_grad():
                found += _difference(self, *shape)
        return torch.stack(found).max().item()


def as_c(argument: Tensor | float | None) -> ctypes.c_void_p | ctypes.c_float | ctypes.c_int64:
    """An argument of a function in C."""
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int64(argument)


# --- gradients -------------------------------------------------------------------------------------------------------


class _Norm(torch.autograd.Function):
    """Only x is kept for the gradient; the normalised picture is made again."""

    @staticmethod
    def forward(
        ctx, native: Native, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        moments, tables = native.norm_tables(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, *moments, *tables)
        ctx.native, ctx.silu = native, silu
        return native.norm_apply(x, tables, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd, scale, shift = ctx.saved_tensors
        dx, grad = torch.empty_like(x), grad.contiguous(memory_format=Layout)
        dweight, dbias = ctx.native.norm_gradient(x, weight, (mean, rstd), (scale, shift), ctx.silu, grad, dx)
        return None, dx, dweight, dbias, None, None, None


class _Convolution(torch.autograd.Function):
    """conv(doubled(silu(norm(x)))) + shift + residual, in float32 by Winograd's algorithm, in bfloat16 by PyTorch.

    The only picture kept for the gradient is x.
    """

    @staticmethod
    def forward(
        ctx,
        native: Native,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        shift: Tensor | None,
        residual: Tensor | None,
        norm: tuple[int, float, bool] | None,
        doubled: bool,
    ) -> Tensor:
        moments = tables = None
        silu = False
        if norm is not None and norm_weight is not None and norm_bias is not None:
            groups, eps, silu = norm
            moments, tables = native.norm_tables(x, norm_weight, norm_bias, groups, eps)
        weight = weight.contiguous(memory_format=Layout)
        if x.dtype == torch.float32:
            y = native.convolve(
                x, weight, len(weight), tables, silu, doubled, bias=bias, shift=shift, residual=residual
            )
        else:
            h = _convolved(native, x, tables, silu, doubled)
            y = F.conv2d(h, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), padding=1)
            if shift is not None:
                y += shift[:, :, None, None]
            if residual is not None:
                y += residual
        ctx.save_for_backward(x, weight, norm_weight, *(moments or ()), *(tables or ()))
        ctx.native, ctx.silu, ctx.doubled = native, silu, doubled
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        native, silu, doubled = ctx.native, ctx.silu, ctx.doubled
        x, weight, norm_weight, *rest = ctx.saved_tensors
        moments, tables = ((rest[0], rest[1]), (rest[2], rest[3])) if rest else (None, None)
        grad = grad.contiguous(memory_format=Layout)

        of_input = any(ctx.needs_input_grad[i] for i in (1, 4, 5))
        if x.dtype == torch.float32:
            dx = native.convolve(grad, weight, x.shape[1], turned=True, folded=doubled) if of_input else None
            dw, sums = native.filter_gradient(x, grad, tables, silu, doubled)
        else:
            dx, dw, sums = _half_gradient(native, grad, x, weight, tables, silu, doubled, of_input)
        dnorm_weight = dnorm_bias = None
        if moments and tables and dx is not None:
            dnorm_weight, dnorm_bias = native.norm_gradient(x, norm_weight, moments, tables, silu, dx, dx)

        gradients = (None, dx, dw, sums.sum(0), dnorm_weight, dnorm_bias, sums, grad, None, None)
        return tuple(g if wanted else None for g, wanted in zip(gradients, ctx.needs_input_grad, strict=True))


Tables = tuple[Tensor, Tensor] | None  # scale and shift (B, C), see `norm_tables`


def _half_gradient(
    native: Native, grad: Tensor, x: Tensor, weight: Tensor, tables: Tables, silu: bool, doubled: bool, of_input: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients in bfloat16: of the input of the convolution, or None, and of the filters, and the sums (B, K) of
    `grad` over the positions. The input of the convolution and the filters are made again.
    """
    h, once = _convolved(native, x, tables, silu, doubled), [1, 1]
    dx, dw, _ = torch.ops.aten.convolution_backward(
        grad, h, weight.to(x.dtype), None, once, once, once, False, [0, 0], 1, [of_input, True, False]
    )
    if of_input:
        dx = (4 * F.avg_pool2d(dx, 2) if doubled else dx).contiguous(memory_format=Layout)
    return dx, dw, grad.sum((2, 3), dtype=torch.float32)


def _convolved(native: Native, x: Tensor, tables: Tables, silu: bool, doubled: bool) -> Tensor:
    """doubled(silu(norm(x))), the input of a convolution."""
    h = x if tables is None else native.norm_apply(x, tables, silu)
    return F.interpolate(h, scale_factor=2.0) if doubled else h


# --- the check -------------------------------------------------------------------------------------------------------


def _difference(
    native: Native, batch: int, height: int, width: int, inputs: int = 16, outputs: int = 32
) -> list[Tensor]:
    """For the result of a step and the gradient of each of its inputs, the largest difference from PyTorch's."""
    picture = (batch, inputs, height, width)
    shapes = [picture, (outputs, inputs, 3, 3), (outputs,), (inputs,), (inputs,), (batch, outputs)]
    shapes.append((batch, outputs, height, width))
    exact = [_waves(shape).requires_grad_() for shape in shapes]
    single = [value.detach().float() for value in exact]
    ours = [v.contiguous(memory_format=Layout if v.dim() == 4 else torch.contiguous_format) for v in single]
    x, weight, bias, scale, offset, shift, residual = (value.requires_grad_() for value in ours)
    y = _Convolution.apply(native, x, weight, bias, scale, offset, shift, residual, (4, 1e-5, True), False)
    found = [y, *torch.autograd.grad(y, ours, _waves(y.shape).float().contiguous(memory_format=Layout))]

    x, weight, bias, scale, offset, shift, residual = exact
    h = F.silu(F.group_norm(x, 4, scale, offset, 1e-5))
    y = F.conv2d(h, weight, bias, padding=1) + shift[:, :, None, None] + residual
    expected = [y, *torch.autograd.grad(y, exact, _waves(y.shape))]
    return [(a - b).abs().max() / b.abs().max() for a, b in zip(found, expected, strict=True)]


def _waves(shape: Sequence[int]) -> Tensor:
    """Numbers in [-1, 1] without a pattern, the same every time, without a random generator."""
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(places * places * 0.37 + places).reshape(shape)
