"""An unfinished run as a model, with the averages of its newest whole checkpoint. Its folder is not changed."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sfumato.bounded import read_bytes
from sfumato.conditioning.kinds import files_needed
from sfumato.conditioning.tokens import LARGEST
from sfumato.config import load_recipe
from sfumato.data.dataset import Dataset
from sfumato.errors import UserError
from sfumato.lift import lifted_weights
from sfumato.model import Model, own_network
from sfumato.training.checkpoint import checkpoints, read_checkpoint
from sfumato.training.claim import FACTS, SETTINGS


def is_run(folder: Path) -> bool:
    """Whether training has begun in a folder."""
    return (folder / SETTINGS).is_file() and (folder / FACTS).is_file()


def open_unfinished(run: Path, say: Callable[[str], None], network: nn.Module | None = None) -> Model:
    """The model of an unfinished run.

    Args:
        run: a run folder, in which another process may be training.
        say: gets the step of the model, and damaged checkpoints.

        network: as for ``Model.load``.

    Raises:
        UserError: there is no whole checkpoint yet, or the run was begun by a version that did not keep what is needed.
    """
    config, facts = load_recipe(run / SETTINGS), json.loads((run / FACTS).read_text())
    part = f"ema-{config.sampling.ema}"
    for folder in reversed(checkpoints(run)):
        try:
            state, parts = read_checkpoint(folder, only=(part, "buffers"))
            break
        except UserError as error:  # damaged, or deleted by the process that trains
            say(f"{error}; falling back to the checkpoint before it")
    else:
        raise UserError(
            f"{run}: the run has no checkpoint yet, and no model",
            fix="wait for the first one (training.checkpoint_every), or let the run finish",
        )
    needed = [run / name for name in files_needed(config.conditions)]
    if "classes" not in facts or not all(file.is_file() for file in needed):
        raise UserError(f"{run}: the run was begun by an older version", fix="let it finish, and draw from its model")
    own = own_network(config, network, str(run))
    with torch.random.fork_rng(devices=[]):
        files = {file.name: read_bytes(file, LARGEST) for file in needed}
        model = Model.build(config, facts["classes"], files=files, folder=run, network=own)
    tensors: dict[str, torch.Tensor] = {**model.parameters(), **model.buffers()}
    averages = lifted_weights(parts[part], model.parameters())
    with torch.no_grad():
        for name, value in {**averages, **parts.get("buffers", {})}.items():
            tensors[name].copy_(value)
    if model.fitted:  # by the data of the run
        model.fit(Dataset(run / ("data-unique" if config.data.duplicates == "drop" else "data")))
    step, steps = state["step"], config.training.steps
    model.record = {"steps": step, "unfinished": True, "manifest_sha256": facts["manifest_sha256"]}
    say(f"{run} has not finished: this is its average at step {step:,} of {steps:,}")
    return model.to("cpu").eval()
