"""What "auto" means, and what a dry run tells."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.config import Config, load_recipe
from sfumato.data.records import Record
from sfumato.data.sources import open_source
from sfumato.errors import UserError
from sfumato.training import resolve
from sfumato.training.estimate import dry_run
from sfumato.training.resolve import adjusted, locate, resolve_rest, resolve_size, short_sides
from sfumato.training.run import prepare_run


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "machine", lambda: "cpu")


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "machine", lambda: "accelerator")


@pytest.fixture
def folder_recipe(pictures: Path) -> Config:
    return load_recipe("folder", [f"data.path={pictures}"])


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(
    ("sides", "size"),
    [([500, 600, 700], 128), ([100, 100, 900], 64), ([64], 64), ([63], 32), ([8, 8, 8], 32), ([], 32)],
)
def test_the_size_is_the_largest_that_the_median_picture_fills(
    sides: list[int], size: int, folder_recipe: Config
) -> None:
    assert resolve_size(folder_recipe, lambda: sides).data.size == size


@pytest.mark.usefixtures("cpu")
def test_on_a_cpu_the_size_is_32(folder_recipe: Config) -> None:
    assert resolve_size(folder_recipe, lambda: [500]).data.size == 32


def test_a_given_size_is_kept_without_a_look_at_the_pictures(folder_recipe: Config) -> None:
    config = adjusted(folder_recipe, "data.size=48")
    assert resolve_size(config, lambda: pytest.fail("looked")) is config


@pytest.mark.parametrize(
    ("captioned", "classes", "kind"),
    [(True, 0, "text"), (True, 5, "text"), (False, 5, "class"), (False, 1, "none"), (False, 0, "none")],
)
def test_the_condition_is_what_the_data_has(captioned: bool, classes: int, kind: str, folder_recipe: Config) -> None:
    assert resolve_rest(folder_recipe, 100, captioned, classes).condition.kind == kind


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(("pictures_", "steps"), [(10, 2000), (640, 4000), (60_000, 20_000)])
def test_the_steps_are_400_epochs_within_limits(pictures_: int, steps: int, folder_recipe: Config) -> None:
    assert folder_recipe.training.batch == 64
    assert resolve_rest(folder_recipe, pictures_, False, 0).training.steps == steps
    accumulated = adjusted(folder_recipe, "training.accumulate=2")
    assert resolve_rest(accumulated, 1280, False, 0).training.steps == 4000


@pytest.mark.usefixtures("accelerator")
def test_an_accelerator_may_take_more_steps(folder_recipe: Config) -> None:
    assert resolve_rest(folder_recipe, 60_000, False, 0).training.steps == 100_000


@pytest.mark.parametrize(
    ("kind", "captioned", "classes", "told"),
    [("class", True, 0, "class folders"), ("text", False, 3, "caption"), ("sentence", False, 0, "caption")],
)
def test_a_condition_that_the_data_lacks_is_refused(
    kind: str, captioned: bool, classes: int, told: str, folder_recipe: Config
) -> None:
    with pytest.raises(UserError, match=f"condition.kind: {kind} is asked for, but no .*{told}"):
        resolve_rest(adjusted(folder_recipe, f"condition.kind={kind}"), 9, captioned, classes)


def test_short_sides_are_read_from_headers_and_broken_files_do_not_count(tmp_path: Path) -> None:
    for name, size in (("a", (9, 30)), ("b", (40, 12))):
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"not a picture")
    assert sorted(short_sides(open_source(tmp_path).records)) == [9, 12]


def test_at_most_200_pictures_are_looked_at(tmp_path: Path) -> None:
    Image.new("RGB", (5, 7)).save(tmp_path / "a.png")
    (record,) = open_source(tmp_path).records
    for count in (1, 199, 200, 201, 1000):
        records: list[Record] = [record] * count
        assert 1 <= len(short_sides(records)) <= 200
    assert short_sides([]) == []


def test_a_path_that_is_nothing_is_refused_with_the_named_data_sets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a folder nor a named data set .*emoji"):
        locate(str(tmp_path / "absent"))
    assert locate(str(tmp_path)) == tmp_path


def test_a_named_data_set_that_is_not_here_tells_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    with pytest.raises(UserError) as told:
        locate("emoji")
    assert told.value.fix == "sfumato data get emoji"


@pytest.mark.usefixtures("cpu")
def test_the_folder_recipe_resolves_everything_against_a_folder(
    folder_recipe: Config, tmp_path: Path, quiet: Any
) -> None:
    config = adjusted(folder_recipe, "network.channels=32", "network.multipliers=[1, 1]")
    prepared = prepare_run(config, tmp_path / "run", quiet)
    assert prepared.config.automatic == ()
    assert (prepared.config.data.size, prepared.config.condition.kind, prepared.config.training.steps) == (
        32,
        "text",
        2000,
    )
    assert sorted(prepared.train_indices + prepared.validation_indices) == list(range(24))


def test_a_dry_run_tells_the_cost_and_leaves_nothing_behind(
    pictures: Path, settings: Callable, tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "red" / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    estimate = dry_run(settings(pictures, "training.steps=1000"), quiet)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert list((tmp_path / "temporary").iterdir()) == []

    told = str(estimate)
    print(told)
    assert "usable pictures: 24; faults: 2" in told and "red/broken.png: not a picture" in told
    assert re.search(rf"^parameters +{estimate.parameters:,}$", told, re.M) and estimate.parameters > 1000
    assert re.search(r"^steps +1,000 of 8 pictures \(333 epochs\)$", told, re.M)
    assert re.search(r"^speed +[\d,]+ pictures/s", told, re.M) and estimate.pictures_per_second > 0
    assert re.search(r"^time +\d+ min$", told, re.M) and estimate.seconds > 1000 * 8 / estimate.pictures_per_second
    assert re.search(r"^memory +\d+\.\d GiB", told, re.M) and estimate.memory_bytes > 2**20
    assert re.search(r"^disk +\d+ MiB", told, re.M)
    # Weights, two averages and at least Muon's momentum in single precision, in three checkpoints.
    assert estimate.disk_bytes > 3 * 4 * 4 * estimate.parameters * 0.9


def test_a_dry_run_on_no_usable_picture_names_them(tmp_path: Path, settings: Callable, quiet: Any) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"none of the 1 files is usable(.|\n)*a\.png"):
        dry_run(settings(tmp_path / "bad"), quiet)
