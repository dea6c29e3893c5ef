"""The folder of a model against damage, mix-ups and harm. Every attack would create a file if it ran."""

import hashlib
import io
import json
import pickle
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from sfumato import saved
from sfumato.errors import UserError
from sfumato.model import Model

SEED = 20240607  # of the places of faults


@pytest.fixture(scope="module")
def original(tiny, tmp_path_factory) -> Path:
    model = tiny("text")
    model.record = {"steps": 3, "environment": {"torch": "2.x"}}
    return model.save(tmp_path_factory.mktemp("saved") / "model", {"README.md": b"# A card\n\nwith words.\n"})


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file by ``data`` and correct all hashes, as a person with bad intent would."""
    (folder / name).write_bytes(data)
    rewrite(folder, lambda d: d["sha256"].update({name: hashlib.sha256(data).hexdigest()}))


def rewrite(folder: Path, change) -> None:
    """Change model.json and make its own hash right again."""
    description = json.loads((folder / "model.json").read_bytes())
    change(description)
    if isinstance(description.get("sha256"), dict):
        description["sha256"]["model.json"] = saved.own_hash(description)
    (folder / "model.json").write_text(json.dumps(description))


# --- damage ----------------------------------------------------------------------------------------------------------


def test_the_folder_is_whole_before_any_fault(folder):
    assert Model.load(folder).record["steps"] == 3


@pytest.mark.parametrize("name", ["weights.safetensors", "tokenizer.json", "README.md", "model.json"])
def test_one_flipped_bit_in_any_file_is_noticed_and_the_file_named(original, tmp_path, name):
    folder = shutil.copytree(original, tmp_path / "model")
    data, chance, injected = (folder / name).read_bytes(), random.Random(f"{SEED} {name}"), 0
    places = range(8 * len(data)) if len(data) < 30 else chance.sample(range(8 * len(data)), 60)
    for place in places:
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            saved.read(folder)
        assert name in caught.value.message, f"{SEED=} {place=}"
        injected += 1
    assert injected > 0
    (folder / name).write_bytes(data)
    saved.read(folder)  # the faults were all that was wrong


def test_it_is_the_hash_and_nothing_else_that_notices_a_flipped_bit(folder):
    """The negative control: the same fault with the hashes put right loads."""
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-4] ^= 1  # the lowest bit of the last number
    forge(folder, "weights.safetensors", bytes(data))
    Model.load(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "tokenizer.json", "README.md", "model.json"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_a_cut_file_is_noticed_and_named(folder, name, keep):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        Model.load(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "tokenizer.json", "README.md", "model.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}.* is missing"):
        Model.load(folder)


def test_an_absent_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="no model there"):
        Model.load(tmp_path / "nothing")


# --- weights of another network --------------------------------------------------------------------------------------


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda w: w.pop("network.stem.bias"), "network.stem.bias is missing"),
        (lambda w: w.update(extra=torch.ones(3)), "extra is unknown"),
        (
            lambda w: w.update({"network.stem.bias": torch.ones(31)}),
            "network.stem.bias has shape (31,) and not (32,)",
        ),
        (
            lambda w: w.update({"network.stem.bias": torch.ones(32, 1)}),
            "network.stem.bias has shape (32, 1) and not (32,)",
        ),
        (lambda w: w.update({"network.stem.bias": torch.ones(32, dtype=torch.int64)}), "network.stem.bias holds"),
        (lambda w: w.update({"network.stem.bias": torch.full((32,), torch.nan)}), "network.stem.bias holds"),
        (lambda w: w["network.stem.bias"].__setitem__(3, torch.inf), "network.stem.bias holds"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, part):
    weights = weights_of(folder)
    change(weights)
    if "holds" not in part:
        weights["padding of the count"] = torch.zeros(64)  # so that it is the names and shapes that are noticed
    forge(folder, "weights.safetensors", save(weights))
    with pytest.raises(UserError) as caught:
        Model.load(folder)
    assert part in caught.value.message
    assert "weights.safetensors" in caught.value.message


# --- a description that is not ours ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"model"',
        b"12",
        b"\xff\xfe{}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "config": [], "classes": [], "record": {}, "sha256": {}}',
        b'{"format": 1, "config": {}, "classes": [1], "record": {}, "sha256": {}}',
        b'{"format": 1, "config": {}, "classes": [], "record": {}, "sha256": {"weights.safetensors": 5}}',
        b'{"format": 1, "config": {}, "classes": [], "record": {}, "sha256": {}}',
    ],
)
def test_a_malformed_description_is_refused_by_name(folder, content):
    (folder / "model.json").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.json") as caught:
        Model.load(folder)
    assert caught.value.fix


def test_an_oversized_description_is_refused_before_it_is_read(folder):
    with (folder / "model.json").open("r+b") as file:
        file.truncate(saved.LARGEST_JSON + 1)
    with pytest.raises(UserError, match="more than the limit of 8,388,608"):
        Model.load(folder)


@pytest.mark.parametrize("number", [0, 2, "1", None, [1], 1e400])
def test_a_foreign_format_is_refused_with_its_number(folder, number):
    rewrite(folder, lambda d: d.update(format=number))
    with pytest.raises(UserError, match="reads format 1") as caught:
        Model.load(folder)
    assert repr(number) in caught.value.message


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        (("network", "kind"), "unett", ["network.kind = 'unett'", "'unet'"]),
        (("network", "kind"), "os.system", ["network.kind = 'os.system'"]),
        (("diffusion", "schedule"), "cosin", ["diffusion.schedule = 'cosin'", "'cosine'"]),
        (("diffusion", "parameterization"), "karas", ["diffusion.parameterization = 'karas'", "'karras'"]),
        (("sampling", "solver"), "dimm", ["sampling.solver = 'dimm'", "'ddim'"]),
        (("conditions", "text"), {"kind": "txt"}, ["conditions.text.kind = 'txt'", "'text'"]),
        (("conditions", "no name"), {"kind": "text"}, ["conditions: 'no name' cannot be a name"]),
        (("network", "channels"), 10**12, ["network.channels"]),
        (("network", "depht"), 3, ["network.depht"]),
        (("data", "size"), 0, ["size"]),
    ],
)
def test_names_and_numbers_are_checked_against_the_closed_registry(folder, path, value, parts):
    group, field = path
    rewrite(folder, lambda d: d["config"][group].update({field: value}))
    with pytest.raises(UserError) as caught:
        Model.load(folder)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "unet", "channels": 2048, "multipliers": [16, 16, 16], "groups": 1, "attention_level": None},
        {"kind": "dit", "patch": 4, "width": 8192, "depth": 128, "heads": 128},
    ],
)
def test_a_small_file_cannot_ask_for_a_huge_network(folder, network):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rewrite(folder, lambda d: d["config"].update(network=network))
    with pytest.raises(UserError, match="more weights than this file holds"):
        Model.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB, as reliability.md says


def test_a_text_model_without_its_tokenizer_is_refused(folder):
    rewrite(folder, lambda d: d["sha256"].pop("tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        Model.load(folder)


# --- names that lead out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/hostname",
        "sub/file",
        "..",
        ".",
        "",
        "a\0b",
        "..\\secret",
        "C:secret",
        "sub/../../secret",
        "9" * 300,
        "\ud800" * 100,
    ],
)
def test_a_file_name_that_leads_out_of_the_folder_is_refused(folder, name):
    (folder.parent / "secret").write_bytes(b"secret")
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    rewrite(folder, lambda d: d["sha256"].update({name: digest}))
    with pytest.raises(UserError, match="which is no file of this folder"):
        Model.load(folder)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "model.json", "sub/x", ".."])
def test_a_file_cannot_be_saved_outside_the_folder(tiny, tmp_path, name):
    with pytest.raises(ValueError, match="plain name"):
        tiny().save(tmp_path / "model", {name: b"x"})
    assert not (tmp_path / "model").exists()


def test_an_attachment_cannot_take_the_place_of_the_weights(tiny, tmp_path):
    model = tiny()
    folder = model.save(tmp_path / "model", {"weights.safetensors": b"not these"})
    assert torch.equal(weights_of(folder)["network.stem.bias"], model.parameters()["network.stem.bias"])


# --- pickles ---------------------------------------------------------------------------------------------------------


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def attacks(marker: Path, genuine: bytes) -> dict[str, bytes]:
    """Files that run ``Attack`` in a careless reader, by how they are dressed."""
    bare = {f"pickle of protocol {p}": pickle.dumps(Attack(marker), protocol=p) for p in range(6)}

    zipped = io.BytesIO()
    torch.save({"attack": Attack(marker), "weight": torch.ones(2)}, zipped)
    legacy = io.BytesIO()
    torch.save({"attack": Attack(marker), "weight": torch.ones(2)}, legacy, _use_new_zipfile_serialization=False)

    polyglot = io.BytesIO(genuine)  # whole safetensors in front, whole zip at the end, where zips are read from
    polyglot.seek(0, io.SEEK_END)
    with zipfile.ZipFile(polyglot, "a") as archive, zipfile.ZipFile(zipped) as inner:
        for name in inner.namelist():
            archive.writestr(name, inner.read(name))
    return {
        **bare,
        "torch.save": zipped.getvalue(),
        "torch.save, legacy": legacy.getvalue(),
        "safetensors and zip at once": polyglot.getvalue(),
        "pickle in front of safetensors": pickle.dumps(Attack(marker)) + genuine,
        "pickle behind safetensors": genuine + pickle.dumps(Attack(marker)),
    }


NAMES = list(attacks(Path("/nowhere"), save({"w": torch.ones(1)})))


@pytest.mark.parametrize("dress", NAMES)
def test_a_pickle_in_any_dress_is_refused_and_never_runs(folder, tmp_path, dress):
    marker = tmp_path / "it ran"
    genuine = (folder / "weights.safetensors").read_bytes()
    forge(folder, "weights.safetensors", attacks(marker, genuine)[dress])
    with pytest.raises(UserError, match=r"not a safetensors file.*never loaded"):
        Model.load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("dress", ["pickle of protocol 4", "torch.save", "safetensors and zip at once"])
def test_the_attack_would_run_in_a_careless_reader(tmp_path, dress):
    """The negative control: readers without a guard run what the test above refuses."""
    marker = tmp_path / "it ran"
    file = io.BytesIO(attacks(marker, save({"w": torch.ones(1)}))[dress])
    if dress.startswith("pickle"):
        pickle.load(file)
    elif dress == "torch.save":
        torch.load(file, weights_only=False)
    else:  # a reader that looks for the zip at the end
        with zipfile.ZipFile(file) as archive, pytest.raises(pickle.UnpicklingError, match="persistent"):
            pickle.loads(archive.read("archive/data.pkl"))  # the attack comes before the tensor that stops it
    assert marker.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "model.json", "README.md"])
def test_a_pickle_under_another_name_never_runs(folder, tmp_path, name):
    marker = tmp_path / "it ran"
    data = pickle.dumps(Attack(marker))
    if name == "model.json":
        (folder / name).write_bytes(data)
    else:
        forge(folder, name, data)
    if name == "README.md":
        Model.load(folder)  # a card is carried, and never read
    else:
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            Model.load(folder)
    assert not marker.exists()


def test_only_what_is_named_is_read(folder, tmp_path):
    marker = tmp_path / "it ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(marker)))
    Model.load(folder)
    assert not marker.exists()


# --- broken safetensors ----------------------------------------------------------------------------------------------


def header(text: bytes, body: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        header(b""),
        header(b"{}", b"left over"),
        header(b"not json"),
        (2**63).to_bytes(8, "little") + b"{}",
        header(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}}', b"\0" * 4),
        header(b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"\0" * 4),
        header(b'{"w":{"dtype":"PY","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
        header(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,99]}}', b"\0" * 4),
        header(b'{"w":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}', b"\0" * 4),
    ],
)
def test_broken_safetensors_are_refused(folder, data):
    forge(folder, "weights.safetensors", data)
    with pytest.raises(UserError, match=r"weights\.safetensors"):
        Model.load(folder)


def test_a_disk_that_cannot_be_written_is_told_in_words(tiny, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="the model cannot be written"):
        tiny().save(tmp_path / "file")


def test_the_file_of_weights_is_plain_safetensors(folder, tmp_path):
    weights = weights_of(folder)
    save_file(weights, tmp_path / "again.safetensors")
    assert weights.keys() == Model.load(folder).parameters().keys()


def test_a_run_is_found_by_its_name_beside_the_folder_of_data_with_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines").mkdir()
    (tmp_path / "runs" / "lines" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "lines" / "model" / "model.json").write_text("{}")
    assert saved.model_folder("lines") == Path("runs/lines/model")
    (tmp_path / "lines" / "model.json").write_text("{}")
    assert saved.model_folder("lines") == Path("lines")
