"""The same picture again: by the kernel that drew it, into a file of its own, compared honestly."""

import errno

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from sfumato import durable
from sfumato.cli import generate as cli
from sfumato.codecs.arrays import Arrays
from sfumato.codecs.png import png
from sfumato.config import Config
from sfumato.drawing import Draws
from sfumato.errors import UserError
from sfumato.generation.draw import differences, draw, redraw
from sfumato.generation.recipe import read_recipe, texts
from sfumato.model import Model
from sfumato.networks import kernels, native
from sfumato.request import Request
from sfumato.user_cache import user_cache


@pytest.fixture(scope="module")
def model(tiny) -> Model:
    return tiny("text")


# --- who does the convolutions ---------------------------------------------------------------------------------------


@pytest.fixture
def winograd(tmp_path, monkeypatch):
    """The compiled kernel is in use, or the test is left out."""
    found = native.find(user_cache("kernels"))
    if found.kernel is None:
        pytest.skip(found.reason)
    monkeypatch.setattr(kernels, "_process", kernels.Choice(found.kernel))
    return found.kernel


def seen(monkeypatch) -> list[str]:
    """Who does the convolutions of what is drawn from now on, step by step."""
    names = []

    def steps(*arguments, told=Draws.steps, **named):
        for step in told(*arguments, **named):
            names.append(kernel.name if (kernel := kernels.current()) else "torch")
            yield step

    monkeypatch.setattr(Draws, "steps", steps)
    return names


@pytest.mark.parametrize("name", ["torch", "winograd"])
def test_a_picture_is_redrawn_by_the_kernel_that_drew_it(model, winograd, monkeypatch, name):
    with kernels.using(winograd if name == "winograd" else None):
        original = next(draw(model, Request(("a cat",), seed=2)))
    assert original.recipe["kernel"] == name
    names = seen(monkeypatch)
    for other in (winograd, None):
        with kernels.using(other):
            assert redraw(model, original.recipe).png() == original.png()
            assert kernels.current() is other
    assert set(names) == {name}


def test_a_kernel_that_is_not_here_is_refused_with_the_reason(model, winograd, monkeypatch):
    recipe = next(draw(model, Request(("a cat",)))).recipe
    with pytest.raises(UserError, match="done by 'winograd-9', which is not here: this version has 'winograd'"):
        redraw(model, {**recipe, "kernel": "winograd-9"})
    monkeypatch.setenv(native.SWITCH, "torch")
    with kernels.using(None), pytest.raises(UserError, match=r"'winograd', which is not here: .SFUMATO_KERNEL") as told:
        redraw(model, {**recipe, "kernel": "winograd"})
    assert told.value.fix == "unset SFUMATO_KERNEL"


def test_what_differs_from_the_time_of_the_drawing_is_told(model):
    recipe = next(draw(model, Request(("a cat",)))).recipe
    assert differences(model, recipe) == []
    assert differences(model, {name: recipe[name] for name in recipe if name not in ("torch", "device")}) == []
    other = {**recipe, "torch": "1.0.0", "device": "cuda"}
    assert differences(model, other) == [f"torch 1.0.0, here {torch.__version__}", "device cuda, here cpu"]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(model, monkeypatch, tmp_path):
    monkeypatch.setattr("sfumato.generation.draw.open_model", lambda *name: model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def heart(command):
    """A drawn picture, where no other file is."""
    cli.generate("a red cat", seed=5, steps=2, out=command)
    return command / "a-red-cat-5.png"


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def repainted(picture, path):
    """The picture with one level of one pixel changed, and its recipe."""
    recipe = read_recipe(picture)
    with Image.open(picture) as old:
        changed = np.asarray(old).copy()
    changed[0, 0] ^= 1
    path.write_bytes(png(changed, 8, texts(recipe)))


def test_what_was_drawn_again_never_replaces_the_picture_or_another_file(heart, command, capsys):
    original = heart.read_bytes()
    (command / "a-red-cat-5-rerun.png").write_bytes(b"mine")
    assert cli.rerun(heart) == 0
    assert cli.rerun(heart, out=heart) == 0  # the same bytes: nothing is lost
    assert files(command) == {
        heart.name: original,
        "a-red-cat-5-rerun.png": b"mine",
        "a-red-cat-5-rerun-2.png": original,
    }
    repainted(heart, heart)
    changed = heart.read_bytes()
    capsys.readouterr()
    with pytest.raises(UserError, match="is the picture itself, and the new one is not the same"):
        cli.rerun(heart, out=heart)
    assert heart.read_bytes() == changed
    assert "byte for byte" not in capsys.readouterr().out


def test_rerun_takes_a_file_or_a_folder_as_generate_does(heart, command):
    original = heart.read_bytes()
    for out in (command / "new", command / "new", command / "new" / "again.png", command / "deep" / "er"):
        assert cli.rerun(heart, out=out) == 0
    assert files(command) == dict.fromkeys(
        [heart.name, f"new/{heart.name}", "new/again.png", f"deep/er/{heart.name}"], original
    )


@pytest.mark.parametrize(
    ("save", "told", "code"),
    [
        (lambda old, path, info: old.save(path, pnginfo=info, compress_level=1), "the same in every pixel", 0),
        (lambda old, path, info: old.convert("RGBA").save(path, pnginfo=info), "the same in every pixel", 0),
        (lambda old, path, info: old.quantize(4).save(path, pnginfo=info), "not the same", 1),
    ],
)
def test_a_picture_that_was_saved_again_is_compared_by_its_pixels(heart, command, capsys, save, told, code):
    info = PngImagePlugin.PngInfo()
    with Image.open(heart) as old:
        info.add_itxt("sfumato", old.info["sfumato"])
        save(old, command / "again.png", info)
    assert cli.rerun(command / "again.png") == code
    assert told in capsys.readouterr().out


def test_a_grid_and_a_film_never_replace_another_file(command):
    out = command / "pictures"
    out.mkdir()
    mine = {"grid.png": b"mine", "a-red-cat-5.gif": b"mine", "a-red-cat-5.png": b"mine"}
    for name, content in mine.items():
        (out / name).write_bytes(content)
    for _ in range(2):  # the second time all is there already
        cli.generate("a red cat", seed=5, steps=2, grid=True, film=True)
        assert set(files(out)) == {*mine, "grid-2.png", "a-red-cat-5-2.png", "a-red-cat-5-2.gif"}
        assert files(out).items() >= mine.items()


def test_a_full_disk_leaves_no_half_a_picture(command, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        cli.generate("a red cat", seed=5, steps=2)
    assert files(command) == {}


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def wave(settings_of, monkeypatch, tmp_path):
    """A drawn array, whose recipe lies beside it."""
    codec = {"kind": "arrays", "shape": [1, 12, 16], "dtype": "float32", "channel_axis": "none"}
    settings = settings_of("none", codec=codec)
    del settings["data"]["size"]
    made = Model.build(Config.model_validate(settings)).to("cpu").eval()
    assert isinstance(made.codec, Arrays)
    made.codec.centre, made.codec.half = np.array([40.0]), np.array([9.0])
    monkeypatch.setattr("sfumato.generation.draw.open_model", lambda *name: made)
    monkeypatch.chdir(tmp_path)
    cli.generate(seed=5, steps=2, out=tmp_path)
    assert set(files(tmp_path)) == {"picture-5.npy", "picture-5.json"}
    return tmp_path / "picture-5.npy"


def test_an_array_is_drawn_again_byte_for_byte_from_the_recipe_beside_it(wave, capsys):
    original = files(wave.parent)
    assert cli.rerun(wave) == 0 and "the same, byte for byte" in capsys.readouterr().out
    again = files(wave.parent)
    assert again["picture-5-rerun.npy"] == original["picture-5.npy"]
    assert again["picture-5-rerun.json"] == original["picture-5.json"]
    assert cli.rerun(wave, out=wave.parent / "deep" / "b.npy") == 0
    assert files(wave.parent / "deep") == {"b.npy": original["picture-5.npy"], "b.json": original["picture-5.json"]}


def test_a_changed_array_is_told_and_kept(wave, capsys):
    values = np.load(wave)
    np.save(wave, np.asfortranarray(values))
    assert cli.rerun(wave) == 0 and "the same in every number; the file is another" in capsys.readouterr().out
    values[0, 0] += 1
    np.save(wave, values)
    changed = wave.read_bytes()
    assert cli.rerun(wave) == 1 and "not the same: " in capsys.readouterr().out
    with pytest.raises(UserError, match="is the array itself, and the new one is not the same"):
        cli.rerun(wave, out=wave)
    wave.write_bytes(b"\x80\x04N.")
    assert cli.rerun(wave) == 1 and "not the same: " in capsys.readouterr().out
    assert changed != wave.read_bytes()


def test_an_array_and_its_recipe_keep_one_name(wave):
    wave.with_suffix(".json").write_text("mine")
    cli.generate(seed=5, steps=2, out=wave.parent)
    assert {"picture-5-2.npy", "picture-5-2.json"} <= files(wave.parent).keys()
    assert wave.with_suffix(".json").read_text() == "mine"
    assert cli.rerun(wave.with_stem("picture-5-2")) == 0


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (None, "there is no recipe picture-5.json beside it"),
        (b"{", "its recipe is not readable"),
        (b"[]", "its recipe"),
        (b"\xff", "picture-5.json is no text"),
        (b" " * 2**21, "more than the limit"),
    ],
)
def test_an_array_without_a_whole_recipe_is_refused_in_words(wave, recipe, words):
    if recipe is None:
        wave.with_suffix(".json").unlink()
    else:
        wave.with_suffix(".json").write_bytes(recipe)
    with pytest.raises(UserError, match=words):
        cli.rerun(wave)


def test_sheets_and_films_beyond_the_memory_are_refused_before_anything_is_drawn(heart, command, monkeypatch):
    monkeypatch.setattr("sfumato.machine.free_memory", lambda: 2**20)
    before = files(command)
    with pytest.raises(UserError, match=r"grid: it needs .* GiB of memory, and 0.0 GiB are free") as told:
        cli.generate("a red cat", n=200, grid=True, out=command)
    assert "leave --grid out" in told.value.fix
    with pytest.raises(UserError, match="film: it needs"):
        cli.generate("a red cat", steps=2000, film=True, out=command)
    assert files(command) == before
