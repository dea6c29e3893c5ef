"""A U-Net that does not compute everything anew at every call.

The features below full resolution change slowly along a trajectory. They are computed at the first call in a part of
the trajectory and kept for the others, which evaluate only the first encoder stage and the last decoder stage
(DeepCache, Ma et al. 2023, arXiv:2312.00858, with its shallowest cut). This is an approximation: docs/performance.md
shows its cost in quality.
"""

from __future__ import annotations

from torch import Tensor, nn

from sfumato.networks import unet


class Reuse(nn.Module):
    """`network` for one trajectory of one batch; make a new one for the next.

    Args:
        network: any U-Net.
    """

    def __init__(self, network: unet.UNet) -> None:
        super().__init__()

        self.network = network
        self.kept: tuple[int, Tensor] | None = None  # the part, and its deep features (B, C, *spatial)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        vector: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        part: Tensor,
    ) -> Tensor:
        """As `UNet.forward`, with the number () of the part of the trajectory, on the CPU.

        A new part computes everything, and so does a batch of another size, as when guidance sets in.
        """

        def inside(h: Tensor, skips: list[Tensor], condition: unet.Condition) -> Tensor:
            now = int(part)
            if self.kept is None or self.kept[0] != now or len(self.kept[1]) != len(h):
                self.kept = now, self.network.inside(h, skips, condition)
            elif len(self.network.encoder) > 1:
                skips.pop()
            return self.kept[1]

        return self.network.around(inside, x, time, vector, context, context_mask)
