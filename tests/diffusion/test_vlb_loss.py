"""The losses of the bound are its terms, teach what they should, and may be drawn by importance."""

import pytest
import torch
from torch import nn

from sfumato.diffusion import Denoiser, Gaussian, cosine, denoisers, grids, objectives
from sfumato.diffusion.bound import density, discrete_bound
from sfumato.diffusion.importance import Importance
from sfumato.diffusion.learned_schedule import LearnedSchedule
from sfumato.diffusion.reverse import large


class Affine(nn.Module):
    """A network of four weights, two for the mean and two for the variance; its variance also depends on the mean."""

    def __init__(self):
        super().__init__()
        self.mean, self.variance = (nn.Parameter(torch.tensor(v)) for v in ([0.3, 0.1], [0.2, -0.4]))

    def forward(self, x, level, **cond):
        mean = self.mean[0] * x + self.mean[1]
        return torch.cat([mean, self.variance[0] * x + self.variance[1]], dim=1)


@pytest.fixture
def learner() -> Denoiser:
    return Denoiser(Affine(), Gaussian(cosine()), denoisers.v, learned_variance=True)


@pytest.fixture
def batch():
    """Data (64, 1, 2, 2) of 8-bit values, times and noise."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randint(0, 256, (64, 1, 2, 2), generator=generator) / 127.5 - 1
    return x_0, (torch.arange(64) + 0.5) / 64, torch.randn(64, 1, 2, 2, generator=generator)


def test_the_mean_of_the_loss_over_the_steps_is_the_bound(mixture):
    exact, T = mixture(cosine()), 25
    x_0 = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    noises = torch.randn(T, 7, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bound = discrete_bound(exact, x_0, grids.uniform(cosine(), T), lambda i: noises[i], large, density)

    # the grid begins at t = 1, so that its step i is the step T - i of the chain; any time of a step will do
    losses = [
        objectives.vlb_loss(exact, x_0, torch.full((7,), (T - i - 0.4) / T).double(), noises[i], T, large, density)
        for i in range(T)
    ]
    torch.testing.assert_close(torch.stack(losses).mean(0), bound.total, rtol=1e-9, atol=1e-9)


def test_a_time_belongs_to_the_step_that_it_ends():
    nodes = torch.arange(1, 1001) / 1000
    later, earlier = objectives.chain_step(nodes, 1000)

    torch.testing.assert_close(later, nodes)
    assert earlier[0] == 0 and (earlier < later).all()
    assert torch.equal(objectives.chain_step(torch.zeros(1), 10)[0], torch.tensor([0.1]))


def test_the_hybrid_loss_is_the_sum_and_teaches_the_mean_as_if_there_were_no_bound(learner, batch):
    x_0, t, noise = batch
    t = objectives.chain_step(t, 1000)[0]
    simple = objectives.denoising_loss(learner, x_0, t, noise, objectives.simple)
    hybrid = objectives.hybrid_loss(learner, x_0, t, noise, objectives.simple)
    vlb = objectives.vlb_loss(learner, x_0, t, noise)
    torch.testing.assert_close(hybrid, simple + 1e-3 * vlb, rtol=1e-4, atol=1e-4)

    network = learner.network
    assert isinstance(network, Affine)
    of_simple, of_hybrid = (
        torch.autograd.grad(loss.mean(), network.mean, retain_graph=True) for loss in (simple, hybrid)
    )
    torch.testing.assert_close(of_hybrid, of_simple)
    (of_variance,) = torch.autograd.grad(hybrid.mean(), network.variance)
    assert of_variance.isfinite().all() and (of_variance != 0).all()


def test_the_bound_teaches_a_variance_that_is_between_the_fixed_ones(gaussian_data, with_raw):
    exact = gaussian_data(cosine())
    generator = torch.Generator().manual_seed(0)
    x_0 = exact.draw(4096, generator)[:, None]
    noise = torch.randn(4096, 1, dtype=torch.float64, generator=generator)
    t = torch.rand(4096, dtype=torch.float64, generator=generator)

    def bound(raw: float) -> float:
        return objectives.vlb_loss(with_raw(exact, raw), x_0, t, noise, T=10, decoder=density).mean().item()

    low, middle, high = (bound(raw) for raw in (-1.0, 0.4, 1.0))
    assert middle < low and middle < high


def test_the_bound_has_finite_gradients_in_single_precision_at_every_step(learner, batch):
    x_0, _, noise = batch
    for start in range(0, 1000, 64):
        t = (start + torch.arange(64) + 0.5).clamp(max=999.5) / 1000
        loss = objectives.vlb_loss(learner, x_0, t, noise)
        loss.sum().backward()
        assert loss.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


def test_the_bound_teaches_a_learned_schedule(batch):
    x_0, t, noise = batch
    schedule = LearnedSchedule(width=16)
    learner = Denoiser(Affine(), Gaussian(schedule), denoisers.v, learned_variance=True)
    objectives.vlb_loss(learner, x_0, t, noise, T=50).mean().backward()

    for name, parameter in schedule.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


# --- importance ------------------------------------------------------------------------------------------------------

T = 20
SIZES = torch.linspace(0.1, 4, T, dtype=torch.float64) ** 2  # of the losses at each step


def seen(memory: int = 10) -> Importance:
    """A law that has seen losses of the sizes at every step, `memory` times and three more."""
    law = Importance.fresh(T, memory)
    t = (torch.arange(T) + 0.5) / T
    for k in range(memory + 3):
        law = law.seen(t, SIZES * (1000 if k < 3 else 1))  # the first three are forgotten
    return law


def test_times_are_uniform_until_every_step_has_ten_losses():
    law = Importance.fresh(T)
    even = torch.full((T,), 1 / T, dtype=torch.float64)
    t = (torch.arange(T) + 0.5) / T
    for _ in range(9):
        law = law.seen(t, SIZES)
    law = law.seen(t[1:], SIZES[1:])
    assert torch.equal(law.probabilities(), even)
    assert not torch.equal(law.seen(t[:1], SIZES[:1]).probabilities(), even)


def test_then_they_are_as_frequent_as_the_root_mean_square_of_the_last_ten_losses():
    p = seen().probabilities()
    torch.testing.assert_close(p, 0.999 * SIZES / SIZES.sum() + 0.001 / T)


def test_drawn_times_have_these_frequencies_and_the_weighted_mean_is_that_of_uniform_times():
    law, u = seen(), (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    t, weights = law.draw(u)
    steps = (t * T).long()

    torch.testing.assert_close(torch.bincount(steps).double() / len(u), law.probabilities(), rtol=0, atol=1e-4)
    losses = SIZES[steps] + 1
    assert abs((weights * losses).mean() - (SIZES + 1).mean()) < 1e-3
    # for losses of these very sizes nearly no noise is left
    assert (weights * SIZES[steps]).std() < 0.02 * SIZES.std()


def test_a_law_that_was_restored_from_its_tensors_is_the_same_and_an_update_leaves_the_old_one():
    law = seen()
    again = Importance.fresh(T).restored({name: tensor.clone() for name, tensor in law.state().items()})
    u = torch.rand(64, generator=torch.Generator().manual_seed(0))
    t, _ = law.draw(u)

    updated = law.seen(t, torch.full((64,), 7.0))
    assert torch.equal(law.probabilities(), again.probabilities())
    assert not torch.equal(updated.probabilities(), law.probabilities())
    torch.testing.assert_close(updated.probabilities(), again.seen(t, torch.full((64,), 7.0)).probabilities())
