"""How a model draws: the check of a request, the states of one batch, and the one loop over batches.

All drawing goes through ``Draws.drawn``: the user's requests, sample sheets and evaluations.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from sfumato import registry
from sfumato.codecs.codec import Codec
from sfumato.codecs.grid import encoded, labelled_grid
from sfumato.conditioning.conditioners import Asked, Conditioners, warn_of_cut
from sfumato.conditioning.values import Condition
from sfumato.config import Config, validate
from sfumato.diffusion.clipping import Clipped
from sfumato.diffusion.denoisers import Denoiser, PosteriorMean
from sfumato.diffusion.guidance import Guided
from sfumato.diffusion.parts import InParts
from sfumato.diffusion.processes import Process
from sfumato.diffusion.solvers import Step, sample
from sfumato.errors import UserError, unknown
from sfumato.keyed import seeded
from sfumato.machine import free_memory
from sfumato.networks import UNet
from sfumato.networks.memory import peak_memory
from sfumato.networks.reuse import Reuse
from sfumato.request import Request, Size
from sfumato.settings.sampling import Sampling
from sfumato.transfer import memory_format

SHEET_COLUMNS = 8
ALWAYS_FITS = 256  # pixels of a side up to which the free memory is not checked

# A listener: it gets the places of a batch, the number of all places, and the step that was done.
OnStep = Callable[[range, int, Step], None]


def unseen(places: range, total: int, step: Step) -> None:
    """An ``OnStep`` that does nothing."""


class SeededNoise:
    """Noise of a process with one generator for each picture, so the noise does not depend on other pictures.

    Args:
        seeds: one integer for each picture.
        process: the process that draws the noise.
    """

    def __init__(self, seeds: Sequence[int], process: Process) -> None:
        self.process = process
        self.generators = [seeded(seed) for seed in seeds]

    def draw(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape) on the CPU."""
        return torch.stack([self.process.noise(shape, g) for g in self.generators])

    def __call__(self, x: Tensor) -> Tensor:
        return self.draw(x.shape[1:]).to(x.device, x.dtype if x.is_floating_point() else None)


def demand_finite(x: Tensor) -> Tensor:
    """``x`` itself.

    Raises:
        UserError: it is not finite: the sampling has diverged, and the picture would be black.
    """
    if not x.isfinite().all():
        raise UserError(
            "sampling: the picture is not finite; this solver diverges on this grid, or the weights are broken",
            fix="choose the grid log-snr or the solver ddim, or more steps",
        )
    return x


class Pictures(list[Image.Image]):
    """Pictures, of which a notebook shows a sheet."""

    def _repr_png_(self) -> bytes | None:
        """The sheet as PNG; nothing where there are none."""
        columns = min(len(self), SHEET_COLUMNS)
        return encoded(labelled_grid(self, [""] * len(self), columns)) if self else None


class Draws:
    """Abstract: what a model with these parts can draw; ``Model`` adds weights on the disk."""

    config: Config
    denoiser: Denoiser
    conditioner: Conditioners
    codec: Codec
    backend: str

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def sampling(self, **changes: object) -> Sampling:
        """The model's sampling settings, changed by those of ``changes`` that are not None."""
        # The averaged weights were chosen when the model was saved, and `prompts` belong to the sample sheet.
        possible = Sampling.model_fields.keys() - {"ema", "prompts"}
        for name in sorted(changes.keys() - possible):
            raise unknown("sampling setting", name, possible)
        given = {name: value for name, value in changes.items() if value is not None}
        if given.keys() & {"steps", "grid"}:
            given = {"times": (), **given}  # the model's own times belong to its own number of steps
        settings = self.config.sampling.model_dump() | given
        return validate(settings, "sampling", Sampling)

    def check(self, request: Request) -> Sampling:
        """The sampling settings for a request, checked as a whole before the first step.

        Raises:
            UserError: a condition, a setting or a size that this model does not have; names field, value and fix.

        Warns:
            Told: a prompt is longer than the encoder reads.
        """
        settings = self.sampling(**request.settings)
        jobs = self.jobs(request)
        if self.conditioner.normalize(request.negative, "negative") and settings.guidance == 1:
            raise UserError(
                f"negative: {request.negative!r} has no effect with guidance 1, which draws without guidance",
                fix="set guidance above 1, or leave negative out",
            )
        asked = request.settings.get("guidance")
        if not self.conditioner.parts and asked not in (None, 1, self.config.sampling.guidance):
            raise UserError(
                f"guidance: {asked} has no effect, because this model was trained without captions or classes",
                fix="leave guidance out, or train on captioned pictures",
            )
        if settings.reuse > 1 and self.config.network.kind != "unet":
            raise UserError(
                f"reuse: {settings.reuse} needs a U-Net, and the network of this model is a {self.config.network.kind}",
                fix="set reuse to 1, or choose fewer steps",
            )
        if settings.reuse > 1 and self.backend != "torch":
            raise UserError(
                f"reuse: {settings.reuse} needs PyTorch, and {self.backend} evaluates this network as a whole",
                fix="set reuse to 1, or use the back end torch",
            )
        shape = self.codec.sized(request.size)
        if shape != self.codec.shape and self.config.network.kind == "dit":
            raise UserError(
                f"size: this model draws {self.codec.describe()} and not {request.size}, because a DiT has one size",
                fix="leave size out",
            )
        self._demand_room(shape)
        warn_of_cut(self.conditioner, "prompt", list(dict.fromkeys(self.conditioner.text_of(c) for c, _ in jobs)))
        warn_of_cut(self.conditioner, "negative", [request.negative])
        return settings

    def jobs(self, request: Request) -> list[tuple[Condition, int]]:
        """The condition and the seed of each picture of a request, prompt by prompt.

        Raises:
            UserError: a condition that this model does not have or understand, or that is given twice.
        """
        common = self.conditioner.normalize(request.conditions)
        found = []
        for prompt in request.prompts:
            own = self.conditioner.normalize(prompt)
            for name in own.keys() & common.keys():
                raise UserError(
                    f"condition {name}: it is given twice, as {own[name]!r} and {common[name]!r}",
                    fix=f"leave {own[name]!r} out, or the condition {name}",
                )
            found += [(self.conditioner.normalize({**own, **common}), seed) for seed in request.seeds]
        return found

    def _demand_room(self, shape: Sequence[int]) -> None:
        """Raise a UserError if one batch of x of ``shape`` (C, *sides) needs more than the free memory."""
        if math.prod(shape[1:]) <= ALWAYS_FITS**2 or self.backend != "torch":
            return
        condition = self.conditioner([{}] * self.lanes, shape[1:])
        condition.pop("planes", None)  # they are a part of the network's x
        x = torch.empty(self.lanes, shape[0] + self.conditioner.planes, *shape[1:], device="meta")
        needed = peak_memory(self.denoiser.network, x, condition)
        free = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else free_memory()
        if needed > free:
            raise UserError(
                f"size: {self.lanes} of {' x '.join(map(str, shape[:0:-1]))} at once need {needed / 2**30:.1f} GiB, "
                f"and {free / 2**30:.1f} GiB of memory are free",
                fix="choose a smaller size, or close other programs",
            )

    @property
    def lanes(self) -> int:
        """How many pictures the network always draws at once.

        Libraries choose their kernels, and so the last bits of a result, by the shape of a batch. A picture alone and
        the same one among 64 are equal because every batch has this size; copies fill it up if there are fewer.
        """
        return 4 if self.device.type == "cpu" else 16

    def batches(self, count: int) -> list[range]:
        """Split ``count`` pictures into batches for ``steps``."""
        return [range(start, min(start + self.lanes, count)) for start in range(0, count, self.lanes)]

    @torch.inference_mode()
    def steps(
        self,
        conditions: Sequence[Asked],
        seeds: Sequence[int],
        settings: Sampling,
        negative: Asked = None,
        size: Size = None,
    ) -> Iterator[Step]:
        """The states of sampling one batch of at most ``lanes`` pictures, from noise to data; x is (B, C, *sides).

        Args:
            conditions: (B) conditions, prompts or class names; None for no condition.
            seeds: (B) one for each picture.
            settings: solver, grid, steps, guidance.
            negative: what to steer away from.
            size: one side for all, or (width, height); the model's own by default.
        """
        wanted, spare = len(seeds), self.lanes - len(seeds)
        if len(conditions) != wanted or not 0 <= spare < self.lanes:
            raise ValueError(f"{len(conditions)} conditions and {wanted} seeds: give 1 to {self.lanes} of each")
        conditions, seeds = [*conditions, *[conditions[-1]] * spare], [*seeds, *[seeds[-1]] * spare]
        denoiser, condition = self.guided(conditions, settings, negative, size)
        times = self.times(settings)
        solver = registry.solver_for(settings.solver, self.denoiser.process)
        noise = SeededNoise(seeds, self.denoiser.process)
        for step in sample(denoiser, self.start(noise, size), times, solver, noise, **condition):
            yield replace(step, x=step.x[:wanted], mean=step.mean[:wanted])

    def times(self, settings: Sampling) -> Tensor:
        """The times (steps + 1,) that sampling visits, from 1 to 0."""
        if settings.times:
            return torch.tensor(settings.times, dtype=torch.float64)
        grid = registry.resolve("sampling.grid", registry.GRIDS, settings.grid)
        return grid(self.denoiser.process.schedule, settings.steps)

    def start(self, noise: "SeededNoise", size: Size = None) -> Tensor:
        """The states (B, C, *sides) that sampling begins with, one for each seed."""
        first = noise.draw(self.codec.sized(size)).to(self.device)
        first = first.to(memory_format=memory_format(first.dim()))
        return self.denoiser.process.prior(first)

    def guided(
        self, conditions: Sequence[Asked], settings: Sampling, negative: Asked = None, size: Size = None
    ) -> tuple[PosteriorMean, dict[str, Tensor]]:
        """The denoiser with guidance and clipping, and its condition tensors; arguments as for ``steps``."""
        answers: PosteriorMean = self.denoiser
        if settings.reuse > 1:
            network = cast(UNet, self.denoiser.network)  # `check` made sure of it
            starts = self.times(settings)[: -1 : settings.reuse].tolist()
            answers = InParts(self.denoiser.around(Reuse(network)), tuple(starts))
        asked, away = [self.conditioner.normalize(c) for c in conditions], self.conditioner.normalize(negative)
        sides = self.codec.sized(size)[1:]
        positive = self.conditioner(asked, sides)
        if settings.guidance != 1 and positive:
            null = self.conditioner(self.conditioner.null(asked, away), sides)
            answers = Guided(answers, null, settings.guidance, settings.guidance_interval)
        epsilon = self.config.diffusion.parameterization == "epsilon"
        clips = self.codec.bounds is not None and (epsilon if settings.clip == "auto" else settings.clip)
        return Clipped(answers) if clips else answers, positive

    def drawn(
        self,
        conditions: Sequence[Asked],
        seeds: Sequence[int],
        settings: Sampling,
        negative: Asked = None,
        size: Size = None,
        on_step: OnStep = unseen,
    ) -> Iterator[tuple[range, Tensor]]:
        """Draw batch by batch, and yield the places of each batch and its finished x (B, C, *sides).

        Args:
            conditions, seeds: (N) one for each picture.
            settings, negative, size: as for ``steps``.
            on_step: called after every step of every batch.
        """
        for places in self.batches(len(seeds)):
            part = slice(places.start, places.stop)
            for step in self.steps(conditions[part], seeds[part], settings, negative, size):
                on_step(places, len(seeds), step)
            yield places, step.x

    def pictures(self, x: Tensor) -> list[Image.Image]:
        """The finished pictures of x (B, C, *sides); a UserError if x is not finite."""
        return self.codec.pictures(demand_finite(x))

    def generate(
        self,
        prompts: Asked | Sequence[Asked] = None,
        n: int = 1,
        seed: int = 0,
        negative: str | None = None,
        size: Size = None,
        on_step: Callable[[Step], None] | None = None,
        **settings: object,
    ) -> "Pictures":
        """Pictures for prompts: ``n`` each, in order; picture i of a prompt has seed ``seed + i``.

        A notebook shows them side by side.

        Args:
            prompts: one or more prompts, class names, or conditions by name, ``{"text": "a cat", "class": "cat"}``;
                None draws without a condition.
            n: pictures for each prompt.
            seed: seed of the first picture of every prompt.
            negative: what to steer away from.
            size: one side for all, or (width, height); the model's own by default.
            on_step: called with every state, e.g. for a progress bar.
            settings: solver, grid, steps, guidance, guidance_interval, reuse, clip; the model's own by default.

        Raises:
            UserError: names the field, the value, the range and the fix.
        """
        wanted = prompts if isinstance(prompts, Sequence) and not isinstance(prompts, str) else [prompts]
        request = Request(tuple(wanted), n, seed, negative, size, settings)
        chosen, jobs = self.check(request), self.jobs(request)
        conditions, seeds = zip(*jobs, strict=True)
        watch: OnStep = (lambda places, total, step: on_step(step)) if on_step else unseen
        batches = self.drawn(conditions, seeds, chosen, negative, size, watch)
        return Pictures(picture for _, x in batches for picture in self.pictures(x))
