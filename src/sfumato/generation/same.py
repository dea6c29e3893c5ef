"""How like a file that was drawn again is to the one it was drawn from: in every byte, in every value, or not."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sfumato.data.readers import Unusable, arrays, deep

OTHER_FILE = "the file is another: other versions drew it, or another program saved it"


def verdict(again: bytes, original: bytes, ending: str) -> str:
    """In words, how the file drawn again compares with the original.

    Args:
        ending: of both files, e.g. ".png".
    """
    if again == original:
        return "the same, byte for byte"
    if same_values(again, original, ending):
        return f"the same in every {'pixel' if ending == '.png' else 'number'}; {OTHER_FILE}"
    kind = "a picture" if ending == ".png" else "an array"
    return f"not the same: another machine, other versions, or {kind} that was changed"


def same_values(again: bytes, original: bytes, ending: str) -> bool:
    """Whether two files hold the same values; False if one of them cannot be read."""
    if again == original:
        return True
    try:
        read = {".png": pixels, ".npy": arrays.opened}.get(ending)
        if read is None:
            return False
        new, old = read(again), read(original)
    except (Unusable, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return new.dtype == old.dtype and np.array_equal(new, old)


def pixels(data: bytes) -> np.ndarray:
    """The pixels of a PNG: RGBA of 8 bits, whatever its mode, or all 16 bits where it has them."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        image.load()
        return deep.decoded(image, data, None) if deep.is_deep(image) else np.asarray(image.convert("RGBA"))
