"""The networks that `gpu.py` measures, and networks of the same sizes by `diffusers`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.config import load_recipe
from sfumato.model import Model
from sfumato.networks import UNet
from sfumato.networks.dit import DiT

S: dict[str, Any] = {"channels": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention_level": 1}
C: dict[str, Any] = {
    "channels": 128,
    "multipliers": (1, 2, 2, 2),
    "blocks": 2,
    "attention_level": 1,
}  # DDPM's for CIFAR-10
D: dict[str, Any] = {"patch": 2, "width": 384, "depth": 12, "heads": 6}  # DiT-S/2
TINY: dict[str, Any] = {"channels": 32, "multipliers": (1, 1), "blocks": 1, "attention_level": 1}
TINY_D: dict[str, Any] = {"patch": 4, "width": 16, "depth": 1, "heads": 2}


@dataclass(frozen=True)
class Network:
    """A network and its peer, both new; they are called with pictures (B, 3, side, side), times (B,) and ours, where
    `vector` is not 0, with a condition (B, vector)."""

    ours: Callable[[], nn.Module]
    peer: Callable[[], nn.Module]
    side: int
    vector: int = 0


def networks(tiny: bool) -> dict[str, Network]:
    """S, C, T and D by name; tiny ones only show that all runs."""
    side, s, c, d = (8, TINY, TINY, TINY_D) if tiny else (32, S, C, D)
    few = ["network.channels=32", "network.multipliers=[1,1]", "network.blocks=1"] if tiny else []
    text = load_recipe("emoji", [*few, f"codec.size={side}"])
    shared = text.network.model_dump(include={"channels", "multipliers", "blocks", "attention_level", "scale_shift"})
    return {
        "S": Network(lambda: UNet(3, **s), lambda: Peer(unet(3, side, **s)), side),
        "C": Network(lambda: UNet(3, **c), lambda: Peer(unet(3, side, **c)), side),
        "T": Network(
            lambda: Model.build(text).denoiser.network,
            lambda: Shuffled(Peer(unet(12, side // 2, **shared))),
            side,
            text.conditions["text"].model_dump()["width"],
        ),
        "D": Network(lambda: DiT(3, side, **d), lambda: Transformer(dit(side, **d)), side),
    }


class Peer(nn.Module):
    """A U-Net of `diffusers` as (x, t) -> prediction."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t, return_dict=False)[0]


class Transformer(Peer):
    """Their transformer, which must be told a class and counts times in whole numbers."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t.long(), torch.zeros_like(t, dtype=torch.long), return_dict=False)[0]


class Shuffled(Peer):
    """A peer between an unshuffling and a shuffling of pixels, as our patches of 2."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return F.pixel_shuffle(self.network(F.pixel_unshuffle(x, 2), t), 2)


def unet(
    pictures: int,
    side: int,
    channels: int,
    multipliers: Sequence[int],
    blocks: int,
    attention_level: int | None,
    scale_shift: bool = False,
) -> nn.Module:
    """The U-Net of `diffusers` with the sizes of ours, for (B, pictures, side, side)."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    kinds = ["Attn" if level == attention_level else "" for level in range(len(multipliers))]
    return UNet2DModel(
        sample_size=side,
        in_channels=pictures,
        out_channels=pictures,
        block_out_channels=tuple(channels * multiplier for multiplier in multipliers),
        layers_per_block=blocks,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=None,  # one head
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
    )


def dit(side: int, patch: int, width: int, depth: int, heads: int) -> nn.Module:
    """The transformer of `diffusers` with the sizes of ours."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=3,
        out_channels=3,
        num_layers=depth,
        attention_bias=True,
        sample_size=side,
        patch_size=patch,
    )
