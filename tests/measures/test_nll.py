"""`evaluate --metrics nll`: a known density gives its known bits, and the files hold the printed numbers."""

import csv
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main as cli
from sfumato.diffusion import linear_beta
from sfumato.diffusion.schedules import Flow, Shifted
from sfumato.errors import UserError
from sfumato.evaluation import nll_report
from sfumato.evaluation.pictures import pictures_for
from sfumato.material import Pictures
from sfumato.measures import nll as module
from sfumato.measures.interval import digits
from sfumato.measures.nll import chain, dequantised
from sfumato.measures.nll import nll as measured

SIZE = 8
DATA = {"path": "pictures", "size": SIZE, "channels": 1}
NETWORK = {"channels": 8, "groups": 4, "multipliers": [1], "attention_level": 0}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "DRAWS", 40)


class Quiet:
    """A report that remembers how far each task came."""

    def __init__(self):
        self.done = {}

    def say(self, text):
        pass

    def progress(self, task, done, total, note=""):
        self.done.setdefault(task, []).append((done, total))


def damped(model, factor):
    """A model whose network says `factor` times what it would, so that its ODE is smooth."""
    with torch.no_grad():
        for parameter in model.denoiser.network.head.parameters():
            parameter *= factor
    return model


@pytest.fixture
def model(tiny):
    return damped(tiny(data=DATA, network=NETWORK), 0.01)


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures of noise."""
    place = tmp_path / "noise"
    place.mkdir()
    for i in range(20):
        noise = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
        Image.fromarray(noise).save(place / f"{i:02}.png")
    return place


@pytest.fixture
def noise(model, folder, tmp_path) -> Pictures:
    return pictures_for(model, str(folder), 3, 0, tmp_path / "cache", Quiet())


def test_a_network_that_says_nothing_is_a_gaussian_and_has_its_bits_by_every_method(model, noise):
    found = measured(damped(model, 0), noise, steps=60, probes=1, seed=0, report=Quiet())

    x, normal = noise.x_0.double(), torch.distributions.Normal(0.0, 0.5)  # the preconditioning is its posterior mean
    exact = -(normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)).log2().flatten(1).mean(1)
    for total in (found.bound.total, found.continuous.total):
        assert abs((total - exact).mean()) < 4 * nll_report.draws_error(found) < 1
    torch.testing.assert_close(found.ode.total, exact, rtol=0, atol=0.02)
    assert nll_report.difference(found) < 1e-9


def test_the_same_values_at_16_bits_have_the_bits_of_a_bin_that_is_257_times_narrower(tiny, model, noise):
    """Level k of 8 bits is level 257 k of 16, the same x; but the end bins of the law reach to infinity."""
    deep = damped(tiny(data=DATA, codec={"kind": "pixels", "bits": 16}, network=NETWORK), 0)
    assert torch.allclose(deep.codec.encode(257 * model.codec.decode(noise.x_0).astype(np.uint16)), noise.x_0)
    found = measured(deep, noise, steps=60, probes=1, seed=0, report=Quiet())

    x, normal = noise.x_0.double(), torch.distributions.Normal(0.0, 0.5)
    exact = -(normal.cdf(x + 1 / 65535) - normal.cdf(x - 1 / 65535)).log2().flatten(1).mean(1)
    inner = (x.abs() < 1).double().mean().item()
    coarse = -(normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)).log2().flatten(1).mean(1)
    assert inner > 0.9 and (exact - coarse - np.log2(257)).abs().max() < 1e-3
    for total in (found.bound.total, found.continuous.total):
        assert abs((total - exact).mean()) < 4 * nll_report.draws_error(found) < 1
    torch.testing.assert_close(found.ode.total, exact, rtol=0, atol=0.02)
    assert nll_report.difference(found) < 1e-9


def test_a_picture_has_the_same_numbers_in_any_company(model, noise):
    alone = Pictures(noise.x_0[-1:], noise.conditions[-1:], noise.keys[-1:], noise.names[-1:], False, "")
    report = Quiet()
    together, single = (measured(model, pictures, 5, 2, 0, report) for pictures in (noise, alone))

    torch.testing.assert_close(together.bound.total[-1:], single.bound.total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.continuous.total[-1:], single.continuous.total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.ode.probes[:, -1:], single.ode.probes, rtol=1e-3, atol=1e-3)
    assert {task: done[-1][0] / done[-1][1] for task, done in report.done.items()} == dict.fromkeys(report.done, 1.0)
    assert not torch.equal(measured(model, alone, 5, 2, 1, report).bound.total, single.bound.total)


def test_the_learned_variance_is_used_where_there_is_one(tiny, noise):
    network = {**NETWORK, "learned_variance": True}
    model = damped(tiny(data=DATA, network=network, objective={"kind": "hybrid"}), 0.01)
    learned = measured(model, noise, 5, 1, 0, Quiet()).bound.total
    model.denoiser.learned_variance = False
    model.denoiser.network = MeanOnly(model.denoiser.network)
    assert not torch.allclose(measured(model, noise, 5, 1, 0, Quiet()).bound.total, learned)


class MeanOnly(torch.nn.Module):
    """The first half of a network's channels."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, level, **cond):
        return self.network(x, level, **cond).chunk(2, dim=1)[0]


def test_of_the_training_data_only_held_out_pictures_are_taken(model, folder, tmp_path):
    every = pictures_for(model, str(folder), 99, 0, tmp_path / "cache", Quiet())
    assert len(every.keys) == 20 and not every.held_out and sorted(every.keys) == list(range(20))

    model.record = {"manifest_sha256": every.manifest}
    some = pictures_for(model, str(folder), 99, 0, tmp_path / "cache", Quiet())
    assert some.held_out and 0 < len(some.keys) < 20
    model.config = model.config.model_copy(update={"data": model.config.data.model_copy(update={"validation": 0.0})})
    with pytest.raises(UserError, match="trained on all"):
        pictures_for(model, str(folder), 99, 0, tmp_path / "cache", Quiet())


def test_dequantised_values_stay_in_their_bins_and_fill_them():
    x_0 = torch.randint(0, 256, (4, 1, 32, 32), generator=torch.Generator().manual_seed(0)).double() / 127.5 - 1
    moved = (dequantised(x_0, 2 / 255, 0, range(4)) - x_0) * 255
    assert moved.abs().max() < 1 and abs(moved.var() - 1 / 3) < 0.02


def test_the_chain_is_that_of_the_betas_or_even_in_log_snr():
    assert torch.equal(chain(Shifted(linear_beta(), 2.0), 1000), torch.arange(1000, -1, -1, dtype=torch.float64) / 1000)
    inner = Flow().log_snr(chain(Flow(), 100)[1:-1])
    torch.testing.assert_close(inner.diff(), inner.diff().mean().expand(98))


def test_intervals_are_students_over_pictures_and_over_probes():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    found = nll_report.over_pictures(values)
    assert found.mean == 3 and found.high is not None
    assert abs(found.high - 3 - 3.1824 * values.std().item() / 2) < 1e-3
    assert nll_report.over_pictures(values[:1]).low is None

    generator = torch.Generator().manual_seed(0)
    missed = 0
    for _ in range(300):  # pictures that differ widely, probes of noise 1: the interval is that of the probes alone
        probes = 10 * values + torch.randn(4, 4, generator=generator, dtype=torch.float64)
        found = nll_report.over_probes(probes)
        assert found.low is not None and found.high is not None
        missed += not found.low < 30 < found.high
    assert 4 <= missed <= 30


def test_the_command_prints_and_writes_the_same_numbers(model, folder, tmp_path, capsys):
    model.save(tmp_path / "model")
    out = tmp_path / "measured"
    arguments = ["--metrics", "nll", "--nll-n", "3", "--chain", "6", "--probes", "2", "--out", str(out)]
    assert cli.main(["evaluate", str(tmp_path / "model"), str(folder), *arguments]) == 0

    printed = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    found = report["nll"]
    for method in ("bound", "entropies", "continuous", "ode"):
        total = found[method]["total"]
        assert f"{digits(total['mean'])} [{digits(total['low'])}, " in printed
    assert found["pictures"] == len(found["names"]) == 3 and not report["data"]["held_out"]
    parts = found["bound"]
    whole = parts["L_T"]["mean"] + parts["sum_of_KL"]["mean"] + parts["L_0"]["mean"]
    assert abs(whole - parts["total"]["mean"]) < 1e-9

    rows = list(csv.DictReader((out / "kl.csv").open()))
    assert [row["term"] for row in rows] == [f"L_{i}" for i in range(6, -1, -1)]
    assert abs(sum(float(row["bits_per_dim"]) for row in rows) - parts["total"]["mean"]) < 1e-5
    assert ET.parse(out / "kl.svg").getroot().tag.endswith("svg")
    page = (out / "index.html").read_text()
    assert 'aria-label="terms of the bound over time"' in page and '<th scope="col">real pictures</th>' in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics", "nlll"], "did you mean 'nll'"),
        (["--n", "15"], "--n to 16 or more"),
        (["--nll-n", "0"], "--nll-n to 1 or more"),
        (["--chain", "1"], "--chain to 2 or more"),
        (["--probes", "0"], "--probes to 1 or more"),
    ],
)
def test_a_mistake_is_told_before_anything_is_read(capsys, arguments, words):
    assert cli.main(["evaluate", "nowhere", "nothing", *arguments]) == 2
    assert words in capsys.readouterr().err
