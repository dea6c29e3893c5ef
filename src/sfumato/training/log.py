"""What a run says while it works, and what it writes down.

``loss.jsonl`` holds the numbers that are a function of the settings and the data (step, loss, gradient norm,
validation loss, score of an evaluation): a run that was killed and resumed ends with the same bytes. Speeds go to the
terminal and to TensorBoard, when that is installed.
"""

import json
import os
from pathlib import Path

from sfumato.errors import UserError


class Log:
    """``loss.jsonl`` and TensorBoard files of one run.

    Args:
        run: the run folder.
        length: bytes of ``loss.jsonl`` that the checkpoint knows of; what was written after it is cut off, because
            the steps after the checkpoint are done again.
        step: the checkpoint's step.

    Raises:
        UserError: the file is shorter than the checkpoint says.
    """

    def __init__(self, run: Path, length: int, step: int) -> None:
        self.path = run / "loss.jsonl"
        self.path.touch()
        if self.path.stat().st_size < length:
            raise UserError(
                f"{self.path} holds {self.path.stat().st_size:,} bytes, but {length:,} when the checkpoint was written",
                fix="put the file back as it was, or start again in another folder with --out",
            )
        with self.path.open("r+b") as file:
            file.truncate(length)
        self.file = self.path.open("ab")
        self.board = _tensorboard(run / "tensorboard", step)

    def write(self, step: int, **numbers: float) -> None:
        """Appends one line."""
        self.file.write((json.dumps({"step": step, **numbers}) + "\n").encode())

    def scalars(self, step: int, **numbers: float) -> None:
        """Numbers for TensorBoard only."""
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def length(self) -> int:
        """Bytes written so far, on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.path.stat().st_size

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()


def _tensorboard(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra [track] is not installed; `sfumato doctor` says so
        return None
    return SummaryWriter(folder, purge_step=step + 1)
