"""Whole trajectories agree with the schedulers of diffusers below 1e-4: same denoiser, same time nodes, same noise.

Timestep k of diffusers is the time (k + 1) / T here. Their denoiser is ours, asked for what their scheduler is told.
"""

# the annotations of diffusers are narrower than what its schedulers take and return
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)

from sfumato.diffusion import (
    DDIM,
    DEIS,
    Ancestral,
    Churn,
    Flow,
    Heun,
    Karras,
    Shifted,
    cosine,
    denoisers,
    dpm_solver_pp_2m,
    dpm_solver_pp_2s,
    dpm_solver_pp_3m,
    from_x,
    grids,
    invert,
    linear_beta,
    sa_solver,
    sample,
    sde_dpm_solver_pp_2m,
    uni_pc,
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
    assert_same([step.x for step in sample(exact, start(), times, Ancestral(), seeded()[1])], way)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_the_ddim_scheduler(chain, eta):
    exact, settings, network = chain
    theirs = DDIMScheduler(clip_sample=False, **settings)
    theirs.set_timesteps(50)

    x, way, (generator, _) = start(), [], seeded()
    for k in theirs.timesteps:
        x = theirs.step(network(x, k), k, x, eta=eta, generator=generator).prev_sample
        way.append(x)

    ours = sample(exact, start(), times_of(theirs.timesteps), DDIM(eta), seeded()[1])
    assert_same([step.x for step in ours], way)


def walk(theirs, network, n, **named):
    """Their way in n steps."""
    theirs.set_timesteps(n)
    x, way = start(), []
    for k in theirs.timesteps:
        x = theirs.step(network(x, k), k, x, **named).prev_sample
        way.append(x)
    return way


def exactly(theirs):
    """Their scheduler with 1 - alpha_bar in double precision; where noise is small, their float32 is off by 1e-3."""
    theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)
    return theirs


@pytest.mark.parametrize(("n", "spacing"), [(10, "leading"), (20, "trailing"), (25, "linspace")])
def test_dpm_solver_pp_2m_is_the_multistep_scheduler(chain, n, spacing):
    exact, settings, network = chain
    theirs = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, lower_order_final=True, timestep_spacing=spacing, **settings
    )
    way = walk(theirs, network, n)

    ours = sample(exact, start(), times_of(theirs.timesteps), dpm_solver_pp_2m, torch.randn_like)
    assert_same([step.x for step in ours], way)


class WholeQuadraticTerm(DPMSolverMultistepScheduler):
    """Their third-order update has half of the quadratic term of the integral; this adds the other half.

    Of f = D0 + D1 u + D2 u^2, u = (lambda - lambda_t) / h, the last part integrates to (1 - 2 J) D2, where J is the
    integral of u; theirs is (1 / 2 - J) D2.
    """

    def multistep_dpm_solver_third_order_update(self, model_output_list, *args, **named):
        half = super().multistep_dpm_solver_third_order_update(model_output_list, *args, **named)
        i = self.step_index or 0
        lambdas = -self.sigmas[i - 2 : i + 2].double().log()
        h, before, earlier = lambdas.diff().flip(0)
        m2, m1, m0 = model_output_list
        alpha, _ = self._sigma_to_alpha_sigma_t(self.sigmas[i + 1])

        D2 = ((m0 - m1) / (before / h) - (m1 - m2) / (earlier / h)) / ((before + earlier) / h)
        J = torch.expm1(-h) / h + 1
        return half + (alpha * (0.5 - J / h) * D2).float()


def test_dpm_solver_pp_3m_is_the_multistep_scheduler_with_the_whole_integral(chain):
    exact, settings, network = chain
    theirs = exactly(WholeQuadraticTerm(algorithm_type="dpmsolver++", solver_order=3, **settings))
    published = exactly(DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=3, **settings))

    way = walk(theirs, network, 20)
    ours = sample(exact, start(), times_of(theirs.timesteps), dpm_solver_pp_3m, torch.randn_like)
    assert_same([step.x for step in ours], way)
    assert (walk(published, network, 20)[-1] - way[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("n", [10, 20])
def test_sde_dpm_solver_pp_2m_is_the_multistep_scheduler(chain, n):
    exact, settings, network = chain
    theirs = exactly(DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=2, **settings))
    way = walk(theirs, network, n, generator=seeded()[0])

    ours = sample(exact, start(), times_of(theirs.timesteps), sde_dpm_solver_pp_2m, seeded()[1])
    assert_same([step.x for step in ours], way)


def test_dpm_solver_pp_2s_is_the_singlestep_scheduler(chain):
    exact, settings, _ = chain
    theirs = DPMSolverSinglestepScheduler(
        solver_order=2, lower_order_final=False, use_exponential_sigmas=True, final_sigmas_type="sigma_min", **settings
    )
    theirs.set_timesteps(20)
    theirs.set_begin_index(0)
    # 20 evaluations at equal distances in log-SNR: two of theirs are one of our steps, with its middle
    schedule = exact.process.schedule
    times = schedule.time_of(-2 * theirs.sigmas.double().log())

    parameterization = denoisers.epsilon if settings["prediction_type"] == "epsilon" else denoisers.v
    x, way = start(), []
    for k, t in zip(theirs.timesteps, times, strict=False):
        x = theirs.step(from_x(parameterization, exact(x, t), x, *schedule(t)), k, x).prev_sample
        way.append(x)

    # their last step goes from the last sigma to the same sigma
    ours = sample(exact, start(), times[:-1:2], dpm_solver_pp_2s, torch.randn_like)
    assert_same([step.x for step in ours], way[1:-1:2])


@pytest.mark.parametrize("order", [2, 3])
def test_uni_pc_is_the_uni_pc_scheduler(chain, order):
    exact, settings, network = chain
    theirs = exactly(
        UniPCMultistepScheduler(solver_order=order, lower_order_final=False, final_sigmas_type="sigma_min", **settings)
    )
    way = walk(theirs, network, 20)

    times = times_of([*theirs.timesteps.tolist(), 0])[:-1]  # it ends at timestep 0
    assert_same([step.x for step in sample(exact, start(), times, uni_pc(order), torch.randn_like)], way)


@pytest.mark.parametrize("order", [2, 3])
def test_deis_is_the_deis_scheduler(chain, order):
    exact, settings, network = chain
    theirs = exactly(DEISMultistepScheduler(solver_order=order, lower_order_final=False, **settings))
    theirs.set_timesteps(20)
    theirs.sigmas = theirs.sigmas.double()  # in single precision it loses 4e-3 in the first step on the cosine chain

    x, way = start().double(), []
    for k in theirs.timesteps:
        x = theirs.step(network(x, k), k, x).prev_sample
        way.append(x)

    times = times_of([*theirs.timesteps.tolist(), 0])[:-1]
    assert_same([step.x for step in sample(exact, start().double(), times, DEIS(order), torch.randn_like)], way)


@pytest.mark.parametrize(("tau", "low", "high"), [(1.0, 0, 1000), (0.6, 200, 800)])
def test_sa_solver_is_the_sa_solver_scheduler(chain, tau, low, high):
    exact, settings, network = chain
    theirs = exactly(
        SASolverScheduler(
            predictor_order=2,
            corrector_order=3,
            tau_func=lambda k: torch.tensor(tau if low <= k <= high else 0.0),
            lower_order_final=False,
            **settings,
        )
    )
    way = walk(theirs, network, 20, generator=seeded()[0])

    times = times_of([*theirs.timesteps.tolist(), 0])[:-1]
    # half a timestep further on either side, so that no rounding decides
    ends = torch.tensor([low + 0.5, high + 1.5], dtype=torch.float64) / 1000
    low, high = torch.exp(-exact.process.schedule.log_snr(ends) / 2).tolist()
    ours = sample(exact, start(), times, sa_solver(2, tau, between=(low, high)), seeded()[1])
    assert_same([step.x for step in ours], way)


def test_churned_ddim_is_the_edm_euler_scheduler(mixture):
    exact, n = mixture(Karras()), 18
    theirs = EDMEulerScheduler(sigma_data=0.5, final_sigmas_type="sigma_min")
    theirs.set_timesteps(n + 1)
    times = grids.uniform(Karras(), n)
    torch.testing.assert_close(Karras()(times)[1].float(), theirs.sigmas[:-1])

    gamma = 5 / (n + 1)
    x, way, (generator, _) = 80 * start(), [], seeded()
    for k, sigma in zip(theirs.timesteps[:-1], theirs.sigmas, strict=False):
        theirs.scale_model_input(x, k)
        churned = 0.05 <= sigma <= 50
        noisier = Karras().time_of(-2 * (sigma.double() * (1 + gamma * churned)).log())
        # the denoiser is asked after their noise was added, which happens inside of their step
        replay = torch.Generator().set_state(generator.get_state())
        noise = torch.randn(SHAPE, generator=replay) if churned else 0
        x_hat = x + 1.003 * noise * sigma * ((1 + gamma) ** 2 - 1) ** 0.5
        settings = {"s_churn": 5.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003, "generator": generator}
        x = theirs.step(x, k, x, pred_original_sample=exact(x_hat, noisier), **settings).prev_sample
        way.append(x)

    solver = Churn(DDIM(), gamma, between=(0.05, 50.0), noise_scale=1.003)
    assert_same([step.x for step in sample(exact, 80 * start(), times, solver, seeded()[1])], way)


def test_one_iteration_of_inversion_is_the_ddim_inverse_scheduler(mixture):
    # of a network that predicts the noise: a v of the end of a step, theirs reads as one of its beginning
    exact = mixture(linear_beta())
    theirs = exactly(DDIMInverseScheduler(clip_sample=False, prediction_type="epsilon"))
    theirs.set_timesteps(50)

    x, way = start().double(), []
    for k in theirs.timesteps:
        t = (k.double() + 1) / 1000
        eps = from_x(denoisers.epsilon, exact(x, t), x, *exact.process.schedule(t))
        x = theirs.step(eps, int(k), x).prev_sample
        way.append(x)

    times = times_of(theirs.timesteps.flip(0))  # their first step begins at data, as ours does
    assert_same([step.x for step in invert(exact, start().double(), times)], way)


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

    ours = sample(exact, start(), times, Heun(), torch.randn_like)
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

    assert_same([step.x for step in sample(exact, start(), times, DDIM(), torch.randn_like)], way)


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

    ours = sample(exact, 80 * start().double(), times, Heun(), torch.randn_like)
    assert_same([step.x for step in ours], way)
