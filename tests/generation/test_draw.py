"""From a request to files: batches, films, recipes, the same picture again, and Ctrl-C."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import saved
from sfumato.cli import generate as cli
from sfumato.errors import UserError
from sfumato.generation.draw import draw, open_model, redraw
from sfumato.generation.recipe import read_recipe
from sfumato.model import Model
from sfumato.request import Request


@pytest.fixture(scope="module")
def model(tiny) -> Model:
    return tiny("text")


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_draw_and_generate_give_the_same_pictures(model):
    request = Request(("a cat", "a red apple"), n=3, seed=8, negative="flag", settings={"steps": 2, "guidance": 4})
    drawn = [d.picture.tobytes() for d in draw(model, request)]
    listed = model.generate(["a cat", "a red apple"], n=3, seed=8, negative="flag", steps=2, guidance=4)
    assert drawn == [picture.tobytes() for picture in listed]


def test_a_batch_is_given_as_soon_as_it_is_done(model):
    told = []
    pictures = draw(model, Request(("a cat",), n=6), lambda batch, total, step: told.append((batch, total, step.index)))
    next(pictures)
    assert told == [(range(0, 4), 6, i) for i in (1, 2, 3)]
    assert len(list(pictures)) == 5
    assert told[3:] == [(range(4, 6), 6, i) for i in (1, 2, 3)]


def test_a_film_ends_with_the_picture(model):
    for drawn in draw(model, Request((None, "a cat"), n=3), film=True):
        assert len(drawn.film) == 3
        assert drawn.film[-1].tobytes() == drawn.picture.tobytes()
        assert drawn.film[0].tobytes() != drawn.picture.tobytes()


def test_without_a_film_no_states_are_kept(model):
    assert next(draw(model, Request(("a cat",)))).film == ()


def test_a_bad_request_is_refused_before_the_first_step(model):
    with pytest.raises(UserError, match="steps = 0"):
        next(draw(model, Request(("a cat",), settings={"steps": 0})))


def test_a_class_that_does_not_exist_is_refused_before_those_that_do_are_drawn(tiny):
    with pytest.raises(UserError, match="'zebra'"):
        next(draw(tiny("class"), Request(("cat",) * 9 + ("zebra",))))


def test_the_recipe_tells_all_and_no_path(model, tmp_path):
    saved = Model.load(model.save(tmp_path / "model"))
    drawn = next(draw(saved, Request(("a cat",), seed=3, negative="dog", settings={"steps": 2, "solver": None})))
    recipe = drawn.recipe
    assert recipe["prompt"] == "a cat" and recipe["negative"] == "dog" and recipe["seed"] == 3 and recipe["size"] == 16
    assert recipe["sampling"] == {
        "solver": "dpm++2m",
        "grid": "log-snr",
        "steps": 2,
        "guidance": 3.0,
        "guidance_interval": [0.0, 1.0],
    }
    assert recipe["model"] == {"name": "tiny-text", "weights_sha256": saved.hashes["weights.safetensors"]}
    assert recipe["torch"] == torch.__version__ and recipe["device"] == "cpu"
    data = drawn.png()
    for path in (str(tmp_path), "/tmp", "/home", "/root", "pictures"):
        assert path.encode() not in data


# --- again -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "class", "text", "sentence"])
@pytest.mark.parametrize("solver", ["ddpm", "dpm++2m"])
def test_a_picture_is_drawn_again_byte_for_byte(tiny, kind, solver, tmp_path):
    model = tiny(kind)
    prompt = {"none": None, "class": "Brown Dog", "text": 'a red cat, "é"\n🍎', "sentence": "a blue house"}[kind]
    negative = {"none": None, "class": "cat", "text": "flag", "sentence": "green"}[kind]
    settings = {"steps": 2, "guidance": 1 if kind == "none" else 2.5, "guidance_interval": (0.1, 0.9), "solver": solver}
    request = Request((prompt,), n=6, seed=40, negative=negative, size=24, settings=settings)
    *_, original = draw(model, request)  # the second of a batch of two
    (tmp_path / "a.png").write_bytes(original.png())

    loaded = Model.load(model.save(tmp_path / "model"))
    assert redraw(loaded, read_recipe(tmp_path / "a.png")).png() == original.png()


def test_a_model_in_half_precision_draws_again_what_it_drew(model, tmp_path):
    half = Model.load(model.save(tmp_path / "model", half=True))
    original = next(draw(half, Request(("a cat",), seed=1)))
    assert redraw(Model.load(tmp_path / "model"), original.recipe).png() == original.png()
    model.save(tmp_path / "whole")  # other weights: the fixture's hashes are right again


def test_another_model_is_refused(model, tiny):
    drawn = next(draw(model, Request((None,))))
    with pytest.raises(UserError, match="drawn by 'tiny-text'") as caught:
        redraw(tiny("none"), drawn.recipe)
    assert "--model" in caught.value.fix


def test_the_same_network_with_other_weights_is_refused(model, tiny):
    drawn = next(draw(model, Request((None,))))
    other = tiny("text")
    with torch.no_grad():
        next(iter(other.parameters().values())).add_(1e-3)
    with pytest.raises(UserError, match="but this one has"):
        redraw(other, drawn.recipe)


@pytest.mark.parametrize("fails", [False, True])
def test_the_number_of_threads_is_that_of_the_recipe_while_drawing_and_then_as_before(model, fails, monkeypatch):
    threads, seen = [3], []  # a stand-in: real threads would wait for one another on a busy machine
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)

    def on_step(batch, total, step):
        seen.append(threads[-1])
        if fails:
            raise KeyboardInterrupt

    recipe = {**next(draw(model, Request(("a cat",)))).recipe, "threads": 5}
    if fails:
        with pytest.raises(KeyboardInterrupt):
            redraw(model, recipe, on_step)
    else:
        assert redraw(model, recipe, on_step).recipe["threads"] == 5
    assert set(seen) == {5}
    assert threads == [3, 5, 3]


# --- opening a model -------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(model, tmp_path, monkeypatch):
    """A package with one model in it, ``emoji``, and an empty current folder."""
    model.save(tmp_path / "package" / "emoji")
    monkeypatch.setattr(saved, "SHIPPED", tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_the_default_model_is_the_one_of_the_package(shipped, model):
    assert open_model().fingerprint == open_model("emoji").fingerprint == model.fingerprint


def test_a_folder_of_pictures_with_the_name_of_a_model_is_in_nobodys_way(shipped):
    (shipped / "emoji").mkdir()
    assert open_model().config.name == "tiny-text"
    with pytest.raises(UserError, match="no model there"):
        open_model("./emoji")


def test_a_model_and_the_run_that_made_it_are_opened_alike(shipped, tiny):
    tiny("class").save(shipped / "run" / "model")
    assert open_model("run").fingerprint == open_model(shipped / "run" / "model").fingerprint


def test_an_unknown_model_is_told_with_those_there_are(shipped):
    with pytest.raises(UserError, match="no model 'emojy': did you mean 'emoji'"):
        open_model("emojy")


# --- on the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def command(model, monkeypatch, tmp_path):
    monkeypatch.setattr("sfumato.generation.draw.open_model", lambda *name: model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ctrl_c_keeps_the_pictures_of_finished_batches(command, monkeypatch, capsys):
    told = cli.steps_told_to

    def interrupted(*arguments, **options):
        listener = told(*arguments, **options)

        def on_step(batch, total, step):
            listener(batch, total, step)
            if batch.start == 4 and step.index == 2:
                raise KeyboardInterrupt

        return on_step

    monkeypatch.setattr(cli, "steps_told_to", interrupted)
    assert cli.generate("a cat", n=6, seed=10, grid=True) == 130

    files = sorted((command / "pictures").glob("a-cat-*.png"))
    assert [file.name for file in files] == [f"a-cat-{seed}.png" for seed in (10, 11, 12, 13)]
    assert all(read_recipe(file)["seed"] == seed for seed, file in enumerate(files, 10))
    assert (command / "pictures" / "grid.png").exists()
    out, err = capsys.readouterr()
    assert "4" in out + err


def test_what_was_interrupted_goes_on_with_the_same_pictures(command, model):
    cli.generate("a cat", n=2, seed=10, steps=2)
    cli.generate("a cat", n=6, seed=10, steps=2)
    assert len(list((command / "pictures").glob("*.png"))) == 6  # the first two were the same, byte for byte


def test_a_picture_is_drawn_again_from_its_file(command, capsys):
    cli.generate("a red cat", seed=5, steps=2)
    picture = command / "pictures" / "a-red-cat-5.png"
    assert cli.rerun(picture) == 0
    assert (command / "pictures" / "a-red-cat-5-rerun.png").read_bytes() == picture.read_bytes()
    assert "the same, byte for byte" in capsys.readouterr().out

    changed = np.asarray(Image.open(picture)).copy()
    changed[0, 0] ^= 1
    with Image.open(picture) as old:
        recipe = old.info["sfumato"]
    shutil.copy(picture, command / "edited.png")
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("sfumato", recipe)
    Image.fromarray(changed).save(command / "edited.png", pnginfo=info)
    assert cli.rerun(command / "edited.png") == 1  # the negative control: one level of one pixel
