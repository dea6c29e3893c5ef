"""A searched grid is a shortest path, costs one fine trajectory, and beats the grids that know nothing of the data."""

import itertools

import pytest
import torch

from sfumato.diffusion import DDIM, Flow, Karras, cosine, grids, sample
from sfumato.diffusion.grid_search import _shortest, search


def start(exact, n=64):
    generator = torch.Generator().manual_seed(0)
    return exact.process.prior(torch.randn(n, 1, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_path_is_the_best_of_all_paths(n):
    cost = torch.rand(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    cost[torch.ones(7, 7, dtype=torch.bool).tril()] = torch.inf

    paths = [[0, *inner, 6] for inner in itertools.combinations(range(1, 6), n - 1)]
    assert _shortest(cost, n) == min(
        paths, key=lambda path: sum(float(cost[i, j]) for i, j in itertools.pairwise(path))
    )


def error(exact, times, solver):
    x = start(exact, 200)
    *_, last = sample(exact, x, times, solver)
    return float((last.x - exact.transport(x, times[0], times[-1])).square().mean().sqrt())


@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize("schedule", [cosine(), Karras(sigma_min=0.01), Flow()], ids=str)
def test_few_steps_on_the_searched_grid_are_nearer_than_on_any_other(schedule, n, mixture):
    exact = mixture(schedule)
    searched = search(exact, start(exact), n, fine=grids.log_snr(schedule, 30))
    others = [grid(schedule, n) for grid in (grids.uniform, grids.log_snr, grids.karras, grids.ays)]
    assert searched.shape == (n + 1,) and searched[0] == 1 and searched[-1] == 0 and (searched.diff() < 0).all()
    assert error(exact, searched, DDIM()) < min(error(exact, grid, DDIM()) for grid in others)


def test_the_search_asks_the_denoiser_once_a_fine_step(mixture):
    exact, calls = mixture(Flow()), []

    class Counted:
        process = exact.process

        def __call__(self, x_t, t, **cond):
            calls.append(cond)
            return exact(x_t, t)

    search(Counted(), start(exact, 4), 3, fine=grids.log_snr(Flow(), 12), label=torch.ones(4))
    assert len(calls) == 12 and all(set(cond) == {"label"} for cond in calls)


def test_as_many_steps_as_the_fine_grid_has_are_the_fine_grid(mixture):
    fine = grids.log_snr(Flow(), 8)
    assert torch.equal(search(mixture(Flow()), start(mixture(Flow()), 4), 8, fine), fine)


@pytest.mark.parametrize("n", [0, 9])
def test_steps_beyond_the_fine_grid_are_refused(n, mixture):
    with pytest.raises(ValueError, match=f"n = {n} is outside 1 to 8"):
        search(mixture(Flow()), start(mixture(Flow()), 4), n, grids.log_snr(Flow(), 8))
