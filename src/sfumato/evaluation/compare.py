"""Two or more reports side by side, and which of their differences are more than chance.

Reports are compared part by part, and only where the basis of the part is the same: a Fréchet distance in another
feature space, or of another number of pictures, is another quantity. Where a number is a mean over pictures, and both
reports drew the same prompts from the same seeds, the test is paired; otherwise it takes the two means as independent,
with the standard errors of their intervals. The p-value is two-sided, from Student's law or the normal one.

Many tests at once find differences where there are none: among 40 tests without any, two have p < 0.05 on average.
Holm's correction (Holm 1979) enlarges the p-values of a family so that the chance of any false alarm among all of them
is at most that of one test.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sfumato.measures.interval import Difference, Interval, difference

REACH = 1.959964  # standard errors from a mean to the end of its interval of 95 %

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Compared:
    """A row of one report minus the same row of another.

    Attributes:
        difference: with its interval and p-value.
        paired: whether pictures were compared one by one.
    """

    difference: Difference
    paired: bool


def comparable(first: Mapping[str, Any], second: Mapping[str, Any], part: str) -> bool:
    """Whether both reports (of report.json) have the part, on the same basis."""
    parts = [report["parts"].get(part) for report in (first, second)]
    return None not in parts and parts[0]["basis"] == parts[1]["basis"]


def same_pictures(first: Mapping[str, Any], second: Mapping[str, Any], part: str) -> bool:
    """Whether picture i of the part belongs to picture i of the other: drawn alike, or for "nll" the same real one."""
    if part == "nll":
        names = [report.get("nll", {}).get("names") for report in (first, second)]
        return None not in names and names[0] == names[1]
    return same_draws(first, second)


def same_draws(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether both drew the same prompts from the same seeds."""
    draws = [report.get("draws") for report in (first, second)]
    return None not in draws and draws[0] == draws[1]


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], name: str, values: tuple[Values, Values] = ({}, {})
) -> Compared | None:
    """`second` minus `first` in the row `name`; None if they are not comparable.

    Args:
        first: a report, as report.json holds it.
        second: another.
        name: "part.row".
        values: the numbers of single pictures of both, as values.npz holds them.
    """
    part = max((part for part in first["parts"] if name.startswith(f"{part}.")), key=len, default="")
    row = name.removeprefix(f"{part}.")  # both may have dots of their own
    if not comparable(first, second, part):
        return None
    rows = [report["parts"][part]["rows"].get(row) for report in (first, second)]
    if None in rows:
        return None

    if same_pictures(first, second, part) and all(name in kept for kept in values):
        of_first, of_second = (torch.from_numpy(kept[name]) for kept in values)
        if len(of_first) == len(of_second):
            return Compared(difference(of_second, of_first, paired=True), True)
    return Compared(independent(*(Interval(**row["drawn"]) for row in rows)), False)


def independent(first: Interval, second: Interval) -> Difference:
    """The test of two independent numbers by their intervals.

    The intervals are taken as normal, and as wide on both sides as on the wider side.
    """
    from scipy.stats import norm

    gap = second.mean - first.mean
    if None in (first.low, first.high, second.low, second.high):
        return Difference(Interval(gap, None, None), None)
    error = math.hypot(_reach(first), _reach(second)) / REACH
    p = 2 * float(norm.sf(abs(gap) / error)) if error else float(gap == 0)
    return Difference(Interval(gap, gap - REACH * error, gap + REACH * error), p)


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values of a family of tests after Holm's correction, in their order.

    The i-th smallest of m is multiplied by m - i + 1; none may become smaller than one before it, or above 1.
    """
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def _reach(value: Interval) -> float:
    """The distance from the mean to the farther end; the nearer end may have been moved to the limit of the values."""
    assert value.low is not None and value.high is not None
    return max(value.high - value.mean, value.mean - value.low)
