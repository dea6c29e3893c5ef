"""The recipe of a picture: all that is needed to draw it again, byte for byte on the same machine.

It is written twice into a PNG: as our own JSON (key ``sfumato``), and as the text that other tools read (key
``parameters``, the convention of AUTOMATIC1111's web interface). Beside what is no PNG it lies as a .json. A
picture can come from anywhere, so what is read is bounded and checked as strictly as a recipe for training.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from sfumato.bounded import read_bytes, size_of
from sfumato.conditioning.conditioners import Asked
from sfumato.conditioning.values import Condition, Planes, condition_of, record_of, words_of
from sfumato.config import validate
from sfumato.errors import UserError, of_system
from sfumato.generation.png import Damaged, NotPNG, text_of
from sfumato.model import Model
from sfumato.request import LARGEST_PROMPT, SMALLEST_SIZE
from sfumato.settings.base import LARGEST_SEED, LARGEST_SIZE, Settings
from sfumato.settings.conditions import ConditionName
from sfumato.settings.sampling import Sampling

SOLVER_NAMES = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "heun": "Heun",
    "dpm++2m": "DPM++ 2M",
    "dpm++2m-sde": "DPM++ 2M SDE",
    "unipc": "UniPC",
}  # what others call them; the rest by our own names
RECIPE_ENDING = ".json"  # of the file beside an array
LARGEST_RECIPE = 256 * 1024  # characters; two prompts of the largest size and all settings are below


Side = Annotated[int, Field(ge=SMALLEST_SIZE, le=LARGEST_SIZE)]


class Drawer(Settings):
    """The model that drew the picture."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(max_length=64)
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="a SHA-256 in hexadecimal digits")


class Backend(Settings):
    """The program that evaluated the network, if it was not PyTorch."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(max_length=64)
    version: str = Field(max_length=64)


class GivenPicture(Settings):
    """A picture that was given as a condition; the recipe does not hold it."""

    model_config = ConfigDict(extra="ignore")
    file: str = Field(max_length=1024, description="the name of its file, empty where it was none")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="a SHA-256 in hexadecimal digits")


class Recipe(Settings):
    """The recipe as it is read from a picture. Additions of later versions are ignored; changes are refused."""

    model_config = ConfigDict(extra="ignore")
    sfumato: str = Field(max_length=64, description="version")
    torch: str | None = Field(default=None, max_length=64, description="version, None in early pictures")
    device: str | None = Field(default=None, max_length=64)
    threads: int = Field(ge=1, le=1024, description="CPU threads")
    kernel: str | None = Field(default=None, max_length=64, description="what did the convolutions")
    model: Drawer
    backend: Backend | None = None
    prompt: str | None = Field(max_length=LARGEST_PROMPT)
    conditions: dict[ConditionName, Annotated[str, Field(max_length=LARGEST_PROMPT)] | GivenPicture] = Field(
        default={}, max_length=16, description="beside the prompt, by name"
    )
    negative: str | None = Field(max_length=LARGEST_PROMPT)
    seed: int = Field(ge=0, le=LARGEST_SEED)
    size: Side | Annotated[list[Side], Field(min_length=1, max_length=3)]
    sampling: Sampling


def of_picture(settings: Sampling) -> dict[str, Any]:
    """The settings that decide how one picture is drawn; times only if they replace a grid, reuse and clip only if they
    were asked for."""
    usual = {"times": (), "reuse": 1, "clip": "auto"}
    without = {"prompts", "ema"} | {name for name, value in usual.items() if getattr(settings, name) == value}
    return settings.model_dump(mode="json", exclude=without)


def of_condition(model: Model, condition: Condition) -> dict[str, Any]:
    """The entries of a recipe for a condition: the prompt, and other conditions by name if there are any."""
    others = record_of(condition)
    prompt = others.pop(model.conditioner.bare or "", None)
    return {"prompt": prompt, **({"conditions": others} if others else {})}


def asked_in(model: Model, recipe: dict[str, Any], pictures: Mapping[str, Any]) -> Asked:
    """What ``model`` was asked for, from a recipe that ``of_condition`` wrote.

    Args:
        model: that drew the picture.
        recipe: from ``read_recipe``.
        pictures: those that the recipe names, by the names of their conditions.

    Raises:
        UserError: a picture is missing, is another one than was given then, or was not given then.
    """
    others, prompt = dict(recipe.get("conditions", {})), recipe["prompt"]
    given = model.conditioner.normalize(pictures)
    for name, record in others.items():
        if isinstance(record, str):
            continue
        if name not in given:
            raise UserError(
                f"condition {name}: the picture was drawn with {record['file'] or 'a picture'!r}, which its recipe "
                "does not hold",
                fix=f"give it again: --condition {name}={record['file'] or 'FILE'}",
            )
        value = given[name]
        if not isinstance(value, Planes) or value.sha256 != record["sha256"]:
            raise UserError(
                f"condition {name}: the picture was drawn with {record['file']!r} of SHA-256 "
                f"{record['sha256'][:10]}, and {str(value)!r} is another",
                fix="give the file as it was then",
            )
        others[name] = value
    for name in given.keys() - others.keys():
        raise UserError(f"condition {name}: the picture was drawn without it", fix=f"leave the condition {name} out")
    return {**others, **({} if prompt is None else {model.conditioner.bare or "text": prompt})} if others else prompt


def asked_in_words(recipe: dict[str, Any]) -> str:
    """For people: the prompt, or else the other conditions; empty if there are none."""
    return recipe["prompt"] or words_of(condition_of(recipe.get("conditions", {})))


def parameters(recipe: dict[str, Any]) -> str:
    """The recipe as AUTOMATIC1111's ``parameters`` text."""
    sampling, model, sides = recipe["sampling"], recipe["model"], recipe["size"]
    entries = {
        "Steps": sampling["steps"],
        "Sampler": SOLVER_NAMES.get(sampling["solver"], sampling["solver"]),
        "Schedule type": "own times" if sampling.get("times") else sampling["grid"],
        "CFG scale": sampling["guidance"],
        "Seed": recipe["seed"],
        "Size": "x".join(map(str, sides if isinstance(sides, list) else [sides, sides])),
        "Model hash": model["weights_sha256"][:10],
        "Model": model["name"],
        "Version": f"sfumato {recipe['sfumato']}",
    }
    lines = [recipe["prompt"] or ""]
    if recipe["negative"]:
        lines.append(f"Negative prompt: {recipe['negative']}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in entries.items())])


def texts(recipe: dict[str, Any]) -> dict[str, str]:
    """What is kept with a picture, by keyword: our own JSON, and the text that other tools read."""
    return {"sfumato": json.dumps(recipe, ensure_ascii=False), "parameters": parameters(recipe)}


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe of what Sfumato drew: inside a PNG, whose pixels are not read, or in the .json beside another file.

    Raises:
        UserError: no such file, no recipe in it or beside it, a damaged one, or one that cannot be.
    """
    fix = "give a picture or an array that Sfumato wrote"
    try:
        size_of(path, fix)
        with path.open("rb") as file:
            text = text_of(file, "sfumato", 4 * LARGEST_RECIPE)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file", fix=fix) from error
    except OSError as error:
        told = of_system(OSError(error.errno, error.strerror or str(error), str(path)))
        raise UserError(told.message, told.fix) from error
    except NotPNG as error:
        text = recipe_beside(path, str(error))
    except Damaged as error:
        raise UserError(f"{path} is damaged: {error}", fix="give the original file") from error
    if text is None:
        raise UserError(
            f"{path} holds no recipe; it was not drawn by Sfumato, or was saved again by a program that dropped it",
            fix="give the original file",
        )
    if len(text) > LARGEST_RECIPE:
        raise UserError(
            f"{path}: its recipe has {len(text):,} characters, more than the limit of {LARGEST_RECIPE:,}",
            fix="give the original file",
        )
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its recipe is not readable ({error})", fix="give the original file") from error
    checked = validate(recipe, f"{path}: its recipe", Recipe)
    usual = {"backend": None, "conditions": {}}
    without = {"sampling"} | {name for name, value in usual.items() if getattr(checked, name) == value}
    return {**checked.model_dump(mode="json", exclude=without), "sampling": of_picture(checked.sampling)}


def recipe_beside(path: Path, why: str) -> str:
    """The text of the .json beside a file that holds no recipe itself.

    Raises:
        UserError: there is none, or it is no text.
    """
    beside = path.with_suffix(RECIPE_ENDING)
    if beside == path or path.suffix.lower() in ("", ".png") or not beside.is_file():
        also = "" if beside == path else f", and there is no recipe {beside.name} beside it"
        raise UserError(
            f"{path} cannot be read as a PNG ({why}){also}", fix="give a picture or an array that Sfumato wrote"
        )
    try:
        return read_bytes(beside, 4 * LARGEST_RECIPE, "give the file that Sfumato wrote").decode()
    except UnicodeDecodeError:
        raise UserError(f"{beside} is no text", fix="give the file that Sfumato wrote") from None


def backend_of(recipe: dict[str, Any]) -> str:
    """The name of the program that evaluated the network."""
    return recipe["backend"]["name"] if "backend" in recipe else "torch"
