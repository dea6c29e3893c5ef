"""The settings of an evaluation: the command line fills them, and all other code reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.measures.bias import THRESHOLD
from sfumato.measures.probes import Attribute

METRICS = ("quality", "statistics", "speed", "nll", "memorization", "membership", "alignment", "bias", "duplicates")
BY_DEFAULT = tuple(metric for metric in METRICS if metric != "nll")  # which can take longer than all others together


@dataclass(frozen=True)
class Likelihoods:
    """How the likelihood is measured: largest number of pictures, steps of the chain, random vectors for each
    picture."""

    pictures: int = 32
    chain: int = 1000
    probes: int = 4


@dataclass(frozen=True)
class Groups:
    """What is monitored for bias: prompt templates, attributes, and the total variation that raises an alarm.

    The defaults are `trust.TEMPLATES` and `probes.ATTRIBUTES`.
    """

    templates: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    threshold: float = THRESHOLD


@dataclass(frozen=True)
class Measuring:
    """What is measured, and how.

    Attributes:
        metrics: some of METRICS.
        n: pictures of each set; fewer where the data hold fewer than three times as many.
        seed: decides every choice and draw.
        likelihoods: how "nll" measures.
        groups: what "bias" monitors.
        inception: files with the weights of Inception, for a further feature space.
        strict: whether a metric that the model or the data do not allow is an error; else the report says so.
    """

    metrics: Sequence[str] = BY_DEFAULT
    n: int = 500
    seed: int = 0
    likelihoods: Likelihoods = Likelihoods()
    groups: Groups = Groups()
    inception: Sequence[str] = ()
    strict: bool = False
