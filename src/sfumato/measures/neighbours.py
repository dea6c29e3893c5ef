"""The nearest of many references, by faiss (Douze et al. 2024, arXiv:2401.08281): exact up to `EXACT` references.

Above that, the references are cut into cells around about 4 sqrt(M) centres, and a sixteenth of the cells is searched.
The search may miss a neighbour in another cell, so a distance is never too small; a copy lies in the cell of its
original.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import MissingPackage

EXACT = 100_000  # references
CELLS_SEARCHED = 1 / 16
PART = 1024  # features at once


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest references of each feature, from near to far.

    Attributes:
        distances: (N, k) Euclidean, float64.
        indices: (N, k) int64, of the references.
    """

    distances: Tensor
    indices: Tensor


def nearest(features: Tensor, references: Tensor, k: int = 1) -> Neighbours:
    """The k nearest of the references (M, D) of each of the features (N, D).

    Raises:
        MissingPackage: faiss, of the extra `eval`, is not installed.
        ValueError: fewer references than k.
    """
    try:
        import faiss
    except ImportError:
        raise MissingPackage("faiss-cpu", "searching neighbours") from None
    if len(references) < k:
        raise ValueError(f"{k} neighbours are asked for among {len(references)} references")

    features, references = features.float().cpu(), references.float().cpu()
    centre = references.mean(0)  # faiss computes |a|^2 - 2 ab + |b|^2, which loses digits far from 0
    among = (references - centre).contiguous().numpy()
    index = faiss.IndexFlatL2(among.shape[1])
    if len(references) > EXACT:
        cells = int(4 * len(references) ** 0.5)
        index = faiss.IndexIVFFlat(index, among.shape[1], cells)
        index.nprobe = int(cells * CELLS_SEARCHED)
        index.train(among)  # pyright: ignore[reportCallIssue]
    index.add(among)  # pyright: ignore[reportCallIssue]

    found = []
    for part in features.split(PART):
        _, indices = index.search((part - centre).contiguous().numpy(), k)  # pyright: ignore[reportCallIssue]
        indices = torch.from_numpy(indices)
        # computed again, from the differences, so that equal features have the distance 0
        distances = (part.double()[:, None] - references[indices].double()).norm(dim=2)
        order = distances.argsort(dim=1, stable=True)
        found.append((distances.gather(1, order), indices.gather(1, order)))
    return Neighbours(*(torch.cat(column) for column in zip(*found, strict=True)))
