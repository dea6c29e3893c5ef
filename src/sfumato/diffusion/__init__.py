"""The mathematics of diffusion: schedules, processes, denoisers, objectives, solvers, guidance. Needs only torch.

Parameterizations, weights, time laws and grids share short names (`karras`, `uniform`), so they are reached by their
module: `denoisers.karras(0.5)`, `grids.karras(schedule, 20)`.
"""

from . import denoisers, grids, guidance, objectives, processes, schedules, solvers
from .denoisers import Denoiser, Parameterization, PosteriorMean, convert, from_x, noise_level, to_x
from .guidance import Guided
from .objectives import TimeLaw, Weight, denoising_loss
from .processes import Gaussian
from .schedules import Discrete, Flow, Karras, Schedule, Shifted, cosine, from_betas, like, linear_beta
from .solvers import Solver, State, Step, ancestral, ddim, dpm_solver_pp_2m, heun, sample

__all__ = [
    "Denoiser",
    "Discrete",
    "Flow",
    "Gaussian",
    "Guided",
    "Karras",
    "Parameterization",
    "PosteriorMean",
    "Schedule",
    "Shifted",
    "Solver",
    "State",
    "Step",
    "TimeLaw",
    "Weight",
    "ancestral",
    "convert",
    "cosine",
    "ddim",
    "denoisers",
    "denoising_loss",
    "dpm_solver_pp_2m",
    "from_betas",
    "from_x",
    "grids",
    "guidance",
    "heun",
    "like",
    "linear_beta",
    "noise_level",
    "objectives",
    "processes",
    "sample",
    "schedules",
    "solvers",
    "to_x",
]
