"""The gate before a model leaves the house: what is checked, and what is said where a check fails.

A check is one sentence with a yes or a no. Thresholds are the recipe's (`release.at_most`, `release.at_least`) and name
the report's numbers as "part.row"; with a star, as in "memorization-*.near-copies", every part (or row) of such a name
is held to it. A number that was not measured fails its threshold. The mean is held against the threshold, and the
interval is told.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from html import escape
from pathlib import Path
from typing import Any

from sfumato import saved
from sfumato.config import Release
from sfumato.data.dataset import Dataset
from sfumato.model import Model
from sfumato.page import Section, table
from sfumato.training.card import licences

UNKNOWN = "not stated"
MODEL_CARD, DATA_CARD = "README.md", "data-card.md"


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
    numbers = {f"{part}.{row}": found for part, told in parts.items() for row, found in told["rows"].items()}
    checks = []
    for pattern, limit, side in limits:
        held = [name for name in sorted(numbers) if fnmatchcase(name, pattern)]
        checks += [_threshold(name, numbers[name]["drawn"], limit, side) for name in held]
        if not held:
            told = f"not measured, but {side} {limit:g} is demanded; there are: {', '.join(sorted(numbers)) or 'none'}"
            checks.append(Check(pattern, False, told))
    return checks


def _threshold(name: str, found: Mapping[str, Any], limit: float, side: str) -> Check:
    mean, low, high = (found[end] for end in ("mean", "low", "high"))
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


def evaluated_card(card: str, parts: Mapping[str, Any], checks: Sequence[Check]) -> str:
    """A model card with what was measured and checked, before its settings; an earlier such section is replaced.

    Args:
        card: README.md of the model.
        parts: the entry "parts" of report.json.
        checks: of the release.
    """
    mark, settings = "\n## Evaluation\n", "\n## Settings\n"
    before, _, rest = card.partition(mark if mark in card else settings)
    after = settings + (rest if mark not in card else rest.partition(settings)[2]) if settings in card else ""
    lines = ["| measured | drawn | real |", "|---|---|---|"]
    for told in parts.values():
        lines.append(f"| **{told['title']}** |  |  |")
        lines += [
            f"| {row['name']} | {_told(row['drawn'])} | {_told(row['real'])} |"
            for key, row in told["rows"].items()
            if ":" not in key  # by class, template and level: those are in the report
        ]
    checked = "\n".join(f"- {check}" for check in checks)
    return f"{before.rstrip()}\n{mark}\n{chr(10).join(lines)}\n\n### Checks of the release\n\n{checked}\n{after}"


def _told(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    return f"{value['mean']:.4g}" + ("" if value["low"] is None else f" [{value['low']:.4g}, {value['high']:.4g}]")


def released(folder: Path, data: Dataset, parts: Mapping[str, Any], checks: Sequence[Check], out: Path) -> bool:
    """Write the decision to `out`/release.json and the data card beside it, and where all checks passed, the model.

    Args:
        folder: of the model; it stays as it is.
        data: what the model was trained on.
        parts: the entry "parts" of report.json.
        checks: all of them.
        out: receives model/ (the same weights, with the cards), release.json and data-card.md.

    Returns:
        whether the model was released.
    """
    card = data_card(data, parts)
    passed = all(check.passed for check in checks)
    hashes = {}
    if passed:
        description, files = saved.read(folder)
        files[MODEL_CARD] = evaluated_card(files.get(MODEL_CARD, b"").decode(), parts, checks).encode()
        files[DATA_CARD] = card.encode()
        content = {name: value for name, value in description.items() if name not in ("format", "sha256")}
        hashes = saved.write(out / "model", content, files)
    told = {"released": passed, "checks": [asdict(check) for check in checks], "sha256": hashes}
    (out / DATA_CARD).write_text(card, encoding="utf-8")
    (out / "release.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return passed


def section(checks: Sequence[Check]) -> Section:
    """The decision and all checks for the page, the failed ones first."""
    rows = [
        [escape(check.name), "passed" if check.passed else "<b>refused</b>", escape(check.told)]
        for check in sorted(checks, key=lambda check: check.passed)
    ]
    title = "Released" if all(check.passed for check in checks) else "Not released"
    return Section(title, [table("", ["checked", "", "found"], rows)])


def verdict(checks: Sequence[Check]) -> str:
    """All checks, the failed ones first, and the decision."""
    ordered = sorted(checks, key=lambda check: check.passed)
    failed = sum(not check.passed for check in checks)
    decision = "released" if not failed else f"not released: {failed} of {len(checks)} checks failed"
    return "\n".join([*map(str, ordered), "", decision])
