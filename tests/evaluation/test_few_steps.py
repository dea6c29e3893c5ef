"""`search-grid`: the times that it finds draw nearer pictures than the named grids, and `generate` takes them."""

import re

import pytest

from sfumato import registry
from sfumato.cli import main as cli
from sfumato.cli.search_grid import advice
from sfumato.evaluation.few_steps import search_grid
from sfumato.report import Silent


@pytest.fixture
def folder(tiny, tmp_path):
    return tiny("class").save(tmp_path / "model")


def test_the_searched_times_miss_less_of_many_steps_than_any_named_grid(tiny):
    model = tiny("class")
    settings = model.sampling(steps=4, solver="ddim", guidance=1.0)
    found = search_grid(model, settings, ["cat", "house"] * 4, 0, Silent())

    assert found.misses.keys() == {*registry.GRIDS, "searched"}
    assert found.misses["searched"] == min(found.misses.values())
    assert found.times[0] == 1 and found.times[-1] == 0 and len(found.times) == 5
    assert model.sampling(steps=4, times=found.times).times == found.times


def test_as_many_steps_as_the_truth_has_miss_nothing_on_its_own_grid(tiny, monkeypatch):
    monkeypatch.setattr("sfumato.evaluation.few_steps.FINE", 3)
    model = tiny("none")
    found = search_grid(model, model.sampling(steps=3, solver="dpm++2m"), [None] * 2, 0, Silent())
    assert found.misses["log-snr"] == 0 < found.misses["uniform"]


def test_the_command_compares_and_the_times_that_it_recommends_draw(folder, tmp_path, capsys):
    assert cli.main(["search-grid", str(folder), "cat", "--steps", "3", "--n", "4"]) == 0
    out = capsys.readouterr().out
    shown = {name: float(miss) for name, miss in re.findall(r"^  (\S+) +([\d.]+)", out, re.MULTILINE)}
    assert shown.keys() == {*registry.GRIDS, "searched"}
    assert re.search(rf"^  {min(shown, key=lambda name: shown[name])} .*the least$", out, re.MULTILINE)

    how = out.split("sfumato generate ")[1].split()
    drawn = ["generate", "cat", "--model", str(folder), "--seed", "1", "--out", str(tmp_path)]
    assert cli.main([*drawn, *how]) == 0
    assert cli.main(["rerun", str(tmp_path / "cat-1.png"), "--model", str(folder)]) == 0
    assert "the same, byte for byte" in capsys.readouterr().out


def test_only_times_that_won_are_recommended(tiny):
    model = tiny("class")
    settings, times = model.sampling(steps=3, grid="log-snr"), (1.0, 0.7, 0.2, 0.0)
    assert advice(model, settings, "searched", times).endswith("--times 1,0.7,0.2,0")
    lost = advice(model, settings, "uniform", times)
    assert "no better times than those of the grid uniform" in lost and lost.endswith("--times 1,0.6667,0.3333,0")
    own = advice(model, settings, "log-snr", times)
    assert "which the model has" in own and own.endswith("generate --steps 3") and "0.7" not in own


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search-grid", "MODEL", "--steps", "0"], "steps = 0 is outside 1 to 20"),
        (["search-grid", "MODEL", "--n", "257"], "n = 257 is outside 1 to 256"),
        (["search-grid", "MODEL", "--solver", "ddpm"], "ddpm adds noise"),
        (["search-grid", "MODEL", "horse"], "horse"),
        (["generate", "cat", "--model", "MODEL", "--times", "1,x"], "'1,x' is not a list of numbers"),
        (["generate", "cat", "--model", "MODEL", "--times", "1,0.5"], "must fall from 1 to 0"),
        (["generate", "cat", "--model", "MODEL", "--times", "1,0.5,0.5,0"], "must fall from 1 to 0"),
        (["generate", "cat", "--model", "MODEL", "--times", "1,0", "--steps", "2"], "times has 1 steps"),
    ],
)
def test_a_mistake_is_told_with_the_fix(folder, capsys, arguments, words):
    assert cli.main([str(folder) if word == "MODEL" else word for word in arguments]) == 2
    err = capsys.readouterr().err
    assert words in err and "fix:" in err
