"""The averages have the power-function profile of Karras et al. 2024 (EDM2), eq. 123 to 127, in closed form."""

import numpy as np
import pytest
import torch

from sfumato.training.ema import EMA, decay, gamma_of

WIDTHS = (0.05, 0.10, 0.25)


def weights_of_steps(sigma_rel: float, steps: int) -> np.ndarray:
    """(steps + 1,): what the live weights of step 0 (the start), 1, ... count for in the average, by averaging unit
    vectors: the live weights of step i are e_i."""
    live = {"w": torch.zeros(steps + 1, dtype=torch.float64)}
    live["w"][0] = 1
    ema = EMA(live, (sigma_rel,))
    for step in range(1, steps + 1):
        live["w"].zero_()[step] = 1
        ema.update(step)
    return ema.tracks[0]["w"].numpy()


@pytest.mark.parametrize("sigma_rel", WIDTHS)
def test_the_weight_of_every_step_is_the_power_profile(sigma_rel: float) -> None:
    n, gamma = 400, gamma_of(sigma_rel)
    i = np.arange(1, n + 1)
    # The integral of (gamma + 1) t^gamma / n^(gamma + 1) (eq. 123) from i - 1 to i.
    profile = (i / n) ** (gamma + 1) - ((i - 1) / n) ** (gamma + 1)
    weights = weights_of_steps(sigma_rel, n)
    assert weights[0] == 0  # the start is forgotten
    np.testing.assert_allclose(weights[1:], profile, atol=1e-14)
    assert weights.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("sigma_rel", WIDTHS)
def test_the_standard_deviation_of_the_profile_is_sigma_rel_of_the_run(sigma_rel: float) -> None:
    n = 3000
    weights, t = weights_of_steps(sigma_rel, n)[1:], (np.arange(1, n + 1) - 0.5) / n
    mean = (weights * t).sum()
    assert np.sqrt((weights * (t - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-2)


def test_the_exponent_is_the_published_one() -> None:
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01)  # EDM2, section 3.1
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.01)
    assert gamma_of(12**-0.5) == pytest.approx(0, abs=1e-9)  # a plain mean: the width of the uniform law


def test_the_first_step_replaces_the_average() -> None:
    assert decay(0.1, 1) == 0
    assert 0 < decay(0.1, 2) < decay(0.1, 1000) < 1


def test_swapping_exchanges_and_gives_back_every_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    live = {
        "matrix": torch.nn.Parameter(torch.randn(5, 3, generator=generator)),
        "convolution": torch.nn.Parameter(
            torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last)
        ),
    }
    ema = EMA(live, (0.05, 0.10))
    for track in ema.tracks:
        for value in track.values():
            value.normal_(generator=generator)
    before = {name: p.detach().clone() for name, p in live.items()}
    averages = [{name: v.clone() for name, v in track.items()} for track in ema.tracks]

    with ema.swapped(1):
        assert all(torch.equal(live[name], averages[1][name]) for name in live)
        assert all(torch.equal(ema.tracks[1][name], before[name]) for name in live)
    with pytest.raises(ZeroDivisionError), ema.swapped(0):
        raise ZeroDivisionError("an error inside gives the weights back too")

    assert all(torch.equal(live[name], before[name]) for name in live)
    assert all(torch.equal(ema.tracks[i][name], averages[i][name]) for i in (0, 1) for name in live)
    assert live["convolution"].is_contiguous(memory_format=torch.channels_last)
