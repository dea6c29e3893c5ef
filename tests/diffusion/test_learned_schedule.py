"""A learned schedule is a schedule whatever its weights are, and can become any other."""

import pytest
import torch

from sfumato.diffusion import Gaussian, cosine, grids, linear_beta
from sfumato.diffusion.learned_schedule import LearnedSchedule

TIMES = torch.linspace(0, 1, 201, dtype=torch.float64)


@pytest.fixture(params=[0.0, 1.0, 5.0], ids="weights of scale {}".format)
def learned(request) -> LearnedSchedule:
    torch.manual_seed(0)
    schedule = LearnedSchedule(width=64)
    with torch.no_grad():
        for parameter in (schedule.slope, schedule.steepness, schedule.bias, schedule.heights):
            parameter += request.param * torch.randn_like(parameter)
    return schedule


def test_it_falls_whatever_its_weights_are(learned):
    log_snr = learned.log_snr(TIMES)
    assert (log_snr.diff() < 0).all()
    ends = torch.tensor([13.3, -5.0], dtype=torch.float64)
    torch.testing.assert_close(log_snr[[0, -1]], ends, rtol=1e-6, atol=1e-6)


def test_it_keeps_the_variance_and_inverts(learned):
    alpha, sigma = learned(TIMES)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(TIMES))
    torch.testing.assert_close(2 * (alpha / sigma).log(), learned.log_snr(TIMES), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(learned.log_snr(learned.time_of(learned.log_snr(TIMES))), learned.log_snr(TIMES))
    assert learned.time_of(torch.tensor(99.0)) < 1e-9 and learned.time_of(torch.tensor(-99.0)) > 1 - 1e-6


def test_it_has_derivatives_and_takes_part_in_a_process(learned):
    _, _, dalpha, dsigma = learned.rates(TIMES[1:-1])
    h = 1e-6
    torch.testing.assert_close(
        dalpha, (learned(TIMES[1:-1] + h)[0] - learned(TIMES[1:-1] - h)[0]) / (2 * h), rtol=1e-4, atol=1e-5
    )
    assert (dalpha <= 0).all() and (dsigma >= 0).all()
    assert (grids.log_snr(learned, 10).diff() < 0).all()
    x = torch.ones(2, 3)
    assert Gaussian(learned).forward(x, torch.tensor([0.2, 0.8]), x).isfinite().all()


@pytest.mark.parametrize("target", [linear_beta(), cosine()], ids=str)
def test_it_reproduces_a_schedule_that_it_is_fitted_to(target):
    torch.manual_seed(0)
    t = torch.linspace(0.01, 0.99, 99)  # the log-SNR of a chain is infinite at t = 0
    wanted = target.log_snr(t)
    schedule = LearnedSchedule((10.0, -8.0), width=64)
    before = (schedule.log_snr(t) - wanted).abs().max()

    optimizer = torch.optim.LBFGS(
        schedule.parameters(), max_iter=200, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        error = (schedule.log_snr(t) - wanted).square().mean()
        error.backward()
        return error

    optimizer.step(loss)
    error = (schedule.log_snr(t) - wanted).abs()
    assert before > 1 and error.mean() < 0.05 and error.max() < 0.3
    for mine, theirs in zip(schedule(t), target(t), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.01)


def test_a_log_snr_that_rises_is_refused():
    with pytest.raises(ValueError, match="must fall"):
        LearnedSchedule((-5.0, 13.0))
