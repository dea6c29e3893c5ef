"""The memory that a network needs is known before it is allocated."""

import resource
import subprocess
import sys

import torch
from torch import nn

from sfumato.networks import DiT, UNet
from sfumato.networks.memory import peak_memory


class Wide(nn.Module):
    """One result of 100 channels, then one of 3, in the place of x."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 100, 1), nn.Conv2d(100, 3, 1)

    def forward(self, x, level, **condition):
        return self.down(self.up(x))


def test_it_is_all_that_lives_at_the_widest_place():
    x = torch.empty(2, 3, 50, 50)
    assert peak_memory(Wide(), x, {}) == 4 * 2 * (100 + 3) * 50 * 50


def test_it_grows_with_the_area_and_the_batch_and_costs_no_memory_itself():
    network = UNet(in_channels=3, channels=32, multipliers=[1, 2], blocks=1, attention_level=None, groups=8)
    small = peak_memory(network, torch.empty(4, 3, 64, 64, device="meta"), {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = peak_memory(network, torch.empty(4, 3, 4096, 4096, device="meta"), {})

    assert 0.95 < large / small / 64**2 < 1.05  # beside what does not grow: the embedding of the noise level
    assert large > 10 * 2**30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_attention_counts_as_devices_do_it():
    network = DiT(in_channels=3, size=512, patch=4, width=64, depth=1, heads=1)
    pairs = 4 * (512 // 4) ** 4
    assert peak_memory(network, torch.empty(1, 3, 512, 512, device="meta"), {}) < pairs / 4


def test_it_is_what_a_process_really_takes():
    code = """
import torch
from sfumato.networks import UNet
from sfumato.networks.memory import peak_memory
torch.set_num_threads(1)

def peak():
    # Not ru_maxrss, which a child inherits from the process that started it.
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

network = UNet(in_channels=3, channels=64, multipliers=[1, 2], blocks=1, attention_level=None)
x = torch.zeros(4, 3, 128, 128).to(memory_format=torch.channels_last)
network = network.to(memory_format=torch.channels_last)
with torch.inference_mode():
    network(x[..., :8, :8], torch.zeros(4))
    before = peak()
    network(x, torch.zeros(4))
print(peak_memory(network, x, {}), peak() - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    told, taken = map(int, out.split())
    assert 0.5 < taken / told < 2.5, out
