"""The variational bound is a bound: above the exact value, near it for many steps, and the same in its two forms."""

import math

import pytest
import torch

from sfumato.diffusion import Gaussian, cosine, grids, linear_beta
from sfumato.diffusion.bound import (
    Discretized,
    continuous_bound,
    decoder_of,
    density,
    discrete_bound,
    discretized,
    term,
)
from sfumato.diffusion.reverse import large, small

N = 2048  # data points, evenly spread over the quantiles; their noise is too, so that means are nearly integrals
R_MIN = 0.02


def spread(n: int, axis: int) -> torch.Tensor:
    """n numbers that fill (0, 1) evenly, and jointly with those of the other axes: 0 data, 1 noise, 2 times."""
    return torch.quasirandom.SobolEngine(3, scramble=True, seed=3).draw(n, dtype=torch.float64)[:, axis].contiguous()


def even_noise(n: int):
    """Normal noise (n, 1) of a step, evenly spread over its quantiles, of mean 0 and variance 1 in every step."""
    places = spread(n, 1)

    def noise(step: int) -> torch.Tensor:
        shift = torch.rand((), generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        drawn = torch.special.ndtri(((places + shift) % 1).clamp(1e-9, 1 - 1e-9))[:, None]
        return (drawn - drawn.mean()) / drawn.std(correction=0)

    return noise


def quantiles(exact, n: int) -> torch.Tensor:
    """Data points (n, 1) of a mixture, by the inverse of its distribution function."""
    wanted, low, high = spread(n, 0), *(torch.full((n,), end, dtype=torch.float64) for end in (-9, 9))
    for _ in range(60):
        middle = (low + high) / 2
        below = (exact.weights * torch.special.ndtr((middle[:, None] - exact.means) / exact.stds)).sum(-1) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low[:, None]


def exact_bits(exact, x_0) -> torch.Tensor:
    """-log2 p(x_0) (n,)."""
    each = -(((x_0 - exact.means) / exact.stds) ** 2) / 2 - exact.stds.log() - math.log(2 * math.pi) / 2
    return -(exact.weights.log() + each).logsumexp(-1) / math.log(2)


def grid(schedule, n):
    return grids.log_snr(schedule, n, sigma_min=R_MIN)


def test_on_a_mixture_both_bounds_are_the_exact_value_to_a_hundredth_of_a_bit_and_never_below(schedule, mixture):
    exact = mixture(schedule)
    x_0, times = quantiles(exact, N), grid(schedule, 300)
    discrete = discrete_bound(exact, x_0, times, even_noise(N), decoder=density)
    u = (spread(N, 2)[:, None] + torch.rand(100, generator=torch.Generator().manual_seed(0))) % 1
    continuous = continuous_bound(exact, x_0, times[-2], u, even_noise(N), decoder=density)

    for bound in (discrete, continuous):
        gap = (bound.total - exact_bits(exact, x_0)).mean()
        assert -0.003 < gap < 0.01


@pytest.mark.parametrize("variance", [small, large])
def test_the_bound_falls_to_the_exact_value_as_the_chain_grows(schedule, gaussian_data, variance):
    exact = gaussian_data(schedule)
    x_0 = quantiles(exact, N)
    gaps = []
    for n in (3, 10, 30, 100):
        bound = discrete_bound(exact, x_0, grid(schedule, n), even_noise(N), variance, density)
        gaps.append((bound.total - exact_bits(exact, x_0)).mean().item())

    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] > -0.003
    assert gaps[3] < gaps[0] / 8


def test_the_form_with_conditional_entropies_is_the_same_number(schedule, mixture):
    exact = mixture(schedule)
    x_0, times = quantiles(exact, 32), grids.uniform(schedule, 100)
    bound = discrete_bound(exact, x_0, times, even_noise(32), small, density)

    torch.testing.assert_close(bound.entropies.kl, bound.kl.sum(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bound.entropies.total, bound.total, rtol=1e-9, atol=1e-9)


def test_the_parts_are_the_divergences_that_torch_knows(mixture):
    process, exact = Gaussian(linear_beta()), mixture(linear_beta())
    x_0, t, s = (torch.tensor([v], dtype=torch.float64) for v in (0.4, 0.3, 0.28))
    x_0 = x_0[:, None]
    x_t = process.forward(x_0, t, torch.ones_like(x_0))
    found = term(process, x_0, x_t, exact(x_t, t), None, t, s, small)

    (mean_q, std), (mean_p, _) = process.posterior(x_t, x_0, t, s), process.posterior(x_t, exact(x_t, t), t, s)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean_q, std), normal(mean_p, std))
    torch.testing.assert_close(found, kl[:, 0] / math.log(2), rtol=1e-6, atol=0)

    alpha, sigma = process.schedule(torch.ones(1, dtype=torch.float64))
    prior = torch.distributions.kl_divergence(normal(alpha * x_0, sigma), normal(torch.zeros_like(x_0), sigma))
    bound = discrete_bound(exact, x_0, grids.uniform(process.schedule, 3), torch.ones_like(x_0).mul)
    torch.testing.assert_close(bound.prior, prior[:, 0] / math.log(2))


@pytest.mark.parametrize("std", [1e-4, 0.003, 0.3, 30.0])
@pytest.mark.parametrize("mean", [-1.2, -1.0, 0.111, 0.99, 3.0])
def test_the_discretised_decoder_sums_to_one_over_the_256_values(mean, std):
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log_p = discretized(values, torch.full_like(values, mean), torch.full_like(values, 2 * math.log(std)))

    assert not log_p.isnan().any() and (log_p <= 0).all()
    assert abs(log_p.exp().sum() - 1) < 1e-9


@pytest.mark.parametrize("count", [2, 17, 65_536])
def test_a_decoder_of_any_bin_sums_to_one_over_its_values_with_bounds_and_without(count):
    width = 2 / (count - 1)
    values = torch.arange(count, dtype=torch.float64) * width - 1
    log_p = Discretized(width)(values, torch.full_like(values, 0.3), torch.full_like(values, 2 * math.log(0.4)))
    assert abs(log_p.exp().sum() - 1) < 1e-9

    wide = (torch.arange(40 * count, dtype=torch.float64) - 20 * count) * width
    log_p = Discretized(width, None)(wide, torch.full_like(wide, 0.3), torch.full_like(wide, 2 * math.log(0.4)))
    assert abs(log_p.exp().sum() - 1) < 1e-9


def test_continuous_values_have_a_density_and_discrete_ones_their_bin():
    assert decoder_of(None, None) is density
    assert decoder_of(2 / 255, (-1.0, 1.0)) == discretized and decoder_of(2.0, None) == Discretized(2.0, None)


def test_the_discretised_decoder_has_gradients_in_single_precision_also_in_its_tails():
    mean, log_variance = torch.tensor([-1.0, 0.0, 1.0, 1.0]), torch.full((4,), -12.0)
    mean.requires_grad_()
    log_variance.requires_grad_()
    log_p = discretized(torch.tensor([-1.0, 0.9, 1.0, -1.0]), mean, log_variance)
    log_p.sum().backward()

    assert log_p.isfinite().all()
    for leaf in (mean, log_variance):
        assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert mean.grad is not None and mean.grad[1] > 0 and mean.grad[3] < 0  # towards the data


@pytest.mark.parametrize(("bits", "sigma_min", "steps"), [(8, 0.002, 1000), (16, 8e-6, 1600)])
def test_on_discrete_data_the_bound_is_the_entropy_of_the_data(mixture, bits, sigma_min, steps):
    exact, largest = mixture(cosine()), 2**bits - 1
    exact.means = 2 * torch.arange(0, largest, largest // 7, dtype=torch.float64)[:8] / largest - 1  # of all the values
    exact.weights = torch.linspace(1, 3, 8, dtype=torch.float64) / 16
    exact.stds = torch.zeros(8, dtype=torch.float64)

    value = torch.searchsorted(exact.weights.cumsum(0), spread(64, 0))
    bits = -exact.weights[value].log2()
    times = grids.log_snr(cosine(), steps, sigma_min=sigma_min)
    decoder = Discretized(2 / largest)
    bound = discrete_bound(exact, exact.means[value][:, None], times, even_noise(64), small, decoder)

    assert -0.01 < (bound.total - bits).mean() < 0.05
    assert bound.decoder.mean() < 0.02  # so little noise hides no value


def test_the_standard_error_over_the_draws_is_the_true_one(mixture):
    exact = mixture(cosine())
    x_0 = torch.full((2000, 1), 0.3, dtype=torch.float64)  # one data point, many times
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(2000, 40, dtype=torch.float64, generator=generator)

    def noise(step):
        return torch.randn(2000, 1, dtype=torch.float64, generator=generator)

    bound = continuous_bound(exact, x_0, torch.tensor(0.05, dtype=torch.float64), u, noise, decoder=density)
    spread_of_estimates, told = bound.diffusion.std(), bound.error.square().mean().sqrt()
    assert 0.9 * spread_of_estimates < told < 1.1 * spread_of_estimates


@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, 0.5, 0.1], [1.0, 0.5, 0.6, 0.0]])
def test_a_grid_that_is_no_chain_to_the_data_is_refused(mixture, times):
    x_0 = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="strictly decreasing"):
        discrete_bound(mixture(cosine()), x_0, torch.tensor(times), x_0.mul)
