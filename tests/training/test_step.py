"""A training step asks the device once, its batch is made ahead if that helps, and its waiting time is recorded."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sfumato.data.dataset import Dataset
from sfumato.training.ahead import Ahead
from sfumato.training.loop import Trainer, compiled
from sfumato.training.run import train
from sfumato.transfer import moved


@pytest.fixture
def trainer(pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path) -> Callable[..., Trainer]:
    return lambda *changes: trainer_of(settings(pictures, *changes), tmp_path / "run")


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_waits_for_its_device_once(accumulate: int, trainer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(f"training.accumulate={accumulate}", "condition.kind=class")
    ready = [one.batch(number) for number in range(2 * accumulate)]
    one.batch_of = ready.__getitem__
    one.train_step()  # the first one makes the optimizer's state

    asked = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def told(self: torch.Tensor, *rest: Any, name: str = name, original: Callable = original) -> Any:
            asked.append(name)
            return original(self, *rest)

        monkeypatch.setattr(torch.Tensor, name, told)
    one.train_step()
    assert asked == ["tolist"]


def test_a_run_whose_batches_are_made_ahead_ends_in_the_same_bits(trainer: Callable) -> None:
    ends, threads = [], set()
    for ahead in (False, True):
        one = trainer()
        if ahead:
            make = one.batch

            def noted(number: int, make: Callable = make) -> Any:
                threads.add(threading.current_thread().name)
                return make(number)

            one.batch_of = Ahead(noted)
        losses = [one.train_step() for _ in range(14)]  # 112 samples of 20: over the ends of epochs
        ends.append((losses, {name: p.detach().clone() for name, p in one.parameters.items()}))
    assert threads == {"sfumato-ahead_0"}
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(ends[1][1][name], value) for name, value in ends[0][1].items())


def test_the_next_item_is_begun_before_it_is_asked_for() -> None:
    begun, free = threading.Event(), threading.Event()

    def make(number: int) -> int:
        if number == 1:
            begun.set()
            assert free.wait(10)
        return -number

    ahead = Ahead(make)
    assert ahead(0) == 0
    assert begun.wait(10), "number 1 was not begun"
    free.set()
    assert [ahead(n) for n in (1, 2, 7, 3)] == [-1, -2, -7, -3]  # also out of order


def test_what_goes_wrong_ahead_is_raised_where_its_item_is_asked_for() -> None:
    ahead = Ahead(lambda number: [10, 11][number])
    assert [ahead(0), ahead(1)] == [10, 11]
    with pytest.raises(IndexError):
        ahead(2)


def test_a_slow_disk_shows_in_the_record_and_a_fast_one_does_not(
    pictures: Path, settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(settings(pictures), tmp_path / "fast").record["waiting_for_data"] < 0.5

    def slow(*arguments: Any) -> Any:
        threading.Event().wait(0.2)
        return original(*arguments)

    original = Trainer.batch
    monkeypatch.setattr(Trainer, "batch", slow)
    model = train(settings(pictures), tmp_path / "slow")
    assert 0.5 < model.record["waiting_for_data"] < 1
    card = (tmp_path / "slow" / "model" / "README.md").read_text()
    assert f"{model.record['waiting_for_data']:.1%} of it waiting for data" in card
    waited = json.loads((tmp_path / "slow" / "checkpoint-00000004" / "state.json").read_text())["waited"]
    assert waited >= 4 * 2 * 0.2
    monkeypatch.setattr(Trainer, "batch", original)
    for path in (tmp_path / "slow" / "checkpoint-00000006").iterdir():
        path.unlink()
    (tmp_path / "slow" / "checkpoint-00000006").rmdir()
    resumed = train(settings(pictures), tmp_path / "slow").record["waiting_for_data"]
    assert resumed > 0.4, "what was waited before the checkpoint counts"


@pytest.mark.parametrize(
    ("setting", "mode"), [("true", None), ("reduce-overhead", "reduce-overhead"), ("max-autotune", "max-autotune")]
)
@pytest.mark.parametrize("objective", ["simple", "hybrid"])
def test_every_objective_trains_the_compiled_network_in_the_mode_that_was_asked_for(
    setting: str, mode: str | None, objective: str, trainer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, calls = [], []

    class Compiled(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, *arguments: Any, **named: Any) -> Any:
            calls.append(1)
            return self.network(*arguments, **named)

    def compile(network: nn.Module, mode: str | None) -> nn.Module:
        modes.append(mode)
        return Compiled(network)

    monkeypatch.setattr(torch, "compile", compile)
    hybrid = ["network.learned_variance=true", "objective.kind=hybrid"] if objective == "hybrid" else []
    plain, one = trainer(*hybrid), trainer(*hybrid, f"training.compile={setting}")
    assert modes == [mode]
    assert one.train_step() == plain.train_step()
    assert len(calls) == one.config.training.accumulate
    assert one.parts()["weights"].keys() == plain.parts()["weights"].keys(), "names are those of the network"
    assert compiled(plain.model.denoiser, False) is plain.model.denoiser


def test_activation_checkpointing_trains_the_same_numbers(trainer: Callable) -> None:
    plain, one = trainer(), trainer("training.activation_checkpointing=true")
    assert one.model.denoiser.network.recompute and not plain.model.denoiser.network.recompute
    assert [one.train_step() for _ in range(2)] == [plain.train_step() for _ in range(2)]


def test_on_the_cpu_a_tensor_is_moved_without_a_copy() -> None:
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert moved(x, torch.device("cpu")) is x
    assert moved(x, torch.device("meta")).stride() == x.stride()


def test_the_pictures_of_a_batch_are_channels_last(trainer: Callable) -> None:
    batch = trainer().batch(0)
    assert isinstance(trainer().data, Dataset)
    for x in (batch.x_0, batch.noise):
        assert x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
