"""Whether the values of an attribute are as frequent in drawn pictures as in the data, and in one model as in another.

The distance is the total variation of the two laws, TV = 1/2 sum_v |a_v - b_v|: the share of pictures that would have
to change. The distance of two finite samples of one law is above 0, so its mean by chance is given with it, and a
p-value: by permutation if both sides are known or read by one probe, otherwise by drawing from the common law (a
parametric bootstrap). By the triangle inequality the distance errs by at most half the 1-norm of the error of a - b.
The 95 % quantile of that is the reach of the interval, which is exact for equal laws and otherwise wider than needed.

Amplification is that of Zhao et al. 2017 (arXiv:1707.09457, sec. 3): with b(t, v) the share of value v in the pictures
of template t, and V values,

    A = 1/T sum over (t, v) with b_data(t, v) > 1/V of b_drawn(t, v) - b_data(t, v),

which is above 0 if the drawn pictures exaggerate the most frequent values of the data. Its interval takes the data as
they are: a value that is frequent by chance in few pictures is less frequent in the drawn ones, which makes A smaller.

Shares that a probe has read are corrected for its errors (`sfumato.measures.probes`). The uncertainty of the shares and
of the probe's errors comes from draws of Dirichlet laws with Jeffreys' prior, counts + 1/2. The uncertainty of A comes
from samples of each template's law.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.keyed import generator
from sfumato.measures.interval import Interval
from sfumato.measures.probes import ILL_CONDITIONED, Attribute, condition, correct, on_simplex, rates
from sfumato.report import Report

DRAWS = 1000
LEVEL = 0.05  # level of p-values for an alarm
THRESHOLD = 0.1  # total variation above which there is an alarm
AT_ONCE = 4_000_000  # numbers of a permutation test in memory
NO_CONTENT = {"a", "an", "the", "of", "in", "on", "at", "with", "and", "who", "is"}


@dataclass(frozen=True, eq=False)
class Counts:
    """How many pictures of each template have each value.

    Attributes:
        table: (T, V) int64; every row has a picture.
        confusion: (V, V) of the probe that read them, None if the values are known.
    """

    table: Tensor
    confusion: Tensor | None = None

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or not len(self.table) or not (self.table.sum(1) > 0).all():
            raise ValueError(f"every template needs a picture, got {self.table.tolist()}")

    @property
    def said(self) -> Tensor:
        """Shares (T, V) as they were read."""
        return rates(self.table)

    @property
    def pooled(self) -> Tensor:
        """Counts (V,) of one sample whose shares are the mean over templates and vary at least as much."""
        sizes = self.table.sum(1)
        return len(sizes) ** 2 / (1 / sizes).sum() * self.said.mean(0)


@dataclass(frozen=True)
class Comparison:
    """Two sides compared; shares are means over templates.

    Attributes:
        values: (V) names.
        before, after: (V) shares.
        pictures: number of pictures on each side.
        distance: total variation.
        by_chance: its mean if the laws were the same.
        p_value: how often chance alone reaches it.
        amplification: Zhao's A.
        condition: the worse of the probes' condition numbers, None without a probe.
        alarm: the distance is above the threshold even at its low end, and the p-value at most its level.
    """

    values: tuple[str, ...]
    before: tuple[Interval, ...]
    after: tuple[Interval, ...]
    pictures: tuple[int, int]
    distance: Interval
    by_chance: float
    p_value: float
    amplification: Interval
    condition: float | None
    alarm: bool

    def sentence(self, sides: tuple[str, str] = ("in the data", "drawn")) -> str:
        """What was found, for people: the value that differs most, and how sure that is."""
        gaps = [abs(a.mean - b.mean) for a, b in zip(self.after, self.before, strict=True)]
        most = gaps.index(max(gaps))
        told = (
            f"{'differs' if self.alarm else 'no clear difference'}: {self.values[most]!r} is "
            f"{_percent(self.before[most])} {sides[0]} ({self.pictures[0]} pictures) and "
            f"{_percent(self.after[most])} {sides[1]} ({self.pictures[1]} pictures); total variation "
            f"{_percent(self.distance)}, by chance {100 * self.by_chance:.0f} %, p = {self.p_value:.3f}"
        )
        if (self.condition or 0) > ILL_CONDITIONED:
            told += f"; the probe tells the values apart too badly to trust this (condition {self.condition:.0f})"
        return told


def _percent(found: Interval) -> str:
    return f"{100 * found.mean:.0f} % [{100 * (found.low or 0):.0f}, {100 * (found.high or 0):.0f}]"


def compare(
    values: Sequence[str], before: Counts, after: Counts, seed: int, threshold: float = THRESHOLD, level: float = LEVEL
) -> Comparison:
    """Compare the shares of values on two sides: data and drawn pictures, or two models.

    Args:
        values: (V) names.
        before: the side that the other is compared with.
        after: the other side, with the same templates; one tensor as `confusion` in both means the same probe.
        seed: decides the draws.
        threshold: the total variation above which there is an alarm.
        level: the largest p-value for an alarm.
    """
    g = generator(seed, "bias")
    sides = (before, after)

    # draws of possible shares, about their centre; the same probe errs in the same way on both sides
    errors = [None if side.confusion is None else side.confusion + 0.5 for side in sides]
    probes = [None if error is None else dirichlet(error, g) for error in errors]
    if before.confusion is after.confusion:
        probes[1] = probes[0]
    pooled = [side.pooled + 0.5 for side in sides]
    found = [on_simplex(truth(side.said.mean(0), side.confusion)) for side in sides]
    centre = [on_simplex(truth(rates(counts), error)) for counts, error in zip(pooled, errors, strict=True)]
    again = [on_simplex(truth(dirichlet(counts, g), probe)) for counts, probe in zip(pooled, probes, strict=True)]

    tv = _about(distance(*found), distance(again[0] - centre[0], again[1] - centre[1]), (0, 1))
    chance = by_chance(before, after, g)
    p_value = (1 + int((chance >= tv.mean - 1e-9).sum())) / (1 + len(chance))
    return Comparison(
        values=tuple(values),
        before=_shares(found[0], again[0]),
        after=_shares(found[1], again[1]),
        pictures=(int(before.table.sum()), int(after.table.sum())),
        distance=tv,
        by_chance=chance.mean().item(),
        p_value=p_value,
        amplification=_amplified(before, after, errors[1], probes[1], g),
        condition=max((condition(side.confusion) for side in sides if side.confusion is not None), default=None),
        alarm=tv.low is not None and tv.low > threshold and p_value <= level,
    )


# --- statistics ------------------------------------------------------------------------------------------------------


def truth(said: Tensor, confusion: Tensor | None) -> Tensor:
    """True shares from the shares (..., V) read by a probe of this confusion (..., V, V), or from words (None)."""
    return said if confusion is None else correct(said, confusion)


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Total variation (...) of shares (..., V)."""
    return (one - other).abs().sum(-1) / 2


def amplification(before: Tensor, after: Tensor) -> Tensor:
    """Zhao's A (...) of shares (T, V) and (..., T, V)."""
    return ((after - before) * (before > 1 / before.shape[-1])).sum(-1).mean(-1)


def _amplified(
    before: Counts, after: Counts, error: Tensor | None, probe: Tensor | None, g: torch.Generator
) -> Interval:
    """Zhao's A with an interval over other drawn pictures; the data are taken as fixed."""
    wide = None if probe is None else probe[:, None]
    real, law = truth(before.said, before.confusion), rates(after.table + 0.5)
    centre = amplification(real, truth(law, error))
    again = amplification(real, truth(rates(multinomial(law, after.table.sum(1, keepdim=True), g)), wide))
    return _about(amplification(real, truth(after.said, after.confusion)), (again - centre).abs(), (-1, 1))


def by_chance(before: Counts, after: Counts, g: torch.Generator) -> Tensor:
    """Distances (DRAWS,) of two sides of one law, with the same sizes and the same reading as the real sides."""
    sides = (before, after)
    if before.confusion is after.confusion:
        pairs = [permuted(a, b, g) for a, b in zip(before.table, after.table, strict=True)]
        tables = [torch.stack(side, -2) for side in zip(*pairs, strict=True)]
        errors = [side.confusion for side in sides]
    else:
        sizes = [side.table.sum(1, keepdim=True) for side in sides]
        laws = [on_simplex(truth(side.said, side.confusion)) for side in sides]
        common = (sizes[0] * laws[0] + sizes[1] * laws[1]) / (sizes[0] + sizes[1])
        said = [common if side.confusion is None else common @ rates(side.confusion) for side in sides]
        tables = [multinomial(law, size, g) for law, size in zip(said, sizes, strict=True)]
        errors = [None if side.confusion is None else dirichlet(side.confusion + 0.5, g) for side in sides]
    pairs = zip(tables, errors, strict=True)
    return distance(*(on_simplex(truth(rates(table).mean(-2), error)) for table, error in pairs))


def _about(value: Tensor, errors: Tensor, limits: tuple[float, float]) -> Interval:
    """A value () with the 95 % quantile of its errors (DRAWS,) to either side, within limits."""
    reach = errors.quantile(0.95)
    low, mean, high = torch.stack([value - reach, value, value + reach]).clamp(*limits).tolist()
    return Interval(mean, low, high)


def _shares(found: Tensor, again: Tensor) -> tuple[Interval, ...]:
    """Each value's share (V,) with the interval of its draws (DRAWS, V)."""
    ends = again.quantile(torch.tensor([0.025, 0.975], dtype=again.dtype), dim=0).tolist()
    columns = zip(found.tolist(), *ends, strict=True)
    return tuple(Interval(mean, min(low, mean), max(high, mean)) for mean, low, high in columns)


# --- draws -----------------------------------------------------------------------------------------------------------


def dirichlet(counts: Tensor, g: torch.Generator) -> Tensor:
    """(DRAWS, ..., V) from the Dirichlet laws of counts (..., V), by the quantiles of gamma laws."""
    from scipy.special import gammaincinv

    u = torch.rand(DRAWS, *counts.shape, generator=g, dtype=torch.float64)
    return rates(torch.from_numpy(gammaincinv(counts.double().numpy(), u.numpy())))


def multinomial(law: Tensor, size: Tensor, g: torch.Generator) -> Tensor:
    """Counts (DRAWS, ..., V) of `size` (..., 1) pictures of a law (..., V), each value's given those before."""
    left, rest, counts = size.double().repeat(DRAWS, *[1] * size.ndim), torch.ones_like(law[..., :1]), []
    for p in law[..., :-1].split(1, -1):
        chance = (p / rest.clamp(min=1e-12)).clamp(0, 1).expand_as(left).contiguous()
        counts.append(torch.binomial(left, chance, g))
        left, rest = left - counts[-1], rest - p
    return torch.cat([*counts, left], -1)


def permuted(a: Tensor, b: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Counts (DRAWS, V) of both sides, when the pictures of a (V,) and b (V,) change sides at random."""
    if a.sum() > b.sum():  # choosing the smaller side is quicker
        other, one = permuted(b, a, g)
        return one, other
    labels = torch.repeat_interleave(torch.arange(len(a)), a + b)
    step = max(1, AT_ONCE // len(labels))
    parts = []
    for start in range(0, DRAWS, step):
        chosen = torch.rand(min(step, DRAWS - start), len(labels), generator=g).topk(int(a.sum())).indices
        parts.append(torch.nn.functional.one_hot(labels[chosen], len(a)).sum(1))
    fewer = torch.cat(parts)
    return fewer, a + b - fewer


# --- templates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Monitor:
    """Templates compared one by one, and all of them.

    Attributes:
        templates: template -> its comparison. The level of p-values is shared among them (Bonferroni), or many
            templates would give alarms by chance.
        overall: all templates with equal weight; None if there is nothing to compare.
        without_data: templates that no picture of the data is about; they are left out.
    """

    templates: dict[str, Comparison]
    overall: Comparison | None
    without_data: tuple[str, ...]


def monitor(
    attribute: Attribute,
    captions: Sequence[Sequence[str]],
    prompts: Sequence[str],
    said: Tensor,
    confusion: Tensor | None,
    seed: int,
    report: Report,
    threshold: float = THRESHOLD,
) -> Monitor:
    """Compare drawn pictures with the pictures of the data that are about the same things.

    Args:
        attribute: the attribute, read from the captions of the data.
        captions: the captions of each picture of the data.
        prompts: (N) the prompt of each drawn picture: a few templates, many times each, that leave the attribute open.
        said: (N) the value that each drawn picture shows, by a probe; -1 is left out.
        confusion: of that probe, None if the values are known.
        seed: decides the draws.
        report: gets the progress.
        threshold: the total variation above which there is an alarm.
    """
    labels, size = attribute.labels(captions), len(attribute.values)
    bags = [set(_words(" ".join(texts))) for texts in captions]
    drawn = by_template(prompts, said, size)
    real = {template: tally(labels[about(template, attribute, bags, labels)], size) for template in drawn}
    both = [template for template in drawn if real[template].sum() > 0 and drawn[template].sum() > 0]

    def compared(templates: Sequence[str], level: float) -> Comparison:
        before, after = (torch.stack([side[template] for template in templates]) for side in (real, drawn))
        return compare(attribute.values, Counts(before), Counts(after, confusion), seed, threshold, level)

    templates = {}
    for template in both:
        templates[template] = compared([template], LEVEL / len(both))
        report.progress("comparing templates", len(templates), len(both))
    return Monitor(
        templates=templates,
        overall=compared(both, LEVEL) if both else None,
        without_data=tuple(template for template in drawn if template not in both),
    )


def drift(
    values: Sequence[str],
    prompts: Sequence[str],
    before: Tensor,
    after: Tensor,
    confusion: Tensor | None,
    seed: int,
    threshold: float = THRESHOLD,
) -> Comparison:
    """Compare what two models draw from the same prompts and seeds.

    Pictures of one seed are alike, so chance adds less than the test allows for: an alarm is rarer than it could be.

    Args:
        values: (V) names.
        prompts: (N) the prompt of each picture.
        before: (N) the value that each picture of the first model shows; -1 is left out.
        after: (N) the same for the other model.
        confusion: of the probe that read both, None if the values are known.
        seed: decides the draws.
        threshold: the total variation above which there is an alarm.
    """
    sides = [by_template(prompts, said, len(values)) for said in (before, after)]
    kept = [template for template in sides[0] if all(side[template].sum() > 0 for side in sides)]
    tables = [torch.stack([side[template] for template in kept]) for side in sides]
    return compare(values, Counts(tables[0], confusion), Counts(tables[1], confusion), seed, threshold)


def by_template(prompts: Sequence[str], said: Tensor, size: int) -> dict[str, Tensor]:
    """Template -> how many of its pictures have each value (size,)."""
    rows: dict[str, list[int]] = {}
    for prompt, value in zip(prompts, said.tolist(), strict=True):
        rows.setdefault(prompt, []).append(value)
    return {prompt: tally(torch.tensor(row), size) for prompt, row in rows.items()}


def about(template: str, attribute: Attribute, bags: Sequence[set[str]], labels: Tensor) -> Tensor:
    """Which pictures (N,) have all content words of a template except those of the attribute.

    If there are no others, as in "a person", these are the pictures that show any value.

    Args:
        template: a prompt.
        attribute: the attribute that is compared.
        bags: (N) the words of each picture's captions.
        labels: (N) the values that the captions name.
    """
    words = set(_words(attribute.without(template))) - NO_CONTENT
    if not words:
        return labels < len(attribute.words)
    return torch.tensor([words <= bag for bag in bags])


def tally(labels: Tensor, size: int) -> Tensor:
    """(size,) how many pictures have each value; -1 is left out."""
    return torch.bincount(labels[labels >= 0], minlength=size)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())
