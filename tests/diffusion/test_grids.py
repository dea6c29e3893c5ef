"""Grids decrease from 1 to 0 on every schedule and are evenly spaced in what they are named for."""

import pytest
import torch

from sfumato.diffusion import Flow, Karras, cosine, from_betas, grids, linear_beta

GRIDS = [grids.uniform, grids.log_snr, grids.karras, grids.ays]


def noise_ratio(schedule, times):
    return torch.exp(-schedule.log_snr(times) / 2)


@pytest.mark.parametrize("n", [1, 2, 3, 20, 1000])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_goes_down_from_1_to_0_in_n_steps(schedule, grid, n):
    times = grid(schedule, n)
    assert times.shape == (n + 1,) and times[0] == 1 and times[-1] == 0
    assert (times.diff() < 0).all()


def test_as_many_uniform_steps_as_the_chain_has_are_the_chain():
    times = grids.uniform(linear_beta(), 1000)
    assert torch.equal(times, torch.arange(1000, -1, -1, dtype=torch.float64) / 1000)
    betas = 1 - (linear_beta()(times[:-1])[0] / linear_beta()(times[1:])[0]) ** 2
    torch.testing.assert_close(betas.flip(0), linear_beta().betas, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("schedule_", [linear_beta(), cosine(), Flow()], ids=str)
@pytest.mark.parametrize(("grid", "warp"), [(grids.log_snr, torch.log), (grids.karras, lambda r: r ** (1 / 7))])
def test_a_grid_is_even_in_what_it_is_named_for_between_its_ends(schedule_, grid, warp):
    ratios = noise_ratio(schedule_, grid(schedule_, 20)[1:-1])  # the ends are left out: 1 and 0 whatever the spacing
    gaps = warp(ratios).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-6, atol=0)

    # one gap before the first inner node lies sigma_max, at the last inner node sigma_min
    torch.testing.assert_close(warp(ratios[0]) - gaps[0], warp(torch.tensor(80.0, dtype=torch.float64)))
    torch.testing.assert_close(ratios[-1], torch.tensor(0.01, dtype=torch.float64))


def test_the_karras_grid_on_the_karras_schedule_is_equation_5_of_edm():
    torch.testing.assert_close(grids.karras(Karras(), 17), grids.uniform(Karras(), 17))


def test_the_ays_grid_of_10_steps_is_the_published_one():
    timesteps = torch.tensor([850, 736, 645, 545, 455, 343, 233, 124, 24])  # diffusers: AysSchedules
    # Stable Diffusion's own schedule: sqrt(beta) evenly spaced
    schedule = from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)
    assert (1000 * grids.ays(schedule, 10)[1:-1] - (timesteps + 1)).abs().max() < 1.5  # their sigmas have 3 digits

    every_second = noise_ratio(Flow(), grids.ays(Flow(), 20)[2:-2:2])
    torch.testing.assert_close(every_second, torch.tensor(grids.AYS[1:-1], dtype=torch.float64))


def test_the_same_noise_is_visited_on_every_schedule():
    ways = [noise_ratio(s, grids.log_snr(s, 12)[1:-1]) for s in (linear_beta(), cosine(), Flow())]
    torch.testing.assert_close(ways[0], ways[1])
    torch.testing.assert_close(ways[0], ways[2])


@pytest.mark.parametrize("grid", GRIDS)
def test_fewer_than_one_step_is_refused(grid):
    with pytest.raises(ValueError, match="steps = 0"):
        grid(Flow(), 0)


def test_ends_that_cross_are_refused():
    with pytest.raises(ValueError, match="sigma_min"):
        grids.log_snr(Flow(), 5, sigma_min=3.0, sigma_max=2.0)
