"""What a file's name says: which part of the data the file is, and whether two spellings are the same name."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import PurePosixPath

from sfumato.data.formats import EXTENSIONS

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
CAPTIONS = (".txt", ".caption", ".text")  # each line is a caption
DETAILS = ".json"
NO_ENDING = "without an ending"

# Pictures that are not read: drawings, layers of editors, formats of other trades, raw data of cameras.
UNREAD = frozenset((
    ".svg", ".svgz", ".eps", ".ai", ".wmf", ".emf", ".psd", ".psb", ".xcf", ".kra", ".ora", ".aseprite", ".ase",
    ".clip", ".ico", ".icns", ".jp2", ".j2k", ".jpx", ".jpf", ".dds", ".exr", ".hdr", ".pfm", ".pcx", ".sgi", ".rgb",
    ".xbm", ".xpm", ".qoi", ".flif", ".bpg", ".dcm", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".dng", ".raf",
    ".orf", ".rw2", ".pef", ".srw", ".x3f", ".3fr",
))  # fmt: skip
# Files that editors, cameras and renderers put beside a picture; they hold no words about it.
BESIDE = frozenset((
    ".xmp", ".aae", ".thm", ".pp3", ".dop", ".on1", ".mov", ".mp4", ".avi", ".wav", ".mp3", ".obj", ".mtl", ".fbx",
    ".glb", ".gltf", ".blend", ".bak", ".tmp", ".pdf", ".html",
))  # fmt: skip
_TABLE_ENDINGS = frozenset((".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xlsx", ".xls"))
_TEXT_ENDINGS = frozenset((*CAPTIONS, DETAILS, ".xml", ".yaml", ".yml"))
_WORDS = r"(caption|label|annotation|metadata|dataset|prompt|tag|class)(e?s)?"
_LIKE_CAPTIONS = re.compile(rf"(?i){_WORDS}([-_. ].*)?|.*[-_. ](captions|labels|annotations)")
TRAIN, REST = "train", "rest"
_PART = {
    TRAIN: re.compile(r"train(ing)?(set|data|images|pictures|split)?\d*"),
    REST: re.compile(r"(test(ing)?|val(id(ation)?)?|eval(uation)?|dev|holdout)(set|data|images|pictures|split)?\d*"),
}

_ABOUT_THE_DATA = ("readme", "license", "licence", "copying", "attribution", "credits", "notice", "requirements")
_JUNK = ("thumbs.db", "desktop.ini", "icon\r", "picasa.ini")


def extension(name: str) -> str:
    """The ending with its dot, in small letters: "a/B.PNG" -> ".png"."""
    return os.path.splitext(name)[1].lower()


def stem(name: str) -> str:
    """The relative name without its extension."""
    return os.path.splitext(name)[0]


def key(name: str) -> str:
    """The same for all ways to write one relative name.

    Macs write "é" as two characters (NFD), most others as one (NFC); packers on Windows leave backslashes in names.
    """
    if name.isascii() and "\\" not in name and "./" not in name and "//" not in name:
        return name
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))).as_posix()


def is_junk(base: str) -> bool:
    """Whether a file or folder is hidden, or was added by macOS or Windows."""
    return base.startswith(".") or base == "__MACOSX" or base.lower() in _JUNK


def is_hidden(name: str) -> bool:
    """Whether a relative name leads through junk or to it."""
    return any(is_junk(part) for part in name.split("/"))


def is_about(name: str) -> bool:
    """Whether a file is about the whole data set: a licence, a readme."""
    base = PurePosixPath(name).name.lower()
    return re.split(r"[-_. ]", base)[0] in _ABOUT_THE_DATA


def part(folder: str) -> str | None:
    """TRAIN for a folder to train on ("train", "Train", "training_set", "train2017"), REST for one that is to be left
    aside ("test", "val", "test_set"), None for any other."""
    plain = re.sub(r"[^a-z0-9]", "", folder.lower())
    return next((kind for kind, law in _PART.items() if law.fullmatch(plain)), None)


def is_like_captions(name: str) -> bool:
    """Whether a file's name promises words about many pictures: a table, or captions.txt, labels.json and the like."""
    base = PurePosixPath(name).name
    ending = extension(base)
    return ending in _TABLE_ENDINGS or (ending in _TEXT_ENDINGS and _LIKE_CAPTIONS.fullmatch(stem(base)) is not None)


def is_picture(name: str) -> bool:
    """Whether the name has the ending of a picture that can be read."""
    return extension(name) in EXTENSIONS
