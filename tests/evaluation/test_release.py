"""The gate: a missed threshold, an unknown licence or a broken lineage refuses a release, and says why."""

from types import SimpleNamespace

import pytest

from sfumato.config import Release
from sfumato.evaluation.release import (
    Check,
    data_card,
    licence_checks,
    lineage_checks,
    threshold_checks,
    verdict,
)

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
    assert not check.passed and "not measured" in check.told and "membership.auc" in check.told


def data(rows, **more):
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
    checks = lineage_checks(SimpleNamespace(record=record), data([]))
    assert [check.passed for check in checks] == passed


def test_the_data_card_has_sources_classes_and_shares():
    card = data_card(
        data(
            [{"source": "shop", "licence": "CC0"}] * 3,
            labels=[0, 1, 1],
            classes=("cat", "dog"),
            captions=[("a cat",), (), ()],
            describe=lambda: "3 pictures",
        ),
        PARTS,
    )
    assert "| shop | CC0 | 3 |" in card and "| dog | 2 |" in card and "| dark | 25.0% |" in card
    assert "1 pictures have captions" in card


def test_the_verdict_names_the_failed_checks_first():
    told = verdict([Check("a", True, "fine"), Check("b", False, "bad")]).splitlines()
    assert told == ["REFUSED  b: bad", "passed  a: fine", "", "not released: 1 of 2 checks failed"]
    assert verdict([Check("a", True, "fine")]).endswith("\nreleased")
