"""A model with several conditions, from the request to the picture and back."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main as cli
from sfumato.config import Config
from sfumato.errors import UserError
from sfumato.generation.draw import draw, redraw
from sfumato.generation.recipe import read_recipe
from sfumato.model import Model
from sfumato.request import Request


def model_of(settings_of, conditions: dict, *known) -> Model:
    """A small model with these conditions, of which no weight is zero."""
    torch.manual_seed(0)
    settings = {name: value for name, value in settings_of("none").items() if name != "condition"}
    model = Model.build(Config.model_validate({**settings, "conditions": conditions}), ("cat", "dog"), *known)
    with torch.no_grad():
        for parameter in model.parameters().values():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return model.to("cpu").eval()


@pytest.fixture(scope="module")
def both(settings_of) -> Model:
    """A small model that takes a class and a text."""
    conditions = {
        "class": {"kind": "class", "width": 16},
        "text": {"kind": "text", "width": 32, "depth": 1, "heads": 2, "vocabulary": 64, "max_length": 8},
    }
    return model_of(settings_of, conditions, ["a red cat", "a blue dog"])


@pytest.fixture(scope="module")
def beside(settings_of) -> Model:
    """A small model that takes a mask, a smaller self and a class."""
    conditions = {
        "mask": {"kind": "mask"},
        "low": {"kind": "smaller", "factor": 4},
        "class": {"kind": "class", "width": 16},
    }
    return model_of(settings_of, conditions)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """A picture with a transparent half, and another half of it, as files."""
    folder = tmp_path_factory.mktemp("given")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    for name, half in (("left", np.s_[:, :8]), ("right", np.s_[:, 8:])):
        pixels[:, :, 3] = 255
        pixels[:, :, 3][half] = 0
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return {name: str(folder / f"{name}.png") for name in ("left", "right")}


def pixels(pictures) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]


@pytest.mark.parametrize("kind", ["class", "text", "sentence"])
def test_a_mapping_with_one_condition_draws_the_bytes_of_the_bare_text(kind, tiny):
    model = tiny(kind)
    [name] = model.conditioner.parts
    assert pixels(model.generate({name: "cat"}, n=2, seed=4)) == pixels(model.generate("cat", n=2, seed=4))


def test_every_condition_has_a_say(both):
    asked = [
        {},
        {"class": "cat"},
        {"text": "a red cat"},
        {"class": "cat", "text": "a red cat"},
        {"class": "dog", "text": "a red cat"},
        {"class": "cat", "text": "a blue dog"},
    ]
    assert len(set(pixels(both.generate(asked)))) == len(asked)


def test_the_negative_is_for_the_text_and_leaves_the_class_null(both):
    asked = {"class": "cat", "text": "a red cat"}
    settings = both.sampling()
    _, positive = both.guided([asked], settings)
    guided, _ = both.guided([asked], settings, "a blue dog")
    expected = both.conditioner([{"text": "a blue dog"}])
    assert all(torch.equal(guided.null[name], value) for name, value in expected.items())
    assert not torch.equal(positive["vector"], expected["vector"])


def test_conditions_of_a_request_go_with_every_prompt_and_not_twice(both):
    drawn = list(draw(both, Request(("a red cat", None), conditions={"class": "dog"})))
    alone = both.generate([{"class": "dog", "text": "a red cat"}, {"class": "dog"}])
    assert pixels(d.picture for d in drawn) == pixels(alone)
    with pytest.raises(UserError, match="condition text: it is given twice, as 'a red cat' and 'a blue dog'"):
        both.check(Request(("a red cat",), conditions={"text": "a blue dog"}))


def test_a_model_of_two_conditions_is_saved_and_loaded(both, tmp_path):
    again = Model.load(both.save(tmp_path / "model"))
    asked = {"class": "dog", "text": "a red cat"}
    assert pixels(again.generate(asked)) == pixels(both.generate(asked))


def test_the_recipe_in_a_picture_holds_all_conditions(both, tmp_path):
    [drawn] = draw(both, Request(({"class": "dog", "text": "a red cat"},), seed=3))
    assert drawn.recipe["prompt"] == "a red cat" and drawn.recipe["conditions"] == {"class": "dog"}
    (tmp_path / "a.png").write_bytes(drawn.png())
    recipe = read_recipe(tmp_path / "a.png")
    assert recipe["conditions"] == {"class": "dog"}
    assert redraw(both, recipe).png() == drawn.png()


def test_the_recipe_of_a_single_prompt_is_as_it_was(tiny):
    [drawn] = draw(tiny("class"), Request(("cat",)))
    assert drawn.recipe["prompt"] == "cat" and "conditions" not in drawn.recipe
    assert np.asarray(drawn.picture).shape == (16, 16, 3)


# --- pictures as conditions ------------------------------------------------------------------------------------------


def test_a_picture_as_a_condition_changes_what_is_drawn_at_any_size(beside, files):
    asked = [{}, {"mask": files["left"]}, {"mask": files["right"]}, {"low": files["left"]}, {"class": "dog"}]
    for size in (16, 24):
        assert len(set(pixels(beside.generate(asked, size=size)))) == len(asked)


def test_a_model_with_planes_is_saved_and_loaded(beside, files, tmp_path):
    again = Model.load(beside.save(tmp_path / "model"))
    asked = {"mask": files["left"], "class": "cat"}
    assert pixels(again.generate(asked)) == pixels(beside.generate(asked))


def test_a_model_without_text_or_class_says_which_conditions_it_has(settings_of):
    settings = {name: value for name, value in settings_of("none").items() if name != "condition"}
    config = Config.model_validate({**settings, "conditions": {"low": {"kind": "smaller"}}})
    with pytest.raises(UserError, match=r"trained without captions or classes; it has low \(a picture\)"):
        Model.build(config).generate("a cat")


def test_a_recipe_holds_the_hash_of_a_picture_and_rerun_asks_for_that_picture(beside, files):
    [drawn] = draw(beside, Request(("dog",), seed=3, conditions={"mask": files["left"]}))
    recipe = json.loads(json.dumps(drawn.recipe))
    assert recipe["prompt"] == "dog" and recipe["conditions"]["mask"]["file"] == "left.png"

    assert redraw(beside, recipe, pictures={"mask": files["left"]}).png() == drawn.png()
    with pytest.raises(UserError, match=r"drawn with 'left\.png', which its recipe does not hold") as caught:
        redraw(beside, recipe)
    assert caught.value.fix == "give it again: --condition mask=left.png"
    with pytest.raises(UserError, match=r"condition mask: .*'left\.png' of SHA-256 .*'right\.png' is another"):
        redraw(beside, recipe, pictures={"mask": files["right"]})
    with pytest.raises(UserError, match="condition low: the picture was drawn without it"):
        redraw(beside, recipe, pictures={"mask": files["left"], "low": files["left"]})


def test_the_command_line_draws_with_conditions_and_draws_again(beside, files, tmp_path, capsys):
    folder, out = beside.save(tmp_path / "model"), tmp_path / "out"
    given = ["--condition", "class=dog", "--condition", f"mask={files['left']}"]
    assert cli.main(["generate", "--model", str(folder), "--seed", "1", "--out", str(out), *given]) == 0
    [picture] = out.glob("*.png")
    assert "dog" in picture.name

    again = ["rerun", str(picture), "--model", str(folder)]
    assert cli.main(again) == 2
    assert "give it again: --condition mask=left.png" in capsys.readouterr().err
    assert cli.main([*again, "--condition", f"mask={files['left']}"]) == 0
    assert "the same, byte for byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["class"], "'class' is not of the form name=value"),
        (["class=cat", "class=dog"], "condition class: it is given twice"),
        (["clas=cat"], "did you mean 'class'?"),
        (["class=cow"], "condition class: 'cow' is not one of this model's 2 classes: cat, dog"),
        (["mask=none.png"], "condition mask: none.png cannot be read"),
    ],
)
def test_a_wrong_condition_on_the_command_line_is_told(given, told, beside, tmp_path, capsys):
    folder = beside.save(tmp_path / "model")
    options = [word for text in given for word in ("--condition", text)]
    assert cli.main(["generate", "--model", str(folder), "--out", str(tmp_path / "out"), *options]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
