"""The files of a saved model: written with their hashes, and believed only when those agree.

``model.json`` holds the SHA-256 of every other file and, under its own name, that of its other content, so one changed
bit anywhere in the folder is noticed. That guards against damage and mix-ups. Against a person who writes the folder to
do harm stands what its files may be, recognised by content and never by name: JSON and safetensors, within bounds.
Nothing is ever unpickled.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sfumato.durable import sha256, write_atomically
from sfumato.errors import UserError, unknown

FORMAT = 1
DESCRIPTION, WEIGHTS, TOKENIZER = "model.json", "weights.safetensors", "tokenizer.json"
SHIPPED = Path(__file__).parent / "models"
DEFAULT_MODEL = "emoji"
LARGEST_JSON = 8 * 2**20  # bytes: a model.json beyond this is not ours
FIELDS = {"config": dict, "classes": list, "record": dict, "sha256": dict}


def model_folder(name: str | Path | None = None) -> Path:
    """The folder of a model: of one in the package by name, of any by its folder or its run's folder.

    Without a name it is that of the default model. A run in ``runs/`` goes by its name too. A folder that has the name
    of a shipped model is written as a path: ``./emoji``.
    """
    name = str(name or DEFAULT_MODEL)
    shipped = sorted(p.parent.name for p in SHIPPED.glob(f"*/{DESCRIPTION}"))
    if name in shipped:
        return SHIPPED / name
    folder = next((path for path in (Path(name), Path("runs") / name) if path.is_dir()), None)
    if folder is None:
        error = unknown("model", name, shipped)
        raise UserError(error.message, f"{error.fix}, or give the folder of a model or run with --model")
    inner = folder / "model"  # of a run folder, which is as good as the model in it
    return inner if (inner / DESCRIPTION).is_file() else folder


def write(folder: Path, description: dict[str, Any], files: dict[str, bytes]) -> dict[str, str]:
    """Writes ``files``, then ``model.json`` with ``description`` and all hashes; returns the hashes by file name.

    Each file is replaced in one move. A folder that is written over and left half new does not load.

    Raises:
        UserError: the folder cannot be written.
    """
    odd = [name for name in files if not plain(name) or name == DESCRIPTION]
    if odd:
        raise ValueError(f"{odd[0]!r} cannot be a file of a model: give a plain name other than {DESCRIPTION}")
    hashes = {name: sha256(data) for name, data in files.items()}
    description = {"format": FORMAT, **description, "sha256": hashes}
    hashes[DESCRIPTION] = own_hash(description)
    files = {**files, DESCRIPTION: json.dumps(description, indent=1).encode() + b"\n"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise UserError(
            f"{folder}: the model cannot be written ({error.strerror})", fix="free some space, or choose another folder"
        ) from error
    return hashes


def own_hash(description: dict[str, Any]) -> str:
    """The SHA-256 of a description without the entry for itself, whatever its white space."""
    others = {name: value for name, value in description["sha256"].items() if name != DESCRIPTION}
    return sha256(json.dumps({**description, "sha256": others}, sort_keys=True).encode())


def plain(name: str) -> bool:
    """Whether ``name`` is that of a file right in a folder, on any system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The description of a model folder and its files by name, with all hashes verified.

    Raises:
        UserError: names the file that is missing, foreign, damaged or not allowed.
    """
    description = read_description(folder / DESCRIPTION)
    files = {}
    for name, expected in description["sha256"].items():
        if name == DESCRIPTION:
            continue
        file = folder / name
        if not plain(name):
            raise UserError(
                f"{folder / DESCRIPTION}: names {name!r}, which is no file of this folder",
                fix="do not use this model, or ask who made it",
            )
        if not file.is_file():
            raise UserError(f"{file} is missing; {DESCRIPTION} names it", fix="copy the whole folder again")
        files[name] = file.read_bytes()
        if sha256(files[name]) != expected:
            raise damaged(file)
    if WEIGHTS not in files:
        raise UserError(f"{folder / DESCRIPTION}: names no {WEIGHTS}", fix="save the model again")
    return description, files


def read_description(file: Path) -> dict[str, Any]:
    """The content of ``model.json``, of the right format and types, and unchanged."""
    if not file.is_file():
        raise UserError(
            f"{file.parent}: no model there ({file.name} is missing)", fix="give the folder of a saved model"
        )
    if file.stat().st_size > LARGEST_JSON:
        raise UserError(
            f"{file}: {file.stat().st_size:,} bytes, more than the limit of {LARGEST_JSON:,}",
            fix="give the folder of a model that Sfumato saved",
        )
    try:
        description = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a model description ({error})", fix="copy the whole folder again") from error
    if not isinstance(description, dict) or "format" not in description:
        raise UserError(f"{file}: not a model description (it has no format)", fix="copy the whole folder again")
    if description["format"] != FORMAT:
        raise UserError(
            f"{file}: its format is {description['format']!r}, and this version of Sfumato reads format {FORMAT}",
            fix="load it with the version that wrote it",
        )
    wrong = [name for name, kind in FIELDS.items() if not isinstance(description.get(name), kind)]
    wrong += [name for name in ("classes",) if name not in wrong and not all_texts(description[name])]
    wrong += [name for name in ("sha256",) if name not in wrong and not all_texts(description[name].values())]
    if wrong:
        raise UserError(
            f"{file}: {', '.join(wrong)} missing or of another type than it should be",
            fix="copy the whole folder again",
        )
    own = own_hash(description)
    if description["sha256"].get(DESCRIPTION, own) != own:
        raise damaged(file)
    return description


def all_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def damaged(file: Path) -> UserError:
    return UserError(
        f"{file}: its SHA-256 is not the one in {DESCRIPTION}; it was damaged or changed",
        fix="fetch the model again from where you trust it",
    )


def read_tensors(file: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it is something else, such as a pickle (which is never run).
    """
    try:
        return load(data)
    except (SafetensorError, KeyError) as error:
        raise UserError(
            f"{file}: this is not a safetensors file ({error}); pickles can run code and are never loaded",
            fix="convert it to safetensors where you trust it",
        ) from error


class AtMost(TorchFunctionMode):
    """A context in which no more than ``elements`` weights can be made, so that a model.json of one kilobyte cannot
    ask for a terabyte: what ``torch.empty`` reserves is counted before it is touched.

    Args:
        elements: the weights that the file holds.
        file: what to name in the error.
    """

    def __init__(self, elements: int, file: Path) -> None:
        super().__init__()
        self.left, self.file = elements, file

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
            f"{self.file}: the network that {DESCRIPTION} describes has more weights than this file holds",
            fix="the files belong to different models: copy the whole folder again",
        )
