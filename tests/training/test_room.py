"""A batch that cannot fit into the memory is refused before the first step, by its measured need."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.errors import UserError
from sfumato.training import room
from sfumato.training.budget import pictures_a_second
from sfumato.training.estimate import dry_run
from sfumato.training.room import demand_room, least, measured, moments, shares
from sfumato.training.run import train

SIDE32 = (
    "data.size=32",
    "network.multipliers=[1,2]",
    "network.channels=16",
    "network.attention_level=1",
    "training.batch=32",
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_need_of_a_batch_follows_from_a_few_pictures(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path, precision: str
) -> None:
    trainer = trainer_of(settings(pictures, *SIDE32, f"training.precision={precision}"), tmp_path)
    fixed, each = shares(trainer, room.SOME)
    whole = measured(trainer, 32) + moments(trainer)
    assert 0.75 * whole < fixed + 32 * each < 1.25 * whole
    without, beside = least(trainer)
    assert 0.3 * whole < without + 32 * beside <= 1.05 * whole


def test_measuring_leaves_the_run_as_it_was(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path
) -> None:
    first, second = (trainer_of(settings(pictures), tmp_path / name) for name in ("first", "second"))
    shares(first, 4)
    least(first)
    assert [first.train_step() for _ in range(2)] == [second.train_step() for _ in range(2)]


@pytest.mark.parametrize("share", [0.2, 0.8])  # less than it takes at least; more than that, and still not enough
def test_a_batch_that_cannot_fit_is_refused_with_the_one_that_does(
    pictures: Path,
    settings: Callable,
    trainer_of: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    trainer = trainer_of(settings(pictures, *SIDE32), tmp_path)
    fixed, each = shares(trainer, room.SOME)
    free = int(share * (fixed + 32 * each))
    monkeypatch.setattr(room, "free_memory", lambda: free)
    with pytest.raises(UserError, match=r"training\.batch = 32: .* 32 x 32 needs .* GiB .* are free") as told:
        demand_room(trainer)
    fits = int(told.value.fix.split("training.batch of ")[1].split()[0])
    assert 0 < fits < 32 and fixed + fits * each < 1.2 * free / (share if share < 0.5 else 1)


def test_where_not_one_picture_fits_the_fix_is_a_smaller_one(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"training\.batch") as told:
        demand_room(trainer_of(settings(pictures), tmp_path))
    assert "codec.size" in told.value.fix


def test_what_fits_by_far_is_not_measured(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(settings(pictures), tmp_path)
    monkeypatch.setattr(room, "measured", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(room, "least", lambda *_: pytest.fail("measured"))
    demand_room(trainer)


def test_the_run_and_its_dry_run_refuse_alike_before_the_first_step(
    pictures: Path, settings: Callable, tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "free_memory", lambda: 1000)
    words = []
    for start in (lambda: dry_run(settings(pictures), quiet), lambda: train(settings(pictures), tmp_path / "run")):
        with pytest.raises(UserError, match=r"training\.batch = 4") as told:
            start()
        words.append(str(told.value).split(" needs ")[0])
    assert words[0] == words[1]
    assert not list((tmp_path / "run").glob("checkpoint-*")) and torch.is_grad_enabled()


def test_a_network_without_room_is_no_rung_of_the_ladder(
    settings: Callable, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(pictures, "training.batch=65536")
    assert pictures_a_second(settings(pictures)) > 0
    monkeypatch.setattr(room, "free_memory", lambda: 2**28)
    assert pictures_a_second(config) == 0
