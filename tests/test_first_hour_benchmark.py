"""The benchmark of the first hour: which pictures it takes out of the packages, and with which captions."""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import first_hour  # noqa: E402 # pyright: ignore[reportMissingImports]


def test_what_goes_on_across_its_edges_is_a_texture_and_a_ramp_a_sign_or_a_plain_wall_is_not() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    ramp = np.repeat(np.arange(128, dtype=np.uint8)[:, None], 128, 1)
    assert first_hour.is_texture(Image.fromarray(noise))
    assert not first_hour.is_texture(Image.fromarray(noise[:64, :64]))  # too small
    assert not first_hour.is_texture(Image.fromarray(noise[:, :100]))  # not square
    assert not first_hour.is_texture(Image.fromarray(ramp))
    assert not first_hour.is_texture(Image.new("RGB", (128, 128)))
    assert not first_hour.is_texture(Image.fromarray(np.dstack([noise, noise[..., 0]])))  # partly transparent


def test_textures_are_colour_maps_of_surfaces_each_once(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    content = first_hour.png(Image.fromarray(noise))
    with zipfile.ZipFile(tmp_path / "game.pk3", "w") as files:
        for name in ("walls/brick.png", "walls/copy.png", "walls/brick_nm.png", "signs/exit.png", "walls/notes.txt"):
            files.writestr(f"textures/{name}", content)
    names = [name for name, _ in first_hour.textures(tmp_path)]
    assert len(names) == 1 and names[0] in ("walls_brick.png", "walls_copy.png")


def test_a_product_has_its_render_and_a_line_a_caption(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (8, 8)).save(file, "PNG")
    rows = "name#1=Bill 10\\u20ac\ntags#1=Money\ncategory#1=Office\nicon#1=/a/bill.png\n"
    with zipfile.ZipFile(tmp_path / "Shop.sh3f", "w") as files:
        files.writestr("PluginFurnitureCatalog.properties", rows)
        files.writestr("a/bill.png", file.getvalue())
    found = dict(first_hour.products(tmp_path))
    assert found["Shop-001.png"] == file.getvalue()
    assert found["Shop-001.txt"].decode().split("\n") == ["bill 10€", "bill 10€, money", "bill 10€, office"]
