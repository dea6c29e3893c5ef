"""Activation checkpointing: less memory for a training step, which takes longer (Chen et al. 2016, arXiv:1604.06174).

What a block computes inside is not kept for the gradient, but computed again from the block's input when the gradient
gets there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfumato.networks import dit, unet

BLOCKS = (unet.ResBlock, unet.Attention, dit.Block)


def checkpoint_activations(network: nn.Module) -> None:
    """From now on the blocks of `network` compute twice in a training step; its results and gradients stay the same."""
    for block in network.modules():
        if isinstance(block, BLOCKS) and "forward" not in vars(block):
            block.forward = partial(_forward, block.forward)  # pyright: ignore[reportAttributeAccessIssue]


def _forward(forward: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    return checkpoint(forward, *inputs, use_reentrant=False) if torch.is_grad_enabled() else forward(*inputs)
