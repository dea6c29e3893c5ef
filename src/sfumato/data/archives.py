"""Reading packages (.tgz, .tar.*, .deb, .zip, .whl) without unpacking them.

Members are returned as (name, bytes) in memory; nothing is ever written under a name from an archive, so no member can
land outside the intended folder. Links and devices are skipped, and sizes are bounded.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sfumato.data.faults import DataError

MEMBER_BYTES = 512 * 2**20


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each regular file of `archive` whose name (without a leading ./) `wanted` accepts."""
    try:
        if archive.suffix == ".deb":
            yield from _tar(_deb_data(archive), wanted)
        elif zipfile.is_zipfile(archive):
            yield from _zip(archive, wanted)
        else:
            with archive.open("rb") as stream:
                yield from _tar(stream, wanted)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{archive.name} is damaged ({error})", "download it again") from error


def _tar(stream: io.BufferedIOBase | io.BytesIO, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=stream, mode="r:*") as tar:
        for member in tar:
            name = member.name.removeprefix("./").removeprefix("/")
            if not member.isreg() or not wanted(name):
                continue
            _check(name, member.size)
            content = tar.extractfile(member)
            if content is not None:
                yield name, content.read()


def _zip(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if member.is_dir() or not wanted(member.filename):
                continue
            _check(member.filename, member.file_size)
            with packed.open(member) as content:
                yield member.filename, content.read(member.file_size)


def _check(name: str, size: int) -> None:
    if size > MEMBER_BYTES:
        raise DataError(
            f"{name}: {size:,} bytes unpacked, limit {MEMBER_BYTES:,}", "this is not the package it should be"
        )


def _deb_data(archive: Path) -> io.BytesIO:
    """The data.tar.* of a Debian package, which is an `ar` archive of three members."""
    with archive.open("rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            raise DataError(f"{archive.name} is not a Debian package", "download it again")
        while len(header := stream.read(60)) == 60:
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                if name.endswith(".zst"):  # no decoder for it in Python 3.11
                    return _fsys_tar(archive)
                _check(name, size)
                return io.BytesIO(stream.read(size))
            stream.seek(size + size % 2, io.SEEK_CUR)
    raise DataError(f"{archive.name} holds no data.tar", "download it again")


def _fsys_tar(archive: Path) -> io.BytesIO:
    try:
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(archive)], capture_output=True, check=True, timeout=300
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(
            f"{archive.name} is packed with zstd, and dpkg-deb failed ({error})", "apt install dpkg"
        ) from error
    return io.BytesIO(done.stdout)
