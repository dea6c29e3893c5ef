"""Intervals hold the truth as often as they say, and differences are found where there are any."""

import pytest
import torch

from sfumato.errors import UserError
from sfumato.measures.interval import (
    Interval,
    difference,
    jackknife,
    of_mean,
    of_share,
    without_groups,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean(x):
    return x.mean(0)


def test_a_mean_and_the_differences_of_means_are_those_of_scipy():
    from scipy import stats

    a, b = normal(20) + 0.3, 2 * normal(35, seed=1)
    reference = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    found = of_mean(a)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))

    for paired, other, test in (
        (False, b, stats.ttest_ind(a, b, equal_var=False)),
        (True, b[:20], stats.ttest_rel(a, b[:20])),
    ):
        found, reference = difference(a, other, paired), test.confidence_interval(0.95)
        assert found.p == pytest.approx(test[1])
        assert (found.interval.low, found.interval.high) == pytest.approx((reference.low, reference.high))


def test_one_number_has_no_interval_and_like_sets_no_difference():
    one, many = torch.ones(1), torch.ones(5)
    assert of_mean(one) == Interval(1.0, None, None)
    assert difference(one, many, paired=False).p is None
    for paired in (True, False):
        assert difference(many, many, paired).p == 1
        assert difference(many + 1, many, paired).p == 0
    with pytest.raises(ValueError, match="got 1 and 5"):
        difference(one, many, paired=True)


def test_pairs_that_share_what_they_differ_by_are_told_apart_only_as_pairs():
    shared = 10 * normal(100)
    a, b = shared + 0.1 * normal(100, seed=1) + 0.1, shared + 0.1 * normal(100, seed=2)
    together, apart = difference(a, b, paired=True), difference(a, b, paired=False)
    assert together.p is not None and together.p < 1e-6 and apart.p is not None and apart.p > 0.9


@pytest.mark.parametrize("groups", [2, 4])
def test_the_jackknife_of_a_mean_is_its_standard_error(groups):
    x = normal(200, 2)
    found = jackknife(mean, [x], seed=0, groups=groups, cuts=600 // groups)
    torch.testing.assert_close(found.error, x.std(0) / 200**0.5, rtol=0.1, atol=0)
    assert found.freedom == 600 // groups * (groups - 1)


def test_groups_are_left_out_in_turn_and_pairs_together():
    x = torch.arange(10)
    sets = without_groups([x, torch.stack([x, x], 1)], 4, torch.Generator().manual_seed(0))
    left = [set(x.tolist()) - set(part.tolist()) for part, _ in sets]
    assert set.union(*left) == set(range(10)) and sorted(map(len, left)) == [2, 2, 3, 3]
    assert all((pairs[:, 0] == pairs[:, 1]).all() for _, pairs in sets)


def test_the_same_seed_gives_the_same_error_and_all_progress_is_told():
    told = []
    first, second, other = (
        jackknife(mean, [normal(40)], seed, progress=lambda *parts: told.append(parts)).error for seed in (0, 0, 1)
    )
    assert first == second != other
    assert told[:28] == [(i + 1, 28) for i in range(28)]


def test_too_few_for_an_interval_are_told():
    with pytest.raises(UserError, match="7 pictures are too few for an interval, which needs 8"):
        jackknife(mean, [normal(40), normal(7)], seed=0)


def test_ends_stay_within_the_range_of_the_values():
    assert Interval(0.5, -0.1, 1.1).within(0, 1) == Interval(0.5, 0, 1)
    assert Interval(0.5, None, None).within(0, 1) == Interval(0.5, None, None)


def test_wilsons_interval_holds_the_share_and_never_leaves_0_to_1():
    # Wilson 1927 for 10 of 100, as in Newcombe 1998
    found = of_share(10, 100)
    assert found.low is not None and found.high is not None
    assert abs(found.low - 0.0552) < 1e-4 and abs(found.high - 0.1744) < 1e-4
    assert of_share(0, 20).low == 0 and (of_share(0, 20).high or 0) > 0.1 and of_share(20, 20).high == 1


def test_the_interval_of_a_share_covers_it():
    generator = torch.Generator().manual_seed(0)
    for p in (0.02, 0.5, 0.9):
        inside = 0
        for _ in range(400):
            found = of_share(int((torch.rand(100, generator=generator) < p).sum()), 100)
            assert found.low is not None and found.high is not None
            inside += found.low <= p <= found.high
        assert inside / 400 > 0.92


def test_numbers_are_told_with_three_digits():
    assert str(Interval(0.6234, 0.0, 1.0)) == "0.623 [0, 1]"
    assert str(Interval(0.00001234, None, None)) == "1.23e-05"
    assert str(Interval(12345.6, -1234.5, 7.0)) == "12,346 [-1,234, 7]"
