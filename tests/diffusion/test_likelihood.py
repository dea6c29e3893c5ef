"""The probability-flow ODE gives the density itself where the denoiser is exact."""

import math

import pytest
import torch

from sfumato.diffusion import Flow, Gaussian, cosine
from sfumato.diffusion.likelihood import ode_likelihood


class Correlated:
    """The exact denoiser of N(0, C) in three dimensions, whose Jacobian is not diagonal."""

    C = torch.tensor([[0.4, 0.2, -0.1], [0.2, 0.3, 0.1], [-0.1, 0.1, 0.2]], dtype=torch.float64)

    def __init__(self, schedule):
        self.process = Gaussian(schedule)

    def __call__(self, x_t, t, **cond):
        alpha, sigma = self.process.schedule(t)
        covariance = alpha**2 * self.C + sigma**2 * torch.eye(3, dtype=torch.float64)
        return alpha * x_t @ torch.linalg.solve(covariance, self.C)

    def bits(self, x_0):
        normal = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), self.C)
        return -normal.log_prob(x_0) / (3 * math.log(2))


@pytest.fixture
def points() -> torch.Tensor:
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ Correlated.C


def test_on_a_mixture_it_is_the_exact_value_to_a_hundredth_of_a_bit(schedule, mixture):
    exact = mixture(schedule)
    x_0 = torch.linspace(-1.2, 1.4, 12, dtype=torch.float64).reshape(4, 1, 3)  # pictures of three pixels
    found = ode_likelihood(exact, x_0, probes=None)

    each = -(((x_0[..., None] - exact.means) / exact.stds) ** 2) / 2 - exact.stds.log() - math.log(2 * math.pi) / 2
    bits = -(exact.weights.log() + each).logsumexp(-1).mean((1, 2)) / math.log(2)
    # the six betas end at r = 6.4, where the prior without alpha_1 x_0 is another distribution
    alpha, sigma = schedule(torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(found.total, bits, rtol=0, atol=0.01 if alpha / sigma < 0.1 else 0.1)


def test_probes_give_the_exact_value_within_their_error(points):
    exact = Correlated(Flow())
    probes = torch.randint(0, 2, (64, *points.shape), generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    found = ode_likelihood(exact, points, probes)

    assert found.probes.shape == (64, 6) and (found.error > 1e-3).all()
    assert ((found.total - exact.bits(points)).abs() < 4 * found.error).all()


def test_the_exact_divergence_needs_no_probes(points):
    found = ode_likelihood(Correlated(cosine()), points, probes=None)

    torch.testing.assert_close(found.total, Correlated(cosine()).bits(points), rtol=0, atol=1e-3)
    assert found.probes.shape == (1, 6) and found.error.isnan().all()


def test_a_tighter_tolerance_costs_evaluations_and_comes_nearer(points):
    exact = Correlated(Flow())
    loose, tight = (ode_likelihood(exact, points, None, r_min=1e-4, tolerance=v) for v in (1e-3, 1e-7))

    assert tight.evaluations > loose.evaluations
    gaps = [(found.total - exact.bits(points)).abs().max() for found in (loose, tight)]
    assert gaps[1] < 1e-4 and gaps[1] < gaps[0]


def test_the_condition_reaches_the_denoiser_and_the_way_is_told(points):
    exact, seen, told = Correlated(Flow()), [], []

    class Conditional:
        process = exact.process

        def __call__(self, x_t, t, **cond):
            seen.append(cond["vector"])
            return exact(x_t, t)

    ode_likelihood(Conditional(), points, None, progress=told.append, vector=points)
    assert all(value is points for value in seen)
    assert told[0] == 0 and abs(told[-1] - 1) < 1e-9 and told == sorted(told)
