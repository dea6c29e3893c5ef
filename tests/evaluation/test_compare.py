"""Comparing reports: only like with like, with a p-value that is right."""

import numpy as np
import pytest

from sfumato.evaluation.compare import difference, independent, paired
from sfumato.evaluation.interval import Interval, interval


def report(mean, half=1.0, draws=None, **basis):
    row = {"name": "KID", "drawn": {"mean": mean, "low": mean - half, "high": mean + half}, "real": None}
    return {"draws": draws, "parts": {"distance": {"basis": basis, "rows": {"kid": row}}}}


def test_numbers_of_another_basis_are_never_compared():
    assert difference(report(1, pictures=500), report(2, pictures=400), "distance.kid") is None
    assert difference(report(1, space="a"), report(2, space="b"), "distance.kid") is None
    assert difference(report(1), {"parts": {}}, "distance.kid") is None
    assert difference(report(1), report(2), "distance.recall") is None
    found = difference(report(1, space="a"), report(2, space="a"), "distance.kid")
    assert found is not None and found.difference.mean == 1


def test_pictures_are_paired_only_when_prompts_and_seeds_are_the_same():
    values = ({"distance.kid": np.array([1.0, 5.0, 9.0])}, {"distance.kid": np.array([2.0, 6.1, 9.9])})
    same = difference(report(5, draws="x"), report(6, draws="x"), "distance.kid", values)
    other = difference(report(5, draws="x"), report(6, draws="y"), "distance.kid", values)
    unknown = difference(report(5), report(6), "distance.kid", values)
    assert same is not None and same.paired and same.p is not None and same.p < 0.01
    for found in (other, unknown):
        assert found is not None and not found.paired and found.p is not None and found.p > 0.1


@pytest.mark.parametrize("test", ["paired", "independent"])
def test_without_a_difference_one_in_twenty_is_significant_and_a_large_one_always(test):
    generator = np.random.default_rng(0)

    def p(shift: float) -> float:
        prompt = generator.normal(size=200) * 3
        first, second = prompt + generator.normal(size=200), prompt + generator.normal(size=200) + shift
        if test == "paired":
            found = paired(first, second)
        else:
            second = generator.permutation(generator.normal(size=200) * 3 + second - prompt)
            found = independent(*(interval(v.mean(), v.std(ddof=1) / 200**0.5, 199) for v in (first, second)))
        assert found.p is not None
        return found.p

    assert 0.03 < np.mean([p(0.0) < 0.05 for _ in range(1000)]) < 0.07
    assert max(p(2.0) for _ in range(50)) < 1e-4


def test_equal_numbers_are_no_difference_and_a_single_one_says_nothing():
    assert paired(np.ones(4), np.ones(4)).p == 1
    assert paired(np.ones(1), np.zeros(1)).p is None
    assert independent(Interval(1, None, None), Interval(2, 1, 3)).p is None
