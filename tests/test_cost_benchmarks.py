"""Muon against AdamW, patches against pixels: the computations of the scripts on a small scale."""

import json
import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sfumato.networks import UNet
from sfumato.training.optimizers import Optimizer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> Any:
    """A script's module; the scripts import each other by name, as they do when they are run."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))
    return import_module(name)


@pytest.fixture
def optimizers() -> Any:
    return script("optimizers")


@pytest.fixture
def patch_stem() -> Any:
    return script("patch_stem")


# --- time to quality -------------------------------------------------------------------------------------------------


def test_the_time_to_a_target_is_on_the_line_between_two_looks(optimizers):
    seconds, losses = [10.0, 20.0, 30.0], [5.0, 3.0, 4.0]
    assert optimizers.time_to(4.0, seconds, losses) == 15
    assert optimizers.time_to(3.0, seconds, losses) == 20
    assert optimizers.time_to(6.0, seconds, losses) == 10, "reached before the first look"
    assert optimizers.time_to(2.9, seconds, losses) == math.inf


def test_targets_are_what_adamw_has_come_to_after_shares_of_its_looks(optimizers):
    runs = [{"loss": [8.0, 4.0, 2.0, 1.0]}, {"loss": [6.0, 4.0, 2.0, 3.0]}]
    assert [optimizers.reached(runs, "loss", share) for share in (0.25, 0.5, 1.0)] == [7, 4, 2]


def test_ratios_are_of_the_runs_of_a_seed(optimizers, capsys):
    def runs(factor):
        looks = [{"seconds": [1.0 * s, 2.0 * s], "loss": [2.0, 1.0], "distance": [9.0, 4.0]} for s in (1, 3)]
        return [{**look, "seconds": [factor * s for s in look["seconds"]]} for look in looks]

    optimizers.compared({"adamw": runs(4.0), "muon": runs(1.0)}, ())
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows[:3]] == [
        f"validation loss {n} (adamw after {w})" for n, w in ((2, "a quarter"), (2, "a half"), (1, "all"))
    ]
    assert {row[3] for row in rows} == {"4.00 ± 0.00"}, "though the seeds differ by three times"

    slow = [{"seconds": [1.0, 2.0], "loss": [3.0, 2.5], "distance": [9.0, 9.0]} for _ in range(2)]
    optimizers.compared({"adamw": runs(4.0), "muon": slow}, ())
    assert "0 of 2 reach it" in capsys.readouterr().out


def test_a_run_that_is_kept_is_not_trained_again(optimizers, tmp_path, monkeypatch, capsys):
    trained = []

    class NoFeatures:
        test = torch.zeros(1)

        def __call__(self, x):
            return x

    def run(overrides, looks, distance, tell):
        trained.append(overrides)
        lr = float(next(s for s in overrides if s.startswith("optimizer.lr")).partition("=")[2])
        loss = [(1.0 + abs(math.log10(lr) + 3)) / i for i in range(1, looks + 1)]
        steps = list(range(1, looks + 1))
        return {"steps": steps, "seconds": [float(s) for s in steps], "loss": loss, "distance": loss}

    monkeypatch.setattr(optimizers, "run", run)
    monkeypatch.setattr(optimizers, "Features", NoFeatures)
    arguments = [
        "--results",
        str(tmp_path),
        "--rates",
        "1e-4",
        "1e-3",
        "--seeds",
        "0",
        "1",
        "--plot",
        str(tmp_path / "plot.svg"),
    ]
    optimizers.main(arguments)
    assert len(trained) == 2 * (2 + 2), "two kinds, each with two trials and two seeds"
    assert all("optimizer.lr=0.001" in overrides for overrides in trained[4:]), "the rate of the least loss"
    optimizers.main(arguments)
    assert len(trained) == 8
    assert "| adamw | 0.001 |" in capsys.readouterr().out
    assert (tmp_path / "plot.svg").read_text().count("<polyline") == 2
    assert all(json.loads(path.read_text())["loss"] for path in tmp_path.glob("*.json"))


# --- a Haar stem -----------------------------------------------------------------------------------------------------


def test_the_haar_transform_is_orthonormal_and_tells_mean_from_differences(patch_stem):
    x = torch.randn(2, 12, 3, 5)
    assert torch.allclose(patch_stem.rotated(patch_stem.rotated(x)), x, atol=1e-6)
    assert patch_stem.rotated(x).square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-5)
    flat = torch.nn.functional.pixel_unshuffle(torch.full((1, 3, 4, 4), 0.5), 2)
    bands = patch_stem.rotated(flat).unflatten(1, (3, 4))
    assert (bands[:, :, 0] == 1).all() and (bands[:, :, 1:] == 0).all()


def rotate(patch_stem: Any, network: UNet) -> None:
    """Turns the first and the last weights, so that the network does with coefficients what it did with pixels."""
    with torch.no_grad():
        stem, head = network.stem.weight, network.head.weight
        stem.copy_(patch_stem.rotated(stem))
        head.copy_(patch_stem.rotated(head.transpose(0, 1)).transpose(0, 1))


@pytest.mark.parametrize(("kind", "same"), [("muon", True), ("adamw", False)])
def test_muon_cannot_tell_haar_from_patches_and_adamw_can(patch_stem, kind, same):
    """The statement of the script's docstring: a rotated start stays a rotation under Muon."""
    settings = {"channels": 8, "multipliers": (1,), "blocks": 1, "attention_level": None, "groups": 4}
    torch.manual_seed(0)
    plain = UNet(3, patch=2, **settings)
    with torch.no_grad():
        plain.head.weight.normal_(std=0.1)
    inner = UNet(12, **settings)
    inner.load_state_dict(plain.state_dict())
    rotate(patch_stem, inner)
    nets: list[nn.Module] = [plain, patch_stem.Haar(inner)]
    # The last bias is a vector, and so AdamW's in either case.
    weights = [{name: p for name, p in net.named_parameters() if not name.endswith("head.bias")} for net in nets]
    optimizers = [Optimizer(own, kind, 0.02, (0.9, 0.99), 0.0) for own in weights]

    x, t = torch.randn(8, 3, 8, 8), torch.rand(8) * 1000
    assert torch.allclose(nets[0](x, t), nets[1](x, t), atol=1e-5)
    for _ in range(5):
        for net, optimizer in zip(nets, optimizers, strict=True):
            (net(x, t) - x).square().mean().backward()
            optimizer.step()
            for p in net.parameters():
                p.grad = None
    apart = (nets[0](x, t) - nets[1](x, t)).norm() / nets[0](x, t).norm()
    # Muon's iterations are in bfloat16, 8 bits; AdamW's steps are of the size of its rate in whatever basis.
    assert (apart < 0.02) == same
