"""How much memory a network needs, without allocating it.

The network runs once on the "meta" device, whose tensors have a shape and no content, while every living storage is
counted. This works for any network and any shape, takes a fraction of a second, and gives a lower bound: libraries add
working memory of their own.
"""

from __future__ import annotations

import weakref
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """A context that counts the bytes of all tensors made in it: ``live`` now, ``peak`` at the most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.count(tensor.untyped_storage())
        return made

    def count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once, until it is freed; views share one storage."""
        key, size = id(storage), storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.release, key, size)

    def release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def peak_memory(network: nn.Module, x: Tensor, condition: dict[str, Tensor]) -> int:
    """Peak bytes of the network's results while it evaluates ``x`` (B, C, ...) once, without gradients.

    Args:
        network: called as network(x, noise level (B,), **condition).
        x: on any device; "meta" is enough.
        condition: the output of the conditioner.
    """
    weights = {name: p.to("meta") for name, p in [*network.named_parameters(), *network.named_buffers()]}
    given = {name: value.to("meta") for name, value in condition.items()}
    x, level = x.to("meta"), torch.empty(len(x), device="meta")
    with torch.no_grad(), mock.patch.object(F, "scaled_dot_product_attention", fused), Meter() as meter:
        functional_call(network, weights, (x, level), given)
    return meter.peak


def fused(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """Attention as the kernels of devices compute it: without the table of all pairs, which "meta" would count."""
    return torch.empty_like(q)
