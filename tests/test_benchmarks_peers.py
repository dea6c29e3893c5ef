"""The benchmarks against peers: what they read, count and interpolate, and that a peer is given the same denoiser."""

import contextlib
import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.diffusion import Denoiser, Gaussian, cosine, denoisers, linear_beta
from sfumato.networks import UNet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> Any:
    """A script's module; the scripts import each other by name, as they do when they are run."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))
    return import_module(name)


# --- the same denoiser for all ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(0)
    net = UNet(1, channels=32, multipliers=(1, 2), blocks=1, attention_level=1, patch=2)
    return script("peers").of_the_tests("conftest.py", "wake_up")(net).eval()


@torch.no_grad()
def test_a_peer_is_told_the_noise_that_our_denoiser_sees(network):
    peers = script("peers")
    schedule, x = linear_beta(), torch.randn(2, 1, 28, 28)
    denoiser = Denoiser(network, Gaussian(schedule), denoisers.epsilon, sigma_data=1)

    for k in (0, 500, 999):
        t = torch.tensor((k + 1) / 1000, dtype=torch.float64)
        alpha, sigma = (v.float() for v in schedule(t))
        expected = (x - alpha * denoiser(x, t)) / sigma
        noise = peers.ForDiffusers(network, schedule)(x, torch.tensor(k)).sample
        assert (noise - expected).abs().max() < 1e-3 * expected.std() / sigma

        again = peers.ForGaussianDiffusion(network, schedule)(x, torch.tensor([k, k]))
        torch.testing.assert_close(again, noise)


@torch.no_grad()
def test_the_unet_of_diffusers_with_our_weights_and_patches_agrees(network):
    twin = script("peers").Twin(network, channels=32, multipliers=(1, 2), blocks=1, attention_level=1)
    x, level = torch.randn(2, 1, 28, 28), torch.tensor([3.0, 871.0])
    ours = network(x, level)
    assert ours.std() > 0.1
    torch.testing.assert_close(twin(x, level), ours, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_diffusers_draws_from_our_network():
    drawing = script("drawing_speed")
    drawn = drawing.pipeline("DDIM", lambda x, level: x * level[:, None, None, None] / 1000, linear_beta())(2)
    assert drawn.shape == (2, 1, 28, 28)
    assert -1 <= drawn.min() < drawn.max() <= 1


def test_a_peers_network_is_asked_for_the_step_of_the_noise_level():
    schedule = cosine()
    asked = script("training_speed").Steps(lambda x, k: k, schedule)
    k = torch.tensor([0, 1, 10, 500, 990])
    levels = denoisers.noise_level(*schedule((k.double() + 1) / 1000)).float()
    torch.testing.assert_close(asked(torch.zeros(5, 1), levels), k.float(), rtol=1e-4, atol=1e-3)


# --- what is made of measurements ------------------------------------------------------------------------------------


def test_the_least_evaluations_are_those_of_the_first_distance_not_above_the_limit():
    least = script("drawing_speed").least
    assert least({5: 3.0, 6: 1.9, 8: 2.1, 10: 1.0}, 2.0) == 6, "also where more evaluations are worse again"
    assert least({5: 2.0}, 2.0) == 5
    assert least({5: 3.0, 6: 2.5}, 2.0) is None


def test_a_distance_is_reached_between_two_measurements_on_the_line_of_its_logarithm():
    reached = script("training_speed").reached
    seconds, distances = [10.0, 20.0, 40.0], [100.0, 10.0, 1.0]
    assert reached(seconds, distances, math.sqrt(1000)) == pytest.approx(15)
    assert reached(seconds, distances, 10.0) == pytest.approx(20)
    assert reached(seconds, distances, 10**0.25) == pytest.approx(35)
    assert reached(seconds, distances, 200.0) == 10.0, "there already"
    assert reached(seconds, distances, 0.5) is None
    assert reached([1, 2, 3, 4], [8.0, 2.0, 8.0, 1.0], 4.0) == pytest.approx(1.5), "the first time counts"


def test_the_table_takes_the_distance_that_all_have_reached(capsys):
    def curve(*distances: float) -> list[dict]:
        return [{"seconds": 60.0 * i, "pictures": 120 * i, "distance": d} for i, d in enumerate(distances, 1)]

    table = script("training_speed").table
    table({"sfumato": curve(8.0, 2.0), "plain DDPM": curve(16.0, 8.0)}, [1, 2], None)
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first == "| sfumato | 2 | 8.00 | 2.00 | 1.00 | 1.0 |"
    assert second == "| plain DDPM | 2 | 16.00 | 8.00 | 2.00 | 2.0 |"

    table({"sfumato": curve(8.0, 2.0), "plain DDPM": curve(16.0, 8.0)}, [1, 2], 2.0)
    assert capsys.readouterr().out.splitlines()[-1] == "| plain DDPM | 2 | 16.00 | 8.00 | not in 2.0 |  |"


def test_a_training_goes_on_after_its_last_measurement(tmp_path, monkeypatch):
    training = script("training_speed")
    monkeypatch.setattr(training, "RESULTS", tmp_path)
    monkeypatch.setattr(training, "Features", Same)
    monkeypatch.setattr(training, "frechet", lambda drawn, real: 7.0)
    monkeypatch.setattr(training, "draw", lambda denoiser, pictures, border: None)
    clock = iter(range(10**6))
    monkeypatch.setattr(training.time, "process_time", lambda: float(next(clock)))
    saved = {"seconds": 0.0}
    monkeypatch.setattr(training, "contestant", lambda method, pictures: Counts(saved))

    training.run("plain DDPM", [0.05, 0.1], 5)
    assert saved["seconds"] == 6.0, "a step takes one tick of the clock, and drawing none"
    training.run("plain DDPM", [0.05, 0.1, 0.15], 5)
    assert saved["seconds"] == 9.0, "from the state at six seconds"
    found = [training.json.loads(training.place("plain DDPM", m, 5).read_text()) for m in (0.05, 0.1, 0.15)]
    assert [(f["seconds"], f["pictures"], f["distance"]) for f in found] == [(3, 3, 7), (6, 6, 7), (9, 9, 7)]


class Same:
    """Features that are the pictures."""

    test = train = None

    def __call__(self, x):
        return x


class Counts:
    """A training whose pictures are its seconds."""

    border, done = 0, False

    def __init__(self, saved):
        self.saved, self.seconds = saved, saved["seconds"]

    @property
    def pictures(self):
        return int(self.seconds)

    def step(self):
        pass

    def save(self):
        self.saved["seconds"] = self.seconds

    def denoiser(self):
        return contextlib.nullcontext()


STATUS = "Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t1\n"


def test_memory_is_read_from_the_status_of_the_process():
    resident = script("step_memory").resident
    assert resident(STATUS, "VmHWM") == 2 * 2**20
    assert resident(STATUS, "VmRSS") == 2**20
    with pytest.raises(ValueError, match="no VmSwap"):
        resident(STATUS, "VmSwap")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_the_peak_is_that_of_the_work_alone():
    # In a process of its own: an allocator that other tests have told to keep freed memory asks for none.
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import torch, step_memory\n"
        "block = torch.ones(32 * 2**20); del block  # 128 MiB, freed before the work begins\n"
        "for mebi in (64, 8): print(step_memory.peak(lambda: torch.ones(mebi * 2**18)) / 2**20)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert 60 <= float(found[0]) < 90
    assert float(found[1]) < 30


def test_turns_begin_with_another_program_each_time_and_leave_the_first_out():
    turns = script("turns")
    asked = []

    class Program:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, iter(seconds)

        def send(self, kind):
            asked.append(self.name)

        def recv(self):
            return next(self.seconds)

    pipes = [Program("a", [9.0, 1.0, 1.0, 2.0, 1.0]), Program("b", [9.0, 2.0, 3.0, 8.0, 3.0])]
    taken = turns.measure(pipes, "step", repeats=4, warm=1)
    assert asked == ["a", "b", "b", "a", "a", "b", "b", "a", "a", "b"]
    assert taken == [[1.0, 2.0], [1.0, 3.0], [2.0, 8.0], [1.0, 3.0]]
    assert turns.of(taken, 1) == 3.0
    assert turns.ratio(taken, 1).startswith("3.00 ("), "the median of 2, 3, 4 and 3"


def test_a_command_that_fails_is_a_peer_that_is_not_there(monkeypatch):
    start = script("start")
    monkeypatch.setattr(start, "TORCHVISION", "import math; ")
    assert start.working(["-c", "pass"]) == ["-c", "pass"]
    assert start.working(["-c", "math.pi"]) == ["-c", "import math; math.pi"], "with help"
    assert start.working(["-c", "import no_such_peer"]) is None
    with pytest.raises(Exception, match="returned non-zero"):
        start.run(["-c", "raise SystemExit(3)"])


def test_our_steps_cost_no_network_and_draw_finite_states():
    overhead = script("step_overhead")
    model = overhead.free_model()
    assert model.device.type == "cpu"
    overhead.ours(model, "dpm++2m", 2.0)()
    first, others = overhead.milliseconds(overhead.theirs("DDIMScheduler", model.lanes), 2)
    assert first > 0 and others > 0
