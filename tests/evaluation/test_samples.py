"""The drawn set: the same whether or not it was interrupted, and drawn anew when anything else is asked for."""

import numpy as np
import pytest

from sfumato.evaluation import samples as module
from sfumato.evaluation.samples import draw_samples
from sfumato.report import Silent

ASKED = ["cat", "house", "cat", "Apple", "house", "cat"]


class Stopping(Silent):
    """Presses Ctrl-C after so many reports."""

    def __init__(self, after: int) -> None:
        self.left = after

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.fixture
def model(tiny):
    return tiny("class")


def test_a_set_that_was_interrupted_goes_on_and_is_the_same(model, tmp_path):
    settings = model.sampling(guidance=1.0)
    whole = draw_samples(model, ASKED, settings, 5, tmp_path / "whole", Silent())
    with pytest.raises(KeyboardInterrupt):
        draw_samples(model, ASKED, settings, 5, tmp_path / "cut", Stopping(4))
    told = []
    report = Silent()
    report.progress = lambda task, done, total, note="": told.append(done)
    again = draw_samples(model, ASKED, settings, 5, tmp_path / "cut", report)

    assert len(told) == 3 and told[0] > 4 * 3  # the second batch only
    assert np.array_equal(again.rows, whole.rows)
    alone = np.asarray(model.generate("Apple", seed=8, guidance=1.0)[0])
    assert np.array_equal(whole.rows[3], alone)


def test_what_is_there_is_not_drawn_again_unless_something_else_is_asked_for(model, tmp_path, monkeypatch):
    def drawn(seed: int = 5, **changes: object) -> int:
        calls = []
        report = Silent()
        monkeypatch.setattr(report, "progress", lambda *_: calls.append(1))
        draw_samples(model, ASKED, model.sampling(**changes), seed, tmp_path, report)
        return len(calls)

    assert drawn() > 0
    assert drawn() == 0
    assert drawn(guidance=2.0) > 0
    assert drawn(seed=6, guidance=2.0) > 0


@pytest.mark.parametrize(("solver", "evaluations"), [("ddim", 3), ("heun", 5)])
def test_evaluations_are_those_of_the_network(model, tmp_path, solver, evaluations):
    found = draw_samples(model, ASKED, model.sampling(solver=solver), 0, tmp_path, Silent())
    assert found.evaluations == evaluations
    assert found.seconds > 0 and list(found.seeds) == list(range(6))


def test_the_folder_is_saved_now_and_then(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    done = []
    monkeypatch.setattr(module, "write_atomically", lambda path, data: done.append(module.json.loads(data)["done"]))
    draw_samples(model, ASKED, model.sampling(), 0, tmp_path, Silent())
    assert done == [4, 6, 6]
