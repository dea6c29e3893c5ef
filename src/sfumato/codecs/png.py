"""PNG files of 8 and 16 bits a channel, with texts inside."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import MissingPackage


def png(row: np.ndarray, bits: int, texts: Mapping[str, str]) -> bytes:
    """The file of one picture.

    Args:
        row: (H, W, C), C of 1, 3 or 4; uint8, or uint16 beyond 8 bits.
        bits: bits of a value. Values of fewer than 16 are stored as they are, and the chunk sBIT names the number (PNG,
            3rd edition, 11.3.2.5).
        texts: by keyword, as chunks before the pixels.

    Raises:
        MissingPackage: colour of 16 bits needs imagecodecs, of the extra `deep`.
    """
    values = row[:, :, 0] if row.shape[2] == 1 else row
    if bits == 8 or row.shape[2] == 1:
        info, stream = PngInfo(), io.BytesIO()
        if bits > 8:
            info.add(b"sBIT", bytes([bits]))
        for keyword, text in texts.items():
            info.add_itxt(keyword, text)
        Image.fromarray(values).save(stream, "PNG", pnginfo=info, optimize=False, compress_level=6)
        return stream.getvalue()
    try:
        import imagecodecs
    except ImportError:
        raise MissingPackage("sfumato[deep]", "a PNG of 16-bit colour") from None
    data = bytes(imagecodecs.png_encode(values))
    chunks = [chunk(b"sBIT", bytes([bits]) * row.shape[2])]
    chunks += [chunk(b"iTXt", k.encode("latin-1") + b"\0\0\0\0\0" + text.encode()) for k, text in texts.items()]
    return data[:33] + b"".join(chunks) + data[33:]  # 33: the signature and the header come first


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
