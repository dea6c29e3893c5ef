"""The Vendi score counts unlike pictures, and its interval holds the mean over other pictures."""

import math

import pytest
import torch

from sfumato.measures.vendi import log_score, vendi


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [3, 9])
def test_like_pictures_count_once_and_unlike_ones_each(n):
    assert log_score(normal(1, 9).expand(n, 9)).exp().item() == pytest.approx(1)
    assert log_score(3 * torch.eye(9)[:n]).exp().item() == pytest.approx(n)


def test_unequal_shares_of_unlike_pictures_have_the_entropy_of_the_shares():
    x = torch.eye(3)[[0, 0, 0, 1, 1, 2]]
    expected = -sum(p * math.log(p) for p in (1 / 2, 1 / 3, 1 / 6))
    assert log_score(x).item() == pytest.approx(expected)


@pytest.mark.parametrize(("n", "d"), [(40, 10), (10, 40)])
def test_it_is_the_entropy_of_the_similarities_and_knows_no_rotation_order_scale_or_copies(n, d):
    x = normal(n, d)
    unit = x / x.norm(dim=1, keepdim=True)
    eigenvalues = torch.linalg.eigvalsh(unit @ unit.T / n).clamp(min=1e-300)
    expected = -(eigenvalues * eigenvalues.log()).sum()
    turn = torch.linalg.qr(normal(d, d, seed=1)).Q
    for same in (x, x.flip(0) @ turn, x * normal(n, 1, seed=2).abs(), torch.cat([x, x, x, x, x])):
        torch.testing.assert_close(log_score(same), expected)


def test_the_interval_holds_the_mean_over_other_pictures():
    std = torch.arange(1.0, 9) ** -0.5
    found = [vendi(normal(80, 8, seed=i) * std + 0.3, seed=i) for i in range(100)]
    mean = sum(one.mean for one in found) / len(found)
    assert sum(not one.low < mean < one.high for one in found if one.low is not None and one.high is not None) <= 12
    spread = torch.tensor([one.mean for one in found]).std().item()
    reach = sum(one.high - one.low for one in found if one.low is not None and one.high is not None) / len(found) / 2
    assert 1.6 < reach / spread < 2.7
