"""The training loop: the six steps of DDPM (Ho et al. 2020, algorithm 1), over the user's own data.

Everything that chance decides is drawn by key (see ``keyed``), so a run is a function of its settings and its data:
stop it anywhere, start it again, and the same weights come out.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sfumato import registry
from sfumato.codecs.codec import Codec
from sfumato.conditioning.values import Condition, augmented
from sfumato.config import Config
from sfumato.data.dataset import Dataset
from sfumato.diffusion.bound import decoder_of
from sfumato.diffusion.denoisers import Denoiser
from sfumato.diffusion.laws import Law
from sfumato.diffusion.objectives import Loss
from sfumato.durable import sha256
from sfumato.errors import UserError
from sfumato.keyed import Draw, Order, draw, seed_process
from sfumato.model import Model
from sfumato.networks.recompute import checkpoint_activations
from sfumato.training.ahead import Ahead
from sfumato.training.ema import EMA
from sfumato.training.optimizers import Optimizer, rate_factor
from sfumato.transfer import memory_format, moved, pinned

VALIDATION_DRAWS = 4  # times a held-out picture is noised for the validation loss
VALIDATION_PICTURES = 512  # at most so many held-out pictures are used


def precision_of(name: str, device: torch.device, sides: int = 2) -> torch.dtype:
    """The type that networks compute in; weights, averages and losses stay in single precision.

    "auto" takes bfloat16 where the device multiplies it faster than float32 and float32 elsewhere. Volumes on a CPU are
    trained in float32: PyTorch 2.13 gives wrong gradients of three-dimensional convolutions in bfloat16 there, where
    the first side is 2.

    Raises:
        UserError: bfloat16 is asked for where it is wrong.
    """
    if device.type == "cpu" and sides == 3:
        if name == "bf16":
            raise UserError(
                "training.precision = bf16: PyTorch's gradients of volumes in bfloat16 are wrong on a CPU",
                fix="use training.precision = fp32 or auto",
            )
        return torch.float32
    if name == "auto":
        fast = {
            "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
            "cpu": torch.cpu._is_avx512_bf16_supported,
        }
        name = "bf16" if device.type in fast and fast[device.type]() else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def objective_of(config: Config, codec: Codec) -> Loss:
    """The objective that the settings name, for data of this codec."""
    objective = registry.resolve("objective.kind", registry.OBJECTIVES, config.objective.kind)
    decoder = decoder_of(codec.bin, codec.bounds)
    return objective(config.objective, config.diffusion.sigma_data, config.network.learned_variance, decoder)


@dataclass
class Batch:
    """Samples as the network will see them: x_0 (B, C, *sides), noise alike, u (B,) in [0, 1), conditions (B)."""

    x_0: Tensor
    noise: Tensor
    u: Tensor
    conditions: list[Condition]
    indices: list[int]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on ``device``."""
        x_0, noise, u = (moved(tensor, device) for tensor in (self.x_0, self.noise, self.u))
        return dataclasses.replace(self, x_0=x_0, noise=noise, u=u)


def compiled(denoiser: Denoiser, mode: bool | str) -> Denoiser:
    """A denoiser of the same weights whose network ``torch.compile`` makes fast; for False, the denoiser itself.

    Args:
        denoiser: stays as it is, for drawing, where the size of a batch is another.
        mode: True for that of torch, or one of torch's names.
    """
    if not mode:
        return denoiser
    network = torch.compile(denoiser.network, mode=None if mode is True else mode)
    return denoiser.around(cast(nn.Module, network))


def assemble(config: Config, model: Model, data: Dataset, indices: Sequence[int], draws: Sequence[Draw]) -> Batch:
    """Reads the pictures of ``indices`` and applies what their draws decide: flip, caption, dropped condition.

    Returns:
        The batch in the processor's memory, ready to be moved to the model's device.
    """
    x_0 = model.codec.encode(data.rows[list(indices)])
    noise = torch.stack([d.noise for d in draws])
    u, flip, *_ = torch.stack([d.uniforms for d in draws]).unbind(1)
    conditions = [
        model.conditioner.of(data, index, x, d.conditions) for index, x, d in zip(indices, x_0, draws, strict=True)
    ]
    if config.data.flip:
        # What happens to x_0 happens to the pictures among its conditions.
        x_0 = model.codec.augment(x_0, flip)
        conditions = [
            augmented(c, lambda x, u=u: model.codec.augment(x[None], u[None])[0])
            for c, u in zip(conditions, flip, strict=True)
        ]
    x_0, noise = (x.contiguous(memory_format=memory_format(x.dim())) for x in (x_0, noise))
    x_0, noise, u = (pinned(x, model.device) for x in (x_0, noise, u.float()))
    return Batch(x_0, noise, u, conditions, list(indices))


@dataclass
class Trainer:
    """One run: model, data and the state that a checkpoint holds (weights, averages, optimizer, step).

    Attributes:
        config: resolved settings.
        model: on its device, in its final memory format.
        data: prepared pictures.
        train_indices, validation_indices: the split.
        objective: of one's own, in the place of that which the settings name.
        waited: seconds that the steps of this process have waited for their batches.
    """

    config: Config
    model: Model
    data: Dataset
    train_indices: Sequence[int]
    validation_indices: Sequence[int]
    step: int = 0
    objective: Loss | None = None
    waited: float = 0.0
    parameters: dict[str, nn.Parameter] = field(init=False)
    ema: EMA = field(init=False)
    optimizer: Optimizer = field(init=False)
    law: Law = field(init=False)

    def __post_init__(self) -> None:
        config, model = self.config, self.model
        self.parameters = {name: p for name, p in model.parameters().items() if p.requires_grad}
        self.ema = EMA(self.parameters, config.training.ema)
        o = config.optimizer
        self.optimizer = Optimizer(self.parameters, o.kind, o.lr, o.betas, o.weight_decay)
        self.order = Order(torch.as_tensor(self.train_indices), config.training.seed)
        schedule = model.denoiser.process.schedule
        law = registry.resolve("times.kind", registry.TIME_LAWS, config.times.kind)
        self.law = law(schedule, config.times, getattr(config.objective, "chain", 0))
        self.validation_law = self.law  # as it is before it has seen a loss, so that validation losses compare
        self.loss_of = self.objective or objective_of(config, model.codec)
        self.dtype = precision_of(config.training.precision, model.device, len(model.codec.shape) - 1)
        if config.training.activation_checkpointing:
            checkpoint_activations(model.denoiser.network)
        self.network = compiled(model.denoiser, config.training.compile)
        self.batch_of = Ahead(self.batch) if model.device.type == "cuda" else self.batch

    # --- the six steps -----------------------------------------------------------------------------------------

    def loss(self, batch: Batch, t: Tensor) -> Tensor:
        """Loss per example (B,): closed-form noise at the times ``t``, conditioned prediction, weighted error."""
        with self.autocast():
            condition = self.model.conditioner(batch.conditions)
            losses = self.loss_of(self.network, batch.x_0, t, batch.noise, **condition)
        if not isinstance(losses, Tensor) or losses.shape != t.shape:
            found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise UserError(
                f"objective: it gave {found} for a batch of {len(t)}",
                fix=f"return one loss per example, ({len(t)},): a mean over all dimensions but the first",
            )
        return losses

    def training_loss(self, batch: Batch) -> Tensor:
        """Loss per example (B,) at the times that the law draws, as the law weights it; the law may learn from it."""
        t, weights = self.law.draw(batch.u)
        losses = self.loss(batch, t)
        if not losses.requires_grad:
            raise UserError("objective: its loss has no gradient", fix="call the denoiser, and detach nothing of it")
        self.law = self.law.seen(t, losses.detach())
        return weights * losses

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns its numbers. The picture of algorithm 1, with gradient accumulation."""
        training, optimizer = self.config.training, self.config.optimizer
        seed_process(training.seed, "dropout", self.step)
        self.optimizer.set_rate(rate_factor(self.step, training.steps, optimizer.warmup, optimizer.decay))
        self.model.denoiser.train()
        self.model.conditioner.train()

        losses, means, seen = [], [], []
        for micro in range(training.accumulate):
            begin = time.perf_counter()
            batch = self.batch_of(self.step * training.accumulate + micro)  # 1. data, and all that chance decides
            self.waited += time.perf_counter() - begin
            loss = self.training_loss(batch.to(self.model.device))  # 2.-5. time, noise, prediction, loss
            mean = loss.mean() / training.accumulate
            mean.backward()
            losses.append(loss.detach())
            means.append(mean.detach()[None])
            seen += batch.indices

        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), optimizer.clip)
        # The step's numbers in one piece: each question to a device waits until it has done all that it was asked.
        *numbers, length = torch.cat([*losses, *means, norm[None]]).tolist()
        self.demand_finite("loss", numbers[: len(seen)], seen)
        self.demand_finite("gradient", [length] * len(seen), seen)
        self.optimizer.step()  # 6. update, and the averages that will be used
        for parameter in self.parameters.values():
            parameter.grad = None
        self.step += 1
        self.ema.update(self.step)
        return {"loss": sum(numbers[len(seen) :]), "gradient_norm": length}

    # --- what the steps stand on -------------------------------------------------------------------------------

    def batch(self, number: int) -> Batch:
        """Micro-batch ``number`` of the run: samples number * batch to (number + 1) * batch."""
        size, seed = self.config.training.batch, self.config.training.seed
        samples = range(number * size, (number + 1) * size)
        count = len(self.model.conditioner.parts)
        draws = [draw(self.model.codec.shape, seed, "train", n, conditions=count) for n in samples]
        return assemble(self.config, self.model, self.data, [self.order[n] for n in samples], draws)

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.model.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def demand_finite(self, what: str, values: Sequence[float], indices: Sequence[int]) -> None:
        """Stops in the step in which a value is not finite, before it reaches a weight, and names the pictures.

        Args:
            what: "loss" or "gradient".
            values: (B) one a picture.
            indices: (B) data indices.
        """
        bad = [index for index, value in zip(indices, values, strict=True) if not math.isfinite(value)]
        if bad:
            rows = self.data.manifest
            names = ", ".join(rows[index]["path"] for index in bad[:5])
            raise UserError(
                f"the {what} of step {self.step + 1} is not finite for {len(bad)} of {len(indices)} pictures: "
                f"{names}{', ...' if len(bad) > 5 else ''}",
                fix="the last checkpoint is good; lower optimizer.lr, or use training.precision fp32, in another --out",
            )

    @torch.no_grad()
    def validate(self) -> float:
        """The mean loss over held-out pictures with the averaged weights that will draw, at fixed times and noises."""
        config = self.config
        indices = list(self.validation_indices)[:VALIDATION_PICTURES]
        shape = self.model.codec.shape
        total, seed, count = 0.0, config.training.seed, len(self.model.conditioner.parts)
        self.model.eval()
        with self.ema.swapped(config.sampling.ema):
            for repeat in range(VALIDATION_DRAWS):
                for start in range(0, len(indices), config.training.batch):
                    chosen = indices[start : start + config.training.batch]
                    draws = [
                        draw(shape, seed, "validation", repeat, start + i, conditions=count) for i in range(len(chosen))
                    ]
                    batch = assemble(config, self.model, self.data, chosen, draws).to(self.model.device)
                    # Stratified over the draws of a picture: one time in each quarter of the law.
                    batch.u = (batch.u + repeat) / VALIDATION_DRAWS
                    t, weights = self.validation_law.draw(batch.u)
                    total += (weights * self.loss(batch, t)).sum().item()
        return total / (len(indices) * VALIDATION_DRAWS) if indices else math.nan

    @functools.cached_property
    def frozen(self) -> str:
        """SHA-256 of the weights that require no gradient; empty without any."""
        left = {n: p.detach().cpu().contiguous() for n, p in self.model.parameters().items() if not p.requires_grad}
        return sha256(save(left)) if left else ""

    # --- checkpoints -------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """All tensors of the run's state, by file."""
        averages = {f"ema-{i}": track for i, track in enumerate(self.ema.tracks)}
        law = {"law": state} if (state := self.law.state()) else {}
        buffers = {"buffers": kept} if (kept := self.model.buffers()) else {}
        return {"weights": dict(self.parameters), "optimizer": self.optimizer.state(), **averages, **law, **buffers}

    @torch.no_grad()
    def restore(self, step: int, parts: dict[str, dict[str, Tensor]], frozen: str = "") -> None:
        """Takes back what ``parts`` gave at ``step``; the frozen weights must be those of then.

        Raises:
            UserError: they are others, or the parts are those of another model.
        """
        if frozen != self.frozen:
            raise UserError(
                "network: the weights that require no gradient are not those of the run's beginning, and no "
                "checkpoint holds them",
                fix="hand the network in with the frozen weights that it had, or choose another folder with --out",
            )
        self.step = step
        own: dict[str, Mapping[str, Tensor]] = {"weights": self.parameters, "buffers": self.model.buffers()}
        own |= {f"ema-{i}": track for i, track in enumerate(self.ema.tracks)}
        for part, tensors in {**own, "law": self.law.state()}.items():
            found = parts.get(part, {})
            if tensors.keys() != found.keys() or any(tensors[name].shape != found[name].shape for name in tensors):
                raise UserError(
                    f"the checkpoint's {part} do not fit this model",
                    fix="resume with the settings of the run folder's config.yaml, or choose another --out",
                )
        for part, tensors in own.items():
            for name, value in tensors.items():
                value.copy_(parts[part][name])
        self.optimizer.load_state(parts["optimizer"])
        self.law = self.law.restored(parts.get("law", {}))


def run(
    trainer: Trainer,
    on_step: Callable[[dict[str, float]], None],
    every: Sequence[tuple[int, Callable[[], None]]],
    stopped: Callable[[], bool],
) -> None:
    """Trains until the last step, or until ``stopped`` says so after a step.

    Args:
        trainer: fresh, or restored from a checkpoint.
        on_step: told the numbers of each step, with its seconds, and those that it waited for data.
        every: intervals in steps, and what is done at their multiples, in this order.
        stopped: asked after every step.
    """
    while trainer.step < trainer.config.training.steps and not stopped():
        begin, waited = time.perf_counter(), trainer.waited
        numbers = trainer.train_step()
        on_step({**numbers, "seconds": time.perf_counter() - begin, "waited": trainer.waited - waited})
        for interval, action in every:
            if trainer.step % interval == 0:
                action()
