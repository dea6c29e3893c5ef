"""Inversion comes back with an error that falls at the order of its iterations, and runs along the exact ODE."""

import pytest
import torch

from sfumato.diffusion import DDIM, Flow, Karras, cosine, grids, invert, linear_beta, sample

X_0 = torch.linspace(-1.2, 1.2, 25, dtype=torch.float64)


def last(steps):
    *_, step = steps
    return step


def even_times(schedule, n):
    """n equal steps in log-SNR from sigma / alpha = 20 to 0.05."""
    return schedule.time_of(-2 * torch.linspace(3.0, -3.0, n + 1, dtype=torch.float64))


def rms(x):
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("schedule", [linear_beta(), Karras(), Flow()], ids=str)
def test_the_round_trip_error_falls_at_the_order_of_the_iterations(schedule, iterations, mixture, slope):
    exact, found = mixture(schedule), []
    for n in (32, 64, 128):
        times = even_times(schedule, n)
        noise = last(invert(exact, X_0, times, iterations)).x
        found.append(rms(last(sample(exact, noise, times, DDIM())).x - X_0))
    assert abs(slope([32, 64, 128], found) - iterations) < 0.1, found
    assert found[0] < (0.04, 0.005, 0.001)[iterations - 1]  # the same on every schedule


def test_more_iterations_undo_ddim_exactly(mixture):
    exact, times = mixture(cosine()), even_times(cosine(), 20)
    noise = last(invert(exact, X_0, times, 30)).x
    torch.testing.assert_close(last(sample(exact, noise, times, DDIM())).x, X_0, atol=1e-9, rtol=0)


@pytest.mark.parametrize("schedule", [linear_beta(), Karras(), Flow()], ids=str)
def test_inversion_follows_the_exact_transport_at_first_order(schedule, mixture, slope):
    exact, found = mixture(schedule), []
    for n in (32, 64, 128):
        times = even_times(schedule, n)
        noise = last(invert(exact, X_0, times, 3)).x
        alpha, sigma = schedule(times[0])
        found.append(rms(noise - exact.transport(X_0, times[-1], times[0])) / float(torch.hypot(alpha, sigma)))
    assert abs(slope([32, 64, 128], found) - 1) < 0.1, found


def test_it_begins_at_data_without_noise_and_yields_every_state(mixture):
    times = grids.uniform(Flow(), 5)
    steps = list(invert(mixture(Flow()), X_0, times))
    assert [float(step.t) for step in steps] == times.flip(0)[1:].tolist()
    assert [step.index for step in steps] == [1, 2, 3, 4, 5] and {step.total for step in steps} == {5}
    assert all(step.x.isfinite().all() for step in steps)


@pytest.mark.parametrize(("times", "iterations"), [([0.0, 1.0], 1), ([1.0, 0.0], 0)])
def test_times_that_do_not_decrease_and_no_iterations_are_refused(times, iterations, mixture):
    with pytest.raises(ValueError, match="decreasing times and iterations"):
        next(invert(mixture(Flow()), X_0, torch.tensor(times), iterations))
