"""Features learned on the user's pictures: they recognise what they were taught, and use training pictures alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from sfumato.codecs.arrays import Arrays
from sfumato.codecs.pixels import Pixels
from sfumato.data.dataset import Dataset
from sfumato.errors import UserError
from sfumato.features import learned as module
from sfumato.features.learned import SELF_SUPERVISED, Learned, Views, learned, untrained, vicreg
from sfumato.keyed import generator
from sfumato.report import Silent

SHAPES = ("across", "down", "cross", "square")
SIDE, TRAINING = 12, 240


@dataclass
class Drawn:
    """As much of a data set as is learned from."""

    rows: np.ndarray
    labels: list[int] | None
    classes: tuple[str, ...] = SHAPES
    manifest_hash: str = "drawn"
    index: dict = field(default_factory=dict)


CODEC = Pixels(12, 1)


def drawn(count: int = 400, labelled: bool = True) -> Dataset:
    """Bars, crosses and squares of any brightness at any place, in noise."""
    chance = np.random.default_rng(0)
    pictures = chance.integers(0, 60, (count, SIDE, SIDE, 1), dtype=np.uint8)
    labels = [i % len(SHAPES) for i in range(count)]
    for picture, label in zip(pictures, labels, strict=True):
        y, x = chance.integers(1, SIDE - 6, 2)
        light = chance.integers(120, 256)
        if label in (0, 2):
            picture[y + 2, x : x + 5] = light
        if label in (1, 2):
            picture[y : y + 5, x + 2] = light
        if label == 3:
            picture[y : y + 4, x : x + 4] = light
    return cast(Dataset, Drawn(pictures, labels if labelled else None))


def pixels(data: Dataset, indices: np.ndarray) -> torch.Tensor:
    return CODEC.encode(data.rows[indices])


TRAIN, HELD_OUT = np.arange(TRAINING), np.arange(TRAINING, 400)


def taught(data: Dataset, folder: Path, seed: int = 0, views: int = 1280) -> Learned:
    return learned(data, CODEC, TRAIN, folder, Silent(), seed, views)


def test_held_out_pictures_are_told_apart_by_class(tmp_path):
    data = drawn()
    network = taught(data, tmp_path, views=6400)
    with torch.inference_mode():
        probabilities = network.probabilities(pixels(data, HELD_OUT))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(HELD_OUT)))
    assert (probabilities.argmax(1) == torch.tensor(data.labels)[HELD_OUT]).float().mean() > 0.9


def found_again(network: Learned, x: torch.Tensor) -> float:
    """How often a view of a picture is nearest to another view of it, among those of all pictures."""
    g = generator("found again")
    with torch.inference_mode():
        a, b = (network.trunk(SELF_SUPERVISED(network.prepared(x), g)) - network.centre for _ in range(2))
    a, b = (torch.nn.functional.normalize(z, dim=1) for z in (a, b))
    return (a @ b.T).argmax(1).eq(torch.arange(len(x))).float().mean().item()


def test_views_of_a_held_out_picture_lie_nearer_than_other_pictures_without_any_labels(tmp_path):
    chance = np.random.default_rng(1)
    blobs = np.kron(chance.integers(0, 256, (400, 4, 4, 1)), np.ones((1, 3, 3, 1))).astype(np.uint8)
    data = cast(Dataset, Drawn(blobs, None))
    network, x = taught(data, tmp_path, views=6400), pixels(data, HELD_OUT[:64])
    assert found_again(network, x) > 2 * found_again(untrained(data, CODEC, TRAIN), x)
    with pytest.raises(ValueError, match="no classes"):
        network.probabilities(x)


@pytest.mark.parametrize("labelled", [True, False])
def test_weights_come_of_the_seed_and_the_training_pictures_alone(tmp_path, labelled):
    data = drawn(labelled=labelled)
    other = drawn(labelled=labelled)
    other.rows[TRAINING:] = 255 - other.rows[TRAINING:]
    if other.labels:
        other.labels[TRAINING:] = [0] * (400 - TRAINING)
    torch.manual_seed(1)
    first = taught(data, tmp_path / "a").state_dict()
    torch.manual_seed(2)
    assert all(torch.equal(value, first[name]) for name, value in taught(other, tmp_path / "b").state_dict().items())
    assert not torch.equal(taught(data, tmp_path / "a", seed=1).state_dict()["trunk.0.weight"], first["trunk.0.weight"])

    other.rows[0] = 255 - other.rows[0]
    changed = taught(other, tmp_path / "c").state_dict()
    assert not torch.equal(changed["trunk.0.weight"], first["trunk.0.weight"])


def test_what_is_read_back_gives_the_same_bits_and_is_not_learned_again(tmp_path, monkeypatch):
    data = drawn()
    network, x = taught(data, tmp_path), pixels(data, HELD_OUT)
    monkeypatch.setattr(module, "_descend", lambda *arguments: pytest.fail("learned again"))
    again = taught(data, tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(x), network(x)) and torch.equal(again.probabilities(x), network.probabilities(x))
    with pytest.raises(pytest.fail.Exception, match="learned again"):
        learned(data, CODEC, HELD_OUT, tmp_path, Silent(), 0, 1280)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", flipped),
        ("weights.safetensors", lambda file: file.write_bytes(file.read_bytes()[:100])),
        ("weights.safetensors", Path.unlink),
        ("features.json", lambda file: file.write_text(file.read_text().replace("drawn", "other"))),
        ("features.json", lambda file: file.write_text("{")),
    ],
)
def test_a_damaged_file_is_refused_with_the_fix_and_the_fix_helps(tmp_path, name, damage):
    data = drawn()
    taught(data, tmp_path, views=128)
    (place,) = tmp_path.iterdir()
    damage(place / name)
    with pytest.raises(UserError, match="damaged") as caught:
        taught(data, tmp_path, views=128)
    assert "delete this folder" in caught.value.fix and str(place) in caught.value.message

    for file in place.iterdir():
        file.unlink()
    taught(data, tmp_path, views=128)


@pytest.mark.parametrize("labelled", [True, False])
def test_features_are_centred_with_a_mean_variance_of_one_over_the_training_pictures(tmp_path, labelled):
    data = drawn(labelled=labelled)
    for network in (taught(data, tmp_path), untrained(data, CODEC, TRAIN)):
        with torch.inference_mode():
            found = network(pixels(data, TRAIN))
        assert found.shape == (TRAINING, 128) and found.mean(0).abs().max() < 1e-4
        assert abs(found.var(0, correction=0).mean() - 1) < 1e-4


def test_pictures_that_are_all_the_same_have_finite_features(tmp_path):
    data = cast(Dataset, Drawn(np.full((400, SIDE, SIDE, 1), 7, np.uint8), None))
    network = taught(data, tmp_path)
    with torch.inference_mode():
        assert network(pixels(data, HELD_OUT)).isfinite().all()


def test_pictures_keep_their_size_up_to_64_pixels_and_larger_ones_are_reduced_without_aliasing():
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Learned(3, (64, 64)).prepared(x), x)
    finest = torch.tensor([-1.0, 1.0]).repeat(128).expand(1, 3, 256, 256)
    assert Learned(3, (256, 256)).prepared(finest)[..., 2:-2].abs().max() < 0.02


def test_a_view_is_the_picture_moved_mirrored_and_changed_by_no_more_than_is_said():
    g, x = torch.Generator().manual_seed(0), torch.rand(200, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(Views(0, 0, False, 0, 0)(x, g), x, rtol=0, atol=1e-5)

    mirrored = Views(0, 0, True, 0, 0)(x, g)
    same, turned = ((mirrored - y).abs().amax((1, 2, 3)) < 1e-5 for y in (x, x.flip(-1)))
    assert (same ^ turned).all() and 60 < same.sum() < 140

    ramp = torch.linspace(-1, 1, 64).expand(200, 1, 64, 64)  # the mean tells how far it was moved
    moved = Views(0, 0.1, False, 0, 0)(ramp, g).mean((1, 2, 3))
    assert moved.abs().max() <= 0.2 and moved.std() > 0.08
    assert (Views(0, 0, False, 0, 0.1)(x, g) - x).flatten(1).std(1).max() < 0.12
    assert (Views(0, 0, False, 0.2, 0)(x, g) - x).abs().max() < 0.2 + 0.2 + 2 * 0.2 * 1.2


def test_vicreg_is_nothing_for_equal_decorrelated_views_and_known_for_collapsed_and_shifted_ones():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(64, 8, generator=g, dtype=torch.float64)
    z = torch.linalg.qr(z - z.mean(0))[0] * 64**0.5  # mean 0, covariance 64/63
    assert vicreg(z, z) < 1e-9
    torch.testing.assert_close(vicreg(z, z + 0.2), torch.tensor(25 * 0.04, dtype=torch.float64))
    flat = torch.ones(64, 8, dtype=torch.float64)
    torch.testing.assert_close(vicreg(flat, flat), torch.tensor(25 * 0.99, dtype=torch.float64))
    twice = z[:, :1].repeat(1, 2)  # two entries, each of two covariances (64/63)^2, in both views
    torch.testing.assert_close(vicreg(twice, twice), torch.tensor(2 * (64 / 63) ** 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((2, 30), (30,)),
        ((1, 5000), (1024,)),
        ((3, 7, 90), (5, 64)),
        ((1, 6, 7, 8), (6, 7, 8)),
        ((1, 8, 64, 32), (4, 32, 16)),
    ],
)
def test_features_are_learned_in_one_to_three_dimensions_and_long_sides_are_reduced(tmp_path, shape, seen):
    rows = np.random.default_rng(0).normal(0, 1, (40, *shape)).astype(np.float32)
    codec = Arrays(shape, "float32")
    codec.fit(rows)
    network = learned(cast(Dataset, Drawn(rows, None)), codec, np.arange(30), tmp_path, Silent(), 0, 256)
    with torch.inference_mode():
        x = codec.encode(rows[:5])
        assert network.sides == seen and network.prepared(x).shape == (5, shape[0], *seen)
        assert network(x).shape == (5, 128) and network(x).isfinite().all() and network(x).std(0).max() > 0
