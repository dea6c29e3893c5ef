"""What fits into a time: the choice of network and length, and a run that ends when it was told to."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from sfumato.config import Config, load_recipe, validate
from sfumato.errors import ConfigError
from sfumato.networks.unet import UNet
from sfumato.settings.learning import seconds_of
from sfumato.training import budget
from sfumato.training.budget import (
    ENOUGH,
    EPOCHS,
    FEWEST,
    HOUR,
    LADDER,
    MEASURED,
    WARM_UP,
    Costs,
    Promise,
    duration,
    intervals,
    length,
    sized,
    step_seconds,
    timed,
)
from sfumato.training.loop import Trainer
from sfumato.training.resolve import adjusted
from sfumato.training.run import train

COST = Costs(step=0.25, sheet=2.0, validation=3.0, checkpoint=0.2)


@pytest.fixture
def recipe(pictures: Path) -> Config:
    return load_recipe("folder", [f"data.path={pictures}"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("45", 45),
        ("1.5h", 5400),
        ("1d", 86400),
        ("10min", 600),
    ],
)
def test_a_time_is_written_as_people_do(text: str, seconds: float, recipe: Config) -> None:
    assert seconds_of(text) == seconds
    config = adjusted(recipe, f"training.time={text}")
    assert config.training.time == seconds
    assert validate(config.model_dump(mode="json"), "again") == config


@pytest.mark.parametrize("text", ["soon", "m30", "1h30x", "-5m", "0.5s", "40d", "1..5h"])
def test_what_is_no_time_is_refused_with_the_form(text: str, recipe: Config) -> None:
    with pytest.raises(ConfigError, match=r"training\.time = .*") as told:
        adjusted(recipe, f"training.time={text}")
    assert "1h30m" in told.value.fix or "30d" in told.value.fix


def paced(monkeypatch: pytest.MonkeyPatch, lowest: float) -> list[tuple[int, int]]:
    """Lets the lowest rung train ``lowest`` pictures a second and each other one by its work; lists what was timed."""
    seen: list[tuple[int, int]] = []

    def pace(config: Config) -> float:
        size, channels = config.codec.sides[0], config.model_dump()["network"]["channels"]
        seen.append((size, channels))
        return lowest / (size / 32) ** 2 / (channels / 32) ** 1.5

    monkeypatch.setattr(budget, "pictures_a_second", pace)
    return seen


@pytest.mark.parametrize(
    ("pace", "time", "largest", "expected"),
    [
        (100, "10m", 128, (32, 32)),  # 60,000 pictures: the smallest there is
        (100, "1h", 128, (32, 32)),
        (240, "1h", 128, (64, 32)),  # 864,000 at 32 pixels, 216,000 at 64
        (240, "1h", 40, (32, 64)),  # the pictures have no 64 pixels
        (240, "8h", 128, (64, 64)),
        (20_000, "1h", 64, (64, 64)),
        (20_000, "1h", 128, (128, 128)),
    ],
)
def test_the_highest_rung_that_sees_enough_pictures_is_taken(
    pace: float,
    time: str,
    largest: int,
    expected: tuple[int, int],
    recipe: Config,
    quiet: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paced(monkeypatch, pace)
    config = sized(adjusted(recipe, f"training.time={time}"), lambda: largest, quiet)
    found = (config.codec.sides[0], config.model_dump()["network"]["channels"])
    assert found == expected
    assert (*found, config.training.batch) in LADDER


def test_settings_that_are_given_stay_and_nothing_is_timed_where_none_is_open(
    recipe: Config, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = paced(monkeypatch, 20_000)
    config = sized(adjusted(recipe, "codec.size=32", "training.batch=7"), lambda: 128, quiet)
    assert (config.codec.sides[0], config.training.batch, config.model_dump()["network"]["channels"]) == (32, 7, 128)
    del seen[:]
    given = adjusted(recipe, "codec.size=48", "training.batch=7", "network.channels=96")
    assert sized(given, lambda: pytest.fail("looked"), quiet) is given and seen == []


def test_a_network_that_does_not_leave_enough_pictures_is_not_timed(
    recipe: Config, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = paced(monkeypatch, ENOUGH / HOUR - 1)
    sized(recipe, lambda: 128, quiet)
    assert seen == [(32, 32)]


@pytest.mark.parametrize("seconds", [40, 600, 3600, 28_800])
def test_steps_sheets_validations_and_checkpoints_end_together_within_the_time(seconds: float, recipe: Config) -> None:
    config = timed(adjusted(recipe, f"training.time={seconds}"), COST, 500, 0)
    training = config.training
    steps = training.steps * COST.step
    beside = (
        (2 + training.steps // training.sample_every) * COST.sheet
        + -(-training.steps // training.validate_every) * COST.validation
        + -(-training.steps // training.checkpoint_every) * COST.checkpoint
    )
    assert 0.8 * seconds < steps + beside <= seconds
    assert config.training.steps == length(seconds, COST)


def test_what_is_gone_of_the_time_is_gone(recipe: Config) -> None:
    config = adjusted(recipe, "training.time=10m")
    early, late = (timed(config, COST, 500, gone).training.steps for gone in (0, 300))
    assert late < 0.55 * early


@pytest.mark.parametrize(("count", "steps"), [(40, FEWEST), (500, EPOCHS * 500 // 32), (10**6, length(HOUR, COST))])
def test_without_a_time_a_run_takes_an_hour_or_its_epochs(count: int, steps: int, recipe: Config) -> None:
    config = adjusted(recipe, "training.batch=32")
    assert timed(config, COST, count, 0).training.steps == steps


def test_steps_and_intervals_that_are_given_stay(recipe: Config) -> None:
    given = adjusted(recipe, "training.batch=32", "training.steps=1000", "training.sample_every=7")
    training = timed(given, COST, 500, 0).training
    assert (training.steps, training.sample_every) == (1000, 7)
    assert intervals(given, COST) and all("sample_every" not in change for change in intervals(given, COST))


def test_durations_are_told_as_people_do() -> None:
    assert [duration(s) for s in (0.2, 45, 100, 3600, 23_400)] == ["1 s", "45 s", "2 min", "1 h 00 min", "6 h 30 min"]


BUDGETED = (
    "training.steps=0",
    "training.validate_every=0",
    "training.sample_every=0",
    "training.checkpoint_every=0",
)


def test_a_run_of_a_time_is_the_run_of_its_settings_and_keeps_them_when_resumed(
    pictures: Path, settings: Callable, tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(pictures, *BUDGETED, "training.time=1s")
    timed_model = train(config, tmp_path / "timed", quiet)
    assert any(text.startswith("chosen for this machine: 8 x 8 x 3, U-Net of 8 channels") for text in quiet.said)

    plain = load_recipe(tmp_path / "timed" / "config.yaml")
    assert plain.automatic == () and plain.training.time == 1
    again = train(plain, tmp_path / "plain")
    assert again.fingerprint == timed_model.fingerprint  # measuring left no trace in the weights

    monkeypatch.setattr("sfumato.training.prepared.costs", lambda *_: pytest.fail("measured again"))
    train(config, tmp_path / "timed")
    train(settings(pictures, *BUDGETED), tmp_path / "timed")
    assert load_recipe(tmp_path / "timed" / "config.yaml") == plain


def test_a_longer_time_lengthens_the_run_in_proportion(pictures: Path, settings: Callable, tmp_path: Path) -> None:
    train(settings(pictures, *BUDGETED, "training.time=1s"), tmp_path)
    before = load_recipe(tmp_path / "config.yaml").training.steps
    train(settings(pictures, *BUDGETED, "training.time=2s"), tmp_path)
    after = load_recipe(tmp_path / "config.yaml").training
    assert (after.time, after.steps) == (2, 2 * before)


@pytest.mark.parametrize(("each", "measured"), [(0.1, WARM_UP + MEASURED), (2.0, 3), (1000.0, 1)])
def test_measuring_takes_a_small_share_of_the_time_however_slow_a_step_is(
    each: float, measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0, steps=0)

    def step() -> None:
        clock.now, clock.steps = clock.now + each, clock.steps + 1

    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    found = step_seconds(cast(Trainer, SimpleNamespace(train_step=step)), most=5)
    assert found == pytest.approx(each) and clock.steps == measured


def test_a_run_that_will_be_late_says_so_once_and_one_in_time_says_nothing() -> None:
    slow, quick, free = Promise(3600, 1000), Promise(3600, 1000), Promise(0, 1000)
    assert slow.broken(50, 500) == ""  # too early to tell
    assert "about 2 h 00 min, not 1 h 00 min" in slow.broken(100, 720) and slow.broken(101, 728) == ""
    assert [quick.broken(step, 3.6 * step) for step in range(1, 1001)] == [""] * 1000
    assert free.broken(500, 10**6) == ""


def test_a_run_on_a_machine_that_became_busy_says_that_it_will_be_late(
    pictures: Path, settings: Callable, tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, learning=1.0)  # while the run is measured
    monkeypatch.setattr("sfumato.training.run.newest_whole", lambda *_: setattr(clock, "learning", 2.0))
    train(settings(pictures, *BUDGETED, "training.time=100s"), tmp_path, quiet)
    assert sum("this machine is slower" in text for text in quiet.said) == 1 and clock.now > 115


class Clock:
    """A clock that only a network's calls move: so many seconds for one that learns, a third for one that draws."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, learning: float) -> None:
        self.now, self.learning = 0.0, learning
        forward = UNet.forward

        def ticking(network: UNet, *args: Any, **kwargs: Any) -> Any:
            self.now += self.learning if torch.is_grad_enabled() else self.learning / 3
            return forward(network, *args, **kwargs)

        monkeypatch.setattr(UNet, "forward", ticking)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def test_a_run_ends_when_it_was_told_to(
    pictures: Path, settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, learning=1.0)
    train(settings(pictures, *BUDGETED, "training.time=100s"), tmp_path)
    assert 85 < clock.now <= 100
