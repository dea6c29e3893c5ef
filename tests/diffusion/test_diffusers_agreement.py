"""Whole trajectories agree with the schedulers of diffusers below 1e-4: same denoiser, same time nodes, same noise.

Timestep k of diffusers is the time (k + 1) / T here. Their denoiser is ours, asked for what their scheduler is told.
"""

# the annotations of diffusers are narrower than what its schedulers take and return
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from sfumato.diffusion import (
    Flow,
    Karras,
    Shifted,
    ancestral,
    cosine,
    ddim,
    denoisers,
    dpm_solver_pp_2m,
    from_x,
    grids,
    heun,
    linear_beta,
    sample,
)

SHAPE = (2, 3, 8, 8)
CHAINS = {
    "linear-epsilon": (linear_beta(), denoisers.epsilon, {"beta_schedule": "linear", "prediction_type": "epsilon"}),
    "cosine-v": (cosine(), denoisers.v, {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}),
}


@pytest.fixture(params=list(CHAINS.values()), ids=list(CHAINS))
def chain(request, mixture):
    """A discrete chain: the exact denoiser on it, what diffusers calls it, and the network that diffusers expects."""
    schedule, parameterization, settings = request.param
    exact = mixture(schedule)

    def network(x, timestep):
        t = (torch.as_tensor(timestep, dtype=torch.float64) + 1) / 1000
        return from_x(parameterization, exact(x, t), x, *schedule(t))

    return exact, settings, network


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def times_of(timesteps):
    """Our grid for their timesteps: one node each, and the end."""
    return torch.cat(
        [(torch.as_tensor(timesteps, dtype=torch.float64) + 1) / 1000, torch.zeros(1, dtype=torch.float64)]
    )


def seeded():
    generator = torch.Generator().manual_seed(2)
    return generator, lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n", [1000, 50])
def test_ancestral_is_the_ddpm_scheduler(chain, n):
    exact, settings, network = chain
    theirs = DDPMScheduler(clip_sample=False, variance_type="fixed_small", **settings)
    theirs.set_timesteps(n)
    if n == 1000:
        # 1 - alpha_bar of their float32 table is off by 1e-3 near the data, which alone moves x by 5e-4 over a thousand
        # steps; their betas multiplied up in double precision are the chain that they mean
        theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)

    x, way, (generator, _) = start(), [], seeded()
    for k in theirs.timesteps:
        x = theirs.step(network(x, k), k, x, generator=generator).prev_sample
        way.append(x)

    times = times_of(theirs.timesteps)
    if n == 1000:
        assert torch.equal(times, grids.uniform(exact.process.schedule, 1000))
    assert_same([step.x for step in sample(exact, start(), times, ancestral(), seeded()[1])], way)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_the_ddim_scheduler(chain, eta):
    exact, settings, network = chain
    theirs = DDIMScheduler(clip_sample=False, **settings)
    theirs.set_timesteps(50)

    x, way, (generator, _) = start(), [], seeded()
    for k in theirs.timesteps:
        x = theirs.step(network(x, k), k, x, eta=eta, generator=generator).prev_sample
        way.append(x)

    ours = sample(exact, start(), times_of(theirs.timesteps), ddim(eta), seeded()[1])
    assert_same([step.x for step in ours], way)


@pytest.mark.parametrize(("n", "spacing"), [(10, "leading"), (20, "trailing"), (25, "linspace")])
def test_dpm_solver_pp_2m_is_the_multistep_scheduler(chain, n, spacing):
    exact, settings, network = chain
    theirs = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, lower_order_final=True, timestep_spacing=spacing, **settings
    )
    theirs.set_timesteps(n)

    x, way = start(), []
    for k in theirs.timesteps:
        x = theirs.step(network(x, k), k, x).prev_sample
        way.append(x)

    ours = sample(exact, start(), times_of(theirs.timesteps), dpm_solver_pp_2m, torch.randn_like)
    assert_same([step.x for step in ours], way)


def test_heun_is_the_heun_scheduler(mixture):
    exact = mixture(linear_beta())
    theirs = HeunDiscreteScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="trailing", prediction_type="epsilon"
    )
    theirs.set_timesteps(20)

    # theirs keeps x / alpha, calls the network twice a step, and has repeated each inner timestep accordingly
    timesteps = theirs.timesteps[::2]
    times = times_of(timesteps)
    alpha = exact.process.schedule(times)[0]

    x, way = start() / alpha[0].float(), []
    for i, k in enumerate(theirs.timesteps):
        t = (k.double() + 1) / 1000
        alpha_t, sigma_t = exact.process.schedule(t)
        x_t = theirs.scale_model_input(x, k)
        x = theirs.step(from_x(denoisers.epsilon, exact(x_t, t), x_t, alpha_t, sigma_t), k, x).prev_sample
        if i % 2 == 1 or i == len(theirs.timesteps) - 1:
            way.append(x * alpha[len(way) + 1].float())

    ours = sample(exact, start(), times, heun, torch.randn_like)
    assert_same([step.x for step in ours], way)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_on_flow_is_the_flow_match_euler_scheduler(shift, mixture):
    # theirs has no signal at all at t = 1, so the floor is taken out of ours
    schedule = Shifted(Flow(floor=0.0), shift)
    exact, n = mixture(schedule), 25
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / n, n))
    times = grids.uniform(schedule, n)
    torch.testing.assert_close(schedule(times)[1].float(), theirs.sigmas)

    x, way = start(), []
    for k, t in zip(theirs.timesteps, times, strict=False):
        alpha, sigma = schedule(t)
        x = theirs.step(from_x(denoisers.flow, exact(x, t), x, alpha, sigma), k, x).prev_sample
        way.append(x)

    assert_same([step.x for step in sample(exact, start(), times, ddim(), torch.randn_like)], way)


def test_heun_on_karras_is_algorithm_1_of_edm(mixture):
    exact, times = mixture(Karras()), grids.uniform(Karras(), 18)
    sigmas = Karras()(times)[1]
    x = 80 * start().double()
    way = []
    for i in range(18):
        slope = (x - exact(x, times[i])) / sigmas[i]
        euler = x + (sigmas[i + 1] - sigmas[i]) * slope
        slope_next = (euler - exact(euler, times[i + 1])) / sigmas[i + 1]
        x = x + (sigmas[i + 1] - sigmas[i]) * (slope + slope_next) / 2
        way.append(x)

    ours = sample(exact, 80 * start().double(), times, heun, torch.randn_like)
    assert_same([step.x for step in ours], way)
