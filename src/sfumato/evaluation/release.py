"""The gate before a model leaves the house: the checks, and the reason and the fix if one fails.

A check is one sentence with a yes or a no. Thresholds are the recipe's (`release.at_most`, `release.at_least`) and name
the report's numbers as "part.row". With a star, as in "memorization-*.near-copies", a threshold applies to every part
(or row) of such a name. The mean is compared with the threshold, and its interval is printed with it. A number that was
not measured fails. Every failed check gives its reason and a fix.
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
from sfumato.durable import write_atomically
from sfumato.material import Material
from sfumato.measures import membership, memorization
from sfumato.measures.interval import Interval
from sfumato.measures.probes import ATTRIBUTES, Attribute
from sfumato.model import Model
from sfumato.page import Section, marked
from sfumato.training.card import licences

UNKNOWN = "not stated"
MODEL_CARD, DATA_CARD = "README.md", "data-card.md"


@dataclass(frozen=True)
class Check:
    """One condition of a release.

    Attributes:
        name: what is checked.
        passed: whether it holds.
        told: what was found and what is demanded.
        fix: what to do if it fails.
    """

    name: str
    passed: bool
    told: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"\n         fix: {self.fix}" if self.fix and not self.passed else ""
        return f"{'passed ' if self.passed else 'REFUSED'}  {self.name}: {self.told}{fix}"


# What helps if a number misses its threshold, by the beginning of its part.
HELP = {
    "accuracy": "train longer, or look at the classes that are confused (recall by class in the report)",
    "quality": "train longer, draw with more steps, or compare settings with sfumato compare --grid",
    "membership": "train for fewer steps or on more pictures, or drop copies (data.duplicates: drop)",
    "memorization": "drop copies (data.duplicates: drop) and train anew, for fewer steps or on more pictures",
    "bias": "look at the groups in the report; balance the data, or say in the model's card what it leaves out",
    "alignment": "train longer, raise guidance, or give more captions",
    "nll": "train longer, or with objective.weight for the bound",
}


def foreseen(named: Sequence[str], material: Material, n: int) -> list[str]:
    """Why a release will be refused, as far as this is known before anything is drawn; one sentence for each reason.

    Args:
        named: the thresholds, "part.row".
        material: the data, and which of them the model has seen.
        n: number of pictures to draw.
    """
    found = []
    held_out, drawn = len(material.unseen), min(n, len(material.data) // 3)
    for metric, fewest in (("memorization", memorization.FEWEST), ("membership", membership.FEWEST)):
        if not any(name.startswith(metric) for name in named):
            continue
        if not material.trained_on:
            found.append(f"{metric} needs the data of the training, and these are others")
        elif held_out < fewest:
            fix = "train with a larger data.validation, or leave the threshold out"
            found.append(f"{metric} needs {fewest} held-out pictures, and there are {held_out}: {fix}")
        elif metric == "memorization" and drawn < fewest:
            found.append(f"{metric} needs {fewest} drawn pictures, and these will be {drawn}: raise --n")
    return found


def threshold_checks(
    parts: Mapping[str, Any], demands: Release, left_out: Mapping[str, str] | None = None
) -> list[Check]:
    """The report's numbers against the thresholds.

    Args:
        parts: the entry "parts" of report.json.
        demands: the recipe's.
        left_out: metric -> why it was not measured, and what helps.
    """
    limits = [(name, limit, "at most") for name, limit in demands.at_most.items()]
    limits += [(name, limit, "at least") for name, limit in demands.at_least.items()]
    numbers = {f"{part}.{row}": found for part, told in parts.items() for row, found in told["rows"].items()}
    checks = []
    for pattern, limit, side in limits:
        held = [name for name in sorted(numbers) if fnmatchcase(name, pattern)]
        checks += [_threshold(name, pattern, numbers[name]["drawn"], limit, side) for name in held]
        if not held:
            checks.append(_unmeasured(pattern, f"{side} {limit:g} is demanded", sorted(numbers), left_out or {}))
    return checks


def _threshold(name: str, pattern: str, found: Mapping[str, Any], limit: float, side: str) -> Check:
    mean, low, high = (found[end] for end in ("mean", "low", "high"))
    passed = mean <= limit if side == "at most" else mean >= limit
    told = f"{Interval(mean, low, high)}, {side} {limit:g} is demanded"
    help_first = next((words for part, words in HELP.items() if name.startswith(part)), "train the model further")
    setting = f"release.{side.replace(' ', '_')}"
    return Check(name, passed, told, f"{help_first}; where {limit:g} is too strict, change {setting} of {pattern!r}")


def _unmeasured(pattern: str, demand: str, measured: Sequence[str], left_out: Mapping[str, str]) -> Check:
    """A threshold for a number that does not exist: the reason, or the names that exist."""
    why = next((why for metric, why in left_out.items() if pattern.startswith(metric)), "")
    if why:
        reason, _, fix = why.partition("; fix: ")
        return Check(pattern, False, f"not measured ({reason}), but {demand}", fix or "leave the threshold out")
    near = f"name one that is there: {', '.join(measured)}" if measured else "measure something: see --at-most"
    return Check(pattern, False, f"not measured, but {demand}", near)


def lineage_checks(model: Model, data: Dataset) -> list[Check]:
    """Whether these are the training data, and whether the code of the training was committed."""
    trained_on, found = model.record.get("manifest_sha256", "nothing"), data.manifest_hash
    same = f"manifest {found[:12]}, that of the training"
    other = f"manifest {found[:12]}, but the model was trained on {trained_on[:12]}"

    commit = model.record.get("environment", {}).get("commit") or "no commit: an installed version"
    return [
        Check(
            "data",
            trained_on == found,
            same if trained_on == found else other,
            "name the data of the training after the model, unchanged",
        ),
        Check(
            "code",
            not commit.endswith("with uncommitted changes"),
            commit,
            "commit the changes and train again, or the run cannot be repeated",
        ),
    ]


def licence_checks(data: Dataset, demands: Release) -> list[Check]:
    """The licence of every source: stated, and allowed where the recipe names those that are."""
    checks = []
    for source, licence, count in licences(data):
        allowed = licence != UNKNOWN and (not demands.licences or licence in demands.licences)
        named = f"; allowed are {', '.join(demands.licences)}" if demands.licences else ""
        fix = (
            "write the licence of each picture into the data's metadata.jsonl (`licence`), and train again"
            if licence == UNKNOWN
            else "leave this source out, or add its licence to release.licences"
        )
        checks.append(Check(f"licence of {source}", allowed, f"{licence}, {count:,} pictures{named}", fix))
    return checks


def data_card(data: Dataset, attributes: Sequence[Attribute] = ATTRIBUTES) -> str:
    """The data card in Markdown (Gebru et al. 2021): content, sources and licences of the data.

    Every share refers to all pictures of the data, and not only to those that an evaluation has read.

    Args:
        data: the training data.
        attributes: the attributes whose words are counted in the captions.
    """
    sources = "\n".join(f"| {source} | {licence} | {count:,} |" for source, licence, count in licences(data))
    classes = ""
    if data.labels and data.classes:
        counts = [data.labels.count(i) for i in range(len(data.classes))]
        classes = _counted("Classes", "class", data.classes, counts)
    captioned = sum(bool(captions) for captions in data.captions)
    words = "".join(_attribute(each, data.captions) for each in attributes)
    return f"""# Data card

{data.describe()}

Manifest: SHA-256 `{data.manifest_hash}`, a line a picture with its own hash. {captioned:,} pictures have captions.

## Sources

| source | licence | pictures |
|---|---|---|
{sources}
{classes}{words}"""


def _attribute(attribute: Attribute, captions: Sequence[Sequence[str]]) -> str:
    """How many captions name each value of an attribute; nothing if none does."""
    said = attribute.labels(captions).tolist()
    if all(label == len(attribute.words) for label in said):
        return ""
    names = [*attribute.words, "no such word", "several values"]
    counts = [*(said.count(i) for i in range(len(attribute.words) + 1)), said.count(-1)]
    return _counted(f"Captions by {attribute.name}", "value", names, counts)


def _counted(title: str, column: str, names: Sequence[str], counts: Sequence[int]) -> str:
    total = sum(counts)
    rows = "\n".join(f"| {name} | {count:,} | {count / total:.1%} |" for name, count in zip(names, counts, strict=True))
    return f"\n## {title}\n\n| {column} | pictures | share |\n|---|---|---|\n{rows}\n"


def evaluated_card(card: str, parts: Mapping[str, Any], checks: Sequence[Check]) -> str:
    """A model card with what was measured and checked, before its settings; an earlier such section is replaced.

    Args:
        card: README.md of the model.
        parts: the entry "parts" of report.json.
        checks: those of the release.
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
    return "" if value is None else str(Interval(value["mean"], value["low"], value["high"]))


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
    card = data_card(data)
    passed = all(check.passed for check in checks)
    hashes = {}
    if passed:
        description, files = saved.read(folder)
        files[MODEL_CARD] = evaluated_card(files.get(MODEL_CARD, b"").decode(), parts, checks).encode()
        files[DATA_CARD] = card.encode()
        content = {name: value for name, value in description.items() if name not in ("format", "sha256")}
        hashes = saved.write(out / "model", content, files)
    told = {"released": passed, "checks": [asdict(check) for check in checks], "sha256": hashes}
    write_atomically(out / DATA_CARD, card)
    write_atomically(out / "release.json", json.dumps(told, indent=1) + "\n")
    return passed


def section(checks: Sequence[Check]) -> Section:
    """The decision and all checks for the page, the failed ones first, each with its reason and its fix."""
    items = []
    for check in sorted(checks, key=lambda check: check.passed):
        fix = f"<br><em>Fix:</em> {escape(check.fix)}." if check.fix and not check.passed else ""
        items.append((check.passed, f"<code>{escape(check.name)}</code><br>{escape(check.told)}{fix}"))
    failed = sum(not check.passed for check in checks)
    title = "Not released" if failed else "Released"
    count = f"{failed} of {len(checks)} checks failed." if failed else f"All {len(checks)} checks passed."
    return Section(title, [f"<p>{count}</p>", marked(items)])


def verdict(checks: Sequence[Check]) -> str:
    """All checks, the failed ones first, and the decision."""
    ordered = sorted(checks, key=lambda check: check.passed)
    failed = sum(not check.passed for check in checks)
    decision = "released" if not failed else f"not released: {failed} of {len(checks)} checks failed"
    return "\n".join([*map(str, ordered), "", decision])
