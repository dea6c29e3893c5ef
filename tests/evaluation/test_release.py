"""The gate: a missed threshold, an unknown licence or a broken lineage refuses a release, and says why."""

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main as cli
from sfumato.config import Release
from sfumato.evaluation.pictures import material_for
from sfumato.evaluation.release import (
    Check,
    data_card,
    evaluated_card,
    foreseen,
    licence_checks,
    lineage_checks,
    section,
    threshold_checks,
    verdict,
)
from sfumato.material import Material
from sfumato.measures.probes import Attribute
from sfumato.model import Model
from sfumato.report import Silent

PARTS = {
    "membership": {"rows": {"auc": {"drawn": {"mean": 0.61, "low": 0.55, "high": 0.67}, "real": None}}},
    "accuracy": {"rows": {"all": {"drawn": {"mean": 0.9, "low": None, "high": None}, "real": None}}},
    "bias-skin tone": {
        "rows": {
            "share:dark": {"drawn": {"mean": 0.1, "low": 0.0, "high": 0.2}, "real": {"mean": 0.25}},
            "tv": {"drawn": {"mean": 0.3, "low": 0.2, "high": 0.4}, "real": None},
        }
    },
}


@pytest.mark.parametrize(
    ("demands", "passed"),
    [
        ({"at_most": {"membership.auc": 0.61}}, True),
        ({"at_most": {"membership.auc": 0.6}}, False),
        ({"at_least": {"accuracy.all": 0.9}}, True),
        ({"at_least": {"accuracy.all": 0.91}}, False),
        ({"at_most": {"bias-skin tone.tv": 0.5}}, True),
    ],
)
def test_a_threshold_holds_up_to_itself(demands, passed):
    (check,) = threshold_checks(PARTS, Release(**demands))
    assert check.passed == passed


def test_what_was_not_measured_fails_and_what_was_is_named():
    (check,) = threshold_checks(PARTS, Release(at_most={"memorization.copies": 0.1}))
    assert not check.passed and "not measured" in check.told and "membership.auc" in check.fix
    why = {"memorization": "3 held-out pictures are too few; fix: hold out more"}
    (check,) = threshold_checks(PARTS, Release(at_most={"memorization.copies": 0.1}), why)
    assert "3 held-out pictures are too few" in check.told and check.fix == "hold out more"


@pytest.mark.parametrize(
    ("seen", "n", "words"),
    [
        (0, 500, ["memorization needs the data of the training", "membership needs the data of the training"]),
        (
            185,
            500,
            ["memorization needs 50 held-out pictures, and there are 15", "membership needs 20"],
        ),
        (170, 500, ["memorization needs 50 held-out pictures, and there are 30"]),
        (100, 40, ["memorization needs 50 drawn pictures, and these will be 40"]),
        (100, 60, []),
    ],
)
def test_a_refusal_that_can_be_foreseen_is_told_before_anything_is_drawn(seen, n, words):
    material = Material(cast(Any, range(200)), np.arange(seen), np.arange(seen, 200))
    found = foreseen(["memorization-*.near-copies-p", "membership.auc"], material, n)
    assert len(found) == len(words) and all(word in why for word, why in zip(words, found, strict=True))
    assert foreseen(["accuracy.all"], material, n) == []


def test_every_refusal_has_a_reason_and_a_fix():
    demands = Release(at_most={"membership.auc": 0.1, "bias-*.tv": 0.1, "x.y": 1}, licences=("CC0",))
    checks = [
        *threshold_checks(PARTS, demands),
        *lineage_checks(
            cast(Any, SimpleNamespace(record={"environment": {"commit": "1 with uncommitted changes"}})), data([])
        ),
        *licence_checks(data([{"source": "x", "licence": "MIT"}, {"source": "y"}]), demands),
    ]
    assert len(checks) == 7 and not any(check.passed for check in checks)
    page = section(checks).parts[1]
    for check in checks:
        assert check.told and check.fix and f"fix: {check.fix}" in str(check)
        assert check.fix.split("`")[0].replace("'", "&#x27;") in str(page) and '<li class="no">' in str(page)


@pytest.mark.parametrize(("least", "passed"), [(0.001, [True, True]), (0.02, [False, True]), (0.6, [False, False])])
def test_a_star_holds_every_part_of_that_name_to_the_threshold(least, passed):
    parts = {
        f"memorization-{space}": {"rows": {"p": {"drawn": {"mean": p, "low": None, "high": None}}}}
        for space, p in (("a", 0.01), ("b", 0.5))
    }
    checks = threshold_checks(parts, Release(at_least={"memorization-*.p": least}))
    assert [check.name for check in checks] == ["memorization-a.p", "memorization-b.p"]
    assert [check.passed for check in checks] == passed


CARD = "# Model card\n\n## Data\n\nx\n\n## Settings\n\n```yaml\n```\n"


def test_the_card_has_what_was_measured_once_and_keeps_all_else():
    parts = {key: {**part, "title": key, "rows": dict(part["rows"])} for key, part in PARTS.items()}
    for part in parts.values():
        part["rows"] = {key: {"name": key, **row} for key, row in part["rows"].items()}
    once = evaluated_card(CARD, parts, [Check("a", True, "fine")])
    assert "| auc | 0.61 [0.55, 0.67] |  |" in once and "passed   a: fine" in once and "share:dark" not in once
    assert once.startswith("# Model card\n\n## Data\n\nx\n") and once.endswith("## Settings\n\n```yaml\n```\n")
    again = evaluated_card(once, parts, [Check("b", True, "fine")])
    assert again == once.replace("passed   a", "passed   b")


@pytest.fixture
def trained(tiny, tmp_path, monkeypatch):
    """A model in a folder that says that it was trained on licensed pictures in another one."""
    for name in ("LEAST", "MOST"):
        monkeypatch.setattr(f"sfumato.features.learned.{name}", 256)
    generator, lines = np.random.default_rng(0), []
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(160):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        row = {"file_name": f"{i}.png", "label": ("cat", "house")[i % 2], "licence": "CC0-1.0", "source": "own"}
        lines.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    model = tiny("class", data={"path": str(folder), "size": 16, "validation": 0.4})
    model.record = {
        "manifest_sha256": material_for(model, str(folder), tmp_path / "cache", Silent()).data.manifest_hash,
        "environment": {"commit": "0123abc"},
    }
    model.save(tmp_path / "model", {"README.md": CARD.encode()})
    return tmp_path


def test_a_model_is_released_with_its_cards_or_refused_with_reasons(trained, capsys):
    command = ["release", str(trained / "model"), "--n", "50", "--out"]
    fair = ["--at-most", "membership.auc=0.9", "--at-least", "memorization-*.near-copies-p=1e-6"]
    assert cli.main([*command, str(trained / "yes"), *fair]) == 0
    assert capsys.readouterr().out.endswith("\nreleased\n")
    before, after = Model.load(trained / "model"), Model.load(trained / "yes" / "model")
    assert after.fingerprint == before.fingerprint and after.record == before.record
    card = (trained / "yes" / "model" / "README.md").read_text()
    assert "Membership test of one query" in card and "passed   licence of own: CC0-1.0, 160 pictures" in card
    assert "| own | CC0-1.0 | 160 |" in (trained / "yes" / "model" / "data-card.md").read_text()

    assert cli.main([*command, str(trained / "no"), *fair, "--at-most", "membership.auc=0.1"]) == 1
    assert "REFUSED  membership.auc" in capsys.readouterr().out and not (trained / "no" / "model").exists()
    told = json.loads((trained / "no" / "release.json").read_text())
    assert not told["released"] and sum(not check["passed"] for check in told["checks"]) == 1
    assert "Not released" in (trained / "no" / "index.html").read_text()


def test_a_threshold_that_is_none_is_told(capsys):
    assert cli.main(["release", "emoji", "--at-most", "membership.auc"]) == 2
    assert "is no threshold" in capsys.readouterr().err


def data(rows, **more) -> Any:
    return SimpleNamespace(manifest=rows, manifest_hash="a" * 64, **more)


def test_a_licence_must_be_stated_and_allowed():
    rows = [{"source": "x", "licence": "MIT"}, {"source": "y"}]
    passed = {check.name: check.passed for check in licence_checks(data(rows), Release())}
    assert passed == {"licence of x": True, "licence of y": False}
    assert not any(check.passed for check in licence_checks(data(rows), Release(licences=("CC0",))))


@pytest.mark.parametrize(
    ("record", "passed"),
    [
        ({"manifest_sha256": "a" * 64, "environment": {"commit": "123"}}, [True, True]),
        ({"manifest_sha256": "b" * 64, "environment": {"commit": None}}, [False, True]),
        ({"environment": {"commit": "123 with uncommitted changes"}}, [False, False]),
    ],
)
def test_the_lineage_needs_the_data_of_the_training_and_committed_code(record, passed):
    checks = lineage_checks(cast(Any, SimpleNamespace(record=record)), data([]))
    assert [check.passed for check in checks] == passed


def test_the_shares_of_the_data_card_are_of_all_pictures():
    card = data_card(
        data(
            [{"source": "shop", "licence": "CC0"}] * 4,
            labels=[0, 1, 1, 1],
            classes=("cat", "dog"),
            captions=[("a cat in snow",), ("sun",), ("a beach",), ("sun and snow",)],
            describe=lambda: "4 pictures",
        ),
        [Attribute("season", {"winter": ["snow"], "summer": ["sun", "beach"]}), Attribute("tone", {"dark": ["dark"]})],
    )
    assert "| shop | CC0 | 4 |" in card and "| dog | 3 | 75.0% |" in card and "4 pictures have captions" in card
    assert "| winter | 1 | 25.0% |" in card and "| summer | 2 | 50.0% |" in card
    assert "| several values | 1 | 25.0% |" in card and "tone" not in card


def test_the_verdict_names_the_failed_checks_first():
    told = verdict([Check("a", True, "fine"), Check("b", False, "bad")]).splitlines()
    assert told == ["REFUSED  b: bad", "passed   a: fine", "", "not released: 1 of 2 checks failed"]
    assert verdict([Check("a", True, "fine")]).endswith("\nreleased")
