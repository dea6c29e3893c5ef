"""From end to end: a model of two colours learns which is which."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.model import Model
from sfumato.training.card import read_losses
from sfumato.training.run import train

COLOURS = {"red": (220, 40, 40), "blue": (40, 40, 220)}


def draw_squares(folder: Path, count: int) -> Path:
    """Squares of 4 pixels anywhere on grey, 8 x 8, in a folder for each colour."""
    chance = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture = np.full((8, 8, 3), 128, np.uint8)
            y, x = chance.integers(0, 5, 2)
            picture[y : y + 4, x : x + 4] = colour
            picture += chance.integers(0, 8, picture.shape, dtype=np.uint8)  # so that no two files are alike
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


def test_a_toy_of_two_classes_is_learnt_and_drawn_by_class(
    settings: Callable, trainer_of: Callable, tmp_path: Path
) -> None:
    pictures = draw_squares(tmp_path / "pictures", 40)
    config = settings(
        pictures,
        "data.flip=false",
        "condition.kind=class",
        "condition.width=32",
        "network.channels=16",
        "network.dropout=0.0",
        "optimizer.lr=0.02",
        "optimizer.warmup=10",
        "training.steps=60",
        "training.batch=32",
        "training.accumulate=1",
        "training.validate_every=60",
        "training.sample_every=1000",
        "training.checkpoint_every=60",
        "sampling.steps=10",
        "sampling.prompts=[]",
    )
    before = trainer_of(config, tmp_path / "before").validate()
    train(config, tmp_path / "run")
    training, validation = read_losses(tmp_path / "run" / "loss.jsonl")
    assert len(training) == 60
    print(f"validation loss: {before:.3f} before, {validation[-1][1]:.3f} after")
    assert validation[-1][1] < before / 2

    model = Model.load(tmp_path / "run" / "model")
    assert set(model.classes) == set(COLOURS)
    right = {name: 0 for name in COLOURS}
    for name in COLOURS:
        for picture in model.generate(name, n=8, seed=3):
            red, _, blue = np.asarray(picture, dtype=float).mean((0, 1))
            right[name] += (red > blue + 10) if name == "red" else (blue > red + 10)
    print(right)
    assert min(right.values()) >= 7


TINTS = {"bright": 60, "dark": -60}


def test_class_and_caption_together_are_both_obeyed(settings: Callable, tmp_path: Path) -> None:
    """The class gives the colour and the caption the brightness, in all four pairs."""
    chance = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for tint, shift in TINTS.items():
            for i in range(12):
                (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
                picture = np.full((8, 8, 3), colour) // 2 + 64 + shift + chance.integers(0, 6, (8, 8, 3))
                Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{tint}{i}.png")
                (tmp_path / "pictures" / name / f"{tint}{i}.txt").write_text(tint)
    config = settings(
        tmp_path / "pictures",
        "data.flip=false",
        "conditions.class.kind=class",
        "conditions.class.width=32",
        "network.channels=16",
        "network.dropout=0.0",
        "optimizer.lr=0.02",
        "optimizer.warmup=10",
        "training.steps=80",
        "training.batch=32",
        "training.accumulate=1",
        "training.validate_every=80",
        "training.sample_every=1000",
        "training.checkpoint_every=80",
        "sampling.steps=10",
        "sampling.prompts=[]",
    )
    model = train(config, tmp_path / "run")
    assert list(model.conditioner.parts) == ["class", "text"]

    asked = [{"class": name, "text": tint} for name in COLOURS for tint in TINTS]
    found = {}
    for i, condition in enumerate(asked):
        pictures = np.stack([np.asarray(p, dtype=float) for p in model.generate(condition, n=4, seed=10 * i)])
        found[condition["class"], condition["text"]] = pictures.mean((0, 1, 2))
    print({pair: colour.round().tolist() for pair, colour in found.items()})
    for tint in TINTS:
        assert found["red", tint][0] > found["red", tint][2] + 30
        assert found["blue", tint][2] > found["blue", tint][0] + 30
    for name in COLOURS:
        assert found[name, "bright"].mean() > found[name, "dark"].mean() + 50
