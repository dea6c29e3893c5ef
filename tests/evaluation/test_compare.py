"""Comparing reports: only equal bases are compared, and the p-values are right."""

import numpy as np
import pytest
import torch

from sfumato.evaluation.compare import compare, holm, independent
from sfumato.measures.interval import Interval, of_mean


def report(mean, half=1.0, draws=None, **basis):
    row = {"name": "KID", "drawn": {"mean": mean, "low": mean - half, "high": mean + half}, "real": None}
    return {"draws": draws, "parts": {"distance": {"basis": basis, "rows": {"kid": row}}}}


def test_numbers_of_another_basis_are_never_compared():
    assert compare(report(1, pictures=500), report(2, pictures=400), "distance.kid") is None
    assert compare(report(1, space="a"), report(2, space="b"), "distance.kid") is None
    assert compare(report(1), {"parts": {}}, "distance.kid") is None
    assert compare(report(1), report(2), "distance.recall") is None
    found = compare(report(1, space="a"), report(2, space="a"), "distance.kid")
    assert found is not None and found.difference.interval.mean == 1


def test_pictures_are_paired_only_when_prompts_and_seeds_are_the_same():
    values = ({"distance.kid": np.array([1.0, 5.0, 9.0])}, {"distance.kid": np.array([2.0, 6.1, 9.9])})
    same = compare(report(5, draws="x"), report(6, draws="x"), "distance.kid", values)
    other = compare(report(5, draws="x"), report(6, draws="y"), "distance.kid", values)
    unknown = compare(report(5), report(6), "distance.kid", values)
    assert same is not None and same.paired and same.difference.p is not None and same.difference.p < 0.01
    for found in (other, unknown):
        assert found is not None and not found.paired
        assert found.difference.p is not None and found.difference.p > 0.1


def test_without_a_difference_one_in_twenty_is_significant_and_a_large_one_always():
    generator = torch.Generator().manual_seed(0)

    def p(shift: float) -> float:
        first, second = torch.randn(2, 200, generator=generator).unbind()
        found = independent(of_mean(first), of_mean(second + shift))
        assert found.p is not None
        return found.p

    assert 0.03 < np.mean([p(0.0) < 0.05 for _ in range(1000)]) < 0.07
    assert max(p(1.0) for _ in range(50)) < 1e-4


def test_equal_numbers_are_no_difference_and_single_ones_say_nothing():
    assert independent(Interval(1, 1, 1), Interval(1, 1, 1)).p == 1
    assert independent(Interval(1, None, None), Interval(2, 1, 3)).p is None


def test_holms_correction_is_the_one_by_hand():
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which may not be below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1] and holm([0.02]) == [0.02] and holm([]) == []


def test_without_any_difference_one_family_in_twenty_has_a_false_alarm_and_without_correction_most():
    families = np.random.default_rng(0).uniform(size=(1000, 30))
    assert 0.03 < np.mean([min(holm(list(family))) < 0.05 for family in families]) < 0.07
    assert np.mean(families.min(1) < 0.05) > 0.7


def test_real_pictures_are_paired_by_their_names_and_rows_may_have_dots():
    row = {"name": "bound", "drawn": {"mean": 3.0, "low": 2.0, "high": 4.0}, "real": None}

    def told(*names):
        return {"nll": {"names": list(names)}, "parts": {"nll": {"basis": {}, "rows": {"bound.of.a": row}}}}

    values = ({"nll.bound.of.a": np.array([1.0, 2.0])}, {"nll.bound.of.a": np.array([1.5, 2.6])})
    same = compare(told("a", "b"), told("a", "b"), "nll.bound.of.a", values)
    other = compare(told("a", "b"), told("a", "c"), "nll.bound.of.a", values)
    assert same is not None and same.paired and other is not None and not other.paired


def test_unequal_numbers_of_values_are_no_pairs():
    values = ({"distance.kid": np.array([1.0, 5.0, 9.0])}, {"distance.kid": np.array([2.0, 6.1])})
    found = compare(report(5, draws="x"), report(6, draws="x"), "distance.kid", values)
    assert found is not None and not found.paired


def test_an_interval_that_ends_at_its_range_is_as_wide_on_the_other_side():
    cut, whole, other = Interval(1.0, 0.75, 1.0), Interval(1.0, 0.75, 1.25), Interval(0.5, 0.25, 0.75)
    assert independent(cut, other) == independent(whole, other)
