"""The categorical process: tokens that are masked, or replaced at random, one by one.

States are ids. Each token keeps its x_0 with a probability a_t and is otherwise drawn from a fixed law pi,

    marginal    q(x_t | x_0)      = a_t [x_t = x_0] + (1 - a_t) pi(x_t)
    chain       q(x_t | x_s)      = a_t / a_s [x_t = x_s] + (1 - a_t / a_s) pi(x_t),  s < t
    posterior   q(x_s | x_t, x_0) = q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0)

(Austin et al. 2021 (D3PM), arXiv:2107.03006, eq. 3 and app. A). Under the law `masked`, pi is one more id, the mask
(MDLM, Sahoo et al. 2024, arXiv:2406.07524); under `uniform`, pi is even over all tokens. Only the signal of a schedule
counts: a_t = (alpha_t - alpha_1) / (alpha_0 - alpha_1), which falls from 1 to exactly 0, so x_1 follows pi itself. For
`Flow` a_t is 1 - t, the usual choice.

A denoiser answers with the probabilities p(x_0 | x_t), the posterior mean of x_0 written as one-hot vectors. The way
back is the mean of the posterior over them,

    p(x_s | x_t) = q(x_t | x_s) sum_{x_0} q(x_s | x_0) p(x_0 | x_t) / q(x_t | x_0),

and the division must not be left out. Without it, the formula is q(x_s | x_t, E[x_0 | x_t]): under the uniform law,
tokens that have to change then do not, and sampling stalls. All eta have the same marginals: at eta = 0 a token stays
as it is with the probability (1 - a_s) / (1 - a_t) and is otherwise drawn from p(x_0 | x_t) (Song et al. 2020 (DDIM),
arXiv:2010.02502, app. A); in between, the two are mixed. Under the law `masked` they are the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .processes import Noise
from .schedules import Schedule, like

LEAST = torch.finfo(torch.float32).tiny  # probability; a smaller one has this logarithm


@dataclass(frozen=True)
class Categorical:
    """The process of a schedule over ids 0 ... tokens - 1. States are (B, L) int64, `noise` is uniform in [0, 1).

    Args:
        schedule: its alpha must fall.
        tokens: K, the number of tokens.
        law: what replaces a token: "masked" is the id K, which is not a token; "uniform" is any token.

    Raises:
        ValueError: the signal does not fall, or there are fewer than two tokens.
    """

    schedule: Schedule
    tokens: int
    law: Literal["masked", "uniform"] = "masked"

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise ValueError(f"tokens = {self.tokens} must be at least 2")
        if self.law not in ("masked", "uniform"):
            raise ValueError(f"law = {self.law!r} is not known: use 'masked' or 'uniform'")
        first, last = self.schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))[0].tolist()
        if last > 0.1 * first:
            raise ValueError(
                f"schedule = {self.schedule} keeps its signal: alpha falls from {first:g} to {last:g}, and tokens need "
                "a tenth or less; use flow or cosine"
            )

    @property
    def states(self) -> int:
        """How many ids a state can have: the tokens, and the mask if there is one."""
        return self.tokens + (self.law == "masked")

    @property
    def mask(self) -> int | None:
        """The id of the mask, if there is one."""
        return self.tokens if self.law == "masked" else None

    def kept(self, t: Tensor) -> Tensor:
        """Return a_t, the probability that a token is still the one of the data, float64 of the shape of `t`."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=t.device)
        (first, last), (alpha, _) = self.schedule(ends)[0], self.schedule(t.double())
        return ((alpha - last) / (first - last)).clamp(0, 1)

    def noise(
        self,
        shape: Sequence[int],
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Return uniform numbers of `shape`, float64 whatever `dtype` says: 24 bits of a float32 are not enough for
        many tokens."""
        return torch.rand(tuple(shape), generator=generator, dtype=torch.float64, device=device)

    def prior(self, noise: Tensor) -> Tensor:
        """Return a draw of pi: all masks, or any tokens."""
        return self._fresh(noise)

    def forward(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of q(x_t | x_0)."""
        a = like(self.kept(t), x_0)
        rest = ((noise - a) / (1 - a).clamp(min=LEAST)).clamp(0, 1)  # uniform again where the token is not kept
        return torch.where(noise < a, x_0, self._fresh(rest))

    def bridge(self, x_t: Tensor, mean: Tensor, t: Tensor, s: Tensor, noise: Noise, eta: float = 1.0) -> Tensor:
        """Return a draw of p(x_s | x_t), from the probabilities `mean` (B, L, K)."""
        edges = self.posterior(x_t, mean, t, s, eta).cumsum(-1)
        drawn = (edges <= noise(x_t)[..., None] * edges[..., -1:]).sum(-1)
        return drawn.clamp(max=self.states - 1)

    def posterior(self, x_t: Tensor, mean: Tensor, t: Tensor, s: Tensor, eta: float = 1.0) -> Tensor:
        """Return the probabilities p(x_s | x_t) (B, L, states) for s < t.

        Args:
            x_t: the state at time t (B, L).
            mean: the probabilities of x_0 (B, L, K): a denoiser's answer, or one-hot where x_0 is known.
            t: the time of `x_t`, above 0.
            s: the earlier time.
            eta: 0 keeps as much of `x_t` as the marginals allow, 1 is Bayes' rule for the chain.
        """
        a_t, a_s = (like(a, x_t)[..., None] for a in (self.kept(t), self.kept(s)))
        here, mean = F.one_hot(x_t, self.states), F.pad(mean.double(), (0, self.states - self.tokens))
        mean = self._possible(here, mean)
        found = torch.zeros_like(mean)
        if eta < 1:
            stays = (1 - a_s) / (1 - a_t)
            found += (1 - eta) * (stays * here + (1 - stays) * mean)
        if eta > 0:
            found += eta * self._bayes(here, mean, a_t, a_s)
        return found

    def error(self, x_0: Tensor, mean: Tensor) -> Tensor:
        """Return the cross-entropy (B,) in nats a token."""
        right = mean.gather(-1, x_0[..., None]).squeeze(-1)
        return -right.clamp(min=LEAST).log().flatten(1).mean(1)

    def blend(self, null: Tensor, mean: Tensor, scale: Tensor | float) -> Tensor:
        """Return the probabilities that are proportional to null (mean / null)^scale: the line in log space."""
        log_null, log_mean = (p.clamp(min=LEAST).log() for p in (null, mean))
        return torch.softmax(log_null + scale * (log_mean - log_null), -1)

    def term(self, x_0: Tensor, x_t: Tensor, mean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return a term of the bound on -log p(x_0) (B,), in bits a token: KL(q(x_s | x_t, x_0) || p(x_s | x_t)).

        The sum over a grid of times from 1 to 0, with a draw x_t of q(x_t | x_0) for each step, is the whole bound. The
        prior costs nothing because it is reached exactly, and the data cost nothing more because s = 0 there.
        """
        q = self.posterior(x_t, F.one_hot(x_0, self.tokens), t, s)
        p = self.posterior(x_t, mean, t, s)
        kl = torch.special.xlogy(q, q / p.clamp(min=LEAST)).sum(-1)
        return kl.flatten(1).mean(1) / math.log(2)

    def _bayes(self, here: Tensor, mean: Tensor, a_t: Tensor, a_s: Tensor) -> Tensor:
        """p(x_s | x_t) by Bayes' rule for the chain."""
        pi = self._pi(mean)
        away = (here * pi).sum(-1, keepdim=True)  # pi(x_t)
        weight = mean / (a_t * here + (1 - a_t) * away).clamp(min=LEAST)  # p(x_0 | x_t) / q(x_t | x_0)
        forwards = a_s * weight + (1 - a_s) * pi * weight.sum(-1, keepdim=True)
        step = a_t / a_s
        return (step * here + (1 - step) * away) * forwards

    def _possible(self, here: Tensor, mean: Tensor) -> Tensor:
        """`mean` restricted to the x_0 that x_t can have come from; a token that is not masked never changed."""
        if self.mask is None:
            return mean
        return torch.where(here[..., self.mask, None] == 1, mean, here.to(mean.dtype))

    def _pi(self, p: Tensor) -> Tensor:
        """pi (states,), like `p`."""
        if self.mask is None:
            return p.new_full((self.states,), 1 / self.tokens)
        return F.one_hot(torch.tensor(self.mask, device=p.device), self.states).to(p.dtype)

    def _fresh(self, u: Tensor) -> Tensor:
        """Draws of pi, from uniform numbers."""
        if self.mask is None:
            return (u * self.tokens).long().clamp(0, self.tokens - 1)
        return torch.full_like(u, self.mask, dtype=torch.int64)
