"""Coefficients that depend only on the times are computed once for a grid, and change no bit and no gradient."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from sfumato import registry
from sfumato.diffusion import Denoiser, Flow, Gaussian, Guided, Karras, Shifted, cosine, denoisers, grids, sample
from sfumato.diffusion.learned_schedule import LearnedSchedule
from sfumato.diffusion.schedules import Schedule, once

T, S = torch.tensor([0.5, 0.4], dtype=torch.float64)


@dataclass(frozen=True)
class Changing(Schedule):
    """`schedule`, but nothing of it is kept."""

    schedule: Schedule

    def __call__(self, t):
        return self.schedule(t)

    def time_of(self, log_snr):
        return self.schedule.time_of(log_snr)

    def normalize(self, alpha, sigma):
        return self.schedule.normalize(alpha, sigma)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x, level, shift=None):
        h = torch.tanh(self.conv(x)) + level[:, None, None, None] / 1000
        return h if shift is None else h + shift[:, None, None, None]


def test_coefficients_are_computed_once_for_the_times_of_a_grid():
    asked = []

    @once
    def signal(schedule, times, factor):
        asked.append(factor)
        return (factor * schedule(times[0])[0],)

    schedule = cosine()
    expected = (2 * schedule(T)[0]).item()
    assert signal(schedule, (T,), 2) == signal(schedule, (T.clone(),), 2) == (expected,)
    assert asked == [2]

    assert signal(schedule, (S,), 2) != (expected,)
    assert signal(schedule, (T,), 3) != (expected,)
    assert signal(cosine(s=0.1), (T,), 2) != (expected,)
    assert asked == [2, 2, 3, 2], "other times, settings and schedules are others"


def test_times_of_a_batch_and_times_with_a_gradient_stay_tensors():
    @once
    def signal(schedule, times):
        return (schedule(times[0])[0],)

    (batch,) = signal(Flow(), (torch.stack([T, S]),))
    assert isinstance(batch, torch.Tensor) and batch.shape == (2,)
    (differentiable,) = signal(Flow(), (T.clone().requires_grad_(),))
    assert isinstance(differentiable, torch.Tensor) and differentiable.requires_grad


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: Shifted(s, 2.0)], ids=["itself", "shifted"])
def test_a_schedule_with_weights_is_asked_anew(wrap):
    learned = LearnedSchedule(width=4)
    process = Gaussian(wrap(learned))
    x_t, x_0 = torch.ones(1, 1), torch.zeros(1, 1)

    before, _ = process.posterior(x_t, x_0, T, S)
    with torch.no_grad():
        learned.start.add_(1.0)
    after, _ = process.posterior(x_t, x_0, T, S)
    assert (after - before).abs() > 1e-3


@pytest.mark.parametrize("name", registry.SOLVERS)
@pytest.mark.parametrize("schedule", [cosine(), Karras(), Shifted(Flow(), 3.0)], ids=["cosine", "karras", "shifted"])
def test_drawn_pictures_keep_their_bits(name, schedule):
    torch.manual_seed(0)
    network, x = Network(), torch.randn(3, 2, 4, 4)
    drawn = []
    for one in (Changing(schedule), schedule, schedule):  # computed every time, computed, kept
        denoiser = Denoiser(network, Gaussian(one), denoisers.v)
        guided = Guided(denoiser, {"shift": torch.zeros(1)}, 1.7, (0.1, 0.9))
        torch.manual_seed(1)
        times = grids.karras(one, 6)
        *_, last = sample(guided, one(times[0])[1].float() * x, times, registry.SOLVERS[name](), shift=torch.ones(3))
        drawn.append(last.x)

    assert drawn[0].isfinite().all() and drawn[0].std() > 0.1
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[1], drawn[2])


def test_what_was_kept_while_sampling_serves_where_gradients_flow():
    denoiser, x = Denoiser(Network(), Gaussian(cosine()), denoisers.v), torch.randn(1, 2, 4, 4)
    with torch.inference_mode():
        denoiser(x, T)

    x.requires_grad_()
    denoiser.process.posterior(x, denoiser(x, T), T, S)[0].sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
