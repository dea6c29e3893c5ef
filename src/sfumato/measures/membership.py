"""Whether the loss of a picture reveals that the model was trained on it: a membership test of one query.

A model that has learned its pictures by heart denoises them better than others of the same law (Carlini et al. 2023,
arXiv:2301.13188; Matsumoto et al. 2023, arXiv:2302.03262). The test asks it one question for each picture and noise
level:

    loss = || x_0 - E[x_0 | x_t] ||^2  a dimension,    x_t = alpha_t x_0 + sigma_t eps,

with noise keyed by (seed, picture), so the test can be repeated. It is the weakest attack worth the name: what it finds
is there, but shadow models (Carlini et al.) or one more query (Kong et al. 2024, arXiv:2305.18355) find more. The
levels are fixed beforehand. Memory shows at middle levels: with less noise the picture is plain to see, with more only
the law of all pictures is. Each level has its own score. Their mean is taken over logarithms, each in units of
the standard deviation of held-out pictures, because losses at high noise would outweigh all others.

The result is the AUC, which is 0.5 if nothing is remembered, with the interval of DeLong et al. 1988. Beside it stands
the share of members that are found if 1 % of the others are taken for members (Carlini et al. 2022, arXiv:2112.03570),
with a bootstrap interval over both: an average may look harmless although a few pictures are known by heart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sfumato.conditioning.values import Condition
from sfumato.errors import UserError
from sfumato.keyed import generator
from sfumato.material import Material, asked_of, chosen
from sfumato.measures.interval import Interval
from sfumato.model import Model
from sfumato.report import Report

LEVELS = (0.25, 0.5, 1.0)  # sigma / alpha
FALSE_POSITIVES = 0.01
FEWEST = 20  # pictures of each kind
BATCH = 64
LEAST = 1e-12  # smallest loss whose logarithm is taken
RESAMPLES = 1000


@dataclass(frozen=True)
class Separation:
    """How well a score tells members from others.

    Attributes:
        auc: the probability that a member has a higher score than another picture.
        p_value: probability of so large an AUC if nothing is remembered.
        found: share of members with a higher score than all but 1 % of the others.
    """

    auc: Interval
    p_value: float
    found: Interval


@dataclass(frozen=True)
class Membership:
    """What was found.

    Attributes:
        members, others: number of pictures that the model has seen, and of those that it has not.
        together: the separation by the mean over the levels.
        levels: the separation by each noise level sigma / alpha alone.
    """

    members: int
    others: int
    together: Separation
    levels: Mapping[float, Separation]


def membership(model: Model, material: Material, n: int, seed: int, report: Report) -> Membership:
    """Test at most `n` pictures of the training data and as many held-out ones.

    Args:
        model: in evaluation mode.
        material: the model's training data, from `pictures.material_for`.
        n: pictures of each kind.
        seed: decides the choice and the noise.
        report: told how far it is.

    Raises:
        UserError: these are not the training data, or there are fewer than 20 held-out pictures.
    """
    if not material.trained_on:
        raise UserError(
            "membership: these are not the data that the model was trained on",
            fix="give the folder or the data set of the training, unchanged",
        )
    least = min(n, len(material.seen), len(material.unseen))
    if least < FEWEST:
        raise UserError(
            f"membership: {least} pictures of a kind are too few to tell, which needs {FEWEST}",
            fix="raise --n, or hold out more pictures (data.validation) in the next training",
        )

    kinds = [chosen(indices, n, seed) for indices in (material.seen, material.unseen)]
    keys = np.concatenate(kinds)
    scores = -losses(
        model,
        model.codec.encode(material.data.rows[keys]),
        asked_of(model, material.data, keys),
        keys.tolist(),
        LEVELS,
        seed,
        report,
    ).log()
    members, others = scores.split([len(kind) for kind in kinds])
    return Membership(
        members=len(members),
        others=len(others),
        together=separation(*standardized(members, others), seed),
        levels={level: separation(members[:, i], others[:, i], seed, i + 1) for i, level in enumerate(LEVELS)},
    )


@torch.no_grad()
def losses(
    model: Model,
    x_0: Tensor,
    conditions: Sequence[Condition],
    keys: Sequence[int],
    levels: Sequence[float],
    seed: int,
    report: Report,
) -> Tensor:
    """The squared error a dimension (B, L) of the denoised picture at each noise level sigma / alpha.

    Args:
        model: in evaluation mode.
        x_0: (B, C, *sides).
        conditions: (B).
        keys: (B) numbers of the pictures, which key the noise.
        levels: (L).
        seed: decides the noise.
        report: told how far it is.
    """
    schedule = model.denoiser.process.schedule
    times = schedule.time_of(-2 * torch.tensor(levels, dtype=torch.float64).log())
    found = torch.empty(len(x_0), len(levels), dtype=torch.float64)
    for start in range(0, len(x_0), BATCH):
        part = slice(start, start + BATCH)
        clean = x_0[part].to(model.device)
        condition = model.conditioner(conditions[part])
        for i, t in enumerate(times):
            noise = torch.stack(
                [torch.randn(clean.shape[1:], generator=generator(seed, "membership", key, i)) for key in keys[part]]
            )
            mean = model.denoiser(model.denoiser.process.forward(clean, t, noise.to(clean)), t, **condition)
            found[part, i] = (clean - mean).double().square().flatten(1).mean(1).clamp(min=LEAST).cpu()
        report.progress("membership test", min(start + BATCH, len(x_0)), len(x_0))
    return found


def standardized(members: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The means over levels (N,), (M,) of scores (N, L), (M, L), in units of the others' standard deviation."""
    unit = others.std(0)
    return (members / unit).mean(1), (others / unit).mean(1)


def separation(members: Tensor, others: Tensor, seed: int, *key: int) -> Separation:
    """How well scores tell members (N,) from others (M,), each with a higher score for "member".

    The variance of the AUC follows DeLong et al. 1988, eq. 5, by ranks (Sun & Xu 2014). If it is 0, because the two do
    not overlap, the interval follows the rule of three.
    """
    from scipy.stats import norm, rankdata

    n, m = len(members), len(others)
    ranks = rankdata(torch.cat([members, others]).numpy())
    above = (ranks[:n] - rankdata(members.numpy())) / m  # share of the others below each member
    below = 1 - (ranks[n:] - rankdata(others.numpy())) / n  # share of the members above each of the others
    auc = float(above.mean())
    error = math.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m)
    reach = float(norm.ppf(0.975)) * error or 3 / min(n, m)
    p_value = float(norm.sf((auc - 0.5) / error)) if error else float(auc <= 0.5)

    g = generator(seed, "membership bootstrap", *key)
    again = torch.stack(
        [
            share_found(members[torch.randint(n, (n,), generator=g)], others[torch.randint(m, (m,), generator=g)])
            for _ in range(RESAMPLES)
        ]
    )
    low, high = again.quantile(torch.tensor([0.025, 0.975], dtype=again.dtype)).tolist()
    found = share_found(members, others).item()
    return Separation(Interval(auc, auc - reach, auc + reach).within(0, 1), p_value, Interval(found, low, high))


def share_found(members: Tensor, others: Tensor) -> Tensor:
    """The share () of members (N,) with a higher score than all but FALSE_POSITIVES of the others (M,)."""
    allowed = int(FALSE_POSITIVES * len(others))
    threshold = others.sort(descending=True).values[allowed]
    return (members > threshold).double().mean()
