"""A graph computes what PyTorch computes, in every batch, and says what it was made of."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.errors import UserError
from sfumato.export import backends, onnx
from sfumato.networks import DiT, UNet

wake_up = runpy.run_path(str(Path(__file__).parents[1] / "networks" / "conftest.py"))["wake_up"]

SMALL: dict[str, Any] = {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention_level": 1, "groups": 8}
BOTH: dict[str, Any] = {"vector_dim": 16, "context_dim": 24}
NETWORKS = {
    "U-Net with a class": lambda: UNet(3, **SMALL, vector_dim=16, heads=2),
    "U-Net with a text": lambda: UNet(
        3, **SMALL, **BOTH, patch=2, scale_shift=True, vector_map=4, learned_variance=True
    ),
    "DiT with a text": lambda: DiT(3, size=16, width=48, depth=2, heads=3, **BOTH),
}


def inputs_of(name: str, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs; of a context some tokens may be read, and of one picture's none."""
    generator = torch.Generator().manual_seed(seed)
    x, vector = torch.randn(batch, 3, 16, 16, generator=generator), torch.randn(batch, 16, generator=generator)
    inputs = {"x": x, "time": torch.rand(batch, generator=generator) * 1000, "vector": vector}
    if "text" in name:
        mask = torch.rand(batch, 7, generator=generator) < 0.5
        mask[0, 0], mask[-1] = True, batch == 1
        inputs |= {"context": torch.randn(batch, 7, 24, generator=generator), "context_mask": mask}
    return inputs


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request):
    torch.manual_seed(0)
    network = wake_up(NETWORKS[request.param]()).eval()
    return request.param, network, onnx.new_graph(network, inputs_of(request.param, 4), {"of": "a test"})


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_a_graph_computes_what_pytorch_computes(exported, backend, batch):
    name, network, graph = exported
    inputs = inputs_of(name, batch, seed=batch)
    session = backends.find(backend)(graph, {n: tuple(v.shape) for n, v in inputs.items()}, 1)

    with torch.inference_mode():
        wanted = network(**inputs)
    found = torch.from_numpy(session({n: v.numpy() for n, v in inputs.items()}))

    assert wanted.std() > 0.1
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-4


def test_the_check_above_sees_a_condition_that_is_left_out(exported):
    name, network, graph = exported
    inputs = inputs_of(name, 4)
    session = backends.find("onnxruntime")(graph, {n: tuple(v.shape) for n, v in inputs.items()}, 1)
    with torch.inference_mode():
        wanted = network(**{**inputs, "vector": inputs["vector"] * 0})
    found = torch.from_numpy(session({n: v.numpy() for n, v in inputs.items()}))

    assert (found - wanted).abs().max() > 1e-2


def test_normalisations_and_nothing_else_of_ours_are_in_the_words_of_onnx(exported):
    import onnx as package

    name, network, graph = exported
    kinds = [node.op_type for node in package.load_from_string(graph).graph.node]
    norms = sum(type(module).__name__ == "GroupNorm" for module in network.modules())

    assert kinds.count("GroupNormalization") == norms
    assert (norms > 0) == ("U-Net" in name)


def test_a_network_is_left_as_it_was(exported):
    _, network, _ = exported
    assert not any("forward" in vars(module) for module in network.modules())


def test_the_file_says_what_it_was_made_of(tiny, tmp_path):
    import onnx as package

    model = tiny("text")
    file = package.load(onnx.export(model, tmp_path / "network.onnx", size=24))
    told = {entry.key: entry.value for entry in file.metadata_props}

    assert told["weights_sha256"] == model.fingerprint and told["model"] == "tiny-text"
    assert json.loads(told["diffusion"])["schedule"] == "flow"
    assert json.loads(told["inputs"]) == {
        "x": ["float32", "batch", 3, 24, 24],
        "time": ["float32", "batch"],
        "vector": ["float32", "batch", 32],
        "context": ["float32", "batch", 8, 32],
        "context_mask": ["bool", "batch", 8],
    }
    assert [entry.name for entry in file.graph.input] == list(json.loads(told["inputs"]))
    assert [entry.name for entry in file.graph.output] == ["prediction"]


def test_a_size_that_the_model_does_not_draw_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="size"):
        onnx.export(tiny("none"), tmp_path / "network.onnx", size=(16, 16, 16))


def test_weights_that_fit_into_no_file_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(onnx, "LARGEST", 1000)
    with pytest.raises(UserError, match="less than 1,000"):
        onnx.new_graph(tiny("none").denoiser.network, {}, {})


def test_a_missing_exporter_is_told_with_the_command(tiny, tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="onnx, onnxscript") as caught:
        onnx.export(tiny("none"), tmp_path / "network.onnx")
    assert "pip" in caught.value.fix and caught.value.fix.endswith("install onnx onnxscript")
