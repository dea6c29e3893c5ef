"""The likelihood of the probability-flow ODE (Song et al. 2021, arXiv:2011.13456, eq. 39).

The ODE carries the prior to the data as a smooth change of variables, so densities follow from the divergence of its
slope. It is solved for y = x / alpha against log r, r = sigma / alpha. In these variables it is the same on every
schedule, and its slope is of the size of the noise:

    dy / d log r = y - E[x_0 | x_t]
    log p(y at r_min) = log N(y at r_1; 0, r_1^2) + int_{r_min}^{r_1} div(y - E[x_0 | x_t]) d log r

The divergence is d - tr J with J = d E[x_0 | x_t] / dy, by vector-Jacobian products alone: v^T J v with random signs
v is tr J in expectation (Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367), and its sum over a basis is tr J.

The ends. At r_1 (t = 1) the prior is the model's own, which leaves out alpha_1 x_0: that is part of the model, and
costs about L_T of the bound. At r_min the data stand for data with noise r_min: the measured density is smoothed with
N(0, r_min^2), which is less than 0.01 bits away if the density has a scale of ten r_min or more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoisers import PosteriorMean
from .processes import Gaussian

R_MIN = 1e-3  # an eighth of the step between two values of an 8-bit picture
TOLERANCE = 1e-5  # relative and absolute


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Negative log likelihoods of the probability-flow ODE, in bits per dimension.

    Attributes:
        probes: (K, B), one estimate for each probe; one row if the divergence is exact.
        evaluations: how often the solver evaluated the slope.
    """

    probes: Tensor
    evaluations: int

    @property
    def total(self) -> Tensor:
        """The mean over probes (B,)."""
        return self.probes.mean(0)

    @property
    def error(self) -> Tensor:
        """The standard error (B,) of `total` over probes; NaN if there is only one."""
        if len(self.probes) < 2:
            return torch.full_like(self.total, math.nan)
        return self.probes.std(0) / math.sqrt(len(self.probes))


def ode_likelihood(
    denoiser: PosteriorMean[Gaussian],
    x_0: Tensor,
    probes: Tensor | None,
    r_min: float = R_MIN,
    tolerance: float = TOLERANCE,
    progress: Callable[[float], None] = lambda share: None,
    **cond: Tensor | None,
) -> Likelihood:
    """Return the negative log likelihood of continuous data under the probability-flow ODE.

    The batch is one system of equations, solved by an adaptive Runge-Kutta method of order 5 (SciPy's RK45), whose
    error estimate is the root mean square over all of it.

    Args:
        denoiser: returns E[x_0 | x_t]; differentiable in x_t.
        x_0: data (B, ...) in float64 on the CPU; 8-bit pictures must be dequantised before.
        probes: random signs (K, B, ...) for the trace; None takes it exactly, by as many products as dimensions.
        r_min: the noise-to-signal ratio that the data are taken to have.
        tolerance: tolerance of the solver, relative and absolute.
        progress: called with the share of the path, 0 to 1, that is done.
        cond: the condition, passed to the denoiser.
    """
    from scipy.integrate import solve_ivp

    schedule = denoiser.process.schedule
    batch, size = len(x_0), x_0[0].numel()
    signs = probes
    if signs is None:
        signs = torch.eye(size, dtype=x_0.dtype).reshape(size, 1, *x_0.shape[1:]).expand(size, *x_0.shape)

    r_1 = math.exp(-schedule.log_snr(torch.ones((), dtype=torch.float64)).item() / 2)
    start, end = math.log(r_min), math.log(r_1)
    farthest = start

    def slope(log_r: float, state):
        t = schedule.time_of(torch.tensor(-2 * log_r, dtype=torch.float64))
        y = torch.from_numpy(state[: x_0.numel()]).reshape(x_0.shape)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            mean = denoiser(schedule(t)[0] * y, t, **cond)
            traces = [_quadratic(mean, y, v, keep=k + 1 < len(signs)) for k, v in enumerate(signs)]

        nonlocal farthest
        farthest = max(farthest, log_r)  # the stages of a step, and repeated steps, go back and forth
        progress((farthest - start) / (end - start))
        rows = [(y - mean).detach().flatten(), *(trace.flatten() for trace in traces)]
        return torch.cat(rows).numpy()

    initial = torch.cat([x_0.flatten(), x_0.new_zeros(len(signs) * batch)]).numpy()
    solution = solve_ivp(slope, (start, end), initial, method="RK45", rtol=tolerance, atol=tolerance)
    if not solution.success:
        raise ArithmeticError(f"the probability-flow ODE was not solved: {solution.message}")

    final = torch.from_numpy(solution.y[:, -1])
    y, traces = final[: x_0.numel()].reshape(batch, size), final[x_0.numel() :].reshape(len(signs), batch)
    if probes is None:
        traces = traces.sum(0, keepdim=True)

    log_prior = -((y / r_1) ** 2 + math.log(2 * math.pi) + 2 * end).sum(1) / 2
    log_p = log_prior + size * (end - start) - traces
    return Likelihood(-log_p / (size * math.log(2)), int(solution.nfev))


def _quadratic(mean: Tensor, y: Tensor, v: Tensor, keep: bool) -> Tensor:
    """Return v^T J v (B,) with J = d mean / dy; `keep` the graph for another."""
    (product,) = torch.autograd.grad(mean, y, v.to(mean), retain_graph=keep)
    return (product * v).flatten(1).sum(1)
