"""The time of an evaluation is printed before it begins, and the likelihood is measured only on request."""

import json

import pytest

from sfumato.cli.main import main
from sfumato.evaluation.cost import Cost, duration, told
from sfumato.evaluation.settings import BY_DEFAULT, METRICS, Likelihoods


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "less than a minute"), (59, "less than a minute"), (61, "2 min"), (4800, "1 h 20 min")]
)
def test_times_are_told_in_words(seconds, words):
    assert duration(seconds) == words


def test_what_takes_long_is_listed_with_the_sum_and_what_is_left_out():
    lines = told([("drawing 500 pictures", 300.0), ("membership", 3.0)], [("likelihood", 1800.0)]).splitlines()
    assert lines[0] == "this takes about 6 min here:" and "drawing 500 pictures" in lines[1]
    assert "likelihood (30 min): --metrics nll" in lines[2] and len(lines) == 3


def test_the_likelihood_costs_more_with_every_picture_step_and_probe():
    cost = Cost(picture=1.0, evaluation=0.1)
    whole = cost.likelihood(Likelihoods(32, 1000, 4), unseen=100)
    assert whole == pytest.approx(32 * 0.1 * (1000 + 100 + 900))
    assert cost.likelihood(Likelihoods(32, 1000, 4), unseen=10) < whole
    assert cost.likelihood(Likelihoods(32, 500, 4), 100) < whole > cost.likelihood(Likelihoods(32, 1000, 1), 100)


def test_a_guided_picture_asks_the_network_twice(tiny):
    model = tiny("class")
    guided, plain = (Cost.measured(model, model.sampling(guidance=g)) for g in (3.0, 1.0))
    assert guided.evaluation * model.sampling().steps * 2 == pytest.approx(guided.picture)
    assert plain.evaluation * model.sampling().steps == pytest.approx(plain.picture)


def test_by_default_everything_but_the_likelihood_is_measured_and_the_time_is_told_first(
    tiny, pictures, tmp_path, capsys
):
    assert set(METRICS) - set(BY_DEFAULT) == {"nll"}
    tiny("class").save(tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), str(pictures), "--n", "16", "--out", str(tmp_path / "out")]
    assert main([*command, "--metrics", "speed"]) == 0
    told_first = capsys.readouterr().err
    assert "this takes less than a minute here" in told_first and "left out is likelihood" in told_first
    assert "nll" not in json.loads((tmp_path / "out" / "report.json").read_text())["parts"]
