"""The whole page: from a picture, and perhaps a model, to a folder with the page and its pictures."""

from html import escape
from pathlib import Path

import torch
from torch import Tensor

import sfumato
from sfumato import kinds
from sfumato.bounded import read_bytes
from sfumato.codecs.codec import Codec
from sfumato.codecs.pixels import Pixels
from sfumato.data.readers import FILE_BYTES, Reader, Unusable
from sfumato.data.readers.pictures import Pictures
from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import cosine
from sfumato.drawing import SeededNoise
from sfumato.errors import UserError
from sfumato.explain import forward, jump, plane, posterior, schedules, trajectory
from sfumato.explain.pictures import landscape
from sfumato.model import Model
from sfumato.page import Section, folder, page, write
from sfumato.report import Report, Silent
from sfumato.request import Request, check_number

SIZE = 64  # side of the picture if there is no model
STEPS = 50  # steps if there is no model
LONGEST = 1000  # steps
ROWS = 4  # pictures drawn with the model: as many as one batch holds anyway


@torch.no_grad()
def explain(
    out: str | Path,
    model: Model | None = None,
    picture: str | Path | None = None,
    prompt: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Path:
    """Write the page `out`/index.html, and each of its pictures as a file; return the path of the page.

    Args:
        out: a folder, made if it is not there; files of the same names are replaced.
        model: a model to explain besides the mathematics.
        picture: a file to turn into noise; by default a picture that the model draws, or one made by a formula.
        prompt: what the model draws.
        steps: steps from noise to data; the model's own by default, or 50 without a model.
        seed: seed of all random choices on the page.
        report: gets the progress.

    Raises:
        UserError: names the field, the value, the limit and the fix.
    """
    out, report = Path(out), report or Silent()
    if prompt is not None and model is None:
        raise UserError(f"prompt: {prompt!r} is given, but no model to draw it", fix="name a model, or leave it out")
    if steps is not None:
        check_number("steps", steps, 1, LONGEST)
    request = Request((prompt,), ROWS, seed, settings={"steps": steps})
    settings = model.check(request) if model else None
    codec = model.codec if model else Pixels(SIZE)
    reader = kinds.kind_of(model.config.codec).reader(model.config) if model else Pictures(SIZE)
    x_0 = from_file(Path(picture), reader, codec) if picture is not None else None
    folder(out)

    at_work: list[Section] = []
    jumps = jump.on_points(seed)
    if model and settings:
        seeds = range(seed, seed + ROWS)
        walked = list(trajectory.walk(model, prompt, seeds, settings, "drawing", report))
        model.pictures(walked[-1].x)  # refuses what is not finite
        at_work = [trajectory.section(model, prompt, seed, settings, walked)]
        jumps += jump.on_pictures(model, prompt, seeds, settings, report)
        if x_0 is None:
            x_0 = varied(walked[-1].x[0].float().cpu().clamp(-1, 1), "what the model draws")
    elif x_0 is None:
        x_0 = landscape(codec.shape)

    own = model.denoiser.process if model else None
    noise = SeededNoise([seed], own or Gaussian(cosine())).draw(x_0.shape)[0]
    sections = [
        forward.section(codec, x_0, noise),
        schedules.section(x_0, own.schedule if own else None),
        posterior.section(codec, own or Gaussian(cosine()), x_0, noise),
        *at_work,
        plane.section(steps or STEPS, seed, report),
        jump.section(jumps),
    ]
    of = [f"the model <b>{escape(model.config.name)}</b>"] if model else []
    if picture is not None:
        of.append(f"the picture {escape(Path(picture).name)}")
    elif model is None:
        of.append("a picture made by a formula")
    introduction = (
        "<p>How noise becomes a picture, step by step, computed by the functions whose names stand beside the "
        f"formulas: with {' and '.join(of)}, seed {seed}.</p><p class='soft'>Made by Sfumato {sfumato.__version__}. "
        "Films can be folded away; every picture and plot is also a file beside this page.</p>"
    )
    return write(out, page("Diffusion, explained", introduction, sections), sections)


def from_file(path: Path, reader: Reader, codec: Codec) -> Tensor:
    """A file as x_0 (C, *sides).

    Raises:
        UserError: there is no such file, or it is not a picture.
    """
    try:
        row = reader(read_bytes(path, FILE_BYTES, "give a picture"), path.name).values
    except OSError as error:
        raise UserError(f"picture: {path} cannot be read: {error.strerror}", fix="check the name") from error
    except Unusable as error:
        raise UserError(f"picture: {path} cannot be used, {error.kind}: {error.reason}", fix=error.fix) from error
    return varied(codec.encode(row[None])[0], str(path))


def varied(x_0: Tensor, what: str) -> Tensor:
    """`x_0` itself; a UserError if it has no variance, and so no information."""
    if x_0.var() == 0:
        raise UserError(
            f"picture: every pixel of {what} is the same, so that it has nothing to lose",
            fix="give another one with --picture",
        )
    return x_0
