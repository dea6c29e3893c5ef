"""Whether a training step fits into the memory, before the first one.

What a step takes grows with the pictures in it: a share for each, and a share for all (gradients, moments). Both are
measured on a few pictures, with every storage counted that lives. A network whose step could not even be tried on them
is found before, on the "meta" device, whose tensors have a shape and no content.
"""

import math
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sfumato.errors import UserError
from sfumato.keyed import draw
from sfumato.machine import free_memory
from sfumato.networks.dit import DiT
from sfumato.networks.memory import Meter, fused
from sfumato.networks.unet import UNet
from sfumato.training.loop import Trainer, assemble

FEW, SOME = 2, 8  # pictures that are measured
AMPLE = 10  # times an entry of x and a channel of the widest layer: several times what a network takes


def demand_room(trainer: Trainer) -> None:
    """Refuses a batch whose step needs more memory than is free.

    Raises:
        UserError: names `training.batch`, what it needs, what there is, and the batch that fits.
    """
    free = free_bytes(trainer.model.device)
    batch = trainer.config.training.batch
    x = batch * 4 * math.prod(trainer.model.codec.shape)
    widest = max(max(p.shape, default=1) for p in trainer.parameters.values())
    if AMPLE * (x * widest + weights(trainer)) < free:
        return
    fixed, each = least(trainer)
    if fixed + each * batch <= free:
        some = min(batch, SOME)
        while some > 1 and 2 * (fixed + each * some) > free:
            some //= 2
        fixed, each = shares(trainer, some)
    needed = fixed + each * batch
    if needed > free:
        fits = int((free - fixed) / each)
        sides = " x ".join(map(str, trainer.model.codec.shape[1:][::-1]))
        raise UserError(
            f"training.batch = {batch:,}: a step of so many pictures of {sides} needs {needed / 2**30:.1f} GiB of "
            f"memory, and {free / 2**30:.1f} GiB are free",
            fix=(f"use training.batch of {fits:,} or less (training.accumulate makes up for it)" if fits > 0 else "")
            or "use a smaller codec.size or network, or training.activation_checkpointing true",
        )


def free_bytes(device: torch.device) -> int:
    """Free memory, of the graphics card where there is one."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def weights(trainer: Trainer) -> int:
    """Bytes of the weights."""
    return sum(p.nbytes for p in trainer.parameters.values())


def moments(trainer: Trainer) -> int:
    """Bytes that the optimizer takes in its first step: a moment of each weight for Muon, two for AdamW."""
    names = trainer.optimizer.matrices
    return sum(p.nbytes * (1 if name in names else 2) for name, p in trainer.parameters.items())


def shares(trainer: Trainer, some: int) -> tuple[float, float]:
    """Bytes of a step (for all its pictures, for each of them), measured on one step of `some` and one of fewer."""
    few = min(FEW, some - 1)
    most = measured(trainer, some)
    each = (most - measured(trainer, few)) / (some - few) if few else most
    return moments(trainer) + most - each * some, each


def measured(trainer: Trainer, pictures: int) -> int:
    """Bytes that live at the most in a step of so many pictures, its gradients among them; the run stays as it was."""
    model, config = trainer.model, trainer.config
    model.denoiser.train()
    model.conditioner.train()
    count = len(model.conditioner.parts)
    with Meter() as meter:
        draws = [draw(model.codec.shape, config.training.seed, "room", n, conditions=count) for n in range(pictures)]
        batch = assemble(config, model, trainer.data, [trainer.order[n] for n in range(pictures)], draws)
        batch = batch.to(model.device)
        with trainer.autocast():
            condition = model.conditioner(batch.conditions)
            loss = trainer.loss_of(model.denoiser, batch.x_0, batch.u, batch.noise, **condition)
        loss.mean().backward()
    for parameter in trainer.parameters.values():
        parameter.grad = None
    return meter.peak


def least(trainer: Trainer) -> tuple[float, float]:
    """Bytes of a step (for all its pictures, for each of them) that it takes at least, without taking them; none for a
    network that is not known to run on the "meta" device."""
    network = trainer.model.denoiser.network
    if not isinstance(network, UNet | DiT):
        return 0.0, 0.0
    one, two = (on_meta(trainer, network, n) for n in (1, 2))
    return moments(trainer) + 2.0 * one - two, float(two - one)


def on_meta(trainer: Trainer, network: nn.Module, pictures: int) -> int:
    """Bytes that live at the most while a network learns from so many pictures, in the run's precision."""

    def empty(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, dtype=trainer.dtype if tensor.is_floating_point() else None, device="meta")

    named = [*network.named_parameters(), *network.named_buffers()]
    own = {name: empty(p).requires_grad_(p.requires_grad) for name, p in named}
    conditioner = trainer.model.conditioner
    with torch.no_grad():
        condition = {name: empty(value) for name, value in conditioner([{}] * pictures).items()}
    shape = trainer.model.codec.shape
    condition.pop("planes", None)  # they are a part of the network's x
    x = torch.empty(pictures, shape[0] + conditioner.planes, *shape[1:], dtype=trainer.dtype, device="meta")
    level = torch.empty(pictures, dtype=trainer.dtype, device="meta")
    with mock.patch.object(F, "scaled_dot_product_attention", fused), Meter() as meter:
        functional_call(network, own, (x, level), condition).sum().backward()
    return meter.peak
