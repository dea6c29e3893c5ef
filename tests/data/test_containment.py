"""Table D5: nothing outside the folder is read or written, whatever names and links say."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from sfumato.data import DataError, open_source, prepare
from sfumato.data.archives import members
from sfumato.data.faults import printable
from sfumato.data.readers.pictures import Pictures


@pytest.fixture
def secret(tmp_path, encoded) -> Path:
    """A folder outside, with a picture and a text that must never be touched."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(encoded(99))
    (tmp_path / "outside" / "secret.txt").write_text("secret words")
    return tmp_path / "outside"


def reads(source) -> list[bytes]:
    return [record.open() for record in source.records]


def test_links_that_lead_out_are_faults_and_are_not_read(tmp_path, folder, secret):
    root = folder(tmp_path / "pictures", ["a.png", "b.png", "sub/c.png"])
    (root / "link.png").symlink_to(secret / "secret.png")
    (root / "relative.png").symlink_to("../outside/secret.png")
    (root / "a.txt").symlink_to(secret / "secret.txt")
    (root / "folder").symlink_to(secret)
    (root / "gone.png").symlink_to(root / "nothing.png")
    source = open_source(root)
    found = {fault.path: fault.kind for fault in source.faults}
    assert found == {
        "link.png": "link", "relative.png": "link", "a.txt": "link", "folder": "link", "gone.png": "unreadable",
    }  # fmt: skip
    assert (secret / "secret.png").read_bytes() not in reads(source)
    assert "secret words" not in repr(source.records)


def test_links_that_stay_inside_are_read(tmp_path, folder):
    """Negative control: links as such are not faults."""
    root = folder(tmp_path / "pictures", ["a.png", "b.png"])
    (root / "c.png").symlink_to("a.png")
    (tmp_path / "door").symlink_to(root)
    for path in (root, tmp_path / "door"):
        source = open_source(path)
        assert source.faults == () and len(source.records) == 3 and reads(source)[2] == reads(source)[0]


def test_quarantine_moves_the_link_and_not_what_it_points_to(tmp_path, folder, secret):
    root = folder(tmp_path / "pictures", ["a.png", "b.png"])
    (root / "link.png").symlink_to(secret / "secret.png")
    prepare(open_source(root), Pictures(8), cache_dir=tmp_path / "run" / "data", policy="quarantine")
    assert (secret / "secret.png").exists() and (tmp_path / "run/quarantine/link.png").is_symlink()
    assert not (root / "link.png").is_symlink()


@pytest.mark.parametrize("name", ["../outside/secret.png", "/outside/secret.png", "sub/../../outside/secret.png"])
@pytest.mark.parametrize("policy", ["stop", "quarantine"])
def test_metadata_cannot_name_a_file_outside(tmp_path, folder, secret, name, policy):
    root = folder(tmp_path / "pictures", ["a.png", "b.png"])
    name = name.replace("/outside", str(secret)) if name.startswith("/") else name
    rows = [{"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": "b"}, {"file_name": name, "text": "x"}]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(root)
    assert [(fault.path, fault.kind) for fault in source.faults] == [(name, "link")] and len(source.records) == 2
    if policy == "stop":
        with pytest.raises(DataError, match="points outside"):
            prepare(source, Pictures(8), cache_dir=tmp_path / "ready")
    else:
        assert len(prepare(source, Pictures(8), cache_dir=tmp_path / "ready", policy=policy)) == 2
    assert (secret / "secret.png").exists()


def test_metadata_and_idx_and_shards_that_are_links_out_are_refused(tmp_path, folder, secret):
    root = folder(tmp_path / "pictures", ["a.png"])
    (secret / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}')
    (root / "metadata.jsonl").symlink_to(secret / "metadata.jsonl")
    with pytest.raises(DataError, match="is a link out of"):
        open_source(root)

    (secret / "0.tar").write_bytes(bytes(10240))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").symlink_to(secret / "0.tar")
    assert [fault.kind for fault in open_source(tmp_path / "shards").faults] == ["link"]

    (secret / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + bytes(12))
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").symlink_to(secret / "train-images-idx3-ubyte")
    with pytest.raises(DataError, match="is a link out of"):
        open_source(tmp_path / "idx")


def hostile_tar(path: Path, data: bytes) -> int:
    """A tar (packed, if named .gz) with members that lead out in every possible way, and their number."""
    with tarfile.open(path, "w:gz") if path.suffix == ".gz" else tarfile.open(path, "w") as tar:
        for name in ("good.png", "fine.png"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        hostile = 0
        for name in ("../slip.png", "/tmp/slip.png", "a/../../slip.png"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            hostile += 1
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}.png")
            info.type, info.linkname = kind, "../outside/secret.png"
            tar.addfile(info)
            hostile += 1
    return hostile


def test_members_of_a_shard_that_lead_out_are_faults_and_write_nothing(tmp_path, encoded, secret):
    (tmp_path / "shards").mkdir()
    hostile = hostile_tar(tmp_path / "shards" / "0.tar", encoded(1))
    source = open_source(tmp_path / "shards")
    assert hostile > 0 and len(source.faults) == hostile
    assert {fault.kind for fault in source.faults} == {"link"}
    assert [record.locator for record in source.records] == ["0.tar/good.png", "0.tar/fine.png"]

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError):  # both good members are alike, so the set is refused, after the faults were handled
        prepare(source, Pictures(8), cache_dir=tmp_path / "run" / "data", policy="quarantine")
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before] == [tmp_path / "run"]


@pytest.mark.parametrize("name", ["package.tgz", "package.deb", "package.whl"])
def test_a_package_cannot_write_or_read_anything_by_its_names(tmp_path, encoded, secret, name):
    path = tmp_path / name
    if name == "package.whl":
        with zipfile.ZipFile(path, "w") as packed:
            for member in ("good.png", "../slip.png", "/tmp/slip.png"):
                packed.writestr(member, encoded(1))
    else:
        hostile_tar(tmp_path / "inner.tar.gz", encoded(1))
        inner = (tmp_path / "inner.tar.gz").read_bytes()
        path.write_bytes(deb(inner) if name == "package.deb" else inner)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    found = list(members(path, lambda name: True))
    assert len(found) >= 3 and all(data == encoded(1) for _, data in found)  # bytes and names, and no link among them
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def deb(data_tar: bytes) -> bytes:
    """A Debian package: an ar archive of debian-binary, control.tar.gz and data.tar.gz."""
    archive = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.gz", b"odd"), ("data.tar.gz", data_tar)):
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(content):<10}`\n".encode() + content
        archive += b"\n" * (len(content) % 2)
    return archive


def test_odd_names_are_read_and_printed_harmlessly(tmp_path, encoded):
    names = ["-rf.png", "a b\tc.png", "two\nlines.png", "\x1b[31mred.png", "emoji 🍎.png", "ü.png", "..png", "a..b.png"]
    raw = [name.encode() for name in names] + [b"latin\xe9.png"]
    root = os.fsencode(tmp_path / "odd")
    os.mkdir(root)
    for seed, name in enumerate(raw):
        with open(os.path.join(root, name), "wb") as file:
            file.write(encoded(seed))
    source = open_source(tmp_path / "odd")
    dataset = prepare(source, Pictures(8), cache_dir=tmp_path / "ready")
    hidden = 1  # "..png" begins with a dot
    assert len(dataset) == len(raw) - hidden
    assert {row["path"] for row in dataset.manifest} == {os.fsdecode(name) for name in raw} - {"..png"}

    with open(os.path.join(root, raw[3]), "wb") as file:
        file.write(b"text")
    with open(os.path.join(root, raw[-1]), "wb") as file:
        file.write(b"text")
    with pytest.raises(DataError) as error:
        prepare(open_source(tmp_path / "odd"), Pictures(8), cache_dir=tmp_path / "ready")
    assert "\x1b" not in str(error.value) and "\\x1b[31mred.png" in str(error.value)
    str(error.value).encode("utf-8")  # prints on any terminal
    assert printable("a\ud800b") == "a\\ud800b"


def test_pipes_are_named_and_do_not_hang(tmp_path, folder):
    root = folder(tmp_path / "pictures", ["a.png", "b.png"])
    os.mkfifo(root / "pipe.png")
    assert [(fault.path, fault.kind) for fault in open_source(root).faults] == [("pipe.png", "unreadable")]


def test_hidden_files_and_sfumatos_own_folders_are_no_data(tmp_path, folder):
    root = folder(
        tmp_path / "pictures", ["a.png", "b.png", ".thumb.png", ".git/x.png", "__MACOSX/y.png", "runs/1/sample.png"]
    )
    (root / "runs" / ".sfumato").touch()
    source = open_source(root)
    assert [record.locator for record in source.records] == ["a.png", "b.png"] and source.faults == ()
