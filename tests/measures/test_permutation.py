"""Differences of numbers of whole sets: p-values are uniform without a difference, and a small difference is found."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sfumato.errors import UserError
from sfumato.measures import frechet, interval, kernel, manifold, permutation, vendi
from sfumato.measures.permutation import difference_of, directly, together

N, D, TRIALS = 32, 8, 100
PARTS = {"fd": frechet.of_parts, "kid": kernel.of_parts, "vendi": vendi.of_parts}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean(x: Tensor, _: Tensor) -> Tensor:
    return x.mean(0)


def drawn(trial: int, shift: float, shared: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Two models that share some of their randomness, and real features of the law of the first."""
    scale = torch.arange(1, D + 1, dtype=torch.float64) ** -0.5
    seed, own, other, real = normal(4, N, D, seed=trial)
    a, b = ((math.sqrt(shared) * seed + math.sqrt(1 - shared) * x) * scale for x in (own, other))
    return a, b + shift * scale, real * scale


def p_values(shift: float, names: Sequence[str], paired: bool = True) -> dict[str, Tensor]:
    found: dict[str, list[float]] = {name: [] for name in names}
    for trial in range(TRIALS):
        a, b, real = drawn(trial, shift, 0.5 if paired else 0.0)
        statistic = together([PARTS[name] for name in names])
        for name, difference in zip(names, difference_of(statistic, b, a, real, paired, trial), strict=True):
            low, high, p = difference.interval.low, difference.interval.high, difference.p
            assert low is not None and high is not None and p is not None
            assert (p < 0.05) == (low > 0 or high < 0)  # they never contradict
            found[name].append(p)
    return {name: torch.tensor(p) for name, p in found.items()}


def jackknifed(a: Tensor, b: Tensor, real: Tensor, trial: int) -> float:
    """The p-value by the jackknife alone, which counts the curvature of the distance twice."""

    def gap(pairs: Tensor, real: Tensor) -> Tensor:
        return frechet.distance(real, pairs[:, 0]) - frechet.distance(real, pairs[:, 1])

    found = interval.jackknife(gap, [torch.stack([b, a], 1), real], trial)
    p = interval.tested(
        (frechet.distance(real, b) - frechet.distance(real, a)).item(), found.error.item(), found.freedom
    ).p
    assert p is not None
    return p


def calibrated(p: Tensor) -> bool:
    """Whether 100 p-values may be uniform: each bound holds for 99.7 % of uniform ones or more."""
    below = [(p < level).double().mean().item() for level in (0.05, 0.2)]
    return below[0] <= 0.12 and 0.09 <= below[1] <= 0.32 and 0.415 <= p.mean().item() <= 0.585


@pytest.fixture(scope="module", autouse=True)
def fewer():
    """Fewer exchanges: enough for a rate, and quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permutation, "EXCHANGES", 40)
        patch.setattr(permutation, "JACKKNIFED", 5)
        patch.setattr(permutation, "CUTS", 3)
        yield


def test_without_a_difference_p_values_are_uniform_and_those_of_the_jackknife_alone_are_not():
    for name, p in p_values(0.0, ["fd", "kid"]).items():
        assert calibrated(p), (name, p.mean())
    assert not calibrated(torch.tensor([jackknifed(*drawn(trial, 0.0), trial) for trial in range(TRIALS)]))


def test_without_pairs_they_are_uniform_too():
    for name, p in p_values(0.0, ["kid", "vendi"], paired=False).items():
        assert calibrated(p), (name, p.mean())


def test_a_small_difference_is_found_more_often_than_by_the_jackknife_alone():
    found = {name: (p < 0.05).double().mean().item() for name, p in p_values(0.4, ["fd", "kid"]).items()}
    old = sum(jackknifed(*drawn(trial, 0.4), trial) < 0.05 for trial in range(TRIALS)) / TRIALS
    assert found["fd"] > old + 0.08 and found["kid"] > old + 0.1, (found, old)


def test_laws_that_differ_at_one_distance_are_rarely_told_to_differ_in_it():
    """Exchanges alone cannot see this: the actual real pictures decide which of the two is nearer."""
    wrong = 0
    for trial in range(TRIALS):
        a, b, real = drawn(trial, 0.0)
        aside = torch.zeros(D, dtype=torch.float64)
        aside[0] = 0.5
        [found] = difference_of(frechet.of_parts, a + aside, b - aside, real, True, trial)
        assert found.p is not None
        wrong += found.p < 0.05
    assert wrong <= 18


def test_parts_are_measured_as_whole_sets_are():
    pool, reference = normal(60, 8), normal(40, 8, seed=1)
    i, j = torch.arange(5, 35), torch.arange(3, 40)
    measured = together([frechet.of_parts, vendi.of_parts, manifold.of_parts])(pool, reference)(j)(i)
    x, y = pool[i], reference[j]
    expected = [frechet.distance(y, x)[None], vendi.log_score(x).exp()[None], manifold.prdc(y, x)]
    torch.testing.assert_close(measured, torch.cat(expected))
    wide, few = normal(30, 50, seed=2), normal(20, 50, seed=3)  # more features than pictures
    part = frechet.of_parts(wide, few)(torch.arange(20))(torch.arange(15))
    torch.testing.assert_close(part[0], frechet.distance(few, wide[:15]), rtol=1e-6, atol=1e-6)

    of = kernel.of_parts(pool, reference)(j)  # up to a constant, which cancels in a difference
    other = torch.arange(30, 60)
    gap = 1000 * (kernel.mmd(y, x, kernel.cubic) - kernel.mmd(y, pool[other], kernel.cubic))
    torch.testing.assert_close((of(i) - of(other))[0], gap)


def test_many_pictures_are_measured_without_all_pairs(monkeypatch):
    pool, reference, i, j = normal(40, 4), normal(30, 4, seed=1), torch.arange(20), torch.arange(20, 40)
    for module in (kernel, manifold):
        kept = module.of_parts(pool, reference)(torch.arange(30))
        monkeypatch.setattr(module, "KEPT", 10)
        direct = module.of_parts(pool, reference)(torch.arange(30))
        torch.testing.assert_close(direct(i) - direct(j), kept(i) - kept(j))


def test_pairs_that_share_what_they_differ_by_are_told_apart_only_as_pairs():
    shared = 10 * normal(100)
    a, b = shared + 0.1 * normal(100, seed=1) + 0.1, shared + 0.1 * normal(100, seed=2)
    [pairs], [apart] = (difference_of(directly(mean), a, b, normal(20), paired, seed=0) for paired in (True, False))
    assert pairs.p is not None and pairs.p < 1e-4 and apart.p is not None and apart.p > 0.9


def test_equal_sets_have_no_difference_and_unequal_numbers_are_no_pairs():
    a = normal(20, 4)
    for found in difference_of(together([*PARTS.values()]), a, a.clone(), normal(20, 4, seed=1), True, 0):
        assert found.interval.mean == 0 and found.p == 1
    with pytest.raises(ValueError, match="got 20 and 19"):
        difference_of(directly(mean), a, a[:19], a, True, 0)
    with pytest.raises(UserError, match="7 pictures are too few for an interval, which needs 8"):
        difference_of(directly(mean), a, a[:7], a, False, 0)


def test_the_same_seed_gives_the_same_p_and_all_progress_is_told():
    told = []
    a, b, real = drawn(0, 0.0)
    first, second, other = (
        difference_of(frechet.of_parts, a, b, real, True, seed, progress=lambda *at: told.append(at))
        for seed in (0, 0, 1)
    )
    assert first == second != other and told[:40] == [(i + 1, 40) for i in range(40)]
