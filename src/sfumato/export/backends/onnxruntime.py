"""ONNX Runtime, on the CPU.

Its package reports sessions to its makers over the network unless the environment tells it not to, before it is loaded.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from sfumato.export.backends import Session


def start(graph: bytes, shapes: Mapping[str, Sequence[int]], threads: int) -> Session:
    """A session that takes any batch; see `sfumato.export.backends`."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(session.run(None, dict(inputs))[0])

    return run
