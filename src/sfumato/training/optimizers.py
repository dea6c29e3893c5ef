"""AdamW for everything, or Muon for the matrices and AdamW for the rest.

AdamW: Loshchilov & Hutter 2019. Muon: see ``muon``; one learning rate serves both. A convolution is the matrix
(out, in * kernel), an embedding the matrix (entries, width); gains and biases stay with AdamW.
"""

import torch
from torch import Tensor, nn

from sfumato.training.muon import Muon


def as_matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor`` as a matrix (out, rest), with its columns in the memory order of ``like``.

    So the matrix of a weight is a view of it in either memory format. Newton-Schulz commutes with permutations of
    columns, so their order does not matter to Muon.
    """
    if like.is_contiguous():
        return tensor.flatten(1)
    return tensor.permute(0, *range(2, tensor.ndim), 1).flatten(1)


class Optimizer:
    """AdamW and, when asked for, Muon over one set of named parameters; both follow the rate of ``set_rate``.

    Args:
        parameters: name -> parameter, in a fixed order, already in their final memory format.
        kind: "adamw" or "muon".
        lr: the peak learning rate.
        betas: AdamW's.
        weight_decay: decoupled, on tensors of two or more dimensions.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        kind: str,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        self.lr = lr
        wide = {name: p for name, p in parameters.items() if p.ndim >= 2}
        flat = {name: p for name, p in parameters.items() if p.ndim < 2}
        self.matrices = wide if kind == "muon" else {}
        decayed = {} if kind == "muon" else wide
        self.names = {"adamw": [*decayed, *flat], "muon": list(self.matrices)}
        groups = [
            {"params": list(decayed.values()), "weight_decay": weight_decay},
            {"params": list(flat.values()), "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)
        self.views = [nn.Parameter(as_matrix(p.data, p)) for p in self.matrices.values()]
        self.muon = Muon(self.views, lr, weight_decay) if self.views else None

    def set_rate(self, factor: float) -> None:
        """Set the learning rate to ``factor`` times the peak."""
        for optimizer in filter(None, (self.adamw, self.muon)):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * factor

    def step(self) -> None:
        self.adamw.step()
        if self.muon is not None:
            for view, p in zip(self.views, self.matrices.values(), strict=True):
                view.grad = as_matrix(p.grad, p) if p.grad is not None else None
            self.muon.step()
            self.muon.zero_grad()  # otherwise the views would hold the gradients' memory through the next step

    def state(self) -> dict[str, Tensor]:
        """Every state tensor by name, e.g. ``adamw/network.out.weight/exp_avg``."""
        tensors = {}
        for kind, optimizer in (("adamw", self.adamw), ("muon", self.muon)):
            for i, entries in (optimizer.state_dict()["state"] if optimizer else {}).items():
                for slot, value in entries.items():
                    tensors[f"{kind}/{self.names[kind][i]}/{slot}"] = value
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of ``state``. Every tensor gets the memory layout of its parameter, because fused AdamW
        walks memory and not indices."""
        for kind, optimizer in (("adamw", self.adamw), ("muon", self.muon)):
            if optimizer is None:
                continue
            params = [p for group in optimizer.param_groups for p in group["params"]]
            for name, p in zip(self.names[kind], params, strict=True):
                prefix = f"{kind}/{name}/"
                entries = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                optimizer.state[p] = {
                    slot: torch.empty_like(p).copy_(v) if v.ndim else v.to(p.device, copy=True)
                    for slot, v in entries.items()
                }


def rate_factor(step: int, steps: int, warmup: int, decay: float) -> float:
    """The learning rate as a share of its peak at ``step`` (0-based): linear warm-up over ``warmup`` steps, constant,
    then linear to zero over the last ``decay`` share of the run (Hägele et al. 2024)."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    tail = decay * steps
    fall = min(1.0, (steps - step) / tail) if tail else 1.0
    return rise * fall
