"""From a request to finished pictures, one batch at a time, each with its recipe."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

import sfumato
from sfumato.conditioning.conditioners import Condition
from sfumato.diffusion.solvers import Step
from sfumato.errors import UserError, unknown
from sfumato.generation.recipe import to_png
from sfumato.model import Model

LARGEST_SEED = 2**63 - 1
LARGEST_SIZE = 1024
LARGEST_COUNT = 10_000
SHIPPED = Path(__file__).parent.parent / "models"
DEFAULT_MODEL = "emoji"


@dataclass(frozen=True)
class Request:
    """What to draw.

    Attributes:
        prompts: None stands for no condition.
        n: pictures a prompt; picture i has seed ``seed + i``.
        seed: 0 to 2^63 - 1.
        negative: what to steer away from.
        size: pixels, None for the model's own.
        settings: changes to the model's sampling settings.
    """

    prompts: tuple[Condition, ...]
    n: int = 1
    seed: int = 0
    negative: Condition = None
    size: int | None = None
    settings: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bounds = {
            "n": (self.n * max(1, len(self.prompts)), 1, LARGEST_COUNT),
            "seed": (self.seed, 0, LARGEST_SEED - self.n),
            "size": (self.size or 8, 8, LARGEST_SIZE),
        }
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                raise UserError(f"{name}: {value} is outside {low} to {high}", fix=f"choose --{name} within the range")


@dataclass(frozen=True)
class Drawn:
    """A finished picture with its recipe; ``film`` holds its state after every step, when asked for."""

    picture: Image.Image
    recipe: dict
    film: tuple[Image.Image, ...] = ()

    def png(self) -> bytes:
        return to_png(self.picture, self.recipe)


def open_model(name: str | Path | None = None) -> Model:
    """A model by folder, or one that ships with the package by name; the default model when None."""
    name = str(name or DEFAULT_MODEL)
    if Path(name).is_dir():
        folder = Path(name)
        # A run folder is as good as the model in it.
        return Model.load(folder / "model" if (folder / "model" / "model.json").is_file() else folder)
    shipped = sorted(p.parent.name for p in SHIPPED.glob("*/model.json"))
    if name in shipped:
        return Model.load(SHIPPED / name)
    raise unknown("model", name, shipped)


def draw(
    model: Model,
    request: Request,
    on_step: Callable[[range, int, Step], None] = lambda batch, total, step: None,
    film: bool = False,
) -> Iterator[Drawn]:
    """Yields every picture as soon as its batch is done, prompt by prompt.

    Args:
        model: from ``open_model``.
        request: what to draw.
        on_step: told the pictures of the batch, the number of all pictures, and the step.
        film: keep every state of every picture.
    """
    settings = model.sampling(**request.settings)
    model.check_size(request.size)
    jobs = [(prompt, request.seed + i) for prompt in request.prompts for i in range(request.n)]
    for batch in model.batches(len(jobs)):
        prompts, seeds = zip(*jobs[batch.start : batch.stop], strict=True)
        frames: list[Sequence[Image.Image]] = []
        for step in model.steps(prompts, seeds, settings, request.negative, request.size):
            on_step(batch, len(jobs), step)
            if film:
                frames.append([model.codec.picture(x) for x in step.x])
        for i, x in enumerate(step.x):
            recipe = {
                "sfumato": sfumato.__version__,
                "torch": torch.__version__,
                "device": model.device.type,
                "threads": torch.get_num_threads(),
                "model": {"name": model.config.name, "weights_sha256": model.hashes["weights.safetensors"]},
                "prompt": prompts[i],
                "negative": request.negative,
                "seed": seeds[i],
                "size": x.shape[-1],
                "sampling": settings.model_dump(mode="json", exclude={"prompts", "ema"}),
            }
            yield Drawn(model.codec.picture(x), recipe, tuple(frame[i] for frame in frames))


def redraw(model: Model, recipe: dict, on_step: Callable[[range, int, Step], None]) -> Drawn:
    """Draws a picture again from its recipe.

    Raises:
        UserError: the model is not the one that drew it.
    """
    expected, found = recipe["model"]["weights_sha256"], model.hashes["weights.safetensors"]
    if expected != found:
        raise UserError(
            f"model: the picture was drawn by {recipe['model']['name']!r} with weights {expected[:10]}, "
            f"but this one has {found[:10]}",
            fix="name the folder of that model with --model",
        )
    torch.set_num_threads(recipe["threads"])  # another number of threads adds up in another order
    request = Request(
        prompts=(recipe["prompt"],),
        seed=recipe["seed"],
        negative=recipe["negative"],
        size=recipe["size"],
        settings=recipe["sampling"],
    )
    return next(draw(model, request, on_step))
