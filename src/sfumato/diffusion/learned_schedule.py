"""A schedule that is learned: the monotone network of VDM (Kingma et al. 2021, arXiv:2107.00630, appendix H).

    gamma(t) = gamma_0 + (gamma_1 - gamma_0) (g(t) - g(0)) / (g(1) - g(0)),    g(t) = l_1(t) + l_3(sigmoid(l_2(t)))

where the l are linear with weights above 0, so that g grows. The log-SNR is -gamma, and the process keeps its variance:
alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma). The bound of infinitely many steps depends only on the two ends;
the curve between them decides the noise of its estimate, and the bound of finitely many steps.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from .schedules import Schedule

BISECTIONS = 50


class LearnedSchedule(nn.Module, Schedule):
    """A variance-preserving schedule with weights. Its parameters are trained with those of the network.

    Args:
        log_snr: the initial log-SNR at t = 0 and at t = 1; VDM's values by default.
        width: features of the network.

    Raises:
        ValueError: when the log-SNR does not fall.
    """

    def __init__(self, log_snr: tuple[float, float] = (13.3, -5.0), width: int = 1024) -> None:
        super().__init__()
        if not log_snr[0] > log_snr[1]:
            raise ValueError(f"log_snr = {log_snr} must fall from the data, t = 0, to the noise, t = 1")

        self.start = nn.Parameter(torch.tensor(-log_snr[0]))  # gamma_0
        self.log_span = nn.Parameter(torch.tensor(math.log(log_snr[0] - log_snr[1])))  # log(gamma_1 - gamma_0)
        self.slope = nn.Parameter(torch.zeros(()))  # l_1
        steepness, places = 1 + 9 * torch.rand(width), 2 * torch.rand(width) - 1  # steps all over [-1, 1]
        self.steepness = nn.Parameter(steepness)  # l_2
        self.bias = nn.Parameter(-steepness * places)
        self.heights = nn.Parameter(torch.full((width,), -4.0))  # l_3

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        gamma = self.gamma(t)
        return torch.exp(logsigmoid(-gamma) / 2), torch.exp(logsigmoid(gamma) / 2)

    def gamma(self, t: Tensor) -> Tensor:
        """Return -log SNR, of the shape and dtype of `t`."""
        low, here, high = (self._rising(v) for v in (torch.zeros_like(t), t, torch.ones_like(t)))
        return self.start.to(t.dtype) + self.log_span.to(t.dtype).exp() * (here - low) / (high - low)

    def log_snr(self, t: Tensor) -> Tensor:
        return -self.gamma(t)

    @torch.no_grad()
    def time_of(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            later = self.log_snr(middle) > log_snr
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return (low + high) / 2

    def normalize(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.sqrt(alpha**2 + sigma**2)
        return alpha / norm, sigma / norm

    def _rising(self, t: Tensor) -> Tensor:
        """Return g(t)."""
        slope, steepness, bias, heights = (p.to(t.dtype) for p in (self.slope, self.steepness, self.bias, self.heights))
        features = torch.sigmoid(softplus(steepness) * (2 * t[..., None] - 1) + bias)
        return softplus(slope) * t + (softplus(heights) * features).mean(-1)
