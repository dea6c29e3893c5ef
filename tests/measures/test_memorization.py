"""Copies are found and counted; a model that has copied nothing is not accused, whatever else is wrong with it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.errors import UserError
from sfumato.measures import memorization as module
from sfumato.measures.memorization import memorization, near_copies, sheet


def normal(count: int, seed: int, width: int = 12) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def real() -> tuple[Tensor, Tensor]:
    """1,000 training and 250 held-out pictures of one law."""
    return normal(1000, 1), normal(250, 2)


def copying(training: Tensor, share: float, count: int = 400) -> Tensor:
    """Fresh draws, of which the first `share` are training pictures with a little noise."""
    drawn = normal(count, 3)
    copied = int(share * count)
    drawn[:copied] = training[:copied] + 0.01 * normal(copied, 4)
    return drawn


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_planted_copies_are_counted(real, share):
    found = memorization(copying(real[0], share), *real, seed=0)
    copies, low, high = found.near_copies.mean, found.near_copies.low, found.near_copies.high
    assert share <= copies <= share + 0.01 and low is not None and high is not None and low < share < high
    assert found.near_copies_p_value < 0.01 and found.expected < 0.005
    assert set(found.nearest.nearness.argsort()[: int(share * 400)].tolist()) == set(range(int(share * 400)))


def test_half_copies_of_all_that_was_trained_on_bring_the_share_to_three_quarters():
    training, held_out = normal(400, 1), normal(400, 2)
    found = memorization(copying(training, 0.5), training, held_out, seed=0)
    assert found.share.low is not None and found.share.high is not None
    assert 0.5 < found.share.low < 0.75 < found.share.high and found.p_value < 1e-3
    assert found.ratio.high is not None and found.ratio.high < 0.9


@pytest.mark.parametrize("scale", [1.0, 0.6, 1.5])  # of the data's law, of a blurred and of a wild model
def test_a_model_that_copies_nothing_has_ratio_one_and_share_one_half(scale):
    wrong = 0
    for seed in range(0, 60, 6):
        drawn = scale * normal(300, seed)
        found = memorization(drawn, normal(600, seed + 1), normal(200, seed + 2), seed)
        assert found.share.low is not None and found.share.high is not None
        assert found.ratio.low is not None and found.ratio.high is not None
        wrong += not found.share.low < 0.5 < found.share.high
        wrong += not found.ratio.low < 1 < found.ratio.high
        assert found.p_value > 0.001 and found.near_copies_p_value > 0.001
        assert found.share.high - found.share.low < 0.5
    assert wrong <= 3  # of 20


def test_a_picture_that_was_trained_on_a_hundred_times_is_a_near_copy_like_any_other(real):
    training = torch.cat([real[0], real[0][:1].expand(100, -1) + 0.01 * normal(100, 7)])
    drawn = normal(200, 3)
    drawn[:10] = real[0][:1] + 0.01 * normal(10, 4)
    found = memorization(drawn, training, real[1], seed=0)
    assert set(found.nearest.nearness.argsort()[:10].tolist()) == set(range(10))
    assert 0.05 <= found.near_copies.mean <= 0.06


def test_the_p_value_of_near_copies_is_uniform_where_there_are_none():
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(200):
        drawn, real = torch.rand(500, generator=generator), torch.rand(120, generator=generator)
        copies, expected, p_value, threshold = near_copies(drawn, real)
        assert threshold == real.min() and expected == 1 / 121 and copies.mean == (drawn <= threshold).double().mean()
        values.append(p_value)
    for level in (0.1, 0.5):
        assert abs(sum(value <= level for value in values) / 200 - level) < 0.1


def test_the_same_seed_gives_the_same_numbers(real):
    drawn = copying(real[0], 0.1)
    first, again, other = (memorization(drawn, *real, seed=seed) for seed in (0, 0, 1))
    assert first.share == again.share and first.ratio == again.ratio
    assert first.share != other.share


def test_held_out_pictures_are_compared_with_others_than_themselves(real):
    found = memorization(normal(100, 3), *real, seed=0)
    others = torch.cdist(real[1], real[1]).fill_diagonal_(torch.inf).topk(10, largest=False).values.mean(1)
    nearness = torch.cdist(real[1], real[0]).min(1).values / others
    assert abs(found.threshold - nearness.min()) < 1e-5


@pytest.mark.parametrize(
    ("sizes", "words"),
    [((49, 200, 50), "49 drawn"), ((50, 200, 49), "49 held-out"), ((50, 60, 61), "60 training pictures are fewer")],
)
def test_too_few_pictures_are_refused(sizes, words):
    with pytest.raises(UserError, match=words):
        memorization(*(normal(size, seed) for seed, size in enumerate(sizes)), seed=0)


def test_the_sheet_shows_the_closest_pairs_with_their_distances(real, monkeypatch):
    training, held_out = real
    drawn = normal(60, 3)
    drawn[[7, 30]] = training[[40, 50]] + torch.tensor([[0.02], [0.01]])
    found = memorization(drawn, training, held_out, seed=0).nearest
    shown = {}
    monkeypatch.setattr(
        module, "labelled_grid", lambda tiles, labels, columns: shown.update(tiles=tiles, labels=labels)
    )
    # a picture of a single colour, its number
    pictures = [np.arange(n)[:, None, None, None].repeat(4, 1).repeat(4, 2).astype(np.uint8) for n in (60, 1000, 250)]
    sheet(pictures[0], pictures[1], pictures[2], found, lambda row: Image.fromarray(row[:, :, 0]), count=2)
    values = [int(np.asarray(tile)[0, 0]) for tile in shown["tiles"]]
    assert values[:2] == [30, 50] and values[3:5] == [7, 40]
    assert values[2] == (held_out - drawn[30]).norm(dim=1).argmin() % 256
    assert shown["labels"][:2] == ["drawn 30", f"training {0.01 * 12**0.5:.3g}"]
