"""Conditions that are planes beside x: masks and smaller versions, in one to three dimensions and at any size."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sfumato.codecs.arrays import Arrays
from sfumato.conditioning.conditioners import Conditioners
from sfumato.conditioning.planes import MaskConditioner, PlanesConditioner, SmallerConditioner, fitted, known_by
from sfumato.conditioning.values import Planes, augmented, record_of, words_of
from sfumato.diffusion.denoisers import Denoiser, x
from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import Flow
from sfumato.errors import UserError
from sfumato.keyed import generator

SHAPES = [(2, 24), (3, 16, 24), (1, 8, 12, 16)]
NO_DATA: Any = None


def conditioners(shape: tuple[int, ...]) -> list[PlanesConditioner]:
    return [MaskConditioner(shape, "mixed"), SmallerConditioner(shape, 4, 0.3)]


def x_0(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=generator("x")) * 2 - 1


@pytest.mark.parametrize("shape", SHAPES)
def test_planes_have_the_sides_of_x_at_its_own_size_and_at_any_other(shape):
    for conditioner in conditioners(shape):
        shown = conditioner.of(NO_DATA, 3, x_0(shape), 0.7)
        for sides in (shape[1:], tuple(2 * side for side in shape[1:]), tuple(side + 4 for side in shape[1:])):
            found = conditioner([shown, None], sides)["planes"]
            assert found.shape == (2, conditioner.planes, *sides)
            assert found.isfinite().all() and found[0].any() and not found[1].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_says_what_is_known_and_hides_the_rest(shape):
    conditioner = MaskConditioner(shape, "mixed")
    given = x_0(shape)
    [planes] = conditioner([conditioner.of(NO_DATA, 0, given, 0.2)])["planes"]
    known = planes[0].bool()
    assert known.any() and not known.all()
    assert torch.equal(planes[1:, known], given[:, known]) and not planes[1:, ~known].any()


@pytest.mark.parametrize("law", ["boxes", "strokes", "halves", "mixed"])
@pytest.mark.parametrize("sides", [(40,), (24, 32), (8, 12, 10)])
def test_every_law_of_masks_hides_a_part_and_no_two_are_alike(law, sides):
    masks = [known_by(law, sides, generator(law, i)) for i in range(40)]
    hidden = torch.stack([1 - mask.float().mean() for mask in masks])
    assert all(mask.shape == sides for mask in masks)
    assert (hidden > 0).all() and 0.1 < hidden.mean() < 0.99
    assert (hidden < 1).all() or len(sides) == 1  # in one dimension, strokes may cover all of it
    assert len({mask.numpy().tobytes() for mask in masks}) > 20


def test_a_half_is_hidden_across_one_axis_by_a_quarter_to_three_quarters():
    for i in range(30):
        known = known_by("halves", (32, 32), generator(i)).float()
        assert (known.std(0).max() == 0) != (known.std(1).max() == 0)
        assert 0.2 < known.mean() < 0.8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", [-1.0, 0.25])
def test_smaller_of_a_constant_is_that_constant(shape, value):
    conditioner = SmallerConditioner(shape, 4, 0.0)
    [planes] = conditioner([conditioner.of(NO_DATA, 0, torch.full(shape, value), 0.4)])["planes"]
    torch.testing.assert_close(planes[:-1], torch.full(shape, value), rtol=0, atol=1e-6)
    torch.testing.assert_close(planes[-1], torch.ones(shape[1:]), rtol=0, atol=1e-6)


def test_smaller_is_the_mean_of_blocks_and_tells_the_noise_on_it():
    conditioner, given = SmallerConditioner((3, 16, 16), 4, 0.5), x_0((3, 16, 16))
    means = given.unflatten(1, (4, 4)).unflatten(3, (4, 4)).mean((2, 4))
    shown = [conditioner.of(NO_DATA, i, given, 0.1 + i / 1000) for i in range(200)]
    levels, errors = [], []
    for value in shown:
        assert isinstance(value, Planes) and value.x.shape == (4, 4, 4)
        levels.append(1 - value.x[3, 0, 0])
        errors.append((value.x[:3] - means).square().mean())
    level, error = torch.stack(levels), torch.stack(errors)
    assert 0 <= level.min() < 0.1 and 0.4 < level.max() <= 0.5
    torch.testing.assert_close(error.mean(), level.square().mean(), rtol=0.1, atol=0)


def test_the_mask_and_the_smaller_self_of_a_flipped_picture_are_flipped():
    given = x_0((3, 8, 8))
    for conditioner in (MaskConditioner((3, 8, 8), "halves"), SmallerConditioner((3, 8, 8), 2, 0.0)):
        value = conditioner.of(NO_DATA, 0, given, 0.3)
        assert value is not None
        turned = augmented({"a": value, "b": "text"}, lambda x: x.flip(-1))
        assert turned["b"] == "text"
        [plain, flipped] = conditioner([value, turned["a"]])["planes"]
        torch.testing.assert_close(flipped, plain.flip(-1))


# --- what a person gives ---------------------------------------------------------------------------------------------


def test_a_transparent_picture_is_a_mask_and_a_file_is_known_by_its_name_and_hash(tmp_path):
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[:, 4:, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "half.png")
    conditioner = MaskConditioner((3, 8, 8), "mixed")
    value = conditioner.normalize(str(tmp_path / "half.png"), "condition mask")
    assert isinstance(value, Planes) and conditioner.normalize(value) is value
    [planes] = conditioner([value])["planes"]
    assert planes[0].bool().tolist() == [[True] * 4 + [False] * 4] * 8
    torch.testing.assert_close(planes[1:, :, :4], torch.full((3, 8, 4), 200 / 127.5 - 1))
    assert words_of({"mask": value}) == "half.png"
    assert record_of({"mask": value}) == {"mask": {"file": "half.png", "sha256": value.sha256}}
    assert len(value.sha256) == 64


def test_an_image_a_file_and_an_array_of_one_picture_are_one_condition(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    in_x = torch.from_numpy(pixels).movedim(-1, 0) / 127.5 - 1
    np.save(tmp_path / "a.npy", in_x.numpy())
    conditioner = SmallerConditioner((3, 12, 12), 2, 0.0)
    ways = [pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.npy"), in_x, in_x.numpy()]
    first, *others = [conditioner([conditioner.normalize(way)])["planes"] for way in ways]
    for other in others:
        torch.testing.assert_close(other, first)


def test_a_mask_beside_a_picture_hides_what_is_white_in_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    hidden = np.zeros((8, 8), np.uint8)
    hidden[:, 4:] = 255
    Image.fromarray(hidden).save(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", hidden > 0)
    conditioner = MaskConditioner((3, 8, 8), "mixed")
    ways = [
        f"{tmp_path / 'a.png'}:{tmp_path / 'm.png'}", f"{tmp_path / 'a.png'}:{tmp_path / 'm.npy'}",
        (Image.fromarray(pixels), Image.fromarray(hidden)), (pixels, hidden),
    ]  # fmt: skip
    transparent = np.concatenate([pixels, 255 - hidden[..., None]], axis=2)
    [expected] = conditioner([conditioner.normalize(Image.fromarray(transparent))])["planes"]
    assert not expected[1:, :, 4:].any() and expected[0].bool().tolist() == [[True] * 4 + [False] * 4] * 8
    for way in ways:
        assert torch.equal(conditioner([conditioner.normalize(way)])["planes"][0], expected)
    first, second = (conditioner.normalize(way) for way in ways[:2])
    assert isinstance(first, Planes) and isinstance(second, Planes)
    assert record_of({"mask": first})["mask"]["file"] == "a.png:m.png" and first.sha256 != second.sha256
    with pytest.raises(UserError, match=r"the mask has the sides \(4, 4\), and the picture \(8, 8\)"):
        conditioner.normalize((pixels, np.ones((4, 4))))
    with pytest.raises(UserError, match=r"none.png cannot be read"):
        conditioner.normalize(f"{tmp_path / 'a.png'}:{tmp_path / 'none.png'}", "condition mask")


def test_arrays_are_masked_in_their_own_units(tmp_path):
    codec = Arrays((1, 12), "float32", "none")
    row = np.arange(45, 57, dtype=np.float32)
    codec.fit(np.stack([row, row + 3]))
    np.save(tmp_path / "a.npy", row)
    np.save(tmp_path / "m.npy", np.arange(12) > 8)
    value = MaskConditioner((1, 12), "mixed", codec).normalize(f"{tmp_path / 'a.npy'}:{tmp_path / 'm.npy'}")
    assert isinstance(value, Planes) and value.x[0].tolist() == [1.0] * 9 + [0.0] * 3
    torch.testing.assert_close(value.x[1, :9], codec.encode(row[None])[0, 0, :9])


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda p: str(p / "none.png"), ["condition mask: ", "none.png cannot be read"]),
        (lambda p: (p / "a.png").write_bytes(b"no picture") and str(p / "a.png"), ["cannot be read as a picture"]),
        (lambda p: (p / "a.npy").write_bytes(b"\x80\x04K\x01.") and str(p / "a.npy"), ["is not an array"]),
        (lambda p: Image.new("RGB", (8, 8)), ["no transparent part", "erase to transparency"]),
        (lambda p: np.zeros((5, 8, 8), np.float32), ["(5, 8, 8)", "(3, *sides), or (4, *sides)"]),
        (lambda p: np.full((4, 8, 8), np.nan), ["not one of finite numbers"]),
        (lambda p: 3, ["int is no picture"]),
    ],
)
def test_what_is_no_mask_is_refused_with_the_condition_and_the_fix(make, parts, tmp_path):
    with pytest.raises(UserError) as caught:
        MaskConditioner((3, 8, 8), "mixed").normalize(make(tmp_path), "condition mask")
    assert caught.value.message.startswith("condition mask: ")
    for part in parts:
        assert part in str(caught.value)


def test_a_picture_of_other_proportions_is_cut_at_its_centre():
    wide = torch.zeros(1, 4, 12)
    wide[..., 4:8] = 1
    assert torch.equal(fitted(wide, (4, 4)), torch.ones(1, 4, 4))
    assert torch.equal(fitted(wide, (2, 2)), torch.ones(1, 2, 2))
    assert fitted(wide, (8, 8)).shape == (1, 8, 8)


# --- and the network -------------------------------------------------------------------------------------------------


class Showing(nn.Module):
    """Returns the last planes of what it sees, as many as x has channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.seen = channels, torch.zeros(0)

    def forward(self, shown, time):
        self.seen = shown
        return shown[:, -self.channels :]


@pytest.mark.parametrize("shape", SHAPES)
def test_planes_reach_the_network_beside_x_and_unscaled(shape):
    network = Showing(shape[0])
    denoiser = Denoiser(network, Gaussian(Flow()), x)
    conditioner = Conditioners({"mask": MaskConditioner(shape, "boxes")})
    given = x_0(shape)
    condition = conditioner.of(NO_DATA, 0, given, torch.tensor([[0.5, 1.0]]))
    fields = conditioner([condition])
    mean = denoiser(torch.randn(1, *shape), torch.tensor(0.8), **fields)
    assert network.seen.shape == (1, 2 * shape[0] + 1, *shape[1:])
    assert torch.equal(network.seen[:, shape[0] :], fields["planes"])
    known = fields["planes"][0, 0].bool()
    assert torch.equal(mean[0][:, known], given[:, known])  # left alone where it is known
    assert not mean[0][:, ~known].any()
