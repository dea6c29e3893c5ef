"""A run that begins with the weights of a saved model: which weights are taken, which are not, and the record of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.errors import UserError
from sfumato.model import Model
from sfumato.training.prepared import prepare_run
from sfumato.training.run import train
from sfumato.training.start import KEPT


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, drawn: Callable) -> Path:
    return drawn(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def donor(pictures: Path, settings: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished model with a text encoder."""
    out = tmp_path_factory.mktemp("donor")
    train(settings(pictures, "training.half=false"), out)
    return out


@pytest.fixture(scope="module")
def by_class(pictures: Path, settings: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished model of the classes blue and red."""
    out = tmp_path_factory.mktemp("by-class")
    train(settings(pictures, "training.half=false", "condition.kind=class", "sampling.prompts=[]"), out)
    return out


def test_a_run_begins_with_the_models_weights_and_its_words(
    pictures: Path, donor: Path, settings: Callable, tmp_path: Path, quiet: Any
) -> None:
    caption = pictures / "red" / "1.txt"
    before = caption.read_text()
    try:
        caption.write_text("words that the donor has never heard of")
        prepared = prepare_run(settings(pictures, f"start.model={donor}"), tmp_path, quiet)
    finally:
        caption.write_text(before)
    source = Model.load(donor / "model")
    assert all(torch.equal(p, source.parameters()[name]) for name, p in prepared.model.parameters().items())
    assert prepared.lineage["start"] == {
        "model": str(donor),
        "weights_sha256": source.fingerprint,
        "taken": len(source.parameters()),
        "left": {},
    }
    assert f"weights are those of {donor} (SHA-256 {source.fingerprint[:10]})" in "\n".join(quiet.said)


def test_what_does_not_fit_is_named_and_begins_anew(
    pictures: Path, donor: Path, settings: Callable, tmp_path: Path, quiet: Any
) -> None:
    config = settings(
        pictures, f"start.model={donor}", "network.blocks=2", "condition.width=24", "diffusion.schedule=flow"
    )
    prepared = prepare_run(config, tmp_path, quiet)
    left, own = prepared.lineage["start"]["left"], prepared.model.parameters()
    source = Model.load(donor / "model").parameters()
    assert left["network.encoder.0.blocks.1.conv1.weight"] == "not there"
    assert any(why.endswith("here") for why in left.values())
    assert all(torch.equal(p, source[name]) for name, p in own.items() if name not in left)
    said = "\n".join(quiet.said)
    assert "start: new are" in said and "and " in said and "schedule cosine there, flow here" in said


def test_vectors_of_classes_go_by_name(
    pictures: Path, by_class: Path, drawn: Callable, settings: Callable, tmp_path: Path, quiet: Any
) -> None:
    other = drawn(tmp_path / "other")
    (other / "blue").rename(other / "aqua")  # so that red becomes another number
    changes = ("condition.kind=class", "sampling.prompts=[]", f"start.model={by_class}")
    prepared = prepare_run(settings(other, *changes), tmp_path / "run", quiet)
    name = "conditioner.class.embedding.weight"
    old, new = Model.load(by_class / "model"), prepared.model
    assert (old.classes, new.classes) == (("blue", "red"), ("aqua", "red"))
    before, now = old.parameters()[name], new.parameters()[name]
    assert torch.equal(now[1], before[1]) and torch.equal(now[2], before[2]) and not torch.equal(now[0], before[0])
    assert prepared.lineage["start"]["left"] == {f"{name} of aqua": "a new class"}


def test_a_model_of_which_nothing_fits_is_refused(
    pictures: Path, donor: Path, settings: Callable, tmp_path: Path, quiet: Any
) -> None:
    changes = ("network.channels=24", "condition.kind=none", "sampling.prompts=[]", f"start.model={donor}")
    with pytest.raises(UserError, match=r"no matrix of .* fits this network"):
        prepare_run(settings(pictures, *changes), tmp_path, quiet)


def test_an_unknown_model_is_refused_before_the_pictures_are_read(
    settings: Callable, tmp_path: Path, quiet: Any
) -> None:
    with pytest.raises(UserError, match="no model 'emojy': did you mean 'emoji'"):
        prepare_run(settings(tmp_path / "absent", "start.model=emojy"), tmp_path, quiet)


def test_the_run_goes_on_without_the_model_and_its_record_names_it(
    pictures: Path, donor: Path, settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(donor, tmp_path / "moved"))
    monkeypatch.chdir(tmp_path)
    config = settings(pictures, "start.model=moved")
    whole = train(config, tmp_path / "run")
    assert whole.record["start"]["weights_sha256"] == Model.load(donor / "model").fingerprint
    train(settings(pictures, f"start.model={moved}/"), tmp_path / "run")  # the same model in other words

    weights = (tmp_path / "run" / "model" / "weights.safetensors").read_bytes()
    shutil.rmtree(moved)
    for step in (2, 4, 6):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step:08d}", ignore_errors=True)
    train(config, tmp_path / "run")
    assert (tmp_path / "run" / "model" / "weights.safetensors").read_bytes() == weights
    assert (tmp_path / "run" / KEPT / "model.json").is_file()


def test_a_run_cannot_change_what_it_began_with(
    pictures: Path, donor: Path, by_class: Path, settings: Callable, tmp_path: Path
) -> None:
    train(settings(pictures, f"start.model={donor}"), tmp_path)
    for other in ('""', by_class):
        with pytest.raises(UserError, match=r"start\.model was "):
            train(settings(pictures, f"start.model={other}"), tmp_path)
