"""The meaning of "auto", and the output of a dry run."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfumato import kinds
from sfumato.config import Config, adjusted, load_recipe
from sfumato.data.sources import open_source
from sfumato.errors import UserError
from sfumato.measures import memorization
from sfumato.training.estimate import dry_run
from sfumato.training.prepared import prepare_run
from sfumato.training.resolve import (
    gate,
    largest_size,
    locate,
    resolve_rest,
)
from sfumato.training.run import train


@pytest.fixture
def folder_recipe(pictures: Path) -> Config:
    return load_recipe("folder", [f"data.path={pictures}"])


@pytest.mark.parametrize(
    ("sides", "size"),
    [([500, 600, 700], 128), ([100, 100, 900], 64), ([64], 64), ([63], 32), ([8, 8, 8], 32), ([], 32)],
)
def test_the_largest_size_is_one_that_the_median_picture_fills(sides: list[int], size: int) -> None:
    assert largest_size(sides) == size


@pytest.mark.parametrize(
    ("modes", "channels"), [(["L", "LA", "1", "I;16"], 1), (["L", "L", "RGB"], 3), (["RGBA"], 3), (["P", "L"], 3)]
)
def test_pictures_that_are_all_grey_have_one_channel(
    modes: list[str], channels: int, folder_recipe: Config, tmp_path: Path
) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    for i, mode in enumerate(modes):
        Image.new(mode, (9, 9)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    records = open_source(folder).records
    source = replace(open_source(folder), records=records)
    assert kinds.resolved(folder_recipe, source).model_dump()["codec"]["channels"] == channels
    given = adjusted(folder_recipe, "codec.channels=3")
    assert kinds.resolved(given, source).model_dump()["codec"]["channels"] == 3


@pytest.mark.parametrize(("pictures_", "share"), [(100, 0.125), (600, 0.1083), (1000, 0.065), (10_000, 0.02)])
def test_enough_pictures_are_held_out_for_the_gate_and_never_more_than_an_eighth(
    pictures_: int, share: float, folder_recipe: Config
) -> None:
    config = resolve_rest(folder_recipe, pictures_, False, 0)
    assert config.data.validation == share
    assert resolve_rest(adjusted(folder_recipe, "data.validation=0.3"), 100, False, 0).data.validation == 0.3


def test_a_network_too_narrow_for_its_patches_is_refused(folder_recipe: Config) -> None:
    narrow = adjusted(folder_recipe, "codec.kind=pixels", "network.patch=4", "network.channels=32", "codec.size=64")
    with pytest.raises(UserError, match=r"network\.channels = 32 cannot carry the 48 numbers") as told:
        resolve_rest(narrow, 100, False, 0)
    assert "64 or more" in told.value.fix
    for good in ("network.channels=64", "network.patch=2", "codec.channels=1"):
        resolve_rest(adjusted(narrow, good), 100, False, 0)


def test_a_gate_that_cannot_be_passed_is_told_before_the_training(folder_recipe: Config, settings: Callable) -> None:
    assert gate(folder_recipe, memorization.FEWEST) == ""
    told = gate(folder_recipe, 30)
    assert "will refuse this model" in told and "memorization (50 pictures)" in told and "30 are held out" in told
    assert "membership (20 pictures)" in gate(folder_recipe, 19)
    assert gate(load_recipe("emoji"), 0) == ""  # demands nothing


@pytest.mark.parametrize(
    ("captioned", "classes", "kinds"),
    [
        (True, 0, "text"),
        (True, 1, "text"),
        (True, 5, "text class"),
        (False, 5, "class"),
        (False, 1, ""),
        (False, 0, ""),
    ],
)
def test_the_conditions_are_what_the_data_has(captioned: bool, classes: int, kinds: str, folder_recipe: Config) -> None:
    found = resolve_rest(folder_recipe, 100, captioned, classes).conditions
    assert {name: condition.kind for name, condition in found.items()} == {kind: kind for kind in kinds.split()}


def test_what_a_recipe_names_itself_is_not_found_again(folder_recipe: Config) -> None:
    named = adjusted(folder_recipe, "conditions.words.kind=sentence")
    found = resolve_rest(named, 100, True, 5).conditions
    assert {name: condition.kind for name, condition in found.items()} == {"class": "class", "words": "sentence"}


@pytest.mark.parametrize(
    ("kind", "captioned", "classes", "told"),
    [("class", True, 0, "class folders"), ("text", False, 3, "caption"), ("sentence", False, 0, "caption")],
)
def test_a_condition_that_the_data_lacks_is_refused(
    kind: str, captioned: bool, classes: int, told: str, folder_recipe: Config
) -> None:
    with pytest.raises(UserError, match=f"conditions.*: the kind {kind} is asked for, but no .*{told}"):
        resolve_rest(adjusted(folder_recipe, f"condition.kind={kind}"), 9, captioned, classes)


def test_a_path_that_is_nothing_is_refused_with_the_named_data_sets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a folder nor a named data set .*emoji"):
        locate(str(tmp_path / "absent"))
    assert locate(str(tmp_path)) == tmp_path


def test_a_named_data_set_that_is_not_here_tells_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    with pytest.raises(UserError) as told:
        locate("emoji")
    assert told.value.fix == "sfumato data get emoji"


def test_the_folder_recipe_resolves_everything_against_a_folder(
    folder_recipe: Config, tmp_path: Path, quiet: Any
) -> None:
    changes = ("network.channels=32", "network.multipliers=[1, 1]", "training.time=5s", "training.threads=1")
    config = adjusted(folder_recipe, *changes)
    prepared = prepare_run(config, tmp_path / "run", quiet)
    assert prepared.config.automatic == ()
    found = prepared.config
    assert (found.codec.sides, found.training.batch) == ((32, 32), 32)
    assert found.conditions.keys() == {"text", "class"}
    assert 1 <= found.training.steps < 5 / 0.005
    assert sorted(prepared.train_indices + prepared.validation_indices) == list(range(24))


def test_a_dry_run_tells_the_cost_and_leaves_nothing_behind(
    pictures: Path, settings: Callable, tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    estimate = dry_run(settings(pictures, "training.steps=1000"), quiet)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert list((tmp_path / "temporary").iterdir()) == []

    told = str(estimate)
    print(told)
    assert "usable pictures: 24; faults: 0" in told
    assert re.search(rf"^parameters +{estimate.parameters:,}$", told, re.M) and estimate.parameters > 1000
    assert re.search(r"^steps +1,000 of 8 pictures \(333 epochs\)$", told, re.M)
    assert re.search(r"^speed +[\d,]+ pictures/s", told, re.M) and estimate.pictures_per_second > 0
    assert (
        re.search(r"^time +(\d+ h )?\d+ (min|s)$", told, re.M)
        and estimate.seconds > 1000 * 8 / estimate.pictures_per_second
    )
    assert re.search(r"^memory +\d+\.\d GiB", told, re.M) and estimate.memory_bytes > 2**20
    assert re.search(r"^disk +\d+ MiB", told, re.M)
    # Weights, two averages and at least Muon's momentum in single precision, in three checkpoints.
    assert estimate.disk_bytes > 3 * 4 * 4 * estimate.parameters * 0.9


@pytest.mark.parametrize("policy", ["stop", "skip", "quarantine"])
@pytest.mark.parametrize("usable", [0, 1, 24])
def test_a_dry_run_refuses_what_the_run_refuses_in_the_same_words(
    usable: int, policy: str, tmp_path: Path, drawn: Callable, settings: Callable, quiet: Any
) -> None:
    folder = drawn(tmp_path / "pictures", count=usable)
    folder.mkdir(exist_ok=True)
    (folder / "broken.png").write_bytes(b"not a picture")
    config = settings(folder, f"data.policy={policy}", "training.steps=1", "condition.kind=auto")
    told = {}
    for name, start in (("dry run", dry_run), ("run", lambda config, report: train(config, tmp_path / "run", report))):
        try:
            start(config, quiet)
        except UserError as error:
            told[name] = (error.message.partition("\nthe whole list")[0], error.fix)
    assert (told == {}) == (usable == 24 and policy == "quarantine")
    assert told.get("dry run") == told.get("run")


def test_a_dry_run_refuses_the_run_folder_that_the_run_would_refuse(
    pictures: Path, settings: Callable, tmp_path: Path, quiet: Any
) -> None:
    out = tmp_path / "run"
    train(settings(pictures, "training.steps=1"), out)
    with pytest.raises(UserError, match=r"optimizer\.lr was 0\.003, now 0\.004"):
        dry_run(settings(pictures, "training.steps=1", "optimizer.lr=0.004"), quiet, out)


def test_the_dry_run_of_forty_pictures_is_no_matter_of_hours(
    tmp_path: Path, drawn: Callable, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfumato.training.budget.pictures_a_second", lambda config: 1.0)
    folder = drawn(tmp_path / "forty", count=40, size=32)
    changes = [f"data.path={folder}", "network.blocks=1", "network.multipliers=[1]", "network.attention_level=null"]
    estimate = dry_run(load_recipe("folder", [*changes, "condition.kind=none", "training.threads=1"]), quiet)
    assert estimate.config.training.steps <= 2000 and estimate.seconds < 3700
    assert "will refuse this model" in str(estimate)
