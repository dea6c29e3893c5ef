"""Numbers with intervals of 95 %: no measured mean is told without one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean with its interval of 95 %, whose ends are None where one number is all there is."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]")


def interval(mean: float, error: float, freedom: int) -> Interval:
    """Student's interval for a mean with a standard error of `freedom` degrees of freedom."""
    from scipy.stats import t

    if freedom < 1:
        return Interval(mean, None, None)
    reach = float(t.ppf(0.975, freedom)) * error
    return Interval(mean, mean - reach, mean + reach)
