"""A training run that is as small as it can be and still has every part: a dozen kilobytes, thirty steps a second."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # what an optimizer imports late, and makes a folder for among the temporary ones
from PIL import Image

from sfumato.config import Config, change, validate
from sfumato.training.loop import Trainer
from sfumato.training.prepared import prepare_run

TINY = {
    "name": "tiny",
    "data": {"path": "filled in", "size": 8, "validation": 0.15, "flip": True},
    "network": {
        "kind": "unet",
        "channels": 8,
        "groups": 4,
        "multipliers": [1],
        "blocks": 1,
        "attention_level": 0,
        "dropout": 0.1,
    },
    "condition": {"kind": "text", "width": 16, "depth": 1, "heads": 2, "vocabulary": 128, "max_length": 8},
    "optimizer": {"kind": "muon", "lr": 3e-3, "warmup": 5, "decay": 0.5},
    "training": {
        "steps": 6,
        "batch": 4,
        "accumulate": 2,
        "precision": "fp32",
        "validate_every": 5,
        "sample_every": 7,
        "checkpoint_every": 2,
        "keep": 2,
        "threads": 1,
    },
    "sampling": {"steps": 2, "prompts": ["red picture", "blue picture"]},
}


def make_pictures(folder: Path, count: int = 24, size: int = 8) -> Path:
    """Noise in two class folders, red and blue, every picture with a caption."""
    for i in range(count):
        colour = "red" if i % 2 else "blue"
        noise = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
        (folder / colour).mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(folder / colour / f"{i}.png")
        (folder / colour / f"{i}.txt").write_text(f"{colour} picture number {i}")
    return folder


def make_settings(pictures: Path, *changes: str) -> Config:
    """The tiny run over a folder of pictures, with ``path=value`` changes."""
    return validate(change(TINY, [f"data.path={pictures}", *changes]), "the tests")


def make_trainer(config: Config, out: Path) -> Trainer:
    """A trainer at step 0, whose prepared data lies in ``out``."""
    prepared = prepare_run(config, out, Quiet())
    return Trainer(prepared.config, prepared.model, prepared.data, prepared.train_indices, prepared.validation_indices)


class Quiet:
    """A report that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        return None


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads, and a run may set their number for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quiet() -> Quiet:
    return Quiet()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "pictures")


@pytest.fixture(scope="session")
def drawn() -> Callable[..., Path]:
    return make_pictures


@pytest.fixture(scope="session")
def settings() -> Callable[..., Config]:
    return make_settings


@pytest.fixture(scope="session")
def trainer_of() -> Callable[[Config, Path], Trainer]:
    return make_trainer
