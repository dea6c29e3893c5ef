"""The same picture in another form is found, other pictures are not, and the order of the pictures does not matter."""

import io
import json
import sys

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from sfumato.codecs.arrays import Arrays
from sfumato.codecs.pixels import Pixels
from sfumato.data import duplicates as module
from sfumato.data.duplicates import find_duplicates, groups_of, perceptual_hash, reduced
from sfumato.data.preparation import prepare
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.errors import MissingPackage, UserError

LARGE, SMALL, COUNT = 96, 32, 20


def scene(seed: int) -> Image.Image:
    """Coloured shapes on a coloured ground, LARGE pixels."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", (LARGE, LARGE), tuple(random.integers(100, 220, 3).tolist()))
    canvas = ImageDraw.Draw(picture)
    for _ in range(8):
        x, y, width, height = random.integers(8, 56, 4).tolist()
        colour = tuple(random.integers(20, 220, 3).tolist())
        (canvas.ellipse if random.random() < 0.5 else canvas.rectangle)((x, y, x + width, y + height), fill=colour)
    return picture


def face(mouth: int, colour: str = "gold", eye: int = 6) -> Image.Image:
    """An icon on white, whose mouth goes up or down."""
    picture = Image.new("RGB", (LARGE, LARGE), "white")
    canvas = ImageDraw.Draw(picture)
    canvas.ellipse((8, 8, 88, 88), fill=colour)
    for x in (32, 58):
        canvas.ellipse((x, 34, x + eye, 34 + 2 * eye), fill="black")
    canvas.line((30, 64, 48, 64 + mouth, 66, 64), fill="black", width=5)
    return picture


def stacked(pictures: list[Image.Image], mode: str = "RGB") -> np.ndarray:
    """uint8 (N, 32, 32, C), as preparation would make them."""
    small = [np.asarray(p.convert(mode).resize((SMALL, SMALL), Image.Resampling.BOX)) for p in pictures]
    return np.stack(small).reshape(len(small), SMALL, SMALL, -1)


def jpeg(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=50)
    return Image.open(stream)


def moved(picture: Image.Image, right: int, down: int) -> Image.Image:
    ground = picture.getpixel((0, 0))
    return picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, -right, 0, 1, -down), fillcolor=ground)


GUISES = {
    "darker": lambda p: ImageEnhance.Brightness(p).enhance(0.88),
    "brighter": lambda p: p.point(lambda value: value + 20),
    "less contrast": lambda p: ImageEnhance.Contrast(p).enhance(0.88),
    "jpeg": jpeg,
    "a pixel to the right": lambda p: moved(p, 3, 0),
    "a pixel up and left": lambda p: moved(p, -3, -3),
    "a pixel down and left": lambda p: moved(p, -3, 3),
    "two thirds of a pixel to the right": lambda p: moved(p, 2, 0),
    "two thirds of a pixel down": lambda p: moved(p, 0, 2),
    "made small and large again": lambda p: p.resize((56, 56)).resize((LARGE, LARGE)),
    "all of it": lambda p: jpeg(moved(ImageEnhance.Brightness(p).enhance(0.93), 2, 0).resize((80, 80))),
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("guise", GUISES)
def test_a_picture_in_another_guise_is_found_and_no_other(guise, mode):
    originals = [scene(seed) for seed in range(COUNT)]
    found = groups_of(stacked([*originals, *map(GUISES[guise], originals)], mode))
    groups = {indices for indices, _ in found}
    pairs = {(i, i + COUNT) for i in range(COUNT)}
    assert groups <= pairs and len(groups) >= COUNT - 1


def test_pictures_on_white_with_like_hashes_are_told_apart():
    pictures = [face(mouth) for mouth in (-12, 0, 12)] + [face(0, colour) for colour in ("orange", "pink", "tan")]
    pictures += [face(12, eye=12)]
    stack = stacked(pictures)
    hashes = np.unpackbits(perceptual_hash(reduced(stack)[..., 0]), axis=1)
    assert ((hashes[:, None] != hashes[None]).sum(2) <= module.BITS).sum() > 2 * len(stack)
    assert groups_of(stack) == []
    assert groups_of(stacked([*pictures, jpeg(pictures[2])])) and len(groups_of(stacked([*pictures, pictures[2]]))) == 1


def test_a_picture_to_which_something_small_was_added_is_another():
    originals = [scene(seed) for seed in range(COUNT)]
    marked = [p.copy() for p in originals]
    for picture in marked:
        ImageDraw.Draw(picture).ellipse((44, 44, 53, 53), fill="white")
    assert groups_of(stacked([*originals, *marked])) == []


def test_pictures_of_noise_and_flat_ones_are_told_apart():
    noise = np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1), dtype=np.uint8)
    flat = np.stack([np.full((28, 28, 1), level, np.uint8) for level in (0, 80, 160, 250)])
    assert groups_of(np.concatenate([noise, flat])) == []


def test_the_scan_is_the_same_in_any_order():
    originals = [scene(seed) for seed in range(COUNT)]
    guises = [moved(jpeg(p), 3, 3) for p in originals[:8]] + [moved(p, -3, 0) for p in originals[4:8]]
    stack = stacked([*originals, *guises, originals[0]])
    order = np.random.default_rng(0).permutation(len(stack))
    found = groups_of(stack)
    again = [(tuple(sorted(order[list(indices)].tolist())), distance) for indices, distance in groups_of(stack[order])]
    assert len(found) >= 7 and sorted(again) == found
    assert (0, 20, 32) in [indices for indices, _ in found] and (4, 24, 28) in [indices for indices, _ in found]


def test_without_a_margin_the_hash_is_the_phash_of_imagehash():
    pictures = [scene(seed).convert("L").resize((32, 32)) for seed in range(COUNT)]
    ours = np.unpackbits(perceptual_hash(np.stack([np.asarray(p) for p in pictures]), margin=0), axis=1)
    assert np.array_equal(ours, np.stack([imagehash.phash(p).hash.ravel() for p in pictures]))


def test_a_hash_of_a_moved_picture_is_that_of_the_picture_moved():
    x = np.asarray(scene(0).convert("L").resize((32, 32)))[None]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    assert np.array_equal(perceptual_hash(x, (1, -1)), perceptual_hash(padded[:, :-2, 2:]))


def test_many_equal_pictures_are_one_group_at_once():
    stack = np.concatenate([np.full((5000, 32, 32, 3), 255, np.uint8), stacked([scene(0), scene(1)])])
    assert groups_of(stack) == [(tuple(range(5000)), 0.0)]


def test_neighbours_in_feature_space_are_duplicates_too():
    stack = stacked([scene(seed) for seed in range(COUNT)])
    features = np.random.default_rng(0).normal(size=(COUNT, 16))
    features[[3, 9]] = features[12] + 0.01 * features[[3, 9]]
    assert groups_of(stack) == []
    assert [indices for indices, _ in groups_of(stack, features=features)] == [(3, 9, 12)]


def test_a_data_set_is_scanned_and_one_picture_of_a_group_is_kept(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        scene(i).save(folder / f"{i}.png")
    jpeg(scene(1)).save(folder / "6.png")
    moved(scene(1), 3, 0).save(folder / "7.png")
    scene(4).save(folder / "8.bmp")
    data = prepare(open_source(folder), Pictures(SMALL), tmp_path / "cache")

    told = []
    found = find_duplicates(data, Pixels(SMALL), lambda done, total: told.append((done, total)))
    assert [group.paths for group in found.groups] == [("1.png", "6.png", "7.png"), ("4.png", "8.bmp")]
    assert found.keep().tolist() == [0, 1, 2, 3, 4, 5]
    assert str(found).splitlines()[0] == "near-duplicates: 2 groups of 5 pictures; 3 pictures to spare"
    assert "3 x  1.png, 6.png, 7.png" in str(found) and told == [(8, 8)]  # different pictures

    found.save(tmp_path / "duplicates.json")
    kept = json.loads((tmp_path / "duplicates.json").read_text())
    assert kept["manifest_sha256"] == data.manifest_hash and kept["pictures"] == 9
    assert kept["groups"][1] == {"indices": [4, 8], "paths": ["4.png", "8.bmp"], "distance": 0.0}


def test_what_cannot_be_scanned_is_refused(monkeypatch):
    with pytest.raises(UserError, match="8 pixels are too small"):
        groups_of(np.zeros((3, 8, 8, 1), np.uint8))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingPackage, match="faiss-cpu"):
        groups_of(stacked([scene(0), scene(1)]))


@pytest.mark.parametrize("shape", [(1, 40), (2, 9, 10), (1, 6, 7, 8)])
def test_copies_among_arrays_are_equal_ones_and_near_ones_and_nothing_else(shape):
    rows = np.random.default_rng(0).normal(40, 9, (60, *shape))
    rows[7], rows[50] = rows[3], rows[20] + np.random.default_rng(1).normal(0, 0.1, shape)
    rows[30] = 1e4 + 1e-3 * rows[30]  # far from all others, and of small differences of its own
    codec = Arrays(shape, "float64")
    codec.fit(rows)
    assert [indices for indices, _ in module.groups_of_values(codec, rows)] == [(3, 7), (20, 50)]
