"""Where the information is gone, against closed forms and against numerical integration."""

import math

import pytest
import torch

from sfumato.diffusion import Flow, Karras, Shifted, cosine, from_betas, linear_beta
from sfumato.explain.information import (
    GONE,
    chain_betas,
    information,
    log_snr_where_gone,
    signal_share,
    time_gone,
)

SCHEDULES = [linear_beta(), cosine(), Flow(), Karras(), Shifted(Flow(), 3.0)]
V = 0.3


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_at_the_time_that_is_named_exactly_the_limit_is_left(schedule):
    time = time_gone(schedule, V)
    assert time is not None

    alpha, sigma = schedule(torch.tensor(time, dtype=torch.float64))
    entropies = ((alpha**2 * V + sigma**2) / sigma**2).log2() / 2  # h(x_t) - h(x_t | x_0) of Gaussians
    assert entropies.item() == pytest.approx(GONE, rel=1e-6)
    assert information(V, schedule.log_snr(torch.tensor(time).double())).item() == pytest.approx(GONE, rel=1e-6)


def test_the_times_of_flow_and_karras_are_their_closed_forms():
    ratio = math.sqrt((2 ** (2 * GONE) - 1) / V)  # alpha / sigma
    assert time_gone(Flow(), V) == pytest.approx(1 / (ratio + 0.999))

    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    assert time_gone(Karras(), V) == pytest.approx(((1 / ratio) ** (1 / 7) - low) / (high - low))


def test_a_schedule_that_keeps_its_information_has_no_such_time():
    assert time_gone(from_betas([0.1, 0.1]), V) is None


def test_a_flat_picture_is_lost_where_a_shifted_schedule_loses_a_pixel():
    side = 32
    assert time_gone(Flow(), V, pixels=side**2) == pytest.approx(time_gone(Shifted(Flow(), 1 / side), V))
    assert log_snr_where_gone(V) - log_snr_where_gone(V, side**2) == pytest.approx(2 * math.log(side))


@pytest.mark.parametrize("log_snr", [-4.0, 0.0, 2.0])
def test_a_pixel_of_two_values_tells_less_than_a_gaussian_one(log_snr):
    """Shannon's bound, by integrating the entropy of x_t for x_0 = +-sqrt(v)."""
    sigma = math.exp(-log_snr / 2)
    x = torch.linspace(-40 * sigma - 2, 40 * sigma + 2, 400_001, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor([1.0, -1.0]).double()[:, None] * math.sqrt(V), sigma)
    log_p = torch.logsumexp(normal.log_prob(x), 0) - math.log(2)

    entropy = -torch.trapezoid(log_p.exp() * log_p, x) / math.log(2)
    exact = (entropy - math.log2(sigma * math.sqrt(2 * math.pi * math.e))).item()
    bound = information(V, torch.tensor(log_snr)).item()
    assert 0 < exact < bound
    assert exact < 1  # one bit is all that it has
    if log_snr == -4.0:
        assert exact == pytest.approx(bound, rel=1e-2)  # where little is left, the bound is what is left


@pytest.mark.parametrize("schedule", [linear_beta(), cosine()], ids=str)
def test_the_betas_of_a_chain_are_its_own(schedule):
    torch.testing.assert_close(chain_betas(schedule, schedule.T), schedule.betas, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_chain_of_any_schedule_has_its_snr(schedule):
    T = 100
    t = torch.arange(T + 1, dtype=torch.float64) / T
    share = signal_share(schedule, t)

    alpha, sigma = schedule(t)
    torch.testing.assert_close(share, alpha**2 / (alpha**2 + sigma**2))
    torch.testing.assert_close(share[0] * (1 - chain_betas(schedule, T)).cumprod(0), share[1:], rtol=1e-6, atol=1e-12)
