"""The files of a saved model: written with their hashes, and accepted only if the hashes agree.

``model.json`` holds the SHA-256 of every other file and, under its own name, of its own other content, so one changed
bit anywhere in the folder is noticed. The hashes guard against damage and mix-ups. Against a person who writes the
folder to do harm, only JSON and safetensors within bounds are read, recognised by content and never by name. Nothing is
ever unpickled.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sfumato.bounded import TensorFile, parse_json, read_bytes, read_tensor_file, size_of
from sfumato.durable import sha256, write_atomically
from sfumato.errors import UserError, shown, unknown

FORMAT = 1
DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
SHIPPED = Path(__file__).parent / "models"
DEFAULT_MODEL = "emoji"
LARGEST_JSON = 8 * 2**20  # bytes: Sfumato writes no larger model.json
LARGEST_FILE = 32 * 2**20  # bytes of any other file but the weights: a tokenizer, a card, a sheet of pictures
MOST_FILES = 16
RUN = "config.yaml"  # in the folder of a run
LONGEST_NAME = 255  # bytes that file systems allow
FIELDS = {"config": dict, "classes": list, "record": dict, "sha256": dict}
AGAIN = "copy the whole folder again"


def model_folder(name: str | Path | None = None) -> Path:
    """The folder of a model, which is given by the name of one in the package, by its folder or by its run's folder.

    Without a name it is the default model's. A run in ``runs/`` may also be given by its name. A folder that has the
    name of a shipped model must be written as a path: ``./emoji``.
    """
    name = DEFAULT_MODEL if name is None else str(name)
    shipped = sorted(p.parent.name for p in SHIPPED.glob(f"*/{DESCRIPTION}"))
    if name in shipped:
        return SHIPPED / name
    places = (Path(name), Path("runs") / name) if name else ()
    folders = [path for path in places if path.is_dir()]
    # a folder of data has the name of its run: the place that holds a model, or a run, is meant
    marks = (DESCRIPTION, f"model/{DESCRIPTION}", RUN)
    held = (path for path in folders if any((path / mark).is_file() for mark in marks))
    folder = next(held, folders[0] if folders else None)
    if folder is None:
        error = unknown("model", name, shipped)
        raise UserError(error.message, f"{error.fix}, or give the folder of a model or run with --model")
    inner = folder / "model"  # the model of a run folder
    return inner if (inner / DESCRIPTION).is_file() else folder


def write(folder: Path, description: dict[str, Any], files: dict[str, bytes]) -> dict[str, str]:
    """Write ``files``, then ``model.json`` with ``description`` and all hashes; return the hashes by file name.

    Each file is replaced in one move. A folder that was only half rewritten does not load.

    Raises:
        UserError: the folder cannot be written.
    """
    odd = [name for name in files if not plain(name) or name == DESCRIPTION]
    if odd:
        raise ValueError(f"{odd[0]!r} cannot be a file of a model: give a plain name other than {DESCRIPTION}")
    large = [name for name, data in files.items() if name != WEIGHTS and len(data) > LARGEST_FILE]
    if large or len(files) > MOST_FILES:
        raise UserError(
            f"{folder}: the model cannot hold {f'{large[0]!r}' if large else f'{len(files)} files'}",
            fix=f"give at most {MOST_FILES} files, each of at most {LARGEST_FILE:,} bytes",
        )
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
    """The SHA-256 of a description without the entry for itself; white space does not matter."""
    others = {name: value for name, value in description["sha256"].items() if name != DESCRIPTION}
    return sha256(json.dumps({**description, "sha256": others}, sort_keys=True).encode())


def plain(name: str) -> bool:
    """Whether ``name`` names a file directly in a folder, on any system."""
    return (
        name not in ("", ".", "..")
        and not set(name) & set("/\\:\0")
        and len(name.encode("utf-8", "surrogatepass")) <= LONGEST_NAME
    )


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The description of a model folder and its files by name, with all hashes verified.

    Raises:
        UserError: names the file that is missing, foreign, damaged, too large or not allowed.
    """
    description = read_description(folder / DESCRIPTION)
    files = read_beside_weights(folder, description)
    read_shapes(folder, description)
    return description, {**files, WEIGHTS: read_weights(folder, description)}


def read_beside_weights(folder: Path, description: dict[str, Any]) -> dict[str, bytes]:
    """The files that a description names, except itself and the weights, each within bounds and with its hash checked.

    Raises:
        UserError: as in ``read``.
    """
    hashes: dict[str, str] = description["sha256"]
    if len(hashes) > MOST_FILES + 1:
        raise UserError(
            f"{folder / DESCRIPTION}: names {len(hashes):,} files, more than the limit of {MOST_FILES}", fix=AGAIN
        )
    for name in hashes:
        if not plain(name):
            raise UserError(
                f"{folder / DESCRIPTION}: names {shown(name)}, which is no file of this folder",
                fix="do not use this model, or ask who made it",
            )
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; {DESCRIPTION} names it", fix=AGAIN)
    if WEIGHTS not in hashes:
        raise UserError(f"{folder / DESCRIPTION}: names no {WEIGHTS}", fix="save the model again")
    files = {
        name: read_bytes(folder / name, LARGEST_FILE, AGAIN) for name in hashes if name not in (DESCRIPTION, WEIGHTS)
    }
    for name, data in files.items():
        if sha256(data) != hashes[name]:
            raise damaged(folder / name)
    return files


def read_shapes(folder: Path, description: dict[str, Any]) -> TensorFile:
    """The names and shapes of the weights; only the head of their file is read.

    Raises:
        UserError: it is damaged, something else, or larger than the memory.
    """
    file = folder / WEIGHTS
    try:
        return read_tensor_file(file)
    except ValueError as error:
        raise odd_weights(file, error, description) from error


def odd_weights(file: Path, error: Exception, description: dict[str, Any]) -> UserError:
    """The error for weights that are not as they should be; they are called damaged if the hash says so."""
    if size_of(file) <= LARGEST_FILE and sha256(file.read_bytes()) != description["sha256"][WEIGHTS]:
        return damaged(file)
    return no_tensors(file, error)


def read_weights(folder: Path, description: dict[str, Any]) -> bytes:
    """The file of the weights, with its hash verified; ``read_shapes`` has checked its size."""
    data = (folder / WEIGHTS).read_bytes()
    if sha256(data) != description["sha256"][WEIGHTS]:
        raise damaged(folder / WEIGHTS)
    return data


def read_description(file: Path) -> dict[str, Any]:
    """The content of ``model.json``, of the right format and types, and unchanged."""
    if not file.is_file():
        raise UserError(
            f"{file.parent}: no model there ({file.name} is missing)", fix="give the folder of a saved model"
        )
    data = read_bytes(file, LARGEST_JSON, "give the folder of a model that Sfumato saved")
    try:
        description = parse_json(data)
    except ValueError as error:
        raise UserError(f"{file}: not a model description ({shown(str(error))})", fix=AGAIN) from error
    if not isinstance(description, dict) or "format" not in description:
        raise UserError(f"{file}: not a model description (it has no format)", fix=AGAIN)
    if description["format"] != FORMAT:
        raise UserError(
            f"{file}: its format is {shown(description['format'])}, and this version of Sfumato reads format {FORMAT}",
            fix="load it with the version that wrote it",
        )
    wrong = [name for name, kind in FIELDS.items() if not isinstance(description.get(name), kind)]
    wrong += [name for name in ("classes",) if name not in wrong and not all_texts(description[name])]
    wrong += [name for name in ("sha256",) if name not in wrong and not all_texts(description[name].values())]
    if wrong:
        raise UserError(
            f"{file}: {', '.join(wrong)} missing or of another type than it should be",
            fix=AGAIN,
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
        raise no_tensors(file, error) from error


def no_tensors(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file}: this is not a safetensors file ({error}); pickles can run code and are never loaded",
        fix="convert it to safetensors where you trust it",
    )
