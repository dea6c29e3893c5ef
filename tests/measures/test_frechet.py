"""The Fréchet distance is that of Gaussians, FD_infinity is nearer to the truth, and their intervals hold it."""

import numpy as np
import pytest
import torch

from sfumato.errors import UserError
from sfumato.measures.frechet import distance, frechet


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(n, mean, root):
    """(n, D) whose sample mean is `mean` and whose sample covariance is root @ root.T."""
    x = normal(n, len(mean))
    x = x - x.mean(0)
    whitened = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return whitened @ root.T + mean


def rotation(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def sets(n, m, d, seed, same=False):
    """Two Gaussian sets with eigenvalues 1/i, and their true distance."""
    std = torch.arange(1.0, d + 1, dtype=torch.float64) ** -0.5
    other, mean = (std, 0 * std) if same else (1.4 * std, 0.2 * std)
    truth = (mean.square().sum() + (std - other).square().sum()).item()
    return normal(n, d, seed=2 * seed) * std, normal(m, d, seed=2 * seed + 1) * other + mean, truth


def test_the_distance_is_that_of_the_closed_form():
    d = 6
    turn, a, b = rotation(d), torch.linspace(0.5, 3, d).double(), torch.linspace(2, 0.1, d).double()
    one, other = exact(50, normal(d, seed=1), turn * a), exact(30, normal(d, seed=2), turn * b)  # one set of axes
    shift = (normal(d, seed=1) - normal(d, seed=2)).square().sum()
    torch.testing.assert_close(distance(one, other), shift + (a - b).square().sum(), rtol=1e-10, atol=0)


def test_covariances_with_other_axes_have_the_distance_of_the_root_of_their_product():
    from scipy.linalg import sqrtm

    one, other = normal(40, 5) @ normal(5, 5, seed=1), normal(60, 5, seed=2) @ normal(5, 5, seed=3)
    a, b = one.T.cov(), other.T.cov()
    root = torch.as_tensor(np.real(np.asarray(sqrtm((a @ b).numpy()))))
    expected = (one.mean(0) - other.mean(0)).square().sum() + (a + b - 2 * root).trace()
    torch.testing.assert_close(distance(one, other), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (40, 9), (9, 12)])
def test_a_set_has_no_distance_to_itself_and_neither_rotation_nor_order_changes_any(n, m):
    x, y = normal(n, 20), normal(m, 20, seed=1) * 2 + 1
    assert abs(distance(x, x)) < 1e-12
    turn, shift = rotation(20), normal(20, seed=3)
    torch.testing.assert_close(distance(x @ turn + shift, y.flip(0) @ turn + shift), distance(x, y), rtol=1e-10, atol=0)
    torch.testing.assert_close(distance(x, y), distance(y, x), rtol=1e-10, atol=0)
    torch.testing.assert_close(distance(x.float(), y.float()), distance(x, y), rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", [30, 500])
def test_the_distance_is_that_of_torchmetrics(n):
    from torchmetrics.image.fid import FrechetInceptionDistance

    identity = torch.nn.Identity()
    identity.num_features = 64  # type: ignore
    metric = FrechetInceptionDistance(identity)
    x, y, _ = sets(n, 200, 64, 0)
    metric.update(x.float(), real=True)
    metric.update(y.float(), real=False)
    assert distance(x.float(), y.float()).item() == pytest.approx(metric.compute().item(), rel=1e-4)


@pytest.mark.parametrize(("n", "m", "same"), [(100, 100, False), (100, 300, False), (70, 70, True)])
def test_fd_infinity_is_the_truth_on_average_where_fd_is_far_above(n, m, same):
    plain, infinite = [], []
    for trial in range(12):
        x, y, truth = sets(n, m, 32, trial, same)
        found = frechet(x, y, seed=trial)
        assert found.infinite is not None
        plain.append(found.distance.mean - truth)
        infinite.append(found.infinite.mean - truth)
    plain, infinite = torch.tensor(plain), torch.tensor(infinite)
    assert abs(infinite.mean()) < 4 * infinite.std() / 12**0.5
    assert plain.mean() > 5 * abs(infinite.mean())


def test_intervals_hold_the_mean_distance_and_the_truth():
    trials, truth = [], 0.0
    for trial in range(100):
        x, y, truth = sets(60, 80, 8, trial)
        trials.append(frechet(x, y, seed=trial))
    mean = sum(found.distance.mean for found in trials) / len(trials)
    assert sum(not found.distance.low < mean < found.distance.high for found in trials) <= 12
    assert sum(not found.infinite.low < truth < found.infinite.high for found in trials) <= 12

    reach = torch.tensor([found.distance.high - found.distance.mean for found in trials]).square().mean().sqrt() / 2.09
    spread = torch.tensor([found.distance.mean for found in trials]).std()
    assert 0.8 < reach / spread < 1.3


def test_fd_infinity_is_not_told_of_fewer_pictures_than_it_needs():
    x, y, _ = sets(36, 90, 32, 0)
    found = frechet(x, y, seed=0)
    assert found.infinite is None and found.fit_error is None and found.distance.low is not None
    assert frechet(x[:, :30], y[:, :30], seed=0).infinite is not None
    with pytest.raises(UserError, match="3 pictures are too few"):
        frechet(x[:3], y, seed=0)


def test_the_same_seed_gives_the_same_numbers_and_progress_ends():
    x, y, _ = sets(50, 40, 8, 0)
    told = []
    first, second = (frechet(x, y, seed=5, progress=lambda *parts: told.append(parts)) for _ in range(2))
    assert first == second and told[-1] == (48, 48)
