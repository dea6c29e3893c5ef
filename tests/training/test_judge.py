"""The judge of a run: the same score for the same weights, better for better pictures, and no trace in the training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.config import validate
from sfumato.report import Silent
from sfumato.training import judge as judging
from sfumato.training.judge import judge, real_pictures
from sfumato.training.loop import Trainer
from sfumato.training.prepared import prepare_run

COLOURS = {"blue": 2, "red": 0}


def picture(colour: str, number: int) -> np.ndarray:
    """Noise in which one colour is bright."""
    pixels = np.random.default_rng(number).integers(0, 60, (16, 16, 3), dtype=np.uint8)
    pixels[:, :, COLOURS[colour]] += 180
    return pixels


@pytest.fixture
def config(tmp_path, settings_of, monkeypatch):
    """Settings of a run of four steps on 80 pictures of two classes, 17 of them held out."""
    monkeypatch.setattr("sfumato.features.learned.LEAST", 256)
    monkeypatch.setattr("sfumato.features.learned.MOST", 256)
    for i in range(80):
        colour = sorted(COLOURS)[i % 2]
        place = tmp_path / "pictures" / colour
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(colour, i)).save(place / f"{i}.png")
    steps = {"steps": 4, "batch": 4, "precision": "fp32", "evaluate_every": 2, "evaluate_pictures": 64, "threads": 1}
    data = {"path": str(tmp_path / "pictures"), "size": 16, "validation": 0.25}
    return validate(settings_of("class", data=data, training=steps), "the test")


@pytest.fixture
def trainer(config, tmp_path):
    prepared = prepare_run(config, tmp_path / "run", Silent())
    trainer = Trainer(
        prepared.config, prepared.model, prepared.data, prepared.train_indices, prepared.validation_indices
    )
    trainer.model.eval()
    return trainer


def test_the_same_weights_have_the_same_score_and_random_numbers_are_left_alone(trainer, tmp_path):
    state = torch.get_rng_state()
    first = judge(trainer, tmp_path / "features", Silent())
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*") if path.is_file()}
    second = judge(trainer, tmp_path / "features", Silent())

    assert first == second and first.name == "KID x 1000"
    assert first.low is not None and first.high is not None and first.low < first.value < first.high
    assert first.control is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert len(kept) == 4  # learned once: weights, their description, features of reference and control
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*") if path.is_file()}

    with torch.no_grad():
        for parameter in trainer.model.parameters().values():
            parameter.add_(0.05)
    assert judge(trainer, tmp_path / "features", Silent()) != first


def test_a_model_that_draws_what_it_is_asked_for_scores_as_real_pictures_do_and_others_far_worse(
    trainer, tmp_path, monkeypatch
):
    def perfect(trainer, conditions, report):
        return np.stack([picture(asked["class"], 1000 + i) for i, asked in enumerate(conditions)])

    def all_alike(trainer, conditions, report):
        return np.stack([picture("red", 1000 + i) for i in range(len(conditions))])

    fog = judge(trainer, tmp_path / "features", Silent())
    scores = {}
    for draw in (perfect, all_alike):
        monkeypatch.setattr(judging, "drawn", draw)
        scores[draw.__name__] = judge(trainer, tmp_path / "features", Silent())
    good, poor = scores["perfect"], scores["all_alike"]
    assert max(abs(good.value), abs(good.control)) < 0.1 * poor.value
    assert poor.low > good.high and fog.low > good.high


def test_pictures_that_are_not_finite_make_a_bad_score_and_not_an_error(trainer, tmp_path):
    before = judge(trainer, tmp_path / "features", Silent())
    with torch.no_grad():
        for parameter in trainer.model.denoiser.network.parameters():
            parameter.fill_(float("nan"))
    broken = judge(trainer, tmp_path / "features", Silent())
    assert before.control is not None
    assert np.isfinite(broken.value) and broken.value > before.control


def test_where_too_few_are_held_out_there_is_no_control(trainer, tmp_path):
    trainer.validation_indices = list(trainer.validation_indices)[:15]
    assert judge(trainer, tmp_path / "features", Silent()).control is None


def test_what_is_asked_for_is_not_the_reference_where_there_are_enough_pictures(trainer, monkeypatch):
    few = trainer.config.training.model_copy(update={"evaluate_pictures": 20})
    monkeypatch.setattr(judging, "REFERENCE", 40)
    for training, overlap in ((few, 0), (trainer.config.training, 40)):
        trainer.config = trainer.config.model_copy(update={"training": training})
        reference, asked, control = real_pictures(trainer)
        assert len(set(reference)) == 40 and len(asked) == training.evaluate_pictures
        assert len(set(reference) & set(asked)) == overlap
        assert set(reference) | set(asked) <= set(trainer.train_indices)
        assert set(control) == set(trainer.validation_indices)


def test_the_top_level_train_and_the_command_line_bring_the_judge(config, tmp_path, capsys, monkeypatch):
    from sfumato.cli import main as cli

    model = sfumato.train(config, tmp_path / "python")
    assert model.record["evaluations"] == 2 and model.record["best_score"]["name"] == "KID x 1000"

    (tmp_path / "recipe.yaml").write_text(config.to_yaml())
    command = ["train", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "command")]
    assert cli.main(command) == 0
    told = capsys.readouterr()
    assert "step 4: KID x 1000 " in told.err and "the best of 2 evaluations" in told.err
    weights = [(Path(tmp_path) / name / "model" / "weights.safetensors").read_bytes() for name in ("python", "command")]
    assert weights[0] == weights[1]
