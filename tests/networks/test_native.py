"""The kernel in C++ computes what PyTorch computes, for all shapes that it takes, and steps aside for all others."""

import copy
import ctypes
import math
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sfumato.networks import UNet, kernels, native
from sfumato.networks.fused import Doubling, convolve
from sfumato.networks.group_norm import GroupNorm
from sfumato.networks.recompute import checkpoint_activations

TOLERANCE = 1e-5  # of the largest entry


def compiler() -> str:
    path = next(filter(None, map(shutil.which, native.COMPILERS)), None)
    if path is None or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("the kernel needs a C++ compiler and a processor with AVX2")
    return path


@pytest.fixture(scope="session", params=["native", "x86-64-v3"])
def kernel(request, tmp_path_factory):
    """The kernel for this processor, and for one that has AVX2 and no more."""
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    options = [option.replace("native", request.param) for option in native.OPTIONS]
    subprocess.run([compiler(), *options, str(native.SOURCE), "-o", str(library)], check=True)
    return native.Native(ctypes.CDLL(str(library)))


@pytest.fixture
def used(kernel):
    before = kernels.current()
    kernels.use(kernel)
    yield kernel
    kernels.use(before)


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def channels_last(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_it_is_compiled_for_two_widths_of_registers(kernel):
    assert kernel.lanes in (8, 16)


# --- what it computes ------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 5),
    height=st.integers(1, 21),
    width=st.integers(1, 21),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_the_convolution_of_any_shape_is_that_of_pytorch(kernel, batch, height, width, inputs, outputs, seed):
    torch.manual_seed(seed)
    x, w = pictures(batch, 16 * inputs, height, width), pictures(16 * outputs, 16 * inputs, 3, 3)
    bias, shift, residual = torch.randn(len(w)), torch.randn(batch, len(w)), pictures(batch, len(w), height, width)
    found = kernel.convolve(x, w, len(w), bias=bias, shift=shift, residual=residual)
    expected = F.conv2d(x.double(), w.double(), bias.double(), padding=1) + shift[:, :, None, None] + residual
    assert_close(found, expected)


# Shapes of both ways through the work (many tiles, many filters), with more than a chunk of tiles, and odd sides.
SHAPES = [(9, 32, 48, 16, 16), (40, 16, 32, 16, 16), (2, 64, 96, 8, 8), (3, 32, 32, 7, 5), (1, 16, 16, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", ["plain", "norm", "tables", "no silu", "doubled"])
def test_result_and_gradients_of_a_fused_step_are_those_of_its_parts(used, shape, case):
    torch.manual_seed(1)
    batch, inputs, outputs, height, width = shape
    conv = channels_last(nn.Conv2d(inputs, outputs, 3, padding=1))
    norm = GroupNorm(4, inputs, silu=case != "no silu", eps=1e-5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, residual = pictures(batch, inputs, height, width), pictures(batch, outputs, height, width)
    shift, tables = torch.randn(batch, 2 * outputs), torch.randn(2, batch, inputs)
    leaves = [x, residual, shift, tables]

    def run(double: bool):
        parts = nn.ModuleList([conv, norm])
        parts = parts.double() if double else parts.float()
        channels_last(conv)
        given = [leaf.double() if double else leaf.clone() for leaf in leaves]
        for leaf in given:
            leaf.requires_grad_()
        x, residual, shift, tables = given
        if case == "doubled":
            y = Doubling(nn.Upsample(scale_factor=2), conv)(x)
        elif case == "plain":
            y = used.convolution(x, conv, None, None, None, False) if not double else conv(x)
        else:
            added = tuple(tables) if case == "tables" else ()
            y = convolve(x, conv, norm, added, shift=shift.chunk(2, dim=1)[1], residual=residual)
        weight = torch.linspace(-1, 2, y.numel()).view(y.shape)
        y.backward(weight.double() if double else weight)
        gradients = [*given, *parts.parameters()]
        found = [y.detach(), *(leaf.grad for leaf in gradients if leaf.grad is not None)]
        parts.zero_grad()
        return found

    found = run(double=False)
    expected = run(double=True)
    assert len(found) == len(expected) >= 4
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", ["norm", "tables", "no silu", "doubled"])
def test_in_bfloat16_a_fused_step_is_as_exact_as_its_parts_and_keeps_half_as_much(used, shape, case):
    torch.manual_seed(1)
    batch, inputs, outputs, height, width = shape
    conv = channels_last(nn.Conv2d(inputs, outputs, 3, padding=1))
    norm = GroupNorm(4, inputs, silu=case != "no silu", eps=1e-5)
    x, residual = (pictures(batch, c, height, width).bfloat16() for c in (inputs, outputs))
    shift, tables = torch.randn(batch, 2 * outputs).bfloat16(), torch.randn(2, batch, inputs)

    def run(dtype: torch.dtype | None = None) -> tuple[list[torch.Tensor], int]:
        kept = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dim() == 4 and len(tensor) == batch:
                kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        parts = nn.ModuleList([conv, norm]).to(dtype or torch.float32)
        channels_last(conv)
        given = [leaf.to(dtype or leaf.dtype, copy=True).requires_grad_() for leaf in (x, residual, shift, tables)]
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=dtype is None),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            if case == "doubled":
                y = Doubling(nn.Upsample(scale_factor=2), conv)(given[0])
            else:
                added = tuple(given[3]) if case == "tables" else ()
                y = convolve(given[0], conv, norm, added, shift=given[2].chunk(2, dim=1)[1], residual=given[1])
        assert y.grad_fn is not None
        assert (y.grad_fn.name() == "_ConvolutionBackward") == (dtype is None and kernels.current() is not None)
        y.backward(torch.linspace(-1, 2, y.numel()).bfloat16().view(y.shape).to(y.dtype))
        gradients = [*given, *parts.parameters()]
        found = [y.detach(), *(leaf.grad for leaf in gradients if leaf.grad is not None)]
        parts.zero_grad()
        return found, sum(kept.values())

    ours, few = run()
    exact, _ = run(torch.float64)
    kernels.use(None)
    theirs, many = run()
    assert few == x.numel() and many >= 2 * few
    assert len(ours) == len(theirs) == len(exact) >= 4
    for a, b, e in zip(ours, theirs, exact, strict=True):
        assert a.dtype == b.dtype
        assert (a - e).norm() <= 1.1 * (b - e).norm() + 1e-6 * e.norm()


# Largest error, of the largest entry: a rounding to bfloat16 is one of 2^-8.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.bfloat16, 1.01 * 2**-8)], ids=str)
@pytest.mark.parametrize("silu", [True, False])
def test_a_norm_alone_is_that_of_pytorch(used, silu, dtype, tolerance):
    norm = GroupNorm(8, 32, silu=silu)
    x = (pictures(3, 32, 5, 9) + 3).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        y = norm(x)
    assert y.dtype == dtype
    grad = torch.randn_like(y)
    y.backward(grad)
    z = x.detach().double().requires_grad_()
    expected = F.group_norm(z, 8, eps=norm.eps)
    expected = F.silu(expected) if silu else expected
    expected.backward(grad.double())
    assert y.grad_fn.name() == "_NormBackward"
    assert_close(y, expected, tolerance)
    assert x.grad is not None and z.grad is not None
    assert_close(x.grad, z.grad, tolerance)


def test_bfloat16_is_rounded_as_pytorch_rounds(kernel):
    x = torch.randint(-(2**31), 2**31 - 1, (1, 16, 64, 64), dtype=torch.int32).view(torch.float32)
    x[0, 0, 0] = torch.tensor([math.nan, math.inf, -math.inf, 0.0] * 16)
    scale = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(-1, 16)  # of 0 x + shift
    y = kernel.norm_apply(torch.zeros(len(scale), 16, 1, 1).bfloat16(), (torch.zeros_like(scale), scale), False)
    torch.testing.assert_close(y[:, :, 0, 0], scale.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_a_norm_far_from_zero_keeps_its_digits(kernel):
    x = pictures(2, 16, 32, 32) + 100
    _, (scale, shift) = kernel.norm_tables(x, torch.ones(16), torch.zeros(16), 4, 1e-6)
    found = kernel.norm_apply(x, (scale, shift), False)
    assert_close(found, F.group_norm(x.double(), 4, eps=1e-6), 1e-4)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_network_and_its_gradients_are_the_same_with_and_without_it(used, wake, scale_shift):
    torch.manual_seed(0)
    net = wake(UNet(3, channels=32, multipliers=(1, 2), attention_level=1, groups=8, scale_shift=scale_shift))
    net = channels_last(net)
    x, time = pictures(4, 3, 16, 16), torch.rand(4) * 1000

    def run():
        net.zero_grad()
        y = net(x, time)
        y.square().mean().backward()
        return [y.detach(), *(p.grad for p in net.parameters())]

    ours = run()
    kernels.use(None)
    theirs = run()
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, 3e-5)


def test_bits_depend_neither_on_the_neighbours_nor_on_the_threads(kernel):
    x, w = pictures(40, 32, 16, 16), pictures(16, 32, 3, 3)
    together = kernel.convolve(x, w, 16)
    assert torch.equal(kernel.convolve(x[7:8], w, 16), together[7:8])
    dw, _ = kernel.filter_gradient(x, together, None, False, False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(kernel.convolve(x, w, 16), together)
        assert torch.equal(kernel.filter_gradient(x, together, None, False, False)[0], dw)
    finally:
        torch.set_num_threads(before)


# --- when it steps aside ---------------------------------------------------------------------------------------------


def conv(**changes) -> nn.Conv2d:
    return nn.Conv2d(**{"in_channels": 32, "out_channels": 32, "kernel_size": 3, "padding": 1, **changes})


def test_it_takes_what_it_is_made_for(kernel):
    assert kernel.does_convolution(pictures(2, 32, 8, 8), conv(), None)


@pytest.mark.parametrize(
    "x",
    [torch.randn(2, 32, 8, 8), pictures(2, 32, 8, 8).double(), pictures(2, 32, 8, 8).bfloat16(), pictures(2, 12, 8, 8)],
    ids=["contiguous", "double", "half", "channels"],
)
def test_it_leaves_other_pictures_to_pytorch(kernel, x):
    assert not kernel.does_convolution(x, conv(in_channels=x.shape[1]), None)
    assert kernel.does_norm(x, GroupNorm(4, x.shape[1]).settings()) == (x.dtype == torch.bfloat16)


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 2},
        {"kernel_size": 1, "padding": 0},
        {"padding": 0},
        {"groups": 2},
        {"dilation": 2},
        {"out_channels": 3},
        {"padding_mode": "circular"},
    ],
    ids=str,
)
def test_it_leaves_other_convolutions_to_pytorch(kernel, changes):
    assert not kernel.does_convolution(pictures(2, 32, 8, 8), conv(**changes), None)


def test_it_leaves_few_tiles_to_pytorch_where_pytorch_was_faster(kernel, monkeypatch):
    monkeypatch.setattr(kernel, "least", 16)
    assert not kernel.does_convolution(pictures(3, 32, 8, 8), conv(), None)
    assert kernel.does_convolution(pictures(4, 32, 8, 8), conv(), None)


def test_autocast_and_whoever_watches_pytorch_see_pytorch(used):
    with torch.autocast("cpu", torch.bfloat16):
        assert not used.does_convolution(pictures(2, 32, 8, 8), conv(), None)
    with FlopCounterMode(display=False) as counter:
        Doubling(nn.Upsample(scale_factor=2), channels_last(conv()))(pictures(1, 32, 4, 4))
    assert counter.get_total_flops() == 2 * 9 * 32 * 32 * 64


def test_dropout_is_not_fused(used):
    layer = channels_last(conv())
    norm, x, drop = GroupNorm(8, 32, silu=True), pictures(1, 32, 8, 8), nn.Dropout(0.9)
    torch.manual_seed(0)
    found = convolve(x, layer, norm, dropout=drop)
    torch.manual_seed(0)
    assert_close(found, layer(drop(norm(x))))
    assert not torch.allclose(found, convolve(x, layer, norm, dropout=drop.eval()))


def test_it_goes_with_activation_checkpointing(used, wake):
    network = channels_last(wake(UNet(3, channels=32, multipliers=(1, 2), attention_level=1)))
    again = copy.deepcopy(network)
    checkpoint_activations(again)
    x, t = pictures(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    for model in (network, again):
        model(x, t).square().sum().backward()
    for p, q in zip(network.parameters(), again.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        assert torch.equal(p.grad, q.grad)


# --- building --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path):
    """No kernel has been looked for yet, and the cache is empty."""
    native.found.cache_clear()
    before = kernels.current()
    yield tmp_path
    native.found.cache_clear()
    kernels.use(before)


def least(home: Path) -> int:
    kernel = native.found(home)
    assert kernel
    return kernel.least


def test_it_is_built_once_and_its_measurement_kept(fresh, monkeypatch):
    compiler()
    monkeypatch.setattr(native.Native, "speed", lambda self, tiles: 0.9 if tiles == 4 else 2.0)
    assert native.enable(fresh) is kernels.current()
    assert least(fresh) == 16, "from there on it is faster everywhere"
    native.found.cache_clear()
    monkeypatch.setattr(native.Native, "speed", lambda self, tiles: pytest.fail("measured again"))
    assert least(fresh) == 16
    assert len(list(fresh.glob("*/kernel.so"))) == 1


def test_where_it_is_slower_pytorch_works(fresh, monkeypatch):
    compiler()
    monkeypatch.setattr(native.Native, "speed", lambda self, tiles: 0.9)
    assert native.enable(fresh) is None
    assert kernels.current() is None


def test_without_a_compiler_pytorch_works(fresh, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert native.enable(fresh) is None


def test_with_a_broken_compiler_pytorch_works(fresh, monkeypatch):
    broken = fresh / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    assert native.enable(fresh) is None


def test_with_a_cache_that_cannot_be_written_to_pytorch_works(fresh):
    (fresh / "file").write_text("")
    assert native.enable(fresh / "file") is None


def test_a_compiled_kernel_that_others_may_have_written_is_not_loaded(fresh, monkeypatch):
    compiler()
    monkeypatch.setattr(native.Native, "speed", lambda self, tiles: 2.0)
    assert native.enable(fresh)
    native.found.cache_clear()
    (library,) = fresh.glob("*/kernel.so")
    library.chmod(0o777)
    assert native.enable(fresh) is None


def test_it_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "torch")
    assert native.enable(fresh) is None
