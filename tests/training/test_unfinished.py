"""Drawing from a run that has not finished."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sfumato.errors import UserError
from sfumato.generation.draw import open_model
from sfumato.training.checkpoint import read_checkpoint
from sfumato.training.run import train


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, drawn: Callable) -> Path:
    return drawn(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module", params=["text", "class", "none"])
def finished(
    request: pytest.FixtureRequest, pictures: Path, settings: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    changes = [] if request.param == "text" else [f"condition.kind={request.param}", "sampling.prompts=[]"]
    train(settings(pictures, *changes, "sampling.ema=1", "training.half=false"), out)
    return out


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """A run that was killed after its last checkpoint: it has no model."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "model")
    return run


def test_the_averages_of_the_newest_whole_checkpoint_draw_and_nothing_is_touched(begun: Path, finished: Path) -> None:
    said: list[str] = []
    files = {path: path.stat().st_mtime_ns for path in begun.rglob("*")}
    model = open_model(begun, said.append)
    assert said == [f"{begun} has not finished: this is its average at step 6 of 6"]
    whole = open_model(finished)
    assert model.classes == whole.classes
    prompt = {"text": "red picture", "class": "red", None: None}[model.conditioner.bare]
    assert model.generate(prompt, seed=3)[0].tobytes() == whole.generate(prompt, seed=3)[0].tobytes()
    assert (model.record["steps"], model.record["unfinished"]) == (6, True)
    assert {path: path.stat().st_mtime_ns for path in begun.rglob("*")} == files

    weights = begun / "checkpoint-00000006" / "ema-1.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    older = open_model(begun, said.append)
    assert "damaged" in said[1] and said[2].endswith("step 4 of 6")
    _, parts = read_checkpoint(begun / "checkpoint-00000004")
    assert all(torch.equal(p, parts["ema-1"][name]) for name, p in older.parameters().items())


def test_a_run_without_a_checkpoint_says_so(begun: Path) -> None:
    for folder in begun.glob("checkpoint-*"):
        shutil.rmtree(folder)
    with pytest.raises(UserError, match="no checkpoint yet"):
        open_model(begun)


def test_a_run_of_an_older_version_is_refused_in_words(begun: Path) -> None:
    facts = json.loads((begun / "data.json").read_text())
    del facts["classes"]
    (begun / "data.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="older version"):
        open_model(begun, lambda text: None)
