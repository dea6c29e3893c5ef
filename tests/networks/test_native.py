"""The kernel in C++ computes what PyTorch computes for all shapes that it accepts, and leaves all others to PyTorch."""

import copy
import ctypes
import math
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
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


@pytest.fixture(scope="session", params=native.INSTRUCTIONS)
def kernel(request, tmp_path_factory):
    """The kernel for each set of instructions that this processor has."""
    name = compiler()
    if request.param == "AVX512" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("needs a processor with AVX-512")
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    native.build(name, request.param, library)
    return native.Native(ctypes.CDLL(str(library)))


@pytest.fixture
def used(kernel):
    with kernels.using(kernel):
        yield kernel


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
    with kernels.using(None):
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
    with kernels.using(None):
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


def test_it_leaves_few_tiles_to_pytorch_which_is_faster_there(kernel):
    assert not kernel.does_convolution(pictures(3, 32, 4, 4), conv(), None)
    assert kernel.does_convolution(pictures(4, 32, 4, 4), conv(), None)
    assert kernel.does_convolution(pictures(1, 32, 5, 5), conv(), None)


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
def fresh(tmp_path, monkeypatch):
    """No kernel has been looked for or chosen yet, and the cache is empty."""
    monkeypatch.setattr(kernels, "_process", None)
    monkeypatch.delenv(native.SWITCH, raising=False)
    native.found.cache_clear()
    yield tmp_path
    native.found.cache_clear()


def refused(home: Path, *words: str) -> None:
    """PyTorch does the work, and it is told why."""
    native.enable(home)
    assert kernels.current() is None
    found = native.find(home)
    assert found.kernel is None
    for word in words:
        assert word in found.reason


def test_it_is_compiled_once_with_a_word_and_then_needs_no_compiler(fresh, monkeypatch, capsys):
    compiler()
    native.enable(fresh)
    kernel = kernels.current()
    assert kernel is native.find(fresh).kernel and kernel
    assert capsys.readouterr().err == "compiling convolutions for this machine, once (some seconds)\n"
    native.found.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert native.find(fresh).kernel
    assert capsys.readouterr().err == ""
    assert len(list(fresh.glob("*/kernel.so"))) == 1


def test_which_steps_it_does_is_the_same_on_every_processor(kernel):
    """Registers of eight numbers would hold 24 channels, those of sixteen not."""
    choices = {
        (batch, channels, side): kernel.does_convolution(
            pictures(batch, channels, side, side), conv(in_channels=channels, out_channels=channels), None
        )
        for batch in (1, 3, 4)
        for channels in (8, 16, 24, 64)
        for side in (4, 5)
    }
    assert choices == {(b, c, s): c % 16 == 0 and b * (4 if s == 5 else 1) >= 4 for b, c, s in choices}


def test_both_instruction_sets_have_the_same_bits(tmp_path):
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("needs a processor with AVX-512")
    found = []
    for instructions in native.INSTRUCTIONS:
        native.build(compiler(), instructions, tmp_path / f"{instructions}.so")
        kernel = native.Native(ctypes.CDLL(str(tmp_path / f"{instructions}.so")))
        torch.manual_seed(0)
        x, w, grad = pictures(4, 48, 17, 16), pictures(80, 48, 3, 3), pictures(4, 80, 17, 16)
        moments, tables = kernel.norm_tables(x, torch.randn(48), torch.randn(48), 4, 1e-5)
        y = kernel.convolve(x, w, 80, tables, silu=True, residual=grad)
        dx = kernel.convolve(grad, w, 48, turned=True)
        of_norm = kernel.norm_gradient(x, torch.ones(48), moments, tables, True, dx, dx)
        half = kernel.norm_apply(x.bfloat16(), tables, True)
        found.append([y, dx, *of_norm, *kernel.filter_gradient(x, grad, tables, True, False), half])
    assert kernel.lanes == 16
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_choice_made_before_is_left_alone(fresh):
    compiler()
    kernels.use(None)
    native.enable(fresh)
    assert kernels.current() is None


def test_a_choice_for_a_block_ends_with_it_and_is_seen_by_no_other_thread(kernel, monkeypatch):
    monkeypatch.setattr(kernels, "_process", None)
    with kernels.using(kernel):
        assert kernels.current() is kernel
        with kernels.using(None):
            assert kernels.current() is None
        with ThreadPoolExecutor(1) as other:
            assert other.submit(kernels.current).result() is None
    assert kernels.current() is None


def test_a_kernel_that_computes_something_else_is_not_used_and_says_so(fresh, monkeypatch):
    wrong = fresh / "wrong.cpp"
    source = native.SOURCE.read_text()
    assert "o[s] = q + t;" in source
    wrong.write_text(source.replace("o[s] = q + t;", "o[s] = q + 1.001f * t;"))
    compiler()
    monkeypatch.setattr(native, "SOURCE", wrong)
    refused(fresh, "its results are not PyTorch's: they differ by ")


@pytest.mark.parametrize("value", [math.nan, math.inf, 2e-4])
def test_the_check_lets_no_odd_number_through(fresh, monkeypatch, value):
    compiler()
    monkeypatch.setattr(native, "_difference", lambda *shape: [torch.tensor(0.0), torch.tensor(value)])
    refused(fresh, "not PyTorch's")


def test_the_check_passes_on_this_machine_and_leaves_no_trace(kernel):
    state = torch.get_rng_state()
    with torch.inference_mode():
        assert 0 < kernel.error() < 1e-5
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_compiler_pytorch_works(fresh, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    refused(fresh, "there is no C++ compiler")
    assert native.find(fresh).fix == "apt install g++"


def test_without_avx2_pytorch_works(fresh, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    refused(fresh, "no AVX2")


def test_with_a_broken_compiler_pytorch_works(fresh, monkeypatch):
    broken = fresh / "c++"
    broken.write_text("#!/bin/sh\necho no header >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    refused(fresh, "does not compile it: no header")


def test_with_a_cache_that_cannot_be_written_to_pytorch_works(fresh):
    (fresh / "file").write_text("")
    refused(fresh / "file", "could not be kept in")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"no library", lambda data: data[: len(data) // 3]])
def test_a_damaged_kernel_is_compiled_anew_and_never_loaded(fresh, capsys, damage):
    native.build(compiler(), "AVX2", fresh / "good.so")
    library = fresh / native.identity(torch.backends.cpu.get_cpu_capability()) / "kernel.so"
    library.parent.mkdir()
    library.write_bytes(damage((fresh / "good.so").read_bytes()))
    library.with_name(native.DIGEST).write_text(native.sha256(fresh / "good.so"))
    assert not native.whole(library)
    assert native.find(fresh).kernel and native.whole(library)
    assert "compiling" in capsys.readouterr().err


def test_a_compiled_kernel_that_others_may_have_written_is_not_loaded(fresh):
    compiler()
    assert native.find(fresh).kernel
    native.found.cache_clear()
    (library,) = fresh.glob("*/kernel.so")
    library.chmod(0o777)
    refused(fresh, "others may have written")


def test_it_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "torch")
    refused(fresh, "$SFUMATO_KERNEL leaves everything to PyTorch")
    assert native.find(fresh).fix == "unset SFUMATO_KERNEL"
