"""For the tests of networks: a way to activate the parts that start at zero."""

from collections.abc import Callable

import pytest
import torch
from torch import nn


def wake_up(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter that starts at zero, so that no part of `network` is silent."""
    generator = torch.Generator().manual_seed(seed)

    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                fan_in = max(parameter[0].numel(), 1)
                parameter.normal_(std=fan_in**-0.5 if parameter.dim() > 1 else 0.1, generator=generator)

    return network


@pytest.fixture
def wake() -> Callable[[nn.Module], nn.Module]:
    return wake_up


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
