"""A U-Net that does not compute everything anew at every call.

What lies below full resolution changes slowly along a trajectory. It is computed at every n-th call and kept for those
between, which evaluate the first encoder stage and the last decoder stage only (DeepCache, Ma et al. 2023,
arXiv:2312.00858, with its shallowest cut). This is an approximation: docs/performance.md has its cost in quality.
"""

from __future__ import annotations

from torch import Tensor, nn

from sfumato.networks import unet


class Reuse(nn.Module):
    """`network` for the calls of one trajectory, of one batch; make another for the next.

    Args:
        network: any U-Net.
        every: how many calls share the deep features; 1 computes all of them.
    """

    def __init__(self, network: unet.UNet, every: int) -> None:
        super().__init__()

        self.network, self.every = network, every
        self.calls = 0
        self.kept: Tensor | None = None

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        vector: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """As `UNet.forward`; a batch of another size, as where guidance sets in, computes everything."""
        y = self.network.around(self._inside, x, time, vector, context, context_mask)
        self.calls += 1

        return y

    def _inside(self, h: Tensor, skips: list[Tensor], condition: unet.Condition) -> Tensor:
        if self.kept is None or len(self.kept) != len(h) or self.calls % self.every == 0:
            self.calls = 0
            self.kept = self.network.inside(h, skips, condition)
        elif len(self.network.encoder) > 1:
            skips.pop()

        return self.kept
