"""A bound on the number of weights while a network is built from a file."""

from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sfumato.errors import UserError


class AtMost(TorchFunctionMode):
    """A context in which no more than ``elements`` weights can be made.

    It counts what ``torch.empty`` reserves before any of it is touched, so a file of one kilobyte cannot ask for a
    terabyte.

    Args:
        elements: the weights that the file holds.
        file: the file that the error names.
        described_in: the name of the file that describes the network.
    """

    def __init__(self, elements: int, file: Path, described_in: str) -> None:
        super().__init__()
        self.left, self.file, self.described_in = elements, file, described_in

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.empty:
            return func(*args, **(kwargs or {}))
        try:
            made = func(*args, **(kwargs or {}))
        except RuntimeError as error:  # more than the machine has
            raise self.refusal() from error
        self.left -= made.numel()
        if self.left < 0:
            raise self.refusal()
        return made

    def refusal(self) -> UserError:
        return UserError(
            f"{self.file}: the network that {self.described_in} describes has more weights than this file holds",
            fix="the files belong to different models: copy the whole folder again",
        )
