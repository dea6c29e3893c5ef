"""The gate before a model leaves the house: what is checked, and what is said where a check fails.

A check is one sentence with a yes or a no. Thresholds are the recipe's (`release.at_most`, `release.at_least`) and name
the report's numbers as "part.row"; a number that was not measured fails its threshold. The mean is held against the
threshold, and the interval is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.config import Release
from sfumato.data.dataset import Dataset
from sfumato.model import Model
from sfumato.training.card import licences

UNKNOWN = "not stated"


@dataclass(frozen=True)
class Check:
    """One condition of a release.

    Attributes:
        name: what is checked.
        passed: whether it holds.
        told: what was found, and where it fails, what was demanded and what to do.
    """

    name: str
    passed: bool
    told: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'REFUSED'}  {self.name}: {self.told}"


def threshold_checks(parts: Mapping[str, Any], demands: Release) -> list[Check]:
    """The report's numbers against the thresholds.

    Args:
        parts: the entry "parts" of report.json.
        demands: the recipe's.
    """
    limits = [(name, limit, "at most") for name, limit in demands.at_most.items()]
    limits += [(name, limit, "at least") for name, limit in demands.at_least.items()]
    return [_threshold(parts, name, limit, side) for name, limit, side in limits]


def _threshold(parts: Mapping[str, Any], name: str, limit: float, side: str) -> Check:
    part, _, row = name.rpartition(".")
    found = parts.get(part, {}).get("rows", {}).get(row)
    if found is None:
        measured = ", ".join(sorted(f"{part}.{row}" for part, told in parts.items() for row in told["rows"]))
        return Check(name, False, f"not measured, but {side} {limit:g} is demanded; there are: {measured}")
    mean, low, high = (found["drawn"][end] for end in ("mean", "low", "high"))
    passed = mean <= limit if side == "at most" else mean >= limit
    told = f"{mean:.4g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")
    return Check(name, passed, f"{told}, {side} {limit:g} is demanded")


def lineage_checks(model: Model, data: Dataset) -> list[Check]:
    """Where the weights come from: the data they were trained on are at hand, and so is the code."""
    trained_on, found = model.record.get("manifest_sha256", "nothing"), data.manifest_hash
    same = f"manifest {found[:12]}, that of the training"
    other = f"manifest {found[:12]}, but the model was trained on {trained_on[:12]}: give the data of the training"

    commit = model.record.get("environment", {}).get("commit") or "no commit: an installed version"
    changed = commit.endswith("with uncommitted changes")
    fix = ": commit the changes and train again, or the run cannot be repeated" if changed else ""
    return [
        Check("data", trained_on == found, same if trained_on == found else other),
        Check("code", not changed, commit + fix),
    ]


def licence_checks(data: Dataset, demands: Release) -> list[Check]:
    """The licence of every source: stated, and allowed where the recipe names those that are."""
    return [
        Check(
            f"licence of {source}",
            licence != UNKNOWN and (not demands.licences or licence in demands.licences),
            f"{licence}, {count:,} pictures"
            + (": state it in the data's metadata" if licence == UNKNOWN else "")
            + (f"; allowed are {', '.join(demands.licences)}" if demands.licences else ""),
        )
        for source, licence, count in licences(data)
    ]


def data_card(data: Dataset, parts: Mapping[str, Any]) -> str:
    """The data card in Markdown (Gebru et al. 2021): what there is, where from, under which licence.

    Args:
        data: what the model was trained on.
        parts: the entry "parts" of report.json, for attributes and near-duplicates.
    """
    sources = "\n".join(f"| {source} | {licence} | {count:,} |" for source, licence, count in licences(data))
    classes = ""
    if data.labels and data.classes:
        counts = [data.labels.count(i) for i in range(len(data.classes))]
        rows = "\n".join(f"| {name} | {count:,} |" for name, count in zip(data.classes, counts, strict=True))
        classes = f"\n## Classes\n\n| class | pictures |\n|---|---|\n{rows}\n"
    captioned = sum(bool(captions) for captions in data.captions)
    attributes = "".join(_attribute(part, told) for part, told in parts.items() if part.startswith("bias-"))
    return f"""# Data card

{data.describe()}

Manifest: SHA-256 `{data.manifest_hash}`, a line a picture with its own hash. {captioned:,} pictures have captions.

## Sources

| source | licence | pictures |
|---|---|---|
{sources}
{classes}{attributes}"""


def _attribute(part: str, told: Mapping[str, Any]) -> str:
    shares = {row: found for row, found in told["rows"].items() if row.startswith("share:") and found["real"]}
    if not shares:
        return ""
    rows = "\n".join(f"| {row.partition(':')[2]} | {found['real']['mean']:.1%} |" for row, found in shares.items())
    return f"\n## {part.removeprefix('bias-')}\n\n| value | share of the pictures |\n|---|---|\n{rows}\n"


def verdict(checks: Sequence[Check]) -> str:
    """All checks, the failed ones first, and the decision."""
    ordered = sorted(checks, key=lambda check: check.passed)
    failed = sum(not check.passed for check in checks)
    decision = "released" if not failed else f"not released: {failed} of {len(checks)} checks failed"
    return "\n".join([*map(str, ordered), "", decision])
