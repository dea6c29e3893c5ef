"""Muon (Jordan et al. 2024): momentum made orthogonal, the step scaled to AdamW's size (Liu et al. 2025).

Five iterations X <- (a I + b A + c A^2) X with A = X X^T, from X = G / |G|, approach the orthogonal factor of a matrix
G. All of them are polynomials in the initial A, so they can be carried out on A alone,

    P <- Q P,    A <- Q A Q,    Q = a I + b A + c A^2,

and X is multiplied once, at the end. For a matrix (m, n) these are 17 m^3 + 2 m^2 n multiplications instead of
5 m^3 + 10 m^2 n, fewer from n = 1.5 m on; the matrix of a 3x3 convolution has n = 9 m. A, P and Q are symmetric, so
only one side of the diagonal of their products is computed, in blocks.

On the CPU everything is float32, including the last product: P grows to 3.4^5 = 480 along small singular values, and
entries of that size must cancel along the large ones. The 8 bits of bfloat16 are too coarse for that (the first
singular vector of a matrix with singular values 1 / i^2 would be off by 80 %). The result is right to about 1 % along
every singular vector. Nearly square matrices use the iterations on X, also in float32: a processor without
instructions for bfloat16 multiplies it 20 times as slowly (see `benchmarks/LOG.md`). Other devices use the iterations
on X in bfloat16, as published.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # steepest at 0; singular values end between 0.7 and 1.2
ITERATIONS = 5
LEAST = 1e-7  # a smaller norm counts as zero
WIDE = 2  # n / m from which the iterations use A
BLOCK = 128  # rows of a symmetric product up to which both sides of the diagonal are computed


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum and decoupled decay; one learning rate fits it and AdamW.

    Args:
        params: matrices.
        lr: the learning rate; a step has a root mean square of about 0.2 lr.
        weight_decay: decoupled.
        momentum: momentum of the gradient's average.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - there is no closure to ask for
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                average = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                update = orthogonal(p.grad.lerp(average, momentum))
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update, alpha=-0.2 * lr * max(p.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearly orthogonal factor of a matrix (m, n), float32 on the CPU and bfloat16 elsewhere."""
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if not x.is_cpu:
        found = directly(x.bfloat16())
    elif x.shape[1] >= WIDE * x.shape[0]:
        found = through_gram(x.float())
    else:
        found = directly(x.float())
    return found if x is matrix else found.T


def directly(x: Tensor) -> Tensor:
    """The iterations on x (m, n) itself."""
    a, b, c = COEFFICIENTS
    x = x / x.norm().clamp(min=LEAST)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def through_gram(x: Tensor) -> Tensor:
    """The iterations on x x^T, and one product with x (m, n) at the end."""
    a, b, c = COEFFICIENTS
    x = x / x.norm().clamp(min=LEAST)
    gram = symmetric(x, x.T)
    product = None
    for i in range(ITERATIONS):
        q = symmetric(gram, gram).mul_(c).add_(gram, alpha=b)
        q.diagonal().add_(a)
        product = q if product is None else symmetric(q, product)
        if i < ITERATIONS - 1:
            gram = symmetric(symmetric(q, gram), q)
    assert product is not None
    return product @ x


def symmetric(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """The product (m, m) of a (m, n) and b (n, m) that is known to be symmetric, in `out` if it is given."""
    m = len(a)
    out = a.new_empty(m, m) if out is None else out
    if m <= BLOCK:
        return torch.mm(a, b, out=out)
    half = m // 2
    above, below = slice(half), slice(half, None)
    symmetric(a[above], b[:, above], out[above, above])
    symmetric(a[below], b[:, below], out[below, below])
    torch.mm(a[above], b[:, below], out=out[above, below])
    out[below, above] = out[above, below].T
    return out
