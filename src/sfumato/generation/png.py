"""Text in PNG files: it is found wherever other programs put it, read within bounds, and called damaged if it is.

Text stands in chunks of three kinds (PNG 1.2, section 4.2.3), before or behind the pixels; every chunk has a checksum.
"""

import io
import zlib
from typing import BinaryIO

MOST_CHUNKS = 2**17  # parts of a PNG that are looked at


class NotPNG(Exception):
    """It does not begin as a PNG does."""


class Damaged(Exception):
    """It begins as a PNG, and a part of it is not as it was written."""


def text_of(file: BinaryIO, key: str, most: int) -> str | None:
    """The text under a key in a PNG, before or behind its pixels, which are skipped; None without one.

    Args:
        file: open at its beginning.
        key: in Latin-1.
        most: bytes of the text that are read, also if it is compressed; a longer text is cut.

    Raises:
        NotPNG, Damaged: also where the text is not found because of that.
    """
    if file.read(8) != b"\x89PNG\r\n\x1a\n" or file.read(8)[4:] != b"IHDR":
        raise NotPNG("it does not begin as one")
    file.seek(8)
    longest = most + 1024  # with its keys
    odd = "it has too many parts"
    broken = False
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":
            odd = ""
            break
        if len(head) < 8 or not kind.isalpha():
            odd = "it is cut short"
            break
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, io.SEEK_CUR)
            continue
        body = file.read(min(length, longest))
        file.seek(length - min(length, longest), io.SEEK_CUR)
        check = file.read(4)
        whole = length > longest or check == zlib.crc32(kind + body).to_bytes(4, "big")
        name, _, rest = body.partition(b"\0")
        if name == key.encode("latin-1"):
            if not whole:
                raise Damaged("the checksum of its recipe is wrong")
            return _decoded(kind, rest, most)
        broken = broken or not whole
    if odd or broken:
        raise Damaged(f"{odd or 'the checksum of a text in it is wrong'}, and no recipe is found in it")
    return None


def _decoded(kind: bytes, rest: bytes, most: int) -> str:
    """The text of a chunk, from what follows its key."""
    packed, parts = kind == b"zTXt", 0
    if packed:
        rest = rest[1:]
    if kind == b"iTXt":
        packed, rest, parts = rest[:1] == b"\1", rest[2:], 2  # the language, and the key in that language
    for _ in range(parts):
        rest = rest.partition(b"\0")[2]
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, most + 1024)
        except zlib.error as error:
            raise Damaged(f"its compressed recipe cannot be unpacked ({error})") from error
    try:
        return rest.decode()
    except UnicodeDecodeError:
        return rest.decode("latin-1")  # as tEXt has it, where a program translated it
