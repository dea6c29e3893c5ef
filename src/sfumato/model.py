"""The saved model: one folder that holds all that is needed to draw a picture, and says where it came from.

``model.json`` names the settings (network, schedule, parameterization, codec, conditioner, sampling defaults), the
classes, the lineage (data manifest, run, seed, EMA track) and the SHA-256 of every file; ``weights.safetensors``
holds the tensors, ``tokenizer.json`` the vocabulary of a trained text encoder, ``README.md`` the model card.
Nothing in it can run code, and loading checks every hash (see ``saved``).

    model = Model.load("my-model")
    model.generate("a red heart", seed=7)[0].save("heart.png")
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor, nn

from sfumato import registry, saved
from sfumato.codecs.pixels import Pixels
from sfumato.conditioning.conditioners import ClassConditioner, Condition, Conditioner, Unconditional
from sfumato.conditioning.text import SentenceConditioner, TextConditioner, read_tokenizer, train_tokenizer
from sfumato.config import Config, Sampling, validate
from sfumato.diffusion.clipping import Clipped
from sfumato.diffusion.denoisers import Denoiser, PosteriorMean
from sfumato.diffusion.guidance import Guided
from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import Shifted
from sfumato.diffusion.solvers import Step, sample
from sfumato.errors import UserError, unknown
from sfumato.networks import UNet, native
from sfumato.networks.reuse import Reuse
from sfumato.request import Request
from sfumato.user_cache import user_cache


class SeededNoise:
    """Standard normal noise with a generator per picture, so that a picture's noise knows nothing of its neighbours.

    Args:
        seeds: one integer a picture.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape) on the CPU."""
        return torch.stack([torch.randn(tuple(shape), generator=g) for g in self.generators])

    def __call__(self, x: Tensor) -> Tensor:
        return self.draw(x.shape[1:]).to(x)


def build_conditioner(config: Config, classes: Sequence[str], tokenizer: Tokenizer | None) -> Conditioner:
    """The conditioner that ``config.condition`` describes."""
    c = config.condition
    match c.kind:
        case "none":
            return Unconditional()
        case "class":
            return ClassConditioner(classes, c.width)
        case "text":
            assert tokenizer is not None, "a trained text encoder needs its tokenizer"
            return TextConditioner(tokenizer, c.width, c.depth, c.heads, c.max_length)
        case "sentence":
            return SentenceConditioner(c.encoder, c.width)
        case _:
            raise UserError(
                f"condition.kind: {c.kind!r} must be resolved against data before a model can be built",
                fix="choose none, class, text or sentence",
            )


def build_network(config: Config, conditioner: Conditioner) -> nn.Module:
    """The network that ``config.network`` describes, as wide as the conditioner needs."""
    settings = config.network.model_dump()
    kind = settings.pop("kind")
    if kind == "dit":
        settings["size"] = config.data.size
    return registry.resolve("network.kind", registry.NETWORKS, kind)(
        in_channels=config.data.channels,
        vector_dim=conditioner.vector_dim,
        context_dim=conditioner.context_dim,
        **settings,
    )


def build_denoiser(config: Config, network: nn.Module) -> Denoiser:
    """The denoiser that ``config.diffusion`` makes of a network."""
    d = config.diffusion
    schedule = registry.resolve("diffusion.schedule", registry.SCHEDULES, d.schedule)()
    if d.shift != 1:
        schedule = Shifted(schedule, d.shift)
    parameterization = registry.resolve("diffusion.parameterization", registry.PARAMETERIZATIONS, d.parameterization)
    return Denoiser(
        network,
        Gaussian(schedule),
        parameterization(d.sigma_data),
        sigma_data=d.sigma_data,
        learned_variance=config.network.learned_variance,
    )


@dataclass(eq=False)
class Model:
    """A denoiser with its codec and conditioner, and the record of where it came from.

    Attributes:
        config: the settings it was built from.
        denoiser: E[x_0 | x_t], shapes (B, C, H, W).
        conditioner: conditions -> tensors.
        codec: pictures <-> x.
        classes: class names, empty without classes.
        record: lineage: data manifest hash, seed, steps, losses, hardware; ``config`` has the EMA track that draws.
        hashes: file name -> SHA-256, filled by ``load`` and ``save``.
        backend: what evaluates the network, as its results are not everywhere the same to the last bit.
    """

    config: Config
    denoiser: Denoiser
    conditioner: Conditioner
    codec: Pixels
    classes: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    backend: str = "torch"

    @classmethod
    def build(
        cls,
        config: Config,
        classes: Sequence[str] = (),
        captions: Sequence[str] = (),
        tokenizer: Tokenizer | None = None,
    ) -> "Model":
        """A new model with random weights; draw them after ``torch.manual_seed``.

        Args:
            config: resolved settings (no "auto" left).
            classes: for a class condition.
            captions: to build the vocabulary of a trained text encoder from.
            tokenizer: that vocabulary, when it exists already.

        Raises:
            UserError: settings that are still automatic, or that make no network or no process together.
        """
        if config.condition.kind == "text" and tokenizer is None:
            tokenizer = train_tokenizer(captions, config.condition.vocabulary)
        try:
            conditioner = build_conditioner(config, classes, tokenizer)
            denoiser = build_denoiser(config, build_network(config, conditioner))
            codec = Pixels(config.data.size, config.data.channels)
        except ValueError as error:  # each setting is in its range, but not with the others
            raise UserError(
                f"{config.name}: {error}", fix="change one of the settings that the message names"
            ) from error
        return cls(config, denoiser, conditioner, codec, tuple(classes))

    # --- weights -----------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, nn.Parameter]:
        """All trained weights by name, in a fixed order: the network's, the conditioner's, a learned schedule's."""
        parts = {"network": self.denoiser.network, "conditioner": self.conditioner}
        if isinstance(self.denoiser.schedule, nn.Module):
            parts["schedule"] = self.denoiser.schedule
        return {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}

    def to(self, device: str | torch.device) -> "Model":
        """Moves the model; convolutions go channels-last, the layout in which they are fastest, on a CPU by the kernel
        in C++ where there is one."""
        if torch.device(device).type == "cpu":
            native.enable(user_cache("kernels"))
        self.denoiser.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.conditioner.to(device)
        return self

    def eval(self) -> "Model":
        self.denoiser.eval()
        self.conditioner.eval()
        return self

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the weights' file, by which a recipe knows the model; where there is none, as if saved."""
        return self.hashes.get(saved.WEIGHTS) or saved.sha256(self._weights(half=False))

    def _weights(self, half: bool) -> bytes:
        weights = {name: p.detach().cpu().contiguous() for name, p in self.parameters().items()}
        return save({name: p.half() for name, p in weights.items()} if half else weights)

    # --- the folder --------------------------------------------------------------------------------------------

    def save(self, path: str | Path, attachments: Mapping[str, bytes] | None = None, half: bool = False) -> Path:
        """Writes the folder ``path``.

        Args:
            path: a new or an existing model folder.
            attachments: more files by name, e.g. the model card README.md; they are hashed too.
            half: store the weights in half precision (they are computed with in single precision all the same).

        Raises:
            UserError: the folder cannot be written.
        """
        files = {**(attachments or {}), saved.WEIGHTS: self._weights(half)}
        if isinstance(self.conditioner, TextConditioner):
            files[saved.TOKENIZER] = self.conditioner.tokenizer.to_str().encode()
        description = {
            "config": self.config.model_dump(mode="json"),
            "classes": list(self.classes),
            "record": self.record,
        }
        self.hashes = saved.write(Path(path), description, files)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "Model":
        """Reads a model folder, ready to generate.

        Raises:
            UserError: no model there, a file is missing or does not match its hash, a weight has another shape, or
                the file is not safetensors (a pickle is refused and never run).
        """
        path = Path(path)
        description, files = saved.read(path)
        config = validate(description["config"], str(path / saved.DESCRIPTION))
        file = path / saved.WEIGHTS
        weights = saved.read_tensors(file, files[saved.WEIGHTS])
        tokenizer = None
        if config.condition.kind == "text":
            tokenizer = read_tokenizer(path / saved.TOKENIZER, files.get(saved.TOKENIZER, b""))
        bound = saved.AtMost(sum(w.numel() for w in weights.values()), file)
        with torch.random.fork_rng(devices=[]), bound:
            model = cls.build(config, description["classes"], tokenizer=tokenizer)
        model._take(weights, file)
        model.record, model.hashes = description["record"], description["sha256"]
        return model.to(device).eval()

    @torch.no_grad()
    def _take(self, weights: Mapping[str, Tensor], file: Path) -> None:
        """Copies ``weights`` into the parameters; a UserError unless names, shapes and numbers fit."""
        own = self.parameters()
        odd = [f"{name} is missing" for name in own.keys() - weights.keys()]
        odd += [f"{name} is unknown" for name in weights.keys() - own.keys()]
        for name in own.keys() & weights.keys():
            expected, found = tuple(own[name].shape), tuple(weights[name].shape)
            if found != expected:
                odd.append(f"{name} has shape {found} and not {expected}")
            elif not weights[name].is_floating_point() or not weights[name].isfinite().all():
                odd.append(f"{name} holds what is no finite number ({weights[name].dtype})")
        if odd:
            raise UserError(
                f"{file}: {len(odd)} weights do not fit the network that {saved.DESCRIPTION} describes: "
                + "; ".join(sorted(odd)[:3]),
                fix="the weights are of another model, or broken: copy the whole folder again",
            )
        for name, parameter in own.items():
            parameter.copy_(weights[name])

    # --- pictures ----------------------------------------------------------------------------------------------

    def sampling(self, **changes: object) -> Sampling:
        """The model's sampling settings, with those of ``changes`` that are not None put in their place."""
        # The average of the weights was chosen when the model was saved, and prompts are those of the sample sheet.
        possible = Sampling.model_fields.keys() - {"ema", "prompts"}
        for name in sorted(changes.keys() - possible):
            raise unknown("sampling setting", name, possible)
        given = {name: value for name, value in changes.items() if value is not None}
        if given.keys() & {"steps", "grid"}:
            given = {"times": (), **given}  # the model's own times are those of its own steps
        settings = self.config.sampling.model_dump() | given
        return validate(settings, "sampling", Sampling)

    def check(self, request: Request) -> Sampling:
        """The sampling settings for a request, checked as a whole before its first step.

        Raises:
            UserError: a condition, a setting or a size that this model does not have; names field, value and fix.
        """
        settings = self.sampling(**request.settings)
        for prompt in request.prompts:
            self.conditioner.normalize(prompt)
        negative = self.conditioner.normalize(request.negative, "negative")
        if negative is not None and settings.guidance == 1:
            raise UserError(
                f"negative: {negative!r} has no effect with guidance 1, which draws without guidance",
                fix="set guidance above 1, or leave negative out",
            )
        asked = request.settings.get("guidance")
        if isinstance(self.conditioner, Unconditional) and asked not in (None, 1, self.config.sampling.guidance):
            raise UserError(
                f"guidance: {asked} has no effect, for this model was trained without captions or classes",
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
        own, multiple = self.config.data.size, self.config.network.multiple
        if request.size not in (None, own) and self.config.network.kind == "dit":
            raise UserError(f"size: this model draws {own} pixels, not {request.size}", fix=f"choose size {own}")
        if (request.size or own) % multiple:
            near = max(1, (request.size or own) // multiple) * multiple
            raise UserError(
                f"size: this model draws {own} pixels or other multiples of {multiple}, not {request.size}",
                fix=f"choose size {near} or {near + multiple}",
            )
        return settings

    @property
    def lanes(self) -> int:
        """How many pictures the network draws at once, always: libraries choose their kernels, and so the last bits of
        a result, by the shape of a batch. A picture alone or among 64 is the same picture because its batch has one
        size, filled up with copies where there are fewer."""
        return 4 if self.device.type == "cpu" else 16

    def batches(self, count: int) -> list[range]:
        """Splits ``count`` pictures into batches for ``steps``."""
        return [range(start, min(start + self.lanes, count)) for start in range(0, count, self.lanes)]

    @torch.inference_mode()
    def steps(
        self,
        conditions: Sequence[Condition],
        seeds: Sequence[int],
        settings: Sampling,
        negative: Condition = None,
        size: int | None = None,
    ) -> Iterator[Step]:
        """The states of sampling one batch of at most ``lanes`` pictures, from noise to data; x is (B, C, H, W).

        Args:
            conditions: (B) prompts or class names, None for no condition.
            seeds: (B) one a picture.
            settings: solver, grid, steps, guidance.
            negative: what to steer away from.
            size: height and width in pixels, the model's own by default.
        """
        wanted, spare = len(seeds), self.lanes - len(seeds)
        if len(conditions) != wanted or not 0 <= spare < self.lanes:
            raise ValueError(f"{len(conditions)} conditions and {wanted} seeds: give 1 to {self.lanes} of each")
        conditions, seeds = [*conditions, *[conditions[-1]] * spare], [*seeds, *[seeds[-1]] * spare]
        denoiser, condition = self.guided(conditions, settings, negative)
        times = self.times(settings)
        solver = registry.resolve("sampling.solver", registry.SOLVERS, settings.solver)()
        noise = SeededNoise(seeds)
        for step in sample(denoiser, self.start(noise, size), times, solver, noise, **condition):
            yield replace(step, x=step.x[:wanted], mean=step.mean[:wanted])

    def times(self, settings: Sampling) -> Tensor:
        """The times (steps + 1,) that sampling visits, from 1 to 0."""
        if settings.times:
            return torch.tensor(settings.times, dtype=torch.float64)
        grid = registry.resolve("sampling.grid", registry.GRIDS, settings.grid)
        return grid(self.denoiser.process.schedule, settings.steps)

    def start(self, noise: "SeededNoise", size: int | None = None) -> Tensor:
        """The states (B, C, H, W) that sampling begins with, one a seed."""
        side = self.codec.size if size is None else size
        first = noise.draw((self.codec.channels, side, side)).to(self.device).to(memory_format=torch.channels_last)
        return self.denoiser.process.prior(first)

    def guided(
        self, conditions: Sequence[Condition], settings: Sampling, negative: Condition = None
    ) -> tuple[PosteriorMean, dict[str, Tensor]]:
        """The denoiser with guidance and clipping, and the condition tensors for it."""
        denoiser = self.denoiser
        if settings.reuse > 1:
            network = cast(UNet, denoiser.network)  # `check` has seen to it
            denoiser = denoiser.around(Reuse(network, settings.reuse))
        positive = self.conditioner([self.conditioner.normalize(c) for c in conditions])
        answers: PosteriorMean = denoiser
        if settings.guidance != 1 and positive:
            null = self.conditioner([self.conditioner.normalize(negative, "negative")] * len(conditions))
            answers = Guided(denoiser, null, settings.guidance, settings.guidance_interval)
        epsilon = self.config.diffusion.parameterization == "epsilon"
        clips = epsilon if settings.clip == "auto" else settings.clip
        return Clipped(answers) if clips else answers, positive

    def pictures(self, x: Tensor) -> list[Image.Image]:
        """The finished pictures of x (B, C, H, W).

        Raises:
            UserError: x is not finite: the sampling has diverged, and would be shown as black.
        """
        if not x.isfinite().all():
            raise UserError(
                "sampling: the picture is not finite; this solver diverges on this grid, or the weights are broken",
                fix="choose the grid log-snr or the solver ddim, or more steps",
            )
        return [self.codec.picture(picture) for picture in x]

    def generate(
        self,
        prompts: str | Sequence[Condition] | None = None,
        n: int = 1,
        seed: int = 0,
        negative: Condition = None,
        size: int | None = None,
        on_step: Callable[[Step], None] | None = None,
        **settings: object,
    ) -> list[Image.Image]:
        """Pictures for prompts: ``n`` each, in order; picture i of a prompt has seed ``seed + i``.

        Args:
            prompts: one or more prompts or class names; None draws without a condition.
            n: pictures a prompt.
            seed: of the first picture of every prompt.
            negative: what to steer away from.
            size: pixels, the model's own by default.
            on_step: called with every state, e.g. for a progress bar.
            settings: solver, grid, steps, guidance, guidance_interval, reuse, clip; the model's own by default.

        Raises:
            UserError: names the field, the value, the range and the fix.
        """
        wanted = prompts if isinstance(prompts, Sequence) and not isinstance(prompts, str) else [prompts]
        request = Request(tuple(wanted), n, seed, negative, size, settings)
        chosen, jobs = self.check(request), request.jobs()
        pictures: list[Image.Image] = []
        for batch in self.batches(len(jobs)):
            conditions, seeds = zip(*jobs[batch.start : batch.stop], strict=True)
            for step in self.steps(conditions, seeds, chosen, negative, size):
                if on_step:
                    on_step(step)
                if step.index == step.total:
                    pictures += self.pictures(step.x)
        return pictures
