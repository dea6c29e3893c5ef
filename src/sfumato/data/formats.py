"""The picture formats that are read, by content and by name, and those that need a plug-in of Pillow.

A picture is opened by its content, whatever its name says. The exception is TGA, whose content has no mark: only a file
named .tga is tried as one. HEIC and JPEG XL are read if Pillow's plug-in for them is installed; it is imported when the
first such picture comes.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import PurePath

from sfumato.errors import pip_install

# The list holds no format that runs an interpreter (EPS) or reads other files.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
EXTENSIONS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "JPEG",
    ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".dib": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM",
    ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM", ".avif": "AVIF", ".tga": "TGA", ".heic": "HEIF", ".heif": "HEIF",
    ".hif": "HEIF", ".jxl": "JXL",
}  # fmt: skip

FURTHER = {".npy", ".npz", ".zarr"}  # endings of other kinds of data; `kinds.register` adds its own

# Format -> the package that reads it, and its module, which registers itself with Pillow.
PLUGINS = {"HEIF": ("pillow-heif", "pillow_heif"), "JXL": ("pillow-jxl-plugin", "pillow_jxl")}

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_JXL_MARKS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


def is_data(extension: str) -> bool:
    """Whether a file of this ending, in small letters with the dot, is a record of data."""
    return extension in EXTENSIONS or extension in FURTHER


def formats_of(data: bytes, name: str) -> tuple[str, ...]:
    """The formats that Pillow may try on `data`; `name` is used for its extension alone."""
    needed = plugin_of(data)
    if needed is not None and _load(needed):
        return (needed,)
    if PurePath(name).suffix.lower() == ".tga":
        importlib.import_module("PIL.TgaImagePlugin")
        return (*FORMATS, "TGA")
    return FORMATS


def plugin_of(data: bytes) -> str | None:
    """The format of `data` that only a plug-in reads, by its first bytes; None for any other."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[8:64]:
        return "HEIF"
    return "JXL" if data.startswith(_JXL_MARKS) else None


def missing_plugin(data: bytes) -> tuple[str, str] | None:
    """(reason, fix) if a plug-in that `data` needs is not installed."""
    needed = plugin_of(data)
    if needed is None or _installed(PLUGINS[needed][1]):
        return None
    package = PLUGINS[needed][0]
    words = {"HEIF": "HEIC", "JXL": "JPEG XL"}[needed]
    return f"it is {words}, which needs the package {package!r}", f"{pip_install(package)} (or convert it to PNG)"


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _load(needed: str) -> bool:
    """Whether the plug-in for a format is there; it is imported and registered with Pillow."""
    module = PLUGINS[needed][1]
    if not _installed(module):
        return False
    plugin = importlib.import_module(module)
    if needed == "HEIF":
        plugin.register_heif_opener()
    return True
