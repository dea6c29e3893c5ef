"""A run by groups: none is on both sides, and the settings, the card and the estimate know of it."""

import json

import pytest

from sfumato.config import change, load_recipe, validate
from sfumato.data.groups import NoGroup
from sfumato.evaluation.pictures import material_for
from sfumato.training.estimate import dry_run
from sfumato.training.prepared import prepare_run
from sfumato.training.run import train


@pytest.fixture
def films(tmp_path, drawn, settings):
    """(the folder, a run by the tens of the pictures' numbers)."""
    pictures = drawn(tmp_path / "pictures")
    config = settings(pictures).model_dump(mode="json")
    return pictures, validate(change(config, [r"data.group=/(\d)\d*\."]), "the tests")


def test_a_run_holds_whole_groups_out_and_says_so(tmp_path, films, quiet):
    pictures, config = films
    prepared = prepare_run(config, tmp_path / "out", quiet)
    groups = prepared.data.groups
    assert groups is not None and len(set(groups)) == 10
    sides = [{groups[i] for i in side} for side in (prepared.train_indices, prepared.validation_indices)]
    assert all(sides) and not sides[0] & sides[1]

    model = train(config, tmp_path / "out")
    assert load_recipe(tmp_path / "out" / "config.yaml").data.group == config.data.group
    assert "in whole groups (`data.group: " in (tmp_path / "out" / "model" / "README.md").read_text()
    assert "10 groups" in json.loads((tmp_path / "out" / "data.json").read_text())["description"]

    again = material_for(model, str(pictures), tmp_path / "again", quiet)
    assert again.unseen.tolist() == prepared.validation_indices
    other = pictures.parent / "other"
    other.mkdir()
    for i, file in enumerate(sorted(pictures.rglob("*.png"))[:4]):  # no name of them has a group
        (other / f"{'abcd'[i]}.png").write_bytes(file.read_bytes())
    assert not material_for(model, str(other), tmp_path / "others", quiet).trained_on


def test_the_estimate_does_not_mind_few_groups_and_data_without_them_are_refused(tmp_path, films, quiet):
    _, config = films
    assert "10 groups" in str(dry_run(config, quiet))
    with pytest.raises(NoGroup, match=r"data\.group"):
        train(validate(change(config.model_dump(mode="json"), ["data.group=patient"]), "the tests"), tmp_path / "out")
