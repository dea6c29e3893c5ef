"""Grids of settings: every cell has its own setting, the same seeds, and is drawn once."""

import json

import numpy as np
import pytest

from sfumato.cli import main as cli
from sfumato.errors import UserError
from sfumato.evaluation.grid import axes_of, settings_of
from sfumato.model import Model


@pytest.fixture(autouse=True)
def short_learning(monkeypatch):
    monkeypatch.setattr("sfumato.features.learned.LEAST", 256)
    monkeypatch.setattr("sfumato.features.learned.MOST", 256)
    monkeypatch.setattr("sfumato.features.spaces.installed", lambda: False)


def test_every_cell_is_of_its_setting_and_nothing_is_drawn_twice(tiny, pictures, tmp_path, capsys, monkeypatch):
    tiny("class").save(tmp_path / "model")
    same = [str(tmp_path / "model"), "--data", str(pictures), "--n", "20"]
    grid = ["--grid", "steps=3,5", "--grid", "guidance=1,3,50"]
    assert cli.main(["compare", *same, *grid, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "grid.json").read_text())

    assert told["axes"] == [{"name": "steps", "values": [3, 5]}, {"name": "guidance", "values": [1, 3, 50]}]
    cells = {(cell["settings"]["steps"], cell["settings"]["guidance"]): cell for cell in told["cells"]}
    assert len(cells) == 6
    assert all((cell["sampling"]["steps"], cell["sampling"]["guidance"]) == at for at, cell in cells.items())
    assert len({cell["metrics"]["kid"]["mean"] for cell in told["cells"]}) == 6
    drawn = {at: np.load(tmp_path / f"out/cells/steps={at[0]}-guidance={at[1]}/samples.npy") for at in cells}
    assert len({array.tobytes() for array in drawn.values()}) == 6

    for metric in ("kid", "fd", "accuracy"):
        best = [cell for cell in told["cells"] if metric in cell["best"]]
        means = [cell["metrics"][metric]["mean"] for cell in told["cells"]]
        least = (max if metric == "accuracy" else min)(means)
        assert len(best) == 1 and metric in best[0]["no_worse"] and metric not in best[0]["to_best"]
        assert best[0]["metrics"][metric]["mean"] == least
        for cell in told["cells"]:
            if cell is not best[0]:
                gap = cell["to_best"][metric]
                assert gap["mean"] == pytest.approx(cell["metrics"][metric]["mean"] - least)
                assert gap["p_holm"] >= gap["p"] and (metric in cell["no_worse"]) == (gap["p_holm"] >= 0.05)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "KID x 1000" in page and "Holm" in page and (tmp_path / "out" / "pictures.png").is_file()
    assert "steps 3" in printed and "guidance 50" in printed and "★" in printed

    # A cell is what `sfumato evaluate` finds with the same settings.
    command = ["evaluate", str(tmp_path / "model"), str(pictures), "--n", "20", "--steps", "5", "--guidance", "1"]
    assert cli.main([*command, "--metrics", "quality", "--out", str(tmp_path / "alone")]) == 0
    parts = json.loads((tmp_path / "alone" / "report.json").read_text())["parts"]
    quality, accuracy = parts["quality-learned-by-class"]["rows"], parts["accuracy"]["rows"]
    expected = {"kid": quality["kid"], "fd": quality["fd"], "accuracy": accuracy["all"]}
    assert cells[5, 1]["metrics"] == {name: row["drawn"] for name, row in expected.items()}

    # The same command again draws nothing, and one cell more draws that only.
    asked, steps = [], Model.steps
    monkeypatch.setattr(Model, "steps", lambda *given, **named: asked.append(given[3].steps) or steps(*given, **named))
    assert cli.main(["compare", *same, *grid, "--out", str(tmp_path / "out")]) == 0
    assert asked == [] and json.loads((tmp_path / "out" / "grid.json").read_text()) == told
    assert cli.main(["compare", *same, "--grid", "steps=3,4", *grid[2:], "--out", str(tmp_path / "out")]) == 0
    assert set(asked) == {4}


def test_one_setting_makes_a_row_and_names_are_settings_too(tiny, pictures, tmp_path, capsys):
    tiny().save(tmp_path / "model")
    command = ["compare", str(tmp_path / "model"), "--data", str(pictures), "--n", "16", "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--grid", "solver=ddim,heun", "--metric", "fd"]) == 0
    told = json.loads((tmp_path / "out" / "grid.json").read_text())
    assert [cell["sampling"]["solver"] for cell in told["cells"]] == ["ddim", "heun"] and len(told["axes"]) == 1
    assert [cell["evaluations"] for cell in told["cells"]] == [3, 5]  # Heun's last step needs one
    assert set(told["cells"][0]["metrics"]) == {"kid", "fd"}
    printed = capsys.readouterr().out
    assert "Fréchet distance of 16 pictures" in printed and "solver ddim" in printed


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["stepps=1,2"], "did you mean 'steps'"),
        (["times=1,0"], "no setting of sampling 'times'"),
        (["steps=1", "steps=2"], "different settings"),
        (["steps=1", "solver=ddim", "guidance=1"], "one or two"),
        (["steps"], "no values"),
        (["steps=5,5"], "one twice"),
    ],
)
def test_axes_that_cannot_be_are_told(told, message):
    with pytest.raises(UserError, match=message):
        axes_of(told)


@pytest.mark.parametrize(
    ("kind", "told", "message"),
    [
        ("class", ["solver=ddim,heum"], "did you mean 'heun'"),
        ("class", ["steps=5,0"], "steps = 0 is not possible"),
        ("class", ["steps=5,null"], "empty value"),
        ("none", ["guidance=1,3"], "guidance has no effect"),
    ],
)
def test_values_that_cannot_be_are_told(tiny, kind, told, message):
    with pytest.raises(UserError, match=message):
        settings_of(tiny(kind), axes_of(told))


def test_a_list_can_be_a_value(tiny):
    found = settings_of(tiny("class"), axes_of(["guidance_interval=[0, 1],[0.2, 0.8]"]))
    assert [settings.guidance_interval for _, settings in found] == [(0, 1), (0.2, 0.8)]
