"""Models side by side: equal ones do not differ, a worse one is found, and unlike reports are not compared."""

import json

import pytest
import torch
from PIL import Image

from sfumato.cli import main as cli
from sfumato.cli.compare import distinct
from sfumato.evaluation.comparison import Side, read, side_by_side, slug
from sfumato.evaluation.comparison_page import text, verdict
from sfumato.evaluation.samples import draw_samples
from sfumato.evaluation.trust_parts import Reading
from sfumato.report import Silent


@pytest.fixture(autouse=True)
def short_learning(monkeypatch):
    monkeypatch.setattr("sfumato.features.learned.LEAST", 256)
    monkeypatch.setattr("sfumato.features.learned.MOST", 256)
    monkeypatch.setattr("sfumato.features.spaces.installed", lambda: False)


@pytest.fixture
def models(tiny, tmp_path):
    """Three folders: a model, the same again, and one with noise on the weights; and pictures of the first as data."""
    for name in ("good", "twin", "worse"):
        model = tiny("class")
        if name == "worse":
            with torch.no_grad():
                for parameter in model.denoiser.network.parameters():
                    parameter.add_(0.5 * torch.randn_like(parameter))
        model.save(tmp_path / name)

    model, asked = tiny("class"), ["cat", "house"] * 40
    drawn = draw_samples(model, asked, model.sampling(), 10_000, tmp_path / "drawn", Silent())
    for i, (name, picture) in enumerate(zip(asked, drawn.rows, strict=True)):
        (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path


@pytest.fixture
def pictures(models):
    return models / "pictures"


def compared(folder, *names, more=()):
    command = ["compare", *(str(folder / name) for name in names), "--out", str(folder / "out")]
    assert cli.main([*command, *more]) == 0
    return json.loads((folder / "out" / "comparison.json").read_text())


def test_equal_models_do_not_differ_and_a_worse_one_is_found(models, pictures, capsys):
    found = compared(models, "good", "twin", "worse", more=["--data", str(pictures), "--n", "32"])
    printed = capsys.readouterr().out
    tested = [row for row in found["rows"] if row["to_first"][0]["p"] is not None]
    assert len(tested) > 15 and found["not_compared"] == []
    for row in tested:
        twin = row["to_first"][0]
        assert twin["mean"] == 0 and twin["p"] == twin["p_holm"] == 1 and twin["verdict"] == ""
    verdicts = {(row["part"], row["row"]): row["to_first"][1]["verdict"] for row in found["rows"]}
    assert verdicts["quality-learned-by-class", "kid"] == "worse"
    assert {row["row"]: row["to_first"][1]["test"] for row in tested}.items() >= {
        "kid": "paired exchange",
        "precision": "paired exchange",
        "all": "paired",
        "sharpness": "paired",
        "sharpness-distance": "paired exchange",
    }.items()

    assert found["tests"] == sum(told["p"] is not None for row in found["rows"] for told in row["to_first"])
    page = (models / "out" / "index.html").read_text()
    assert f"Holm's correction over all {found['tests']} tests" in page and "Holm" in printed
    assert "1-good/index.html" in page and (models / "out" / "1-good" / "index.html").is_file()
    assert (models / "out" / "pictures.png").is_file()

    # The numbers are those of `sfumato evaluate`, and reports that are there are compared without any data.
    alone = ["evaluate", str(models / "good"), str(pictures), "--n", "32", "--metrics", "quality"]
    assert cli.main([*alone, "--out", str(models / "alone")]) == 0
    report = json.loads((models / "alone" / "report.json").read_text())["parts"]
    assert report == {
        part: json.loads((models / "out/1-good/report.json").read_text())["parts"][part] for part in report
    }
    again = compared(models / "out", "1-good", "3-worse")
    of_accuracy = [row["to_first"] for row in again["rows"] if (row["part"], row["row"]) == ("accuracy", "all")]
    [known] = [row["to_first"] for row in found["rows"] if (row["part"], row["row"]) == ("accuracy", "all")]
    assert of_accuracy[0][0]["mean"] == known[1]["mean"] and of_accuracy[0][0]["test"] == "paired"
    assert {row["to_first"][0]["test"] for row in again["rows"]} == {"paired", "independent"}


def test_reports_of_another_basis_are_not_compared_and_the_page_says_so(models, pictures):
    for name, n in (("few", "16"), ("more", "20")):
        command = ["evaluate", str(models / "good"), str(pictures), "--n", n, "--out", str(models / name)]
        assert cli.main([*command, "--metrics", "quality", "--metrics", "statistics", "--metrics", "speed"]) == 0
    found = compared(models, "few", "more")
    assert {row["part"] for row in found["rows"]} == {"speed"}
    page = (models / "out" / "index.html").read_text()
    assert "pictures 16 and 20" in page and "Not compared" in page
    assert any(why.startswith("quality-learned-by-class: ") for why in found["not_compared"])


def test_a_part_that_one_has_not_is_told(tmp_path):
    for name, parts in (("a", {"x": {"basis": {}, "rows": {}}}), ("b", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"parts": parts}))
    found = side_by_side([read(tmp_path / name, name) for name in ("a", "b")])
    assert found.apart == ["x: a has it, b has not"] and "not compared: x" in text(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emoji"], "nothing to be compared with"),
        (["emoji", "emoji"], "no data to measure on"),
        (["emoji", "emojy", "--data", "x"], "did you mean 'emoji'"),
        (["emoji", "emoji", "--data", "x", "--metrics", "qualty"], "did you mean 'quality'"),
        (["emoji", "emoji", "--data", "x", "--n", "3"], "n = 3 is not possible"),
        (["emoji", "emoji", "--data", "x", "--grid", "steps=1,2"], "--grid takes one model"),
        (["emoji", "--data", "x", "--grid", "stepps=1,2"], "did you mean 'steps'"),
        (["emoji", "--data", "x", "--grid", "steps=1,2", "--metric", "fid"], "did you mean 'fd'"),
        (["emoji", "--data", "x", "--grid", "steps=1,2", "--metric", "accuracy"], "needs a model with classes"),
    ],
)
def test_what_cannot_be_is_told(arguments, message, capsys, tmp_path):
    assert cli.main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_damaged_report_is_told(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.json").write_text("{}")
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(tmp_path / "out")]) == 2
    assert "no report of `sfumato evaluate` can be read" in capsys.readouterr().err


def test_names_are_told_apart_and_folders_have_names_that_they_can_have():
    assert distinct(("runs/a", "b", "runs/a")) == ["a", "b", "a (2)"]
    assert distinct(("runs/a/model", "runs/b/model", "emoji")) == ["a/model", "b/model", "emoji"]
    assert [slug(name) for name in ("runs/My run", "a (2)", "..", "dpm++2m")] == ["my-run", "a-2", "model", "dpm++2m"]


def test_for_better_or_worse_depends_on_the_row(tmp_path):
    def side(name, mean):
        row = {"name": "x", "drawn": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}, "real": None}
        rows = {key: {**row, "better": better} for key, better in (("a", "lower"), ("b", "higher"), ("c", ""))}
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"parts": {"x": {"basis": {}, "rows": rows}}}))
        return read(tmp_path / name, name)

    found = side_by_side([side("first", 1.0), side("second", 2.0)])
    assert [verdict(line, test) for line in found.lines for test in line.tests if test] == [
        "worse",
        "better",
        "differs",
    ]


def test_shares_that_move_between_two_models_are_told_and_equal_ones_are_not(tmp_path):
    def side(name, said):
        rows = {
            f"share:{v}": {"name": v, "drawn": {"mean": 0.5, "low": 0.4, "high": 0.6}, "real": None, "better": ""}
            for v in "ab"
        }
        report = {"seed": 0, "parts": {"bias-x": {"title": "Shares by x", "basis": {}, "rows": rows}}}
        arrays = Reading(said, torch.zeros_like(said), torch.tensor([[20, 0], [0, 20]])).arrays()
        return Side(name, report, {f"bias-x.{key}": array for key, array in arrays.items()}, None, [], [])

    even, moved = torch.arange(200) % 2, (torch.arange(200) % 10 == 0).long()
    found = side_by_side([side("old", even), side("same", even.flip(0)), side("new", moved)])
    assert [drift.alarm for drift in found.drifts] == [False, True]
    assert "'a' is 50 %" in found.drifts[1].told or "'b' is 50 %" in found.drifts[1].told
    assert "Shares by x, new: differs" in text(found)
