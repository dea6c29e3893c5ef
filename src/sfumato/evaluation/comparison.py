"""Several models side by side: each against the first, row by row of their reports.

Every model is evaluated as by `sfumato evaluate`, with the same seeds and conditions, or has been before; their reports
are compared. A part with another basis is left out, with the reason. Each difference has the most exact test that the
reports allow:

    paired             Student's, picture by picture of one seed and prompt
    paired exchange    of a number of whole sets: the pictures of a pair change sides
    exchange           the same for pictures that are not pairs
    independent        of two independent numbers, by their intervals; wider than necessary

and all p-values of the comparison are one family for Holm's correction.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfumato.conditioning.values import condition_of, words_of
from sfumato.errors import UserError
from sfumato.evaluation import run
from sfumato.evaluation.compare import Compared, comparable, compare, holm, same_draws
from sfumato.evaluation.report_page import written
from sfumato.evaluation.samples import SHOWN
from sfumato.evaluation.settings import Measuring
from sfumato.evaluation.trust_parts import Reading
from sfumato.evaluation.yardstick import SET_STATISTICS, Yardstick, feature_differences, row_differences, yardstick
from sfumato.measures import bias
from sfumato.measures.interval import Difference, Interval
from sfumato.model import Model
from sfumato.report import Report, Silent

REPORT, VALUES, SAMPLES = "report.json", "values.npz", "samples"
SIGNIFICANT = 0.05

Exact = Mapping[str, tuple[Difference, str]]  # "part.row" -> the difference, and which test it is of


@dataclass(frozen=True, eq=False)
class Side:
    """One of those that are compared.

    Attributes:
        name: for people.
        report: as report.json holds it.
        values: the numbers of single pictures, by "part.row".
        rows: what was drawn, stored rows (N, ...), where they were kept.
        shown: the first of them as a person sees them.
        asked: what they were asked for.
        link: the page of its own report, where the comparison can link to it.
    """

    name: str
    report: Mapping[str, Any]
    values: Mapping[str, np.ndarray]
    rows: np.ndarray | None
    shown: Sequence[Image.Image]
    asked: Sequence[str]
    link: str = ""


@dataclass(frozen=True)
class Test:
    """A side against the first.

    Attributes:
        difference: its number minus the number of the first.
        kind: the name of the test.
        adjusted: the p-value by Holm's correction, None if there is none.
    """

    difference: Difference
    kind: str
    adjusted: float | None = None

    @property
    def significant(self) -> bool:
        return self.adjusted is not None and self.adjusted < SIGNIFICANT


@dataclass(frozen=True)
class Line:
    """A row of the reports: a value for each side, None if none is comparable, and a test for each side but the
    first."""

    part: str
    key: str
    name: str
    better: str
    values: Sequence[Interval | None]
    tests: Sequence[Test | None]


@dataclass(frozen=True)
class Drift:
    """The shares of a part's groups in the pictures of a side, compared with the first side.

    Attributes:
        part: its title.
        side: its name.
        told: in words, with the total variation distance and its p-value, which is not of the family corrected.
        alarm: whether the shares have certainly changed.
    """

    part: str
    side: str
    told: str
    alarm: bool


@dataclass(frozen=True, eq=False)
class Comparison:
    """The sides, the lines, and what could not be compared and why.

    Attributes:
        sides: the sides; the others are compared with the first.
        lines: in the order of the first report.
        apart: sentences.
        drifts: the drifts of groups whose shares were read in both.
    """

    sides: Sequence[Side]
    lines: Sequence[Line]
    apart: Sequence[str]
    drifts: Sequence[Drift] = ()


# --- the sides -------------------------------------------------------------------------------------------------------


def read(folder: Path, name: str, link: str = "") -> Side:
    """The report that `sfumato evaluate` has written to a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        if not isinstance(report["parts"], dict):
            raise ValueError("parts")
        values: dict[str, np.ndarray] = {}
        if (folder / VALUES).is_file():
            with np.load(folder / VALUES, allow_pickle=False) as kept:
                values = {key: kept[key] for key in kept.files}
        rows, shown, asked = None, [], []
        if (folder / SAMPLES / "samples.npy").is_file():
            rows = np.load(folder / SAMPLES / "samples.npy", mmap_mode="r", allow_pickle=False)
            kept = json.loads((folder / SAMPLES / "samples.json").read_text(encoding="utf-8"))["asked"]["conditions"]
            asked = [words_of(condition_of(record)) for record in kept]
            shown = [
                Image.open(file, formats=["PNG"])
                for i in range(SHOWN)
                if (file := folder / SAMPLES / f"{i}.png").is_file()
            ]
            for picture in shown:
                picture.load()
    except (OSError, ValueError, KeyError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{folder}: no report of `sfumato evaluate` can be read there ({error})", fix="evaluate the model again"
        ) from error
    return Side(name, report, values, rows, shown, asked, link)


def evaluated(
    model: Model,
    name: str,
    place: int,
    path: str,
    metrics: Sequence[str],
    n: int,
    seed: int,
    out: Path,
    report: Report,
) -> tuple[Side, Yardstick | None]:
    """Evaluate one of several models; with the same arguments they are asked for the same from the same seeds.

    Args:
        model: in evaluation mode.
        name: for people.
        place: among the models, from 1.
        path: a folder of pictures, or the name of a data set.
        metrics: some of `sfumato.evaluation.settings.METRICS`.
        n: pictures of each set.
        seed: decides every choice and draw.
        out: for the folder <place>-<name>, and "shared" for what the models share.
        report: told how far it is.
    """
    folder, shared = out / f"{place}-{slug(name)}", out / "shared"
    folder.mkdir(parents=True, exist_ok=True)
    how = Measuring(metrics, n, seed, strict=True)
    found = run.evaluate(model, path, model.sampling(), how, folder, Named(name, report), shared)
    written(folder, f"Evaluation of {model.config.name}", found)
    held = None
    if {"quality", "statistics"} & set(metrics):
        held = yardstick(model, path, n, seed, shared, Silent(), features="quality" in metrics)
    return read(folder, name, f"{folder.name}/index.html"), held


def slug(name: str) -> str:
    """The last part of a path as the name of a folder: "runs/My run" -> "my-run"."""
    return re.sub(r"[^a-z0-9.=+]+", "-", Path(name).name.lower()).strip("-.") or "model"


class Named:
    """A report of work for several models: every task carries the model's name."""

    def __init__(self, name: str, report: Report) -> None:
        self.name, self.report = name, report

    def say(self, text: str) -> None:
        self.report.say(f"{self.name}: {text}")

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        self.report.progress(f"{self.name}: {task}", done, total, note)


# --- the tests -------------------------------------------------------------------------------------------------------


def exact_differences(
    first: Side, second: Side, yardsticks: tuple[Yardstick | None, Yardstick | None], seed: int, report: Report
) -> Exact:
    """`second` minus `first` in numbers of whole sets, if both were compared with the same real pictures."""
    one, other = yardsticks
    if one is None or other is None or first.rows is None or second.rows is None:
        return {}
    if not np.array_equal(one.reference, other.reference):
        return {}
    paired = same_draws(first.report, second.report)
    kind = "paired exchange" if paired else "exchange"

    found: dict[str, tuple[Difference, str]] = {}
    for space in one.spaces:
        part = f"quality-{space.name.replace(' ', '-')}"
        if comparable(first.report, second.report, part):
            drawn, other_drawn, real = (
                one.features(space, rows, report) for rows in (first.rows, second.rows, one.real)
            )
            task = f"{second.name}: difference to {first.name}, {space.name}"
            names = [name for name in SET_STATISTICS if not space.blind or "precision" not in name]
            differences = feature_differences(
                other_drawn, drawn, real, paired, seed, names, lambda *at, task=task: report.progress(task, *at)
            )
            found |= {f"{part}.{row}": (difference, kind) for row, difference in differences.items()}
    if comparable(first.report, second.report, "statistics"):
        for row, difference in row_differences(one.codec, second.rows, first.rows, one.real, paired, seed).items():
            of_sets = row.endswith("-distance")
            found[f"statistics.{row}"] = difference, kind if of_sets else "paired" if paired else "independent"
    return found


def side_by_side(sides: Sequence[Side], exact: Sequence[Exact] = ()) -> Comparison:
    """Every row of the first report beside the same of the others.

    Args:
        sides: two or more.
        exact: one a side after the first, from `exact_differences`.
    """
    first, others = sides[0], sides[1:]
    exact = exact or [{}] * len(others)
    lines = []
    for part, told in first.report["parts"].items():
        like = [comparable(first.report, side.report, part) for side in others]
        for row, about in told["rows"].items() if any(like) else ():
            values: list[Interval | None] = [Interval(**about["drawn"])]
            tests: list[Test | None] = []
            for side, known in zip(others, exact, strict=True):
                found = compare(first.report, side.report, f"{part}.{row}", (first.values, side.values))
                own = side.report["parts"][part]["rows"][row] if found else None
                values.append(Interval(**own["drawn"]) if own else None)
                tests.append(_test(found, known.get(f"{part}.{row}")))
            lines.append(Line(part, row, about["name"], about["better"], values, tests))
    return Comparison(
        sides, corrected(lines), [*_apart(first, others)], [d for side in others for d in drifts(first, side)]
    )


def drifts(first: Side, second: Side) -> list[Drift]:
    """The groups of all parts that both read, by `sfumato.measures.bias.drift`."""
    found = []
    for part, told in first.report["parts"].items():
        before, after = (Reading.of(part, side.values) for side in (first, second))
        if before is None or after is None or not comparable(first.report, second.report, part):
            continue
        if not torch.equal(before.template, after.template) or not torch.equal(before.confusion, after.confusion):
            continue
        values = [row.removeprefix("share:") for row in told["rows"] if row.startswith("share:")]
        prompts = [str(number) for number in before.template.tolist()]
        seed = int(first.report["seed"])
        moved = bias.drift(values, prompts, before.said, after.said, before.confusion, seed)
        sides = (f"of {first.name}", f"of {second.name}")
        found.append(Drift(told.get("title", part), second.name, moved.sentence(sides), moved.alarm))
    return found


def _test(found: Compared | None, exact: tuple[Difference, str] | None) -> Test | None:
    if found is None:
        return None
    if exact is not None and not found.paired:
        return Test(*exact)
    return Test(found.difference, "paired" if found.paired else "independent")


def corrected(lines: Sequence[Line]) -> list[Line]:
    """The lines with all their p-values corrected as one family."""
    ps = [test.difference.p for line in lines for test in line.tests if test and test.difference.p is not None]
    adjusted = iter(holm(ps))

    def with_p(test: Test | None) -> Test | None:
        if test is None or test.difference.p is None:
            return test
        return Test(test.difference, test.kind, next(adjusted))

    return [
        Line(line.part, line.key, line.name, line.better, line.values, [with_p(test) for test in line.tests])
        for line in lines
    ]


def _apart(first: Side, others: Sequence[Side]) -> list[str]:
    """Why which parts are not compared."""
    told = []
    for side in others:
        parts = (first.report["parts"], side.report["parts"])
        for part in [*parts[0], *(part for part in parts[1] if part not in parts[0])]:
            if part not in parts[0] or part not in parts[1]:
                here, there = (first, side) if part in parts[0] else (side, first)
                told.append(f"{part}: {here.name} has it, {there.name} has not")
                continue
            basis, other = parts[0][part]["basis"], parts[1][part]["basis"]
            differs = [key for key in {**basis, **other} if basis.get(key) != other.get(key)]
            if differs:
                why = ", ".join(f"{key} {basis.get(key)} and {other.get(key)}" for key in differs)
                told.append(f"{part}: {first.name} and {side.name} were measured otherwise ({why})")
    return told
