"""The learned reverse process: the posterior with the mean in the place of x_0, and a variance between two."""

import pytest
import torch

from sfumato.diffusion import Gaussian, Shifted, cosine, from_betas, like, linear_beta
from sfumato.diffusion.reverse import large, learned, log_variances, reverse, small


@pytest.fixture
def steps(schedule, nodes):
    """Times t and earlier times s: neighbours of the chain, the last step to the data among them, and long ones."""
    times = nodes(schedule)
    t, s = times[1:], times[:-1]
    return torch.cat([t, times[2:]]), torch.cat([s, times[1] * torch.ones_like(times[2:]) / 2])


@pytest.mark.parametrize(
    "schedule", [linear_beta(), cosine(), from_betas([0.1, 0.3, 0.05])], ids=["linear", "cosine", "betas"]
)
def test_on_the_chain_the_large_variance_is_beta_and_the_small_one_beta_tilde(schedule, nodes):
    times, betas = nodes(schedule), schedule.betas
    log_small, log_large = log_variances(Gaussian(schedule), times[1:], times[:-1])

    bar = (1 - betas).cumprod(0)
    tilde = (1 - bar[:-1]) / (1 - bar[1:]) * betas[1:]
    torch.testing.assert_close(log_large.exp(), betas, rtol=1e-9, atol=0)
    torch.testing.assert_close(log_small[1:].exp(), tilde, rtol=1e-9, atol=0)


def test_mean_and_small_variance_are_those_of_the_posterior(schedule, mixture, steps):
    t, s = (v[steps[1] > 0] for v in steps)
    exact, x_t = mixture(schedule), torch.linspace(-2, 2, len(t), dtype=torch.float64)[:, None]
    mean, log_variance = reverse(exact, x_t, t, s, small)

    expected, std = exact.process.posterior(x_t, exact(x_t, t), t, s)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(log_variance.exp(), std**2, rtol=1e-6, atol=0)


def test_the_learned_variance_is_between_the_fixed_ones_and_meets_them_at_the_ends(schedule, mixture, with_raw, steps):
    t, s = steps
    x_t = torch.linspace(-2, 2, len(t), dtype=torch.float64)[:, None]
    at = {raw: reverse(with_raw(mixture(schedule), raw), x_t, t, s, learned)[1] for raw in (-1.0, -0.3, 0.5, 1.0)}
    low, high = (reverse(mixture(schedule), x_t, t, s, fixed)[1] for fixed in (small, large))

    torch.testing.assert_close(at[-1.0], low)
    torch.testing.assert_close(at[1.0], high)
    assert low.isfinite().all() and high.isfinite().all()
    assert (low < at[-0.3]).all() and (at[-0.3] < at[0.5]).all() and (at[0.5] < high).all()


@pytest.mark.parametrize(("std", "variance"), [(1e-4, small), (1.0, large)], ids=["point: small", "unit: large"])
def test_each_fixed_variance_is_right_for_the_data_it_is_meant_for(schedule, gaussian_data, std, variance):
    exact = gaussian_data(schedule)
    exact.means, exact.stds = exact.means * 0, exact.stds * 0 + std
    t, s = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64), torch.tensor([0.3, 0.6, 0.7], dtype=torch.float64)
    _, log_variance = reverse(exact, torch.ones(3, 1, dtype=torch.float64), t, s, variance)

    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    a = alpha_t / alpha_s
    var_s, var_t = (alpha_s * std) ** 2 + sigma_s**2, (alpha_t * std) ** 2 + sigma_t**2
    true = var_s - (a * var_s) ** 2 / var_t  # of x_s given x_t, jointly Gaussian
    torch.testing.assert_close(log_variance.exp()[:, 0], true, rtol=1e-3, atol=1e-12)


def test_the_step_to_the_data_ends_at_the_posterior_mean(schedule, mixture):
    exact, t = mixture(schedule), torch.tensor(0.2, dtype=torch.float64)
    x_t = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    mean, log_variance = reverse(exact, x_t, t, torch.zeros_like(t))

    alpha, sigma = schedule(t)
    assert torch.equal(mean, exact(x_t, t))
    torch.testing.assert_close(log_variance, like((sigma**2 / (alpha**2 + sigma**2)).log(), x_t))


def test_a_denoiser_without_a_variance_has_none_to_learn_from(mixture):
    t = torch.tensor(0.5)
    with pytest.raises(ValueError, match="no learned variance"):
        reverse(mixture(Shifted(linear_beta(), 2.0)), torch.ones(1, 1), t, t / 2, learned)
