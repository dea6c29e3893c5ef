"""Activation checkpointing changes what is kept, and nothing that is computed."""

import copy

import pytest
import torch
from torch import Tensor, nn

from sfumato.networks import DiT, UNet
from sfumato.networks.recompute import checkpoint_activations

UNET = {"channels": 32, "multipliers": (1, 2), "attention_level": 1, "vector_dim": 8, "context_dim": 8, "dropout": 0.3}


def networks(wake) -> dict[str, nn.Module]:
    return {
        "unet": wake(UNet(3, **UNET)).to(memory_format=torch.channels_last),
        "dit": wake(DiT(3, 16, 4, 32, 3, 2, vector_dim=8, context_dim=8)),
    }


def step(network: nn.Module) -> tuple[Tensor, list[Tensor], int]:
    """Result, gradients, and the bytes that the forward pass keeps for them beside the weights."""
    chance = torch.Generator().manual_seed(1)
    x, vector = torch.randn(2, 3, 16, 16, generator=chance), torch.randn(2, 8, generator=chance)
    context, mask = torch.randn(2, 5, 8, generator=chance), torch.arange(5) < torch.tensor([[3], [5]])
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    network.zero_grad()
    torch.manual_seed(2)  # of the dropout
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = network(x, torch.tensor([3.0, 700.0]), vector, context, mask)
    y.square().sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) == len(list(network.parameters()))
    return y.detach(), gradients, sum(kept.values())


@pytest.mark.parametrize("name", ["unet", "dit"])
@pytest.mark.parametrize("bf16", [False, True])
def test_results_and_gradients_stay_the_same_and_less_than_half_is_kept(name, bf16, wake):
    network = networks(wake)[name]
    again = copy.deepcopy(network)
    checkpoint_activations(again)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        (y, gradients, kept), (same, alike, less) = step(network), step(again)
    assert torch.equal(y, same)
    assert all(map(torch.equal, gradients, alike))
    assert less < 0.5 * kept, (less, kept)
    assert network.state_dict().keys() == again.state_dict().keys()


def test_without_gradients_nothing_is_computed_twice(wake):
    network = networks(wake)["unet"].eval()
    calls = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    inputs = torch.randn(1, 3, 16, 16), torch.tensor([3.0]), torch.randn(1, 8), torch.randn(1, 5, 8)
    with torch.inference_mode():
        y = network(*inputs)
        once = len(calls)
        checkpoint_activations(network)
        assert torch.equal(network(*inputs), y)
    assert len(calls) == 2 * once
    copy.deepcopy(network)  # as the export does


def test_it_is_a_switch_that_goes_back(wake):
    network = networks(wake)["dit"]
    (_, _, kept) = step(network)
    checkpoint_activations(network)
    (_, _, less) = step(network)
    checkpoint_activations(network, False)
    assert less < kept == step(network)[2]


def test_a_network_that_would_not_follow_it_is_refused():
    with pytest.raises(ValueError, match="Linear has no attribute recompute"):
        checkpoint_activations(nn.Linear(2, 2))
