"""The mathematics of diffusion: schedules, processes, denoisers, objectives, solvers, guidance, likelihoods.

Needs only torch, and SciPy where an ODE is solved.

Parameterizations, weights, time laws and grids share short names (`karras`, `uniform`), so they are reached by their
module: `denoisers.karras(0.5)`, `grids.karras(schedule, 20)`, `laws.Uniform()`.
"""

from . import denoisers, exponential, grids, guidance, laws, objectives, processes, schedules, solvers
from .categorical import Categorical
from .clipping import Clipped
from .denoisers import (
    Denoiser,
    Parameterization,
    PosteriorMean,
    TokenDenoiser,
    convert,
    from_x,
    noise_level,
    predict,
    to_x,
)
from .exponential import DEIS, Adams, dpm_solver_pp_2m, dpm_solver_pp_3m, sa_solver, sde_dpm_solver_pp_2m, uni_pc
from .fresh_noise import Churn
from .guidance import Guided
from .inversion import invert
from .laws import Law
from .objectives import Weight, denoising_loss
from .processes import Gaussian, Process
from .schedules import Discrete, Flow, Karras, Schedule, Shifted, cosine, from_betas, like, linear_beta
from .solvers import DDIM, Ancestral, Heun, Midpoint, Seen, Solver, State, Step, dpm_solver_pp_2s, sample
from .wrapping import Wrapped

__all__ = [
    "DDIM",
    "DEIS",
    "Adams",
    "Ancestral",
    "Categorical",
    "Churn",
    "Clipped",
    "Denoiser",
    "Discrete",
    "Flow",
    "Gaussian",
    "Guided",
    "Heun",
    "Karras",
    "Law",
    "Midpoint",
    "Parameterization",
    "PosteriorMean",
    "Process",
    "Schedule",
    "Seen",
    "Shifted",
    "Solver",
    "State",
    "Step",
    "TokenDenoiser",
    "Weight",
    "Wrapped",
    "convert",
    "cosine",
    "denoisers",
    "denoising_loss",
    "dpm_solver_pp_2m",
    "dpm_solver_pp_2s",
    "dpm_solver_pp_3m",
    "exponential",
    "from_betas",
    "from_x",
    "grids",
    "guidance",
    "invert",
    "laws",
    "like",
    "linear_beta",
    "noise_level",
    "objectives",
    "predict",
    "processes",
    "sa_solver",
    "sample",
    "schedules",
    "sde_dpm_solver_pp_2m",
    "solvers",
    "to_x",
    "uni_pc",
]
