"""The saved model: one folder that holds all that is needed to draw a picture, and says where it came from.

``model.json`` names the settings (network, schedule, parameterization, codec, conditioner, sampling defaults), the
classes, the lineage (data manifest, run, seed, EMA track) and the SHA-256 of every file; ``weights.safetensors``
holds the tensors, ``tokenizer.json`` the vocabulary of a trained text encoder, ``README.md`` the model card.
Nothing in it can run code, and loading checks every hash (see ``saved``).

    model = Model.load("my-model")
    model.generate("a red heart", seed=7)[0].save("heart.png")
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sfumato import kinds, registry, saved
from sfumato.at_most import AtMost
from sfumato.codecs.codec import Codec
from sfumato.conditioning import kinds as conditions
from sfumato.conditioning.conditioners import Conditioners
from sfumato.config import Config, validate
from sfumato.data.dataset import Dataset
from sfumato.diffusion.denoisers import Denoiser
from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import Shifted
from sfumato.drawing import Draws
from sfumato.errors import UserError
from sfumato.lift import lifted_weights
from sfumato.networks import native
from sfumato.transfer import memory_format
from sfumato.user_cache import user_cache


def part_name(part: object) -> str:
    """The name by which settings know a part of one's own: that of its class, or of the function."""
    while hasattr(part, "func"):  # of functools.partial
        part = part.func  # pyright: ignore[reportAttributeAccessIssue]
    return getattr(part, "__name__", type(part).__name__)


def demand_network(network: nn.Module) -> None:
    """Refuse what is no network, or one whose weights cannot be kept.

    Raises:
        UserError: a class or a function, or weights that are complex or have no size yet.
    """
    if not isinstance(network, nn.Module):
        raise UserError(
            f"network: {network!r} is no torch.nn.Module", fix="hand in a module, such as MyNetwork(), not its class"
        )
    for name, p in network.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise UserError(f"network: {name} has no size yet", fix="call the network once before handing it in")
        if p.is_complex():
            raise UserError(f"network: {name} is complex", fix="keep real and imaginary part as two real parameters")


def halved(weight: Tensor) -> Tensor:
    """A weight in half precision where that can hold it; else as it is: whole numbers, and numbers beyond 65,504."""
    if not weight.is_floating_point():
        return weight
    half = weight.half()
    return half if half.isfinite().all() else weight


def own_network(config: Config, handed_in: nn.Module | None, where: str) -> nn.Module | None:
    """A copy of the network that was handed in, None where the settings describe one.

    Args:
        config: settings, resolved.
        handed_in: by the program.
        where: what is opened, for the message.

    Raises:
        UserError: the settings name another network, or one and none was handed in.
    """
    kind, name = config.network.kind, getattr(config.network, "name", "")
    if handed_in is None and kind != "own":
        return None
    if handed_in is None:
        raise UserError(
            f"{where}: its network is {name}, a part of the program that trained it, and no file holds code",
            fix=f"open it in Python and hand the network in: sfumato.Model.load(folder, network={name}(...))",
        )
    if kind != "own":
        raise UserError(
            f"{where}: its network is a {kind}, and {part_name(handed_in)} was handed in", fix="leave network out"
        )
    if part_name(handed_in) != name:
        raise UserError(
            f"{where}: its network is {name}, and {part_name(handed_in)} was handed in", fix=f"hand {name} in"
        )
    demand_network(handed_in)
    return copy.deepcopy(handed_in)


def build_network(config: Config, conditioner: Conditioners, shape: Sequence[int]) -> nn.Module:
    """The network that ``config.network`` describes, for x of ``shape`` (C, *sides) and this conditioner."""
    settings = config.network.model_dump()
    kind = settings.pop("kind")
    if kind == "dit":
        settings["size"] = shape[1:]
    else:
        settings["dims"] = len(shape) - 1
    return registry.resolve("network.kind", registry.NETWORKS, kind)(
        in_channels=shape[0] + conditioner.planes,
        out_channels=shape[0],
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


CODEC, CONDITIONS = "codec.", "condition."  # what codec and conditions have learnt stands among the weights so


@dataclass(eq=False)
class Model(Draws):
    """A denoiser with its codec and conditioner, and the record of where it came from.

    Attributes:
        config: the settings it was built from.
        denoiser: E[x_0 | x_t], shapes (B, C, *sides).
        conditioner: conditions -> tensors.
        codec: stored rows <-> x.
        classes: class names, empty without classes.
        record: lineage: data manifest hash, seed, steps, losses, hardware; ``config`` has the EMA track that draws.
        hashes: file name -> SHA-256, filled by ``load`` and ``save``.
        backend: the program that evaluates the network; programs may differ in the last bits.
    """

    config: Config
    denoiser: Denoiser
    conditioner: Conditioners
    codec: Codec
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
        files: Mapping[str, bytes] | None = None,
        folder: Path | None = None,
        network: nn.Module | None = None,
    ) -> "Model":
        """A new model with random weights; draw them after ``torch.manual_seed``.

        Args:
            config: resolved settings (no "auto" left).
            classes: for a class condition.
            captions: to build the vocabulary of a trained text encoder from.
            files: the files of a saved model, which has such vocabularies already.
            folder: the folder of these files.
            network: in the place of one that the settings describe; from ``own_network``.

        Raises:
            UserError: settings that are still automatic, or that make no network or no process together.
        """
        if config.codec.open:
            raise UserError(
                f"codec.{config.codec.open[0]} is still open: it must be resolved against data before a model is built",
                fix=f"set codec.{config.codec.open[0]}, or train on data, which resolves it",
            )
        try:
            codec = kinds.kind_of(config.codec).codec(config.codec)
            second = {name: kinds.second(config, name) for name in config.second_pictures}
            known = conditions.Known(
                codec.shape, classes, captions, files or {}, folder, codec, config.data.depth or 16, second
            )
            conditioner = conditions.build(config.conditions, known)
            network = network or build_network(config, conditioner, codec.shape)
            denoiser = build_denoiser(config, network)
        except ValueError as error:  # each setting is in its range, but not with the others
            raise UserError(
                f"{config.name}: {error}", fix="change one of the settings that the message names"
            ) from error
        return cls(config, denoiser, conditioner, codec, tuple(classes))

    # --- weights -----------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, nn.Parameter]:
        """All weights by name, in a fixed order: the network's, the conditioner's, a learned schedule's. Those that
        require no gradient are saved with the others, and never trained."""
        parts = {"network": self.denoiser.network, "conditioner": self.conditioner}
        if isinstance(self.denoiser.schedule, nn.Module):
            parts["schedule"] = self.denoiser.schedule
        return {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}

    @property
    def fitted(self) -> dict[str, Tensor]:
        """What the codec and the conditions have learnt of the data before training, by name."""
        learnt = {f"{CODEC}{name}": value for name, value in self.codec.state().items()}
        return learnt | {f"{CONDITIONS}{name}": value for name, value in self.conditioner.state().items()}

    def fit(self, data: Dataset) -> None:
        """The codec and the conditions learn of the data what they need to know before training."""
        self.codec.fit(data.rows)
        self.conditioner.fit(data)

    def buffers(self) -> dict[str, Tensor]:
        """What the network keeps beside its weights, such as running statistics, by name."""
        network = self.denoiser.network
        kept = network.state_dict().keys()
        return {f"network.{name}": buffer for name, buffer in network.named_buffers() if name in kept}

    def to(self, device: str | torch.device) -> "Model":
        """Move the model; convolutions go channels-last, the layout in which they are fastest.

        On a CPU this switches the compiled kernel on for the whole process, unless ``kernels.use`` has made the choice.
        The first time on a machine the kernel is compiled, which takes seconds and is announced.
        """
        if torch.device(device).type == "cpu":
            native.enable(user_cache("kernels"))
        self.denoiser.to(device)
        rank = len(self.codec.shape) + 1
        for tensor in (*self.denoiser.parameters(), *self.denoiser.buffers()):
            if tensor.dim() == rank:  # others keep their layout, which another rank's format would refuse
                tensor.data = tensor.data.to(memory_format=memory_format(rank))
        self.conditioner.to(device)
        return self

    def eval(self) -> "Model":
        self.denoiser.eval()
        self.conditioner.eval()
        return self

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the weights' file, by which a recipe knows the model; without a file, as if it were saved."""
        return self.hashes.get(saved.WEIGHTS) or saved.sha256(self._weights(half=False))

    def _weights(self, half: bool) -> bytes:
        weights = {name: p.detach().cpu().contiguous() for name, p in self.parameters().items()}
        stored = {name: halved(p) for name, p in weights.items()} if half else weights
        buffers = {name: value.cpu().contiguous() for name, value in self.buffers().items()}
        return save(stored | buffers | self.fitted)

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
        files = {**(attachments or {}), saved.WEIGHTS: self._weights(half), **self.conditioner.files()}
        description = {
            "config": self.config.model_dump(mode="json"),
            "classes": list(self.classes),
            "record": self.record,
        }
        self.hashes = saved.write(Path(path), description, files)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", network: nn.Module | None = None) -> "Model":
        """Reads a model folder, ready to generate.

        Args:
            path: the folder.
            device: where it will draw.
            network: for a model with a network of one's own: an equal one, whose copy gets the weights.

        Raises:
            UserError: no model there, a file is missing or does not match its hash, a weight has another shape, the
                file is not safetensors (a pickle is refused and never run), or the network is not that of the model.
        """
        path = Path(path)
        description = saved.read_description(path / saved.DESCRIPTION)
        files = saved.read_beside_weights(path, description)
        shapes = saved.read_shapes(path, description).shapes
        config = validate(description["config"], str(path / saved.DESCRIPTION))
        file, own = path / saved.WEIGHTS, own_network(config, network, str(path))
        bound = AtMost(sum(map(math.prod, shapes.values())), file, saved.DESCRIPTION)
        with torch.random.fork_rng(devices=[]), bound:
            model = cls.build(config, description["classes"], files=files, folder=path, network=own)
        model._demand(
            lifted_weights(shapes, model.parameters()), file
        )  # before the weights are read, of which there may be many
        weights = saved.read_tensors(file, saved.read_weights(path, description))
        model._take(lifted_weights(weights, model.parameters()), file)
        model.record, model.hashes = description["record"], description["sha256"]
        return model.to(device).eval()

    def _demand(self, shapes: Mapping[str, tuple[int, ...]], file: Path) -> None:
        """Raise a UserError unless ``file`` has the names and shapes of the parameters."""
        own = {name: tuple(parameter.shape) for name, parameter in self.parameters().items()}
        own |= {name: tuple(value.shape) for name, value in {**self.buffers(), **self.fitted}.items()}
        odd = [f"{name} is missing" for name in own.keys() - shapes.keys()]
        odd += [f"{name} is unknown" for name in shapes.keys() - own.keys()]
        odd += [
            f"{name} has shape {shapes[name]} and not {own[name]}"
            for name in own.keys() & shapes.keys()
            if shapes[name] != own[name]
        ]
        if odd:
            raise _unfit(odd, file)

    @torch.no_grad()
    def _take(self, weights: Mapping[str, Tensor], file: Path) -> None:
        """Copies ``weights``, of the right names and shapes, into the parameters; a UserError unless all are finite."""
        buffers = self.buffers()
        kept = buffers.keys() | {name for name, p in self.parameters().items() if not p.is_floating_point()}
        odd = [
            f"{name} holds what is no finite number ({value.dtype})"
            for name, value in weights.items()
            if name not in kept and not (value.is_floating_point() and value.isfinite().all())
        ]
        if odd:
            raise _unfit(odd, file)
        for name, tensor in {**self.parameters(), **buffers}.items():
            tensor.copy_(weights[name])
        self.codec.load_state({name: weights[f"{CODEC}{name}"] for name in self.codec.state()})
        self.conditioner.load_state({name: weights[f"{CONDITIONS}{name}"] for name in self.conditioner.state()})


def _unfit(odd: Sequence[str], file: Path) -> UserError:
    return UserError(
        f"{file}: {len(odd)} weights do not fit the network that {saved.DESCRIPTION} describes: "
        + "; ".join(sorted(odd)[:3]),
        fix="the weights are of another model, or broken: copy the whole folder again",
    )
