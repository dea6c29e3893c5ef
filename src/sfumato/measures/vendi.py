"""The Vendi score: the number of completely different pictures that would be as diverse as these.

It is the exponential of the entropy of the eigenvalues of K / N, for the matrix K of similarities of N pictures
(Friedman & Dieng 2023, arXiv:2210.02410, eq. 1): 1 for N equal pictures, N for N completely different ones. With
cosines as similarities, K = X X^T of rows of length 1, and X^T X / N of shape (D, D) has the same eigenvalues above 0:
the score is at most D.

The score grows with N: compare it only for the same N. Its interval is the jackknife's of the logarithm. In a
bootstrap, copies lower the score: its interval contained the mean in 74 % (N = 300, D = 16) and 0 % (N = 200, D = 256),
the jackknife's in 94 and 92 %.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sfumato.measures.interval import Interval, Progress, ignored, interval, jackknife
from sfumato.measures.permutation import Against


def log_score(features: Tensor) -> Tensor:
    """The logarithm () of the Vendi score of features (N, D), in float64."""
    x = normalize(features.double())
    eigenvalues = torch.linalg.eigvalsh(x.T @ x if len(x) > x.shape[1] else x @ x.T) / len(x)
    return torch.special.entr(eigenvalues.clamp(min=0)).sum()


def of_parts(pool: Tensor, reference: Tensor) -> Against:
    """The Vendi score of parts of a pool (N, D); it needs no reference."""
    return lambda j: lambda i: log_score(pool[i]).exp()[None]


def vendi(features: Tensor, seed: int, progress: Progress = ignored) -> Interval:
    """The Vendi score of features (N, D), with an interval for other sets of the same size.

    Args:
        features: features, none of them zero.
        seed: decides the random cuts of the jackknife.
        progress: called after every measurement.

    Raises:
        UserError: fewer than 16 pictures.
    """
    found = jackknife(log_score, [features], seed, groups=8, cuts=3, progress=progress)
    log = interval(log_score(features).item(), found.error.item(), found.freedom)
    assert log.low is not None and log.high is not None
    return Interval(math.exp(log.mean), math.exp(log.low), math.exp(log.high))
