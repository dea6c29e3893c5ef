"""The losses reveal a model that remembers, and not one that knows only the law; intervals keep their promise."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import Flow
from sfumato.errors import UserError
from sfumato.material import Material
from sfumato.measures import membership as module
from sfumato.measures.membership import losses, membership, separation, share_found, standardized
from sfumato.report import Silent

SIDE = 4
LEVELS = (0.5, 1.0)
NETWORK = {"channels": 8, "groups": 4, "multipliers": [1], "attention_level": 0}


class Remembering(nn.Module):
    """E[x_0 | x_t] where the data are exactly the training pictures, all as likely."""

    def __init__(self, training: Tensor):
        super().__init__()
        self.training_pictures = nn.Parameter(training)
        self.process = Gaussian(Flow())

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.process.schedule(t)
        known = self.training_pictures.flatten(1)
        distances = torch.cdist(x_t.flatten(1), alpha.float() * known) ** 2
        weights = torch.softmax(-distances / (2 * sigma.float() ** 2), dim=1)
        return (weights @ known).view_as(x_t)


class Knowing(nn.Module):
    """E[x_0 | x_t] where the data are N(0, 1/4)."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.process = Gaussian(Flow())

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.process.schedule(t)
        return (alpha / 4 / (alpha**2 / 4 + sigma**2)).float() * x_t


@pytest.fixture
def pictures() -> np.ndarray:
    """300 pictures of noise of standard deviation 1/2, uint8."""
    x = torch.randn(300, SIDE, SIDE, 1, generator=torch.Generator().manual_seed(0)) / 2
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


@pytest.fixture
def material(pictures) -> Material:
    data = SimpleNamespace(rows=pictures, captions=[()] * len(pictures))
    return Material(data, np.arange(150), np.arange(150, 300))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def model(tiny, pictures):
    """A function of a denoiser: the model that has it."""

    def build(denoiser: nn.Module):
        built = tiny(data={"path": "pictures", "size": SIDE, "channels": 1}, network=NETWORK)
        built.denoiser = denoiser
        return built

    return build


def normal(count: int, seed: int, mean: float = 0.0) -> Tensor:
    return mean + torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_model_that_remembers_its_pictures_is_told_by_them(model, material, pictures):
    training = model(Knowing()).codec.encode(pictures[:150])
    found = membership(model(Remembering(training)), material, 100, 0, Silent())
    assert found.members == found.others == 100
    for separated in (found.together, found.levels[0.25]):
        assert separated.auc.mean > 0.97 and separated.auc.low is not None and separated.auc.low > 0.9
        assert separated.p_value < 1e-6 and separated.found.mean > 0.8
    assert 0.5 < found.levels[1.0].auc.mean < found.levels[0.5].auc.mean < 1  # much noise hides what they are


def test_a_model_that_knows_only_the_law_tells_nothing(model, material):
    found = membership(model(Knowing()), material, 150, 0, Silent())
    for separated in (found.together, *found.levels.values()):
        assert separated.auc.low is not None and separated.auc.high is not None
        assert separated.auc.low < 0.5 < separated.auc.high and separated.p_value > 0.01
        assert separated.found.mean < 0.1


def test_a_loss_is_that_of_the_definition_and_the_same_in_any_company(model, pictures, monkeypatch):
    judged = model(Knowing())
    x_0 = judged.codec.encode(pictures[:5])
    monkeypatch.setattr(module, "BATCH", 2)
    found = losses(judged, x_0, [{}] * 5, [10, 11, 12, 13, 14], LEVELS, 0, Silent())
    turned = losses(judged, x_0.flip(0), [{}] * 5, [14, 13, 12, 11, 10], LEVELS, 0, Silent())
    torch.testing.assert_close(turned.flip(0), found, rtol=1e-5, atol=0)
    assert not torch.allclose(losses(judged, x_0, [{}] * 5, range(10, 15), LEVELS, 1, Silent()), found)

    monkeypatch.setattr(module, "BATCH", 300)
    x_0 = judged.codec.encode(pictures)
    level = torch.tensor(LEVELS, dtype=torch.float64)
    kept = 1 / (1 + 4 * level**2)  # of x_0 in the posterior mean, which has level x kept of the noise
    exact = (1 - kept) ** 2 * x_0.double().square().mean() + (level * kept) ** 2
    mean = losses(judged, x_0.repeat(4, 1, 1, 1), [{}] * 1200, range(1200), LEVELS, 0, Silent()).mean(0)
    torch.testing.assert_close(mean, exact, rtol=0.03, atol=0)


@pytest.mark.parametrize(("gap", "exact"), [(0.0, 0.5), (1.0, 0.5 * (1 + math.erf(0.5)))])
def test_the_interval_of_the_auc_holds_it_in_95_of_100_cases(gap, exact, monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 2)
    held, surprising = 0, 0
    for seed in range(300):
        found = separation(normal(40, 2 * seed, gap), normal(60, 2 * seed + 1), 0)
        assert found.auc.low is not None and found.auc.high is not None
        held += found.auc.low < exact < found.auc.high
        surprising += found.p_value < 0.05
    assert 0.9 < held / 300 < 0.98
    assert gap or 0.02 < surprising / 300 < 0.09


def test_the_auc_counts_pairs_and_halves_ties():
    members, others = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([2.0, 0.0, 7.0])
    gaps = members[:, None] - others[None]
    assert separation(members, others, 0).auc.mean == pytest.approx(((gaps > 0) + 0.5 * (gaps == 0)).mean().item())
    apart = separation(members + 10, others, 0)
    assert apart.auc.mean == 1 and apart.auc.low is not None and apart.auc.low < 0.1 and apart.p_value == 0


def test_one_of_a_hundred_others_at_most_is_taken_for_a_member():
    others = torch.arange(200.0)
    assert share_found(others, others) == 0.01
    assert share_found(torch.tensor([197.0, 198.0, 199.0, 500.0]), others) == 0.75
    found = separation(normal(2000, 0, 1), normal(2000, 1), 0).found
    exact = 1 - torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(2.3263 - 1)).item()
    assert found.low is not None and found.high is not None and found.low < exact < found.high


def test_levels_count_alike_whatever_their_unit():
    members, others = normal(60, 0).view(20, 3), normal(90, 1).view(30, 3)
    unit = torch.tensor([1.0, 100.0, 0.01])
    for one, other in zip(standardized(members, others), standardized(members * unit, others * unit), strict=True):
        torch.testing.assert_close(one, other)


def test_other_data_and_too_few_pictures_are_refused(model, material):
    judged = model(Knowing())
    with pytest.raises(UserError, match="not the data that the model was trained on"):
        membership(judged, Material(material.data, np.arange(0), np.arange(300)), 100, 0, Silent())
    with pytest.raises(UserError, match="19 pictures of a kind"):
        membership(judged, Material(material.data, np.arange(150), np.arange(150, 169)), 100, 0, Silent())
