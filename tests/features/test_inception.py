"""The Inception of the published FID: its parts by their equations, its shape as published, its weights by the file."""

import hashlib
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from sfumato.codecs.pixels import Pixels
from sfumato.errors import UserError
from sfumato.features import inception as module
from sfumato.features.inception import Convolution, E, Inception, average, inception, maximum, name_of, resize
from sfumato.features.spaces import NetworkFeatures, photographed

SEEN = partial(photographed, Pixels(8))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Random weights of the right shapes under which no feature dies."""
    g = torch.Generator().manual_seed(0)
    found = {}
    for name, value in Inception().state_dict().items():
        if value.ndim == 4:
            found[name] = torch.randn(value.shape, generator=g) * (2 / value[0].numel()) ** 0.5
        elif value.is_floating_point():
            found[name] = torch.rand(value.shape, generator=g) + 0.5
            if name.endswith(("running_mean", "bn.bias")):
                found[name] -= 0.8
    return found


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(weights, path)
    return path


def test_it_has_as_many_weights_as_keras_counts_but_for_the_scales_and_eight_classes():
    keras, scales = 23_817_352, 17_216  # keras.applications.InceptionV3: trainable weights, of which BN has no scales
    assert sum(weight.numel() for weight in Inception().parameters()) == keras + scales + 8 * (2048 + 1)


def test_the_sizes_of_its_stages_are_those_of_the_paper():
    """Szegedy et al. 2016, table 1."""
    network, seen = Inception().eval(), {}

    def hook(name: str):
        return lambda part, inputs, output: seen.update({name: tuple(output.shape[1:])})

    for name, part in network.named_children():
        part.register_forward_hook(hook(name))
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 2048)
    assert seen["Conv2d_1a_3x3"] == (32, 149, 149) and seen["Conv2d_2b_3x3"] == (64, 147, 147)
    assert seen["Mixed_5d"] == (288, 35, 35) and seen["Mixed_6a"] == seen["Mixed_6e"] == (768, 17, 17)
    assert seen["Mixed_7a"] == (1280, 8, 8) and seen["Mixed_7c"] == (2048, 8, 8)


def test_a_convolution_is_normalised_by_running_statistics_with_the_eps_of_tensorflow():
    torch.manual_seed(0)
    layer, x = Convolution(2, 3, 3, stride=2), torch.randn(1, 2, 7, 7)
    for value in (layer.bn.weight, layer.bn.bias, layer.bn.running_mean, layer.bn.running_var):
        assert value is not None
        value.data.uniform_(0.01, 0.1)
    with torch.inference_mode():
        found, raw = layer.eval()(x), F.conv2d(x, layer.conv.weight, stride=2)
    bn = [value[:, None, None] for value in (layer.bn.weight, layer.bn.bias)]
    mean, variance = (layer.bn.get_buffer(name)[:, None, None] for name in ("running_mean", "running_var"))
    torch.testing.assert_close(found, ((raw - mean) / (variance + 0.001).sqrt() * bn[0] + bn[1]).relu())


def test_average_pooling_leaves_the_padding_out_and_only_the_last_block_takes_the_maximum():
    torch.testing.assert_close(average(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))
    spike = torch.zeros(1, 1, 5, 5)
    spike[..., 2, 2] = 9
    assert average(spike)[0, 0, 1:4, 1:4].eq(1).all() and maximum(spike)[0, 0, 1:4, 1:4].eq(9).all()
    blocks = {name: part for name, part in Inception().named_children() if isinstance(part, E)}
    assert {name: part.pool for name, part in blocks.items()} == {"Mixed_7b": average, "Mixed_7c": maximum}


def test_resizing_is_that_of_tensorflow_1():
    x = torch.rand(1, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize(x, 3)[..., 0], x[..., 0])  # sides of other lengths
    square = x[..., :3]
    assert torch.equal(resize(square, 3), square)

    twice = resize(square, 6)  # even pixels are the old ones, odd ones lie half way; the last is repeated
    torch.testing.assert_close(twice[..., ::2, ::2], square)
    torch.testing.assert_close(twice[..., ::2, 1:5:2], (square[..., :2] + square[..., 1:]) / 2)
    torch.testing.assert_close(twice[..., ::2, 5], square[..., 2])
    torch.testing.assert_close(resize(twice, 3), square)  # without antialiasing every second pixel is left out
    centred = F.interpolate(square, (6, 6), mode="bilinear")  # PyTorch puts the corners elsewhere
    assert not torch.allclose(twice, centred, atol=1e-2)


def test_features_do_not_depend_on_the_batch_or_on_the_kind_of_file(weights, file, tmp_path):
    save_file(weights, tmp_path / "weights.safetensors")
    g = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8, generator=g).numpy()
    space = NetworkFeatures("inception", inception(file), SEEN)
    other = NetworkFeatures("inception", inception(tmp_path / "weights.safetensors"), SEEN)
    assert space.sha256 == other.sha256
    together, alone = space(pictures), other(pictures[1:])
    torch.testing.assert_close(alone, together[1:], rtol=1e-5, atol=1e-5)
    assert together.std() > 0.1 and not torch.allclose(together[0], together[1])


def test_only_the_published_file_has_the_name_of_inception(tmp_path, monkeypatch):
    own = tmp_path / "own.pth"
    own.write_bytes(b"own")
    assert name_of(own) == "inception with the weights of own.pth"
    monkeypatch.setattr(module, "PUBLISHED", hashlib.sha256(b"own").hexdigest()[:8])
    assert name_of(own) == "inception"


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


def test_another_networks_weights_are_refused_with_the_first_difference_and_the_fix(weights, tmp_path):
    path = tmp_path / "torchvision.pth"
    for given, words in [
        (
            weights | {"fc.weight": torch.zeros(1000, 2048)},
            r"1 tensors differ, first fc.weight, which is \(1000, 2048\)",
        ),
        (weights | {"AuxLogits.fc.bias": torch.zeros(3)}, "first AuxLogits.fc.bias, .* should be absent"),
        ({n: w for n, w in weights.items() if n != "fc.bias"}, "first fc.bias, which is missing"),
        ({"state_dict": weights}, "first Conv2d_1a_3x3.bn.bias, which is missing"),
        ([1, 2], "first Conv2d_1a_3x3.bn.bias, which is missing"),
    ]:
        torch.save(given, path)
        with pytest.raises(UserError, match=words) as caught:
            inception(path)
        assert "pt_inception-2015-12-05-6726825d.pth" in caught.value.fix


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_damaged_missing_or_harmful_file_is_refused_and_nothing_in_it_is_run(file, tmp_path, name, capsys):
    path = tmp_path / name
    for content in (None, b"", b"no weights", file.read_bytes()[:10_000], pickle.dumps(Harmful(), protocol=2)):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read") as caught:
            inception(path)
        assert "pytorch-fid" in caught.value.fix
    assert "run" not in capsys.readouterr().out
