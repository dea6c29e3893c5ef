"""The U-Net has the structure that it is said to have, and its conditions do what they promise."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfumato.networks import UNet
from sfumato.networks.unet import Attention, ResBlock

SMALL: dict[str, Any] = {"channels": 16, "multipliers": (1, 2), "groups": 4, "blocks": 1}


def inputs(network: UNet, batch: int = 2, side: int = 16) -> dict[str, torch.Tensor]:
    """Something random for every input that `network` has."""
    values = {"x": torch.randn(batch, 3, *[side] * network.dims), "time": torch.rand(batch) * 1000}
    if network.embed.vector is not None:
        values["vector"] = torch.randn(batch, network.embed.vector.in_features)
    if network.context_dim:
        values["context"] = torch.randn(batch, 5, network.context_dim)

    return values


def test_the_cifar10_configuration_has_the_parameters_of_ddpm():
    network = UNet(3, channels=128, multipliers=(1, 2, 2, 2), attention_level=1)

    assert sum(parameter.numel() for parameter in network.parameters()) == 35_746_307


def test_the_structure_is_that_of_ddpm():
    network = UNet(3, channels=128, multipliers=(1, 2, 2, 2), attention_level=1)
    widths = [128, 256, 256, 256]

    def inputs_and_outputs(block: nn.Module) -> tuple[int, int]:
        assert isinstance(block, ResBlock)
        return block.conv1.in_channels, block.conv2.out_channels

    # Encoder: two residual blocks a stage, then a convolution of stride 2, except in the last stage.
    assert [len(stage.blocks) for stage in network.encoder] == [2, 2, 2, 2]
    assert [inputs_and_outputs(stage.blocks[-1])[1] for stage in network.encoder] == widths
    for stage in network.encoder[:-1]:
        assert isinstance(stage.resample, nn.Conv2d)
        assert stage.resample.stride == (2, 2)
    assert network.encoder[-1].resample is None

    # Bottleneck: residual block, attention, residual block.
    assert len(network.bottleneck.blocks) == 2
    assert isinstance(network.bottleneck_attention, Attention)

    # Decoder: three residual blocks, then nearest x2 and a 3x3 convolution, except at full resolution.
    assert [len(stage.blocks) for stage in network.decoder] == [3, 3, 3, 3]
    assert [inputs_and_outputs(stage.blocks[-1])[1] for stage in network.decoder] == widths[::-1]
    for stage in network.decoder[:-1]:
        assert isinstance(stage.resample, nn.Sequential)
        upsample, convolution = stage.resample
        assert isinstance(upsample, nn.Upsample)
        assert isinstance(convolution, nn.Conv2d)
        assert (upsample.mode, upsample.scale_factor) == ("nearest", 2)
        assert (convolution.kernel_size, convolution.stride) == ((3, 3), (1, 1))
    assert network.decoder[-1].resample is None

    # Skip connections: what the stem, the blocks and the strided convolutions return, taken in reverse.
    below = [256, 256, 256, 256, 256, 256, 256, 256, 256, 256, 128, 128]
    skips = [256, 256, 256, 256, 256, 256, 256, 256, 128, 128, 128, 128]
    joined = [inputs_and_outputs(block)[0] for stage in network.decoder for block in stage.blocks]
    assert joined == [b + s for b, s in zip(below, skips, strict=True)]

    # Self-attention after each residual block of level 1, and nowhere else.
    assert [len(stage.attentions) for stage in network.encoder] == [0, 2, 0, 0]
    assert [len(stage.attentions) for stage in network.decoder] == [0, 0, 3, 0]


def test_attention_sees_the_resolution_of_its_level_and_of_the_bottleneck():
    network = UNet(channels=16, multipliers=(1, 2, 2), groups=4, blocks=1, attention_level=1)
    seen = []
    for module in network.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape[2:])))

    network(torch.randn(1, 3, 32, 32), torch.zeros(1))

    assert seen == [(16, 16), (8, 8), (16, 16), (16, 16)]


def test_time_shifts_of_all_blocks_are_one_matrix_product():
    network = UNet(**SMALL)
    blocks = [module for module in network.modules() if isinstance(module, ResBlock)]

    assert not any(isinstance(module, nn.Linear) for block in blocks for module in block.modules())
    assert network.tables.out_features == sum(block.conv1.out_channels for block in blocks)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_new_network_returns_zeros_of_the_shape_of_its_input(dims):
    network = UNet(**SMALL, dims=dims, context_dim=6, vector_dim=7, scale_shift=True, vector_map=2)
    values = inputs(network, side=8)

    out = network(**values)

    assert out.shape == values["x"].shape
    assert not out.any()


def test_a_new_residual_block_and_a_new_attention_are_the_identity():
    x = torch.randn(2, 8, 4, 4)

    assert torch.equal(ResBlock(8, 8, dims=2, dropout=0.0, groups=4)(x, torch.randn(2, 8)), x)
    assert torch.equal(Attention(8, heads=2, context_dim=6, groups=4)(x, torch.randn(2, 3, 6), None), x)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("more", [{}, {"scale_shift": True, "vector_map": 2}])
def test_gradients_reach_every_parameter(dims, more, wake):
    network = wake(UNet(**SMALL, dims=dims, context_dim=6, vector_dim=7, **more))

    network(**inputs(network, side=8)).square().sum().backward()

    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("dims", [1, 2])
def test_equal_slices_are_treated_as_one_slice_is_in_a_dimension_less(dims, wake):
    # Kernels whose middle slice along the new axis is the lower network's, and zero elsewhere, cannot see along that
    # axis. Means over equal slices are the slice's own, and so is attention over equal keys and values.
    low = wake(UNet(**SMALL, dims=dims))
    high = UNet(**SMALL, dims=dims + 1)
    state = high.state_dict()
    for name, value in low.state_dict().items():
        if state[name].shape != value.shape:
            state[name].zero_().select(2, state[name].shape[2] // 2).copy_(value)
        else:
            state[name].copy_(value)
    values = inputs(low, side=8)

    expected = low(**values)
    out = high(values["x"].unsqueeze(2).repeat_interleave(8, dim=2), values["time"])

    torch.testing.assert_close(out, expected.unsqueeze(2).expand_as(out), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("patch", [2, 4])
def test_a_patch_network_is_the_plain_network_on_unshuffled_pictures(patch, wake):
    patched = wake(UNet(**SMALL, patch=patch))
    plain = UNet(3 * patch**2, **SMALL)
    plain.load_state_dict(patched.state_dict())
    x, time = torch.randn(2, 3, 32, 32), torch.rand(2) * 1000

    expected = F.pixel_shuffle(plain(F.pixel_unshuffle(x, patch), time), patch)

    torch.testing.assert_close(patched(x, time), expected)


def test_learned_variance_doubles_the_channels():
    assert UNet(**SMALL, learned_variance=True, patch=2)(torch.randn(1, 3, 8, 8), torch.zeros(1)).shape == (1, 6, 8, 8)


def test_a_vector_map_says_where_and_shifts_alone_do_not(wake):
    # Under circular padding everything commutes with moving the picture, except what was painted at a place.
    for side, moves in ((0, True), (4, False)):
        network = wake(UNet(**SMALL, vector_dim=7, vector_map=side))
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.padding_mode, module._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
        values = inputs(network)
        moved = values | {"x": values["x"].roll(8, dims=2)}

        same = torch.allclose(network(**moved), network(**values).roll(8, dims=2), atol=1e-4)

        assert same is moves


def test_the_vector_map_is_enlarged_to_any_size_and_painted_before_everything(wake):
    network = wake(UNet(**SMALL, vector_dim=7, vector_map=2))
    values = inputs(network, batch=1, side=8)
    seen = []
    network.encoder[0].blocks[0].register_forward_hook(lambda _, args, __: seen.append(args[0]))

    network(**values)
    assert network.map is not None
    small = network.map(F.silu(values["vector"])).reshape(1, 16, 2, 2)

    # Bilinear enlargement keeps the values of the corners.
    painted = seen[0] - network.stem(values["x"])
    torch.testing.assert_close(painted[:, :, ::7, ::7], small, atol=1e-5, rtol=1e-5)


def test_without_a_vector_nothing_is_painted(wake):
    network = wake(UNet(**SMALL, vector_dim=7, vector_map=2))
    values = inputs(network)
    out = network(values["x"], values["time"])
    assert network.map is not None
    nn.init.zeros_(network.map.weight)
    nn.init.zeros_(network.map.bias)

    assert torch.equal(network(values["x"], values["time"]), out)


def test_masked_tokens_change_nothing(wake):
    network = wake(UNet(**SMALL, context_dim=6))
    values = inputs(network)
    mask = torch.tensor([[True, True, False, False, False], [True, False, True, True, False]])
    other = torch.where(mask[..., None], values["context"], 100 * torch.randn(2, 5, 6))

    out = network(**values, context_mask=mask)

    assert torch.equal(network(**values | {"context": other}, context_mask=mask), out)
    assert not torch.allclose(network(**values), out, atol=1e-3)


def test_a_context_that_is_masked_throughout_is_no_context(wake):
    network = wake(UNet(**SMALL, context_dim=6))
    values = inputs(network)
    mask = torch.zeros(2, 5, dtype=torch.bool)

    out = network(**values, context_mask=mask)

    torch.testing.assert_close(out, network(values["x"], values["time"]), atol=1e-5, rtol=1e-5)


def test_time_vector_and_context_all_matter(wake):
    network = wake(UNet(**SMALL, context_dim=6, vector_dim=7))
    values = inputs(network)
    out = network(**values)

    for name in ("time", "vector", "context"):
        changed = network(**values | {name: values[name].flip(0)})
        assert (changed - out).abs().max() > 1e-2, name


def test_a_picture_does_not_depend_on_its_batch(wake):
    network = wake(UNet(**SMALL, context_dim=6, vector_dim=7))
    values = inputs(network, batch=5)

    alone = network(**{name: value[2:3] for name, value in values.items()})

    torch.testing.assert_close(alone, network(**values)[2:3], atol=1e-5, rtol=1e-5)


def test_memory_format_does_not_change_the_result(wake):
    network = wake(UNet(**SMALL, context_dim=6))
    values = inputs(network)
    expected = network(**values)

    last = network.to(memory_format=torch.channels_last)(**values)

    # float32 convolutions sum in another order: errors of 1e-6 relative, through some thirty layers.
    torch.testing.assert_close(last, expected, atol=1e-4, rtol=1e-4)


def test_sums_in_place_leave_input_and_gradient_alone(wake):
    network = wake(UNet(**SMALL, context_dim=6))
    values = inputs(network)
    before = {name: value.clone() for name, value in values.items()}
    expected = network(**values)

    with torch.inference_mode():
        out = network(**values)

    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(values[name], before[name]) for name in values)


def test_gradient_agrees_with_differences(wake):
    network = wake(UNet(**SMALL, context_dim=6))
    values = inputs(network, batch=1)
    direction = torch.randn_like(values["x"])
    direction /= direction.norm()
    x = values.pop("x").requires_grad_()

    (gradient,) = torch.autograd.grad(network(x, **values).mean(), x)
    slope = (gradient * direction).sum()
    with torch.no_grad():
        ends = [network(x + h * direction, **values).mean() for h in (0.1, -0.1)]

    torch.testing.assert_close((ends[0] - ends[1]) / 0.2, slope, rtol=2e-2, atol=1e-6)


def test_autocast_to_bfloat16_stays_near_float32(wake):
    network = wake(UNet(**SMALL, context_dim=6, vector_dim=7)).to(memory_format=torch.channels_last)
    values = inputs(network)
    expected = network(**values)

    with torch.autocast("cpu", torch.bfloat16):
        out = network(**values)

    # bfloat16 rounds to 2^-9 relative; a few dozen roundings add like a random walk.
    assert out.dtype == torch.bfloat16
    assert (out - expected).norm() / expected.norm() < 2e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": 4}, "dims = 4: must be 1"),
        ({"patch": 3}, "patch = 3: must be 1"),
        ({"multipliers": ()}, r"multipliers = \(\): give one"),
        ({"multipliers": (1, 0)}, r"multipliers = \(1, 0\)"),
        ({"blocks": 0}, "blocks = 0: an encoder stage needs"),
        ({"attention_level": 2}, "attention_level = 2: must be a stage, 0 ... 1"),
        ({"attention_level": -1}, "attention_level = -1"),
        ({"channels": 18}, "channels = 18: must be a multiple of groups = 4"),
        ({"heads": 5}, "heads = 5: must divide the width 32"),
    ],
)
def test_settings_that_make_no_network_are_refused_with_the_fix(settings, message):
    with pytest.raises(ValueError, match=message):
        UNet(**SMALL | settings)


def test_inputs_that_do_not_fit_are_refused_with_the_fix():
    network, time = UNet(**SMALL, patch=2), torch.zeros(1)

    with pytest.raises(ValueError, match="a 2-D U-Net takes"):
        network(torch.randn(1, 3, 8), time)
    with pytest.raises(ValueError, match="context_dim = 0"):
        network(torch.randn(1, 3, 8, 8), time, context=torch.randn(1, 2, 6))
    with pytest.raises(ValueError, match="vector_dim = 0"):
        network(torch.randn(1, 3, 8, 8), time, vector=torch.randn(1, 2))
