"""`sfumato generate` and `sfumato rerun`: from a prompt to a picture, and from a picture to the same picture."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.progress import Terminal
from sfumato.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from sfumato.diffusion.solvers import Step
    from sfumato.model import Model
    from sfumato.request import Request

TILE = 96  # pixels of a picture on the sheet of all
LARGEST_ORIGINAL = 4 * 2**30  # bytes of a file that is compared
FRAME, LAST = 120, 1500  # milliseconds of each frame of a film, and of the last one


def generate(
    *prompts: str,
    model: str | None = None,
    n: int = 1,
    steps: int | None = None,
    solver: str | None = None,
    times: str | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    condition: tuple[str, ...] = (),
    seed: int | None = None,
    size: str | None = None,
    backend: str = "torch",
    out: Path = Path("pictures"),
    grid: bool = False,
    film: bool = False,
) -> int:
    """Draw pictures from prompts.

    Parameters
    ----------
    prompts
        One or more prompts (or class names), each in quotes; without any, pictures without a condition.
    model
        Name of a model in the package, or a run or model folder; by default the one in the package.
    n
        Pictures for each prompt; picture i has seed + i.
    steps
        Steps from noise to picture; the model's own by default.
    solver
        dpm++2m, unipc, heun, ddim, ddpm or another (a wrong name lists all); the model's own by default.
    times
        Times of the steps, "1,0.8,0.5,0", e.g. from `sfumato search-grid`; the model's own by default.
    guidance
        How strictly to follow the prompt; 1 does not push towards it. The model's own by default.
    negative
        What to steer away from.
    condition
        A condition by name, "class=cat" or "mask=mask.png", for every prompt; may be given several times.
    seed
        Seed of the first picture of each prompt, random by default. The same seed gives the same picture.
    size
        Side in pixels, or WIDTHxHEIGHT; the model's own by default.
    backend
        Program that evaluates the network: torch, onnxruntime or openvino.
    out
        Folder for the pictures.
    grid
        Also write all pictures on one sheet.
    film
        Also write a film (GIF) of the denoising of each picture.
    """
    from sfumato.codecs.grid import encoded, fit, labelled_grid
    from sfumato.export.backend import use_backend
    from sfumato.generation.draw import draw, open_model
    from sfumato.generation.recipe import asked_in_words
    from sfumato.request import Request, parse_size

    request = Request(
        prompts=prompts or (None,),
        n=n,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        negative=negative,
        size=parse_size(size),
        conditions=of_conditions(condition),
        settings={"steps": steps, "solver": solver, "guidance": guidance, **of_times(times, steps)},
    )
    labels, tiles, count, code = [], [], 0, 0
    with Terminal() as terminal:
        try:
            opened = use_backend(open_model(model, terminal.say), backend, terminal.say)
            demand_room(opened, request, grid, film)
            for picture in draw(opened, request, steps_told_to(terminal, opened, every=film), film):
                count += 1
                label = asked_in_words(picture.recipe)
                path = write(out, f"{slug(label)}-{picture.recipe['seed']}", picture.files())
                terminal.say(str(path))
                if grid:
                    labels.append(label)
                    tiles.append(fit(picture.picture, TILE))
                if film:
                    write(out, path.stem, {".gif": film_of(picture.film)})
        except KeyboardInterrupt:
            terminal.say(f"stopped; {count} finished pictures are kept")
            code = 130

    if tiles:
        sheet = labelled_grid(tiles, labels, columns_of(n, len(tiles)), TILE)
        print(write(out, "grid", {".png": encoded(sheet)}))
    print(f"{count} picture{'' if count == 1 else 's'} in {out.resolve()}")
    return code


def columns_of(n: int, tiles: int) -> int:
    """Of the sheet of all pictures: a row a prompt, or 8."""
    return n if n > 1 else min(tiles, 8)


def demand_room(model: Model, request: Request, grid: bool, film: bool) -> None:
    """A UserError if the sheet of all pictures, or the films of those that are drawn at once, do not fit the memory."""
    from sfumato.codecs.grid import MARGIN
    from sfumato.machine import free_memory

    pictures, settings = len(request.prompts) * request.n, model.sampling(**request.settings)
    columns = columns_of(request.n, pictures)
    sheet = 3 * (TILE + 2 * MARGIN) ** 2 * (pictures + columns * -(-pictures // columns))
    frames = 4 * min(model.lanes, pictures) * (settings.steps + 1) * math.prod(model.codec.sized(request.size)[1:])
    for name, needed, fewer in (
        ("grid", sheet * grid, "pictures"),
        ("film", frames * film, "steps, or a smaller size"),
    ):
        if needed > (free := free_memory()):
            raise UserError(
                f"{name}: it needs {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free",
                f"leave --{name} out, or ask for fewer {fewer}",
            )


def film_of(frames: Sequence[Image]) -> bytes:
    """A GIF of all states, whose last stands still for a while."""
    from sfumato.codecs.grid import encoded

    first, *rest = frames
    durations = [FRAME] * len(rest) + [LAST]
    return encoded(first, ".gif", save_all=True, append_images=rest, duration=durations, loop=0)


def rerun(
    picture: Path, /, *, model: str | None = None, out: Path | None = None, condition: tuple[str, ...] = ()
) -> int:
    """Draw a picture or an array again from its recipe, byte for byte.

    Parameters
    ----------
    picture
        A PNG that Sfumato wrote, or an array (.npy) with its recipe in the .json beside it.
    model
        The model that drew the picture, if it is not one of the package.
    out
        The new file, with the ending of the old one, or a folder for it; by default NAME-rerun beside the old one.
    condition
        A picture that was given as a condition, "mask=mask.png"; the recipe holds only its SHA-256.
    """
    from sfumato.bounded import read_bytes
    from sfumato.export.backend import use_backend
    from sfumato.generation.draw import differences, open_model, redraw
    from sfumato.generation.recipe import backend_of, read_recipe
    from sfumato.generation.same import same_values, verdict

    recipe, original = read_recipe(picture), read_bytes(picture, LARGEST_ORIGINAL)
    with Terminal() as terminal:
        opened = use_backend(open_model(model or recipe["model"]["name"]), backend_of(recipe), terminal.say)
        for difference in differences(opened, recipe):
            terminal.say(f"drawn with {difference}: the bytes may differ")
        again = redraw(opened, recipe, steps_told_to(terminal, opened), of_conditions(condition))
    files = again.files()
    ending, data = next(iter(files.items()))
    told = verdict(data, original, ending)
    if out is None:
        path = write(picture.parent, f"{picture.stem}-rerun", files)
    elif out.suffix.lower() != ending or out.is_dir():
        path = write(out, picture.stem, files)
    else:
        path = out
        if path.exists() and path.samefile(picture) and data != original:
            raise UserError(
                f"out: {path} is the {'picture' if ending == '.png' else 'array'} itself, and the new one is {told}",
                "choose another file with --out",
            )
        overwrite(path, files)
    print(f"{path}\n{told}")
    return 0 if same_values(data, original, ending) else 1


def overwrite(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the file that a person named, and what belongs beside it; a stranger's file beside it is kept."""
    from sfumato.durable import write_atomically

    beside = {path.with_suffix(ending): data for ending, data in list(files.items())[1:]}
    for other, data in beside.items():
        if not path.exists() and other.exists() and other.read_bytes() != data:
            raise UserError(f"out: {other} is there already, and the recipe would replace it", "choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    for each, data in {path: next(iter(files.values())), **beside}.items():
        write_atomically(each, data)


def steps_told_to(terminal: Terminal, model: Model, every: bool = False) -> Callable[[range, int, Step], None]:
    """A listener that shows the pictures of the batch as they come out of the noise, and a bar over all steps.

    Without a terminal it prints lines of the progress instead, and with ``every`` a line for every step.
    """

    def on_step(batch: range, pictures: int, step: Step) -> None:
        done = batch.start * step.total + len(batch) * step.index
        note = f"step {step.index}/{step.total} of pictures {batch.start + 1} to {batch.stop} of {pictures}"
        if every and not terminal.console.is_terminal:
            terminal.say(note)
        terminal.progress("drawing", done, pictures * step.total, note)
        terminal.show(model.codec.pictures(step.x))

    return on_step


def of_conditions(given: Sequence[str]) -> dict[str, str]:
    """The conditions by name that the options --condition name=value give."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UserError(f"condition: {text!r} is not of the form name=value", "write e.g. --condition class=cat")
        if name in found:
            raise UserError(f"condition {name}: it is given twice, as {found[name]!r} and {value!r}", "give it once")
        found[name] = value
    return found


def of_times(times: str | None, steps: int | None) -> dict[str, object]:
    """The settings that the option --times gives."""
    if times is None:
        return {}
    try:
        numbers = [float(time) for time in times.split(",")]
    except ValueError:
        raise UserError(
            f"times: {times!r} is not a list of numbers with commas", "write e.g. --times 1,0.8,0.5,0"
        ) from None
    return {"times": numbers, "steps": len(numbers) - 1 if steps is None else steps}


def slug(prompt: str | None) -> str:
    """A file name from a prompt: "A red heart!" -> "a-red-heart"."""
    return re.sub(r"[^a-z0-9]+", "-", (prompt or "").lower()).strip("-")[:60] or "picture"


def write(folder: Path, stem: str, files: Mapping[str, bytes]) -> Path:
    """Write files of one stem and return the path of the first. Where one of them is there with other content, all get
    a number, so that a recipe stays beside its array."""
    from sfumato.durable import write_new

    number, name = 1, stem
    while any(_is_taken(folder / f"{name}{ending}", data) for ending, data in files.items()):
        number += 1
        name = f"{stem}-{number}"
    try:
        path, *_ = (write_new(folder / f"{name}{ending}", data) for ending, data in files.items())
    except OSError as error:
        raise UserError(
            f"{folder / name}{next(iter(files))} cannot be written: {error.strerror}",
            "free some space, or choose another folder with --out",
        ) from error
    return path


def _is_taken(path: Path, data: bytes) -> bool:
    """Whether a file is there, and holds something else."""
    if not os.path.lexists(path):
        return False
    return not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data)
