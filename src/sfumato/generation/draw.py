"""From a request to finished pictures, one batch at a time, each with its recipe."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import sfumato
from sfumato import saved
from sfumato.codecs.codec import Codec
from sfumato.codecs.grid import encoded
from sfumato.diffusion.solvers import Step
from sfumato.drawing import OnStep, demand_finite, unseen
from sfumato.errors import UserError
from sfumato.generation.recipe import RECIPE_ENDING, asked_in, backend_of, of_condition, of_picture, texts
from sfumato.machine import demand_threads
from sfumato.model import Model
from sfumato.networks import kernels, native
from sfumato.networks.kernels import Kernel
from sfumato.request import Request
from sfumato.saved import model_folder
from sfumato.training.unfinished import is_run, open_unfinished
from sfumato.user_cache import user_cache


@dataclass(frozen=True)
class Drawn:
    """A finished row as people see it, with its recipe; ``film`` holds its state after every step, when asked for."""

    picture: Image.Image
    recipe: dict[str, Any]
    film: tuple[Image.Image, ...]
    row: np.ndarray
    codec: Codec

    def files(self) -> dict[str, bytes]:
        """The files by their endings, the row itself first: see ``Codec.files``. What is no PNG has its recipe in a
        .json beside it."""
        kept = texts(self.recipe)
        files = self.codec.files(self.row, kept)
        return files if ".png" in files else {**files, RECIPE_ENDING: kept["sfumato"].encode()}

    def _repr_png_(self) -> bytes:
        """A notebook shows the picture."""
        return self.png()

    def png(self) -> bytes:
        """The PNG with its recipe; of another kind of data, how a person sees it."""
        return self.files().get(".png") or encoded(self.picture)


def one_if_equal(sides: Sequence[int]) -> int | list[int]:
    """One number for sides that are all the same."""
    return sides[0] if len(set(sides)) == 1 else list(sides)


def open_model(
    name: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    network: nn.Module | None = None,
) -> Model:
    """The model of this name (see `model_folder`), or the present model of an unfinished run there.

    Args:
        name: see `model_folder`.
        say: called if a run has not finished; prints to standard error by default.
        network: as for ``Model.load``.
    """
    folder = model_folder(name)
    if not (folder / saved.DESCRIPTION).is_file() and is_run(folder):
        return open_unfinished(folder, say or partial(print, file=sys.stderr), network)
    return Model.load(folder, network=network)


def draw(
    model: Model,
    request: Request,
    on_step: OnStep = unseen,
    film: bool = False,
) -> Iterator[Drawn]:
    """Yield every picture as soon as its batch is done, prompt by prompt.

    Args:
        model: from ``open_model``.
        request: what to draw; checked as a whole before the first step.
        on_step: told of every step.
        film: keep every state of every picture.
    """
    settings, jobs = model.check(request), model.jobs(request)
    same = {
        "sfumato": sfumato.__version__,
        "torch": torch.__version__,
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "kernel": kernel.name if (kernel := kernels.current()) and model.device.type == "cpu" else "torch",
        "model": {"name": model.config.name, "weights_sha256": model.fingerprint},
        "negative": request.negative,
        "size": one_if_equal(model.codec.sized(request.size)[:0:-1]),
        "sampling": of_picture(settings),
    }
    if model.backend != "torch":
        same["backend"] = {"name": model.backend, "version": metadata.version(model.backend)}
    conditions, seeds = zip(*jobs, strict=True)
    frames: list[list[Image.Image]] = []

    def watch(places: range, total: int, step: Step) -> None:
        on_step(places, total, step)
        if film:
            frames.append(model.codec.pictures(step.x))

    for places, x in model.drawn(conditions, seeds, settings, request.negative, request.size, watch):
        for i, (place, row) in enumerate(zip(places, model.codec.decode(demand_finite(x)), strict=True)):
            recipe = {**same, **of_condition(model, conditions[place]), "seed": seeds[place]}
            shown = model.codec.picture(row)
            yield Drawn(shown, recipe, tuple(frame[i] for frame in frames), row, model.codec)
        frames.clear()


def redraw(
    model: Model, recipe: dict[str, Any], on_step: OnStep = unseen, pictures: Mapping[str, Any] | None = None
) -> Drawn:
    """Draw a picture again from its recipe.

    Args:
        model: the model that drew it.
        recipe: from ``read_recipe``.
        on_step: told of every step.
        pictures: those that were given as conditions, by name: the recipe holds only their SHA-256.

    Raises:
        UserError: a picture is missing or another; the model is not the one that drew it, or its network or its
            convolutions are evaluated by something that is not here.
    """
    expected, found = recipe["model"]["weights_sha256"], model.fingerprint
    if expected != found:
        raise UserError(
            f"model: the picture was drawn by {recipe['model']['name']!r} with weights {expected[:10]}, "
            f"but this one has {found[:10]}",
            fix="name the folder of that model with --model",
        )
    kernel = kernel_of(model, recipe)
    if backend_of(recipe) != model.backend:
        raise UserError(
            f"backend: the picture was drawn with {backend_of(recipe)}, but this model uses {model.backend}",
            fix=f'call use_backend(model, "{backend_of(recipe)}")',
        )
    request = Request(
        prompts=(asked_in(model, recipe, pictures or {}),),
        seed=recipe["seed"],
        negative=recipe["negative"],
        size=tuple(recipe["size"]) if isinstance(recipe["size"], list) else recipe["size"],
        settings=recipe["sampling"],
    )
    threads, before = demand_threads("threads of the recipe", recipe["threads"]), torch.get_num_threads()
    torch.set_num_threads(threads)  # another number of threads adds up in another order
    try:
        with kernels.using(kernel):
            return next(draw(model, request, on_step))
    finally:
        torch.set_num_threads(before)


def kernel_of(model: Model, recipe: dict[str, Any]) -> Kernel | None:
    """What computed the convolutions of a picture: a kernel, or None for PyTorch.

    Raises:
        UserError: the kernel is not here, with the reason.
    """
    name, used = recipe.get("kernel"), kernels.current()
    if name is None or model.device.type != "cpu" or model.backend != "torch":
        return used
    if name == "torch":
        return None
    if used and used.name == name:
        return used
    found = native.find(user_cache("kernels"))
    if found.kernel and found.kernel.name == name:
        return found.kernel
    reason = f"this version has {found.kernel.name!r}" if found.kernel else found.reason
    raise UserError(
        f"kernel: the convolutions of the picture were done by {name!r}, which is not here: {reason}",
        fix=found.fix or "draw it again where it was drawn, or anew with `sfumato generate`",
    )


def differences(model: Model, recipe: dict[str, Any]) -> list[str]:
    """The differences from the time when a picture was drawn, in words: they may change its bytes."""
    backend = recipe.get("backend")
    now = {"torch": torch.__version__, "device": model.device.type}
    was = {name: recipe.get(name) for name in now}
    if backend and backend["name"] == model.backend:
        now[backend["name"]], was[backend["name"]] = metadata.version(model.backend), backend["version"]
    return [f"{name} {was[name]}, here {now[name]}" for name in now if was[name] not in (None, now[name])]
