"""The schedules are the published ones, and their inverses, rates and shifts are what they say."""

import math

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from sfumato.diffusion import Flow, Karras, Shifted, cosine, from_betas, linear_beta

CHAIN = torch.arange(1, 1001, dtype=torch.float64) / 1000


def linear_table() -> np.ndarray:
    """alpha_bar_1..alpha_bar_1000 of Ho et al. 2020, section 4."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def cosine_table() -> np.ndarray:
    """alpha_bar_1..alpha_bar_1000 of Nichol & Dhariwal 2021, eq. 17, beta capped at 0.999."""
    f = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    return np.cumprod([1 - min(1 - f[i + 1] / f[i], 0.999) for i in range(1000)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("make", "table"), [(linear_beta, linear_table), (cosine, cosine_table)])
def test_linear_and_cosine_equal_the_published_tables(make, table, dtype):
    alpha, sigma = make()(CHAIN.to(dtype))
    alpha_bar = torch.from_numpy(table())

    torch.testing.assert_close(alpha.double() ** 2, alpha_bar, atol=1e-6, rtol=0)
    torch.testing.assert_close(sigma.double() ** 2, 1 - alpha_bar, atol=1e-6, rtol=0)


def test_the_double_precision_table_is_exact():
    torch.testing.assert_close(linear_beta()(CHAIN)[0] ** 2, torch.from_numpy(linear_table()), atol=0, rtol=1e-11)
    torch.testing.assert_close(cosine()(CHAIN)[0] ** 2, torch.from_numpy(cosine_table()), atol=0, rtol=1e-10)


@pytest.mark.parametrize(("make", "name"), [(linear_beta, "linear"), (cosine, "squaredcos_cap_v2")])
def test_timestep_k_of_diffusers_is_the_time_of_node_k_plus_1(make, name):
    theirs = DDPMScheduler(beta_schedule=name).alphas_cumprod
    torch.testing.assert_close(make()(CHAIN)[0] ** 2, theirs.double(), atol=1e-6, rtol=0)


def test_karras_sigmas_are_equation_5_of_edm():
    n, low, high, rho = 18, 0.002, 80.0, 7.0
    theirs = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    alpha, sigma = Karras()(torch.linspace(1, 0, n, dtype=torch.float64))

    np.testing.assert_allclose(sigma.numpy(), theirs, rtol=1e-12)
    assert (alpha == 1).all()


def test_flow_is_the_straight_line_with_a_thousandth_of_the_signal_left():
    alpha, sigma = Flow()(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    torch.testing.assert_close(alpha, torch.tensor([1, 0.75025, 1e-3], dtype=torch.float64))
    torch.testing.assert_close(sigma, torch.tensor([0, 0.25, 1.0], dtype=torch.float64))


def test_user_betas_make_their_chain():
    alpha, sigma = from_betas([0.1, 0.5])(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(alpha**2, torch.tensor([1, 0.9, 0.45], dtype=torch.float64))
    torch.testing.assert_close(sigma**2, torch.tensor([0, 0.1, 0.55], dtype=torch.float64))


@pytest.mark.parametrize("betas", [[0.1, 1.0], [0.0, 0.1], [], [0.1, float("nan")], [[0.1]]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        from_betas(betas)


def test_log_snr_falls_with_time_on_every_schedule(schedule):
    log_snr = schedule.log_snr(torch.linspace(0, 1, 5001, dtype=torch.float64))
    assert (log_snr.diff() < 0).all()


def test_time_of_inverts_log_snr_on_every_schedule(schedule):
    t = torch.linspace(0, 1, 5001, dtype=torch.float64)
    torch.testing.assert_close(schedule.time_of(schedule.log_snr(t)), t, atol=1e-9, rtol=0)


def test_a_log_snr_beyond_the_schedule_gives_its_nearest_end(schedule):
    beyond = torch.tensor([-40.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(
        schedule.time_of(beyond), torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_rates_are_the_slopes_of_the_schedule(schedule):
    t, h = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.98 + 0.01, 1e-7
    alpha, sigma, dalpha, dsigma = schedule.rates(t)
    ahead, behind = schedule(t + h), schedule(t - h)

    torch.testing.assert_close((alpha, sigma), schedule(t))
    # a difference quotient in float64 keeps about 1e-16 / h = 1e-9 of values up to 80
    torch.testing.assert_close(dalpha, (ahead[0] - behind[0]) / (2 * h), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(dsigma, (ahead[1] - behind[1]) / (2 * h), atol=1e-6, rtol=1e-6)


def test_the_noise_of_a_discrete_step_arrives_at_a_constant_rate():
    schedule = linear_beta()
    inside = (torch.arange(1000, dtype=torch.float64)[:, None] + torch.tensor([0.1, 0.5, 0.9])) / 1000
    alpha, _, dalpha, _ = schedule.rates(inside)
    torch.testing.assert_close(2 * dalpha / alpha, (1000 * torch.log1p(-schedule.betas))[:, None].expand(-1, 3))


@pytest.mark.parametrize("base", [linear_beta(), cosine(), Flow(), Karras()], ids=str)
@pytest.mark.parametrize("shift", [0.5, 2.0, 3.0])
def test_the_shift_moves_log_snr_and_keeps_the_family(base, shift):
    t = torch.linspace(0.001, 1, 300, dtype=torch.float64)
    shifted = Shifted(base, shift)
    torch.testing.assert_close(shifted.log_snr(t), base.log_snr(t) - 2 * math.log(shift), atol=1e-9, rtol=0)

    alpha, sigma = shifted(t)
    held = {Flow: alpha + (1 - 1e-3) * sigma, Karras: alpha}.get(type(base), alpha**2 + sigma**2)
    torch.testing.assert_close(held, torch.ones_like(t))


def test_the_shift_of_flow_is_that_of_stable_diffusion_3():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    _, sigma = Shifted(Flow(floor=0.0), 3.0)(t)
    torch.testing.assert_close(sigma, 3 * t / (1 + 2 * t))


def test_single_precision_times_cost_less_than_1e_6(schedule):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for single, double in zip(schedule(t.float()), schedule(t), strict=True):
        assert single.dtype == torch.float32
        # sigma ~ sqrt(t) near 0 is steep, and Karras reaches 80: an error of 6e-8 in t is amplified there
        torch.testing.assert_close(single.double(), double, atol=1e-6, rtol=3e-6)
