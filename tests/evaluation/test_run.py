"""The whole evaluation from the command line: sets that do not overlap, one report in three forms, gone on with."""

import json
from typing import Any, cast

import numpy as np
import pytest
import torch

from sfumato.cli import main as cli
from sfumato.errors import UserError
from sfumato.evaluation.parts import accuracy_part
from sfumato.evaluation.run import sets_of
from sfumato.material import Material
from sfumato.measures.interval import digits


@pytest.mark.parametrize("seen", [0, 30, 95])
def test_the_three_sets_do_not_overlap_and_control_is_unseen_where_it_can_be(seen):
    material = Material(cast(Any, Sized(100)), np.arange(seen), np.arange(seen, 100))
    reference, control, asked = sets_of(material, 20, 0)
    assert len(reference) == len(control) == len(asked) == 20
    assert len({*reference, *control, *asked}) == 60
    if seen:
        assert set(material.unseen) >= set(control) or set(control) >= set(material.unseen)
    if seen > 60:
        assert {*reference, *asked} <= set(material.seen)
    again, *_ = sets_of(material, 20, 0)
    assert np.array_equal(reference, again)


class Sized:
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n


def test_too_few_pictures_are_told():
    with pytest.raises(UserError, match="40 pictures are too few"):
        sets_of(Material(cast(Any, Sized(40)), np.arange(0), np.arange(40)), 500, 0)


def test_accuracy_counts_what_was_asked_for():
    drawn, real = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1])
    part = accuracy_part(["a", "b"], drawn, [0, 0, 1, 1], real, [0, 0], {})
    found = {row.key: (row.drawn.mean, row.real.mean if row.real else None) for row in part.rows}
    assert found == {"all": (0.75, 0.5), "recall:a": (0.5, 0.5), "recall:b": (1.0, None)}
    assert part.rows[0].values is not None and part.rows[0].values.tolist() == [1, 0, 1, 1]


def test_one_command_writes_one_report_in_three_forms_and_goes_on(tiny, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sfumato.features.learned.LEAST", 256)
    monkeypatch.setattr("sfumato.features.learned.MOST", 256)
    tiny("class").save(tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), str(pictures), "--n", "20", "--out", str(tmp_path / "out")]
    metrics = ["--metrics", "quality", "--metrics", "statistics", "--metrics", "speed"]
    assert cli.main([*command, *metrics]) == 0
    printed = capsys.readouterr().out

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    parts = report["parts"]
    assert {"quality-learned-by-class", "accuracy", "statistics", "speed"} < parts.keys() and len(parts) == 5
    for part in parts.values():
        for row in part["rows"].values():
            assert digits(row["drawn"]["mean"]) in printed
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Class accuracy" in page and (tmp_path / "out" / "samples.png").is_file()
    values = np.load(tmp_path / "out" / "values.npz")
    assert values["accuracy.all"].mean() == parts["accuracy"]["rows"]["all"]["drawn"]["mean"]

    assert cli.main([*command, *metrics]) == 0
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    assert again == report  # nothing was drawn anew, or its seconds would differ
