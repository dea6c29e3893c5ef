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

from sfumato.evaluation.interval import Interval, interval

REACH = 1.959964  # standard errors from a mean to the end of its interval of 95 %

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """What a row of one report has above the same row of another.

    Attributes:
        difference: with its interval.
        p: how likely one as large is without a difference; None where it cannot be told.
        paired: whether picture was compared with picture.
    """

    difference: Interval
    p: float | None
    paired: bool


def comparable(first: Mapping[str, Any], second: Mapping[str, Any], part: str) -> bool:
    """Whether both reports (of report.json) have the part, on the same basis."""
    parts = [report["parts"].get(part) for report in (first, second)]
    return None not in parts and parts[0]["basis"] == parts[1]["basis"]


def same_draws(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether both drew the same prompts from the same seeds."""
    draws = [report.get("draws") for report in (first, second)]
    return None not in draws and draws[0] == draws[1]


def difference(
    first: Mapping[str, Any], second: Mapping[str, Any], name: str, values: tuple[Values, Values] = ({}, {})
) -> Difference | None:
    """`second` minus `first` in the row `name`; None where they are not comparable.

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
        return paired(values[0][name], values[1][name])
    a, b = (Interval(**row["drawn"]) for row in rows)
    return independent(a, b)


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Student's paired test of two sets of values (N,) of the same prompts and seeds."""
    from scipy.stats import t

    gaps = second - first
    n, mean = len(gaps), float(gaps.mean())
    error = float(gaps.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    if n < 2:
        return Difference(interval(mean, error, 0), None, True)
    p = float(2 * t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Difference(interval(mean, error, n - 1), p, True)


def independent(first: Interval, second: Interval) -> Difference:
    """The test of two independent means by their intervals."""
    from scipy.stats import norm

    gap = second.mean - first.mean
    ends = (first.low, first.high, second.low, second.high)
    if None in ends:
        return Difference(Interval(gap, None, None), None, False)
    low_1, high_1, low_2, high_2 = (float(end) for end in ends if end is not None)
    error = math.hypot(high_1 - low_1, high_2 - low_2) / 2 / REACH
    p = float(2 * norm.sf(abs(gap) / error)) if error else float(gap == 0)
    return Difference(Interval(gap, gap - REACH * error, gap + REACH * error), p, False)
