"""Every parameterization is its published target, inverts exactly, and the denoiser hides which one is in use."""

import math

import pytest
import torch
from torch import nn

from sfumato.diffusion import (
    Denoiser,
    Flow,
    Gaussian,
    convert,
    cosine,
    denoisers,
    from_x,
    like,
    linear_beta,
    noise_level,
    to_x,
)

SIGMA_DATA = 0.5

PARAMETERIZATIONS = {
    "epsilon": denoisers.epsilon,
    "x": denoisers.x,
    "v": denoisers.v,
    "flow": denoisers.flow,
    "karras": denoisers.karras(SIGMA_DATA),
}

# the published targets, from the data and the noise themselves
TARGETS = {
    "epsilon": lambda x_0, eps, a, s: eps,
    "x": lambda x_0, eps, a, s: x_0,
    "v": lambda x_0, eps, a, s: (a * eps - s * x_0) / (a**2 + s**2).sqrt(),
    "flow": lambda x_0, eps, a, s: eps - x_0,
    "karras": lambda x_0, eps, a, s: (
        (s / SIGMA_DATA * x_0 - a * SIGMA_DATA * eps) / (a**2 * SIGMA_DATA**2 + s**2).sqrt()
    ),
}


def example(schedule):
    """Data, noise and x_t at 200 times from nearly clean to pure noise, with (alpha, sigma) to go with them."""
    x_0, eps = torch.randn(2, 200, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = schedule(torch.linspace(0.001, 1, 200, dtype=torch.float64))
    return x_0, eps, like(alpha, x_0) * x_0 + like(sigma, x_0) * eps, alpha, sigma


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_x_0_is_recovered_exactly_through_every_parameterization(schedule, name):
    x_0, eps, x_t, alpha, sigma = example(schedule)
    target = TARGETS[name](x_0, eps, like(alpha, x_0), like(sigma, x_0))

    # 1 / alpha = 2e4 and 1 / sigma = 1e3 at the worst ends, of the 1e-16 of double precision
    torch.testing.assert_close(to_x(PARAMETERIZATIONS[name], target, x_t, alpha, sigma), x_0, atol=1e-10, rtol=0)
    torch.testing.assert_close(from_x(PARAMETERIZATIONS[name], x_0, x_t, alpha, sigma), target, atol=1e-10, rtol=0)


@pytest.mark.parametrize("source", PARAMETERIZATIONS)
@pytest.mark.parametrize("target", PARAMETERIZATIONS)
def test_every_parameterization_converts_to_every_other(schedule, source, target):
    x_0, eps, x_t, alpha, sigma = example(schedule)
    a, s = like(alpha, x_0), like(sigma, x_0)
    given, wanted = TARGETS[source](x_0, eps, a, s), TARGETS[target](x_0, eps, a, s)

    converted = convert(given, x_t, alpha, sigma, PARAMETERIZATIONS[source], PARAMETERIZATIONS[target])
    torch.testing.assert_close(converted, wanted, atol=1e-9, rtol=0)


def test_the_target_of_karras_has_unit_variance_at_every_noise():
    generator = torch.Generator().manual_seed(0)
    x_0 = SIGMA_DATA * torch.randn(100_000, dtype=torch.float64, generator=generator)
    eps = torch.randn(100_000, dtype=torch.float64, generator=generator)
    for sigma in (0.01, 0.5, 30.0):
        alpha, sigma = torch.ones((), dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64)
        F = from_x(denoisers.karras(SIGMA_DATA), x_0, x_0 + sigma * eps, alpha, sigma)
        assert abs(F.var() - 1) < 4 * (2 / 100_000) ** 0.5


class Oracle(nn.Module):
    """A network that knows x_0 and answers with the right target, recording what it is shown."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, time, **cond):
        self.seen, self.time, self.cond = x, time, cond
        return self.answer


@pytest.mark.parametrize("name", ["x", "v", "flow", "karras"])
def test_a_denoiser_whose_network_is_right_returns_x_0(schedule, name):
    x_0, eps, x_t, alpha, sigma = example(schedule)
    network = Oracle(TARGETS[name](x_0, eps, like(alpha, x_0), like(sigma, x_0)))
    denoiser = Denoiser(network, Gaussian(schedule), PARAMETERIZATIONS[name], SIGMA_DATA)

    t = torch.linspace(0.001, 1, 200, dtype=torch.float64)
    torch.testing.assert_close(denoiser(x_t, t, vector=eps), x_0, atol=1e-10, rtol=0)
    assert network.cond["vector"] is eps


def test_the_network_sees_unit_variance_at_every_time(schedule):
    generator = torch.Generator().manual_seed(0)
    x_0 = SIGMA_DATA * torch.randn(2, 50_000, dtype=torch.float64, generator=generator)
    noise = torch.randn(2, 50_000, dtype=torch.float64, generator=generator)
    process, t = Gaussian(schedule), torch.tensor([0.01, 0.8], dtype=torch.float64)
    network = Oracle(x_0)
    Denoiser(network, process, denoisers.x, SIGMA_DATA)(process.forward(x_0, t, noise), t)

    assert ((network.seen.var(1) - 1).abs() < 4 * (2 / 50_000) ** 0.5).all()


def test_the_noise_level_is_the_time_of_the_cosine_path_in_thousandths():
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    level = noise_level(torch.cos(u * math.pi / 2), torch.sin(u * math.pi / 2))
    torch.testing.assert_close(level, 1000 * u)
    torch.testing.assert_close(noise_level(3 * torch.cos(u), 3 * torch.sin(u)), noise_level(torch.cos(u), torch.sin(u)))


def test_a_scalar_time_serves_the_whole_batch():
    x_t, t = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3, dtype=torch.float64)
    network = Oracle(x_t)
    denoiser = Denoiser(network, Gaussian(Flow()), denoisers.v)
    scalar, level = denoiser(x_t, t), network.time

    assert level.shape == (5,) and level.dtype == x_t.dtype
    torch.testing.assert_close(scalar, denoiser(x_t, t.float().expand(5)))


def test_a_half_precision_answer_is_combined_in_single_precision():
    x_t = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(Oracle(torch.zeros(4, 8, dtype=torch.bfloat16)), Gaussian(Flow()), denoisers.flow)
    t = torch.full((4,), 0.01)
    out = denoiser(x_t, t)

    assert out.dtype == torch.float32
    alpha, sigma = Flow()(t[0])
    torch.testing.assert_close(out, x_t / (alpha + sigma))


def test_learned_variance_is_the_second_half_of_the_channels():
    x_t, t = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.6])
    network = Oracle(torch.cat([x_t, 7 * torch.ones_like(x_t)], dim=1))
    denoiser = Denoiser(network, Gaussian(Flow()), denoisers.x, learned_variance=True)
    mean, variance = denoiser.predict(x_t, t)

    assert torch.equal(mean, x_t) and torch.equal(denoiser(x_t, t), x_t) and (variance == 7).all()
    assert Denoiser(Oracle(x_t), Gaussian(Flow()), denoisers.x).predict(x_t, t)[1] is None


def test_predicting_noise_where_no_signal_is_left_is_refused_by_name():
    with pytest.raises(ValueError, match=r"epsilon.*cosine.*4\.9e-05"):
        Denoiser(Oracle(None), Gaussian(cosine()), denoisers.epsilon)

    Denoiser(Oracle(None), Gaussian(linear_beta()), denoisers.epsilon)
    for fine in (denoisers.x, denoisers.v, denoisers.flow, denoisers.karras()):
        Denoiser(Oracle(None), Gaussian(cosine()), fine)
