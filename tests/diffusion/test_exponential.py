"""The weights integrate polynomials exactly; a part of the integral costs an order; impossible settings are refused."""

import itertools

import pytest
import torch

from sfumato.diffusion import DEIS, Adams, Seen, dpm_solver_pp_3m, linear_beta, uni_pc
from sfumato.diffusion.exponential import b1, b2, weights


def integral(f, h, c):
    """The integral of c e^(-c (h - v)) f(v) from 0 to h by the midpoint rule."""
    v = (torch.arange(20_000, dtype=torch.float64) + 0.5) * h / 20_000
    return (c * torch.exp(-c * (h - v)) * f(v)).mean() * h


@pytest.mark.parametrize("c", [-1.0, 1.0, 1.36, 2.0])
@pytest.mark.parametrize("h", [0.02, 0.7, 4.0])
@pytest.mark.parametrize("nodes", [[0.0], [0.0, -0.5], [0.0, -0.5, -0.8], [1.0, 0.0, -0.5, -0.8]])
def test_the_weights_integrate_polynomials_of_a_lower_degree_than_nodes(nodes, h, c):
    places = [torch.tensor(node * h, dtype=torch.float64) for node in nodes]
    w = weights(places, torch.tensor(h, dtype=torch.float64), c)
    for k in range(len(nodes)):
        found = sum(w[j] * (place / h) ** k for j, place in enumerate(places))
        torch.testing.assert_close(found, integral(lambda v, k=k: (v / h) ** k, h, c), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("rule", [b1, b2])
def test_the_rules_of_uni_pc_are_the_integral_up_to_third_order(rule):
    def off(h):
        nodes = [torch.zeros_like(h), -h / 2]
        return (weights(nodes, h, 1.3, rule) - weights(nodes, h, 1.3))[1].abs()

    small = torch.tensor(0.01, dtype=torch.float64)
    # a linear f changes by O(h) from node to node, so that O(h^2) in the weights is O(h^3) in the sum
    torch.testing.assert_close(off(2 * small) / off(small), torch.tensor(4.0, dtype=torch.float64), rtol=0.05, atol=0)


def test_times_per_example_have_weights_of_their_own():
    h = torch.tensor([0.1, 2.0, torch.inf], dtype=torch.float64)
    nodes = [torch.zeros(3, dtype=torch.float64), torch.tensor([-0.2, -1.0, -0.7], dtype=torch.float64)]
    together = weights(nodes, h, 1.0)
    for i in range(2):
        torch.testing.assert_close(together[i], weights([node[i] for node in nodes], h[i], 1.0))
    assert together[2].tolist() == [1.0, 0.0]  # an endless step has the last value alone


def published_3m(denoiser, x, t, s, state, noise, **cond):
    """DPM-Solver++(3M) as published: half of the quadratic term of the integral."""
    x_s, state = dpm_solver_pp_3m(denoiser, x, t, s, state, noise, **cond)
    if len(state) == 3:
        schedule = denoiser.process.schedule
        v0, v1, v2 = (schedule.log_snr(seen.t) / 2 for seen in state)
        m0, m1, m2 = (seen.mean for seen in state)
        h = schedule.log_snr(s) / 2 - v0
        quadratic = ((m0 - m1) / (v0 - v1) - (m1 - m2) / (v1 - v2)) / (v0 - v2)
        x_s = x_s - schedule(s)[0] * quadratic * integral(lambda v: v**2, h, 1.0) / 2
    return x_s, state


@pytest.mark.parametrize(("solver", "order"), [(dpm_solver_pp_3m, 3), (published_3m, 2)], ids=["whole", "published"])
def test_half_of_the_quadratic_term_costs_an_order(solver, order, mixture, slope):
    exact, errors = mixture(linear_beta()), []
    for n in (32, 64, 128):
        times = linear_beta().time_of(-2 * torch.linspace(3.0, -3.0, n + 1, dtype=torch.float64))
        sigma = linear_beta()(times[2])[1]
        x = start = sigma * torch.linspace(-2, 2, 9, dtype=torch.float64)
        past = [(u, exact.transport(start, times[2], u)) for u in times[:2]]
        state = tuple(Seen(u, x_u, exact(x_u, u)) for u, x_u in reversed(past))
        for t, s in itertools.pairwise(times[2:]):
            x, state = solver(exact, x, t, s, state, torch.randn_like)
        errors.append(float((x - exact.transport(start, times[2], times[-1])).square().mean().sqrt()))
    assert abs(slope([32, 64, 128], errors) - order) < 0.15, errors


@pytest.mark.parametrize("make", [Adams, uni_pc, DEIS])
@pytest.mark.parametrize("order", [0, 4])
def test_an_order_outside_1_to_3_is_refused(make, order):
    with pytest.raises(ValueError, match=f"points = {order} must be 1, 2 or 3"):
        make(order)


def test_a_negative_tau_is_refused():
    with pytest.raises(ValueError, match="tau = -1 must be at least 0"):
        Adams(2, tau=-1.0)
