"""torchvision, which the peers import, also where its operators do not load.

Those of a package index are built for CUDA. Beside a torch for processors, torchvision stops at the first operator that
it misses, and with it `diffusers`, which looks for it. No peer uses one, so it is enough to declare them.
"""

from importlib.util import find_spec

import torch

declared: list[torch.library.Library] = []  # a library takes its operators with it when it goes


def import_torchvision() -> None:
    """Imports torchvision; before the first import of a peer. Without torchvision it does nothing."""
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision  # pyright: ignore[reportMissingImports]
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declared.append(library)
        import torchvision  # noqa: F401 # pyright: ignore[reportMissingImports]
