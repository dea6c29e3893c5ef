"""Activation checkpointing: less memory for a training step, which takes longer (Chen et al. 2016, arXiv:1604.06174).

The inner results of a block are not kept for the gradient, but computed again from the block's input when the gradient
gets there. The networks here call their blocks by `run`, and their attribute `recompute` switches this on.
"""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint


class Recomputing(Protocol):
    """A network that calls its blocks by `run`."""

    recompute: bool


def run(block: nn.Module, *inputs: Tensor | None, recompute: bool) -> Tensor:
    """block(*inputs); with `recompute`, and where there is a gradient, its inside is computed twice and not kept."""
    if recompute and is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


def checkpoint_activations(network: nn.Module, recompute: bool = True) -> None:
    """Set the attribute `recompute` of a network; its results and gradients stay the same.

    Raises:
        ValueError: the network has no such attribute.
    """
    if not isinstance(getattr(network, "recompute", None), bool):
        raise ValueError(
            f"activation_checkpointing = {recompute}, but {type(network).__name__} has no attribute recompute that its "
            "blocks follow: use false, or call its blocks by sfumato.networks.recompute.run"
        )
    cast(Recomputing, network).recompute = recompute
