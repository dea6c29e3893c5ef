"""Deep features that are kept: exact where computed, near and cheaper between, and forgotten when they must be."""

import pytest
import torch

from sfumato.networks import UNet
from sfumato.networks.reuse import Reuse


@pytest.fixture
def net(wake):
    return wake(UNet(2, channels=8, multipliers=(1, 2), blocks=1, groups=4)).eval()


def test_each_first_call_is_exact_and_the_calls_between_are_near(net):
    reusing, x, time = Reuse(net, 3), torch.randn(2, 2, 8, 8), torch.full((2,), 500.0)
    with torch.no_grad():
        path = [x + 0.002 * k * torch.randn_like(x) for k in range(6)]
        errors = [(reusing(x, time) - net(x, time)).abs().max().item() for x in path]
        scale = net(x, time).std().item()
    assert errors[0] == errors[3] == 0
    assert all(0 < errors[i] < 0.1 * scale for i in (1, 2, 4, 5)), (errors, scale)


def test_the_bottleneck_is_evaluated_once_in_so_many_calls(net):
    seen = []
    net.bottleneck_attention.register_forward_hook(lambda *_: seen.append(1))
    reusing = Reuse(net, 4)
    for _ in range(8):
        reusing(torch.randn(1, 2, 8, 8), torch.zeros(1))
    assert len(seen) == 2


def test_one_is_the_network_itself(net):
    reusing = Reuse(net, 1)
    for seed in range(3):
        x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(reusing(x, torch.zeros(2)), net(x, torch.zeros(2)))


def test_a_batch_of_another_size_computes_everything(net):
    reusing, x = Reuse(net, 5), torch.randn(4, 2, 8, 8)
    reusing(x[:2], torch.zeros(2))
    assert torch.equal(reusing(x, torch.zeros(4)), net(x, torch.zeros(4)))


def test_a_network_of_one_stage_keeps_its_bottleneck(wake):
    net = wake(UNet(2, channels=8, multipliers=(1,), blocks=1, groups=4, attention_level=None))
    reusing, x = Reuse(net, 2), torch.randn(1, 2, 8, 8)
    first = reusing(x, torch.zeros(1))
    assert torch.equal(reusing(x, torch.zeros(1)), first)
