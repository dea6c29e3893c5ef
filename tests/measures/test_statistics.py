"""Statistics of pictures have their closed forms, and the comparison finds what was changed."""

import pytest
import torch

from sfumato.codecs.pixels import Pixels
from sfumato.errors import UserError
from sfumato.measures import statistics as module
from sfumato.measures.statistics import compare, compared, statistics


def noise(n, h=8, w=9, c=3, seed=0, low=0, high=256):
    return torch.randint(low, high, (n, h, w, c), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def constant(*colour):
    return torch.tensor(colour, dtype=torch.uint8).expand(1, 8, 9, len(colour))


def told(pictures):
    """The statistics of uint8 pictures (N, H, W, C)."""
    _, height, width, channels = pictures.shape
    return statistics(Pixels((width, height), channels), pictures.numpy())


def test_a_picture_of_one_colour_has_no_contrast_and_its_own_brightness():
    found = told(constant(200, 100, 50))
    assert found["brightness"].item() == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert found["sharpness"].item() == pytest.approx(0) and found["contrast"].item() == pytest.approx(0)
    assert found["colourfulness"].item() == pytest.approx(0.3 * (100**2 + 100**2) ** 0.5)
    assert told(constant(90, 90, 90))["colourfulness"].item() == pytest.approx(0)
    assert set(told(constant(90))) == {"sharpness", "brightness", "contrast"}


def test_a_chessboard_has_the_sharpness_of_its_closed_form():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 255
    found = told(board[None, :, :, None].to(torch.uint8))
    assert found["sharpness"].item() == pytest.approx((4 * 255) ** 2)
    assert found["contrast"].item() == pytest.approx(255 / 2)


def test_the_laplacian_is_that_of_scipy():
    from scipy.ndimage import laplace

    pictures = noise(3, c=1)
    expected = [laplace(picture[..., 0].double().numpy())[1:-1, 1:-1].var() for picture in pictures]
    assert told(pictures)["sharpness"].tolist() == pytest.approx(expected)


def test_shades_are_sharper_than_their_mean_and_parts_change_nothing(monkeypatch):
    sharp = noise(10)
    blurred = ((sharp[:, 1:].int() + sharp[:, :-1].int()) // 2).to(torch.uint8)
    assert (told(blurred)["sharpness"] < told(sharp)["sharpness"]).all()
    whole = told(sharp)
    monkeypatch.setattr(module, "PICTURES", 3)
    for name, values in told(sharp).items():
        torch.testing.assert_close(values, whole[name])


def test_what_was_changed_is_found_and_what_was_not_is_not():
    real, drawn = noise(60, low=20, high=200), noise(50, seed=1, low=30, high=210)  # 10 levels brighter
    found = compared(*map(told, (real, drawn)), seed=0)
    bright, contrast = found["brightness"], found["contrast"]
    assert bright.difference.interval.low is not None and bright.difference.interval.high is not None
    assert bright.difference.interval.low < 10 < bright.difference.interval.high
    assert bright.difference.p is not None and bright.difference.p < 1e-6
    assert bright.difference.interval.mean == pytest.approx(bright.drawn.mean - bright.real.mean)
    assert bright.distance.low is not None and 8 < bright.distance.low < bright.distance.mean
    assert bright.distance.mean == pytest.approx(bright.difference.interval.mean, rel=0.01)  # one is above the other
    assert contrast.difference.p is not None and contrast.difference.p > 0.05


def test_the_distance_sees_a_spread_that_the_mean_does_not():
    source = torch.Generator().manual_seed(0)
    a, b = (scale * torch.randn(400, generator=source, dtype=torch.float64) for scale in (1, 3))
    found = compare(a, b, seed=0)
    assert found.difference.p is not None and found.difference.p > 0.05
    assert found.distance.low is not None and found.distance.low > 1
    assert found.distance.mean == pytest.approx(2 * (2 / torch.pi) ** 0.5, rel=0.15)  # E |3 z - z|


def test_the_interval_of_the_distance_holds_the_mean_over_other_pictures():
    source = torch.Generator().manual_seed(0)
    found = [
        compare(
            torch.randn(60, generator=source, dtype=torch.float64),
            0.5 + 2 * torch.randn(70, generator=source, dtype=torch.float64),
            seed=i,
        ).distance
        for i in range(100)
    ]
    mean = sum(one.mean for one in found) / len(found)
    assert (
        1 <= sum(not one.low < mean < one.high for one in found if one.low is not None and one.high is not None) <= 12
    )


def test_too_few_pictures_are_told():
    with pytest.raises(UserError, match="7 pictures are too few"):
        compared(*map(told, (noise(7), noise(20))), seed=0)
