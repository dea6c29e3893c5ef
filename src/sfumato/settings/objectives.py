"""What is minimised, and at which times: each by its kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sfumato.settings.base import Settings, within, word

WeightName = Literal["simple", "x", "v", "flow", "min_snr", "edm"]
CHAIN = "steps of the chain whose bound is minimised"


class SimpleObjective(Settings):
    """The weighted squared error of the denoised data."""

    kind: Literal["simple"] = "simple"
    weight: WeightName = word("v", "weight of the error over noise levels")


class HybridObjective(Settings):
    """The weighted squared error, with a share of the variational bound that teaches a learned variance."""

    kind: Literal["hybrid"] = "hybrid"
    weight: WeightName = word("v", "weight of the error over noise levels")
    chain: int = within(1000, 2, 100000, CHAIN)
    vlb_share: float = within(1e-3, 0, 1, "share of the bound")


class BoundObjective(Settings):
    """The variational bound alone."""

    kind: Literal["vlb"] = "vlb"
    chain: int = within(1000, 2, 100000, CHAIN)


class OwnObjective(Settings):
    """An objective that a program hands in (`sfumato.train(..., objective=...)`)."""

    kind: Literal["own"] = "own"
    name: str = Field(min_length=1, max_length=200, description="of its function or class")


AnyObjective = Annotated[SimpleObjective | HybridObjective | BoundObjective | OwnObjective, Field(discriminator="kind")]


class UniformTimes(Settings):
    """All times from 0 to 1 alike."""

    kind: Literal["uniform"] = "uniform"


class LogitNormalTimes(Settings):
    """The logit of the time is normal: the middle of the path more often than its ends."""

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = within(0.0, -10, 10, "of the logit; higher: more noise")
    std: float = within(1.0, 0.01, 10, "standard deviation of the logit")


class LogNormalTimes(Settings):
    """The logarithm of noise over signal is normal, as in EDM."""

    kind: Literal["log_normal"] = "log_normal"
    mean: float = within(0.0, -10, 10, "of the logarithm")
    std: float = within(1.0, 0.01, 10, "standard deviation of the logarithm")


class ImportanceTimes(Settings):
    """The steps of the chain as often as their terms of the bound matter; with the objective `vlb`."""

    kind: Literal["importance"] = "importance"


AnyTimes = Annotated[UniformTimes | LogitNormalTimes | LogNormalTimes | ImportanceTimes, Field(discriminator="kind")]
