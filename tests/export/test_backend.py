"""Drawing with a back end: the same pictures to the eye, its name in the recipe, its graph from the cache."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.cli import generate as cli
from sfumato.errors import UserError
from sfumato.export import backends, onnx
from sfumato.export.backend import use_backend
from sfumato.generation import draw as drawing
from sfumato.generation.draw import draw, redraw
from sfumato.generation.recipe import read_recipe
from sfumato.model import Model
from sfumato.request import Request

ALL = ["onnxruntime", "openvino"]
ASKED = Request(("a cat", "a red apple"), n=3, seed=8, settings={"steps": 2, "guidance": 2})


@pytest.fixture
def model(tiny) -> Model:
    return tiny("text")


def levels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_pictures_are_those_of_pytorch_to_two_levels(model, name):
    wanted = levels(d.picture for d in draw(model, ASKED))
    found = levels(d.picture for d in draw(use_backend(model, name), ASKED))

    assert wanted.std() > 10
    assert abs(found - wanted).max() <= 2


def test_back_to_pytorch_the_bits_are_the_same_again(model):
    network, parameters, fingerprint = model.denoiser.network, list(model.parameters()), model.fingerprint
    before = [d.picture.tobytes() for d in draw(model, ASKED)]

    use_backend(use_backend(model, "onnxruntime"), "openvino")
    assert list(model.parameters()) == parameters and model.fingerprint == fingerprint

    use_backend(model, "torch")
    assert model.denoiser.network is network and model.backend == "torch"
    assert [d.picture.tobytes() for d in draw(model, ASKED)] == before


def test_a_model_with_a_backend_is_saved_as_without(model, tmp_path):
    model.save(tmp_path / "without")
    use_backend(model, "onnxruntime").save(tmp_path / "with")

    for file in ("weights.safetensors", "model.json"):
        assert (tmp_path / "with" / file).read_bytes() == (tmp_path / "without" / file).read_bytes()


def test_another_size_and_number_of_threads_have_sessions_of_their_own(made, model, monkeypatch):
    asked = []

    def start(graph, shapes, threads):
        asked.append((shapes["x"], threads))
        return lambda inputs: inputs["x"]

    monkeypatch.setattr(backends, "find", lambda name: start)
    threads = torch.get_num_threads()
    network = use_backend(model, "onnxruntime").denoiser.network
    inputs = {n: v for n, v in onnx.inputs_of(model).items() if n != "x"}
    with torch.no_grad():
        for side in (16, 16, 24):
            network(torch.zeros(4, 3, side, side), **inputs)
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
        network(torch.zeros(4, 3, 16, 16), **inputs)

    assert asked == [((4, 3, 16, 16), threads), ((4, 3, 24, 24), threads), ((4, 3, 16, 16), threads + 1)]


def test_a_gradient_is_refused(model):
    network = use_backend(model, "onnxruntime").denoiser.network
    inputs = onnx.inputs_of(model)
    with pytest.raises(RuntimeError, match="requires grad"):
        network(**{**inputs, "x": inputs["x"].requires_grad_()})


def test_reusing_deep_features_is_for_pytorch(model):
    with pytest.raises(UserError, match="reuse"):
        use_backend(model, "onnxruntime").check(Request(("a cat",), settings={"reuse": 2}))


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_picture_says_what_drew_it_and_is_drawn_again_byte_for_byte(model, name, tmp_path):
    model.save(tmp_path / "model")
    original = next(draw(use_backend(Model.load(tmp_path / "model"), name), ASKED))
    (tmp_path / "a.png").write_bytes(original.png())
    recipe = read_recipe(tmp_path / "a.png")

    assert original.recipe["backend"] == recipe["backend"] == {"name": name, "version": metadata.version(name)}
    assert redraw(use_backend(Model.load(tmp_path / "model"), name), recipe).png() == original.png()


def test_a_picture_of_pytorch_says_nothing_of_backends(model, tmp_path):
    drawn = next(draw(model, ASKED))
    (tmp_path / "a.png").write_bytes(drawn.png())
    assert "backend" not in drawn.recipe and "backend" not in read_recipe(tmp_path / "a.png")


def test_another_backend_than_the_recipe_s_is_refused(model):
    of_torch = next(draw(model, ASKED)).recipe
    with pytest.raises(UserError, match="drawn with torch, but this model uses openvino") as caught:
        redraw(use_backend(model, "openvino"), of_torch)
    assert 'use_backend(model, "torch")' in caught.value.fix


def test_on_the_command_line(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drawing, "open_model", lambda name=None, say=None: model)
    monkeypatch.chdir(tmp_path)
    assert cli.generate("a cat", seed=5, steps=2, backend="openvino") == 0
    picture = tmp_path / "pictures" / "a-cat-5.png"
    assert read_recipe(picture)["backend"]["name"] == "openvino"

    assert cli.rerun(picture) == 0
    assert "the same, byte for byte" in capsys.readouterr().out


# --- the graph -------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(model, monkeypatch, cache):
    """Graphs are made by a stand-in, in an empty cache; how many were made."""
    count = []

    def graph(network, inputs, facts):
        count.append(len(count))
        return b"graph %d" % len(count)

    monkeypatch.setattr(onnx, "new_graph", graph)
    monkeypatch.setattr(backends, "find", lambda name: lambda graph, shapes, threads: lambda inputs: inputs["x"])
    cache.empty()
    return count


def ask(model: Model, backend: str = "onnxruntime", changes: Mapping[str, Any] | None = None) -> None:
    network = use_backend(model, backend).denoiser.network
    with torch.inference_mode():
        network(**{**onnx.inputs_of(model), **(changes or {})})


def test_a_graph_is_made_once_for_all_backends_and_batches(made, model):
    ask(model)
    ask(model, "openvino")
    ask(model, changes={name: torch.cat([value, value]) for name, value in onnx.inputs_of(model).items()})
    assert len(made) == 1


def test_a_graph_of_other_weights_settings_sizes_or_code_is_not_used(made, model, monkeypatch):
    ask(model)
    with torch.no_grad():
        next(onnx.network_of(model).parameters()).view(-1)[0] += 1e-3
    ask(model)
    ask(model, changes={"x": torch.zeros(4, 3, 24, 24)})
    ask(model, changes={"context_mask": None})
    model.config = model.config.model_copy(update={"network": model.config.network.model_copy(update={"heads": 2})})
    ask(model)
    monkeypatch.setattr(torch, "__version__", "3.0")
    ask(model)
    assert len(made) == 6


def test_the_user_is_told_when_a_graph_is_made_and_only_then(made, model):
    told = []
    for _ in range(2):
        network = use_backend(model, "onnxruntime", told.append).denoiser.network
        with torch.inference_mode():
            network(**onnx.inputs_of(model))
    assert told == ["making the graph of this model, once"]


# --- which there are -------------------------------------------------------------------------------------------------


def test_an_unknown_backend_is_told_with_those_there_are(model):
    with pytest.raises(UserError, match="no back end 'openvin': did you mean 'openvino'") as caught:
        use_backend(model, "openvin")
    assert "onnxruntime, openvino, torch" in caught.value.fix


def test_a_backend_is_taken_away_by_deleting_its_file(model, tmp_path, monkeypatch):
    shutil.copytree(Path(backends.__file__).parent, tmp_path / "backends")
    (tmp_path / "backends" / "openvino.py").unlink()
    monkeypatch.setattr(backends, "__path__", [str(tmp_path / "backends")])

    assert backends.names() == ["onnxruntime"]
    with pytest.raises(UserError, match="no back end 'openvino'"):
        use_backend(model, "openvino")


@pytest.mark.parametrize("name", ALL)
def test_a_missing_package_is_told_with_the_command(model, name, monkeypatch):
    for package in ("onnxscript", name):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"back end {name} needs what is not installed: onnxscript, {name}") as caught:
        use_backend(model, name)
    assert caught.value.fix.endswith(f"install onnxscript {name}")


def test_a_model_that_is_not_on_the_cpu_is_refused(model, monkeypatch):
    monkeypatch.setattr(Model, "device", torch.device("cuda"))
    with pytest.raises(UserError, match="works on the CPU, and this model is on cuda"):
        use_backend(model, "openvino")


# --- nothing is sent -------------------------------------------------------------------------------------------------

ANY_GRAPH = """
import onnx, sys
from onnx import TensorProto, helper
node = helper.make_node("Identity", ["x"], ["y"])
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
graph = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 21)])
graph.ir_version = 10
from sfumato.export import backends
import numpy as np
session = backends.find(sys.argv[1])(graph.SerializeToString(), {"x": (1,)}, 1)
assert session({"x": np.ones(1, np.float32)})[0] == 1
"""


@pytest.mark.parametrize("name", ALL)
def test_a_backend_reports_to_nobody(name, tmp_path, monkeypatch):
    """OpenVINO's reporter is not loaded where there is one; ONNX Runtime's leaves no traces of itself in the home."""
    reporter = "from pathlib import Path\nPath(__file__).with_name('sent').touch()"
    (tmp_path / "openvino_telemetry.py").write_text(reporter)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(variable, raising=False)
    subprocess.run([sys.executable, "-c", ANY_GRAPH, name], check=True, capture_output=True, text=True)

    left = {file.relative_to(tmp_path).parts[0] for file in tmp_path.rglob("*")} - {"__pycache__"}
    assert left == {"openvino_telemetry.py"}
