"""Weights are the squared errors they claim to be, time laws have their moments, the optimum is the posterior mean."""

import math

import pytest
import torch

from sfumato.diffusion import (
    Flow,
    Gaussian,
    Karras,
    denoisers,
    denoising_loss,
    from_x,
    laws,
    like,
    linear_beta,
    objectives,
)

SIGMA_DATA = 0.5
U = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000  # a stratified sample of (0, 1)

WEIGHTS = {
    "simple": objectives.simple,
    "x": objectives.uniform_x,
    "v": objectives.v_weight,
    "flow": objectives.flow_weight,
    "min_snr": objectives.min_snr(5.0),
    "edm": objectives.edm(SIGMA_DATA),
}


class Wrong:
    """A denoiser that is off everywhere by a fixed random picture."""

    def __init__(self, process, x_0, error):
        self.process, self.answer = process, x_0 + error

    def __call__(self, x_t, t, **cond):
        return self.answer


@pytest.mark.parametrize(
    ("weight", "parameterization"),
    [
        (objectives.simple, denoisers.epsilon),
        (objectives.uniform_x, denoisers.x),
        (objectives.v_weight, denoisers.v),
        (objectives.flow_weight, denoisers.flow),
        (objectives.edm(SIGMA_DATA), denoisers.karras(SIGMA_DATA)),
    ],
    ids=["simple=epsilon", "x", "v", "flow", "edm=karras"],
)
def test_a_weight_is_the_squared_error_of_its_target(schedule, weight, parameterization):
    x_0, noise, error = torch.randn(3, 100, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.001, 1, 100, dtype=torch.float64)
    process = Gaussian(schedule)
    loss = denoising_loss(Wrong(process, x_0, error), x_0, t, noise, weight)

    alpha, sigma = schedule(t)
    x_t = like(alpha, x_0) * x_0 + like(sigma, x_0) * noise
    right, wrong = (from_x(parameterization, x, x_t, alpha, sigma) for x in (x_0, x_0 + error))
    torch.testing.assert_close(loss, (wrong - right).square().mean((1, 2)), rtol=1e-8, atol=1e-12)


def test_min_snr_caps_the_simple_weight_at_gamma():
    alpha, sigma = linear_beta()(torch.linspace(0.001, 1, 1000, dtype=torch.float64))
    snr = (alpha / sigma) ** 2
    torch.testing.assert_close(objectives.min_snr(5.0)(alpha, sigma), torch.minimum(snr, torch.full_like(snr, 5.0)))


def test_the_uniform_law_is_uniform():
    t, weights = laws.Uniform().draw(U)
    assert (weights == 1).all()
    assert abs(t.mean() - 0.5) < 1e-6 and abs(t.var() - 1 / 12) < 1e-5


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.8, 0.6)])
def test_the_logit_normal_law_has_a_normal_logit(mean, std):
    logit = torch.logit(laws.LogitNormal(mean, std).draw(U)[0])
    assert abs(logit.mean() - mean) < 1e-4 and abs(logit.std() - std) < 1e-3

    quantile, _ = laws.LogitNormal(mean, std).draw(torch.tensor([0.5, 0.8413447461]))
    torch.testing.assert_close(quantile, torch.sigmoid(torch.tensor([mean, mean + std])))


@pytest.mark.parametrize("base", [Karras(), Flow(), linear_beta()], ids=str)
def test_the_law_of_edm_has_a_normal_log_noise_on_any_schedule(base):
    log_noise = -base.log_snr(laws.LogNormal(base, -1.2, 1.2).draw(U)[0]) / 2
    # the linear chain interpolates below its first node, log 0.01 = -4.6, so that no tail is lost to its ends
    assert abs(log_noise.mean() + 1.2) < 2e-3 and abs(log_noise.std() - 1.2) < 2e-3


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_the_extreme_random_numbers_give_finite_weights(schedule, weight):
    ends = torch.tensor([0.0, 1.0])
    for law in (laws.Uniform(), laws.LogitNormal(), laws.LogNormal(schedule)):
        t, _ = law.draw(ends)
        assert ((t >= 0) & (t <= 1)).all()
        assert weight(*schedule(t)).isfinite().all()


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_the_posterior_mean_minimises_every_weighted_loss(schedule, mixture, weight):
    exact, generator = mixture(schedule), torch.Generator().manual_seed(0)
    n = 100_000
    x_0 = exact.draw(n, generator)[:, None]
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    t, _ = laws.LogitNormal().draw(torch.rand(n, generator=generator, dtype=torch.float64))

    def losses(change):
        denoiser = Changed(exact, change)
        return denoising_loss(denoiser, x_0, t, noise, weight)

    best = losses(lambda mean, x_t, t: mean)
    for change in (
        lambda mean, x_t, t: mean + 0.2,
        lambda mean, x_t, t: 0.7 * mean,
        lambda mean, x_t, t: mean.clamp(-0.5, 0.5),
        lambda mean, x_t, t: exact(x_t, (0.7 * t).clamp(min=0.01)),
    ):
        gain = losses(change) - best
        # the paired difference must stand clear of its own sampling error
        assert gain.mean() > 3 * gain.std() / math.sqrt(n)


class Changed:
    """An exact denoiser with its answer changed."""

    def __init__(self, exact, change):
        self.exact, self.change, self.process = exact, change, exact.process

    def __call__(self, x_t, t, **cond):
        return self.change(self.exact(x_t, t), x_t, t)


def test_the_loss_is_one_number_per_example_and_passes_the_condition():
    seen = {}

    class Conditional:
        process = Gaussian(Flow())

        def __call__(self, x_t, t, **cond):
            seen.update(cond)
            return torch.zeros_like(x_t)

    x_0 = torch.ones(4, 3, 2, 2)
    loss = denoising_loss(Conditional(), x_0, torch.rand(4) + 1e-3, x_0, objectives.uniform_x, vector=x_0)
    assert torch.equal(loss, torch.ones(4)) and seen["vector"] is x_0
