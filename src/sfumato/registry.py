"""The one place where a name in a recipe becomes an object.

The mathematics never sees a mode string: a recipe's names are resolved here, once, when a model is built. To add a
solver, a schedule or a network, write it where it belongs and add its line below. The maps are closed: a file can
name only the entries here, never an import path.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from sfumato.diffusion import denoisers, exponential, grids, laws, objectives, reverse, schedules, solvers
from sfumato.diffusion.bound import Decoder
from sfumato.diffusion.fresh_noise import Churn
from sfumato.diffusion.importance import Importance
from sfumato.diffusion.learned_schedule import LearnedSchedule
from sfumato.diffusion.processes import Process
from sfumato.errors import UserError, unknown
from sfumato.networks.dit import DiT
from sfumato.networks.unet import UNet

Entry = TypeVar("Entry")

SCHEDULES: dict[str, Callable[[], schedules.Schedule]] = {
    "linear": schedules.linear_beta,
    "cosine": schedules.cosine,
    "flow": schedules.Flow,
    "karras": schedules.Karras,
    "learned": LearnedSchedule,
}

PARAMETERIZATIONS: dict[str, Callable[[float], denoisers.Parameterization]] = {
    "epsilon": lambda sigma_data: denoisers.epsilon,
    "x": lambda sigma_data: denoisers.x,
    "v": lambda sigma_data: denoisers.v,
    "flow": lambda sigma_data: denoisers.flow,
    "karras": denoisers.karras,
}

WEIGHTS: dict[str, Callable[[float], objectives.Weight]] = {
    "simple": lambda sigma_data: objectives.simple,
    "x": lambda sigma_data: objectives.uniform_x,
    "v": lambda sigma_data: objectives.v_weight,
    "flow": lambda sigma_data: objectives.flow_weight,
    "min_snr": lambda sigma_data: objectives.min_snr(),
    "edm": objectives.edm,
}

# (schedule, the settings of the times, steps of the chain) -> law of the training times
TIME_LAWS: dict[str, Callable[[schedules.Schedule, Any, int], laws.Law]] = {
    "uniform": lambda schedule, times, chain: laws.Uniform(),
    "logit_normal": lambda schedule, times, chain: laws.LogitNormal(times.mean, times.std),
    "log_normal": lambda schedule, times, chain: laws.LogNormal(schedule, times.mean, times.std),
    "importance": lambda schedule, times, chain: Importance.fresh(chain),
}

# (the settings of the objective, sigma_data, whether the variance is learned, p(x_0 | x_1)) -> loss per example
OBJECTIVES: dict[str, Callable[[Any, float, bool, Decoder], objectives.Loss]] = {
    "simple": lambda settings, sigma_data, learned, decoder: partial(
        objectives.denoising_loss, weight=WEIGHTS[settings.weight](sigma_data)
    ),
    "hybrid": lambda settings, sigma_data, learned, decoder: partial(
        objectives.hybrid_loss,
        weight=WEIGHTS[settings.weight](sigma_data),
        T=settings.chain,
        share=settings.vlb_share,
        decoder=decoder,
    ),
    "vlb": lambda settings, sigma_data, learned, decoder: partial(
        objectives.vlb_loss, T=settings.chain, variance=reverse.learned if learned else reverse.large, decoder=decoder
    ),
}

SOLVERS: dict[str, Callable[[], solvers.Solver]] = {
    "ddpm": solvers.Ancestral,
    "ddim": solvers.DDIM,
    "heun": solvers.Heun,
    "edm": lambda: Churn(solvers.Heun(), gamma=0.15, between=(0.05, 50.0), noise_scale=1.003),
    "dpm++2s": lambda: solvers.dpm_solver_pp_2s,
    "dpm++2m": lambda: exponential.dpm_solver_pp_2m,
    "dpm++3m": lambda: exponential.dpm_solver_pp_3m,
    "dpm++2m-sde": lambda: exponential.sde_dpm_solver_pp_2m,
    "unipc": exponential.uni_pc,
    "deis": exponential.DEIS,
    "sa": exponential.sa_solver,
}

GRIDS: dict[str, Callable[[schedules.Schedule, int], Tensor]] = {
    "uniform": grids.uniform,
    "log-snr": grids.log_snr,
    "karras": grids.karras,
    "ays": grids.ays,
}

NETWORKS: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "dit": DiT}


def resolve(field: str, registry: Mapping[str, Entry], name: str) -> Entry:
    """The entry ``name`` of ``registry``.

    Raises:
        UserError: there is no such entry; names the field, the value, the nearest entry and all.
    """
    if name not in registry:
        raise unknown(field, name, registry)
    return registry[name]


def solver_for(name: str, process: Process) -> solvers.Solver:
    """The solver ``name``, which must walk the kind of ``process``.

    Raises:
        UserError: there is no such solver, or it does not go with the process; names those that do.
    """
    solver = resolve("sampling.solver", SOLVERS, name)()
    try:
        solvers.check(solver, process)
    except ValueError:
        kinds = {known: getattr(make(), "processes", ()) for known, make in SOLVERS.items()}
        walks = ", ".join(known for known, kind in kinds.items() if isinstance(process, kind))
        raise UserError(
            f"sampling.solver = {name} does not go with a {type(process).__name__.lower()} process, {process}",
            fix=f"use one of {walks}",
        ) from None
    return solver
