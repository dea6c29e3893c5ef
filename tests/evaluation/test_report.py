"""The report says the same in the terminal, in JSON and on the page."""

import json

import numpy as np
import pytest

from sfumato.evaluation.report import Evaluation, Part, Row, text, to_json, values
from sfumato.evaluation.report_page import html
from sfumato.measures.interval import Interval
from sfumato.page import Figure

PARTS = [
    Part(
        "distance",
        "Distance <to> the data",
        "How far the drawn pictures are.",
        [
            Row("kid", "KID x 1000", Interval(4.25, 3.5, 5.0), Interval(0.125, -0.25, 0.5), "lower"),
            Row("recall", "recall", Interval(0.75, None, None), better="higher", values=np.array([1.0, 0.5])),
        ],
        {"space": "learned", "pictures": 500},
        [Figure("closest.png", b"\x89PNG", "pairs", "The closest pairs.")],
    ),
    Part("speed", "Speed", "On this machine.", [Row("rate", "pictures/s", Interval(6.5, None, None))]),
]


def test_json_holds_every_number_with_its_interval_and_its_basis():
    told = json.loads(to_json({"model": {"name": "m"}}, PARTS))
    assert told["model"] == {"name": "m"}
    distance = told["parts"]["distance"]
    assert distance["basis"] == {"space": "learned", "pictures": 500}
    assert distance["rows"]["kid"] == {
        "name": "KID x 1000",
        "drawn": {"mean": 4.25, "low": 3.5, "high": 5.0},
        "real": {"mean": 0.125, "low": -0.25, "high": 0.5},
        "better": "lower",
    }
    assert distance["rows"]["recall"]["real"] is None


def test_the_terminal_shows_drawn_beside_real():
    lines = text(PARTS).splitlines()
    (kid,) = (line for line in lines if "KID" in line)
    assert kid.split("KID x 1000")[1].split("|")[0].strip() == "4.25 [3.5, 5]"
    assert "| 0.125 [-0.25, 0.5]  (lower is better)" in kid
    assert any(line.startswith("Speed") for line in lines) and lines[0].endswith("drawn | real")


def test_what_is_not_drawn_does_not_stand_under_drawn():
    row = Row("bound", "bound, bits/dim", Interval(3.5, 3.0, 4.0), better="lower")
    part = Part("nll", "Likelihood", "Of real pictures.", [row], columns=("real pictures", ""))
    content, _ = html("Evaluation of m", Evaluation({}, [part], {}, [], {}, []))
    assert "real pictures" in text([part]) and "drawn" not in text([part])
    assert '<th scope="col">real pictures</th>' in content and '<th scope="col">drawn</th>' not in content


def test_the_page_has_the_numbers_the_basis_and_the_pictures():
    content, sections = html("Evaluation of m", Evaluation({"seed": 0}, PARTS, {}, [], {"bias": "no <words>"}, []))
    assert "seed: <code>0</code>" in content and "Not measured" in content and "no &lt;words&gt;" in content
    assert "Distance &lt;to&gt; the data" in content
    assert "<td>4.25</td><td>3.5 to 5</td><td>0.125</td><td>−0.25 to 0.5</td><td>lower</td>" in content
    assert "Comparable only with: space learned, pictures 500." in content
    assert [figure.name for section in sections for figure in section.figures] == ["closest.png"]


def test_values_of_pictures_are_kept_by_part_and_row():
    assert {name: list(v) for name, v in values(PARTS).items()} == {"distance.recall": [1.0, 0.5]}


def test_what_is_no_number_is_never_written():
    broken = Part("a", "A", "", [Row("x", "x", Interval(float("nan"), None, None))])
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({}, [broken])
