"""Back ends: another program evaluates the network of a model instead of PyTorch.

    model = use_backend(open_model("emoji"), "openvino")
    model.generate("a red heart", seed=7)

Weights, sampling and everything else stay as they are. The network's results agree with PyTorch's to about six digits,
so pictures are the same to the eye and not to the bit.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sfumato.errors import UserError
from sfumato.export import backends, onnx
from sfumato.export.backends import Session, Start
from sfumato.export.onnx import Say
from sfumato.model import Model


def use_backend(model: Model, name: str, say: Say = lambda text: None) -> Model:
    """Let another program evaluate the network of ``model`` from now on; "torch" goes back to PyTorch.

    Args:
        model: a model on the CPU; it is changed.
        name: a file of `sfumato.export.backends`, or "torch".
        say: called if a graph has to be made, which takes seconds.

    Returns:
        The model.

    Raises:
        UserError: no such back end, a missing package, or a model that is not on the CPU.
    """
    network = onnx.network_of(model)
    if name != "torch":
        if model.device.type != "cpu":
            raise UserError(
                f"backend: {name} works on the CPU, and this model is on {model.device.type}",
                fix='leave it to PyTorch, or move it: model.to("cpu")',
            )
        if model.config.network.kind == "own":
            raise UserError(
                f"backend: {name} evaluates the networks of this package, and this one is your own",
                fix="leave it to PyTorch",
            )
        network = Elsewhere(network, backends.find(name), onnx.facts_of(model), say)
    model.denoiser.network, model.backend = network, name
    return model


class Elsewhere(nn.Module):
    """A network that another program evaluates, only for inference, with the weights of ``network``.

    Args:
        network: a network of `sfumato.networks`.
        start: the function ``start`` of a back end.
        facts: facts of the model, see `sfumato.export.onnx.graph`.
        say: called if a graph has to be made.
    """

    def __init__(self, network: nn.Module, start: Start, facts: Mapping[str, str], say: Say) -> None:
        super().__init__()
        self.network, self.start, self.facts, self.say = network, start, facts, say
        self.sessions: dict[object, Session] = {}

    def named_parameters(self, *arguments, **options):  # so that they keep their names in the model's file
        return self.network.named_parameters(*arguments, **options)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        vector: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the network, with the shapes of its own ``forward``."""
        given = {"x": x, "time": time, "vector": vector, "context": context, "context_mask": context_mask}
        inputs = {name: value for name, value in given.items() if value is not None}
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        threads = torch.get_num_threads()

        key = (threads, *shapes.items())
        if key not in self.sessions:
            graph = onnx.graph(self.network, inputs, self.facts, self.say)
            self.sessions[key] = self.start(graph, shapes, threads)

        return torch.from_numpy(self.sessions[key]({name: v.contiguous().numpy() for name, v in inputs.items()}))
