"""The diffusion model of the comparison: sfumato's denoiser, objective and solver around any network.

    loss = E w(t) |D(alpha_t x + sigma_t eps, t) - x|^2

on the straight path of flow matching, with the unit-variance target and the weight of EDM (Karras et al. 2022, table 1)
and logit-normal times, and the optimizer, as in the recipe `fashion`; DPM-Solver++(2M) draws.
"""

from contextlib import AbstractContextManager

import torch
from gans import AVERAGE, Real
from torch import Tensor, nn

from sfumato.diffusion import (
    Denoiser,
    Flow,
    Gaussian,
    denoisers,
    denoising_loss,
    exponential,
    grids,
    laws,
    objectives,
    sample,
)
from sfumato.training.ema import EMA
from sfumato.training.optimizers import Optimizer


class Diffusion:
    """A denoiser in training; the average of its weights draws.

    Args:
        network: (x (B, ...), level (B,)) -> like x.
        shape: of a datum.
        sigma_data: standard deviation of the data.
        lr: the peak learning rate.
        evaluations: of the network, to draw.
        sigma_min: the noise that the last step removes at once, in units of the data.
        time: mean and deviation of the logit of the time.
        dtype: that the network computes in; weights and losses stay in single precision.
        optimizer: "muon", or "adamw", which without decay is Adam.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        sigma_data: float,
        lr: float,
        evaluations: int = 20,
        sigma_min: float = 0.01,
        time: tuple[float, float] = (-0.2, 1.4),
        dtype: torch.dtype = torch.float32,
        optimizer: str = "adamw",
    ) -> None:
        self.denoiser = Denoiser(network, Gaussian(Flow()), denoisers.karras(sigma_data), sigma_data)
        self.networks = {"denoiser": network}
        self.shape, self.dtype = shape, dtype
        self.weight, self.law = objectives.edm(sigma_data), laws.LogitNormal(*time)
        self.times = grids.log_snr(self.denoiser.schedule, evaluations, sigma_min)
        weights = dict(network.named_parameters())
        self.optimizer = Optimizer(weights, optimizer, lr, (0.9, 0.99), weight_decay=0.0)
        self.ema = EMA(weights, (AVERAGE,))
        self.steps = 0

    def step(self, real: Real, factor: float) -> dict[str, float]:
        """One step at `factor` times the peak rate; returns the loss."""
        x = real()
        t, _ = self.law.draw(torch.rand(len(x)))
        with self.autocast():
            loss = denoising_loss(self.denoiser, x, t, torch.randn_like(x), self.weight).mean()
        self.denoiser.network.zero_grad()
        loss.backward()
        self.optimizer.set_rate(factor)
        self.optimizer.step()
        self.steps += 1
        self.ema.update(self.steps)
        return {"denoiser": loss.item()}

    @torch.no_grad()
    def draw(self, n: int, chance: torch.Generator, batch: int = 250) -> Tensor:
        """(n, ...) from the average of the weights, `batch` at once."""
        parts = []
        with self.ema.swapped(0), self.autocast():
            for _ in range(0, n, batch):
                x = self.denoiser.process.prior(torch.randn(batch, *self.shape, generator=chance))
                *_, last = sample(self.denoiser, x, self.times, exponential.dpm_solver_pp_2m)
                parts.append(last.x)
        return torch.cat(parts)[:n]

    def autocast(self) -> AbstractContextManager:
        return torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32)
