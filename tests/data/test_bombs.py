"""Table D2: files that claim more than they hold are refused from the header, at most 64 MB more memory."""

import io
import json
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

from sfumato.data.readers import Unusable
from sfumato.data.readers.pictures import Limits, Pictures

MEGABYTE = 2**20


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(min(width * height * 3 + height, 10_000)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def gif(width: int, height: int, frames: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + b";"


def tiff(width: int, height: int) -> bytes:
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (279, 4, 9)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + bytes(4)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIIIII", 154, 0, 0, 54, 40, width, height, 1, 24, *[0] * 6) + bytes(100)


def jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bombs() -> dict[str, bytes]:
    packed = zlib.compress(bytes(200 * MEGABYTE), 9)
    small = zlib.compress(bytes(MEGABYTE - 10), 9)
    header = b"VP8X" + struct.pack("<I", 10)
    webp = header + bytes([0, 0, 0, 0]) + (16382).to_bytes(3, "little") * 2
    moving = header + bytes([2, 0, 0, 0]) + (63).to_bytes(3, "little") * 2
    return {
        "50,000 x 50,000 PNG": png(50_000, 50_000),
        "zTXt of 200 MB": png(16, 16, chunk(b"zTXt", b"Comment\0\0" + packed)),
        "iTXt of 200 MB": png(16, 16, chunk(b"iTXt", b"Comment\0\1\0\0\0" + packed)),
        "1,000 zTXt of 1 MB each": png(16, 16, *[chunk(b"zTXt", b"Comment\0\0" + small)] * 1000),
        "tEXt of 2 MB": png(16, 16, chunk(b"tEXt", b"Comment\0" + b"a" * 2 * MEGABYTE)),
        "PNG of 100,000 frames": png(16, 16, chunk(b"acTL", struct.pack(">II", 100_000, 0))),
        "GIF of 100,000 frames": gif(64, 64, 100_000),
        "65,535 x 65,535 GIF": gif(65_535, 65_535, 1),
        "16,383 x 16,383 WebP": b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
        "moving WebP": b"RIFF" + struct.pack("<I", len(moving) + 4) + b"WEBP" + moving,
        "100,000 x 100,000 TIFF": tiff(100_000, 100_000),
        "10,000 x 10,000 TIFF": tiff(10_000, 10_000),
        "65,000 x 65,000 JPEG": jpeg(65_000, 65_000),
        "100,000 x 100,000 PPM": b"P6 100000 100000 255\n" + bytes(100),
        "50,000 x 50,000 BMP": bmp(50_000, 50_000),
    }


MEASURE = """
import json, sys
from sfumato.data.readers import Unusable
from sfumato.data.readers.pictures import Limits, Pictures

def peak():
    # Not ru_maxrss, which a child inherits from the process that started it.
    words = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()
    return int(words[1]) * 1024

files = [open(path, "rb").read() for path in sys.argv[2:]]
Pictures(16)(files[0], "warm.png")
before, refused = peak(), 0
for data in files[1:]:
    try:
        Pictures(16)(data, "a.png")
    except Unusable:
        refused += 1
print(json.dumps({"more": peak() - before, "refused": refused}))
"""


def measure(tmp_path, files: list[bytes]) -> dict[str, int]:
    """Peak memory that reading `files` adds to a fresh process, and how many were refused."""
    paths = []
    for number, data in enumerate([png(16, 16), *files]):
        paths.append(tmp_path / f"{number}.bin")
        paths[-1].write_bytes(data)
    done = subprocess.run([sys.executable, "-c", MEASURE, "-", *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bombs_are_refused_with_at_most_64_megabytes_more(tmp_path):
    files = bombs()
    found = measure(tmp_path, list(files.values()))
    assert len(files) > 0
    assert found["refused"] == len(files)
    assert found["more"] <= 64 * MEGABYTE


def test_the_memory_test_has_teeth(tmp_path):
    """Negative control: a picture within the limits, decoded, does take more than 64 MB."""
    buffer = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(buffer, "PNG", compress_level=1)
    found = measure(tmp_path, [buffer.getvalue()])
    assert found["refused"] == 0 and found["more"] > 64 * MEGABYTE


def test_a_refusal_names_the_claim_and_the_limit():
    with pytest.raises(Unusable, match=r"50,000 x 50,000 pixels, limit 67,108,864"):
        Pictures(16)(png(50_000, 50_000), "a.png")
    with pytest.raises(Unusable, match="100,000 frames"):
        Pictures(16)(bombs()["PNG of 100,000 frames"], "a.png")
    with pytest.raises(Unusable, match=r"too large: 200 bytes, limit 100"):
        Pictures(16, limits=Limits(file_bytes=100))(bytes(200), "a.png")
