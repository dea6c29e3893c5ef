"""The recipe inside a picture: all that is needed to draw it again, byte for byte on the same machine.

It is written twice into the PNG: as our own JSON (key ``sfumato``), and as the text that other tools read (key
``parameters``, the convention of AUTOMATIC1111's web interface).
"""

import io
import json
from pathlib import Path

from PIL import Image, PngImagePlugin

from sfumato.errors import UserError

SOLVER_NAMES = {"ddpm": "DDPM", "ddim": "DDIM", "heun": "Heun", "dpm++2m": "DPM++ 2M"}
LARGEST_RECIPE = 64 * 1024  # characters; a prompt and its settings are far below


def parameters(recipe: dict) -> str:
    """The recipe as AUTOMATIC1111's ``parameters`` text."""
    sampling, model = recipe["sampling"], recipe["model"]
    entries = {
        "Steps": sampling["steps"],
        "Sampler": SOLVER_NAMES[sampling["solver"]],
        "Schedule type": sampling["grid"],
        "CFG scale": sampling["guidance"],
        "Seed": recipe["seed"],
        "Size": f"{recipe['size']}x{recipe['size']}",
        "Model hash": model["weights_sha256"][:10],
        "Model": model["name"],
        "Version": f"sfumato {recipe['sfumato']}",
    }
    lines = [recipe["prompt"] or ""]
    if recipe["negative"]:
        lines.append(f"Negative prompt: {recipe['negative']}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in entries.items())])


def to_png(picture: Image.Image, recipe: dict) -> bytes:
    """The PNG file of a picture, with its recipe."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("sfumato", json.dumps(recipe, ensure_ascii=False))
    info.add_itxt("parameters", parameters(recipe))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info, optimize=False, compress_level=6)
    return buffer.getvalue()


def read_recipe(path: Path) -> dict:
    """The recipe of a picture that Sfumato drew.

    Raises:
        UserError: no such file, not a PNG, or no recipe in it.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            text = picture.text.get("sfumato", "")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a PNG ({error})", fix="give a picture that Sfumato wrote") from error
    if not text or len(text) > LARGEST_RECIPE:
        raise UserError(
            f"{path} holds no recipe; it was not drawn by Sfumato, or was saved again by a program that dropped it",
            fix="give the original file",
        )
    try:
        recipe = json.loads(text)
        needed = {"sfumato", "model", "prompt", "negative", "seed", "size", "threads", "sampling"} - recipe.keys()
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: its recipe is not readable ({error})", fix="give the original file") from error
    if needed:
        raise UserError(f"{path}: its recipe lacks {', '.join(sorted(needed))}", fix="give the original file")
    return recipe
