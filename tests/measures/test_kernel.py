"""KID is unbiased, agrees with torchmetrics, and its interval holds the truth."""

import pytest
import torch

from sfumato.measures import kernel
from sfumato.measures.kernel import cmmd, cubic, gaussian, kid, mmd


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kid_is_that_of_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    identity = torch.nn.Identity()
    identity.num_features = 16  # type: ignore
    metric = KernelInceptionDistance(identity, subsets=1, subset_size=200)
    x, y = normal(200, 16), normal(200, 16, seed=1) * 1.2 + 0.1
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert kid(x, y).mean == pytest.approx(metric.compute()[0].item(), rel=1e-6)


@pytest.mark.parametrize("measure", [kid, cmmd])
def test_sets_of_one_law_are_at_0_on_average_whatever_their_size(measure):
    found = torch.tensor([measure(normal(20, 4, seed=2 * i), normal(30, 4, seed=2 * i + 1)).mean for i in range(400)])
    assert abs(found.mean()) < 3 * found.std() / 400**0.5
    assert (found < 0).any()


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_interval_holds_the_truth(shift):
    # with E x = 0, E y = s 1 and unit covariances: E (x . y)^2 and E (x . y)^3 in closed form
    d = 8
    a = d * shift**2  # |E y|^2

    def law(mean_product, second, third):
        return third / d**3 + 3 * second / d**2 + 3 * mean_product / d + 1

    truth = law(0, d, 0) + law(a, d + 2 * a + a**2, a**3 + 3 * a * d + 6 * a**2 + 6 * a) - 2 * law(0, d + a, 0)
    missed, errors = 0, []
    for trial in range(300):
        found = kid(normal(100, d, seed=2 * trial), normal(120, d, seed=2 * trial + 1) + shift)
        assert found.low is not None and found.high is not None
        missed += not found.low < truth < found.high
        errors.append(found.mean - truth)
    errors = torch.tensor(errors)
    assert abs(errors.mean()) < 3 * errors.std() / 300**0.5
    assert (missed <= 6) if shift == 0 else (5 <= missed <= 28)  # where the law is one, the error is told too large


def test_neither_rotation_nor_order_nor_the_size_of_a_part_changes_it(monkeypatch):
    x, y = normal(30, 5), normal(40, 5, seed=1) + 0.5
    turn = torch.linalg.qr(normal(5, 5, seed=2)).Q
    expected = [kid(x, y), cmmd(x, y)]
    monkeypatch.setattr(kernel, "ROWS", 7)
    for found, one in zip([kid(x @ turn, y.flip(0) @ turn), cmmd(x @ turn, 3 * y @ turn)], expected, strict=True):
        assert (found.mean, found.low, found.high) == pytest.approx((one.mean, one.low, one.high))


@pytest.mark.parametrize("of", [cubic, gaussian])
def test_the_squared_mmd_is_the_sum_over_pairs(of):
    x, y = normal(6, 3), normal(4, 3, seed=1)
    k = of(torch.cat([x, y]), torch.cat([x, y])).fill_diagonal_(0)
    expected = k[:6, :6].sum() / 30 + k[6:, 6:].sum() / 12 - 2 * k[:6, 6:].mean()
    torch.testing.assert_close(mmd(x, y, of), expected)


def test_the_gaussian_kernel_is_that_of_directions():
    x = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(gaussian(x, x)[0, 1], torch.tensor(-2 / 200).exp())
