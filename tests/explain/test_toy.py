"""The exact denoiser in the plane: against automatic differentiation, against averages, and by what it samples."""

import pytest
import torch

from sfumato.diffusion import Flow, Gaussian, Karras, cosine, sample
from sfumato.diffusion.grids import log_snr
from sfumato.diffusion.solvers import DDIM, Ancestral
from sfumato.explain.jump import near_share, variance_share
from sfumato.explain.plane import mesh_of, panel, paths
from sfumato.explain.toy import Mixture, two_moons


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def three(schedule) -> Mixture:
    """Three uneven clusters."""
    centres = torch.tensor([[-1.0, 0.2], [0.8, 0.9], [0.5, -1.0]], dtype=torch.float64)
    return Mixture(Gaussian(schedule), centres, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), std=0.2)


@pytest.mark.parametrize("schedule", [cosine(), Flow(), Karras()], ids=str)
@pytest.mark.parametrize("time", [0.2, 0.7])
def test_the_score_is_the_gradient_of_the_log_density(schedule, time, generator):
    data, t = three(schedule), torch.tensor(time, dtype=torch.float64)
    x = torch.randn(20, 2, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(data.log_density(x, t).sum(), x)

    torch.testing.assert_close(data.score(x, t), gradient)


def test_the_density_is_one_in_all():
    data, t, n = three(cosine()), torch.tensor(0.6, dtype=torch.float64), 200
    mass = data.log_density(mesh_of(n, 6.0), t).exp().sum() * (12 / n) ** 2

    assert mass.item() == pytest.approx(1, abs=1e-3)


def test_the_posterior_mean_is_the_mean_of_data_weighted_by_how_well_they_explain_the_state(generator):
    data, t = three(cosine()), torch.tensor([0.5, 0.8], dtype=torch.float64)
    x_t = torch.tensor([[0.1, 0.3], [-0.9, 0.4]], dtype=torch.float64)
    x_0 = data.draw(200_000, generator)

    alpha, sigma = (v[:, None, None] for v in data.process.schedule(t))
    shares = (-(((x_t[:, None] - alpha * x_0) / sigma) ** 2).sum(-1) / 2).softmax(1)
    torch.testing.assert_close(data(x_t, t), shares @ x_0, atol=0.01, rtol=0)


def test_without_width_it_is_the_posterior_mean_of_a_finite_data_set():
    data, t = three(Flow()), torch.tensor(0.5, dtype=torch.float64)
    points = Mixture(data.process, data.centres, data.weights, std=0.0)
    x_t = torch.tensor([[0.2, -0.1]], dtype=torch.float64)

    likelihood = data.weights * (-((x_t - 0.5005 * data.centres) ** 2).sum(-1) / (2 * 0.5**2)).exp()
    torch.testing.assert_close(points(x_t, t), (likelihood / likelihood.sum() @ data.centres)[None])


def test_mean_and_covariance_are_those_of_its_draws(generator):
    data = two_moons(Gaussian(cosine()))
    x = data.draw(100_000, generator)

    torch.testing.assert_close(data.mean, x.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(data.covariance, x.T.cov(), atol=0.01, rtol=0)


@pytest.mark.parametrize("solver", [DDIM(), Ancestral()], ids=["ode", "ancestral"])
def test_samples_land_on_the_clusters_with_their_weights_mean_and_covariance(solver, generator):
    data = three(cosine())
    x = data.process.prior(torch.randn(4000, 2, generator=generator, dtype=torch.float64))

    def noise(like):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    *_, last = sample(data, x, log_snr(data.process.schedule, 120), solver, noise)
    nearest = torch.cdist(last.x, data.centres).argmin(1)

    torch.testing.assert_close(nearest.bincount(minlength=3) / 4000.0, data.weights.float(), atol=0.03, rtol=0)
    torch.testing.assert_close(last.x.mean(0), data.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(last.x.T.cov(), data.covariance, atol=0.05, rtol=0)


def test_one_jump_lands_on_the_mean_and_many_steps_on_the_moons(generator):
    data = two_moons(Gaussian(cosine()))
    x = data.process.prior(torch.randn(500, 2, generator=generator, dtype=torch.float64))
    jump, way = (paths(data, x, steps, DDIM(), generator)[0] for steps in (1, 100))

    torch.testing.assert_close(jump[-1], data.mean.expand(500, 2), atol=1e-3, rtol=0)
    assert variance_share(jump[-1], data) < 1e-6 and near_share(jump[-1], data) == 0
    assert variance_share(way[-1], data) > 0.9 and near_share(way[-1], data) > 0.98
    assert way.shape == (101, 500, 2) and torch.equal(way[0], x)


def test_a_panel_shows_points_where_they_are():
    data, t = two_moons(Gaussian(cosine())), torch.zeros((), dtype=torch.float64)
    corner = torch.tensor([[[-1.9, -1.9]]], dtype=torch.float64)  # far from the data
    red, green, _ = panel(data, t, corner, "", 120, window=2.0).convert("RGB").getpixel((3, 117))  # pyright: ignore

    assert red > green + 50


def test_the_mesh_goes_row_by_row_from_the_upper_left():
    mesh = mesh_of(4, 2.0)
    assert mesh[0].tolist() == [-1.5, 1.5]
    assert mesh[1].tolist() == [-0.5, 1.5]
    assert mesh[-1].tolist() == [1.5, -1.5]
