"""What a run says while it works, and what it writes down.

``loss.jsonl`` holds the numbers that are a function of the settings and the data (step, loss, gradient norm,
validation loss, score of an evaluation): a run that was killed and resumed ends with the same bytes. Speeds go to the
terminal and to TensorBoard, when that is installed.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from sfumato.errors import is_text


class Log:
    """``loss.jsonl`` and TensorBoard files of one run.

    Args:
        run: the run folder.
        length: bytes of ``loss.jsonl`` that the checkpoint knows; everything after them is cut off, because the steps
            after the checkpoint are repeated.
        step: the checkpoint's step.
        say: called if lines are missing that the checkpoint knows; no weight depends on them.
    """

    def __init__(self, run: Path, length: int, step: int, say: Callable[[str], None] = lambda text: None) -> None:
        self.path = run / "loss.jsonl"
        self.path.touch()
        content = self.path.read_bytes()[:length]
        if len(content) < length:
            content = content[: content.rfind(b"\n") + 1]
            say(
                f"{self.path} has lost lines: {len(content):,} of {length:,} bytes are left. The run goes on, and its "
                f"weights are the same; the loss curve lacks what was lost of steps 1 to {step:,}"
            )
        with self.path.open("r+b") as file:
            file.truncate(len(content))
        self.file = self.path.open("ab")
        self.board = _tensorboard(run / "tensorboard", step, say)

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


def _tensorboard(folder: Path, step: int, say: Callable[[str], None]):
    if not is_text(str(folder)):
        say("TensorBoard cannot write to a folder whose name is no UTF-8: its files are left out")
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra [track] is not installed; `sfumato doctor` says so
        return None
    return SummaryWriter(folder, purge_step=step + 1)
