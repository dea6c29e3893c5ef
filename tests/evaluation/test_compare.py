"""Comparing reports: only like with like, with a p-value that is right."""

import numpy as np
import torch

from sfumato.evaluation.compare import compare, independent
from sfumato.evaluation.interval import Interval, of_mean


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
