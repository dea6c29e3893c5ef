"""Pictures by content, TGA by its name, and plug-ins only where they are needed."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sfumato.data import DataError, formats, open_source, prepare
from sfumato.data.readers import Unusable
from sfumato.data.readers.pictures import Pictures

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(60)
JXL = b"\xff\x0a" + bytes(60)


@pytest.mark.parametrize(("name", "kind"), [("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.JFIF", "JPEG"), ("a.pbm", "PPM"),
                                            ("a.dib", "BMP"), ("a.apng", "PNG")])  # fmt: skip
def test_further_names_of_known_formats_are_read(tmp_path, folder, picture, name, kind):
    root = folder(tmp_path / "p", ["b.png"])
    picture(3).save(root / name, kind)
    data = prepare(open_source(root), Pictures(8), cache_dir=tmp_path / "ready")
    assert len(data) == 2 and data.index["notes"].get("wrong extension") is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_tga_is_read_by_its_name_alone(picture, mode):
    buffer = io.BytesIO()
    picture(1, mode=mode).save(buffer, "TGA")
    expected = np.asarray(picture(1, mode=mode).convert("RGB").crop((4, 0, 36, 32)))
    assert np.array_equal(Pictures(32)(buffer.getvalue(), "a.TGA").values, expected)
    with pytest.raises(Unusable, match="not a picture"):
        Pictures(32)(buffer.getvalue(), "a.png")  # nothing marks it: any bytes could be one


def test_tga_that_claims_too_much_is_refused_from_its_header():
    bomb = bytes([0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 24, 0]) + bytes(100)
    with pytest.raises(Unusable, match="too large"):
        Pictures(8)(bomb, "a.tga")


@pytest.mark.parametrize(
    ("name", "data", "package"),
    [
        pytest.param("a.heic", HEIC, "pillow-heif", id="heic"),
        pytest.param("a.jpg", HEIC, "pillow-heif", id="misnamed"),
        pytest.param("a.jxl", JXL, "pillow-jxl-plugin", id="jxl"),
    ],
)
def test_without_its_plug_in_a_picture_is_a_fault_that_names_the_command(
    tmp_path, folder, monkeypatch, name, data, package
):
    monkeypatch.setattr(formats, "_installed", lambda module: False)
    root = folder(tmp_path / "p", ["b.png"])
    (root / name).write_bytes(data)
    with pytest.raises(DataError, match=f"plug-in missing.* install {package}"):
        prepare(open_source(root), Pictures(8), cache_dir=tmp_path / "ready")


def test_with_its_plug_in_a_picture_is_read(tmp_path, monkeypatch, encoded):
    """A stand-in for the plug-in: it makes a format known to Pillow, as the real one does when it is asked."""
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image, ImageFile\n"
        "class Stand(ImageFile.ImageFile):\n"
        "    format = 'HEIF'\n"
        "    def _open(self):\n"
        "        self._size, self._mode, self.tile = (9, 9), 'RGB', [('raw', (0, 0, 9, 9), 84, 'RGB')]\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', Stand, lambda head: head[4:12] == b'ftypheic')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = Pictures(9)(HEIC + bytes([77]) * 300, "a.heic")
    assert (found.values == 77).all() and found.notes == ()
    monkeypatch.delitem(sys.modules, "pillow_heif")
    Image.OPEN.pop("HEIF")
    Image.ID.remove("HEIF")


def test_plug_ins_are_not_imported_at_start():
    code = "import sys, sfumato.data.readers; print([m for m in sys.modules if 'heif' in m or 'jxl' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
