"""Where tensors lie: their memory format, and copies to a device without waiting.

A copy from ordinary memory to a CUDA card makes the program wait until the card has done all its earlier work; a copy
from pinned memory joins the queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def memory_format(rank: int) -> torch.memory_format:
    """The format in which convolutions of tensors (B, C, *sides) of this rank are fastest."""
    import torch

    return torch.channels_last if rank == 4 else torch.contiguous_format


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of `tensor` (on the CPU) from which copying to `device` needs no wait; same values and strides."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` (on the CPU) on `device`, with the same values and strides."""
    return pinned(tensor, device).to(device, non_blocking=device.type == "cuda")
