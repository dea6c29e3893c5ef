"""The spaces of features: always two, the same numbers for a picture in any company, and a cache that is not fooled."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.codecs.pixels import Pixels
from sfumato.data.dataset import Dataset
from sfumato.data.preparation import prepare
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.features import learned as learned_features
from sfumato.features import spaces as module
from sfumato.features.learned import Learned
from sfumato.features.spaces import BATCH, LearnedFeatures, NetworkFeatures, features_of, spaces_for
from sfumato.report import Silent

SIZE = 12
CODEC = Pixels(SIZE)


class Heard(Silent):
    """A report that remembers."""

    def __init__(self):
        self.said: list[str] = []
        self.done: list[tuple[str, int, int]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        self.done.append((task, done, total))


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    monkeypatch.setattr(learned_features, "LEAST", 256)
    monkeypatch.setattr(learned_features, "MOST", 256)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    """Forty pictures of dark and light noise, each a class."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    for name, light in (("dark", 60), ("light", 255)):
        (folder / name).mkdir()
        for i in range(20):
            Image.fromarray(chance.integers(0, light, (SIZE, SIZE, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return prepare(open_source(folder), Pictures(SIZE), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def without_packages(monkeypatch):
    monkeypatch.setattr(module, "installed", lambda: False)


def noise(count: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, channels), dtype=np.uint8)


def weighed(channels: int = 3, classes: tuple[str, ...] = ()) -> Learned:
    """A network whose every weight and statistic has a say."""
    torch.manual_seed(0)
    network = Learned(channels, (SIZE, SIZE), classes).eval()
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "bias", "centre")):
            value.normal_(std=0.1)
    return network


def test_there_are_always_two_spaces_and_the_first_tells_the_classes(data, tmp_path, without_packages):
    report = Heard()
    indices = np.arange(30)
    spaces = spaces_for(data, CODEC, indices, tmp_path, report)
    assert [space.name for space in spaces] == ["learned by class", "random convolutions"]
    assert any("no pretrained network is installed" in text for text in report.said)
    assert report.done[-1] == ("learning features by class", 2, 2)

    own = spaces[0]
    assert isinstance(own, LearnedFeatures) and own.classes == ("dark", "light")
    assert own.classify(data.rows).shape == (40, 2)
    assert len({space.sha256 for space in spaces}) == 2
    again = spaces_for(data, CODEC, indices, tmp_path, Heard())
    assert [space.sha256 for space in again] == [space.sha256 for space in spaces]


def test_the_pretrained_space_is_the_second_where_it_is_installed_and_inception_where_it_is_given(
    data, tmp_path, monkeypatch, without_packages
):
    monkeypatch.setattr(module, "inception", lambda file: weighed())
    monkeypatch.setattr(module, "name_of", lambda file: f"inception of {file}")
    monkeypatch.setattr(module, "efficientnet_lite0", weighed)

    def names(*extra: str) -> list[str]:
        return [space.name for space in spaces_for(data, CODEC, np.arange(30), tmp_path, Silent(), extra)]

    assert names("weights.pth") == ["learned by class", "inception of weights.pth"]
    monkeypatch.setattr(module, "installed", lambda: True)
    assert names() == ["learned by class", "efficientnet-lite0"]
    assert names("weights.pth") == ["learned by class", "efficientnet-lite0", "inception of weights.pth"]


def test_a_picture_has_the_same_features_in_any_company():
    space, pictures = NetworkFeatures("some", weighed(), CODEC.encode), noise(2 * BATCH + 3)
    together = space(pictures)
    assert together.dtype == torch.float32 and together.shape == (len(pictures), 128)
    alone = torch.cat([space(pictures[i : i + 1]) for i in range(len(pictures))])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(space(pictures[::-1]).flip(0), together, rtol=0, atol=1e-5)
    torch.testing.assert_close(features_of(space, pictures, Silent()), together, rtol=0, atol=1e-5)


def test_the_hash_is_that_of_weights_statistics_and_preprocessing():
    def hashed(change=lambda network: None) -> str:
        network = weighed()
        with torch.no_grad():
            change(network)
        return NetworkFeatures("some", network, CODEC.encode).sha256

    first = hashed()
    assert hashed() == first
    changed = {
        hashed(lambda network: network.trunk[0].weight[3, 1].neg_()),
        hashed(lambda network: network.trunk[1].running_var[7].mul_(2)),
        hashed(lambda network: network.scale.mul_(2)),
        hashed(lambda network: setattr(network, "preprocessing", "bilinear")),
    }
    assert len(changed) == 4 and first not in changed


class Counted:
    """A space that counts what it is asked: the mean colour of each picture."""

    blind = "It does not see where a colour is."

    def __init__(self, sha256: str = "a"):
        self.name, self.sha256, self.asked = "mean colour", sha256, 0

    def __call__(self, rows: np.ndarray) -> Tensor:
        self.asked += len(rows)
        return torch.from_numpy(rows.mean((1, 2))).float()


def test_features_are_computed_once_for_each_space_and_set_of_pictures(tmp_path):
    space, pictures, report = Counted(), noise(BATCH + 1), Heard()
    first = features_of(space, pictures, report, tmp_path / "cache")
    assert report.done == [("features, mean colour", BATCH, BATCH + 1), ("features, mean colour", BATCH + 1, BATCH + 1)]
    assert torch.equal(features_of(space, pictures, Silent(), tmp_path / "cache"), first)
    assert space.asked == BATCH + 1

    for other_space, others in [
        (Counted("b"), pictures),
        (Counted(), noise(BATCH + 1, seed=1)),
        (Counted(), pictures.reshape(BATCH + 1, SIZE // 2, SIZE * 2, 3)),
    ]:
        found = features_of(other_space, others, Silent(), tmp_path / "cache")
        assert other_space.asked == BATCH + 1 and torch.equal(found, other_space(others))


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-1] + b"\x55"])
def test_a_damaged_file_of_the_cache_is_not_believed_but_made_anew(tmp_path, damage):
    pictures = noise(5)
    first = features_of(Counted(), pictures, Silent(), tmp_path)
    (file,) = tmp_path.iterdir()
    assert np.array_equal(np.load(file, allow_pickle=False), first.numpy())

    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert torch.equal(features_of(Counted(), pictures, Silent(), tmp_path), first)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [content]


@pytest.mark.parametrize(
    "pictures", [noise(2).astype(np.float32), noise(2)[0], noise(0)], ids=["floats", "one picture", "none"]
)
def test_what_is_no_set_of_pictures_is_refused(pictures):
    with pytest.raises(ValueError, match=r"expected uint8|there are no rows"):
        NetworkFeatures("some", weighed(), CODEC.encode)(pictures)


def test_a_network_is_asked_in_evaluation_mode_and_needs_no_gradient(tmp_path, data, without_packages):
    for space in spaces_for(data, CODEC, np.arange(30), tmp_path, Silent()):
        assert isinstance(space, NetworkFeatures | LearnedFeatures)
        assert not any(part.training for part in space.network.modules())
        assert not space(noise(2)).requires_grad
