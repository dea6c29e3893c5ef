"""The saved model: one folder that holds all that is needed to draw a picture, and says where it came from.

``model.json`` names the settings (network, schedule, parameterization, codec, conditioner, sampling defaults), the
classes, the lineage (data manifest, run, seed, EMA track) and the SHA-256 of every other file; ``weights.safetensors``
holds the tensors, ``tokenizer.json`` the vocabulary of a trained text encoder, ``README.md`` the model card.
Nothing in it can run code, and loading checks every hash.

    model = Model.load("my-model")
    model.generate("a red heart", seed=7)[0].save("heart.png")
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load, save
from tokenizers import Tokenizer
from torch import Tensor, nn

from sfumato import registry
from sfumato.codecs.pixels import Pixels
from sfumato.conditioning.conditioners import ClassConditioner, Condition, Conditioner, Unconditional
from sfumato.conditioning.text import SentenceConditioner, TextConditioner, train_tokenizer
from sfumato.config import Config, Sampling, validate
from sfumato.diffusion.denoisers import Denoiser
from sfumato.diffusion.guidance import Guided
from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import Shifted
from sfumato.diffusion.solvers import Step, sample
from sfumato.errors import UserError

FORMAT = 1
LARGEST_JSON = 8 * 2**20  # bytes: a model.json beyond this is not ours


class SeededNoise:
    """Standard normal noise with a generator per picture, so that a picture's noise knows nothing of its neighbours.

    Args:
        seeds: one integer a picture.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) on the CPU."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators])

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


@dataclass
class Model:
    """A denoiser with its codec and conditioner, and the record of where it came from.

    Attributes:
        config: the settings it was built from.
        denoiser: E[x_0 | x_t], shapes (B, C, H, W).
        conditioner: conditions -> tensors.
        codec: pictures <-> x.
        classes: class names, empty without classes.
        record: lineage: data manifest hash, seed, steps, EMA track, losses, hardware, licences.
        hashes: file name -> SHA-256, filled by ``load`` and ``save``.
    """

    config: Config
    denoiser: Denoiser
    conditioner: Conditioner
    codec: Pixels
    classes: tuple[str, ...] = ()
    record: dict = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def build(
        cls, config: Config, classes: Sequence[str] = (), captions: Sequence[str] = (), tokenizer: Tokenizer | None = None
    ) -> "Model":
        """A new model with random weights; draw them after ``torch.manual_seed``.

        Args:
            config: resolved settings (no "auto" left).
            classes: for a class condition.
            captions: to build the vocabulary of a trained text encoder from.
            tokenizer: that vocabulary, when it exists already.
        """
        if config.condition.kind == "text" and tokenizer is None:
            tokenizer = train_tokenizer(captions, config.condition.vocabulary)
        conditioner = build_conditioner(config, classes, tokenizer)
        network = build_network(config, conditioner)
        d = config.diffusion
        schedule = registry.resolve("diffusion.schedule", registry.SCHEDULES, d.schedule)()
        if d.shift != 1:
            schedule = Shifted(schedule, d.shift)
        parameterization = registry.resolve("diffusion.parameterization", registry.PARAMETERIZATIONS, d.parameterization)
        denoiser = Denoiser(
            network,
            Gaussian(schedule),
            parameterization(d.sigma_data),
            sigma_data=d.sigma_data,
            learned_variance=getattr(config.network, "learned_variance", False),
        )
        return cls(config, denoiser, conditioner, Pixels(config.data.size, config.data.channels), tuple(classes))

    # --- weights -----------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, nn.Parameter]:
        """All trained weights by name, in a fixed order: the network's, then the conditioner's."""
        parts = {"network": self.denoiser.network, "conditioner": self.conditioner}
        return {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}

    def to(self, device: str | torch.device) -> "Model":
        """Moves the model; convolutions go channels-last, the layout in which they are fastest."""
        self.denoiser.to(device).to(memory_format=torch.channels_last)
        self.conditioner.to(device)
        return self

    def eval(self) -> "Model":
        self.denoiser.eval()
        self.conditioner.eval()
        return self

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    # --- the folder --------------------------------------------------------------------------------------------

    def save(self, path: str | Path, attachments: dict[str, bytes] | None = None, half: bool = False) -> Path:
        """Writes the folder ``path``.

        Args:
            path: a new or an existing model folder.
            attachments: more files by name, e.g. the model card README.md; they are hashed too.
            half: store the weights in half precision (they are computed with in single precision all the same).
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach().cpu().contiguous() for name, p in self.parameters().items()}
        if half:
            weights = {name: p.half() for name, p in weights.items()}
        files = {"weights.safetensors": save(weights), **(attachments or {})}
        if isinstance(self.conditioner, TextConditioner):
            files["tokenizer.json"] = self.conditioner.tokenizer.to_str().encode()
        for name, data in files.items():
            (path / name).write_bytes(data)
        self.hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        description = {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json"),
            "classes": list(self.classes),
            "record": self.record,
            "sha256": self.hashes,
        }
        (path / "model.json").write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "Model":
        """Reads a model folder, ready to generate.

        Raises:
            UserError: no model there, a file is missing or does not match its hash, a weight has another shape, or
                the file is not safetensors (a pickle is refused and never run).
        """
        path = Path(path)
        description = _read_description(path)
        files = {}
        for name, expected in description["sha256"].items():
            if Path(name).name != name or not (path / name).is_file():
                raise UserError(f"{path}: {name!r}, which model.json names, is missing", fix="copy the whole folder")
            files[name] = (path / name).read_bytes()
            if hashlib.sha256(files[name]).hexdigest() != expected:
                raise UserError(
                    f"{path / name}: SHA-256 differs from model.json's; it was damaged or changed",
                    fix="fetch the model again from where you trust it",
                )
        if "weights.safetensors" not in files:
            raise UserError(f"{path}/model.json names no weights.safetensors", fix="save the model again")
        config = validate(description["config"], f"{path}/model.json")
        tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode()) if "tokenizer.json" in files else None
        with torch.random.fork_rng(devices=[]):
            model = cls.build(config, description["classes"], tokenizer=tokenizer)
        model._take(_read_weights(path / "weights.safetensors", files["weights.safetensors"]), path)
        model.record, model.hashes = description["record"], description["sha256"]
        return model.to(device).eval()

    @torch.no_grad()
    def _take(self, weights: dict[str, Tensor], origin: Path) -> None:
        own = self.parameters()
        odd = sorted(own.keys() ^ weights.keys()) + [
            f"{k} {tuple(weights[k].shape)} for {tuple(own[k].shape)}"
            for k in own.keys() & weights.keys()
            if own[k].shape != weights[k].shape
        ]
        if odd:
            raise UserError(
                f"{origin}: {len(odd)} weights do not fit the network that model.json describes, e.g. {odd[0]}",
                fix="the weights belong to another model: copy the whole folder again",
            )
        for name, parameter in own.items():
            parameter.copy_(weights[name])

    # --- pictures ----------------------------------------------------------------------------------------------

    def sampling(self, **changes: object) -> Sampling:
        """The model's sampling settings, with those of ``changes`` that are not None put in their place."""
        settings = self.config.sampling.model_dump() | {k: v for k, v in changes.items() if v is not None}
        return validate(settings, "sampling", Sampling)

    def denoise(
        self, conditions: Sequence[Condition], settings: Sampling, negative: Condition = None
    ) -> tuple[Denoiser | Guided, dict[str, Tensor]]:
        """The denoiser with guidance, and the condition tensors for it."""
        normal = [self.conditioner.normalize(c) for c in conditions]
        positive = self.conditioner(normal)
        if settings.guidance == 1 or not positive:
            return self.denoiser, positive
        null = self.conditioner([self.conditioner.normalize(negative)] * len(normal))
        low, high = settings.guidance_interval
        return Guided(self.denoiser, null, settings.guidance, (low, high)), positive

    @property
    def lanes(self) -> int:
        """How many pictures the network draws at once, always: libraries choose their kernels, and so the last bits of
        a result, by the shape of a batch. A picture alone or among 64 is the same picture because its batch has one
        size, filled up with copies where there are fewer."""
        return 4 if self.device.type == "cpu" else 16

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
        conditions, seeds = [*conditions, *conditions[-1:] * spare], [*seeds, *list(seeds[-1:]) * spare]
        denoiser, condition = self.denoise(conditions, settings, negative)
        schedule = self.denoiser.process.schedule
        times = registry.resolve("sampling.grid", registry.GRIDS, settings.grid)(schedule, settings.steps)
        solver = registry.resolve("sampling.solver", registry.SOLVERS, settings.solver)()
        noise = SeededNoise(seeds)
        side = size or self.codec.size
        start = noise.draw((self.codec.channels, side, side)).to(self.device).to(memory_format=torch.channels_last)
        x = self.denoiser.process.prior(start)
        for step in sample(denoiser, x, times, solver, noise, **condition):
            yield replace(step, x=step.x[:wanted], mean=step.mean[:wanted])

    def check_size(self, size: int | None) -> None:
        """A UserError unless the network can draw pictures of ``size`` pixels."""
        own, multiple = self.config.data.size, self.config.network.multiple
        fixed = self.config.network.kind == "dit" and size not in (None, own)
        if fixed or (size or own) % multiple:
            raise UserError(
                f"size: this model draws {own} pixels" + ("" if fixed else f", or other multiples of {multiple}, not {size}"),
                fix=f"use --size {own}" + ("" if fixed else f" or --size {max(1, round(size / multiple)) * multiple}"),
            )

    def batches(self, count: int) -> list[range]:
        """Splits ``count`` pictures into batches for ``steps``."""
        return [range(start, min(start + self.lanes, count)) for start in range(0, count, self.lanes)]

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
            settings: solver, grid, steps, guidance, guidance_interval; the model's own by default.
        """
        wanted = [prompts] if prompts is None or isinstance(prompts, str) else list(prompts)
        conditions, seeds = [p for p in wanted for _ in range(n)], [seed + i for _ in wanted for i in range(n)]
        chosen = self.sampling(**settings)
        pictures: list[Image.Image] = []
        for batch in self.batches(len(seeds)):
            part = slice(batch.start, batch.stop)
            for step in self.steps(conditions[part], seeds[part], chosen, negative, size):
                if on_step:
                    on_step(step)
            pictures += [self.codec.picture(x) for x in step.x]
        return pictures


def _read_description(path: Path) -> dict:
    file = path / "model.json"
    if not file.is_file():
        raise UserError(f"{path}: no model there (model.json is missing)", fix="give the folder of a saved model")
    if file.stat().st_size > LARGEST_JSON:
        raise UserError(f"{file}: {file.stat().st_size} bytes, more than the limit of {LARGEST_JSON}")
    try:
        description = json.loads(file.read_bytes())
        known = description["format"]
        missing = {"config", "classes", "record", "sha256"} - description.keys()
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: not a model description ({error})", fix="copy the whole folder again") from error
    if known != FORMAT or missing:
        raise UserError(
            f"{file}: format {known!r} with {sorted(missing)} missing; this version of Sfumato reads format {FORMAT}",
            fix="load it with the version that wrote it, and save it again",
        )
    return description


def _read_weights(file: Path, data: bytes) -> dict[str, Tensor]:
    # Pickles start with 0x80 and zips, which torch.save writes, with PK; a safetensors file with a length and "{".
    if data[:2] == b"PK" or data[:1] == b"\x80" or data[8:9] != b"{":
        raise UserError(
            f"{file}: this is not a safetensors file; pickles can run code and are never loaded",
            fix="convert it with safetensors where you trust it",
        )
    return load(data)
