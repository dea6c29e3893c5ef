"""`sfumato generate` and `sfumato rerun`: from a prompt to a picture, and from a picture to the same picture."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.progress import Terminal
from sfumato.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from sfumato.diffusion.solvers import Step
    from sfumato.model import Model

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
    from sfumato.codecs.grid import encoded, labelled_grid
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
    drawn, code = [], 0
    with Terminal() as terminal:
        try:
            opened = use_backend(open_model(model, terminal.say), backend, terminal.say)
            for picture in draw(opened, request, steps_told_to(terminal, opened, every=film), film):
                drawn.append(picture)
                name = f"{slug(asked_in_words(picture.recipe))}-{picture.recipe['seed']}"
                path, *_ = [write(out, f"{name}{ending}", data) for ending, data in picture.files().items()]
                terminal.say(str(path))
                if film:
                    first, *rest = picture.film
                    durations = [FRAME] * len(rest) + [LAST]
                    gif = encoded(first, ".gif", save_all=True, append_images=rest, duration=durations, loop=0)
                    write(out, f"{path.stem}.gif", gif)
        except KeyboardInterrupt:
            terminal.say(f"stopped; {len(drawn)} finished pictures are kept")
            code = 130

    if grid and drawn:
        labels = [asked_in_words(picture.recipe) for picture in drawn]
        sheet = labelled_grid([picture.picture for picture in drawn], labels, n if n > 1 else min(len(drawn), 8))
        print(write(out, "grid.png", encoded(sheet)))
    print(f"{len(drawn)} picture{'' if len(drawn) == 1 else 's'} in {out.resolve()}")
    return code


def rerun(
    picture: Path, /, *, model: str | None = None, out: Path | None = None, condition: tuple[str, ...] = ()
) -> int:
    """Draw a picture again from the recipe inside it, byte for byte.

    Parameters
    ----------
    picture
        A PNG that Sfumato wrote.
    model
        The model that drew the picture, if it is not one of the package.
    out
        The new file, which ends in .png, or a folder for it; by default NAME-rerun.png beside the old one.
    condition
        A picture that was given as a condition, "mask=mask.png"; the recipe holds only its SHA-256.
    """
    from sfumato.durable import write_atomically
    from sfumato.export.backend import use_backend
    from sfumato.generation.draw import differences, open_model, redraw
    from sfumato.generation.recipe import backend_of, read_recipe

    recipe, original = read_recipe(picture), picture.read_bytes()
    with Terminal() as terminal:
        opened = use_backend(open_model(model or recipe["model"]["name"]), backend_of(recipe), terminal.say)
        for difference in differences(opened, recipe):
            terminal.say(f"drawn with {difference}: the bytes may differ")
        again = redraw(opened, recipe, steps_told_to(terminal, opened), of_conditions(condition))
    data = again.png()
    if out is None:
        path = write(picture.parent, f"{picture.stem}-rerun{picture.suffix}", data)
    elif out.suffix.lower() != ".png" or out.is_dir():
        path = write(out, picture.name, data)
    else:
        path = out
        if path.exists() and path.samefile(picture) and data != original:
            raise UserError(
                f"out: {path} is the picture itself, and the new one is {verdict(again.picture, data, original)}",
                "choose another file with --out",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    print(f"{path}\n{verdict(again.picture, data, original)}")
    return 0 if same_pixels(again.picture, original) else 1


def verdict(picture: Image, data: bytes, original: bytes) -> str:
    """How a picture that was drawn again, and its file, compare with the original file."""
    if data == original:
        return "the same, byte for byte"
    if same_pixels(picture, original):
        return "the same in every pixel; the file is another: other versions drew it, or another program saved it"
    return "not the same: another machine, other versions, or a picture that was changed"


def same_pixels(picture: Image, original: bytes) -> bool:
    """Whether a file holds exactly these pixels; False if it cannot be read."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(original), formats=["PNG"]) as old:
            if old.mode != picture.mode:  # e.g. with a palette, or with alpha that may hide something
                old, picture = old.convert("RGBA"), picture.convert("RGBA")
            return old.size == picture.size and old.tobytes() == picture.tobytes()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


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


def write(folder: Path, name: str, data: bytes) -> Path:
    """Write a new file; if a file of that name has other content, it stays and the new one gets a number."""
    from sfumato.durable import write_new

    try:
        return write_new(folder / name, data)
    except OSError as error:
        raise UserError(
            f"{folder / name} cannot be written: {error.strerror}",
            "free some space, or choose another folder with --out",
        ) from error
