"""Folding and filling: exact inverses, in every dimension; a network at any size is itself where the size divides."""

import pytest
import torch
import torch.nn.functional as F

from sfumato.networks.dit import DiT
from sfumato.networks.shapes import cut, filled, folded, unfolded
from sfumato.networks.unet import UNet

SHAPES = {1: (2, 3, 12), 2: (2, 3, 8, 12), 3: (2, 3, 4, 8, 12)}


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_unfolding_is_the_inverse_of_folding(dims, patch):
    x = torch.randn(SHAPES[dims])
    h = folded(x, patch)
    assert h.shape == (2, 3 * patch**dims, *(side // patch for side in x.shape[2:]))
    assert torch.equal(unfolded(h, patch), x)


def test_folding_in_any_dimension_is_the_pixel_unshuffle_of_two():
    x = torch.randn(2, 3, 8, 12)
    deep = x[..., None].expand(-1, -1, -1, -1, 4)  # a volume that is the same along its last side
    h = folded(deep, 2).unflatten(1, (3, 4, 2))
    assert torch.equal(h[:, :, :, 0].flatten(1, 2)[..., 0], F.pixel_unshuffle(x, 2))
    assert torch.equal(h[..., 0], h[..., 1]) and torch.equal(h[:, :, :, 0], h[:, :, :, 1])


@pytest.mark.parametrize("dims", SHAPES)
def test_what_is_filled_up_repeats_the_end_and_is_cut_again(dims):
    x = torch.randn(2, 3, *[5, 7, 9][:dims])
    full = filled(x, 4)
    assert full.shape[2:] == tuple([8, 8, 12][:dims]) and torch.equal(cut(full, x.shape[2:]), x)
    assert torch.equal(full[..., -1], full[..., x.shape[-1] - 1])
    assert filled(full, 4) is full


@pytest.mark.parametrize("dims", SHAPES)
def test_a_unet_takes_any_sides_and_sees_the_filled_up_x(dims):
    torch.manual_seed(0)
    net = UNet(2, channels=8, multipliers=(1, 2), blocks=1, attention_level=None, groups=4, dims=dims, patch=2)
    torch.nn.init.normal_(net.head.weight)
    x, t = torch.randn(2, 2, *[6, 7, 9][:dims]), torch.tensor([10.0, 500.0])
    with torch.no_grad():
        assert torch.equal(net(x, t), cut(net(filled(x, 4), t), x.shape[2:]))


@pytest.mark.parametrize("sides", [(14,), (8, 13), (4, 6, 5)])
def test_a_dit_takes_signals_pictures_and_volumes_of_any_sides(sides):
    torch.manual_seed(0)
    net = DiT(in_channels=2, size=sides, patch=4, width=24, depth=1, heads=2)
    torch.nn.init.normal_(net.head.weight)
    x, t = torch.randn(2, 2, *sides), torch.tensor([10.0, 500.0])
    with torch.no_grad():
        y = net(x, t)
        moved = net(x.roll(4, -1), t)
    assert y.shape == x.shape and not torch.allclose(y.roll(4, -1), moved)  # positions are seen
