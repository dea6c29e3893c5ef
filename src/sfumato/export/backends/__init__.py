"""Programs that can evaluate a network instead of PyTorch: each file here is a back end, named after its package.

Each has one function,

    start(graph: bytes, shapes: Mapping[str, Sequence[int]], threads: int) -> Session

which takes an ONNX graph, the shapes of its inputs and the number of threads to use. It returns a function that maps
the inputs, by name, to the prediction. To remove a back end, delete its file.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sfumato.errors import UserError, pip_install, unknown

Session = Callable[[Mapping[str, np.ndarray]], np.ndarray]
Start = Callable[[bytes, Mapping[str, Sequence[int]], int], Session]


def names() -> list[str]:
    """The names of all back ends except PyTorch."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Start:
    """The function ``start`` of a back end.

    Raises:
        UserError: there is no such back end, or a package that it needs is not installed.
    """
    if name not in names():
        raise unknown("back end", name, ["torch", *names()])
    require(f"the back end {name}", "onnx", "onnxscript", name)
    return importlib.import_module(f"{__name__}.{name}").start


def require(purpose: str, *packages: str) -> None:
    """Raise a UserError with the command that installs the missing ones of ``packages``."""
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    if absent:
        raise UserError(f"{purpose} needs what is not installed: {', '.join(absent)}", pip_install(*absent))
