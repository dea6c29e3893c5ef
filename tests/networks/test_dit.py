"""The diffusion transformer starts as the identity, and its parts agree with their formulas."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sfumato.networks import DiT
from sfumato.networks.dit import Block, grid_positions, modulate

SMALL: dict[str, Any] = {"size": 16, "patch": 4, "width": 32, "depth": 2, "heads": 4}


def inputs(network: DiT, batch: int = 2) -> dict[str, torch.Tensor]:
    return {
        "x": torch.randn(batch, 3, network.sides[0], network.sides[0]),
        "time": torch.rand(batch) * 1000,
        "vector": torch.randn(batch, 7),
        "context": torch.randn(batch, 5, 6),
    }


@pytest.fixture
def network(wake) -> DiT:
    return wake(DiT(**SMALL, vector_dim=7, context_dim=6))


def test_a_new_block_is_the_identity_whatever_the_condition():
    h = torch.randn(2, 9, 32)

    assert torch.equal(Block(32, 4, context_dim=6)(h, torch.randn(2, 32), torch.randn(2, 5, 6), None), h)


def test_a_new_network_returns_zeros():
    network = DiT(**SMALL, vector_dim=7, context_dim=6)

    assert not network(**inputs(network)).any()


def test_a_block_is_the_formula_of_ada_ln(wake):
    block = wake(Block(32, 4, context_dim=0))
    h, c = torch.randn(2, 9, 32), torch.randn(2, 32)
    shift1, scale1, gate1, shift2, scale2, gate2 = (v[:, None] for v in block.modulation(c).chunk(6, dim=1))

    expected = h + gate1 * block.attention(F.layer_norm(h, (32,), eps=1e-6) * (1 + scale1) + shift1)
    expected = expected + gate2 * block.mlp(F.layer_norm(expected, (32,), eps=1e-6) * (1 + scale2) + shift2)

    torch.testing.assert_close(block(h, c, None, None), expected, atol=1e-5, rtol=1e-5)


def test_modulated_tokens_have_the_mean_and_deviation_of_the_modulation():
    shift, scale = torch.tensor(0.7), torch.tensor(1.5)

    h = modulate(torch.randn(2, 9, 512) * 3 + 1, shift, scale)

    torch.testing.assert_close(h.mean(-1), torch.full((2, 9), 0.7), atol=1e-5, rtol=0)
    torch.testing.assert_close(h.std(-1, correction=0), torch.full((2, 9), 2.5), atol=1e-4, rtol=0)


def test_positions_are_the_sinusoids_of_row_and_column():
    side, width = 3, 16
    table = grid_positions((side, side), width)
    rates = [math.exp(-math.log(10000) * k / 3) for k in range(4)]

    for row in range(side):
        for column in range(side):
            expected = [f(p * r) for p in (row, column) for f in (math.sin, math.cos) for r in rates]
            torch.testing.assert_close(table[row * side + column], torch.tensor(expected), atol=1e-6, rtol=0)


def test_without_positions_and_within_patches_the_network_commutes_with_moving_patches(network):
    # What knows of a token's place is the table of positions alone: without it, tokens are a set.
    network.positions.zero_()
    values = inputs(network)
    roll = {"shifts": (network.patch, 2 * network.patch), "dims": (2, 3)}

    moved = network(**values | {"x": values["x"].roll(**roll)})

    torch.testing.assert_close(moved, network(**values).roll(**roll), atol=1e-5, rtol=1e-5)


def test_patches_come_back_where_they_were(network):
    # With no blocks the network acts on each patch alone: a change in one patch is seen in that patch only.
    network.blocks = torch.nn.ModuleList()
    values = inputs(network)
    changed = values["x"].clone()
    changed[:, :, 4:8, 8:12] += 1

    difference = (network(**values | {"x": changed}) - network(**values)).abs().amax(dim=(0, 1))

    assert difference[4:8, 8:12].min() > 0
    difference[4:8, 8:12] = 0
    assert difference.max() < 1e-6


def test_gradients_reach_every_parameter(network):
    network(**inputs(network)).square().sum().backward()

    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_gradients_of_a_new_network_reach_its_head_first():
    network = DiT(**SMALL)

    loss = network(torch.randn(2, 3, 16, 16), torch.rand(2)).sub(1).square().sum()

    assert torch.autograd.grad(loss, network.head.weight)[0].any()


def test_masked_tokens_change_nothing(network):
    values = inputs(network)
    mask = torch.tensor([[True, True, False, False, False], [True, False, True, True, False]])
    other = torch.where(mask[..., None], values["context"], 100 * torch.randn(2, 5, 6))

    out = network(**values, context_mask=mask)

    assert torch.equal(network(**values | {"context": other}, context_mask=mask), out)
    assert not torch.allclose(network(**values), out, atol=1e-3)


def test_time_vector_and_context_all_matter(network):
    values = inputs(network)
    out = network(**values)

    for name in ("time", "vector", "context"):
        changed = network(**values | {name: values[name].flip(0)})
        assert (changed - out).abs().max() > 1e-2, name


def test_learned_variance_doubles_the_channels():
    assert DiT(**SMALL, learned_variance=True)(torch.randn(1, 3, 16, 16), torch.zeros(1)).shape == (1, 6, 16, 16)


def test_positions_are_not_saved_with_the_weights(network):
    assert "positions" not in network.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 17}, "patch = 17: must be 1 to the shortest side"),
        ({"width": 30}, "width = 30: must be a multiple of 4"),
        ({"heads": 5}, "heads = 5: must divide the width 32"),
    ],
)
def test_settings_that_make_no_network_are_refused_with_the_fix(settings, message):
    with pytest.raises(ValueError, match=message):
        DiT(**SMALL | settings)


def test_inputs_that_do_not_fit_are_refused_with_the_fix():
    network, time = DiT(**SMALL), torch.zeros(1)

    with pytest.raises(ValueError, match=r"sides \(16, 32\): this DiT was built with size = \(16, 16\)"):
        network(torch.randn(1, 3, 16, 32), time)
    with pytest.raises(ValueError, match="context_dim = 0"):
        network(torch.randn(1, 3, 16, 16), time, context=torch.randn(1, 2, 6))
    with pytest.raises(ValueError, match="vector_dim = 0"):
        network(torch.randn(1, 3, 16, 16), time, vector=torch.randn(1, 2))
