"""The Gaussian process obeys its own probability theory: chain, marginal and posterior are one joint law."""

import itertools

import pytest
import torch

from sfumato.diffusion import Flow, Gaussian, linear_beta

ONE, ZERO = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)


def kernel(process, t, s):
    """Read a and std of q(x_s | x_t) = N(a x_t, std^2) off the code that draws from it."""
    return process.step(ONE, t, s, ZERO).squeeze(), process.step(ZERO, t, s, ONE).squeeze()


def test_the_composed_chain_has_the_closed_form_marginals_at_every_step(schedule, nodes):
    process, times = Gaussian(schedule), nodes(schedule)
    scale, variance = schedule(times[0])[0], schedule(times[0])[1] ** 2

    for t, s in itertools.pairwise(times):
        a, std = kernel(process, t, s)
        scale, variance = a * scale, a**2 * variance + std**2

        marginal_scale = process.forward(ONE, s, ZERO).squeeze()
        marginal_std = process.forward(ZERO, s, ONE).squeeze()
        torch.testing.assert_close(scale, marginal_scale, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(variance, marginal_std**2, rtol=1e-10, atol=1e-12)


def test_one_step_of_the_chain_is_that_of_ddpm():
    schedule = linear_beta()
    for i, beta in enumerate(schedule.betas):
        t, s = (torch.tensor(j / 1000, dtype=torch.float64) for j in (i, i + 1))
        a, std = kernel(Gaussian(schedule), t, s)
        torch.testing.assert_close((a**2, std**2), (1 - beta, beta), rtol=1e-9, atol=1e-14)


def test_a_drawn_chain_has_the_mean_and_variance_of_the_marginal():
    process, generator = Gaussian(linear_beta(T=50, beta_max=0.2)), torch.Generator().manual_seed(0)
    n, x = 40_000, torch.full((40_000, 1), 0.7, dtype=torch.float64)
    for i in range(30):
        t, s = (torch.tensor(j / 50, dtype=torch.float64) for j in (i, i + 1))
        x = process.step(x, t, s, torch.randn(x.shape, generator=generator, dtype=x.dtype))

    alpha, sigma = process.schedule(s)
    assert abs(x.mean() - alpha * 0.7) < 4 * sigma / n**0.5
    assert abs(x.var() / sigma**2 - 1) < 4 * (2 / n) ** 0.5


def test_the_posterior_is_bayes_rule_on_the_joint_of_the_chain(schedule):
    process = Gaussian(schedule)
    x_0, x_t = torch.randn(2, 64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    for s, t in [(0.0, 0.4), (0.001, 0.002), (0.1, 0.9), (0.499, 0.5), (0.75, 1.0), (0.05, 0.051)]:
        s, t = torch.tensor(s, dtype=torch.float64), torch.tensor(t, dtype=torch.float64)
        mean, std = process.posterior(x_t, x_0, t, s)

        # given x_0: x_s = m_s + sd_s e and x_t = a x_s + q e', a joint Gaussian to condition on x_t
        m_s, sd_s = process.forward(x_0, s, torch.zeros_like(x_0)), process.forward(ZERO, s, ONE).squeeze()
        a, q = kernel(process, s, t)
        covariance, variance_t = a * sd_s**2, a**2 * sd_s**2 + q**2
        bayes_mean = m_s + covariance / variance_t * (x_t - a * m_s)
        bayes_variance = sd_s**2 - covariance**2 / variance_t

        torch.testing.assert_close(mean, bayes_mean, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(std.squeeze() ** 2, bayes_variance, rtol=1e-7, atol=1e-13)


def test_the_posterior_of_neighbours_is_equation_7_of_ddpm():
    schedule, x_0, x_t = linear_beta(), 0.6 * ONE, -0.4 * ONE
    alpha_bar = torch.cat([ONE[0], (1 - schedule.betas).cumprod(0)])
    for i in range(1, 1001):
        beta, now, before = schedule.betas[i - 1], alpha_bar[i], alpha_bar[i - 1]
        t, s = (torch.tensor(j / 1000, dtype=torch.float64) for j in (i, i - 1))
        mean, std = Gaussian(schedule).posterior(x_t, x_0, t, s)

        published = before.sqrt() * beta / (1 - now) * x_0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x_t
        torch.testing.assert_close(mean, published, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(std.squeeze() ** 2, (1 - before) / (1 - now) * beta, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_eta_leads_from_one_marginal_to_the_other(schedule, eta):
    process, s, t = Gaussian(schedule), *torch.tensor([0.2, 0.7], dtype=torch.float64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)

    # x_t = alpha_t x_0 + sigma_t z at x_0 = 0 gives the weight of z, at z = 0 the weight of x_0
    weight_z, std = process.posterior(sigma_t * ONE, ZERO, t, s, eta)
    weight_x, _ = process.posterior(alpha_t * ONE, ONE, t, s, eta)
    torch.testing.assert_close(weight_x.squeeze(), alpha_s)
    torch.testing.assert_close((weight_z**2 + std**2).squeeze(), sigma_s**2)


def test_times_may_differ_from_example_to_example(schedule):
    process, generator = Gaussian(schedule), torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64, generator=generator)
    s, t = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.9, 1.0]], dtype=torch.float64)

    together = process.forward(x, t, noise), process.step(x, s, t, noise), process.posterior(x, noise, t, s)[0]
    for i in range(3):
        one = slice(i, i + 1)
        alone = (
            process.forward(x[one], t[i], noise[one]),
            process.step(x[one], s[i], t[i], noise[one]),
            process.posterior(x[one], noise[one], t[i], s[i])[0],
        )
        torch.testing.assert_close(tuple(v[one] for v in together), alone)


def test_the_prior_is_the_noise_of_time_1():
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Gaussian(Flow()).prior(noise), noise)
    assert Gaussian(linear_beta()).prior(noise).dtype == torch.float32
