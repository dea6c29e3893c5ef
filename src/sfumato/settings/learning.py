"""How a model learns: its start, its process, its optimizer, and for how long."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sfumato.settings.base import LARGEST_SEED, Settings, within, word

LONGEST = 30 * 86400.0  # seconds of a run


class Start(Settings):
    """What a run begins with."""

    model: str = word("", "a model, by name or folder, whose weights are taken where they fit; empty: random weights")


class Diffusion(Settings):
    """The process and what the network predicts."""

    schedule: Literal["linear", "cosine", "flow", "karras", "learned"] = word("cosine", "how signal turns into noise")
    shift: float = within(
        1.0, 0.1, 20, "factor of noise against signal; larger for large pictures (log-SNR - 2 log shift)"
    )
    parameterization: Literal["epsilon", "x", "v", "flow", "karras"] = word("v", "what the network predicts")
    sigma_data: float = within(0.5, 0.01, 10, "standard deviation of the data in [-1, 1]")


class Optimizer(Settings):
    """How the weights move."""

    kind: Literal["adamw", "muon"] = word("adamw", "muon: for matrices, AdamW for the rest")
    lr: float = within(2e-4, 1e-8, 1, "learning rate at its peak; Muon's steps are scaled to AdamW's")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = word(
        (0.9, 0.99), "decay of the gradient's moments"
    )
    weight_decay: float = within(0.0, 0, 10, "decoupled")
    warmup: int = within(200, 0, 10**7, "steps of linear rise")
    decay: float = within(0.0, 0, 1, "fraction of the steps, at the end, of linear fall to 0")
    clip: float = within(1.0, 1e-6, 1e6, "largest norm of the gradient")


class Training(Settings):
    """How long, how many at once, and what is kept."""

    steps: int = within(20000, 0, 10**8, "steps of the optimizer; 0: from the time, the data and the machine")
    time: float = within(
        0.0,
        0,
        LONGEST,
        "length of a run with open steps, in seconds or as 90s, 30m, 1h30m; 0: an hour, or 400 epochs if less",
    )
    batch: int = within(64, 0, 65536, "pictures in a step and accumulation; 0: from the time and the machine")
    accumulate: int = within(1, 1, 4096, "batches a step")
    precision: Literal["auto", "fp32", "bf16"] = word("auto", "auto: the fastest that is safe on the device")
    compile: Literal[False, True, "reduce-overhead", "max-autotune"] = word(
        False, "torch.compile, true for its usual mode; the other two record CUDA graphs"
    )
    activation_checkpointing: bool = word(False, "less memory for more time, and the same numbers")
    seed: int = within(0, 0, LARGEST_SEED, "seed of weights, order, noise and times")
    ema: tuple[Annotated[float, Field(gt=0, le=0.25)], ...] = Field(
        default=(0.05, 0.10), min_length=1, max_length=8, description="widths sigma_rel of the averages of the weights"
    )
    validate_every: int = within(500, 0, 10**8, "steps between validation losses; 0: from the length of the run")
    sample_every: int = within(1000, 0, 10**8, "steps between sample sheets; 0: from the length of the run")
    evaluate_every: int = within(0, 0, 10**8, "steps between evaluations; the best one gives the model; 0: none")
    evaluate_pictures: int = within(256, 64, 10**5, "pictures drawn for an evaluation")
    checkpoint_every: int = within(500, 0, 10**8, "steps between checkpoints; 0: from the length of the run")
    keep: int = within(3, 1, 1000, "checkpoints kept")
    half: bool = word(True, "save the model's weights in half precision")
    threads: int = within(0, 0, 1024, "CPU threads; 0: all cores")

    @model_validator(mode="before")
    @classmethod
    def _seconds(cls, values: Any) -> Any:
        time = values.get("time") if isinstance(values, dict) else None
        if not isinstance(time, str):
            return values
        seconds = seconds_of(time)
        if seconds and not 1 <= seconds <= LONGEST:
            raise ValueError(f"time = {time} is not possible: use 1s to 30d, or 0 for automatic")
        return {**values, "time": seconds}


def seconds_of(text: str) -> float:
    """ "90s", "30m", "2h", "1h30m", "1d" or plain seconds -> seconds.

    Raises:
        ValueError: it is not a length of time.
    """
    found = re.fullmatch(r"(?:([0-9.]+)d)?(?:([0-9.]+)h)?(?:([0-9.]+)m(?:in)?)?(?:([0-9.]+)s?)?", text.replace(" ", ""))
    try:
        parts = [float(part) for part in found.groups(default="0")] if found and text.strip() else None
    except ValueError:
        parts = None
    if parts is None:
        raise ValueError(f"time = {text!r} is not a length of time: write e.g. 90s, 30m, 2h or 1h30m")
    days, hours, minutes, seconds = parts
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
