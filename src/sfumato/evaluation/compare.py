"""Two or more reports side by side, and which of their differences are more than chance.

Reports are compared part by part, and only where the basis of the part is the same: a Fréchet distance in another
feature space, or of another number of pictures, is another quantity. Where a number is a mean over pictures, and the
reports drew the same prompts from the same seeds, the test is paired; else it is that of two independent means whose
standard errors their intervals tell. The p-value is two-sided, from Student's law or the normal one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sfumato.evaluation.interval import Difference, Interval, difference

REACH = 1.959964  # standard errors from a mean to the end of its interval of 95 %

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Compared:
    """What a row of one report has above the same row of another.

    Attributes:
        difference: with its interval and p-value.
        paired: whether picture was compared with picture.
    """

    difference: Difference
    paired: bool


def comparable(first: Mapping[str, Any], second: Mapping[str, Any], part: str) -> bool:
    """Whether both reports (of report.json) have the part, on the same basis."""
    parts = [report["parts"].get(part) for report in (first, second)]
    return None not in parts and parts[0]["basis"] == parts[1]["basis"]


def same_draws(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether both drew the same prompts from the same seeds."""
    draws = [report.get("draws") for report in (first, second)]
    return None not in draws and draws[0] == draws[1]


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], name: str, values: tuple[Values, Values] = ({}, {})
) -> Compared | None:
    """`second` less `first` in the row `name`; None where they are not comparable.

    Args:
        first: a report, as report.json holds it.
        second: another.
        name: "part.row".
        values: the numbers of single pictures of both, as values.npz holds them.
    """
    part, _, row = name.rpartition(".")
    if not comparable(first, second, part):
        return None
    rows = [report["parts"][part]["rows"].get(row) for report in (first, second)]
    if None in rows:
        return None

    if same_draws(first, second) and all(name in kept for kept in values):
        of_first, of_second = (torch.from_numpy(kept[name]) for kept in values)
        return Compared(difference(of_second, of_first, paired=True), True)
    return Compared(independent(*(Interval(**row["drawn"]) for row in rows)), False)


def independent(first: Interval, second: Interval) -> Difference:
    """The test of two independent numbers by their intervals, taken for those of the normal law."""
    from scipy.stats import norm

    gap = second.mean - first.mean
    if None in (first.low, first.high, second.low, second.high):
        return Difference(Interval(gap, None, None), None)
    error = math.hypot(_width(first), _width(second)) / 2 / REACH
    p = 2 * float(norm.sf(abs(gap) / error)) if error else float(gap == 0)
    return Difference(Interval(gap, gap - REACH * error, gap + REACH * error), p)


def _width(value: Interval) -> float:
    assert value.low is not None and value.high is not None
    return value.high - value.low
