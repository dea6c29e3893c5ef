"""A network as an ONNX graph, which other programs evaluate.

``torch.export`` traces the graph, and no network knows of it. A copy of the network uses ONNX's own operators in two
places. A group normalisation becomes GroupNormalization instead of the ten sums and products here, which halves the
graph and the waiting. A query whose keys are all masked reads zeros, as in PyTorch; the exporter's own translation
would give it the mean of the masked values.

The batch size is free; the sides of the pictures and the length of a context are fixed. Making a graph takes seconds,
so it is kept (see `sfumato.export.cache`).
"""

import copy
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sfumato
from sfumato import networks
from sfumato.durable import write_atomically
from sfumato.errors import UserError
from sfumato.export.backends import require
from sfumato.export.cache import kept
from sfumato.model import Model
from sfumato.networks.group_norm import GroupNorm, over_positions
from sfumato.request import Request, Size

OPSET = 21  # the first whose GroupNormalization has one weight for each channel
LARGEST = 2**31  # bytes of a file of protocol buffers
EXPORTER = "torch.onnx._internal.exporter"

Say = Callable[[str], None]


def export(model: Model, path: str | Path, size: Size = None) -> Path:
    """Write the network of a model to an ONNX file.

    The network is not yet the denoiser: `sfumato.diffusion.denoisers` says what it is given for the noise and what it
    predicts. The file's metadata hold the settings of both.

    Args:
        model: any model.
        path: the file to write.
        size: one side for all, or (width, height); the model's own by default.

    Raises:
        UserError: a package is missing, or the model does not draw this size, or is too large for a file.
    """
    require("exporting to ONNX", "onnx", "onnxscript")
    model.check(Request((None,), size=size))
    write_atomically(Path(path), graph(network_of(model), inputs_of(model, size), facts_of(model)))
    return Path(path)


def network_of(model: Model) -> nn.Module:
    """PyTorch's network, even if a back end evaluates it."""
    return getattr(model.denoiser.network, "network", model.denoiser.network)


def facts_of(model: Model) -> dict[str, str]:
    """The facts about a model that its graph holds."""
    return {
        "sfumato": sfumato.__version__,
        "model": model.config.name,
        "weights_sha256": model.fingerprint,
        "network": model.config.network.model_dump_json(),
        "diffusion": model.config.diffusion.model_dump_json(),
    }


@torch.no_grad()
def inputs_of(model: Model, size: Size = None) -> dict[str, Tensor]:
    """Inputs of the network, by name, as sampling without a prompt gives them."""
    channels, *sides = model.codec.sized(size)
    condition = model.conditioner([{}] * model.lanes, sides)
    condition.pop("planes", None)  # planes are a part of the network's x
    x = torch.zeros(model.lanes, channels + model.conditioner.planes, *sides)
    return {"x": x, "time": torch.zeros(model.lanes), **condition}


def graph(
    network: nn.Module, inputs: Mapping[str, Tensor], facts: Mapping[str, str], say: Say = lambda text: None
) -> bytes:
    """The content of an ONNX file, made or found in the cache.

    Args:
        network: called with ``inputs`` as its keywords.
        inputs: tensors by name; the graph has their sizes, except for the first, the batch.
        facts: metadata, including the settings of the network; the inputs with their types and sizes are added.
        say: called if the graph has to be made.

    Raises:
        UserError: the weights do not fit into a file, or the cache cannot be written.
    """

    def make() -> bytes:
        say("making the graph of this model, once")
        return new_graph(network, inputs, facts)

    return kept(identity(network, inputs, facts), make)


def identity(network: nn.Module, inputs: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """A hash of everything that a graph depends on: weights, settings, inputs, the code of networks, the exporter."""
    import onnxscript

    files = [*sorted(Path(networks.__file__).parent.glob("*.py")), Path(__file__)]
    sources = [file.read_text(encoding="utf-8") for file in files]
    sizes = {name: (str(value.dtype), tuple(value.shape[1:])) for name, value in inputs.items()}
    parts = [dict(facts), sizes, sources, torch.__version__, onnxscript.__version__]

    digest = hashlib.sha256(json.dumps(parts).encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def new_graph(network: nn.Module, inputs: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    """The result of `graph`, made anew."""
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    if weights >= LARGEST:
        raise UserError(
            f"the network has {weights:,} bytes of weights, and an ONNX file holds less than {LARGEST:,}",
            fix="leave this model to PyTorch",
        )
    with quiet(), torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            in_words_of_onnx(network),
            kwargs={name: torch.zeros(2, *v.shape[1:], dtype=v.dtype) for name, v in inputs.items()},
            dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in inputs},
            input_names=list(inputs),
            output_names=["prediction"],
            opset_version=OPSET,
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: masked_attention()},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    sizes = {name: [str(v.dtype).removeprefix("torch."), "batch", *v.shape[1:]] for name, v in inputs.items()}
    program.model.metadata_props.update({**facts, "inputs": json.dumps(sizes)})
    return program.model_proto.SerializeToString()


def in_words_of_onnx(network: nn.Module) -> nn.Module:
    """A copy of a network whose group normalisations are PyTorch's operator, which ONNX has as well."""
    network = copy.deepcopy(network).cpu().eval()
    for module in network.modules():
        if isinstance(module, GroupNorm):
            module.forward = partial(group_norm, module)
    return network


def group_norm(norm: GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """What ``norm`` computes of x (B, C, *spatial), and scale and shift (B, C)."""
    y = F.group_norm(x, norm.groups, norm.weight, norm.bias, norm.eps)
    if scale is not None and shift is not None:
        y = y * over_positions(1 + scale, x) + over_positions(shift, x)
    return F.silu(y) if norm.silu else y


def masked_attention() -> Callable[..., Any]:
    """softmax(q k^T / sqrt(D)) v of ONNX values q (B, H, N, D), k and v (B, H, L, D), where the mask is True."""
    from onnxscript import opset21

    op: Any = opset21  # its own types do not know of plain numbers

    def attention(q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0, is_causal: bool = False) -> Any:
        scores = op.MatMul(op.Mul(q, float(q.shape[-1]) ** -0.5), op.Transpose(k, perm=[0, 1, 3, 2]))
        if attn_mask is None:
            return op.MatMul(op.Softmax(scores, axis=-1), v)
        weights = op.Softmax(op.Where(attn_mask, scores, op.CastLike(-1e30, scores)), axis=-1)
        return op.MatMul(op.Where(attn_mask, weights, op.CastLike(0.0, scores)), v)

    return attention


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporter's remarks about itself."""
    logger = logging.getLogger(EXPORTER)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
