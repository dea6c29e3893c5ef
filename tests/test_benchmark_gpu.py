"""The script for graphics cards, tried out on the processor: its peers are equal, its choices right, and it runs."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


def script(name: str) -> Any:
    """A script's module; the scripts import each other by name, as they do when they are run."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))
    return import_module(name)


@pytest.fixture
def gpu() -> Any:
    return script("gpu")


@pytest.mark.parametrize("name", ["S", "C", "T", "D"])
def test_the_peer_does_the_same_operations(name: str) -> None:
    network = script("gpu_networks").networks(tiny=False)[name]
    x, t = torch.zeros(2, 3, network.side, network.side, device="meta"), torch.zeros(2, device="meta")
    condition = (torch.zeros(2, network.vector, device="meta"),) if network.vector else ()
    counts = []
    for net, arguments in ((network.ours(), (x, t, *condition)), (network.peer(), (x, t))):
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            assert net.to("meta")(*arguments).shape == x.shape
        counts.append(counted.get_total_flops())
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


def test_the_batch_is_the_last_that_makes_a_picture_cheaper_or_that_fits(gpu: Any, monkeypatch: Any) -> None:
    def speed(fixed: float, each: float, fits: float = 1e9) -> int:
        def seconds_of(step: Any, *rest: Any, **named: Any) -> float:
            size = step()
            if size > fits:
                raise torch.OutOfMemoryError("full")
            return fixed + each * size

        monkeypatch.setattr(gpu, "seconds_of", seconds_of)
        monkeypatch.setattr(gpu, "forget", lambda device: None)
        return gpu.filling_batch(lambda batch: lambda: batch, 4096, CPU, 1.0)

    assert speed(fixed=1.0, each=1e-6) == 4096, "a large card is not full before the largest"
    assert speed(fixed=1.0, each=0.05) == 512, "1024 would be 2 % cheaper a piece, 512 are 4 %"
    assert speed(fixed=1.0, each=1e-6, fits=300) == 256


def test_the_ratio_is_to_the_faster_layout_of_the_peer_in_the_same_mode(gpu: Any) -> None:
    def result(program: str, mode: str, speed: float, error: str = "") -> Any:
        return gpu.Result("S", "training", program, mode, 8, speed, 1.0, error)

    ours = result("ours", "eager", 10)
    others = [
        result("diffusers", "eager", 4),
        result("diffusers, channels-last", "eager", 5),
        result("diffusers", "default", 50),
        result("diffusers", "eager", 99, error="failed"),
    ]
    assert gpu.rival(ours, [ours, *others]).pictures_per_second == 5
    assert gpu.rival(result("ours", "max-autotune", 1), others) is None


def test_a_step_is_timed_by_the_piece(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def step() -> None:
        clock[0] += 2.0 if clock[0] < 4 else 0.01  # the first two are slow

    monkeypatch.setattr(gpu.time, "perf_counter", lambda: clock[0])
    assert gpu.seconds_of(step, CPU, 0.1) == pytest.approx(0.01)


def test_the_modes_are_those_of_the_setting(gpu: Any) -> None:
    from typing import get_args

    from sfumato.settings.learning import Training

    assert set(gpu.MODES.values()) == set(get_args(Training.model_fields["compile"].annotation))


def test_the_whole_script_runs_and_a_mode_that_fails_is_told(
    gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(network: Any, mode: str | None = None) -> Any:
        if mode == "max-autotune":
            raise RuntimeError("no compiler here\nand more")
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    settings = "--device cpu --tiny --networks D --modes eager default --largest 2 --least 0 --batch 2"
    gpu.main([*settings.split(), "--json", str(tmp_path / "gpu.json")])
    told = capsys.readouterr().out
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert {(r["step"], r["program"]) for r in results if r["mode"] == "eager"} == {
        (step, program) for step in gpu.STEPS for program in gpu.PROGRAMS
    }
    assert all(r["pictures_per_second"] > 0 for r in results), told
    assert [r["mode"] for r in results if r["program"] == "ours"] == ["eager", "default"] * 2
    forwards, both = (next(r for r in results if r["step"] == step)["flops_per_picture"] for step in gpu.STEPS)
    assert 2 < both / forwards < 3.1, "backwards costs twice as much, but for the first layer"
    assert "| default | 2 |" in told and "ratio of the best" in told

    arguments = type("", (), {"steps": ["evaluation"], "modes": ["max-autotune"], "largest": 1, "least": 0.0})
    failed = [r for r in gpu.measure("D", script("gpu_networks").networks(True)["D"], arguments, CPU) if r.error]
    assert [r.error for r in failed] == ["RuntimeError: no compiler here"] * 2
