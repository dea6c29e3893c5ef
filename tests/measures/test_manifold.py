"""Precision, recall, density and coverage are those of prdc, and their intervals hold the mean over other pictures."""

import pytest
import torch

from sfumato.errors import UserError
from sfumato.measures import manifold as module
from sfumato.measures.manifold import Manifold, manifold, prdc


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 5])
def test_they_are_those_of_prdc(k, capsys, monkeypatch):
    from prdc import compute_prdc

    monkeypatch.setattr(module, "ROWS", 70)
    x, y = normal(150, 8), 0.8 * normal(200, 8, seed=1) + 0.3
    expected = compute_prdc(x.numpy(), y.numpy(), nearest_k=k)
    assert prdc(x, y, k).tolist() == pytest.approx(
        [expected[name] for name in ("precision", "recall", "density", "coverage")]
    )


def test_the_same_set_is_precise_and_covered_and_a_far_one_is_neither():
    x = normal(60, 4)
    assert prdc(x, x).tolist() == pytest.approx([1, 1, 1, 1])  # a ball holds its centre and k - 1 others
    assert prdc(x, x + 100).tolist() == [0, 0, 0, 0]


def test_sets_of_one_law_have_density_1_and_the_coverage_of_chance():
    found = torch.stack([prdc(normal(60, 3, seed=2 * i), normal(80, 3, seed=2 * i + 1)) for i in range(150)])
    left = 1.0
    for i in range(1, 6):
        left *= (60 - i) / (140 - i)
    error = found.std(0) / 150**0.5
    assert abs(found.mean(0)[2] - 1) < 3 * error[2] and abs(found.mean(0)[3] - (1 - left)) < 3 * error[3]


def test_neither_rotation_nor_order_changes_them_and_exchange_exchanges_precision_and_recall():
    x, y = normal(80, 6), normal(90, 6, seed=1) + 0.4
    turn = torch.linalg.qr(normal(6, 6, seed=2)).Q
    torch.testing.assert_close(prdc(x.flip(0) @ turn + 7, y @ turn + 7), prdc(x, y))
    assert prdc(y, x)[:2].tolist() == prdc(x, y)[:2].flip(0).tolist()


def test_the_intervals_hold_the_mean_over_other_pictures():
    found = [manifold(normal(80, 4, seed=2 * i), 0.8 * normal(80, 4, seed=2 * i + 1), seed=i) for i in range(80)]
    for name in Manifold.__dataclass_fields__:
        intervals = [getattr(one, name) for one in found]
        mean = sum(one.mean for one in intervals) / len(intervals)
        assert sum(not one.low <= mean <= one.high for one in intervals) <= 10, name
        spread = torch.tensor([one.mean for one in intervals]).std().item()
        reach = sum(one.high - one.low for one in intervals) / len(intervals) / 2
        assert reach < 3.5 * spread, name


def test_none_of_n_is_not_told_as_surely_none():
    found = manifold(normal(100, 4), normal(100, 4, seed=1) + 100, seed=0)
    assert found.precision.mean == found.precision.low == 0 and found.precision.high == pytest.approx(0.03, abs=0.005)


def test_too_few_pictures_are_told():
    with pytest.raises(UserError, match="11 pictures are too few for balls of 5 neighbours: 12 are needed"):
        manifold(normal(11, 4), normal(50, 4), seed=0)
    assert manifold(normal(12, 4), normal(13, 4, seed=1), seed=0).recall.low is not None
