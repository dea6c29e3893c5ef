"""Churn keeps the marginals, adds noise where it is told to, and forgets what lies on another way."""

import math

import pytest
import torch

from sfumato.diffusion import DDIM, Churn, Flow, Heun, Karras, Seen, cosine, dpm_solver_pp_2m, linear_beta

X = torch.linspace(-1, 1, 5, dtype=torch.float64)
T, S = torch.tensor([0.5, 0.4], dtype=torch.float64)


@pytest.mark.parametrize("schedule", [linear_beta(), cosine(), Karras(), Flow()], ids=str)
def test_the_noise_to_signal_ratio_grows_by_gamma_and_the_marginal_stays(schedule, gaussian_data):
    exact = gaussian_data(schedule)

    def look(denoiser, x, t, s, state, noise, **cond):
        return x, (Seen(t, x, x),)

    quiet, (seen,) = Churn(look, 0.2)(exact, X, T, S, (), torch.zeros_like)
    noisy, _ = Churn(look, 0.2)(exact, X, T, S, (), torch.ones_like)

    ratio = torch.exp((schedule.log_snr(T) - schedule.log_snr(seen.t)) / 2)
    torch.testing.assert_close(ratio, torch.tensor(1.2, dtype=torch.float64))

    (alpha, sigma), (alpha_noisier, sigma_noisier) = schedule(T), schedule(seen.t)
    gain, std = (quiet[-1] - quiet[0]) / (X[-1] - X[0]), (noisy - quiet)[0]
    torch.testing.assert_close(gain * alpha, alpha_noisier)
    torch.testing.assert_close((gain * sigma) ** 2 + std**2, sigma_noisier**2)


def test_outside_of_the_interval_the_step_is_the_solvers_own(mixture):
    exact = mixture(Flow())
    state = (Seen(torch.tensor(0.6), X, exact(X, torch.tensor(0.6))),)

    def no_noise(x):
        raise AssertionError("no noise is wanted here")

    for between in ((0.0, 0.9), (1.1, math.inf)):  # sigma / alpha is 1 at t = 1/2, but for the floor
        x_s, _ = Churn(dpm_solver_pp_2m, 0.2, between)(exact, X, T, S, state, no_noise)
        torch.testing.assert_close(x_s, dpm_solver_pp_2m(exact, X, T, S, state, no_noise)[0], rtol=0, atol=0)


def test_the_past_is_forgotten_where_noise_was_added(mixture):
    exact = mixture(Flow())
    state = (Seen(torch.tensor(0.6), X, exact(X, torch.tensor(0.6))),)
    with_past, _ = Churn(dpm_solver_pp_2m, 0.2)(exact, X, T, S, state, torch.ones_like)
    without, _ = Churn(DDIM(), 0.2)(exact, X, T, S, (), torch.ones_like)
    torch.testing.assert_close(with_past, without)


@pytest.mark.parametrize("gamma", [-0.1, 0.5])
def test_a_gamma_beyond_that_of_edm_is_refused(gamma):
    with pytest.raises(ValueError, match=r"outside \[0, 0\.4142\]"):
        Churn(Heun(), gamma)
