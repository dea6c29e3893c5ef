"""Deep features that are kept: exact where computed, near and cheaper between, and forgotten when they must be."""

import pytest
import torch

from sfumato.diffusion import DDIM, Flow, Gaussian, Heun, sample
from sfumato.diffusion.parts import InParts
from sfumato.networks import UNet
from sfumato.networks.reuse import Reuse


@pytest.fixture
def net(wake):
    return wake(UNet(2, channels=8, multipliers=(1, 2), blocks=1, groups=4)).eval()


def part(number: int) -> torch.Tensor:
    return torch.tensor(number)


def test_the_first_call_of_a_part_is_exact_and_the_others_are_near(net):
    reusing, x, time = Reuse(net), torch.randn(2, 2, 8, 8), torch.full((2,), 500.0)
    with torch.no_grad():
        path = [x + 0.002 * k * torch.randn_like(x) for k in range(6)]
        errors = [(reusing(x, time, part=part(k // 3)) - net(x, time)).abs().max().item() for k, x in enumerate(path)]
        scale = net(x, time).std().item()
    assert errors[0] == errors[3] == 0
    assert all(0 < errors[i] < 0.1 * scale for i in (1, 2, 4, 5)), (errors, scale)


def test_the_bottleneck_is_evaluated_once_a_part(net):
    seen = []
    net.bottleneck_attention.register_forward_hook(lambda *_: seen.append(1))
    reusing = Reuse(net)
    for k in range(8):
        reusing(torch.randn(1, 2, 8, 8), torch.zeros(1), part=part(k // 4))
    assert len(seen) == 2


def test_a_batch_of_another_size_computes_everything(net):
    reusing, x = Reuse(net), torch.randn(4, 2, 8, 8)
    reusing(x[:2], torch.zeros(2), part=part(1))
    assert torch.equal(reusing(x, torch.zeros(4), part=part(1)), net(x, torch.zeros(4)))


def test_a_network_of_one_stage_keeps_its_bottleneck(wake):
    net = wake(UNet(2, channels=8, multipliers=(1,), blocks=1, groups=4, attention_level=None))
    reusing, x = Reuse(net), torch.randn(1, 2, 8, 8)
    first = reusing(x, torch.zeros(1), part=part(1))
    assert torch.equal(reusing(x, torch.zeros(1), part=part(1)), first)


@pytest.mark.parametrize(("solver", "calls"), [(DDIM(), [1, 1, 2, 2, 3]), (Heun(), [1, 1, 1, 2, 2, 2, 2, 3, 3])])
def test_the_part_is_decided_by_the_time_alone(solver, calls):
    """With Heun's method two calls have one time, and so one part, although they belong to two steps."""
    times, asked = torch.linspace(1, 0, 6, dtype=torch.float64), []

    class Asked:
        process = Gaussian(Flow())

        def __call__(self, x_t, t, **cond):
            asked.append(int(cond["part"]))
            return 0 * x_t

    *_, last = sample(InParts(Asked(), tuple(times[:-1:2].tolist())), torch.ones(1), times, solver)
    assert asked == calls
    assert last.index == 5
