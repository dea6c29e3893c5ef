"""With the same weights, the U-Net returns what `diffusers`' U-Net returns: an independent check of all arithmetic.

`benchmarks/unet_speed.py` takes the twin from here, so the timed network is the checked one.
"""

import re

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from sfumato.networks import UNet

# Our name, their name. Two parts have no single counterpart and are cut up below: `tables` (one projection of the time
# embedding for every block) and `qkv`.
NAMES = [
    (r"^stem\.", r"conv_in."),
    (r"^embed\.mlp\.0\.", r"time_embedding.linear_1."),
    (r"^embed\.mlp\.2\.", r"time_embedding.linear_2."),
    (r"^encoder\.(\d)\.resample\.", r"down_blocks.\1.downsamplers.0.conv."),
    (r"^decoder\.(\d)\.resample\.1\.", r"up_blocks.\1.upsamplers.0.conv."),
    (r"^encoder\.", r"down_blocks."),
    (r"^bottleneck\.", r"mid_block."),
    (r"^bottleneck_attention\.", r"mid_block.attentions.0."),
    (r"^decoder\.", r"up_blocks."),
    (r"^norm\.", r"conv_norm_out."),
    (r"^head\.", r"conv_out."),
    (r"\.blocks\.", r".resnets."),
    (r"\.skip\.", r".conv_shortcut."),
    (r"(attentions\.\d)\.norm\.", r"\1.group_norm."),
    (r"\.attention\.out\.", r".to_out.0."),
]


def their_name(name: str) -> str:
    for ours, theirs in NAMES:
        name = re.sub(ours, theirs, name)

    return name


def their_state(network: UNet) -> dict[str, Tensor]:
    """The state of a `UNet` under the names of `UNet2DModel`."""
    state = {}

    for name, value in network.state_dict().items():
        if name.startswith("tables."):
            blocks = [block for block, _ in network.named_modules() if re.search(r"\.blocks\.\d$", block)]
            for block, part in zip(blocks, value.split(network.table_widths), strict=True):
                state[their_name(f"{block}.") + name.replace("tables", "time_emb_proj")] = part
        elif ".attention.qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[their_name(name).replace("attention.qkv", f"to_{letter}")] = part
        else:
            state[their_name(name)] = value

    return state


def twin(
    network: UNet,
    channels: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attention_level: int,
    scale_shift: bool = False,
    in_channels: int = 3,
) -> UNet2DModel:
    """The U-Net of `diffusers` with the shape and the weights of `network`, a `UNet` with those arguments."""
    levels = range(len(multipliers))
    down = tuple("AttnDownBlock2D" if level == attention_level else "DownBlock2D" for level in levels)
    up = tuple("AttnUpBlock2D" if level == attention_level else "UpBlock2D" for level in reversed(levels))

    model = UNet2DModel(
        sample_size=32,
        in_channels=in_channels,
        out_channels=in_channels,
        block_out_channels=tuple(channels * multiplier for multiplier in multipliers),
        layers_per_block=blocks,
        down_block_types=down,
        up_block_types=up,
        attention_head_dim=None,  # one head
        norm_eps=1e-6,
        flip_sin_to_cos=False,  # sines first and rates over half - 1, as in DDPM
        freq_shift=1,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
    )
    model.load_state_dict(their_state(network))

    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention_level": 1},  # DDPM's for CIFAR-10
        {"channels": 32, "multipliers": (1, 2, 3), "blocks": 1, "attention_level": 2},
        {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention_level": 1, "scale_shift": True},
    ],
)
def test_output_and_gradient_agree_with_diffusers(settings, wake):
    network = wake(UNet(3, **settings))
    peer = twin(network, **settings)
    x, time = torch.randn(2, 3, 32, 32), torch.tensor([3.0, 871.0])
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()

    ours, expected = network(mine, time), peer(theirs, time).sample
    gradients = torch.autograd.grad(ours.square().mean(), [mine, network.stem.weight])
    true = torch.autograd.grad(expected.square().mean(), [theirs, peer.conv_in.weight])

    assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in network.parameters())
    assert expected.std() > 0.1  # so that the comparison says something
    assert (ours - expected).abs().max() < 1e-4
    for one, true_one in zip(gradients, true, strict=True):
        assert (one - true_one).norm() < 1e-4 * true_one.norm()
