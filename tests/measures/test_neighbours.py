"""Neighbours are those of the definition, also far from the origin and where there are many."""

import sys

import pytest
import torch

from sfumato.errors import MissingPackage
from sfumato.measures import neighbours as module
from sfumato.measures.neighbours import nearest


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_neighbours_are_those_of_all_distances():
    features, references = normal(1500, 5), normal(400, 5, seed=1)
    found = nearest(features, references, 3)
    distances, indices = torch.cdist(features.double(), references.double()).topk(3, largest=False)
    torch.testing.assert_close(found.distances, distances)
    assert torch.equal(found.indices, indices)


def test_the_distance_of_equal_features_is_zero_far_from_the_origin():
    references = 1000 + normal(200, 64)
    found = nearest(references[50:60], references)
    assert torch.equal(found.indices[:, 0], torch.arange(50, 60)) and not found.distances.any()


def test_of_many_references_every_copy_is_found_and_most_neighbours(monkeypatch):
    references = normal(3000, 8)
    exact = nearest(normal(500, 8, seed=1), references).distances
    monkeypatch.setattr(module, "EXACT", 1000)
    assert torch.equal(nearest(references[:300], references).indices[:, 0], torch.arange(300))
    searched = nearest(normal(500, 8, seed=1), references).distances
    assert (searched >= exact).all() and 0.6 < (searched == exact).double().mean() < 1


def test_what_is_missing_is_named(monkeypatch):
    with pytest.raises(ValueError, match="5 neighbours are asked for among 4"):
        nearest(normal(2, 3), normal(4, 3), 5)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingPackage, match="faiss-cpu"):
        nearest(normal(2, 3), normal(4, 3))
