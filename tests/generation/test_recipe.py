"""The recipe inside a picture: written, read back, read by others, and pictures that come from anywhere."""

import io
import json
import re
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sfumato.codecs.png import png
from sfumato.errors import UserError
from sfumato.generation.recipe import LARGEST_RECIPE, parameters, read_recipe, texts

RECIPE = {
    "sfumato": "0.1.0",
    "torch": "2.13.0",
    "device": "cpu",
    "threads": 1,
    "kernel": "winograd",
    "model": {"name": "emoji", "weights_sha256": "0123456789abcdef" * 4},
    "prompt": "a red heart, glossy: 3d",
    "negative": "blurry, grey",
    "seed": 7,
    "size": 32,
    "sampling": {
        "solver": "dpm++2m",
        "grid": "log-snr",
        "steps": 20,
        "guidance": 3.0,
        "guidance_interval": [0.0, 1.0],
    },
}
PICTURE = Image.effect_noise((32, 32), 90).convert("RGB")


def file_of(picture: Image.Image, recipe: dict) -> bytes:
    return png(np.asarray(picture), 8, texts(recipe))


def with_text(text: str, key: str = "sfumato", compressed: bool = False) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, text, zip=compressed)
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt": None, "negative": None},
        {"prompt": 'é 🍎 "quoted" \\ \n second line \0 end', "negative": "<script>alert(1)</script>"},
        {"prompt": "x" * 10_000, "negative": "🍎" * 10_000},
        {"seed": 2**63 - 1},
    ],
)
def test_what_is_written_is_read_back(tmp_path, changes):
    file = tmp_path / "a.png"
    file.write_bytes(file_of(PICTURE, {**RECIPE, **changes}))
    assert read_recipe(file) == {**RECIPE, **changes}
    with Image.open(file) as again:
        assert again.tobytes() == PICTURE.tobytes()


def test_the_same_picture_and_recipe_are_the_same_bytes():
    assert file_of(PICTURE, RECIPE) == file_of(PICTURE.copy(), json.loads(json.dumps(RECIPE)))


def test_what_a_later_version_adds_is_left_out(tmp_path):
    later = {**RECIPE, "upscaler": {"by": 2}, "model": {**RECIPE["model"], "tags": []}}
    (tmp_path / "a.png").write_bytes(file_of(PICTURE, later))
    assert read_recipe(tmp_path / "a.png") == RECIPE


# --- the convention of others ----------------------------------------------------------------------------------------

# How tools of that convention read it: settings in the last line, a quoted value where it holds a comma.
ENTRY = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
SIZE = re.compile(r"^(\d+)x(\d+)$")


def read_by_others(text: str) -> dict[str, str]:
    *lines, last = text.strip().split("\n")
    if len(ENTRY.findall(last)) < 3:
        lines, last = [*lines, last], ""
    prompt, negative, is_negative = "", "", False
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            is_negative, line = True, line.removeprefix("Negative prompt:").strip()
        if is_negative:
            negative += ("\n" if negative else "") + line
        else:
            prompt += ("\n" if prompt else "") + line
    entries = {name: json.loads(value) if value[:1] == '"' else value for name, value in ENTRY.findall(last)}
    return {"Prompt": prompt, "Negative prompt": negative, **entries}


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("a red heart", "blurry"),
        ("a red heart, glossy: 3d", None),
        ("two\nlines: of, prompt", "two\nlines"),
        (None, None),
        (None, "grey"),
    ],
)
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "heun", "dpm++2m", "deis"])
def test_tools_of_the_a1111_convention_read_prompt_and_settings(prompt, negative, solver):
    recipe = {**RECIPE, "prompt": prompt, "negative": negative, "sampling": {**RECIPE["sampling"], "solver": solver}}
    found = read_by_others(parameters(recipe))
    assert found["Prompt"] == (prompt or "")
    assert found["Negative prompt"] == (negative or "")
    assert found["Steps"] == "20" and int(found["Seed"]) == 7 and float(found["CFG scale"]) == 3
    assert (
        found["Sampler"]
        == {"ddpm": "DDPM", "ddim": "DDIM", "heun": "Heun", "dpm++2m": "DPM++ 2M", "deis": "deis"}[solver]
    )
    assert SIZE.findall(found["Size"]) == [("32", "32")]
    assert found["Model"] == "emoji" and found["Model hash"] == "0123456789"


def test_the_text_for_others_is_in_the_file():
    with Image.open(io.BytesIO(file_of(PICTURE, RECIPE))) as picture:
        assert picture.info["parameters"] == parameters(RECIPE)


# --- pictures from anywhere ------------------------------------------------------------------------------------------


def refused(tmp_path, data: bytes, *parts: str) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_recipe(file)
    assert str(file) in caught.value.message
    assert caught.value.fix
    assert len(str(caught.value)) < 1500
    for part in parts:
        assert part in str(caught.value)


def test_a_picture_without_a_recipe_is_told(tmp_path):
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    refused(tmp_path, buffer.getvalue(), "holds no recipe")
    refused(tmp_path, with_text("Steps: 20", key="parameters"), "holds no recipe")


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP", "BMP"])
def test_another_format_named_png_is_told(tmp_path, kind):
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind)
    refused(tmp_path, buffer.getvalue(), "cannot be read as a PNG")


@pytest.mark.parametrize("data", [b"", b"a text", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 100])
def test_what_is_no_picture_is_told(tmp_path, data):
    refused(tmp_path, data, "cannot be read as a PNG")


def test_an_absent_file_and_a_folder_are_told(tmp_path):
    for path, message in ((tmp_path / "nothing.png", "there is no such file"), (tmp_path, "is a folder and no file")):
        with pytest.raises(UserError, match=message):
            read_recipe(path)


def test_a_picture_cut_anywhere_is_an_error_in_words_or_has_its_whole_recipe(tmp_path):
    data, file, errors = file_of(PICTURE, RECIPE), tmp_path / "cut.png", 0
    for length in range(0, len(data), 7):
        file.write_bytes(data[:length])
        try:
            assert read_recipe(file) == RECIPE  # only pixels are missing
        except UserError:
            errors += 1
    assert 20 < errors < len(data) // 7


def test_a_damaged_recipe_is_an_error_in_words_or_what_was_written(tmp_path):
    data, file, errors = file_of(PICTURE, RECIPE), tmp_path / "damaged.png", 0
    start = data.index(b"sfumato") - 8
    for place in range(start, start + 500, 3):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        file.write_bytes(damaged)
        try:
            assert read_recipe(file) == RECIPE
        except UserError:
            errors += 1
    assert errors > 100  # PNG has a checksum a chunk


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '"text"', "{}", "[" * 100_000, '{"a":' * 40_000, '{"seed": 1e999}', "\0", "{'a': 1}"],
)
def test_a_hostile_text_is_refused(tmp_path, text):
    refused(tmp_path, with_text(text))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**64}, "seed = 18446744073709551616"),
        ({"seed": "seven"}, "seed = 'seven'"),
        ({"seed": None}, "seed = None"),
        ({"size": 10**9}, "size = 1000000000"),
        ({"size": 0}, "size = 0"),
        ({"threads": 10**9}, "threads = 1000000000"),
        ({"threads": 0}, "threads = 0"),
        ({"prompt": ["a"]}, "prompt = ['a']"),
        ({"negative": {"$ref": "x"}}, "negative"),
        ({"model": None}, "model"),
        ({"model": {"name": "emoji"}}, "model.weights_sha256 is missing"),
        ({"model": {"name": "emoji", "weights_sha256": "../../secret"}}, "model.weights_sha256 = '../../secret'"),
        ({"model": {"name": "x" * 65, "weights_sha256": "0" * 64}}, "model.name"),
        ({"sampling": {}}, None),
        ({"sampling": {"solver": "os.system"}}, "sampling.solver = 'os.system'"),
        ({"sampling": {"steps": 10**12}}, "sampling.steps = 1000000000000"),
        ({"sampling": {"run": "rm"}}, "sampling.run is not a setting"),
        ({"sampling": [1]}, "sampling"),
    ],
)
def test_a_recipe_is_bounded_like_any_setting(tmp_path, changes, part):
    data = with_text(json.dumps({**RECIPE, **changes}))
    if part:
        refused(tmp_path, data, part)
    else:  # what is left out of the sampling has a default
        (tmp_path / "a.png").write_bytes(data)
        assert read_recipe(tmp_path / "a.png")["sampling"]["steps"] == 20


@pytest.mark.parametrize("missing", [name for name in RECIPE if name not in ("torch", "device", "kernel")])
def test_a_recipe_that_lacks_something_is_told_what(tmp_path, missing):
    refused(tmp_path, with_text(json.dumps({k: v for k, v in RECIPE.items() if k != missing})), f"{missing} is missing")


def test_a_recipe_of_megabytes_is_refused(tmp_path):
    text = json.dumps({**RECIPE, "padding": "x" * LARGEST_RECIPE})
    refused(tmp_path, with_text(text), "more than the limit of 262,144")


def test_a_compressed_text_that_swells_is_refused_without_swelling(tmp_path):
    data = with_text("x" * 50_000_000, compressed=True)
    tracemalloc.start()
    refused(tmp_path, data, "more than the limit of 262,144")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


START, PIXELS, END = b"\x89PNG\r\n\x1a\n", chunk(b"IDAT", b"not read"), chunk(b"IEND", b"")
HEAD = chunk(b"IHDR", bytes.fromhex("0000002000000020 08 02 000000"))
JSON = json.dumps(RECIPE, ensure_ascii=False).encode()


@pytest.mark.parametrize("side", [9_000, 2**31 - 1])
def test_a_bomb_of_pixels_is_not_unpacked(tmp_path, side):
    head = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0")
    (tmp_path / "bomb.png").write_bytes(START + head + chunk(b"iTXt", b"sfumato\0\0\0\0\0" + JSON) + PIXELS)
    assert read_recipe(tmp_path / "bomb.png") == RECIPE


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"iTXt", b"sfumato\0\0\0en\0Sfumato\0" + JSON),
        (b"iTXt", b"sfumato\0\1\0\0\0" + zlib.compress(JSON)),
        (b"zTXt", b"sfumato\0\0" + zlib.compress(JSON)),
        (b"tEXt", b"sfumato\0" + JSON),
        (b"tEXt", b"sfumato\0" + json.dumps({**RECIPE, "prompt": "caf\xe9"}, ensure_ascii=False).encode("latin-1")),
    ],
    ids=["text", "compressed text", "compressed", "plain", "plain in Latin-1"],
)
def test_a_recipe_is_found_wherever_and_however_other_programs_save_it(tmp_path, kind, body, behind):
    other, text = chunk(b"tEXt", b"Software\0" + b"x" * 2_000_000), chunk(kind, body)
    parts = [PIXELS, text] if behind else [text, PIXELS]
    (tmp_path / "a.png").write_bytes(b"".join([START, HEAD, other, *parts, END]))
    found = read_recipe(tmp_path / "a.png")
    assert found == {**RECIPE, "prompt": found["prompt"]} and found["prompt"] in (RECIPE["prompt"], "caf\xe9")


@pytest.mark.parametrize("key", [b"sfumato", b"sfumatp"])
def test_a_damaged_text_is_called_damaged(tmp_path, key):
    text = bytearray(chunk(b"iTXt", key + b"\0\0\0\0\0" + JSON))
    text[-1] ^= 1
    refused(tmp_path, START + HEAD + text + PIXELS + END, "is damaged: the checksum of")
    refused(tmp_path, START + HEAD + PIXELS, "is damaged: it is cut short")
    refused(tmp_path, START + HEAD + chunk(b"zTXt", b"sfumato\0\0no zlib") + END, "cannot be unpacked")


def test_a_file_of_nothing_but_empty_parts_is_given_up(tmp_path):
    refused(tmp_path, START + HEAD + 2**17 * chunk(b"IDAT", b"") + END, "it has too many parts")
