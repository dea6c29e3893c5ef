"""The optimizer is AdamW and Muon as torch has them, whatever the memory format of a weight."""

import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.optim._muon import _zeropower_via_newtonschulz

from sfumato.training.muon import COEFFICIENTS, ITERATIONS, directly, orthogonal
from sfumato.training.optimizers import Optimizer, as_matrix, rate_factor

SHAPES = {
    "in": (8, 3, 3, 3),
    "point": (8, 8, 1, 1),
    "grey": (8, 1, 3, 3),
    "table": (6, 5),
    "volume": (4, 2, 3, 3, 3),
    "bias": (8,),
}
SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}


def weights(channels_last: bool) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    if channels_last:
        tensors = {k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in tensors.items()}
    return {name: nn.Parameter(tensor) for name, tensor in tensors.items()}


def train(parameters: dict[str, nn.Parameter], optimizer: Optimizer, steps: range) -> None:
    """Steps with gradients that depend on the number of the step and on the weights."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in parameters.values():
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator)) + 0.1 * p.detach()
        optimizer.set_rate(rate_factor(step, 20, 3, 0.5))
        optimizer.step()


def values(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in parameters.items()}


def test_muon_does_not_see_the_memory_format() -> None:
    ends = []
    for channels_last in (False, True):
        parameters = weights(channels_last)
        before = values(parameters)
        train(parameters, Optimizer(parameters, "muon", **SETTINGS), range(8))
        ends.append(values(parameters))
        assert all((ends[-1][name] - before[name]).abs().max() > 1e-3 for name in before), "a weight did not move"
    for name in SHAPES:
        # Newton-Schulz runs in bfloat16 (8 bits): sums over columns in another order differ by about 2^-8 of an
        # update, and the eight updates are at most 8 * lr * 0.2 * sqrt(8) = 0.05 in all.
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=0, atol=0.05 * 2**-7, msg=name)


def test_muon_does_not_keep_the_gradients() -> None:
    parameters = weights(channels_last=True)
    optimizer = Optimizer(parameters, "muon", **SETTINGS)
    train(parameters, optimizer, range(1))
    memory = [weakref.ref(p.grad.untyped_storage()) for p in parameters.values() if p.grad is not None]
    for p in parameters.values():
        p.grad = None
    assert len(memory) == len(parameters)
    assert all(storage() is None for storage in memory), "memory of gradients that nobody needs is not free"


@pytest.mark.parametrize("shape", [(32, 288), (288, 32), (48, 64), (64, 64), (3, 300), (1, 9), (259, 2331)])
def test_the_orthogonal_factor_is_the_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator) * torch.logspace(-3, 2, shape[1])  # badly conditioned
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    a, b, c = COEFFICIENTS
    s = s / s.norm()
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    exact = u @ s.diag() @ v

    def error(found: Tensor) -> float:
        return ((found.double() - exact).norm() / exact.norm()).item()

    ours = error(orthogonal(matrix))
    theirs = error(_zeropower_via_newtonschulz(matrix, COEFFICIENTS, ITERATIONS, 1e-7))
    assert ours < 1e-3
    assert ours <= theirs, "no worse than that of torch"
    assert error(orthogonal(1e-3 * matrix)) < 1e-3, "the size of a gradient does not matter"


SPECTRA = {
    "flat": lambda i: torch.ones_like(i),
    "1 / i": lambda i: 1 / i,
    "1 / i^2": lambda i: 1 / i**2,
    "rank one and 1 % of noise": lambda i: torch.where(i == 1, 1.0, 0.01 / len(i) ** 0.5),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(64, 576), (576, 64), (130, 1170), (96, 96)])
def test_the_orthogonal_factor_is_right_along_every_singular_vector(shape: tuple[int, int], spectrum: str) -> None:
    generator = torch.Generator().manual_seed(3)
    rank = min(shape)
    u, v = (torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64))[0] for n in shape)
    s = SPECTRA[spectrum](torch.arange(1, rank + 1, dtype=torch.float64))
    matrix = (u * s @ v.T).float()
    a, b, c = COEFFICIENTS
    s = s / s.norm()
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5

    def errors(found: Tensor) -> Tensor:
        """Along each right singular vector, as a share of what stands there."""
        return (found.double() @ v - u * s).norm(dim=0) / s

    ours = errors(orthogonal(matrix))
    assert ours.max() < 0.02
    wide = matrix if shape[0] < shape[1] else matrix.T
    found = directly(wide.bfloat16())
    assert ours.max() < errors(found if wide is matrix else found.T).max(), "worse than the iterations on the matrix"


def test_a_matrix_of_zeros_stays_what_it_is() -> None:
    assert not orthogonal(torch.zeros(4, 40)).any() and not orthogonal(torch.zeros(4, 4)).any()


@pytest.mark.parametrize("name", ["in", "point", "grey", "volume", "table"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_matrix_of_a_weight_is_a_view_with_the_columns_in_memory_order(name: str, channels_last: bool) -> None:
    p = weights(channels_last)[name].detach()
    matrix = as_matrix(p, p)
    assert matrix.shape == (p.shape[0], p[0].numel())
    assert matrix.is_contiguous() and matrix.data_ptr() == p.data_ptr()
    assert torch.equal(matrix.sort(1).values, p.flatten(1).sort(1).values)


def test_muon_on_matrices_and_adamw_on_the_rest_are_those_of_torch() -> None:
    ours, theirs = weights(False), weights(False)
    flat = [theirs["bias"]]
    wide = {name: nn.Parameter(p.detach().flatten(1)) for name, p in theirs.items() if p.ndim > 1}
    adamw = torch.optim.AdamW(flat, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0)
    muon = torch.optim.Muon(wide.values(), lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    optimizer = Optimizer(ours, "muon", **SETTINGS)
    for step in range(4):
        train(ours, optimizer, range(step, step + 1))
        for group in adamw.param_groups + muon.param_groups:
            group["lr"] = 1e-2 * rate_factor(step, 20, 3, 0.5)
        generator = torch.Generator().manual_seed(step)
        for name in SHAPES:
            p = theirs[name] if name == "bias" else wide[name]
            p.grad = torch.randn(SHAPES[name], generator=generator).reshape(p.shape) + 0.1 * p.detach()
        adamw.step()
        muon.step()
    for name in wide:
        # Torch iterates in bfloat16: 2^-7 of four updates.
        atol = 4 * 1e-2 * 0.2 * max(wide[name].shape) ** 0.5 * 2**-7
        torch.testing.assert_close(ours[name].detach().flatten(1), wide[name].detach(), rtol=0, atol=atol, msg=name)
    torch.testing.assert_close(ours["bias"], theirs["bias"], rtol=1e-6, atol=1e-7)  # fused against the plain loop


def test_adamw_is_that_of_torch_with_decay_on_wide_tensors_only() -> None:
    ours, theirs = weights(True), weights(False)
    flat = {"params": [theirs["bias"]], "weight_decay": 0.0}
    wide = {"params": [p for p in theirs.values() if p.ndim > 1], "weight_decay": 0.1}
    reference = torch.optim.AdamW([wide, flat], lr=1e-2, betas=(0.9, 0.99))
    optimizer = Optimizer(ours, "adamw", **SETTINGS)
    assert optimizer.muon is None
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        for p in theirs.values():
            p.grad = torch.randn(p.shape, generator=generator) + 0.1 * p.detach()
        for group in reference.param_groups:
            group["lr"] = 1e-2 * rate_factor(step, 20, 3, 0.5)
        reference.step()
        train(ours, optimizer, range(step, step + 1))
    for name in SHAPES:
        torch.testing.assert_close(values(ours)[name], values(theirs)[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_restored_optimizer_goes_on_bit_for_bit(kind: str, channels_last: bool) -> None:
    whole = weights(channels_last)
    train(whole, Optimizer(whole, kind, **SETTINGS), range(10))

    first = weights(channels_last)
    optimizer = Optimizer(first, kind, **SETTINGS)
    train(first, optimizer, range(6))
    saved = {name: v.contiguous().clone() for name, v in optimizer.state().items()}  # as safetensors has them
    assert len(saved) == (18 if kind == "adamw" else 8)

    second = weights(channels_last)
    with torch.no_grad():
        for name, p in second.items():
            p.copy_(values(first)[name])
    restored = Optimizer(second, kind, **SETTINGS)
    restored.load_state(saved)
    train(second, restored, range(6, 10))
    for name in SHAPES:
        assert torch.equal(second[name], whole[name]), name
    assert restored.state().keys() == saved.keys()

    third = weights(channels_last)  # the control: without its state the optimizer goes elsewhere
    with torch.no_grad():
        for name, p in third.items():
            p.copy_(values(first)[name])
    train(third, Optimizer(third, kind, **SETTINGS), range(6, 10))
    assert not any(torch.equal(third[name], whole[name]) for name in SHAPES)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    steps, warmup, share = 100, 10, 0.4
    rates = [rate_factor(step, steps, warmup, share) for step in range(steps)]
    assert rates[:warmup] == pytest.approx([(i + 1) / warmup for i in range(warmup)])
    assert rates[warmup:60] == [1.0] * 50
    assert rates[60:] == pytest.approx([(steps - step) / 40 for step in range(60, 100)])
    assert rate_factor(steps, steps, warmup, share) == 0


def test_without_warmup_and_decay_the_rate_is_constant() -> None:
    assert {rate_factor(step, 50, 0, 0.0) for step in range(50)} == {1.0}
    assert [rate_factor(step, 4, 0, 1.0) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
