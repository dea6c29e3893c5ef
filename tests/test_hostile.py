"""Files that somebody wrote to do harm, or that a disk damaged: each loads rightly or is refused in words.

A seeded mutator replaces every value of a JSON file by odd ones, or cuts, flips, blows up and nests the file. The
result must be the same as before, or a `UserError`, within a second and in bounded memory. The suite tries some hundred
mutants; this tries more and others:

    SFUMATO_MUTANTS=20000 SFUMATO_SEED=7 pytest -m slow tests/test_hostile.py
"""

import copy
import hashlib
import io
import json
import os
import random
import resource
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save

from sfumato import saved
from sfumato.data.dataset import Dataset
from sfumato.data.preparation import prepare
from sfumato.data.readers import Unusable
from sfumato.data.readers.arrays import NumPyArrays
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.errors import UserError
from sfumato.generation.draw import draw, redraw
from sfumato.generation.recipe import read_recipe
from sfumato.model import Model
from sfumato.request import Request
from sfumato.training.card import read_losses
from sfumato.training.checkpoint import newest_whole, read_checkpoint, save_checkpoint

SEED = int(os.environ.get("SFUMATO_SEED", "20261128"))
MUTANTS = int(os.environ.get("SFUMATO_MUTANTS", "2000"))  # mutants of the slow test
SECONDS = 1.0  # processor time of this process for one mutant
MEBIBYTES = 256  # additional memory for all mutants of a test

DEEP: Any = 0
for _ in range(60):
    DEEP = [DEEP]
ODD = (
    None, True, False, 0, -1, 1, 3.5, -0.0, 10**9, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", " ", "x",
    "x" * 10_000, "../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[2J", "os.system", [], {}, [[]], [None], ["x"] * 300,
    {"kind": "none"}, {"x": {"x": {}}}, DEEP,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values below a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(min(len(value), 3)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def mutant(content: Any, chance: random.Random) -> tuple[str, Any]:
    """A copy with one value replaced, left out or added, and what was done."""
    content = copy.deepcopy(content)
    path = chance.choice(list(places(content)))
    group = content
    for key in path[:-1]:
        group = group[key]
    match chance.randrange(10):
        case 0:
            del group[path[-1]]
            return f"without {path}", content
        case 1 if isinstance(group, dict):
            group[chance.choice(("x", "__class__", "x" * 5000, "a\0", "\ud800"))] = chance.choice(ODD)
            return f"more at {path[:-1]}", content
        case 2 if isinstance(group[path[-1]], int | float):
            group[path[-1]] *= chance.choice((-1, 2, 1000, 10**6, 0.5))
            return f"{path} = {group[path[-1]]!r}", content
        case _:
            group[path[-1]] = chance.choice(ODD)
            return f"{path} = {str(group[path[-1]])[:60]!a}", content


def damaged(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A file cut, with a bit flipped, with bytes put in, or blown up."""
    place = chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(len(data), 400))
    match chance.randrange(4):
        case 0:
            return f"cut at {place}", data[:place]
        case 1:
            return f"bit {place}", data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        case 2:
            return f"noise at {place}", data[:place] + chance.randbytes(chance.randrange(1, 40)) + data[place:]
        case _:
            many = chance.choice((b"[", b"{", b"9", b" ", b"\0", b"[],", b'{"":')) * 100_000
            return f"{many[:4]!r} at {place}", data[:place] + many + data[place:]


def tried(what: str, attempt: Callable[[], object]) -> bool:
    """Whether `attempt` succeeds; else it must end in words. Both within the time."""
    start = time.process_time()
    try:
        attempt()
        return True
    except UserError as error:
        assert error.message, what
        assert len(error.message) < 3000, what
        assert "\x1b" not in error.message, what
        return False
    except Exception as error:
        raise AssertionError(f"seed {SEED}, {what}: {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        taken = time.process_time() - start
        assert taken < SECONDS, f"seed {SEED}, {what}: {taken:.1f} s"


@pytest.fixture(autouse=True)
def bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEBIBYTES * 1024


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- a model folder --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tiny, tmp_path_factory) -> Path:
    model = tiny("text")
    model.record = {"steps": 3, "environment": {"torch": "2.x"}, "seed": 5, "pictures": 10}
    return model.save(tmp_path_factory.mktemp("hostile") / "model", {"README.md": b"# A card\n"})


def forge(folder: Path, name: str, data: bytes) -> None:
    """Puts ``data`` in the place of a file, and all hashes right."""
    (folder / name).write_bytes(data)
    description = json.loads((folder / saved.DESCRIPTION).read_bytes())
    description["sha256"][name] = hashlib.sha256(data).hexdigest()
    write_description(folder, description)


def write_description(folder: Path, description: Any) -> None:
    if isinstance(description, dict) and isinstance(description.get("sha256"), dict):
        description["sha256"][saved.DESCRIPTION] = saved.own_hash(description)
    (folder / saved.DESCRIPTION).write_text(json.dumps(description))


def model_mutants(original: Path, folder: Path, count: int) -> tuple[int, int]:
    """How many mutants of a model folder were tried, and how many of them still draw."""
    chance, drew = random.Random(f"{SEED} model"), 0
    description = json.loads((original / saved.DESCRIPTION).read_bytes())
    tokenizer = json.loads((original / "tokenizer.json").read_bytes())
    weights = (original / saved.WEIGHTS).read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        match number % 6:
            case 0 | 1:
                what, content = mutant(description, chance)
                write_description(folder, content)
            case 2:
                what, content = mutant(tokenizer, chance)
                forge(folder, "tokenizer.json", json.dumps(content).encode())
            case 3:
                what, content = mutant(header, chance)
                head = json.dumps(content).encode()
                forge(folder, saved.WEIGHTS, len(head).to_bytes(8, "little") + head + weights[8 + length :])
            case 4:
                name = chance.choice(("tokenizer.json", saved.WEIGHTS))
                what, data = damaged((original / name).read_bytes(), chance)
                forge(folder, name, data)
            case _:
                what, data = damaged((original / saved.DESCRIPTION).read_bytes(), chance)
                (folder / saved.DESCRIPTION).write_bytes(data)
        drew += tried(what, lambda: Model.load(folder).generate("a red apple", steps=1, times=None))
    return count, drew


@pytest.mark.usefixtures("one_thread")
def test_a_model_folder_loads_rightly_or_is_refused_in_words(original, tmp_path):
    Model.load(original).generate("a red apple", steps=1)  # what is loaded late
    count, drew = model_mutants(original, tmp_path / "model", 120)
    assert 0 < drew < count


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_many_more_model_folders_load_rightly_or_are_refused_in_words(original, tmp_path):
    count, drew = model_mutants(original, tmp_path / "model", MUTANTS)
    assert 0 < drew < count


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "weights.safetensors", "model.json"])
def test_a_sparse_file_of_twenty_gibibytes_is_refused_before_it_is_read(original, tmp_path, name):
    folder = Path(shutil.copytree(original, tmp_path / "model"))
    with (folder / name).open("r+b") as file:
        file.truncate(20 * 2**30)
    assert not tried(name, lambda: Model.load(folder))


def test_a_folder_that_names_a_thousand_files_is_refused(original, tmp_path):
    folder = Path(shutil.copytree(original, tmp_path / "model"))
    description = json.loads((folder / saved.DESCRIPTION).read_bytes())
    description["sha256"] |= {f"{i}.bin": "0" * 64 for i in range(1000)}
    write_description(folder, description)
    with pytest.raises(UserError, match=r"1,00\d files, more than the limit"):
        Model.load(folder)


# --- a recipe in a picture -------------------------------------------------------------------------------------------


def test_a_recipe_in_a_picture_is_drawn_or_refused_in_words(original, tmp_path, one_thread):
    model, chance, drew = Model.load(original), random.Random(f"{SEED} recipe"), 0
    first = next(iter(draw(model, Request(("a red apple",), seed=3, settings={"steps": 2}))))
    file, count = tmp_path / "picture.png", 100
    for number in range(count):
        what, recipe = mutant(first.recipe, chance)
        text = json.dumps(recipe)
        if number % 5 == 4:
            what, data = damaged(text.encode(), chance)
            text = data.decode("latin-1")
        info = PngImagePlugin.PngInfo()
        info.add_itxt("sfumato", text.encode("utf-8", "replace").decode("utf-8"), zip=number % 3 == 0)
        first.picture.save(file, "PNG", pnginfo=info)
        drew += tried(what, lambda: redraw(model, read_recipe(file)))
    assert 0 < drew < count


@pytest.mark.parametrize("number", range(40))
def test_a_damaged_picture_has_its_recipe_or_none(original, tmp_path, number, one_thread):
    chance = random.Random(f"{SEED} picture {number}")
    model = Model.load(original)
    data = next(iter(draw(model, Request(("a red apple",), seed=3, settings={"steps": 1})))).png()
    what, data = damaged(data, chance)
    (tmp_path / "picture.png").write_bytes(data)
    tried(what, lambda: read_recipe(tmp_path / "picture.png"))


def test_a_text_that_unpacks_to_a_gibibyte_is_refused(tmp_path):
    packed = zlib.compress(bytes(2**30 // 8)) * 1
    chunk = b"zTXtsfumato\0\0" + packed
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    head, rest = buffer.getvalue()[:33], buffer.getvalue()[33:]
    bomb = head + (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + rest
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert not tried("zTXt", lambda: read_recipe(tmp_path / "bomb.png"))


# --- a run folder ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_whole_or_refused_in_words(tmp_path):
    chance, count, whole = random.Random(f"{SEED} checkpoint"), 200, 0
    parts = {"weights": {"a": torch.ones(3)}, "optimizer": {"b": torch.zeros(2, 2)}}
    first = (
        save_checkpoint(tmp_path / "first", 7, parts, {"log_bytes": 0, "seconds": 1.0}, 2)
        if ((tmp_path / "first").mkdir() is None)
        else None
    )
    assert first
    state = json.loads((first / "state.json").read_bytes())
    run = tmp_path / "run"
    for number in range(count):
        shutil.rmtree(run, ignore_errors=True)
        folder = Path(shutil.copytree(first, run / first.name))
        if number % 2:
            what, content = mutant(state, chance)
            (folder / "state.json").write_text(json.dumps(content))
        else:
            name = chance.choice(sorted(file.name for file in folder.iterdir()))
            what, data = damaged((folder / name).read_bytes(), chance)
            (folder / name).write_bytes(data)
        whole += tried(what, lambda: newest_whole(run, lambda text: None))
    assert whole < count


def test_a_checkpoint_reads_no_file_outside_its_folder(tmp_path):
    (tmp_path / "secret.safetensors").write_bytes(save({"a": torch.ones(1)}))
    run = tmp_path / "run"
    run.mkdir()
    folder = save_checkpoint(run, 1, {"weights": {"a": torch.ones(1)}}, {}, 2)
    state = json.loads((folder / "state.json").read_bytes())
    digest = hashlib.sha256((tmp_path / "secret.safetensors").read_bytes()).hexdigest()
    state["sha256"] = {"../../secret.safetensors": digest}
    state["sha256"]["state.json"] = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="damaged or missing"):
        read_checkpoint(folder)


def test_a_log_of_losses_is_read_or_refused_in_words(tmp_path):
    chance, log = random.Random(f"{SEED} log"), tmp_path / "loss.jsonl"
    rows = [{"step": i, "loss": 0.5, "gradient": 1.0} for i in range(1, 5)] + [{"step": 4, "validation_loss": 0.4}]
    for number in range(150):
        if number % 2:
            what, content = mutant(rows, chance)
            log.write_text("\n".join(map(json.dumps, content)))
        else:
            what, data = damaged("\n".join(map(json.dumps, rows)).encode(), chance)
            log.write_bytes(data)
        tried(what, lambda: read_losses(log))


# --- prepared data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("cat", "dog"):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{i}.png")
    prepare(open_source(folder / "pictures"), Pictures(8), folder / "cache")
    return folder


def test_prepared_data_are_read_rightly_or_made_anew(prepared, tmp_path):
    """Two promises: `Dataset` fails in words, and `prepare` makes the right pictures from any damaged cache."""
    chance, source = random.Random(f"{SEED} data"), open_source(prepared / "pictures")
    right = Dataset(prepared / "cache")
    index, rows = json.loads((right.folder / "index.json").read_bytes()), right.manifest
    cache = tmp_path / "cache"
    for number in range(120):
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(right.folder, cache)
        match number % 3:
            case 0:
                what, content = mutant(index, chance)
                (cache / "index.json").write_text(json.dumps(content))
            case 1:
                what, content = mutant(rows, chance)
                lines = "\n".join(map(json.dumps, content)) + "\n"
                (cache / "manifest.jsonl").write_text(lines)
                digest = hashlib.sha256(lines.encode()).hexdigest()
                (cache / "index.json").write_text(json.dumps({**index, "manifest_hash": digest}))
            case _:
                name = chance.choice(("index.json", "manifest.jsonl", "rows.npy"))
                what, data = damaged((cache / name).read_bytes(), chance)
                (cache / name).write_bytes(data)

        tried(what, lambda: use(Dataset(cache)))
        assert tried(what, lambda: use(prepare(source, Pictures(8), cache)))


def use(data: Dataset) -> None:
    """All that a run asks of its data."""
    assert data.describe()
    assert len(data.captions) == len(data) == sum(map(len, data.split(0.5)))
    assert data.labels is None or max(data.labels) < len(data.classes)


# --- arrays ----------------------------------------------------------------------------------------------------------


def written(ending: str, values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    {".npy": np.save, ".npz": np.savez, "packed": np.savez_compressed}[ending](stream, values)
    return stream.getvalue()


@pytest.mark.parametrize("ending", [".npy", ".npz", "packed"])
def test_an_array_file_is_read_or_refused_in_words(ending):
    chance, values = random.Random(f"{SEED} {ending}"), np.arange(600, dtype=np.float32).reshape(20, 30)
    sound, reader, read, count = written(ending, values), NumPyArrays((20, 30), "float32"), 0, 400

    def attempt(data: bytes) -> None:
        try:
            row = reader(data, f"a{ending}")
        except Unusable as error:
            raise UserError(error.reason, error.fix) from None
        assert row.values.shape == values.shape

    for _ in range(count):
        what, data = damaged(sound, chance)
        read += tried(what, lambda data=data: attempt(data))
    assert 0 < read < count


def test_a_stack_of_arrays_is_listed_or_refused_in_words(tmp_path):
    chance, listed, count = random.Random(f"{SEED} stack"), 0, 300
    sound, file = written(".npy", np.arange(1200, dtype=np.float32).reshape(30, 40)), tmp_path / "a.npy"

    def attempt() -> None:
        source = open_source(file)
        for record in source.records[:2]:
            record.open()

    for _ in range(count):
        what, data = damaged(sound, chance)
        file.write_bytes(data)
        listed += tried(what, attempt)
    assert 0 < listed < count
