"""OpenVINO, on the CPU.

By default it would compute in bfloat16 if the processor can, so the precision is set. The shapes are fixed as well:
with a free batch it was measured a fifth slower. Its own cache of compiled graphs is not used: it saves a tenth of a
second, and was seen to load a damaged file without a word.

Its package comes with another that reports every import over the network, unasked; that one is kept from loading.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from sfumato.export.backends import Session


def start(graph: bytes, shapes: Mapping[str, Sequence[int]], threads: int, precision: str = "f32") -> Session:
    """A session for these shapes; see `sfumato.export.backends`.

    Args:
        precision: "f32", or "bf16" for half the digits and about twice the speed if the processor has bfloat16.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape({name: list(shape) for name, shape in shapes.items()})
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # others may use the machine, too
    }
    compiled = core.compile_model(model, "CPU", settings)

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        # a request a call, so that several threads may call
        return compiled.create_infer_request().infer(dict(inputs))[0]

    return run
