"""Solvers converge at their order to the exact solution, keep the moments of the data, and share nothing."""

import dataclasses
import itertools

import pytest
import torch

from sfumato.diffusion import (
    DDIM,
    DEIS,
    Adams,
    Ancestral,
    Churn,
    Denoiser,
    Flow,
    Gaussian,
    Heun,
    Karras,
    Seen,
    cosine,
    denoisers,
    dpm_solver_pp_2m,
    dpm_solver_pp_2s,
    dpm_solver_pp_3m,
    grids,
    like,
    sa_solver,
    sample,
    sde_dpm_solver_pp_2m,
    uni_pc,
)
from sfumato.diffusion import linear_beta as linear

ORDER_SCHEDULES = [linear(), Karras(), Flow()]
SOLVERS = {
    "ddim": DDIM(),
    "ddim(0.5)": DDIM(0.5),
    "ancestral": Ancestral(),
    "heun": Heun(),
    "dpm_solver_pp_2s": dpm_solver_pp_2s,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "dpm_solver_pp_3m": dpm_solver_pp_3m,
    "sde_dpm_solver_pp_2m": sde_dpm_solver_pp_2m,
    "uni_pc(2)": uni_pc(2),
    "uni_pc(3)": uni_pc(3),
    "sa_solver": sa_solver(),
    "deis(2)": DEIS(2),
    "deis(3)": DEIS(3),
    "churn(heun)": Churn(Heun(), 0.1),
    "churn(2m)": Churn(dpm_solver_pp_2m, 0.1),
}
# (the solver, its order, the steps of exact past that it is given, the numbers of steps, the largest error at the last)
ORDERS = {
    "ddim": (DDIM(), 1, 0, [32, 64], 0.02),
    "heun": (Heun(), 2, 0, [64, 128], 2e-3),
    "dpm_solver_pp_2s": (dpm_solver_pp_2s, 2, 0, [32, 64], 1e-3),
    "dpm_solver_pp_2m": (dpm_solver_pp_2m, 2, 0, [32, 64], 5e-4),
    "dpm_solver_pp_3m": (dpm_solver_pp_3m, 3, 2, [32, 64], 2e-5),
    "uni_pc(1)": (uni_pc(1), 2, 0, [32, 64], 2e-3),
    "uni_pc(2)": (uni_pc(2), 3, 0, [32, 64], 5e-5),
    "uni_pc(3)": (uni_pc(3), 4, 2, [32, 64], 2e-6),
    "sa_solver(2, tau=0)": (sa_solver(2, tau=0.0), 3, 0, [32, 64], 1e-4),
    "deis(1)": (DEIS(1), 1, 0, [32, 64], 0.02),
    "deis(2)": (DEIS(2), 2, 0, [32, 64], 1e-3),
    "deis(3)": (DEIS(3), 3, 2, [128, 256], 2e-6),
}


def no_noise(x):
    raise AssertionError("a deterministic solver must not draw noise")


def seeded(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def last(steps):
    *_, step = steps
    return step


def smooth_times(schedule, n):
    """n equal steps in log-SNR from sigma / alpha = 20 to 0.05."""
    return schedule.time_of(-2 * torch.linspace(3.0, -3.0, n + 1, dtype=torch.float64))


def uneven_times(schedule, n):
    """The same span in steps of alternating length, 2 : 1, which does not even out as n grows."""
    lengths = torch.tensor([2.0, 1.0], dtype=torch.float64).repeat(n // 2).cumsum(0)
    log_noise = 3 - 6 * torch.cat([lengths[:1] * 0, lengths]) / lengths[-1]
    return schedule.time_of(-2 * log_noise)


def errors(solver, exact, times, steps, past=0):
    """The error at the end of the way against the exact transport of quantiles, for each number of steps.

    The path begins at the step `past`, and the solver knows the exact earlier answers of the denoiser.
    """
    found = []
    for n in steps:
        grid = times(exact.process.schedule, n)
        (alpha, sigma), quantiles = exact.process.schedule(grid[past]), torch.linspace(-2, 2, 21, dtype=torch.float64)
        x = start = alpha * 0.05 + (alpha**2 * 0.4 + sigma**2).sqrt() * quantiles

        state = ()
        for u in grid[:past]:
            x_u = exact.transport(start, grid[past], u)
            state = (Seen(u, x_u, exact(x_u, u)), *state)

        for t, s in itertools.pairwise(grid[past:]):
            x, state = solver(exact, x, t, s, state, torch.zeros_like)
        found.append(float((x - exact.transport(start, grid[past], grid[-1])).square().mean().sqrt()))
    return found


@pytest.mark.parametrize("schedule", ORDER_SCHEDULES, ids=str)
@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_convergence(schedule, name, mixture, slope):
    solver, order, past, steps, limit = ORDERS[name]
    assert solver.order == order
    found = errors(solver, mixture(schedule), uneven_times, steps, past)
    assert abs(slope(steps, found) - order) < 0.15, found
    assert found[-1] < limit


def through_two(weight):
    """DPM-Solver++(2M) with another weight on the past, as a function of h and the step before."""

    def step(denoiser, x, t, s, state, noise, **cond):
        schedule = denoiser.process.schedule
        (_, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        lambda_t, lambda_s = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
        h, mean = lambda_s - lambda_t, denoiser(x, t)
        target = mean
        if state:
            target = mean + weight(h, lambda_t - schedule.log_snr(state[0].t) / 2) * (mean - state[0].mean)
        return like(sigma_s / sigma_t, x) * x - like(alpha_s * torch.expm1(-h), x) * target, (Seen(t, x, mean),)

    return step


@pytest.mark.parametrize(
    ("weight", "times", "order"),
    [
        (lambda h, before: h / before / 2, uneven_times, 2),
        (lambda h, before: h / h / 2, uneven_times, 1),  # the ratio of the two steps forgotten
        (lambda h, before: h / before, smooth_times, 1),  # the half forgotten
    ],
    ids=["right", "no ratio", "no half"],
)
def test_the_order_test_sees_a_wrong_multistep_weight(weight, times, order, mixture, slope):
    steps = [64, 128, 256]
    found = slope(steps, errors(through_two(weight), mixture(linear()), times, steps))
    assert abs(found - order) < 0.1


def moments(solver, exact, n):
    """The mean and the variance at the end of n steps from the exact marginal.

    The denoiser of Gaussian data is affine, so the end is affine in the start and in every noise: its coefficients are
    read off from one trajectory for each of them.
    """
    schedule, times = exact.process.schedule, smooth_times(exact.process.schedule, n)
    alpha, sigma = schedule(times[0])
    start, *draws = torch.eye(n + 2, dtype=torch.float64)[1:]
    left = iter(draws)
    end = last(sample(exact, start, times, solver, lambda x: next(left))).x

    offset, (gain, *noises) = end[0], end[1:] - end[0]
    variance = gain**2 * ((alpha * 0.5) ** 2 + sigma**2) + sum(noise**2 for noise in noises)
    return float(offset + gain * alpha * 0.3), float(variance)


@pytest.mark.parametrize(
    ("solver", "limit"),
    [
        (lambda n: DDIM(), 0.05),
        (lambda n: DDIM(0.3), 0.05),
        (lambda n: DDIM(0.7), 0.05),
        (lambda n: Ancestral(), 0.05),
        (lambda n: sde_dpm_solver_pp_2m, 0.005),
        (lambda n: sa_solver(2), 0.005),
        (lambda n: sa_solver(3, tau=0.7, between=(0.0, 100.0)), 0.005),
        (lambda n: Churn(Heun(), 4 / n, between=(0.05, 10.0)), 0.005),
        (lambda n: Churn(dpm_solver_pp_2s, 4 / n), 0.005),
    ],
)
@pytest.mark.parametrize("schedule", ORDER_SCHEDULES, ids=str)
def test_stochastic_solvers_keep_mean_and_variance_of_gaussian_data(schedule, solver, limit, gaussian_data):
    exact, end = gaussian_data(schedule), smooth_times(schedule, 1)[-1]
    alpha, sigma = schedule(end)
    true_variance = float((alpha * 0.5) ** 2 + sigma**2)

    (mean, coarse), (_, fine) = moments(solver(32), exact, 32), moments(solver(128), exact, 128)
    assert abs(mean - float(alpha) * 0.3) < 1e-9  # the mean is kept by every step
    # the variance up to the order of the method: small, and at most a quarter of it with four times the steps
    assert abs(fine / true_variance - 1) < limit
    assert abs(fine - true_variance) < 0.35 * abs(coarse - true_variance)


def test_the_tau_of_1_is_ddpm_and_of_0_ddim(mixture):
    exact, times = mixture(cosine()), grids.log_snr(cosine(), 12)
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for tau, eta in ((0.0, 0.0), (1.0, 1.0)):
        torch.testing.assert_close(
            last(sample(exact, start, times, Adams(1, tau=tau), seeded())).x,
            last(sample(exact, start, times, DDIM(eta), seeded())).x,
        )


@pytest.mark.parametrize("schedule", [linear(), Flow()], ids=str)
def test_a_drawn_ancestral_sample_has_the_moments_of_the_data(schedule, gaussian_data):
    exact, n = gaussian_data(schedule), 20_000
    noise = seeded()
    start = exact.process.forward(torch.full((n,), 0.3, dtype=torch.float64), torch.ones(()), noise(torch.empty(n)))
    end = last(sample(exact, start, torch.arange(300, -1, -1) / 300, Ancestral(), noise)).x

    assert abs(end.mean() - 0.3) < 4 * 0.5 / n**0.5
    assert abs(end.var() / 0.25 - 1) < 4 * (2 / n) ** 0.5 + 0.02  # and the first order of 300 steps


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
@pytest.mark.parametrize("schedule", [linear(), cosine(), Flow()], ids=str)
def test_the_last_step_to_no_noise_is_the_posterior_mean(schedule, solver, mixture):
    exact, x = mixture(schedule), torch.linspace(-1, 1, 20, dtype=torch.float64)
    before, at, end = torch.tensor([0.2, 0.1, 0.0], dtype=torch.float64)
    x, state = solver(exact, x, before, at, (), seeded())
    x_0, state = solver(exact, x, at, end, state, seeded())

    torch.testing.assert_close(x_0, state[0].mean)
    torch.testing.assert_close(state[0].mean, exact(state[0].x, state[0].t))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_one_solver_serves_two_interleaved_trajectories(solver, mixture):
    exact, times = mixture(linear()), torch.linspace(1, 0, 9, dtype=torch.float64)
    starts = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(i):
        return sample(exact, starts[i], times, solver, seeded(i))

    apart = [[step.x for step in run(i)] for i in range(2)]
    together = list(zip(run(0), run(1), strict=True))
    for i in range(2):
        assert all(torch.equal(pair[i].x, x) for pair, x in zip(together, apart[i], strict=True))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_a_step_leaves_its_inputs_alone(solver, mixture):
    exact, x = mixture(Flow()), torch.linspace(-1, 1, 5, dtype=torch.float64)
    t, s, copy = torch.tensor(0.5), torch.tensor(0.4), x.clone()
    state = (Seen(torch.tensor(0.6), x, exact(x, torch.tensor(0.6))),)
    mean = state[0].mean.clone()
    first, second = (solver(exact, x, t, s, state, seeded())[0] for _ in range(2))

    assert torch.equal(first, second) and torch.equal(x, copy) and torch.equal(state[0].mean, mean)


def test_sample_yields_every_state_with_its_time_and_the_mean_on_the_way(mixture):
    exact, times = mixture(Flow()), torch.linspace(1, 0, 6, dtype=torch.float64)
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    steps = list(sample(exact, x, times, DDIM(), no_noise))

    assert [step.index for step in steps] == [1, 2, 3, 4, 5] and {step.total for step in steps} == {5}
    assert [float(step.t) for step in steps] == times[1:].tolist()
    for step, t in zip(steps, times, strict=False):
        assert torch.equal(step.mean, exact(x, t))
        x = step.x


class Counted:
    """A denoiser that counts its calls and whether autograd was on."""

    def __init__(self, exact):
        self.exact, self.process, self.calls, self.grad = exact, exact.process, 0, []
        self.weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def __call__(self, x_t, t, **cond):
        self.calls += 1
        self.grad.append(torch.is_grad_enabled())
        return self.weight * self.exact(x_t, t)


def test_stopping_the_iteration_stops_the_work(mixture):
    counted = Counted(mixture(Flow()))
    for step in sample(counted, torch.zeros(3, dtype=torch.float64), torch.linspace(1, 0, 11), DDIM(), no_noise):
        if step.index == 4:
            break
    assert counted.calls == 4


def test_sampling_keeps_no_graph_and_leaves_the_callers_autograd_on(mixture):
    counted = Counted(mixture(Flow()))
    for step in sample(counted, torch.zeros(3, dtype=torch.float64), torch.linspace(1, 0, 4), Heun(), no_noise):
        assert not step.x.requires_grad and torch.is_grad_enabled()
    assert counted.grad == [False] * 5  # two calls a step, one at the last


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_the_state_holds_the_last_mean_seen_and_its_time(solver, mixture):
    exact, seen = mixture(Flow()), []

    class Recorded:
        process = exact.process

        def __call__(self, x_t, t, **cond):
            seen.append((exact(x_t, t), t))
            return seen[-1][0]

    t, s = torch.tensor([0.5, 0.3], dtype=torch.float64)
    _, state = solver(Recorded(), torch.linspace(-1, 1, 5, dtype=torch.float64), t, s, (), seeded())
    assert torch.equal(state[0].mean, seen[-1][0]) and state[0].t == seen[-1][1]


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
@pytest.mark.parametrize("schedule", [linear(), Flow()], ids=str)
def test_times_on_the_cpu_serve_pictures_on_any_device(solver, schedule):
    class Network(torch.nn.Module):
        def forward(self, x, time):
            assert time.device == x.device and time.dtype == x.dtype
            return x

    denoiser = Denoiser(Network(), Gaussian(schedule), denoisers.v)
    start = denoiser.process.prior(torch.empty(2, 3, 4, 4, device="meta"))
    for step in sample(denoiser, start, grids.log_snr(schedule, 3), solver, torch.randn_like):
        assert step.x.device.type == "meta" and step.x.dtype == torch.float32


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_single_precision_pictures_follow_the_double_precision_way(solver, mixture):
    exact, times = mixture(linear()), torch.linspace(1, 0, 21, dtype=torch.float64)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    double = last(sample(exact, x, times, solver, lambda x: torch.full_like(x, 0.3))).x
    single = last(sample(exact, x.float(), times, solver, lambda x: torch.full_like(x, 0.3))).x

    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_a_step_accepts_a_time_per_example(solver, mixture):
    exact, x = mixture(Flow()), torch.randn(3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, t, s = torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4], [0.3, 0.45, 0.1]], dtype=torch.float64)
    together, _ = solver(exact, x, t, s, (Seen(u, x, exact(x, u)),), torch.ones_like)
    for i in range(3):
        alone, _ = solver(exact, x[i], t[i], s[i], (Seen(u[i], x[i], exact(x[i], u[i])),), torch.ones_like)
        torch.testing.assert_close(together[i], alone)


@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0], [1.0, 0.5, 0.5, 0.0]])
def test_times_that_do_not_decrease_are_refused(times, mixture):
    with pytest.raises(ValueError, match="strictly decreasing"):
        next(sample(mixture(Flow()), torch.zeros(2), torch.tensor(times), DDIM(), no_noise))


def test_an_eta_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"eta = 1\.2"):
        DDIM(1.2)


def test_the_prior_at_time_1_is_as_wide_as_the_marginal(schedule, gaussian_data):
    process, (alpha, sigma) = Gaussian(schedule), schedule(torch.ones((), dtype=torch.float64))
    start = process.prior(torch.ones(1, dtype=torch.float64))
    # what the prior leaves out, alpha_1^2 of the data's variance, is at most 2 % of the variance
    assert abs(start**2 / ((alpha * 0.5) ** 2 + sigma**2) - 1) < 0.02


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_a_solver_prints_what_it_is_and_equals_its_like(solver):
    assert repr(solver).startswith(type(solver).__name__) and "0x" not in repr(solver)
    assert solver == dataclasses.replace(solver) and hash(solver) == hash(dataclasses.replace(solver))


def test_where_chance_has_a_part_there_is_no_order():
    assert [solver.order for solver in (DDIM(0.5), Ancestral(), sde_dpm_solver_pp_2m, Churn(Heun(), 0.1))] == [None] * 4
    assert repr(DDIM(0.5)) == "DDIM(eta=0.5)"
